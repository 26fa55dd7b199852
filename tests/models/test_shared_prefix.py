"""One prompt, many completions: the same log-probabilities and gradients as row by row, from fewer tokens."""

import re
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from cases import KINDS, Case
from trl.trainer.utils import add_fused_lm_head

from models.shared_prefix import SharedPrefix, attach, backbone_of, run_completion, run_prompt, shifted_labels
from runtime.errors import ConfigError

PROMPT_OF = (0, 0, 0, 1, 1, 1)
LENGTHS = (5, 2, 7, 7, 1, 4)
"""Of the completions; they are padded to 7."""


def completions(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C) plain tokens and their mask."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(260, 600, (len(LENGTHS), max(LENGTHS)), generator=draw)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return ids.masked_fill(mask == 0, case.processor.pad_id), mask


def shared_logps(case: Case, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, C) log-probabilities through `shared_prefix`; 0 on padding."""
    batch = in_dtype(case.processor.collate(case.prompts), case.model.dtype)
    hidden = backbone_of(case.model)(
        shared_prefix=SharedPrefix(batch, ids, mask, torch.tensor(PROMPT_OF))
    ).last_hidden_state
    assert hidden.shape[:2] == (len(ids), 1 + ids.shape[1])
    return picked(case, hidden[:, :-1], ids) * mask


def row_logps(case: Case, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same, from one ordinary forward for each row, without any padding."""
    rows = []
    for row, (prompt, length) in enumerate(zip(PROMPT_OF, mask.sum(1).tolist(), strict=True)):
        batch = in_dtype(case.processor.collate([case.prompts[prompt]]), case.model.dtype)
        batch["input_ids"] = torch.cat([batch["input_ids"], ids[row : row + 1, :length]], 1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        hidden = backbone_of(case.model)(**batch, use_cache=False).last_hidden_state
        logps = picked(case, hidden[:, -length - 1 : -1], ids[row : row + 1, :length])[0]
        rows.append(torch.nn.functional.pad(logps, (0, ids.shape[1] - length)))
    return torch.stack(rows)


def picked(case: Case, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    head = case.model.get_output_embeddings()
    assert head is not None
    return head(hidden).log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def in_dtype(batch: dict, dtype: torch.dtype) -> dict:
    return {k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_equal_those_of_every_row_alone(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    ids, mask = completions(this)
    with torch.no_grad():
        want = row_logps(this, ids, mask)
        attach(this.model)
        got = shared_logps(this, ids, mask)
    assert want[mask == 1].max() < -0.01  # there is something to compare
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_every_row_alone(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    this.model.double().train()
    ids, mask = completions(this)
    weights = torch.randn(ids.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))

    def gradients(logps: torch.Tensor) -> dict[str, torch.Tensor]:
        this.model.zero_grad()
        (logps * weights).sum().backward()
        return {name: p.grad.clone() for name, p in this.model.named_parameters() if p.grad is not None}

    want = gradients(row_logps(this, ids, mask))
    attach(this.model)
    got = gradients(shared_logps(this, ids, mask))
    this.model.float().eval().zero_grad()
    towers = {part for name in want for part in ("audio_tower", "visual") if f".{part}." in name}
    assert towers == {
        "audio": {"audio_tower"},
        "silent video": {"visual"},
        "video with sound": {"audio_tower", "visual"},
    }.get(kind, set())
    assert got.keys() == want.keys()
    largest = max(float(g.abs().max()) for g in want.values())
    for name, gradient in want.items():
        # the model's norms and rotary angles compute in float32 whatever the weights are, hence 1e-6 and not 1e-12
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((got[name] - gradient).abs().max()) <= 1e-6 * scale, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_sibling_does_not_move_the_others(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    attach(this.model)
    ids, mask = completions(this)
    changed = ids.clone()
    changed[0, :5] = ids[0, :5].flip(0)
    with torch.no_grad():
        before, after = shared_logps(this, ids, mask), shared_logps(this, changed, mask)
    assert (before - after)[0].abs().max() > 1e-3
    torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=1e-6)


def test_permuted_rows_are_scored_the_same(case: Callable[[str], Case]) -> None:
    this = case("video with sound")
    attach(this.model)
    ids, mask = completions(this)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    batch = this.processor.collate(this.prompts)
    with torch.no_grad():
        straight = shared_logps(this, ids, mask)
        shared = SharedPrefix(batch, ids[order], mask[order], torch.tensor(PROMPT_OF)[order])
        hidden = backbone_of(this.model)(shared_prefix=shared).last_hidden_state
        mixed = picked(this, hidden[:, :-1], ids[order]) * mask[order]
    torch.testing.assert_close(mixed, straight[order], rtol=0, atol=1e-5)


def test_the_backbone_sees_each_prompt_once_and_each_tower_each_clip_once(case: Callable[[str], Case]) -> None:
    this = case("video with sound")
    attach(this.model)
    ids, mask = completions(this)
    ids, mask = ids[:4], mask[:4]
    prompt = this.prompts[0]
    backbone = backbone_of(this.model)
    seen: Counter[str] = Counter()

    def note(name: str, count: Callable[[tuple, dict], int]) -> Callable:
        def hook(module, args, kwargs) -> None:
            seen[f"{name} calls"] += 1
            seen[name] += count(args, kwargs)

        return hook

    hooks = [
        backbone.get_submodule("language_model").register_forward_pre_hook(
            note("tokens", lambda args, kwargs: kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
        ),
        backbone.get_submodule("audio_tower").register_forward_pre_hook(
            note("frames of sound", lambda args, kwargs: int(kwargs["feature_lens"].sum())), with_kwargs=True
        ),
        backbone.get_submodule("visual").register_forward_pre_hook(
            note("patches", lambda args, kwargs: len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
        ),
    ]
    shared = SharedPrefix(this.processor.collate([prompt]), ids, mask, torch.zeros(4, dtype=torch.long))
    with torch.no_grad():
        backbone(shared_prefix=shared)
    for hook in hooks:
        hook.remove()
    assert seen == {
        "tokens calls": 2,
        "tokens": len(prompt.ids) + 4 * 7,  # P + G * C, where rows would be 4 * (P + 7)
        "frames of sound calls": 1,
        "frames of sound": prompt.media["input_features"].shape[-1],
        "patches calls": 1,
        "patches": len(prompt.media["pixel_values_videos"]),
    }


@pytest.mark.parametrize("kind", ["video with sound", "text model"])
def test_the_fused_head_of_trl_scores_the_same(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    attach(this.model)
    add_fused_lm_head(this.model, outputs=("log_probs", "entropy"))
    ids, mask = completions(this)
    shared = SharedPrefix(this.processor.collate(this.prompts), ids, mask, torch.tensor(PROMPT_OF))
    with torch.no_grad():
        fused = this.model(labels=shifted_labels(ids, mask), fused_lm_head=True, shared_prefix=shared).log_probs
        torch.testing.assert_close(fused, shared_logps(this, ids, mask), rtol=0, atol=1e-5)


def test_labels_are_shifted_and_blank_on_the_prompt_and_on_padding() -> None:
    labels = shifted_labels(torch.tensor([[5, 6, 7], [8, 9, 9]]), torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert labels.tolist() == [[-100, 5, 6, 7], [-100, 8, -100, -100]]


@pytest.mark.parametrize("kind", ["video with sound", "text model"])
def test_completions_start_where_the_prompt_ends_and_not_where_its_tokens_do(
    case: Callable[[str], Case], kind: str
) -> None:
    this = case(kind)
    state = run_prompt(backbone_of(this.model), this.processor.collate(this.prompts))
    tokens = torch.tensor([len(p.ids) for p in this.prompts])
    # media take fewer positions than tokens: frames of one moment share a position, and so does their sound
    assert (state.next_position_B < tokens).all() if kind != "text model" else state.next_position_B.equal(tokens)
    ids, _ = completions(this)
    mask = torch.cat([state.mask_BP, torch.ones(2, 7, dtype=torch.long)], 1)
    places = state.next_position_B[:, None] + torch.arange(7)
    with torch.no_grad():
        right, wrong = (
            run_completion(
                backbone_of(this.model),
                ids[:2],
                mask,
                places + shift,
                run_prompt(backbone_of(this.model), this.processor.collate(this.prompts)).cache,
            )
            for shift in (0, 1)
        )
    assert (right - wrong).abs().max() > 1e-4  # a wrong position does not pass unnoticed


@pytest.mark.parametrize("kind", ["audio", "text model"])
def test_gradient_checkpointing_is_refused_in_training(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    attach(this.model)
    ids, mask = completions(this)
    this.model.gradient_checkpointing_enable()
    this.model.train()
    said = (
        "gradient_checkpointing: must be false, because checkpointed layers drop the key/value cache that completions of one "
        "prompt share; set rl.gradient_checkpointing=false"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        shared_logps(this, ids, mask)
    this.model.eval()  # the sampler's mode: nothing is checkpointed
    with torch.no_grad():
        shared_logps(this, ids, mask)
    this.model.gradient_checkpointing_disable()


def test_an_ordinary_call_goes_on_as_before(case: Callable[[str], Case]) -> None:
    this = case("video with sound")
    batch = this.processor.collate(this.prompts)
    with torch.no_grad():
        before = this.model(**batch).logits
        attach(this.model)
        assert torch.equal(this.model(**batch).logits, before)
