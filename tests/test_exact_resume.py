"""Killed with -9 at any moment, SFT and RL end with the weights, bit for bit, of a run that was left alone."""

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from verbs import Outcome, call, finish, start

KILLS = 20
"""Of each verb."""
SETTINGS = (
    "debug=smoke",
    "sft.max_steps=16",
    "sft.eval_every=4",
    "sft.save_every=4",
    "rl.max_steps=4",
    "rl.save_every=1",
    "rl.eval_every=2",
    "hint=polarity_learnt",  # its memory is a part of the checkpoint
    "rl.order=hard_first",
)


@dataclass(frozen=True)
class Runs:
    """Runs of one config below a folder, with a cache of their own."""

    folder: Path

    def arguments(self, name: str) -> list[str]:
        return [*SETTINGS, f"hydra.run.dir={self.folder / name}"]

    @property
    def environment(self) -> dict[str, str]:
        return {"UNDERTONE_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}

    def call(self, verb: str, name: str) -> Outcome:
        outcome = call(verb, self.arguments(name), self.folder / "log", self.environment)
        assert outcome.code == 0, outcome.text
        return outcome

    def call_killed(self, verb: str, name: str, after: float) -> bool:
        """Whether the kill, `after` seconds, came before the end; the command is called again until it ends."""
        log, end = self.folder / "log", time.monotonic() + after
        running = start(verb, self.arguments(name), log, self.environment)
        killed = finish(running, log, kill_when=lambda: time.monotonic() > end).code == -9
        self.call(verb, name)
        return killed

    def weights(self, verb: str, name: str) -> bytes:
        return (self.folder / name / verb / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, dict[str, float]]:
    """A run that was left alone, and the seconds of its verbs."""
    runs, seconds = Runs(tmp_path_factory.mktemp("kills")), {}
    for verb in ("data_synth", "sft", "rl"):
        begin = time.monotonic()
        runs.call(verb, "whole")
        seconds[verb] = time.monotonic() - begin
    return runs, seconds


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["sft", "rl"])
def test_every_run_that_was_killed_ends_with_the_same_weights(whole, verb):
    runs, seconds = whole
    made = {"sft": ["sft", "rl"], "rl": ["rl"]}[verb]
    draw, killed = random.Random(verb), 0
    for trial in range(KILLS):
        name = f"{verb}{trial}"
        shutil.copytree(runs.folder / "whole", runs.folder / name, ignore=shutil.ignore_patterns(*made))
        killed += runs.call_killed(verb, name, draw.uniform(0, seconds[verb]))
        assert runs.weights(verb, name) == runs.weights(verb, "whole"), (trial, name)
        rows = [(runs.folder / n / verb / "metrics.jsonl").read_text().count("\n") for n in (name, "whole")]
        assert rows[0] == rows[1]
        shutil.rmtree(runs.folder / name)
    assert killed >= KILLS // 2  # a machine that is now faster than it was ends some before
