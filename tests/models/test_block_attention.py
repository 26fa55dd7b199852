"""Blocks of attention: equal to a dense mask, and no pair is computed that the mask would throw away whole."""

import pytest
import torch
from torch.nn import functional as F

from models import block_attention
from models.block_attention import BlockBias

ROWS = {
    "a prompt with three completions": ([6, 2, 3, 1], [None, 0, 0, 0]),
    "two such groups": ([4, 2, 5, 3, 1, 1], [None, 0, 0, None, 3, 3]),
    "nothing but prompts": ([3, 4, 1], [None, None, None]),
    "a tree of two levels": ([3, 2, 4, 2], [None, 0, None, 2]),
}


def dense(lengths: list[int], contexts: list[int | None]) -> torch.Tensor:
    """(T, T) what each token sees."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    context = torch.tensor([-1 if c is None else c for c in contexts])[owner]
    sees = (owner[:, None] == owner) | (context[:, None] == owner)
    return sees & torch.ones(len(owner), len(owner), dtype=torch.bool).tril()


def qkv(tokens: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, tokens, 8, generator=draw, dtype=torch.double, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("row", ROWS)
def test_blocks_are_a_dense_mask(row: str) -> None:
    lengths, contexts = ROWS[row]
    tensors = qkv(sum(lengths))
    by_mask = F.scaled_dot_product_attention(*tensors, attn_mask=dense(lengths, contexts), scale=0.3)
    by_block = F.scaled_dot_product_attention(*tensors, attn_mask=BlockBias.of(lengths, contexts), scale=0.3)
    torch.testing.assert_close(by_block, by_mask, rtol=0, atol=1e-12)
    weights = torch.randn(by_mask.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    for got, want in zip(
        torch.autograd.grad((by_block * weights).sum(), tensors),
        torch.autograd.grad((by_mask * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_only_pairs_that_may_see_each_other_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, contexts = ROWS["two such groups"]
    pairs = []
    real = block_attention.scaled_dot_product_attention

    def count(query, key, value, bias, **options):
        pairs.append((query.shape[2], key.shape[2]))
        return real(query, key, value, bias, **options)

    bias = BlockBias.of(lengths, contexts)
    monkeypatch.setattr(block_attention, "scaled_dot_product_attention", count)
    query, key, value = qkv(sum(lengths))
    block_attention._attend(query, key, value, bias)
    assert pairs == [(4, 4), (2, 6), (5, 9), (3, 3), (1, 4), (1, 4)]  # 16 tokens: 89 pairs, not 256
