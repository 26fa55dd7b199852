"""One whole stage: what it refuses, measures on dev, returns and writes."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import ArbitraryRemarks, Remarks, brief, hint_config, remarks, rl_config, weights

from evaluation.run import EvalConfig, measure
from models.engine.hf import HFEngine
from models.load import base_checkpoint, load_model
from rl.train import hint_summary, parity_summary, train
from runtime.errors import ConfigError, StageError
from runtime.files import read_jsonl


@pytest.fixture
def stage(text_model, words, tmp_path: Path):
    """Runs the stage over remarks, three of them hard."""

    def run(records=None, task=None, hint=None, measure_dev=None, **settings):
        if task is None:
            task = ArbitraryRemarks()
            task.hard = frozenset(["r-0", "r-1", "r-2"])
        return train(
            load_model(text_model, base_checkpoint(text_model), train=True),
            brief(words),
            task,
            records or remarks(),
            tmp_path,
            rl_config(**settings),
            hint or hint_config(),
            weights(),
            {},
            tmp_path / "rl",
            0,
            measure_dev,
        )

    return run


def test_too_few_records_are_refused(stage):
    with pytest.raises(StageError, match=r"rl: 1 training records, one step takes rl.prompts=2; lower it"):
        stage(records=remarks()[:1])


def test_a_grammar_that_cannot_carry_the_hint_is_refused(stage):
    with pytest.raises(ConfigError, match=r"use task.grammar=dc, or hint=query, or hint=none"):
        stage(task=Remarks("evidence_first"))


def test_dev_is_measured_every_few_steps_and_after_the_last(stage, tmp_path):
    seen = []

    def measure_dev(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
        seen.append(policy)
        return {"mae": float(len(seen))}

    stage(measure_dev=measure_dev, max_steps=5, eval_every=2)
    rows = read_jsonl(tmp_path / "rl" / "metrics.jsonl")
    assert {row["step"]: row["dev/mae"] for row in rows if "dev/mae" in row} == {2: 1.0, 4: 2.0, 5: 3.0}
    assert len({id(policy) for policy in seen}) == 1


def test_dev_is_measured_where_the_budget_ends_the_training(stage, tmp_path):
    looks = []

    def measure_dev(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
        looks.append(said)
        return {"answered": 0.5}

    stage(measure_dev=measure_dev, max_steps=5, eval_every=4, budget=1)
    assert looks == [tmp_path / "rl" / "dev" / "step_000001.jsonl"]
    assert [row.get("dev/answered") for row in read_jsonl(tmp_path / "rl" / "metrics.jsonl")] == [0.5]


def test_a_signal_stops_where_no_rollouts_are_left_to_use(stage):
    def measure_dev(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)  # in the first step, and in the second
        return {}

    with pytest.raises(StageError, match="stopped by a signal at step 2"):
        stage(measure_dev=measure_dev, max_steps=4, eval_every=1, iterations=2)


def test_dev_is_measured_without_hints(stage, words, tmp_path, monkeypatch):
    hinted = []  # for every round of sampling: whether it was hinted, and of how many rows
    sample = HFEngine.sample

    def spy(self, state, prompt_of, sampling, prefixes=None):
        hinted.append((prefixes is not None, len(prompt_of)))
        return sample(self, state, prompt_of, sampling, prefixes)

    monkeypatch.setattr(HFEngine, "sample", spy)
    task = Remarks()  # of which a random model gets nothing right: every group is stuck
    cfg = EvalConfig(
        split="dev", limit=None, batch=3, max_new_tokens=4, temperature=0.0, silence=[], resamples=10, init=None
    )

    def measure_dev(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
        found = measure(task, policy, words, remarks()[:3], tmp_path, cfg, said)
        assert policy.training
        return found

    stage(task=task, measure_dev=measure_dev, max_steps=1, eval_every=1)
    # two groups of four, then two of each again with the hint, then three dev records
    assert hinted == [(False, 8), (True, 4), (False, 3)]
    (row,) = read_jsonl(tmp_path / "rl" / "metrics.jsonl")
    assert row["hint/stuck_rate"] == 1.0
    assert row["dev/answered"] == 0.0
    said = read_jsonl(tmp_path / "rl" / "dev" / "step_000001.jsonl")
    assert said == [{"uid": record.uid, "answer": None} for record in remarks()[:3]]


def test_the_stage_returns_what_happened_and_writes_the_policy(stage, text_model, tmp_path):
    result = stage(max_steps=3, prompts=6)
    assert result["steps"] == 3
    assert result["hint"]["all"]["stuck_rate"] == 0.5
    assert result["parity"]["checks"] == 1
    assert result["parity"]["logp_mean_worst"] < 1e-5
    assert set(result["parity"]) == {"checks", "logp_mean_worst", "text_drop"}
    load_model(text_model, tmp_path / "rl" / "final", train=False)
    before = load_file(Path(text_model.source) / "model.safetensors")
    after = load_file(tmp_path / "rl" / "final" / "model.safetensors")
    assert set(before) == set(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_same_seed_gives_the_same_run(stage, tmp_path):
    found = []
    for name in ("one", "two"):
        torch.manual_seed(3)
        stage(max_steps=2)
        (tmp_path / "rl").rename(tmp_path / name)
        found.append(load_file(tmp_path / name / "final" / "model.safetensors"))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_hint_summary_compares_the_first_and_last_third():
    rows = [
        {"hint/stuck_rate": s, "hint/rate": s / 2, "solve/unhinted": 1 - s, "solve/hinted": h, "reward": 0.5}
        for s, h in [(0.9, 0.2), (0.7, 0.4), (0.5, None), (0.5, 0.6), (0.3, None), (0.1, None), (0.1, None)]
    ]
    # seven rows: thirds of two; mean of all stuck rates 3.1 / 7
    assert hint_summary(rows) == {
        "all": {
            "stuck_rate": 0.4429,
            "rate": 0.2214,
            "reliance": None,
            "solve/unhinted": 0.5571,
            "solve/hinted": 0.4,
            "reward": 0.5,
        },
        "first third": {
            "stuck_rate": 0.8,
            "rate": 0.4,
            "reliance": None,
            "solve/unhinted": 0.2,
            "solve/hinted": 0.3,
            "reward": 0.5,
        },
        "last third": {
            "stuck_rate": 0.1,
            "rate": 0.05,
            "reliance": None,
            "solve/unhinted": 0.9,
            "solve/hinted": None,
            "reward": 0.5,
        },
    }


def test_hint_summary_of_a_single_row_is_that_row():
    summary = hint_summary([{"hint/stuck_rate": 0.25, "hint/reliance": -1.0}])
    assert [phase["stuck_rate"] for phase in summary.values()] == [0.25] * 3
    assert summary["all"]["reliance"] == -1.0


def test_parity_summary_keeps_the_worst_difference_and_the_latest_drops():
    rows = [
        {"parity/logp_mean": 1e-7, "parity/audio_drop": 0.5, "parity/text_drop": 0.1},
        {"reward": 1.0},
        {"parity/logp_mean": 3e-6, "parity/audio_drop": 0.7, "parity/text_drop": 0.2},
        {"parity/logp_mean": 2e-6, "parity/audio_drop": 0.6, "parity/text_drop": 0.3},
        {"reward": 1.0},
    ]
    expected = {"checks": 3, "logp_mean_worst": 3e-6, "audio_drop": 0.6, "text_drop": 0.3}
    assert parity_summary(rows) == expected
    assert parity_summary([{"reward": 1.0}]) == {}
