"""A training that was killed or stopped goes on to the weights of one that never was, bit for bit."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import ArbitraryRemarks, brief, hint_config, remarks, rl_config, weights

from models.load import base_checkpoint, load_model
from rl.train import train
from runtime.errors import StageError
from runtime.files import read_jsonl

STEPS = 6
Run = Callable[..., None]


@pytest.fixture(params=["accumulated", "adapter", "omni"])
def run(request, text_model, lora, words, tiny, studio_data, arbitrary_studio) -> Run:
    """Trains six steps into a folder; `at_step` is called after each, where the dev records are measured."""
    more = {}
    task, records, root, processor, cfg = ArbitraryRemarks(), remarks(), Path("."), words, text_model
    task.hard = frozenset(["r-0", "r-1", "r-2"])
    match request.param:
        case "omni":  # four clips: epochs of two steps
            task, records, root = arbitrary_studio, studio_data.split("train")[:4], studio_data.root
            cfg, _, processor = tiny
        case "adapter":
            cfg, more = replace(cfg, lora=lora), {"beta": 0.1}
        case "accumulated":
            more = {"beta": 0.1, "accumulation": 2, "schedule": "cosine", "warmup": 0.3}
    processor = brief(processor)

    def run(folder: Path, at_step: Callable[[int], None] = lambda step: None) -> None:
        torch.manual_seed(7)  # as `seed_everything` does in the stage
        model = load_model(cfg, base_checkpoint(cfg), train=True)
        settings = rl_config(max_steps=STEPS, save_every=2, parity_every=2, eval_every=1, lr=1e-2, **more)

        def measure(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
            at_step(1 + len(read_jsonl(folder / "metrics.jsonl")))  # the row of this step is not written yet
            return {"norm": sum(p.norm().item() for p in policy.parameters())}

        train(model, processor, task, records, root, settings, hint_config(), weights(), {}, folder, 7, measure)

    return run


def result(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict], dict[str, list]]:
    """Final weights, metrics without clocks, and rollouts."""
    (file,) = (folder / "final").glob("*.safetensors")
    # a process that goes on times itself anew, and checks its scoring anew
    clocks = ("speed/", "step_time", "scoring/")
    rows = [
        {name: value for name, value in row.items() if not name.startswith(clocks)}
        for row in read_jsonl(folder / "metrics.jsonl")
    ]
    rollouts = {p.name: read_jsonl(p) for p in sorted((folder / "rollouts").iterdir())}
    return load_file(file), rows, rollouts


class Killed(BaseException):
    """As abrupt as a kill can be inside one process: nothing catches it, nothing is saved."""


def kill_at(last: int) -> Callable[[int], None]:
    def at_step(step: int) -> None:
        if step == last:
            raise Killed

    return at_step


def terminate_at(last: int) -> Callable[[int], None]:
    def at_step(step: int) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)

    return at_step


def test_a_broken_off_run_ends_with_the_weights_of_an_unbroken_one(run: Run, tmp_path: Path):
    run(tmp_path / "whole")
    weights_, rows, rollouts = result(tmp_path / "whole")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert len(rollouts) == STEPS
    assert rows[3]["epoch"] > 1 or rows[4]["epoch"] > 2  # the kill falls into a later epoch
    assert len({row["dev/norm"] for row in rows}) == STEPS  # the weights move

    with pytest.raises(Killed):  # past a checkpoint: steps 5 and 6 are made again
        run(tmp_path / "killed", kill_at(6))
    assert [row["step"] for row in read_jsonl(tmp_path / "killed" / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    run(tmp_path / "killed")

    with pytest.raises(StageError, match="rl: stopped by a signal at step 3; call the same command to go on"):
        run(tmp_path / "stopped", terminate_at(3))
    run(tmp_path / "stopped")

    run(tmp_path / "trained")  # and killed after the last checkpoint, before the policy was written
    shutil.rmtree(tmp_path / "trained" / "final")
    run(tmp_path / "trained")

    for name in ("killed", "stopped", "trained"):
        again, rows_again, rollouts_again = result(tmp_path / name)
        assert rollouts_again == rollouts, name
        assert rows_again == rows, name
        assert set(again) == set(weights_)
        assert all(torch.equal(again[key], weights_[key]) for key in weights_), name
