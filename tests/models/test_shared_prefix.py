"""One prompt, many completions: the same log-probabilities and gradients as row by row, from fewer tokens."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count as counting
from pathlib import Path

import pytest
import torch
from cases import KINDS, Case
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel
from trl.trainer.utils import add_fused_lm_head

from models.processor import Encoded
from models.shared_prefix import (
    Formulation,
    SharedPrefix,
    attach,
    backbone_of,
    packable,
    run_completion,
    run_prompt,
    score,
)
from runtime.errors import ConfigError

SHARING: tuple[Formulation, ...] = ("packed", "cache")
ALL: tuple[Formulation, ...] = (*SHARING, "rows")

MIXED = {
    "mixed": ("text", "image", "audio", "video", "video and audio"),
    "mixed, with sound": ("video", "text", "audio", "image"),
}
"""What the prompts of one batch hold; a video's own sound is heard in all prompts of a batch, or in none."""

LENGTHS = (5, 2, 7, 7, 1, 4)
"""Of the completions, over and over; they are padded to 9, which is two more than the longest."""

HINT = (300, 310, 320)


@pytest.fixture
def any_case(case: Callable[[str], Case], clips: Path) -> Callable[[str], Case]:
    """Makes a case of one of KINDS, of "image", or of MIXED."""

    def make(kind: str) -> Case:
        if kind in KINDS:
            return case(kind)
        this = case("video with sound" if kind == "mixed, with sound" else "silent video")
        numbers = counting()

        def prompt(media: str) -> Encoded:
            number = next(numbers)
            # different lengths, the first one longer than the second where both hold the same
            said = "How does the speaker feel?" + " Or what?" * (number % 2 == 0)
            files = {"audio": f"{number % 2}.wav", "video": f"{number % 2}.mp4", "image": f"{number % 2}.mp4"}
            kinds = [] if media == "text" else media.split(" and ")
            parts = [{"type": k, "path": str(clips / files[k]), "span": None} for k in kinds]
            return this.processor.encode([{"role": "user", "content": [*parts, {"type": "text", "text": said}]}])

        return replace(this, prompts=tuple(prompt(media) for media in MIXED.get(kind, ("image", "image"))))

    return make


EVERY = (*KINDS, "image", *MIXED)


def completions(case: Case, hinted: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, C) plain tokens, their mask, and (N,) the prompts: three for each of two prompts, else two.

    With hints, HINT stands before every other completion.
    """
    each = 3 if len(case.prompts) == 2 else 2
    owners = torch.arange(len(case.prompts)).repeat_interleave(each)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(260, 600, (len(owners), 9 + len(HINT) * hinted), generator=draw)
    lengths = torch.tensor([LENGTHS[n % 6] for n in range(len(owners))])
    if hinted:
        ids[::2, : len(HINT)] = torch.tensor(HINT)
        lengths[::2] += len(HINT)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids.masked_fill(mask == 0, case.processor.pad_id), mask, owners


def shared_logps(
    case: Case, ids: torch.Tensor, mask: torch.Tensor, owners: torch.Tensor, formulation: Formulation
) -> torch.Tensor:
    """(N, C) log-probabilities through `shared_prefix`; 0 on padding."""
    hidden = backbone_of(case.model)(shared_prefix=shared(case, ids, mask, owners, formulation)).last_hidden_state
    assert hidden.shape[:2] == (1, mask.sum())  # the head sees what predicts a completion token, and nothing else
    real = mask.bool()
    return torch.zeros(ids.shape, dtype=hidden.dtype).masked_scatter(real, picked(case, hidden, ids[real][None]))


def shared(
    case: Case, ids: torch.Tensor, mask: torch.Tensor, owners: torch.Tensor, formulation: Formulation
) -> SharedPrefix:
    prompts: Sequence[Encoded] = case.prompts
    if formulation == "rows":
        prompts, owners = [case.prompts[b] for b in owners.tolist()], torch.arange(len(owners))
    batch = in_dtype(case.processor.collate(prompts), case.model.dtype)
    return SharedPrefix(batch, ids, mask, owners, formulation)


def row_logps(case: Case, ids: torch.Tensor, mask: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """The same, from one ordinary forward for each row, without any padding."""
    rows = []
    for row, (prompt, length) in enumerate(zip(owners.tolist(), mask.sum(1).tolist(), strict=True)):
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


def gradients(model: torch.nn.Module, logps: torch.Tensor, hinted: bool = False) -> dict[str, torch.Tensor]:
    """Of a sum in which every token but those of hints has a weight of its own; the towers' among them."""
    weights = torch.randn(logps.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    if hinted:
        weights[::2, : len(HINT)] = 0
    model.zero_grad()
    (logps * weights.to(logps.dtype)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], tolerance: float) -> None:
    """Relative to each tensor's largest entry, or to a thousandth of the largest of all where that is more."""
    assert got.keys() == want.keys()
    largest = max(float(g.abs().max()) for g in want.values())
    assert largest > 0
    for name, gradient in want.items():
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((got[name] - gradient).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("hinted", [False, True], ids=["without hint", "with hint"])
@pytest.mark.parametrize("kind", EVERY)
def test_log_probabilities_equal_those_of_every_row_alone(
    any_case: Callable[[str], Case], kind: str, hinted: bool
) -> None:
    this = any_case(kind)
    ids, mask, owners = completions(this, hinted)
    with torch.no_grad():
        want = row_logps(this, ids, mask, owners)
        assert want[mask == 1].max() < -0.01  # there is something to compare
        attach(this.model)
        for formulation in ALL:
            got = shared_logps(this, ids, mask, owners, formulation)
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5, msg=formulation)


@pytest.mark.parametrize("formulation", ALL)
def test_positions_are_right_where_they_are_absolute(case: Callable[[str], Case], formulation: Formulation) -> None:
    # rotary positions do not show when all of a row are too high; learnt ones do
    this = case("text model")
    torch.manual_seed(0)
    size = len(this.processor.tokenizer)
    config = GPT2Config(
        vocab_size=size, n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    this = replace(this, model=GPT2LMHeadModel(config).eval())
    ids, mask, owners = completions(this)
    with torch.no_grad():
        want = row_logps(this, ids, mask, owners)
        attach(this.model)
        got = shared_logps(this, ids, mask, owners, formulation)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


TOWERS = {
    "audio": {"audio_tower"},
    "silent video": {"visual"},
    "image": {"visual"},
    "video with sound": {"audio_tower", "visual"},
    "mixed": {"audio_tower", "visual"},
    "mixed, with sound": {"audio_tower", "visual"},
}


@pytest.mark.parametrize("hinted", [False, True], ids=["without hint", "with hint"])
@pytest.mark.parametrize("kind", EVERY)
def test_gradients_equal_those_of_every_row_alone(any_case: Callable[[str], Case], kind: str, hinted: bool) -> None:
    this = any_case(kind)
    this.model.double().train()
    ids, mask, owners = completions(this, hinted)
    want = gradients(this.model, row_logps(this, ids, mask, owners), hinted)
    assert {part for name in want for part in ("audio_tower", "visual") if f".{part}." in name} == TOWERS.get(
        kind, set()
    )
    attach(this.model)
    for formulation in ALL:
        got = gradients(this.model, shared_logps(this, ids, mask, owners, formulation), hinted)
        # the model's norms and rotary angles compute in float32 whatever the weights are, hence 1e-6 and not 1e-12
        assert_same(got, want, 1e-6)


@pytest.mark.parametrize("kind", ["mixed, with sound", "text model"])
def test_gradients_in_float32_are_equal_to_rounding(any_case: Callable[[str], Case], kind: str) -> None:
    this = any_case(kind)
    this.model.train()
    ids, mask, owners = completions(this)
    want = gradients(this.model, row_logps(this, ids, mask, owners))
    attach(this.model)
    for formulation in ALL:
        assert_same(gradients(this.model, shared_logps(this, ids, mask, owners, formulation)), want, 1e-4)


@pytest.mark.parametrize("formulation", SHARING)
@pytest.mark.parametrize("kind", ["video with sound", "text model"])
def test_a_changed_sibling_does_not_move_the_others(
    case: Callable[[str], Case], kind: str, formulation: Formulation
) -> None:
    this = case(kind)
    attach(this.model)
    ids, mask, owners = completions(this)
    changed = ids.clone()
    changed[0, :5] = ids[0, :5].flip(0)
    with torch.no_grad():
        before = shared_logps(this, ids, mask, owners, formulation)
        after = shared_logps(this, changed, mask, owners, formulation)
    assert (before - after)[0].abs().max() > 1e-3
    torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("formulation", SHARING)
def test_permuted_rows_are_scored_the_same(case: Callable[[str], Case], formulation: Formulation) -> None:
    this = case("video with sound")
    attach(this.model)
    ids, mask, owners = completions(this)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    with torch.no_grad():
        straight = shared_logps(this, ids, mask, owners, formulation)
        mixed = shared_logps(this, ids[order], mask[order], owners[order], formulation)
    torch.testing.assert_close(mixed, straight[order], rtol=0, atol=1e-5)


def seen_by(model: torch.nn.Module, work: Callable[[], object]) -> Counter[str]:
    """How often the language model's first layer and the towers are called, and with how many tokens, frames, patches."""
    backbone, seen = backbone_of(model), Counter[str]()

    def note(name: str, count: Callable[[tuple, dict], int]) -> Callable:
        def hook(module, args, kwargs) -> None:
            seen[f"{name} calls"] += 1
            seen[name] += count(args, kwargs)

        return hook

    def first(args: tuple, kwargs: dict, name: str = "hidden_states") -> torch.Tensor:
        return args[0] if args else kwargs[name]

    watched = {"tokens": ("language_model.layers.0", lambda a, k: first(a, k).shape[:2].numel())}
    if "audio_tower" not in dict(backbone.named_children()):
        watched = {"tokens": ("layers.0", watched["tokens"][1])}
    else:
        watched["frames of sound"] = ("audio_tower", lambda a, k: int(k["feature_lens"].sum()))
        watched["patches"] = ("visual", lambda a, k: len(first(a, k)))
    hooks = [
        backbone.get_submodule(path).register_forward_pre_hook(note(name, count), with_kwargs=True)
        for name, (path, count) in watched.items()
    ]
    work()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kind", ["mixed", "mixed, with sound", "video with sound", "text model"])
def test_the_backbone_sees_each_prompt_once_and_each_tower_each_clip_once(
    any_case: Callable[[str], Case], kind: str
) -> None:
    this = any_case(kind)
    attach(this.model)
    ids, mask, owners = completions(this)
    prompts, lengths = [len(p.ids) for p in this.prompts], mask.sum(1)
    clips = [p.media for p in this.prompts]
    each = len(owners) // len(prompts)
    frames = sum(int(m["feature_attention_mask"].sum()) for m in clips if "feature_attention_mask" in m)
    pictures = [[len(m[name]) for m in clips if name in m] for name in ("pixel_values", "pixel_values_videos")]

    def seen(formulation: Formulation) -> Counter[str]:
        with torch.no_grad():
            return seen_by(this.model, lambda: shared_logps(this, ids, mask, owners, formulation))

    def expected(calls: int, tokens: int, copies: int = 1) -> dict[str, int]:
        towers = {"frames of sound calls": int(frames > 0), "frames of sound": copies * frames}
        towers |= {"patches calls": sum(map(bool, pictures)), "patches": copies * sum(map(sum, pictures))}
        return {"tokens calls": calls, "tokens": tokens} | (towers if frames else {})

    # P + sum(C) for each group, and no padding
    assert seen("packed") == expected(1, sum(prompts) + int(lengths.sum()))
    # both padded to the longest: the prompts, and the completions, of which the batch has two columns of padding more
    assert seen("cache") == expected(2, len(prompts) * max(prompts) + len(owners) * int(lengths.max()))
    assert seen("rows") == expected(1, len(owners) * (max(prompts) + int(lengths.max())), copies=each)


@pytest.mark.parametrize("formulation", ALL)
@pytest.mark.parametrize("kind", ["video with sound", "text model"])
def test_the_fused_head_of_trl_scores_the_same(
    case: Callable[[str], Case], kind: str, formulation: Formulation
) -> None:
    this = case(kind)
    attach(this.model)
    add_fused_lm_head(this.model, temperature=1.3, outputs=("log_probs", "entropy"))
    ids, mask, owners = completions(this)
    real = mask.bool()
    this_shared = shared(this, ids, mask, owners, formulation)
    head = this.model.get_output_embeddings()
    assert head is not None
    with torch.no_grad():
        logps, entropy = score(this.model, this_shared)
        all_logps = (
            head(backbone_of(this.model)(shared_prefix=this_shared).last_hidden_state[0]).div(1.3).log_softmax(-1)
        )
    assert entropy is not None
    torch.testing.assert_close(logps[real], all_logps.gather(1, ids[real][:, None])[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy[real], -(all_logps.exp() * all_logps).sum(-1), rtol=0, atol=1e-5)
    assert not logps[~real].any()
    assert not entropy[~real].any()


@pytest.mark.parametrize("kind", ["mixed, with sound", "text model"])
def test_an_adapter_learns_the_same(any_case: Callable[[str], Case], kind: str) -> None:
    this = any_case(kind)
    this.model.double()
    config = LoraConfig(r=4, target_modules=r".*\.(q_proj|v_proj|qkv|q)", task_type="CAUSAL_LM")
    model = get_peft_model(this.model, config)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)  # fresh adapters do nothing
    attach(model)
    add_fused_lm_head(this.model)
    model.train()
    ids, mask, owners = completions(this)

    def found(formulation: Formulation) -> dict[str, torch.Tensor]:
        return gradients(model, score(model, shared(this, ids, mask, owners, formulation))[0])

    want = found("rows")
    assert all("lora_" in name for name in want)
    assert any("audio_tower" in name for name in want) == (kind != "text model")
    for formulation in SHARING:
        assert_same(found(formulation), want, 1e-5)  # the fused head gives log-probabilities in float32


@pytest.mark.parametrize("formulation", SHARING)
@pytest.mark.parametrize("kind", ["mixed, with sound", "text model"])
def test_bfloat16_differs_by_its_rounding(any_case: Callable[[str], Case], kind: str, formulation: Formulation) -> None:
    this = any_case(kind)
    this.model.bfloat16()
    attach(this.model)
    add_fused_lm_head(this.model)
    ids, mask, owners = completions(this)
    with torch.no_grad():
        got, want = (score(this.model, shared(this, ids, mask, owners, f))[0] for f in (formulation, "rows"))
    difference = (got - want)[mask.bool()].abs()
    assert difference.mean() < 5e-3


@pytest.mark.parametrize("kind", ["video with sound", "text model"])
def test_completions_start_where_the_prompt_ends_and_not_where_its_tokens_do(
    case: Callable[[str], Case], kind: str
) -> None:
    this = case(kind)
    state = run_prompt(backbone_of(this.model), this.processor.collate(this.prompts))
    tokens = torch.tensor([len(p.ids) for p in this.prompts])
    # media take fewer positions than tokens: frames of one moment share a position, and so does their sound
    assert (state.next_position_B < tokens).all() if kind != "text model" else state.next_position_B.equal(tokens)
    ids, _, _ = completions(this)
    mask = torch.cat([state.mask_BP, torch.ones(2, 9, dtype=torch.long)], 1)
    places = state.next_position_B[:, None] + torch.arange(9)
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


@pytest.mark.parametrize("formulation", ["packed", "rows"])
@pytest.mark.parametrize("kind", ["mixed, with sound", "text model"])
def test_gradient_checkpointing_changes_no_gradient(
    any_case: Callable[[str], Case], kind: str, formulation: Formulation
) -> None:
    this = any_case(kind)
    this.model.train()
    attach(this.model)
    ids, mask, owners = completions(this)

    layer = "layers.0.mlp" if kind == "text model" else "language_model.layers.0.mlp"

    def found() -> tuple[dict[str, torch.Tensor], int]:
        """The gradients, and how often the inside of the first layer was run."""
        runs: list[None] = []
        hook = backbone_of(this.model).get_submodule(layer).register_forward_pre_hook(lambda *_: runs.append(None))
        out = gradients(this.model, shared_logps(this, ids, mask, owners, formulation))
        hook.remove()
        return out, len(runs)

    want, once = found()
    this.model.activation_checkpointing_enable()
    got, twice = found()
    this.model.activation_checkpointing_disable()
    assert (once, twice) == (1, 2)
    assert_same(got, want, 1e-6)


@pytest.mark.parametrize("kind", ["audio", "text model"])
def test_a_cache_under_gradient_checkpointing_is_refused_in_training(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    attach(this.model)
    ids, mask, owners = completions(this)
    this.model.activation_checkpointing_enable()
    this.model.train()
    said = (
        "rl.scoring=cache: does not go with gradient checkpointing, because checkpointed layers drop the key/value cache that "
        "completions of one prompt share; set rl.scoring=packed, or rl.gradient_checkpointing=false"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        shared_logps(this, ids, mask, owners, "cache")
    this.model.eval()  # the sampler's mode: nothing is checkpointed
    with torch.no_grad():
        shared_logps(this, ids, mask, owners, "cache")
    this.model.activation_checkpointing_disable()


def test_packing_needs_the_kernel_that_takes_blocks(case: Callable[[str], Case]) -> None:
    this = case("video with sound")
    assert packable(this.model)
    text = backbone_of(this.model).config.get_text_config()
    text.sliding_window = 64
    assert not packable(this.model)
    text.sliding_window = None
    this.model.set_attn_implementation("eager")
    assert not packable(this.model)
    ids, mask, owners = completions(this)
    with torch.no_grad():
        want = row_logps(this, ids, mask, owners)
        attach(this.model)
        torch.testing.assert_close(shared_logps(this, ids, mask, owners, "cache"), want, rtol=0, atol=1e-5)


def test_an_ordinary_call_goes_on_as_before(case: Callable[[str], Case]) -> None:
    this = case("video with sound")
    batch = this.processor.collate(this.prompts)
    with torch.no_grad():
        before = this.model(**batch).logits
        attach(this.model)
        assert torch.equal(this.model(**batch).logits, before)
