"""Bad data: unreadable media are set aside with the reason and the run goes on; bad rows are refused with file and line."""

import json
import shutil
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from verbs import call

from models.session import Session, open_session
from runtime.config import make
from runtime.errors import RecordError, UndertoneError
from runtime.files import read_jsonl
from runtime.main import CONF
from tasks.base import Task
from tasks.record import Record, read_records
from tasks.target import Scalar, Target

TINY = ["debug=smoke", "model.perception=null", "task.train=12", "task.dev=2", "task.test=4"]
"""The smoke run with few clips and a random base model."""
SPEECH = ["task=emodb", "task.labels=[happiness,sadness]"]
TOY = ["model.tiny.width=64", "model.tiny.layers=1", "model.tiny.tower_width=32", "model.perception=null"]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(CONF, version_base=None):
        return compose("pipeline", overrides=list(overrides))


def session(folder: Path, *overrides: str) -> Session:
    return open_session(composed(f"run.dir={folder}", *overrides))


def refusal(folder: Path, *overrides: str) -> str:
    with pytest.raises(UndertoneError) as caught:
        session(folder, *overrides)
    return str(caught.value)


# Media


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A run folder whose clips are rendered, and of which one is gone and one is no video any more."""
    make(composed(*TINY), "task").prepare(tmp_path / "run" / "data")
    clips = tmp_path / "run" / "data" / "clips"
    (clips / "studio-train-00003.mp4").unlink()
    (clips / "studio-test-00001.mp4").write_bytes(b"this is not a film")
    return tmp_path / "run"


def test_unreadable_clips_are_set_aside_with_the_reason_and_the_run_goes_on(spoilt, tmp_path):
    def run(verb: str, *overrides: str) -> str:
        arguments = [*TINY, "run.max_quarantined=0.2", f"hydra.run.dir={spoilt}", *overrides]
        outcome = call(verb, arguments, tmp_path / "log", {"UNDERTONE_CACHE": str(tmp_path / "cache")})
        assert outcome.code == 0, outcome.text
        return outcome.text

    said = run("data_synth")
    assert f"set aside 2 of 18 records with unreadable media; reasons in {spoilt}/data/quarantine.jsonl" in said
    gone, broken = read_jsonl(spoilt / "data" / "quarantine.jsonl")
    assert (gone["uid"], gone["split"]) == ("studio-train-00003", "train")
    assert "studio-train-00003.mp4: there is no such media file; mend the record's path" in gone["reason"]
    assert (broken["uid"], broken["split"]) == ("studio-test-00001", "test")
    assert "studio-test-00001.mp4: not a readable media file" in broken["reason"]

    assert "set aside" not in run("sft", "sft.max_steps=1", "sft.save_every=1")  # once is enough
    asked = read_records(spoilt / "synth" / "chains.jsonl")
    asked_uids = {r.uid for r in asked} | {row["uid"] for row in read_jsonl(spoilt / "synth" / "rejected.jsonl")}
    assert len(asked_uids) == 11 and "studio-train-00003" not in asked_uids
    run("evaluation", "eval.silence=[]", "eval.max_new_tokens=4", "sft.max_steps=1", "sft.save_every=1")
    assert [row["uid"][-5:] for row in read_jsonl(spoilt / "eval" / "sft" / "predictions.jsonl")] == [
        "00000",
        "00002",
        "00003",
    ]


def test_too_many_unreadable_clips_stop_the_run(spoilt, cache):
    # 2 of 18 is 11 %
    said = refusal(spoilt, *TINY)
    assert "2 of 18 records (11%) have unreadable media, allowed is run.max_quarantined=5%; the first: " in said
    assert "studio-train-00003.mp4: there is no such media file" in said
    assert not (spoilt / "data" / "quarantine.jsonl").exists(), "the media may be mended before the next call"


def write_wav(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * 16_000)) / 16_000
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes((8_000 * np.sin(2 * np.pi * 150 * time)).astype("<i2").tobytes())


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Eight clips of two speakers in the layout of EmoDB, one second each."""
    folder = tmp_path / "emodb"
    for speaker in ("03", "10"):
        for code in ("a01Fa", "a01Ta", "a02Fa", "a02Ta"):
            write_wav(folder / "wav" / f"{speaker}{code}.wav", 1.0)
    return folder


def garble(path: Path) -> None:
    path.write_bytes(b"RIFF of nonsense")


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9_000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (garble, "03a01Fa.wav: not a readable media file"),
        (tear, "03a01Fa.wav: holds 8956 of the 32000 bytes of sound that its header states"),
        (
            lambda path: write_wav(path, 31.0),
            "03a01Fa.wav: 31.0 s of sound, the model hears at most 30 s; cut the clip",
        ),
        (lambda path: write_wav(path, 0.01), "03a01Fa.wav: 160 samples of sound, at least 800 are needed"),
        (lambda path: write_wav(path, 0.0), "03a01Fa.wav: no sound in span None"),
        (lambda path: path.write_bytes(b""), "03a01Fa.wav: not a readable media file"),
    ],
    ids=["garbled", "torn", "too long", "too short", "silent file", "empty file"],
)
def test_an_unreadable_sound_is_set_aside_with_the_reason(corpus, tmp_path, cache, spoil, reason):
    spoil(corpus / "wav" / "03a01Fa.wav")
    data = session(tmp_path / "run", *SPEECH, *TOY, f"task.data={corpus}", "run.max_quarantined=0.2").data
    (row,) = read_jsonl(tmp_path / "run" / "data" / "quarantine.jsonl")
    assert (row["uid"], row["split"]) == ("emodb-03a01Fa", "train") and reason in row["reason"]
    assert len(data.records) == 7 and "emodb-03a01Fa" not in {r.uid for r in data.records}


# Labels of a corpus

HEADER = "id,text_en,text_zh,label,split"
ROWS = ["v1_1,a fine film,x,1.5,train", "v1_2,a poor film,x,-2,train", "v2_1,so so,x,0,valid", "v3_1,great,x,3,test"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v1_3,nothing,x,nan,train", "label.csv:6: label: a number in [-3, 3] is required; got 'nan'; mend or remove"),
        ("v1_3,too much,x,3.5,train", "label.csv:6: label: a number in [-3, 3] is required; got '3.5'; mend or remove"),
        ("v1_3,none,x,,train", "label.csv:6: label: a number in [-3, 3] is required; got ''; mend or remove"),
        ("v1_3,where,x,1,testing", "label.csv:6: split: one of ('train', 'valid', 'test'); got 'testing'; mend"),
        ("v1_3,more,x,1,train,1", "label.csv:6: row: 5 cells are required; got 6; mend"),
        ("v1_1,again,x,1,train", "records.jsonl:5: uid 'mosi-v1-1' occurs twice, first in line 1; give every row"),
        ("v1_3,leaks,x,1,test", "records.jsonl:5: group 'video-v1' occurs in split 'train' (uid 'mosi-v1-1') and in"),
    ],
    ids=["not a number", "out of range", "empty", "unknown split", "a cell too many", "twice", "two splits"],
)
def test_a_bad_row_of_a_corpus_is_refused_with_its_line(row, message, tmp_path, cache):
    (tmp_path / "mosi").mkdir()
    (tmp_path / "mosi" / "label.csv").write_text("\n".join([HEADER, *ROWS, row]) + "\n")
    assert message in refusal(tmp_path / "run", "task=mosi", *TOY, f"task.data={tmp_path / 'mosi'}")
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_speaker_in_two_splits_of_the_config_is_refused(corpus, tmp_path, cache):
    said = refusal(tmp_path / "run", *SPEECH, *TOY, f"task.data={corpus}", "task.test=['10','03']")
    assert "task.train, dev, test: each speaker belongs to one split; got ['03'] twice; mend the config" in said


def test_a_speaker_without_a_split_is_refused(corpus, tmp_path, cache):
    write_wav(corpus / "wav" / "99a01Fa.wav", 1.0)
    said = refusal(tmp_path / "run", *SPEECH, *TOY, f"task.data={corpus}")
    assert "99a01Fa.wav: speaker: one of [" in said and "got '99'; list the speaker in task.train, dev or test" in said


# Lines of a record file


class Lines(Task):
    """A task whose record file somebody else wrote."""

    def __init__(self, source: Path) -> None:
        super().__init__(name="lines", views=["text"])
        self.source = source

    def prepare(self, folder: Path) -> Path:
        shutil.copy(self.source, folder / "records.jsonl")
        return self.source.parent

    def question(self, record: Record) -> str:
        return "How does it sound?"

    def metrics(self, gold: Sequence[Target], answers: Sequence[Target | None]) -> dict[str, float]:
        return {}

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> list[Target]:
        return []


def row(uid: str, **changes: Any) -> dict[str, Any]:
    target = Scalar(1.0, -3.0, 3.0, 0.2)
    record = Record(uid=uid, task="lines", split="train", group=uid, views={"text": "hello"}, target=target)
    return record.to_json() | changes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps(row("b", target=row("b")["target"] | {"x": float("nan")})), "3: JSON numbers must be finite; got"),
        (
            json.dumps(row("b", target=row("b")["target"] | {"x": 4})),
            "3: target: x must lie in [-3.0, 3.0]; got 4; mend the label",
        ),
        (json.dumps(row("b", tagret=1)), "3: unknown field; allowed ["),
        (json.dumps(row("a")), "3: uid 'a' occurs twice, first in line 1; give every row its own uid"),
        (
            json.dumps(row("b", group="a", split="test")),
            "3: group 'a' occurs in split 'train' (uid 'a') and in split 'test'",
        ),
        ('{"uid": "b"', "3: not JSON"),
    ],
    ids=["not a number", "out of range", "unknown field", "twice", "two splits", "torn"],
)
def test_a_bad_line_of_a_record_file_is_refused_with_its_number(line, message, tmp_path):
    source = tmp_path / "mine.jsonl"
    source.write_text(f"{json.dumps(row('a'))}\n\n{line}\n")  # an empty line counts
    (tmp_path / "data").mkdir()
    with pytest.raises(RecordError) as caught:
        Lines(source).dataset(tmp_path / "data")
    assert str(caught.value).startswith(f"{tmp_path}/data/records.jsonl:{message}")


def test_a_bad_line_ends_a_command_without_a_traceback(spoilt, tmp_path):
    records = spoilt / "data" / "records.jsonl"
    lines = records.read_text().splitlines()
    records.write_text("\n".join([*lines, lines[0]]) + "\n")
    outcome = call("sft", [*TINY, f"hydra.run.dir={spoilt}"], tmp_path / "log", {})
    assert outcome.code == 1 and "Traceback" not in outcome.text
    said = outcome.text.splitlines()[-1]
    assert said.startswith(
        f"error: {records}:19: uid 'studio-train-00000' occurs twice, first in line 1; give every row"
    )


# Chains


def test_without_one_accepted_chain_sft_says_where_to_look(tmp_path):
    def run(verb: str):
        arguments = [*TINY, "synth.min_words=200", f"hydra.run.dir={tmp_path / 'run'}"]
        return call(verb, arguments, tmp_path / "log", {"UNDERTONE_CACHE": str(tmp_path / "cache")})

    synth = run("data_synth")
    assert synth.code == 0 and "'asked': 12, 'accepted': 0" in synth.text
    outcome = run("sft")
    assert outcome.code == 1 and "Traceback" not in outcome.text
    assert "error: sft: no example to train on; look at the rejections of data_synth" in outcome.text.splitlines()[-1]
