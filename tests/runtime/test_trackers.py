"""What W&B and trackio hold after a stage that was killed (-9) and went on: read out of their files."""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from tracked import trackio_run, wandb_files, wandb_run

from runtime.errors import StageError
from runtime.trackers.base import STEP, Artifact

LAST, CHECKPOINT, SURE, KILLED = 12, 4, 6, 8
# Six steps at once, a pause after which they are safe, and more steps, just before the end.
STAGE = f"""
import os, signal, sys, time
from pathlib import Path
from runtime.trackers.base import About, Clip
from runtime.trackers.tracker import SAFE, open_tracker

run, start, kill = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "kill"
about = About("pr", "gr", "rl", ["a", "b"], {{"lr": 0.1, "inner": {{"x": None}}}}, run / "rl")
with open_tracker(["wandb", "trackio"], run, about) as tracker:
    tracker.used(run / "sft" / "final")
    if start:  # what MetricsCallback finds in its file
        for step in range(1, start + 1):
            tracker.row(step, {{"train/loss": 1 / step}})
    for step in range(start + 1, {LAST} + 1):
        tracker.row(step, {{"train/loss": 1 / step, "train/unknown": None}})
        if step == {SURE}:
            clip = Clip("audio", run / "a.wav")
            shown = {{"uid": "u", "audio": clip, "reward": 0.5}}
            tracker.table(step, "completions", [shown, {{"uid": "v", "audio": None, "reward": None}}])
            time.sleep(SAFE + 1)
        if kill and step == {KILLED}:
            os.kill(os.getpid(), signal.SIGKILL)
    tracker.made("model", run / "rl" / "final")
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Run folder, folder of trackio, what was known of the trackers after the kill, and what the second attempt printed."""
    run, trackio = tmp_path_factory.mktemp("a-run"), tmp_path_factory.mktemp("trackio")
    for stage in ("sft", "rl"):
        (run / stage / "final").mkdir(parents=True)
        (run / stage / "final" / "config.json").write_text(f'"{stage}"')
    with wave.open(str(run / "a.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(b"\x00\x01" * 800)
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"PYTHONPATH": str(root), "TRACKIO_DIR": str(trackio)}

    def attempt(start, end):
        command = [sys.executable, "-c", STAGE, str(run), str(start), end]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    assert attempt(0, "kill").returncode == -9
    known = json.loads((run / "rl" / "trackers.json").read_text())
    done = attempt(CHECKPOINT, "finish")
    assert done.returncode == 0, done.stderr
    return run, trackio, known, done.stdout


def check_steps(steps):
    """The first attempt may have lost what was not safe; the second begins right after what was, at a lower step than it had."""
    second = list(range(SURE + 1, LAST + 1))
    assert steps[-len(second) :] == second
    assert steps[: -len(second)] in [list(range(1, last + 1)) for last in range(SURE, KILLED + 1)]


def test_what_was_safe_before_the_kill_is_known(killed):
    _, _, known, _ = killed
    assert known["wandb"]["step"] == known["trackio"]["step"] == SURE
    assert len({known[name]["id"] for name in known}) == 2


def test_wandb_goes_on_under_its_id_with_every_step(killed):
    run, _, known, printed = killed
    files = wandb_files(run / "rl")
    first, second = (wandb_run(path) for path in files)
    assert first["exit"] is None and second["exit"] == 0
    for attempt in (first, second):
        about = attempt["run"]
        assert about.run_id == known["wandb"]["id"] and about.display_name == "gr/rl"
        assert (about.project, about.run_group, about.job_type, list(about.tags)) == ("pr", "gr", "rl", ["a", "b"])
        assert (attempt["config"]["lr"], attempt["config"]["inner"]) == (0.1, {"x": None})
    rows = [row for attempt in (first, second) for row in attempt["rows"]]
    check_steps([row[STEP] for row in rows if "train/loss" in row])
    assert all(row["train/loss"] == 1 / row[STEP] for row in rows if "train/loss" in row)
    assert not any("train/unknown" in row for row in rows)
    assert f"W&B is offline; to upload: wandb sync {files[1].parent}\n" in printed


def test_trackio_goes_on_under_its_name_with_every_step(killed):
    _, trackio, known, printed = killed
    found = trackio_run(trackio, "pr", f"gr/rl-{known['trackio']['id']}")
    assert len(found["ids"]) == 1
    config = found["config"]
    assert (config["lr"], config["job_type"], config["tags"], config["_Group"]) == (0.1, "rl", ["a", "b"], "gr")
    check_steps([row[STEP] for row in found["rows"] if "train/loss" in row])
    assert "trackio: to look at it: trackio show --project pr\n" in printed


def test_both_hold_the_table_once_with_its_clip(killed):
    run, trackio, _, _ = killed
    rows = [row for path in wandb_files(run / "rl") for row in wandb_run(path)["rows"]]
    (row,) = [row for row in rows if any(name.startswith("completions") for name in row)]
    assert row[STEP] == SURE
    kept = [path.read_bytes() for path in (run / "rl" / "wandb" / "artifacts" / "staging").iterdir()]
    assert (run / "a.wav").read_bytes() in kept, "the clip waits in the run folder until it is uploaded"
    (row,) = [row for row in trackio_run(trackio, "pr", "gr/rl")["rows"] if "completions" in row]
    first, second = row["completions"]["_value"]
    assert (first["uid"], first["audio"], first["reward"]) == ("u", "completions/audio_0", 0.5)
    assert (second["uid"], second["audio"], second["reward"]) == ("v", None, None)
    clip = row["completions/audio_0"]
    assert (clip["_type"], clip["caption"]) == ("trackio.audio", "a")
    assert (trackio / "media" / clip["file_path"]).read_bytes() == (run / "a.wav").read_bytes()


def test_both_hold_what_the_stage_has_read_and_written(killed):
    run, trackio, _, _ = killed
    attempts = [wandb_run(path) for path in wandb_files(run / "rl")]
    for attempt in attempts:
        ((kind, name, entries),) = attempt["used"]
        # sha256 of '"sft"'
        wanted = ("6ed37a6122d83545/config.json", (run / "sft" / "final" / "config.json").as_uri())
        assert (kind, name, entries) == ("model", f"{run.name}-sft", [wanted])
    assert attempts[0]["made"] == []
    ((kind, name, entries),) = attempts[1]["made"]
    assert (kind, name) == ("model", f"{run.name}-rl") and entries[0][1].endswith("/rl/final/config.json")
    found = trackio_run(trackio, "pr", "gr/rl")
    assert f"{run.name}-sft" in found["used"] and f"{run.name}-rl" in found["made"]


def test_an_artifact_has_one_name_for_its_maker_and_its_user_and_another_version_for_other_contents(tmp_path):
    file = tmp_path / "one" / "synth" / "chains.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("{}\n")
    made = Artifact.of("dataset", file, tmp_path / "one")
    assert made == Artifact.of("dataset", file, tmp_path / "other") and made.name == "one-synth"
    assert made.files == {"ca3d163bab055381/chains.jsonl": file.as_uri()}
    file.write_text("{} \n")
    assert Artifact.of("dataset", file, tmp_path / "one").version != made.version
    result = tmp_path / "one" / "eval" / "rl" / "predictions.jsonl"
    result.parent.mkdir(parents=True)
    result.write_text("")
    assert Artifact.of("result", result, tmp_path / "one").name == "one-eval-rl"
    with pytest.raises(StageError, match=r"input 'model': nothing at .*final"):
        Artifact.of("model", tmp_path / "one" / "rl" / "final", tmp_path / "one")
