"""Planted keys: every verb runs with trackers on, one run crashes with a key in its text, and no byte of any file holds one."""

import gzip
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracked import trackio_run, wandb_files, wandb_run
from verbs import ROOT, Outcome, call

from runtime.files import read_jsonl

pytestmark = pytest.mark.slow

KEYS = {
    "OPENAI_API_KEY": "planted-openai-4f1b9a",
    "WANDB_API_KEY": "a1b2c3d4e5a1b2c3d4e5a1b2c3d4e5a1b2c3d4e5",  # as long as W&B's are, since it checks
    "HF_TOKEN": "planted-hf-9c2e77",
    "MY_SERVICE_TOKEN": "planted-service-55d0",
}
OVERRIDE = "sk-planted-override-0123456789"
VERBS = ("data_synth", "sft", "rl", "evaluation")
SMALL = """
debug=smoke model.perception=null task.train=12 task.dev=2 task.test=3 sft.max_steps=2 sft.save_every=1 rl.max_steps=2
rl.prompts=2 rl.group=2 rl.max_new_tokens=8 eval.max_new_tokens=8 eval.silence=[text] run.report_to=[wandb,trackio]
run.table_every=1 run.table_rows=3
""".split()
CRASH = """
import os, runpy, sys
import sft.train
def bug(*_, **__):
    raise RuntimeError(f"GET https://me:{os.environ['HF_TOKEN']}@host/?key={os.environ['OPENAI_API_KEY']}")
sft.train.MediaSFTTrainer.compute_loss = bug
sys.argv = ["sft", *sys.argv[1:]]
runpy.run_module("sft", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Outcome]]:
    """A folder with everything that the verbs, a crash and two refused commands have left, and what they printed."""
    folder = tmp_path_factory.mktemp("planted")
    environment = {
        "UNDERTONE_CACHE": str(folder / "cache"),
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_MODE": "offline",
        "WANDB_CACHE_DIR": str(folder / "wandb-cache"),
        "HOME": str(folder / "home"),
        **KEYS,
    }
    arguments = [*SMALL, f"hydra.run.dir={folder / 'run'}", "hydra.output_subdir=.hydra"]
    done = {verb: run(["-m", verb, *arguments], folder / f"{verb}.log", environment) for verb in VERBS}
    crash = [*SMALL, f"hydra.run.dir={folder / 'crash'}", f"sft.chains={folder / 'run' / 'synth' / 'chains.jsonl'}"]
    done["crash"] = run(["-c", CRASH, *crash], folder / "crash.log", environment)
    for name, arguments in {
        "override": [*SMALL, f"hydra.run.dir={folder / 'refused'}", f"+teacher.api_key={OVERRIDE}"],
        "sweep": ["-m", *SMALL, f"hydra.sweep.dir={folder / 'refused'}", f"teacher.api_key_env={OVERRIDE}"],
    }.items():
        done[name] = call("data_synth", arguments, folder / f"{name}.log", environment)
    return folder, done


def run(program: list[str], log: Path, environment: dict[str, str]) -> Outcome:
    """Not forked from the server of tests/verbs.py, which has imported trackio: that reads TRACKIO_DIR when it is imported."""
    with log.open("wb") as out:
        done = subprocess.run(
            [sys.executable, *program], cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=out
        )
    return Outcome(done.returncode, log.read_text())


def pieces(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file as it is; databases besides cell by cell, and packed files unpacked."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        name = str(path.relative_to(folder))
        yield name, data
        if data.startswith(b"SQLite format 3"):
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
                yield f"{name}, as SQL", "\n".join(db.iterdump()).encode()
        elif data.startswith(b"\x1f\x8b"):
            yield f"{name}, unpacked", gzip.decompress(data)


def test_the_runs_ended_as_they_should(place):
    _, done = place
    assert {name: done[name].code for name in VERBS} == dict.fromkeys(VERBS, 0), done
    assert {name: done[name].code for name in ("crash", "override", "sweep")} == dict.fromkeys(
        ("crash", "override", "sweep"), 1
    )


def test_no_byte_of_any_file_holds_a_key(place):
    folder, _ = place
    found = dict(pieces(folder))
    kinds = {name.rpartition(".")[2] for name in found}
    assert {"wandb", "db", "db, as SQL", "jsonl", "json", "yaml", "log", "mp4"} <= kinds and len(found) > 60
    secrets = {**KEYS, "override": OVERRIDE}
    assert [
        (name, key) for name, data in found.items() for key, value in secrets.items() if value.encode() in data
    ] == []


def test_a_planted_key_would_be_found(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("CREATE TABLE t (x TEXT)")
        db.execute("INSERT INTO t VALUES ('planted-hf-9c2e77')")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"planted-hf-9c2e77"))
    hits = [name for name, data in pieces(tmp_path) if KEYS["HF_TOKEN"].encode() in data]
    assert hits == ["a.db", "a.db, as SQL", "b.gz, unpacked"]


def test_a_refused_key_left_nothing_and_is_not_repeated(place):
    folder, done = place
    assert not (folder / "refused").exists()
    assert "error: override +teacher.api_key=***: holds a secret" in done["override"].text
    assert "error: override teacher.api_key_env=***: holds a secret" in done["sweep"].text


def test_the_crash_tells_where_and_not_what(place):
    _, done = place
    assert "RuntimeError: GET https://***@host/?key=***" in done["crash"].text
    assert "in bug" in done["crash"].text and "sft/train.py" in done["crash"].text


def test_the_trackers_hold_the_chain_from_chains_to_answers(place):
    folder, _ = place
    run, trackio = folder / "run", folder / "trackio"
    wanted = {
        "synth": (["run-data"], ["run-synth"]),
        "sft": (["run-synth", "run-random"], ["run-sft"]),
        "rl": (["run-data", "run-sft"], ["run-rl"]),
        "eval/rl": (["run-data", "run-rl"], ["run-eval-rl"]),
    }
    for stage, (used, made) in wanted.items():
        ((path,)) = wandb_files(run / stage)
        found = wandb_run(path)
        assert (found["run"].job_type, found["exit"]) == (stage, 0)
        names = [[name for _, name, _ in found[how]] for how in ("used", "made")]
        assert names[1] == made and [name for name in names[0] if name.startswith("run-")] == [
            name for name in used if name != "run-random"
        ]
        other = trackio_run(trackio, "undertone", f"studio-tiny_omni-seed0/{stage}-")
        assert set(names[0]) <= set(other["used"]) and set(made) <= set(other["made"])


def test_the_trackers_hold_completions_chains_and_answers_beside_their_clips(place):
    folder, _ = place
    run, trackio = folder / "run", folder / "trackio"
    for stage, table in (("synth", "chains"), ("rl", "completions"), ("eval/rl", "predictions")):
        rows = trackio_run(trackio, "undertone", f"studio-tiny_omni-seed0/{stage}-")["rows"]
        shown = [row for row in rows if table in row]
        assert len(shown) == (2 if stage == "rl" else 1)
        for row in shown:
            cells = row[table]["_value"]
            assert len(cells) == 3 and all(cell["video"].startswith(f"{table}/video_") for cell in cells)
            assert row[cells[0]["video"]]["_type"] == "trackio.video"
        assert list((run / stage / "shown").glob("*.mp4"))
    said = read_jsonl(run / "rl" / "rollouts" / "step_000001_rank0.jsonl")
    second = [
        row for row in trackio_run(trackio, "undertone", "studio-tiny_omni-seed0/rl-")["rows"] if "completions" in row
    ][1]
    for cell, row in zip(second["completions"]["_value"], said, strict=False):
        assert (cell["step"], cell["uid"], cell["completion"]) == (2, row["uid"], row["completion"])
        assert cell["reward"] == row["reward"] and cell["text"] != row["completion"]
        assert {f"parts/{part}": value for part, value in row["parts"].items()}.items() <= cell.items()
