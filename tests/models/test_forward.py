"""What one forward of the omni model depends on and what not; this is what processor and engine build on."""

from collections.abc import Callable

import pytest
import torch
from cases import Case
from transformers import PreTrainedModel

from models.processor import Encoded, Processor


@torch.no_grad()
def logits(model: PreTrainedModel, batch: dict) -> torch.Tensor:
    return model(**batch).logits


def mixed(case: Callable[[str], Case]) -> tuple[Case, list[Encoded]]:
    """A video with sound, a sound, and text alone."""
    this, sound, text = case("video with sound"), case("audio"), case("text")
    return this, [this.prompts[0], sound.prompts[1], text.prompts[1]]


def test_three_kinds_of_prompts_in_a_batch_give_what_each_gives_alone(case: Callable[[str], Case]) -> None:
    this, prompts = mixed(case)
    together = logits(this.model, this.processor.collate(prompts))
    for row, prompt in zip(together, prompts, strict=True):
        alone = logits(this.model, this.processor.collate([prompt]))[0]
        torch.testing.assert_close(row[-len(prompt.ids) :], alone, rtol=0, atol=1e-4)
        assert alone.std() > 0.05  # there is something to compare


@pytest.mark.parametrize("kind", ["video with sound", "silent video", "audio", "text"])
def test_padding_on_the_left_is_harmless(case: Callable[[str], Case], kind: str) -> None:
    this = case(kind)
    batch = this.processor.collate([this.prompts[0]])
    padded = dict(batch)
    padded["input_ids"] = torch.nn.functional.pad(batch["input_ids"], (9, 0), value=this.processor.pad_id)
    padded["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (9, 0))
    torch.testing.assert_close(logits(this.model, padded)[:, 9:], logits(this.model, batch), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("video with sound", "input_features"),
        ("video with sound", "pixel_values_videos"),
        ("silent video", "pixel_values_videos"),
        ("audio", "input_features"),
    ],
)
def test_the_last_token_hears_and_sees(case: Callable[[str], Case], kind: str, name: str) -> None:
    this = case(kind)
    batch = this.processor.collate([this.prompts[0]])
    other = batch | {name: batch[name].flip(-1)}
    assert (logits(this.model, batch) - logits(this.model, other))[0, -1].abs().max() > 1e-4


def test_forgetting_use_audio_in_video_raises_nothing_and_changes_the_logits(case: Callable[[str], Case]) -> None:
    this = case("video with sound")
    batch = this.processor.collate([this.prompts[0]])
    forgotten = {name: value for name, value in batch.items() if name != "use_audio_in_video"}
    assert batch["use_audio_in_video"] is True
    assert (logits(this.model, batch) - logits(this.model, forgotten)).abs().max() > 1e-3


def test_the_time_between_frames_matters(case: Callable[[str], Case]) -> None:
    this = case("silent video")
    batch = this.processor.collate([this.prompts[0]])
    slower = batch | {"video_second_per_grid": 4 * batch["video_second_per_grid"]}
    assert (logits(this.model, batch) - logits(this.model, slower)).abs().max() > 1e-3


def test_silencing_a_modality_changes_the_logits(tiny, fresh: PreTrainedModel, studio, studio_data) -> None:
    processor: Processor = tiny[2]
    messages = studio.prompt(studio_data.records[0], studio_data.root)
    full = logits(fresh, processor.collate([processor.encode(messages)]))[0, -1]
    for modality in ("audio", "video", "text"):
        blank = logits(fresh, processor.collate([processor.encode(messages, frozenset({modality}))]))[0, -1]
        assert (full - blank).abs().max() > 1e-4, modality
