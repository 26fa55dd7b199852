"""The supervised stage: what it writes, and that an interruption leaves no trace in the weights."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.load import LoraSettings
from models.processor import Processor
from models.shared_prefix import backbone_of
from runtime.errors import ConfigError, StageError
from runtime.files import read_jsonl
from runtime.signals import SIGNALS
from sft.config import SFTConfig
from sft.train import Example, train

Run = Callable[..., dict]
LORA = LoraSettings(r=4, alpha=8, dropout=0.0, targets=r".*language_model.*\.(q_proj|v_proj)")


class Killed(Exception):
    """Stands for a kill -9: nothing below catches it."""


@pytest.fixture(scope="module", params=["whole model", "accumulated", "adapter"])
def run(request, fresh, processor: Processor, examples: list[Example], settings) -> Run:
    """Trains into a folder; `at_forward` is called with the number of each forward in training mode, from 1."""
    changes = {
        "whole model": {"max_steps": 5},  # five examples, two a batch: epochs of three steps
        "accumulated": {"accumulation": 2, "max_steps": 3},  # two a step: of three batches, and the last step of one
        "adapter": {"max_steps": 5},
    }[request.param]
    kind = {"lora": LORA} if request.param == "adapter" else {}

    def run(folder: Path, at_forward: Callable[[int], None] = lambda number: None) -> dict:
        model = fresh(**kind)
        count = 0

        def note(module: torch.nn.Module, args: tuple) -> None:
            nonlocal count
            count += module.training
            at_forward(count)

        backbone_of(model).register_forward_pre_hook(note)
        return train("sft", model, processor, examples[:5], examples[5:], settings(**changes), folder, 3)

    return run


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Gives the signals back: a training that is killed in this very process cannot."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "final").glob("*.safetensors")
    return load_file(file)


def rows(folder: Path) -> list[dict]:
    # TRL counts `num_tokens` from the moment that training goes on
    varying = ("runtime", "per_second", "num_tokens")
    return [{k: v for k, v in row.items() if not k.endswith(varying)} for row in read_jsonl(folder / "metrics.jsonl")]


def assert_same(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert rows(one) == rows(other)


def at(forward: int, action: Callable[[], None]) -> Callable[[int], None]:
    return lambda number: action() if number == forward else None


def die() -> None:
    raise Killed


@pytest.mark.parametrize("forward", [3, 5])  # in the first epoch, and in the second
def test_a_killed_training_goes_on_to_the_same_weights_bit_by_bit(
    run: Run, whole, tmp_path: Path, forward: int
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, at(forward, die))
    assert not (tmp_path / "final").exists()
    assert run(tmp_path) == whole[1]
    assert_same(tmp_path, whole[0])


def test_a_training_killed_after_its_last_checkpoint_is_not_trained_any_further(
    run: Run, whole, tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "final")
    assert run(tmp_path / "killed", lambda number: die()) == whole[1]
    assert_same(tmp_path / "killed", whole[0])


def test_a_signal_stops_after_the_step_and_the_next_call_finishes(run: Run, whole, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    said = "sft: stopped by a signal at step [12]; call the same command to go on"
    with pytest.raises(StageError, match=said):
        run(tmp_path, at(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) == before and not (tmp_path / "final").exists()
    run(tmp_path)
    assert_same(tmp_path, whole[0])


def test_a_torn_checkpoint_is_skipped_and_removed(run: Run, whole, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, at(5, die))
    _, newest = sorted((tmp_path / "checkpoints").glob("checkpoint-*"))
    (newest / "trainer_state.json").write_text('{"global_step": ')  # killed while it was saved
    (newest / "mark").write_text("")
    run(tmp_path)
    assert_same(tmp_path, whole[0])
    assert not list(tmp_path.glob("checkpoints/*/mark"))


def test_training_fits_the_examples(
    fresh, processor: Processor, examples: list[Example], settings, tmp_path: Path
) -> None:
    result = train("sft", fresh(), processor, examples[:2], [], settings(max_steps=15, save_every=15), tmp_path, 0)
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert len(losses) == 15 and losses[-1] < 0.5 * losses[0] and result["loss"] == losses[-1]
    assert result["examples"] == 2 and result["steps"] == 15 and result["eval_loss"] is None


def test_each_prompt_is_encoded_once_however_often_it_is_seen(fresh, processor, examples, settings, tmp_path) -> None:
    own = Processor(processor.processor, processor.settings)
    train("sft", fresh(), own, examples[:3], [], settings(), tmp_path, 0)
    assert own.encodings == 3


def test_held_out_examples_are_measured_and_not_learnt(fresh, processor, examples, settings, tmp_path) -> None:
    result = train("sft", fresh(), processor, examples[:2], examples[2:4], settings(), tmp_path / "a", 0)
    other = train("sft", fresh(), processor, examples[:2], examples[4:6], settings(), tmp_path / "b", 0)
    left, right = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert result["loss"] == other["loss"] and result["eval_loss"] != other["eval_loss"]
    assert [row["step"] for row in rows(tmp_path / "a") if "eval_loss" in row] == [2, 4]


def test_without_an_example_there_is_nothing_to_train_on(fresh, processor, examples, settings, tmp_path) -> None:
    said = "sft: no example to train on; look at the rejections of data_synth, or raise its limits"
    with pytest.raises(StageError, match=said):
        train("sft", fresh(), processor, [], examples, settings(), tmp_path, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_steps": 0}, r"sft\.max_steps: 1 or more; got 0; mend the config"),
        ({"save_every": -1}, r"sft\.save_every: 1 or more; got -1; mend the config"),
        (
            {"lr": 0.0},
            r"sft: lr > 0, warmup and holdout in \[0, 1\); got lr=0\.0 warmup=0\.25 holdout=0\.0; mend the config",
        ),
        (
            {"holdout": 1.0},
            r"sft: lr > 0, warmup and holdout in \[0, 1\); got lr=0\.01 warmup=0\.25 holdout=1\.0; mend",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Callable[..., SFTConfig], changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(**changes)
