"""Decoding a group on one copy of its prompt's keys and values; each row keeps those of its own tokens alone.

A cache with a row for each completion holds every prompt G times, and all of it is read, and by `DynamicCache` copied, for
every token. Here the queries of all siblings meet one copy: one product of matrices for each key head, where there would be
G of a vector and a matrix. The softmax runs over prompt and own tokens together, so nothing is approximated; it, and the
products, are in float32, as in the kernels that score.

`GroupCache` stands where transformers takes a cache, and `decoding` makes `attend` the attention of a model.

Axes: B prompts, S the most siblings that one of them still has, N rows, K key heads, X query heads of a key head times new
tokens, C new tokens, P prompt length, T own tokens of a row, D width of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from models.shared_prefix import run_completion
from runtime.errors import ConfigError

NAME = "undertone_group"


class GroupCache(Cache):
    """Keys and values of N rows.

    Args:
        prompts: of B prompts that have been run; read only.
        mask_BP: of them, 0 on padding.
        prompt_of_N: index of each row's prompt.
        forced_NF: mask of the tokens that rows are made to begin with, 0 on padding in front of shorter ones.
        room: the most tokens that a row gets after them.
    """

    def __init__(
        self,
        prompts: DynamicCache,
        mask_BP: torch.Tensor,
        prompt_of_N: torch.Tensor,
        forced_NF: torch.Tensor,
        room: int,
    ) -> None:
        super().__init__(layers=[])
        room += forced_NF.shape[1]
        self.prompts: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.own: list[tuple[torch.Tensor, torch.Tensor]] = []
        for keys, values, _ in prompts:
            assert keys is not None and values is not None, "a prompt that was not run"
            self.prompts.append((keys.float(), values.float()))
            shape = (len(prompt_of_N), keys.shape[1], room, keys.shape[3])
            self.own.append((keys.new_empty(shape, dtype=torch.float32), keys.new_empty(shape, dtype=torch.float32)))
        self.mask_BP = mask_BP
        self.start = self.length = 0
        """Own tokens that every row had and has, padding included."""
        self.padding_NT: torch.Tensor | None = None
        if not forced_NF.all():
            self.padding_NT = torch.zeros(len(prompt_of_N), room, dtype=torch.bool, device=mask_BP.device)
            self.padding_NT[:, : forced_NF.shape[1]] = forced_NF == 0
        self._place(prompt_of_N)

    def keep(self, rows: torch.Tensor) -> None:
        """Let go of all rows but these, whose indices rise."""
        self.own = [(keys[rows], values[rows]) for keys, values in self.own]
        if self.padding_NT is not None:
            self.padding_NT = self.padding_NT[rows]
        self._place(self.prompt_of_N[rows])

    def _place(self, prompt_of_N: torch.Tensor) -> None:
        """Let go of prompts without rows, and give every row a place in a grid of B prompts and S siblings."""
        asked, self.prompt_of_N = prompt_of_N.unique(return_inverse=True)
        if len(asked) < len(self.mask_BP):
            self.prompts = [(keys[asked], values[asked]) for keys, values in self.prompts]
            self.mask_BP = self.mask_BP[asked]
        self.padding_B11P = None if self.mask_BP.all() else (self.mask_BP == 0)[:, None, None]
        rows_BN = self.prompt_of_N == torch.arange(len(asked), device=asked.device)[:, None]
        self.siblings = int(rows_BN.sum(1).max())
        sibling_N = rows_BN.cumsum(1).gather(0, self.prompt_of_N[None])[0] - 1
        slot_N = self.prompt_of_N * self.siblings + sibling_N
        full_and_in_order = torch.equal(slot_N, torch.arange(len(asked) * self.siblings, device=slot_N.device))
        self.slot_N = None if full_and_in_order else slot_N

    def _to_grid(self, values_NKXW: torch.Tensor) -> torch.Tensor:
        """(B, K, S * X, W): the rows of each prompt side by side; 0 where a sibling is gone."""
        _, K, X, W = values_NKXW.shape
        B, S = len(self.mask_BP), self.siblings
        if self.slot_N is not None:
            values_NKXW = values_NKXW.new_zeros(B * S, K, X, W).index_copy_(0, self.slot_N, values_NKXW)
        return values_NKXW.reshape(B, S, K, X, W).transpose(1, 2).reshape(B, K, S * X, W)

    def _from_grid(self, values: torch.Tensor) -> torch.Tensor:
        """(N, K, X, W) out of what `_to_grid` gives."""
        B, K, SX, W = values.shape
        S = self.siblings
        values_NKXW = values.view(B, K, S, SX // S, W).transpose(1, 2).reshape(B * S, K, SX // S, W)
        return values_NKXW if self.slot_N is None else values_NKXW[self.slot_N]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any):
        """Take the new keys and values of a layer, (N, K, C, D) each."""
        if layer_idx == 0:
            self.start, self.length = self.length, self.length + key_states.shape[2]
        for slab, new in zip(self.own[layer_idx], (key_states, value_states), strict=True):
            slab[:, :, self.start : self.length] = new
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the next one, padding included."""
        return self.mask_BP.shape[1] + self.length

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """Attention of the newest tokens to the prompt, to the tokens before them in their row, and to themselves.

        Args:
            layer: one that has been updated.
            query: (N, heads, C, D), heads grouped by key head.
            scale: of the scores.

        Returns:
            (N, heads, C, D), in float32.
        """
        prompt_keys, prompt_values = self.prompts[layer]
        own_keys, own_values = (slab[:, :, : self.length] for slab in self.own[layer])
        query_NKXD = query.float().reshape(len(query), prompt_keys.shape[1], -1, query.shape[-1]) * scale
        scores = self._to_grid(query_NKXD) @ prompt_keys.transpose(2, 3)
        if self.padding_B11P is not None:
            scores = scores.masked_fill(self.padding_B11P, -torch.inf)
        own_NKXT = query_NKXD @ own_keys.transpose(2, 3)
        if self.padding_NT is not None:
            own_NKXT = own_NKXT.masked_fill(self.padding_NT[:, None, None, : self.length], -torch.inf)
        if query.shape[2] > 1:
            place_T = torch.arange(self.length, device=query.device)
            later_CT = place_T > place_T[self.start :, None]
            own_NKXT = own_NKXT.masked_fill(later_CT.repeat(query_NKXD.shape[2] // len(later_CT), 1), -torch.inf)
        weights = torch.cat([self._from_grid(scores), own_NKXT], -1).softmax(-1)
        prompt_NKXP, own_NKXT = weights.split([prompt_keys.shape[2], self.length], -1)
        out_NKXD = self._from_grid(self._to_grid(prompt_NKXP) @ prompt_values) + own_NKXT @ own_values
        return out_NKXD.reshape(query.shape)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    group_cache: GroupCache,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers asks for it: key and value are those of the new tokens, which `GroupCache.update` has kept."""
    assert isinstance(module.layer_idx, int)
    return group_cache.attend(module.layer_idx, query, scaling).to(query.dtype).transpose(1, 2), None


AttentionInterface.register(NAME, attend)  # process-wide, and used only by models inside `decoding`


@contextmanager
def decoding(
    backbone: PreTrainedModel, cache: GroupCache
) -> Iterator[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Inside, the language model of a backbone attends by a `GroupCache`.

    Yields:
        What runs new tokens: their ids (N, C) and positions (N, C) in, (N, H) hidden states of the last ones out.

    Raises:
        ConfigError: for a model that does not attend to everything before a token.
    """
    config = backbone.config.get_text_config()
    if config.to_dict().get("sliding_window") is not None:
        raise ConfigError(
            f"engine=hf: samples only from models without a sliding window; got sliding_window={config.sliding_window} in "
            f"the configuration of {type(backbone).__name__}; set engine=vllm, or use another model"
        )
    kernel = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield lambda ids_NC, position_NC: run_completion(backbone, ids_NC, None, position_NC, cache, group_cache=cache)[
            :, -1
        ]
    finally:
        config._attn_implementation = kernel
