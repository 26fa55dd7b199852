"""The gate trips when the trainer is deaf, blind, or not the policy that sampled, and stays quiet when all is well."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import ArbitraryRemarks, remarks

from models.processor import Encoded, Processor
from rl import parity
from rl.trainer import HintGRPOTrainer
from runtime.errors import ParityError
from tasks.base import Dataset
from tasks.record import Media


def loss_of(trainer: HintGRPOTrainer, damage=lambda: None) -> torch.Tensor:
    """The loss of the first batch, with damage done between sampling and scoring."""
    trainer.policy.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    damage()
    return trainer.compute_loss(trainer.policy, inputs)


class Forgetful(Processor):
    """Forgets parts of a batch when the trainer scores (with `scoring` on), as stock TRL does."""

    def __init__(self, processor: Processor, change) -> None:
        super().__init__(processor.processor, processor.settings)
        self._cache = processor._cache  # encoded once for all tests
        self.eos_ids = processor.eos_ids
        self.change = change
        self.scoring = False

    def collate(self, prompts, device="cpu"):
        batch = super().collate(prompts, device)
        return self.change(batch) if self.scoring else batch


def without(*names):
    return lambda batch: {name: value for name, value in batch.items() if name not in names}


@pytest.fixture
def forgetful_loss(omni_trainer, brief):
    """The loss of a trainer whose scoring path, and no other, sees a changed batch."""

    def run(change, task=None) -> torch.Tensor:
        processor = Forgetful(brief, change)
        trainer = omni_trainer(processor=processor, task=task)
        return loss_of(trainer, lambda: setattr(processor, "scoring", True))

    return run


def test_a_healthy_trainer_passes_and_its_readings_are_logged(omni_trainer):
    trainer = omni_trainer()
    assert loss_of(trainer).isfinite()
    metrics = trainer._metrics["train"]
    assert 0 <= metrics["parity/logp_mean"][0] < 1e-5
    for modality in ("audio", "video", "text"):
        assert math.isfinite(metrics[f"parity/{modality}_drop"][0])
        assert trainer.parity[f"{modality}_change"] > 100 * parity.DEAF
    assert trainer.parity["logp_max"] >= trainer.parity["logp_mean"]


def test_the_gate_is_asked_at_step_zero_and_every_few_steps(text_trainer):
    trainer = text_trainer(max_steps=5, parity_every=2)
    asked = []
    check = trainer._check_modalities

    def spy(*args):
        asked.append(trainer.state.global_step)
        check(*args)

    trainer._check_modalities = spy
    trainer.train()
    assert asked == [0, 2, 4]


DEAF = r"step 0: silencing audio changes no log-probability .*audio does not reach the loss; check that input_features"


def test_a_trainer_as_deaf_as_stock_trl_is_named(forgetful_loss, arbitrary_studio):
    listening = copy.copy(arbitrary_studio)
    listening.views = ("audio", "text")
    with pytest.raises(ParityError, match=DEAF):  # the placeholders stay, the features go
        forgetful_loss(without("input_features", "feature_attention_mask"), listening)


def test_a_trainer_that_is_deaf_to_films_is_named(forgetful_loss):
    with pytest.raises(ParityError, match=DEAF):
        forgetful_loss(without("input_features"))


def test_a_blind_trainer_is_named(forgetful_loss):
    message = (
        r"silencing video changes no log-probability .*video does not reach the loss; check that pixel_values_videos"
    )
    with pytest.raises(ParityError, match=message):
        forgetful_loss(without("pixel_values_videos"))


def test_a_chat_template_that_drops_the_words_is_named(text_trainer, words):
    tokenizer = copy.deepcopy(words.tokenizer)
    # made for content in parts: a text model is given strings, whose letters have no text of their own
    tokenizer.chat_template = "{% for t in messages %}{% for p in t.content %}{{ p.text }}{% endfor %}> {% endfor %}"
    trainer = text_trainer(processor=Processor(tokenizer, words.settings))
    with pytest.raises(ParityError, match=r"silencing text changes no .*; check task.views and the chat template"):
        loss_of(trainer)


def test_a_trainer_that_forgets_where_the_sound_belongs_fails_by_its_log_probabilities(forgetful_loss):
    message = (
        r"log-probabilities of engine and trainer differ by .* on average .*use_audio_in_video given to one side only"
    )
    with pytest.raises(ParityError, match=message):
        forgetful_loss(lambda batch: batch | {"use_audio_in_video": False})


def test_weights_that_the_engine_did_not_have_are_noticed(omni_trainer):
    trainer = omni_trainer()

    @torch.no_grad()
    def nudge():
        for p in trainer.policy.parameters():
            p += 0.01 * torch.randn_like(p)

    with pytest.raises(
        ParityError, match=r"allowed is rl.parity_tolerance=1e-04; likely causes: weights that never reached"
    ):
        loss_of(trainer, nudge)


def test_nan_trips_the_gate(omni_trainer):
    trainer = omni_trainer()

    @torch.no_grad()
    def spoil():
        trainer.model.get_output_embeddings().weight[0] = float("nan")

    with pytest.raises(ParityError, match="log-probabilities of engine and trainer differ by nan"):
        loss_of(trainer, spoil)


def test_later_steps_without_a_check_do_not_look(omni_trainer):
    trainer = omni_trainer(parity_every=10)
    trainer.state.global_step = 5

    @torch.no_grad()
    def nudge():
        for p in trainer.policy.parameters():
            p += 0.01 * torch.randn_like(p)

    loss_of(trainer, nudge)
    assert trainer.parity == {}


def test_log_probabilities_are_compared_on_sampled_tokens_alone():
    trainer = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -9.0]])
    engine = torch.tensor([[float("nan"), -2.5, -3.0], [-1.0, -1.3, 0.0]])  # a hint token, padding
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = parity.compare(trainer, engine, mask)
    # differences 0.5, 0, 0, 0.3
    assert (found.largest, found.mean) == (pytest.approx(0.5), pytest.approx(0.2))
    parity.check_logps(found, 0.21, 3)
    with pytest.raises(ParityError, match=r"step 3: .*differ by 2.00e-01 on average \(5.00e-01 at most\)"):
        parity.check_logps(found, 0.19, 3)


def part(kind, **more):
    return {"type": kind, **more}


@pytest.mark.parametrize(
    ("parts", "in_video", "expected"),
    [
        ([part("video"), part("text", view="text", text="text: hi\n")], True, ["audio", "text", "video"]),
        ([part("video"), part("text", view="text", text="text: hi\n")], False, ["text", "video"]),
        ([part("audio"), part("text", text="How?")], False, ["audio"]),  # the question is no view
        ([part("image")], True, ["video"]),
        ([part("audio"), part("text", view="text", text="text: \n")], True, ["audio"]),  # nothing was said
    ],
)
def test_what_a_prompt_shows(parts, in_video, expected):
    assert parity.present([{"role": "user", "content": parts}], in_video) == expected


def test_films_without_sound_make_nobody_deaf(tiny, studio, studio_data: Dataset, tmp_path: Path):
    _, _, processor = tiny
    record = studio_data.split("train")[0]
    film = record.views["video"]
    assert isinstance(film, Media)
    silence(studio_data.root / film.path, tmp_path / "silent.mp4")
    silent = replace(record, views={"video": Media("video", "silent.mp4"), "text": record.views["text"]})

    def size(prompts: Sequence[Encoded]) -> torch.Tensor:
        return torch.tensor([sum(t.double().abs().sum() for t in p.media.values()) + p.ids.sum() for p in prompts])

    assert set(parity.silenced_drops(studio, [silent], tmp_path, processor, size)) == {"video", "text"}
    assert set(parity.silenced_drops(studio, [record], studio_data.root, processor, size)) == {"audio", "video", "text"}


def silence(film: Path, to: Path) -> None:
    """The frames of a film without its sound track."""
    import av

    with av.open(str(film)) as source, av.open(str(to), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


def test_text_prompts_are_silenced_through_the_scoring_path(words):
    seen = []

    def mean_logp(prompts: Sequence[Encoded]) -> torch.Tensor:
        seen.append([len(p.ids) for p in prompts])
        return torch.tensor([-0.1 * len(p.ids) for p in prompts])

    drops = parity.silenced_drops(ArbitraryRemarks(), remarks()[:2], Path("."), words, mean_logp)
    full, silenced = seen
    lost = [a - b for a, b in zip(full, silenced, strict=True)]
    assert min(lost) > 0
    assert drops == {"text": (pytest.approx(-0.05 * sum(lost)), pytest.approx(0.05 * sum(lost)))}
