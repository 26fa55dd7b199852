"""What stands in for pretraining is made once, of all weights, from captions without sentiment."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.load import LoraSettings, ModelConfig, Perception, base_checkpoint, load_model
from runtime.errors import StageError
from sft import perception
from sft.perception import base_model
from sft.train import Example

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, targets=r".*language_model.*\.(q_proj|v_proj)")


@pytest.fixture(scope="module")
def cfg(tiny) -> ModelConfig:
    """Two steps on four clips; a later stage would train an adapter on frozen towers."""
    brief = Perception(clips=4, steps=2, batch=2, lr=1e-3)
    return replace(tiny[0], perception=brief, lora=LORA, freeze_towers=True)


@pytest.fixture(scope="module")
def built(cfg: ModelConfig) -> Path:
    return Path(base_model(cfg))


def test_without_it_the_base_is_the_random_checkpoint(cfg: ModelConfig) -> None:
    assert base_model(replace(cfg, perception=None)) == base_checkpoint(cfg)


def test_all_weights_are_trained_whatever_a_later_stage_trains(cfg: ModelConfig, built: Path) -> None:
    plain = replace(cfg, lora=None)
    assert not (built / "adapter_config.json").exists()
    before, after = (load_model(plain, path, train=False).state_dict() for path in (base_checkpoint(cfg), built))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for part in ("audio_tower.layers.0", "visual.blocks.0", "language_model.layers.0", "lm_head"):
        assert any(part in name for name in moved), part


def test_it_is_made_once_and_does_not_depend_on_what_a_later_stage_trains(cfg: ModelConfig, built: Path) -> None:
    weights = built / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert base_model(cfg) == built and base_model(replace(cfg, lora=None, freeze_towers=False)) == built
    assert weights.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"fps": 2.0},
        {"max_frames": 4},
        {"video_size": {"shortest_edge": 784, "longest_edge": 3136}},
        {"audio_in_video": False},
        {"perception": Perception(clips=4, steps=1, batch=2, lr=1e-3)},
    ],
)
def test_other_settings_get_a_base_of_their_own(cfg: ModelConfig, built: Path, changes: dict, monkeypatch) -> None:
    monkeypatch.setattr(perception, "run_stage", lambda folder, made_from, inputs, work: None)  # where, not what
    assert Path(base_model(replace(cfg, **changes))) != built
    assert base_model(cfg) == built


def test_several_ranks_do_not_wait_for_each_other_to_make_it(cfg: ModelConfig, built: Path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert base_model(cfg) == built
    with pytest.raises(
        StageError, match=r"has not been taught to perceive yet .* run `python -m sft.perception` with the same"
    ):
        base_model(replace(cfg, seed=2))


def test_captions_name_cues_and_never_a_sentiment(
    cfg: ModelConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Example] = []

    def look(name, model, processor, examples, *rest) -> dict:
        seen.extend(examples)
        return {}

    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path))
    monkeypatch.setattr(perception, "train", look)
    base_model(cfg)
    assert len(seen) == 4
    for example in seen:
        said = [pair.split() for pair in example.answer.split(", ")]
        assert [name for name, _ in said] == ["words", "voice", "face"]
        assert {way for _, way in said} <= {"up", "flat", "down"}
        (turn,) = example.messages
        assert [part["type"] for part in turn["content"]] == ["video", "audio", "text", "text"]
        assert turn["content"][-1]["text"] == perception.QUESTION
