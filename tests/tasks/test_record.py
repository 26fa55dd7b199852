"""Records: a strict line format, errors that say what to do, media pointers that stay below their root."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import targets

from runtime.errors import MediaError, RecordError
from tasks.record import Media, Record, Turn, check_groups, read_records, record_from_json, resolve, write_records
from tasks.target import Scalar

ROW: dict[str, Any] = {
    "uid": "c1",
    "task": "toy",
    "split": "train",
    "group": "anna",
    "views": {"text": "well then", "audio": {"kind": "audio", "path": "c1.wav", "span": [0.5, 2]}},
    "target": {"kind": "scalar", "x": 0.5, "lo": -1, "hi": 1},
    "raters": [["r1", "x", 0.4], ["r2", "mood", "fine"]],
    "rationale": None,
    "meta": {"conflict": False},
}


def row(**changes: Any) -> dict[str, Any]:
    return {**ROW, **changes}


def record(uid: str, group: str, split: str) -> Record:
    return Record(uid=uid, task="toy", split=split, group=group, views={"text": "so"}, target=Scalar(0, -1, 1))


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return path


names = st.text(min_size=1).filter(lambda s: bool(s.strip()))
views = st.one_of(
    st.text(),
    st.builds(Media, st.sampled_from(["audio", "image", "video"]), names, st.none() | st.just((0.0, 1.5))),
    st.lists(st.builds(Turn, names, names), min_size=1, max_size=3).map(tuple),
)
records = st.builds(
    Record,
    uid=names,
    task=names,
    split=st.sampled_from(["train", "dev", "test"]),
    group=names,
    views=st.dictionaries(st.text(), views, min_size=1, max_size=3),
    target=targets,
    raters=st.none() | st.lists(st.tuples(names, names, st.floats(-3, 3) | names), max_size=3).map(tuple),
    rationale=st.none() | st.text(),
    meta=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=3),
)


@given(records)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_record_survives_the_file(tmp_path: Path, record: Record) -> None:
    write_records(tmp_path / "records.jsonl", [record])
    assert read_records(tmp_path / "records.jsonl") == [record]


def test_line_separators_inside_a_text_do_not_end_the_line(tmp_path: Path) -> None:
    odd = Record(
        uid="a",
        task="toy",
        split="test",
        group="g",
        views={"text": "one\u2028two\x85three\r\n"},
        target=Scalar(0, -1, 1),
    )
    write_records(tmp_path / "records.jsonl", [odd])
    assert read_records(tmp_path / "records.jsonl") == [odd]


def test_the_worked_line_of_the_module_reads() -> None:
    found = record_from_json(ROW)
    assert found.views["audio"] == Media("audio", "c1.wav", (0.5, 2.0))
    assert found.raters == (("r1", "x", 0.4), ("r2", "mood", "fine"))


def test_optional_fields_may_be_absent_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    short = {k: v for k, v in ROW.items() if k not in ("raters", "rationale", "meta")}
    (found,) = read_records(write(tmp_path / "r.jsonl", "", short, "  "))
    assert (found.raters, found.rationale, found.meta) == (None, None, {})


BROKEN = [
    ("{not json", "not JSON (Expecting property name enclosed in double quotes at column 2)"),
    ([1], "a record is a JSON object; got [1]"),
    ('{"uid": "c1", "target": {"kind": "scalar", "x": NaN}}', "JSON numbers must be finite; got 'NaN'"),
    (row(target=ROW["target"] | {"x": 4}), "x must lie in [-1, 1]; got 4; mend the label or the declared range"),
    (row(target=None), "target: kind must be one of"),
    (row(lable=1), "unknown field; allowed"),
    (row(uid=" "), "uid: a non-empty string is required; got ' '"),
    (row(uid=7), "uid: a non-empty string is required; got 7"),
    ({k: v for k, v in ROW.items() if k != "group"}, "group: a non-empty string is required; got None"),
    (row(task=""), "task: a non-empty string is required"),
    (row(split="valid"), "split: one of ('train', 'dev', 'test'); got 'valid'"),
    (row(views={}), "views: an object with at least one view"),
    (row(views={"text": 3}), "views.text: must be a string, a list of {speaker, text}, or"),
    (row(views={"talk": [{"speaker": "a"}]}), "views.talk: must be"),
    (row(views={"talk": [{"speaker": "a", "text": ""}]}), "text: a non-empty string is required"),
    (row(views={"audio": {"kind": "smell", "path": "a"}}), "views.audio: must be"),
    (row(views={"audio": {"kind": "audio", "path": "a", "rate": 8}}), "views.audio: must be"),
    (row(views={"audio": {"kind": "audio", "path": "a", "span": [2, 1]}}), "views.audio.span: [start, end] in seconds"),
    (
        row(views={"audio": {"kind": "audio", "path": "a", "span": ["a", "b"]}}),
        "views.audio.span: [start, end] in seconds",
    ),
    (row(raters=[["r1", 0.5]]), "raters: null or a list of [rater, field, number or word]"),
    (row(raters=[["r1", "x", [1]]]), "raters: null or a list of [rater, field, number or word]"),
    (row(rationale=3), "rationale: null or a string; got 3"),
    (row(meta=[]), "meta: an object; got []"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_bad_line_is_refused_with_place_value_and_remedy(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "r.jsonl", row(uid="fine"), line)
    with pytest.raises(RecordError) as caught:
        read_records(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:2: ") and message in text
    assert any(
        remedy in text.rpartition(";")[2] for remedy in ("mend", "remove", "write one object", "move it into meta")
    )


def test_a_uid_occurs_once(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(), row())
    with pytest.raises(
        RecordError, match=r"r\.jsonl:2: uid 'c1' occurs twice, first in line 1; give every row its own"
    ):
        read_records(path)


def test_no_group_is_in_two_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row(), row(uid="c2", split="test"))
    with pytest.raises(
        RecordError, match=r"r\.jsonl:2: group 'anna' occurs in split 'train' \(uid 'c1'\) and in .*'test'.*keep"
    ):
        read_records(path)
    check_groups([record("a", "g", "train"), record("b", "g", "train"), record("c", "h", "test")])


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere\.jsonl: there is no such record file; run the verb that writes it"):
        read_records(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"uid": "é"}'.encode("latin-1"))
    with pytest.raises(RecordError, match=r"latin\.jsonl: byte 9 is not UTF-8; save the file as UTF-8"):
        read_records(tmp_path / "latin.jsonl")


def test_nan_is_never_written(tmp_path: Path) -> None:
    bad = Record(
        uid="a", task="t", split="dev", group="g", views={"text": ""}, target=Scalar(0, -1, 1), meta={"x": float("nan")}
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_records(tmp_path / "r.jsonl", [bad])
    assert not (tmp_path / "r.jsonl").exists()


def test_a_pointer_leads_below_the_root(tmp_path: Path) -> None:
    assert resolve(tmp_path, "clips/../clips/a.wav") == (tmp_path / "clips" / "a.wav").resolve()


@pytest.mark.parametrize("path", ["../a.wav", "clips/../../a.wav", "/etc/hosts"])
def test_a_pointer_that_leaves_the_root_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(MediaError, match=r"leads outside the data root .*; store a path relative to the root"):
        resolve(tmp_path, path)


def test_a_link_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.wav").touch()
    os.symlink(tmp_path / "secret.wav", root / "link.wav")
    with pytest.raises(MediaError, match="leads outside the data root"):
        resolve(root, "link.wav")


@pytest.mark.parametrize(
    "path", ["http://example.org/a.wav", "s3://bucket/a.wav", "file:///etc/hosts", "data:audio/wav;base64,AA"]
)
def test_a_url_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(
        MediaError, match=r"is a URL; only files below .* are read; fetch it first and store a relative path"
    ):
        resolve(tmp_path, path)
