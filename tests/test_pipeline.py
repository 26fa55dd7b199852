"""The commands as a user calls them: one whole run, the same run killed again and again, the verbs one by one, a sweep."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM
from verbs import ROOT, Outcome, call, finish, start

from models.tiny import CORPUS, build_tokenizer
from runtime.files import read_jsonl
from tasks.base import PARTS

pytestmark = pytest.mark.slow

TEXTS = [
    ("a wonderful film", 2.0, "train"),
    ("an awful film", -2.0, "train"),
    ("the film", 0.0, "train"),
    ("good work", 1.5, "valid"),
    ("bad work", -1.5, "test"),
    ("great fun", 3.0, "test"),
]
VERBS = ("data_synth", "sft", "rl", "evaluation")


@dataclass(frozen=True, slots=True)
class Place:
    """A run folder with a cache of its own."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def environment(self) -> dict[str, str]:
        return {"UNDERTONE_CACHE": str(self.folder / "cache")}

    def arguments(self, *overrides: str) -> list[str]:
        return ["debug=smoke", f"hydra.run.dir={self.run}", *overrides]

    def call(self, module: str, *overrides: str) -> Outcome:
        return call(module, self.arguments(*overrides), self.folder / "log", self.environment)

    def json(self, name: str) -> Any:
        return json.loads((self.run / name).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    """A run that nobody disturbed, by the very command of the README, and what it printed."""
    place = Place(tmp_path_factory.mktemp("whole"))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *place.arguments()],
        cwd=ROOT,
        env={**os.environ, **place.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return place, done.stdout


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k != "seconds"}
    return value


def same_run(one: Place, other: Place) -> None:
    """Numbers, weights, and everything that any model said are equal."""
    assert without_times(one.json("summary.json")) == without_times(other.json("summary.json"))
    names = [
        "data/records.jsonl",
        "synth/chains.jsonl",
        "synth/rejected.jsonl",
        "sft/final/model.safetensors",
        "rl/final/model.safetensors",
        *(f"rl/rollouts/step_{step:06d}_rank0.jsonl" for step in range(4)),
        *(f"eval/{name}/predictions.jsonl" for name in ("base", "sft", "rl")),
    ]
    assert [n for n in names if (one.run / n).read_bytes() != (other.run / n).read_bytes()] == []
    for name in ("sft", "rl"):
        rows = [read_jsonl(place.run / name / "metrics.jsonl") for place in (one, other)]
        shown = [[(r["step"], r.get("loss"), r.get("eval_loss"), r.get("reward")) for r in some] for some in rows]
        assert shown[0] == shown[1]


def test_the_whole_pipeline_ends_with_a_table_a_summary_and_a_report(whole):
    place, printed = whole
    summary = place.json("summary.json")
    assert (summary["task"], summary["model"], summary["seed"]) == ("studio", "tiny_omni", 0)
    for name in ("base", "sft", "rl"):
        assert summary[name]["n"] == 12
        assert {"mae", "corr", "polarity", "acc2_non0", "unparseable"} <= set(summary[name]["metrics"])
        assert set(summary[name]["metrics"]) == set(summary["baseline"])
    assert set(summary["oracles"]) == {"text", "audio", "video", "all three"}
    assert set(summary["ablations"]) == {"silent audio", "silent video", "silent text"}
    for phase in ("all", "first third", "last third"):
        assert 0 <= summary["hint"][phase]["stuck_rate"] <= 1 and 0 <= summary["hint"][phase]["rate"] <= 1
    assert summary["parity"]["logp_mean_worst"] < 1e-3
    assert {"audio_drop", "video_drop", "text_drop"} <= set(summary["parity"])
    assert set(summary["seconds"]) == {"synth", "sft", "rl", "eval base", "eval sft", "eval rl"}
    assert (place.run / "report.html").read_text().startswith("<!DOCTYPE html>")
    config = (place.run / "config.yaml").read_text()
    assert "${" not in config and OmegaConf.create(config).rl.max_steps == 4
    manifest = place.json("manifest.json")
    assert manifest["seed"] == 0 and len(manifest["attempts"]) == 1
    for word in ("Trivial rule", "SFT", "Hint-GRPO", "polarity", "report:"):
        assert word in printed


def test_the_smoke_run_exercises_what_it_is_there_for(whole):
    place, _ = whole
    rows = [row for row in read_jsonl(place.run / "rl" / "metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert max(row["hint/rate"] for row in rows) > 0 and min(row["hint/stuck_rate"] for row in rows) < 1
    assert all(row["grad_norm"] > 0 for row in rows), "rewards that are all the same teach nothing"
    assert [row["step"] for row in rows if "dev/polarity" in row] == [2, 4]
    assert [row["step"] for row in rows if row.get("parity/logp_mean") is not None] == [1, 3]
    assert any(row.get("eval_loss") for row in read_jsonl(place.run / "sft" / "metrics.jsonl"))
    for stage, steps in (("sft", (30, 60)), ("rl", (2, 4))):
        assert {p.name for p in (place.run / stage / "checkpoints").glob("*-*")} == {f"checkpoint-{n}" for n in steps}
    said = read_jsonl(place.run / "rl" / "rollouts" / "step_000000_rank0.jsonl")
    assert len(said) == 16 and any(row["hint"] for row in said) and all(set(row["parts"]) == set(PARTS) for row in said)


def test_nothing_is_printed_that_a_user_cannot_act_on(whole):
    _, printed = whole
    lines = printed.splitlines()
    table = next(i for i, line in enumerate(lines) if "Trivial rule" in line)
    assert all(line.startswith(("== ", "perception ", "sft ", "rl ")) for line in lines[:table]), printed
    stages = [line.rpartition("/")[2] for line in lines[:table] if line.startswith("== ") and "perception" not in line]
    assert stages == ["clips", "synth", "sft", "rl", "base", "sft", "rl"]


def test_a_second_call_computes_nothing_and_prints_the_same(whole):
    place, printed = whole
    stages = sorted(place.run.rglob("stage.json"))
    assert len(stages) == 7
    before = {path: path.stat().st_mtime_ns for path in [*stages, place.run / "rl" / "final" / "model.safetensors"]}
    summary = place.json("summary.json")
    begin = time.monotonic()
    again = place.call("pipeline")
    assert again.code == 0, again.text
    assert time.monotonic() - begin < 60
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.text.count("done before, skipped") == 9  # the base model is asked for by two stages
    assert place.json("summary.json") == summary
    table = printed[printed.index("Trivial rule") :]
    assert again.text.endswith(table)
    assert len(place.json("manifest.json")["attempts"]) == 2


def test_killed_at_every_stage_a_run_ends_with_the_same_numbers(whole, tmp_path):
    place = Place(tmp_path)
    run, cache = place.run, tmp_path / "cache"

    def exists(name: str) -> Callable[[], bool]:
        return (run / name).exists

    def lines(name: str, count: int) -> Callable[[], bool]:
        return lambda: (run / name).is_file() and (run / name).read_bytes().count(b"\n") >= count

    def grown(name: str, size: int) -> Callable[[], bool]:
        return lambda: (run / name).is_file() and (run / name).stat().st_size >= size

    def cached(pattern: str) -> Callable[[], bool]:
        return lambda: any(cache.glob(pattern))

    moments = {
        "while clips are rendered": exists("data/clips/studio-dev-00003.mp4"),
        "before media are checked": exists("data/records.jsonl"),
        "while perception clips are rendered": cached("*perception*/data/clips/*-00005.mp4"),
        "while perception is saved": cached("*perception*/checkpoints/checkpoint-4"),
        "after perception": cached("*perception*/final"),
        "while the teacher writes": grown("synth/journal.db-wal", 40_000),  # a draft is two pages of 4 KiB or more
        "while sft is at work": lines("sft/metrics.jsonl", 1),
        "while an sft checkpoint is saved": exists("sft/checkpoints/checkpoint-30"),
        "after the last sft checkpoint": exists("sft/checkpoints/checkpoint-60/trainer_state.json"),
        "after sft": exists("sft/final"),
        "while rl is at work": exists("rl/rollouts/step_000000_rank0.jsonl"),
        "while an rl checkpoint is saved": exists("rl/checkpoints/checkpoint-2"),
        "after an rl checkpoint": lines("rl/metrics.jsonl", 3),
        "while the last rl checkpoint is saved": exists("rl/checkpoints/checkpoint-4"),
        "after rl": exists("rl/final"),
        "after the first evaluation": exists("eval/base/predictions.jsonl"),
    }
    for name, moment in moments.items():
        log = tmp_path / "log"
        outcome = finish(start("pipeline", place.arguments(), log, place.environment), log, kill_when=moment)
        assert outcome.code == -9, f"not killed {name}: {outcome.text}"
    outcome = place.call("pipeline")
    assert outcome.code == 0, outcome.text
    same_run(whole[0], place)


def test_killed_at_random_times_a_run_ends_with_the_same_numbers(whole, tmp_path):
    place, log = Place(tmp_path), tmp_path / "log"
    draw, attempts, outcome = random.Random(0), 0, None
    while outcome is None or outcome.code == -9:
        end = time.monotonic() + draw.uniform(0.3, 1.5) * 1.3**attempts
        attempts += 1
        running = start("pipeline", place.arguments(), log, place.environment)
        outcome = finish(running, log, kill_when=lambda end=end: time.monotonic() > end)
    assert outcome.code == 0, outcome.text
    assert attempts > 1
    same_run(whole[0], place)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with the tiny model's tokenizer: a text checkpoint like any that lies in a folder."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = build_tokenizer(CORPUS)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    turns = "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    tokenizer.chat_template = turns + "<|im_start|>assistant\n"
    tokenizer.save_pretrained(folder)
    return folder


def test_a_text_model_with_an_adapter_is_killed_and_ends_the_same(text_model, tmp_path):
    data = tmp_path / "mosi"
    data.mkdir()
    rows = [f"v{i}_1,{text} number {i},x,{x},{split}" for i, (text, x, split) in enumerate(TEXTS * 4)]
    (data / "label.csv").write_text("\n".join(["id,text_en,text_zh,label,split", *rows]) + "\n")
    settings = [
        "task=mosi",
        f"task.data={data}",
        "model=smollm2",
        f"model.source={text_model}",
        "synth.min_calibrate=0",
        "sft.max_steps=4",
        "sft.save_every=2",
        "sft.batch=4",
        "rl.max_steps=2",
        "rl.save_every=1",
        "rl.eval_every=1",
        "rl.prompts=2",
        "rl.group=2",
        "rl.max_new_tokens=8",
        "rl.weight_decay=0.1",
        "eval.max_new_tokens=8",
        "eval.resamples=10",
    ]
    undisturbed, killed, log = Place(tmp_path / "a"), Place(tmp_path / "b"), tmp_path / "log"

    def begin(place: Place) -> BaseProcess:
        return start("pipeline", [f"hydra.run.dir={place.run}", *settings], log, place.environment)

    for name in ("sft/checkpoints/checkpoint-4", "rl/checkpoints/checkpoint-2"):
        assert finish(begin(killed), log, kill_when=(killed.run / name).exists).code == -9
    for place in (undisturbed, killed):
        outcome = finish(begin(place), log)
        assert outcome.code == 0, outcome.text
    one, other = (without_times(place.json("summary.json")) for place in (undisturbed, killed))
    assert one == other and one["model"] == "smollm2" and set(one["ablations"]) == {"silent text"}
    for stage in ("sft", "rl"):
        weights = [place.run / stage / "final" / "adapter_model.safetensors" for place in (undisturbed, killed)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_verb_after_verb_makes_what_the_pipeline_makes(whole, tmp_path):
    place = Place(tmp_path)
    shutil.copytree(whole[0].folder / "cache", tmp_path / "cache")

    def refused(verb: str, *overrides: str) -> str:
        outcome = place.call(verb, *overrides)
        assert outcome.code == 1 and "Traceback" not in outcome.text
        return outcome.text[outcome.text.index("error: ") :]

    assert "sft: there are no chains at" in (said := refused("sft")) and "run `python -m data_synth`" in said
    assert "rl: there is no checkpoint at" in (said := refused("rl")) and "run `python -m sft`" in said
    assert "no checkpoint in" in (said := refused("evaluation")) and "run `python -m sft` or `python -m rl`" in said
    assert "rl: there is no checkpoint at /nowhere" in refused("rl", "rl.init=/nowhere")
    for verb in VERBS:
        outcome = place.call(verb)
        assert outcome.code == 0, outcome.text
    assert "Hint-GRPO" in outcome.text
    said = refused("sft", "sft.lr=1")
    assert "settings.sft.lr: was 0.005, now 1.0\n" in said and "settings.seed" not in said
    assert "was begun with seed 0, not with seed 1" in refused("rl", "seed=1")
    outcome = place.call("pipeline")
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("skipped") == 7 and outcome.text.count("== ") == 9, "two evaluations were left to do"
    same_run(whole[0], place)


def test_another_checkpoint_is_evaluated_beside_the_runs_own(whole, tmp_path):
    place = Place(tmp_path)
    init = whole[0].run / "rl" / "final"
    outcome = place.call("evaluation", f"eval.init={init}", "eval.silence=[]")
    assert outcome.code == 0, outcome.text
    mine, theirs = (p.json(f"eval/{n}/stage.json")["result"] for p, n in ((place, "init"), (whole[0], "rl")))
    assert mine["metrics"] == theirs["metrics"] and mine["silenced"] == {} and len(theirs["silenced"]) == 3
    assert place.json("manifest.json")["attempts"][0]["parent"] == str(init)


def test_a_sweep_gives_every_run_its_folder_seed_and_config(whole, tmp_path):
    arguments = [
        "-m",
        "debug=smoke",
        "hint=none,polarity",
        "seed=1,2",
        f"rl.init={whole[0].run / 'sft' / 'final'}",
        "task.train=8",
        "task.dev=0",
        "task.test=0",
        "rl.max_steps=2",  # the first is one of warmup, at a rate of 0
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]
    outcome = call("rl", arguments, tmp_path / "log", {"UNDERTONE_CACHE": str(tmp_path / "cache")})
    assert outcome.code == 0, outcome.text
    runs = {path.parent: OmegaConf.load(path) for path in (tmp_path / "sweep").glob("*/config.yaml")}
    assert {(cfg.hint.strategy, cfg.seed) for cfg in runs.values()} == {
        ("none", 1),
        ("none", 2),
        ("polarity", 1),
        ("polarity", 2),
    }
    weights = set()
    for folder, cfg in runs.items():
        assert f"hint={cfg.hint.strategy}" in folder.name and f"seed={cfg.seed}" in folder.name
        assert cfg.run.name.endswith(f"seed{cfg.seed}")
        assert json.loads((folder / "manifest.json").read_text())["seed"] == cfg.seed
        said = read_jsonl(folder / "rl" / "rollouts" / "step_000000_rank0.jsonl")
        assert all(row["hint"] == "" for row in said) or cfg.hint.strategy != "none"
        weights.add((folder / "rl" / "final" / "model.safetensors").read_bytes())
    assert len(weights) > 2
