"""The gate trips when the trainer is deaf, blind, or not the policy that sampled, and stays quiet when all is well."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType

import pytest
import torch
from toys import ArbitraryRemarks, remarks
from transformers import TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from models.engine.hf import HFEngine
from models.fingerprint import Clip, Fingerprint, Layout
from models.load import base_checkpoint, load_model
from models.processor import Encoded, Processor
from models.shared_prefix import backbone_of
from rl import parity
from rl.trainer import HintGRPOTrainer
from runtime.errors import ParityError
from tasks.base import Dataset
from tasks.record import Media

Batch = dict[str, torch.Tensor]


def loss_of(trainer: HintGRPOTrainer, damage=lambda: None) -> torch.Tensor:
    """The loss of the first batch, with damage done between sampling and scoring."""
    trainer.policy.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    damage()
    return trainer.compute_loss(trainer.policy, inputs)


class Forgetful(Processor):
    """Changes a batch, or forgets parts of it, on one side: before `scoring` or with it."""

    def __init__(self, processor: Processor, sampled: Callable, scored: Callable) -> None:
        super().__init__(processor.processor, processor.settings)
        self.encode = processor.encode  # once for all tests
        self.eos_ids = processor.eos_ids
        self.sampled, self.scored = sampled, scored
        self.scoring = False

    def collate(self, prompts, device="cpu"):
        batch = super().collate(prompts, device)
        return self.scored(batch) if self.scoring else self.sampled(batch)


def whole(batch: Batch) -> Batch:
    return batch


def without(*names: str) -> Callable[[Batch], Batch]:
    return lambda batch: {name: value for name, value in batch.items() if name not in names}


deaf = without("input_features", "feature_attention_mask")
deaf_to_films = without("input_features")
blind = without("pixel_values_videos")


def silent_films(batch: Batch) -> Batch:
    return batch | {"use_audio_in_video": False}


def one_mel_frame_less(batch: Batch) -> Batch:
    """Sounds of an even number of frames end one frame earlier, and take as many tokens as before."""
    mask = batch["feature_attention_mask"].clone()
    frames = mask.sum(1)
    even = (frames % 2 == 0).nonzero()[:, 0]
    assert len(even)
    mask[even, frames[even] - 1] = 0
    return batch | {"feature_attention_mask": mask}


def one_frame_altered(batch: Batch) -> Batch:
    """The last frames of each film are a shade lighter."""
    films = batch["pixel_values_videos"].split(batch["video_grid_thw"].prod(1).tolist())
    lighter = [film + 0.01 * (torch.arange(len(film)) >= len(film) - len(film) // 4)[:, None] for film in films]
    return batch | {"pixel_values_videos": torch.cat(lighter)}


def other_timing(batch: Batch) -> Batch:
    return batch | {"video_second_per_grid": 1.5 * batch["video_second_per_grid"]}


@pytest.fixture
def damaged_loss(omni_trainer, brief, arbitrary_studio):
    """The loss of a trainer, one side of which sees a changed batch."""

    def run(sampled=whole, scored=whole, views=("video", "audio", "text"), **settings) -> torch.Tensor:
        processor = Forgetful(brief, sampled, scored)
        task = copy.copy(arbitrary_studio)
        task.views = views
        trainer = omni_trainer(processor=processor, task=task, **settings)
        return loss_of(trainer, lambda: setattr(processor, "scoring", True))

    return run


def test_a_healthy_trainer_passes_and_its_readings_are_logged(omni_trainer):
    trainer = omni_trainer()
    assert loss_of(trainer).isfinite()
    metrics = trainer.counted()
    assert 0 <= metrics["parity/logp_mean"] < 1e-5
    for modality in ("audio", "video", "text"):
        assert math.isfinite(metrics[f"parity/{modality}_drop"])
        assert trainer.parity[f"{modality}_change"] > 100 * parity.DEAF
    assert trainer.parity["logp_max"] >= trainer.parity["logp_mean"]


def test_the_gate_is_asked_at_step_zero_and_every_few_steps(text_trainer):
    trainer = text_trainer(max_steps=5, parity_every=2)
    asked = []
    check = trainer._silenced_drops

    def spy(*args):
        asked.append(trainer.state.global_step)
        return check(*args)

    trainer._silenced_drops = spy
    trainer.train()
    assert asked == [0, 2, 4]


def test_two_iterations_over_one_batch_are_checked_where_the_completions_are_fresh(text_trainer):
    trainer = text_trainer(max_steps=8, parity_every=3, parity_tolerance=1e-5, lr=1e-2)
    trainer.num_iterations = 2
    asked = []
    check = trainer._silenced_drops

    def spy(*args):
        asked.append(trainer.state.global_step)
        return check(*args)

    trainer._silenced_drops = spy
    trainer.train()  # in its second iteration the policy is not the one that sampled, and rightly so
    assert asked == [0, 4, 6]


# The loss sees other media than the engine


class FromStep(TrainerCallback):
    """Scores as stock TRL does from a step on: rows of prompt and completion, in which placeholders stand for nothing."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.trainer: HintGRPOTrainer | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.first:
            score = MethodType(GRPOTrainer._get_per_token_logps_and_entropies, self.trainer)
            self.trainer._get_per_token_logps_and_entropies = score


@pytest.mark.parametrize(
    ("views", "modality", "amount"),
    [
        (("audio", "text"), "audio", "mel frames"),
        (("video", "text"), "audio", "mel frames"),  # films with sound: the first that is missed
    ],
)
@pytest.mark.parametrize(("first", "noticed"), [(0, 0), (1, 2)])
def test_stock_trls_scoring_is_named_deaf_at_the_next_check(
    omni_trainer, arbitrary_studio, views, modality, amount, first, noticed
):
    stock, task = FromStep(first), copy.copy(arbitrary_studio)
    task.views = views
    stock.trainer = trainer = omni_trainer(task=task, callbacks=[stock], parity_every=2, max_steps=4)
    message = (
        rf"step {noticed}: engine and loss saw different {modality}: the engine 2 clips of [1-9]\d* {amount}, the loss "
        rf"0 clips of 0 {amount}, first in record '.*'; likely cause: media missing from the loss; check that input_features"
    )
    with pytest.raises(ParityError, match=message):
        trainer.train()
    assert trainer.state.global_step == noticed


@pytest.fixture
def silent_processor(brief):
    """One for which films have no sound."""
    processor = Processor(brief.processor, replace(brief.settings, audio_in_video=False))
    processor.eos_ids = brief.eos_ids
    return processor


def test_stock_trls_scoring_of_silent_films_is_named_blind(omni_trainer, arbitrary_studio, silent_processor):
    stock, task = FromStep(0), copy.copy(arbitrary_studio)
    task.views = ("video", "text")
    stock.trainer = trainer = omni_trainer(task=task, processor=silent_processor, callbacks=[stock])
    message = (
        r"step 0: engine and loss saw different video: the engine 2 clips of 1\d\d patches, the loss 0 clips of 0 patches, .*"
        "media missing from the loss; check that pixel_values_videos and video_grid_thw reach the forward pass"
    )
    with pytest.raises(ParityError, match=message):
        trainer.train()


DIFFERENT = "step 0: engine and loss saw different "


@pytest.mark.parametrize(
    ("side", "change", "views", "message"),
    [
        ("scored", deaf, ("audio", "text"), "audio: .* the loss 0 clips of 0 mel frames.*media missing from the loss"),
        ("scored", deaf_to_films, ("video", "text"), "audio: .* the loss 0 clips.*media missing from the loss"),
        ("scored", blind, ("video", "text"), "video: .* the loss 0 clips of 0 patches.*media missing from the loss"),
        (
            "sampled",
            deaf_to_films,
            ("video",),
            "audio: the engine 0 clips of 0 mel frames.*media missing from the engine",
        ),
        ("sampled", blind, ("video",), "video: the engine 0 clips of 0 patches.*media missing from the engine"),
        (
            "scored",
            one_mel_frame_less,
            ("audio",),
            r"audio: the engine 2 clips of (\d+) mel frames, the loss 2 clips of (?!\1)\d+ mel frames, first in record '.*'; "
            "likely cause: other frames or size on one side; check that both encode with the same model.fps, max_frames",
        ),
        (
            "scored",
            one_frame_altered,
            ("video",),
            r"video: the engine 2 clips of (\d+) patches, the loss 2 clips of \1 patches, first in record '.*'; likely cause: "
            "other values of the same size",
        ),
    ],
)
def test_media_that_differ_between_engine_and_loss_are_named(damaged_loss, side, change, views, message):
    with pytest.raises(ParityError, match=DIFFERENT + message):
        damaged_loss(**{side: change}, views=views)


@pytest.mark.parametrize(("side", "flags"), [("scored", ("True", "False")), ("sampled", ("False", "True"))])
def test_use_audio_in_video_on_one_side_only_is_named(damaged_loss, side, flags):
    message = (
        f"step 0: audio lies elsewhere in the prompts of the loss: the engine was given use_audio_in_video={flags[0]}, the "
        rf"loss {flags[1]}; hand both sides the flag of the prompt \(`Encoded.sounding`\)"
    )
    with pytest.raises(ParityError, match=message):
        damaged_loss(**{side: silent_films})


def test_films_that_run_at_another_speed_are_named(damaged_loss):
    message = (
        r"saw the same video at different seconds per frame: the engine 0\.\d+, the loss \d\.\d+; check that "
        "video_second_per_grid reaches the forward pass, and model.fps"
    )
    with pytest.raises(ParityError, match=message):
        damaged_loss(scored=other_timing)


@pytest.mark.parametrize(("change", "view"), [(one_mel_frame_less, "audio"), (one_frame_altered, "video")])
def test_such_small_differences_pass_the_log_probabilities(damaged_loss, monkeypatch, change, view):
    monkeypatch.setattr(parity, "check_media", lambda *args: None)
    assert damaged_loss(scored=change, views=(view,), parity_tolerance=1e-3).isfinite()


def test_it_does_not_matter_how_often_or_in_what_order_clips_were_seen():
    a, b, c = Clip(3, 10), Clip(4, 11), Clip(3, 12)

    def print_of(*clips: Clip) -> Fingerprint:
        return Fingerprint({"audio": clips, "image": (), "video": ()}, ())

    parity.check_media([print_of(a, b), print_of(c)], print_of(c, c, b, a, b), ["r", "s"], 0)
    with pytest.raises(
        ParityError, match=r"the engine 3 clips of 10 mel frames, the loss 2 clips of 7 mel .* record 's'"
    ):
        parity.check_media([print_of(a, b), print_of(c)], print_of(a, b), ["r", "s"], 0)


def test_an_image_that_is_missing_is_named():
    one = Fingerprint({"audio": (), "image": (Clip(16, 1),), "video": ()}, ())
    none = Fingerprint({"audio": (), "image": (), "video": ()}, ())
    message = (
        "different image: the engine 1 clips of 16 patches, the loss 0 clips .*; check that pixel_values and image_grid"
    )
    with pytest.raises(ParityError, match=message):
        parity.check_media([one], none, ["r"], 3)


def test_one_film_among_silent_ones_cannot_hide():
    def film(flag: bool) -> Fingerprint:
        return Fingerprint({"audio": (), "image": (), "video": ()}, (Layout(flag, 0.5),))

    with pytest.raises(ParityError, match="given use_audio_in_video=False/True, the loss True"):
        parity.check_media([film(True), film(False)], film(True), ["r", "s"], 0)


# Both sides see the same, and the model does not care

ANYWAY = [
    (deaf, ("audio", "text"), "audio", "input_features and use_audio_in_video"),
    (deaf_to_films, ("video", "text"), "audio", "input_features and use_audio_in_video"),
    (blind, ("video", "text"), "video", "pixel_values_videos"),
]


@pytest.mark.parametrize(("change", "views", "modality", "names"), ANYWAY)
def test_a_modality_that_is_missing_on_both_sides_is_named(damaged_loss, change, views, modality, names):
    message = (
        rf"step 0: silencing {modality} changes no log-probability of the trainer \(by 0.0e\+00\): {modality} does not "
        f"reach the loss; check that {names}"
    )
    with pytest.raises(ParityError, match=message):
        damaged_loss(change, change, views)


def test_a_tower_whose_output_is_lost_is_named(omni_trainer):
    trainer = omni_trainer()
    backbone_of(trainer.policy).audio_tower.ln_post.weight.data.zero_()  # a checkpoint with a tensor missing
    with pytest.raises(ParityError, match="silencing audio changes no log-probability"):
        loss_of(trainer)


def test_a_chat_template_that_drops_the_words_is_named(text_trainer, words):
    tokenizer = copy.deepcopy(words.tokenizer)
    # made for content in parts: a text model is given strings, whose letters have no text of their own
    tokenizer.chat_template = "{% for t in messages %}{% for p in t.content %}{{ p.text }}{% endfor %}> {% endfor %}"
    trainer = text_trainer(processor=Processor(tokenizer, words.settings))
    with pytest.raises(ParityError, match=r"silencing text changes no .*; check task.views and the chat template"):
        loss_of(trainer)


# The policy is not the one that sampled


@pytest.fixture
def stale_engine(tiny, monkeypatch) -> None:
    """Weights never reach the engine: it samples from the policy of step 0 for ever."""
    cfg, _, _ = tiny
    start = HFEngine.__init__
    model = load_model(cfg, base_checkpoint(cfg), train=False).eval()
    monkeypatch.setattr(HFEngine, "__init__", lambda self, _, processor: start(self, model, processor))
    monkeypatch.setattr(HFEngine, "follow", lambda *_: None)


@pytest.mark.parametrize("every", [1, 3])
def test_a_weight_sync_that_never_arrives_is_noticed_at_the_next_check(omni_trainer, stale_engine, every):
    # learning rate and tolerance of conf/rl/default.yaml
    trainer = omni_trainer(lr=5e-4, parity_tolerance=1e-3, parity_every=every, max_steps=5)
    message = (
        rf"step {every}: log-probabilities of engine and trainer differ by .* on average .*; likely causes: weights that "
        "never reached the engine"
    )
    with pytest.raises(ParityError, match=message):
        trainer.train()
    assert trainer.state.global_step == every


def test_weights_that_changed_after_sampling_are_noticed(omni_trainer):
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
    words = replace(
        record, views={"text": record.views["text"]}
    )  # beside which a film is neither overlooked nor accused
    mixed = parity.silenced_drops(studio, [words, record], studio_data.root, processor, size)
    assert set(mixed) == {"audio", "video", "text"}
    alone = parity.silenced_drops(studio, [record], studio_data.root, processor, size)
    assert mixed["video"] == alone["video"]
    assert set(parity.silenced_drops(studio, [words, silent], tmp_path, processor, size)) == {"video", "text"}


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
