"""A clip is decoded and featurised once, by whichever stage meets it first; later stages, epochs and runs read what is on disk."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from transformers import WhisperFeatureExtractor

import data_synth.stage
import evaluation.stage
import rl.stage
import sft.stage
from models import clips
from models.session import Session, open_session
from runtime.files import read_jsonl
from runtime.main import CONF

pytestmark = pytest.mark.slow

SMALL = [
    "debug=smoke",
    "model.perception=null",
    "model.tiny.width=64",
    "task.train=8",
    "task.dev=2",
    "task.test=2",
    "synth.limit=4",
    "sft.max_steps=4",  # of two examples: two epochs and more
    "sft.batch=2",
    "sft.holdout=0.0",
    "rl.max_steps=4",  # of two prompts: each clip once
    "rl.prompts=2",
    "rl.eval_every=0",
    "rl.parity_every=4",
    "eval.silence=[audio,video]",
    "eval.max_new_tokens=8",
]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the files that are read for a model, by name, and log-mel extractions."""
    counts: Counter[str] = Counter()

    def counted(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name(*args)] += 1
            return function(*args, **kwargs)

        return call

    for reader in ("read_audio", "read_video", "read_image"):
        monkeypatch.setattr(clips, reader, counted(getattr(clips, reader), lambda path, *_: Path(path).name))
    extract = counted(WhisperFeatureExtractor.__call__, lambda *_: "log-mel")
    monkeypatch.setattr(WhisperFeatureExtractor, "__call__", extract)
    return counts


def session(folder: Path) -> Session:
    with initialize_config_dir(CONF, version_base=None):
        return open_session(compose("pipeline", overrides=[*SMALL, f"run.dir={folder}"]))


def test_each_clip_is_decoded_once_in_a_whole_run_and_not_at_all_in_the_next(tmp_path: Path, monkeypatch, done) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "cache"))
    first = session(tmp_path / "first")
    names = {Path(v.path).name for r in first.data.records for v in r.views.values() if not isinstance(v, str)}
    assert {Path(name).suffix for name in names} == {".wav", ".mp4"} and len(names) == 24
    once = dict.fromkeys(names, 1) | {"log-mel": 12}
    assert done == once  # by the scan for unreadable media
    data_synth.stage.run(first)
    sft.stage.run(first)
    rl.stage.run(first)
    evaluation.stage.run(first, "rl", tmp_path / "first" / "rl" / "final")
    steps = [row for row in read_jsonl(tmp_path / "first" / "rl" / "metrics.jsonl") if "hint/stuck_rate" in row]
    assert len(steps) == 4 and done == once
    second = session(tmp_path / "second")  # renders the same clips into another folder
    assert second.data.root != first.data.root and done == once
