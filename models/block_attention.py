"""Attention in blocks: a row of stretches, each of which sees one earlier stretch, or none, and then itself.

As a dense mask over a row of T tokens this would be T x T entries, all of which a kernel computes, most of them for nothing.
`BlockBias` stands where `scaled_dot_product_attention` takes its mask, as the biases of `torch.nn.attention.bias` do, and
runs the kernel stretch by stretch: a stretch of q tokens that follows p others costs q x (p + q), masked entries above the
diagonal included, and pairs that do not see each other cost nothing.

Transformers hands a mask of four axes to its `sdpa` attention as it is, in any model that has no other kind of attention.
On CUDA the blocks should go to flash attention, which knows this kind of causal bias; that is not run on a GPU yet.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention


class BlockBias(torch.Tensor):
    """A mask that is never made; see above. It holds no data, and of a tensor it has only the four axes."""

    lengths: list[int]
    contexts: list[int | None]

    @classmethod
    def of(cls, lengths: Sequence[int], contexts: Sequence[int | None]) -> "BlockBias":
        """A bias over one row.

        Args:
            lengths: [S] tokens of each stretch, in the order of the row.
            contexts: [S] index of the stretch whose tokens it sees before its own, or None.
        """
        bias = torch.empty(1, 1, 0, 0).as_subclass(cls)
        bias.lengths, bias.contexts = list(lengths), list(contexts)
        return bias

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take over `scaled_dot_product_attention`, and nothing else."""
        if func is scaled_dot_product_attention:
            return _attend(*args, **kwargs or {})
        return super().__torch_function__(func, types, args, kwargs)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: BlockBias, **options: Any
) -> torch.Tensor:
    """`scaled_dot_product_attention` of (1, heads, T, width) tensors under a `BlockBias`."""
    # split, not slices: the gradient of each slice would be a tensor as long as the row
    queries, keys, values = (whole.split(attn_mask.lengths, 2) for whole in (query, key, value))
    out = []
    for own, context in enumerate(attn_mask.contexts):
        seen = [own] if context is None else [context, own]
        k, v = (torch.cat([part[i] for i in seen], 2) for part in (keys, values))
        bias = causal_lower_right(queries[own].shape[2], k.shape[2])
        # the call that `is_causal` belongs to has a mask, so it is always False here
        out.append(scaled_dot_product_attention(queries[own], k, v, bias, **options))
    return torch.cat(out, 2)
