"""One prompt, G completions: the prompt and its media pass through towers and language model once per group.

`attach` gives the backbone a `shared_prefix` argument, so that DDP, PEFT and TRL's fused LM head still see one ordinary call
per micro-batch; `score` makes that call. There are three formulations, all exact:

packed  One row: each prompt, then its completions, without any padding: P + sum(C) tokens per group. A completion sees its
        prompt and itself (models/block_attention.py), at the positions that follow its prompt. Goes with gradient
        checkpointing. Needs the attention kernel `sdpa`.
cache   The prompts are run with a differentiable key/value cache, the cache rows are repeated per completion, and the
        completions run on top: B * P + N * C tokens, both padded to the longest of the micro-batch. Goes with any kernel,
        and not with gradient checkpointing.
rows    Every completion behind its own copy of prompt and media: N * (P + C) tokens. What the others are held against.

In each the head sees the positions that predict a completion token, and no other.

Axes: B prompts, N completions (all groups together), P prompt length, C completion length, T tokens in one row, H width.
"""

import types
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Qwen2_5OmniThinkerModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from models.block_attention import BlockBias
from models.head_tiles import small_tiles
from runtime.errors import ConfigError

Formulation = Literal["packed", "cache", "rows"]


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """What the backbone needs to score N completions of B prompts."""

    prompt: dict[str, Any]
    """Left-padded model input of the B prompts, media included; for `rows`, a copy for each completion, so that B = N."""
    completion_ids_NC: torch.Tensor
    completion_mask_NC: torch.Tensor
    """1 on real tokens; padding on the right."""
    prompt_of_N: torch.Tensor
    """Index of the prompt that each completion belongs to."""
    formulation: Formulation = "packed"


@dataclass(frozen=True, slots=True)
class PromptState:
    """Prompts that have been run once."""

    hidden_BPH: torch.Tensor
    cache: DynamicCache
    mask_BP: torch.Tensor
    next_position_B: torch.Tensor
    """Position of the first completion token: media take fewer positions than tokens."""


def thinker(model: torch.nn.Module) -> PreTrainedModel:
    """The causal language model below a PEFT wrapper (whose own `.model` is not the backbone), or the model itself."""
    found = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(found, PreTrainedModel), type(found)
    return found


def backbone_of(model: torch.nn.Module) -> PreTrainedModel:
    """The model without its head: what `shared_prefix` is attached to."""
    found = thinker(model).base_model
    assert isinstance(found, PreTrainedModel), type(found)
    return found


def run_prompt(backbone: PreTrainedModel, prompt: dict[str, Any], run=None) -> PromptState:
    """Towers and language model over left-padded prompts, once."""
    run = run or backbone
    mask_BP = prompt["attention_mask"]
    if isinstance(backbone, Qwen2_5OmniThinkerModel):
        out = run(**prompt, use_cache=True)
        assert backbone.rope_deltas is not None  # state that this very call has set
        offset_B = backbone.rope_deltas[:, 0]
    else:
        out = run(**prompt, position_ids=(mask_BP.cumsum(1) - 1).clamp(min=0), use_cache=True)
        offset_B = 0
    return PromptState(out.last_hidden_state, out.past_key_values, mask_BP, mask_BP.sum(1) + offset_B)


def run_completion(
    backbone: PreTrainedModel,
    ids_NC: torch.Tensor,
    mask_NK: torch.Tensor | None,
    position_NC: torch.Tensor,
    cache: Cache,
    run=None,
    **attention: Any,
) -> torch.Tensor:
    """Language model over text that follows cached keys; K counts cached and new positions. The rest goes to the attention.

    Returns:
        (N, C, H) hidden states.
    """
    omni = isinstance(backbone, Qwen2_5OmniThinkerModel)
    lm = backbone.language_model if omni else (run or backbone)
    return lm(
        inputs_embeds=backbone.get_input_embeddings()(ids_NC),
        attention_mask=mask_NK,
        position_ids=position_NC.expand(3, -1, -1) if omni else position_NC,
        past_key_values=cache,
        use_cache=True,
        **attention,
    ).last_hidden_state


def packable(model: torch.nn.Module) -> bool:
    """Whether `packed` is exact here: the blocks are cut where `sdpa` is called, and know of no sliding window."""
    config = backbone_of(model).config.get_text_config()
    return config._attn_implementation == "sdpa" and config.to_dict().get("sliding_window") is None


def positions_of(backbone: PreTrainedModel, prompt: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(A, B, P) positions of left-padded prompts, A = 3 where media have a time, a row and a column; (B,) the next one."""
    mask_BP = prompt["attention_mask"]
    if not isinstance(backbone, Qwen2_5OmniThinkerModel):
        return (mask_BP.cumsum(1) - 1).clamp(min=0)[None], mask_BP.sum(1)
    heard = prompt.get("feature_attention_mask")
    position_3BP, offset_B1 = backbone.get_rope_index(
        prompt["input_ids"],
        prompt.get("image_grid_thw"),
        prompt.get("video_grid_thw"),
        mask_BP,
        prompt["use_audio_in_video"],
        None if heard is None else heard.sum(1),
        prompt.get("video_second_per_grid"),
    )
    return position_3BP, mask_BP.sum(1) + offset_B1[:, 0]


def _packed(backbone: PreTrainedModel, run, shared: SharedPrefix) -> torch.Tensor:
    """(T, H) hidden states that predict the completion tokens, T of them in all: completion by completion."""
    prompt, owners_N = shared.prompt, shared.prompt_of_N
    real_BP, real_NC = prompt["attention_mask"].bool(), shared.completion_mask_NC.bool()
    position_ABP, next_B = positions_of(backbone, prompt)
    position_NC = next_B[owners_N, None] + torch.arange(real_NC.shape[1], device=real_NC.device)

    # stretches, the prompts before the completions
    ids = torch.cat([prompt["input_ids"][real_BP], shared.completion_ids_NC[real_NC]])
    position_A = torch.cat([position_ABP[:, real_BP], position_NC[real_NC].expand(len(position_ABP), -1)], 1)
    lengths = [*real_BP.sum(1).tolist(), *real_NC.sum(1).tolist()]
    owners = [*range(len(real_BP)), *owners_N.tolist()]
    places = torch.arange(len(ids), device=ids.device).split(lengths)

    # the row, in which its completions follow each prompt: sorting keeps the order of equals
    order = sorted(range(len(owners)), key=owners.__getitem__)
    rank = {stretch: i for i, stretch in enumerate(order)}
    contexts = [None if owners[s] == s else rank[owners[s]] for s in order]
    row = torch.cat([places[s] for s in order])
    position = position_A[:, row]
    hidden = run(
        input_ids=ids[row][None],
        attention_mask=BlockBias.of([lengths[s] for s in order], contexts),
        position_ids=position[:, None] if isinstance(backbone, Qwen2_5OmniThinkerModel) else position,
        use_cache=False,
        **{name: value for name, value in prompt.items() if name not in ("input_ids", "attention_mask")},
    ).last_hidden_state[0]

    # each token is predicted one place earlier, the first of a completion at the end of its prompt
    completions = range(len(real_BP), len(owners))
    before = [torch.cat([places[owners[s]][-1:], places[s]])[: lengths[s]] for s in completions]
    return hidden[row.argsort()[torch.cat(before)]]


def _trimmed(shared: SharedPrefix) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of the completions, cut to the longest: a batch of rollouts was padded to the longest of all of them."""
    longest = int(shared.completion_mask_NC.sum(1).max())
    return shared.completion_ids_NC[:, :longest], shared.completion_mask_NC[:, :longest]


def _cached(backbone: PreTrainedModel, run, shared: SharedPrefix) -> torch.Tensor:
    """See `_packed`."""
    if backbone.is_activation_checkpointing and backbone.training:
        raise ConfigError(
            "rl.scoring=cache: does not go with gradient checkpointing, because checkpointed layers drop the key/value cache "
            "that completions of one prompt share; set rl.scoring=packed, or rl.gradient_checkpointing=false"
        )
    ids_NC, mask_NC = _trimmed(shared)
    state = run_prompt(backbone, shared.prompt, run)
    rows_N = shared.prompt_of_N
    state.cache.batch_select_indices(rows_N)  # keeps the graph: gradients of all siblings meet in the prompt
    mask_NK = torch.cat([state.mask_BP[rows_N], mask_NC.to(state.mask_BP.dtype)], 1)
    position_NC = state.next_position_B[rows_N, None] + torch.arange(ids_NC.shape[1], device=ids_NC.device)
    after_NCH = run_completion(backbone, ids_NC, mask_NK, position_NC, state.cache, run)
    before_NCH = torch.cat([state.hidden_BPH[rows_N, -1:], after_NCH[:, :-1]], 1)
    return before_NCH[mask_NC.bool()]


def _in_rows(backbone: PreTrainedModel, run, shared: SharedPrefix) -> torch.Tensor:
    """See `_packed`."""
    ids_NC, mask_NC = _trimmed(shared)
    assert len(shared.prompt["input_ids"]) == len(ids_NC), "rows need a prompt for each completion"
    whole = shared.prompt | {
        "input_ids": torch.cat([shared.prompt["input_ids"], ids_NC], 1),
        "attention_mask": torch.cat([shared.prompt["attention_mask"], mask_NC.to(torch.long)], 1),
    }
    if not isinstance(backbone, Qwen2_5OmniThinkerModel):  # which works them out by itself
        whole["position_ids"] = (whole["attention_mask"].cumsum(1) - 1).clamp(min=0)
    hidden = run(**whole, use_cache=False).last_hidden_state
    return hidden[:, -ids_NC.shape[1] - 1 : -1][mask_NC.bool()]


def attach(model: torch.nn.Module) -> None:
    """Let the model's backbone take `shared_prefix=SharedPrefix(...)` in place of its usual inputs.

    Its `last_hidden_state` is then (1, T, H): the positions that predict the T completion tokens, completion by completion.
    """
    backbone = backbone_of(model)
    original = backbone.forward

    def forward(self, *args, shared_prefix: SharedPrefix | None = None, **kwargs):
        if shared_prefix is None:
            return original(*args, **kwargs)
        hidden_of = {"packed": _packed, "cache": _cached, "rows": _in_rows}[shared_prefix.formulation]
        return BaseModelOutputWithPast(last_hidden_state=hidden_of(self, original, shared_prefix)[None])

    backbone.forward = types.MethodType(forward, backbone)


def score(model: torch.nn.Module, shared: SharedPrefix) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities of the completions.

    Args:
        model: attached to, and with TRL's fused head (`add_fused_lm_head`); inside whatever distributed training wraps around.
        shared: what to score.

    Returns:
        (N, C) natural logs at the head's temperature, and entropies in nats where the head gives them; 0 on padding.
    """
    real_NC = shared.completion_mask_NC.bool()
    # labels that need no shift: TRL's head takes every position that it is given, on a CPU at least
    labels = shared.completion_ids_NC[real_NC][None]
    with small_tiles(labels.device):
        out = model(shift_labels=labels, fused_lm_head=True, shared_prefix=shared)

    def spread(values_1T: torch.Tensor) -> torch.Tensor:
        return values_1T.new_zeros(real_NC.shape).masked_scatter(real_NC, values_1T)

    return spread(out.log_probs), None if out.entropy is None else spread(out.entropy)
