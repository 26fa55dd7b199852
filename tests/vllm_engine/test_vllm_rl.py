"""Reinforcement with vLLM: the parity gate passes because weights, media and positions agree, and trips where they do not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.load import base_checkpoint, load_model
from rl.trainer import HintGRPOTrainer, make_trainer
from runtime.errors import ParityError
from runtime.files import read_jsonl
from tests.rl.toys import ArbitraryStudio, brief, hint_config, rl_config, weights

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trainer_of(engine, tiny, studio, studio_data, tmp_path):
    """Makes a trainer over four clips whose completions vLLM samples; half of the clips are hard, so that hints are given."""
    cfg, _, processor = tiny
    task = ArbitraryStudio(
        name=studio.name, views=list(studio.views), grammar="dc", **studio.counts, conflict=0.4, seed=studio.seed
    )
    task.hard = frozenset(r.uid for r in task.records() if int(r.uid[-5:]) % 2 == 0)

    def make(model=None, **settings) -> HintGRPOTrainer:
        engine.processor = brief(processor)
        return make_trainer(
            "rl",
            model or load_model(cfg, base_checkpoint(cfg), train=True),
            engine.processor,
            task,
            studio_data.split("train")[:4],
            studio_data.root,
            rl_config(parity_every=1, parity_tolerance=1e-5, lr=1e-2, max_steps=3, **settings),
            hint_config(),
            weights(),
            {},
            tmp_path / "rl",
            0,
            [],
            lambda model, processor: engine,
        )

    return make


def steps(trainer: HintGRPOTrainer) -> list[dict[str, float]]:
    trainer.train()
    return [row for row in trainer.state.log_history if "parity/logp_mean" in row]


def test_a_run_passes_the_gate_at_every_step(trainer_of):
    rows = steps(trainer_of())
    assert len(rows) == 3 and all(row["parity/logp_mean"] < 1e-5 for row in rows)
    assert sum(row["hint/rate"] for row in rows) > 0
    assert len({row["reward"] for row in rows}) > 1


def test_weights_that_stay_behind_trip_the_gate(trainer_of, engine, monkeypatch):
    monkeypatch.setattr(engine, "follow", lambda model, step: None)  # it keeps those of step 0
    with pytest.raises(
        ParityError, match=r"step 1: log-probabilities of engine and trainer differ by .* never reached the engine"
    ):
        steps(trainer_of())


def run(*command: str) -> None:
    """Run a command of the project to its end."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def readings(folder: Path) -> list[float]:
    """How far engine and trainer were apart, step by step."""
    rows = read_jsonl(folder / "rl" / "metrics.jsonl")
    return [row["parity/logp_mean"] for row in rows if row.get("parity/logp_mean") is not None]


@pytest.mark.slow
def test_the_command_runs_with_vllm_on_one_rank_and_on_two(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = [
        "debug=smoke",
        "engine=vllm",
        "engine.vllm.kv_cache_gib=0.1",
        "engine.vllm.eager=true",
        "rl.parity_every=1",
    ]
    run("pipeline", *arguments, "rl.max_steps=3", f"hydra.run.dir={one}")
    assert len(readings(one)) == 3 and max(readings(one)) < 1e-5
    shutil.copytree(one / "data", two / "data")
    arguments += [f"rl.init={one / 'sft' / 'final'}", "rl.max_steps=2", "rl.eval_every=0"]
    run("torch.distributed.run", "--nproc_per_node=2", "-m", "rl", *arguments, f"hydra.run.dir={two}")
    assert len(readings(two)) == 2 and max(readings(two)) < 1e-5
    first, second = ((two / "rl" / "rollouts" / f"step_000001_rank{rank}.jsonl").read_text() for rank in (0, 1))
    assert first != second
