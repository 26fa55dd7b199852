"""Packing: the same log-probabilities, gradients and steps as with padding, from fewer tokens."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, MistralConfig, PreTrainedModel, TrainerCallback
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from trl.trainer.utils import add_fused_lm_head

from models.load import LoraSettings
from models.packing import attach, pack
from models.processor import MediaSettings, Processor
from models.shared_prefix import backbone_of
from models.tiny import CORPUS, EOS, PAD, build_tokenizer
from runtime.files import read_jsonl
from sft.train import Collator, Example, make_trainer
from tasks.base import Dataset

OMNI = ("text", "image", "audio", "silent video", "video with sound", "mixed", "mixed with sound")
MODELS = {
    "text model": (LlamaForCausalLM, LlamaConfig, {}),
    "sliding window": (MistralForCausalLM, MistralConfig, {"sliding_window": 12}),
}
ANSWERS = ("<answer>1.0</answer>", "positive", "<discriminate>negative: words down, voice flat</discriminate>")
LORA = LoraSettings(r=4, alpha=8, dropout=0.0, targets=r".*language_model.*\.(q_proj|v_proj)")


@dataclass(frozen=True)
class Case:
    """A batch of three samples, and a model that is not shared."""

    batch: dict[str, Any]
    lengths: list[int]
    fresh: Callable[[], PreTrainedModel]


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Writes a square picture of noise, so many pixels wide."""
    folder = tmp_path_factory.mktemp("pictures")

    def make(size: int) -> str:
        path = folder / f"{size}.png"
        noise = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        return str(path)

    return make


@pytest.fixture
def case(fresh, processor: Processor, studio_data: Dataset, picture) -> Callable[[str], Case]:
    """Makes a case of one of OMNI or MODELS."""
    folder = studio_data.root / "clips"
    wavs, films = sorted(folder.glob("*.wav")), sorted(folder.glob("*.mp4"))

    def parts(kind: str, i: int) -> list[dict[str, Any]]:
        """The i-th sample's media, each longer or larger than those of the sample before."""
        span = (0.0, 0.5 + 0.25 * i)
        sound = {"type": "audio", "path": str(wavs[i]), "span": span}
        film = {"type": "video", "path": str(films[i]), "span": span}
        image = {"type": "image", "path": picture(56 + 28 * i), "span": None}
        match kind:
            case "image":
                return [image] * (i + 1)
            case "audio":
                return [sound]
            case "silent video" | "video with sound":
                return [film]
            case "mixed":
                return [[sound], [film, sound], [image]][i]
            case "mixed with sound":
                return [[film], [sound], [image, film]][i]
        return []

    def make(kind: str) -> Case:
        own, load = processor, fresh
        if kind in MODELS:
            own, load = text_model(kind)
        elif kind in ("silent video", "mixed"):
            own = Processor(processor.processor, replace(processor.settings, audio_in_video=False))
        question = [{"type": "text", "text": "How does the speaker feel, from -3 to 3? " * n} for n in (2, 1, 3)]
        examples = [
            Example([{"role": "user", "content": [*parts(kind, i), question[i]]}], ANSWERS[i]) for i in range(3)
        ]
        batch = Collator(own, examples)([{"row": i} for i in range(3)])
        lengths = [len(own.encode(e.messages).ids) + len(own.answer_ids(e.answer)) for e in examples]
        assert len(set(lengths)) == 3, "nothing to pad"
        return Case(batch, lengths, load)

    return make


def text_model(kind: str) -> tuple[Processor, Callable[[], PreTrainedModel]]:
    tokenizer = build_tokenizer(CORPUS)
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    tokenizer.chat_template = "{% for m in messages %}" + turn + "{% endfor %}<|im_start|>assistant\n"
    ids = tokenizer.get_vocab()
    model_class, config_class, extra = MODELS[kind]

    def load() -> PreTrainedModel:
        torch.manual_seed(0)
        return model_class(
            config_class(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                eos_token_id=ids[EOS],
                pad_token_id=ids[PAD],
                bos_token_id=None,
                **extra,
            )
        )

    return Processor(tokenizer, MediaSettings(False, 4.0, 8, {})), load


def learn(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probability of each answer token, sample after sample, and all gradients of a weighted sum of them."""
    out = model(**batch, fused_lm_head=True)
    logps = out.log_probs[out.label_mask]
    (logps * torch.linspace(0.5, 1.5, len(logps))).sum().backward()
    return logps.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def both(case: Case, kernel: str = "sdpa") -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model with TRL's head, as it is and attached to."""
    plain, packed = case.fresh(), case.fresh()
    attach(packed)
    for model in (plain, packed):
        backbone_of(model).set_attn_implementation(kernel)
        add_fused_lm_head(model)
    return plain, packed


def assert_same_gradients(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    """To 1e-4 of each, beside 1e-7 of all together: some are nothing but rounding."""
    whole = torch.stack([grad.norm() for grad in want.values()]).norm()
    assert got.keys() == want.keys() and whole > 0
    for name, grad in want.items():
        assert (got[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-7 * whole, name


@pytest.mark.parametrize(
    ("kind", "kernel"),
    [*((kind, "sdpa") for kind in (*OMNI, *MODELS)), ("mixed", "eager"), ("text model", "eager")],
)
def test_log_probabilities_and_gradients_equal_those_of_the_padded_batch(
    case: Callable[[str], Case], kind: str, kernel: str
) -> None:
    this = case(kind)
    plain, packed = both(this, kernel)
    want, grads = learn(plain, this.batch)
    got, packed_grads = learn(packed, pack(this.batch))
    assert len(want) == int((this.batch["labels"] != -100).sum())
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert_same_gradients(packed_grads, grads)


@pytest.mark.parametrize("kind", ["mixed", "mixed with sound", "text model"])
def test_samples_do_not_see_each_other_at_all(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    _, packed = both(this)
    batch = pack(this.batch)
    other = batch | {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][0, -len(ANSWERS[0]) // 2 :] += 1  # answers stay free of media tokens
    with torch.no_grad():
        one, two = (packed(**b, fused_lm_head=True).log_probs[0] for b in (batch, other))
    first = int((this.batch["labels"][0] != -100).sum())
    assert not torch.equal(one[:first], two[:first])
    assert torch.equal(one[first:], two[first:])


@pytest.mark.parametrize("kind", ["mixed", "mixed with sound", "text model"])
def test_the_language_model_runs_on_no_padding_the_head_on_answers_and_towers_as_ever(
    case: Callable[[str], Case], kind: str
) -> None:
    this = case(kind)
    seen: list[Counter[str]] = []
    for model, batch in zip(both(this), (this.batch, pack(this.batch)), strict=True):
        count: Counter[str] = Counter()
        backbone = backbone_of(model)
        if kind in MODELS:
            layers = backbone.layers
        else:
            layers = backbone.language_model.layers
            backbone.audio_tower.register_forward_pre_hook(
                lambda m, args, count=count: count.update(heard=1, frames=args[0].shape[-1])
            )
            backbone.visual.register_forward_pre_hook(
                lambda m, args, count=count: count.update(looked=1, patches=len(args[0]))
            )
        layers[0].register_forward_pre_hook(
            lambda m, args, count=count: count.update(positions=args[0].shape[0] * args[0].shape[1])
        )
        with torch.no_grad():
            count["head"] = model(**batch, fused_lm_head=True).label_mask.numel()
        seen.append(count)
    padded, packed = seen
    size = this.batch["input_ids"].numel()
    assert padded.pop("positions") == size and packed.pop("positions") == sum(this.lengths) < size
    assert padded.pop("head") == size - 3 and packed.pop("head") == int((this.batch["labels"] != -100).sum())
    assert padded == packed
    if kind not in MODELS:
        assert packed["heard"] == 1 and packed["looked"] == 2  # all sounds at once; images, and frames


@pytest.mark.parametrize("kind", ["mixed with sound", "text model"])
def test_an_attached_model_is_otherwise_what_it_was(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    plain, packed = both(this)
    with torch.no_grad():
        want, got = (model(**this.batch).logits for model in (plain, packed))
    assert torch.equal(want, got)


class Watch(TrainerCallback):
    """Keeps the gradients of every optimizer step, as it is about to be made."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        grads = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        self.steps.append(grads)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, {}),
        ({"accumulation": 2}, {}),  # two micro-batches of two, and the last step of one sample
        ({}, {"lora": LORA, "freeze_towers": True}),
        ({"gradient_checkpointing": True}, {}),
    ],
    ids=["whole model", "accumulated", "adapter", "checkpointed"],
)
def test_a_training_makes_the_same_steps_packed_and_padded(
    fresh, processor: Processor, examples: list[Example], settings, tmp_path: Path, changes: dict, kind: dict
) -> None:
    steps, rows, layer_runs = [], [], []
    # checkpointing is held against plain padding, too
    for packing, own in ((False, {**changes, "gradient_checkpointing": False}), (True, changes)):
        folder = tmp_path / str(packing)
        cfg = settings(packing=packing, max_steps=2, lr=1e-3, **own)
        model = fresh(**kind)
        watch = Watch(model)
        trainer = make_trainer("sft", model, processor, examples[:3], examples[3:], cfg, folder, 0)
        trainer.add_callback(watch)
        count: Counter[bool] = Counter()
        backbone_of(model).language_model.layers[0].mlp.register_forward_pre_hook(
            lambda module, args, count=count: count.update([module.training])
        )
        trainer.train()
        steps.append(watch.steps)
        rows.append(read_jsonl(folder / "metrics.jsonl"))
        layer_runs.append(count[True])
    padded, packed = steps
    assert len(padded) == len(packed) == 2
    for want, got in zip(padded, packed, strict=True):
        assert_same_gradients(got, want)
    for want, got in zip(*rows, strict=True):
        assert want.keys() == got.keys()
        for name in ("loss", "eval_loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens", "epoch"):
            if name in want:
                assert got[name] == pytest.approx(want[name], rel=1e-4), name
    if changes.get("gradient_checkpointing"):
        assert layer_runs[1] == 2 * layer_runs[0]  # the layers really ran twice
    else:
        assert layer_runs[1] == layer_runs[0]


def test_the_log_tells_how_long_rows_are_and_how_much_of_them_is_padding(
    fresh, processor: Processor, examples: list[Example], settings, tmp_path: Path
) -> None:
    prompts = [len(processor.encode(e.messages).ids) for e in examples[:5]]
    answers = [len(processor.answer_ids(e.answer)) for e in examples[:5]]
    lengths = [p + a for p, a in zip(prompts, answers, strict=True)]
    longest = [max(prompts[:2]) + max(answers[:2]), max(prompts[2:]) + max(answers[2:])]
    want = {True: (0.0, sum(lengths[:2]), 0.0, sum(lengths[2:]))}
    want[False] = (
        1 - sum(lengths[:2]) / (2 * longest[0]),
        longest[0],
        1 - sum(lengths[2:]) / (3 * longest[1]),
        longest[1],
    )
    for packing, expected in want.items():
        cfg = settings(packing=packing, batch=3, max_steps=1, eval_every=1)
        train, dev = examples[:2], examples[2:5]
        make_trainer("sft", fresh(), processor, train, dev, cfg, tmp_path / str(packing), 0).train()
        row, evaluated = read_jsonl(tmp_path / str(packing) / "metrics.jsonl")
        got = (
            row["sft/padding"],
            row["sft/row_tokens"],
            evaluated["eval_sft/padding"],
            evaluated["eval_sft/row_tokens"],
        )
        assert got == pytest.approx(expected)
    assert want[False][2] > 0  # there was something to save
