"""The manifest says what made a run, keeps its first start, and holds no secret."""

import json
import sys

import pytest

from runtime.errors import StageError
from runtime.manifest import write_manifest


def test_a_manifest_names_code_versions_machine_data_and_config(tmp_path, monkeypatch):
    data = tmp_path / "records.jsonl"
    data.write_text("{}\n")
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "teacher.api_key=abc", "seed=3"])
    write_manifest(tmp_path, {"a": 1}, seed=3, parent="other/sft/final", inputs={"records": data})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (attempt,) = manifest["attempts"]
    assert (manifest["seed"], attempt["parent"]) == (3, "other/sft/final")
    assert attempt["command"] == ["pipeline.py", "teacher.api_key=***", "seed=3"]
    # sha256 of "{}\n"
    assert attempt["inputs"]["records"]["sha256"].startswith("ca3d163bab055381827226140568f3be")
    assert {"torch", "transformers", "trl"} <= set(attempt["packages"])
    assert attempt["machine"]["cores"] >= 1
    assert set(attempt) == {"at", "command", "parent", "config", "inputs", "git", "python", "packages", "machine"}


def test_a_continued_run_keeps_its_start_and_adds_an_attempt(tmp_path):
    first = write_manifest(tmp_path, {"a": 1}, seed=3, parent=None, inputs={})
    second = write_manifest(tmp_path, {"a": 2}, seed=3, parent="sft-1", inputs={})
    assert second["started"] == first["started"] and len(second["attempts"]) == 2
    assert second["attempts"][0]["config"] != second["attempts"][1]["config"]


def test_another_seed_or_a_missing_input_is_refused(tmp_path):
    write_manifest(tmp_path, {}, seed=3, parent=None, inputs={})
    with pytest.raises(StageError, match=r"begun with seed 3, not with seed 4; choose another run\.name"):
        write_manifest(tmp_path, {}, seed=4, parent=None, inputs={})
    with pytest.raises(StageError, match=r"input 'records': there is no file .*gone\.jsonl; mend the path"):
        write_manifest(tmp_path, {}, seed=3, parent=None, inputs={"records": tmp_path / "gone.jsonl"})


def test_outside_a_git_checkout_the_revision_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert write_manifest(tmp_path, {}, seed=0, parent=None, inputs={})["attempts"][0]["git"] is None
