"""The setting of TRL that `small_tiles` changes is there, is used, and changes no number."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.kernels import chunked_logprob
from trl.trainer.utils import add_fused_lm_head

from models.head_tiles import WORDS, small_tiles

WORDS_IN_ALL = 3 * WORDS + 5


def run() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities, entropies and gradient of a seeded model."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=WORDS_IN_ALL,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = Qwen2ForCausalLM(config)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    ids = torch.randint(WORDS_IN_ALL, (2, 7))
    out = model(input_ids=ids, labels=ids, fused_lm_head=True)  # pyright: ignore[reportCallIssue]
    out.log_probs.sum().backward()
    return out.log_probs, out.entropy, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_inside_the_head_has_small_tiles_forward_and_backward_and_the_numbers_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    widths: dict[str, list[int]] = {"_forward_tile": [], "_backward_tile": []}
    for name, seen in widths.items():
        original = getattr(chunked_logprob, name)

        def noted(tile: torch.Tensor, *args, original=original, seen=seen, **kwargs):
            seen.append(tile.shape[1])
            return original(tile, *args, **kwargs)

        monkeypatch.setattr(chunked_logprob, name, noted)
    stock = run()
    assert widths == {"_forward_tile": [WORDS_IN_ALL], "_backward_tile": [WORDS_IN_ALL]}
    for seen in widths.values():
        seen.clear()
    with small_tiles(torch.device("cpu")):
        small = run()
    assert widths == {"_forward_tile": [WORDS] * 3 + [5], "_backward_tile": [WORDS] * 3 + [5]}
    for a, b in zip(stock, small, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    run()
    assert widths["_forward_tile"][-1] == WORDS_IN_ALL  # outside it is as it was


def test_on_another_device_nothing_changes() -> None:
    import trl.trainer.utils as trl_utils

    with small_tiles(torch.device("cuda")):
        assert trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE > WORDS
