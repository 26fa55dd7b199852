"""Records that stay on disk are those that `read_records` reads, and are refused for the same reasons."""

import json
import tracemalloc
from pathlib import Path

import pytest

from runtime.errors import RecordError
from tasks.base import Dataset
from tasks.record import Record, read_records, write_records
from tasks.record_file import RecordFile
from tasks.target import Scalar


def record(i: int, split: str = "train", group: str | None = None, text: str = "wörd\u2028s") -> Record:
    return Record(
        uid=f"u{i}", task="t", split=split, group=group or f"g{i}", views={"text": text}, target=Scalar(i % 3, -3, 3)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    write_records(path, [record(i, ("train", "dev", "test")[i % 3]) for i in range(7)])
    path.write_text("\n  \n" + path.read_text())  # blank lines are no records
    return path


def test_it_gives_the_records_of_the_file_in_any_order(path):
    file, whole = RecordFile(path), read_records(path)
    assert len(file) == 7 and list(file) == whole
    assert [file[i] for i in (6, 0, 3)] == [whole[6], whole[0], whole[3]]


def test_some_can_be_left_out(path):
    data = Dataset(RecordFile(path), path.parent).without({"u0", "u5"})
    same = Dataset(tuple(read_records(path)), path.parent).without({"u0", "u5"})
    assert [r.uid for r in data.records] == ["u1", "u2", "u3", "u4", "u6"] == [r.uid for r in same.records]
    assert data.records[0] == same.records[0] and data.split("dev") == same.split("dev")


def _lines(rows: list[Record]) -> list[str]:
    return [json.dumps(r.to_json()) for r in rows]


@pytest.mark.parametrize(
    "lines, message",
    [
        ([*_lines([record(0)]), "{"], r":2: not JSON"),
        (['{"uid": "u"}'], r":1: split: one of"),
        (
            _lines([record(0), record(1), record(0)]),
            r":3: uid 'u0' occurs twice, first in line 1; give every row its own",
        ),
        (_lines([record(0, group="g"), record(1), record(2, "dev", "g")]), r":3: group 'g' occurs in split 'train'"),
    ],
)
def test_a_bad_file_is_refused_as_if_it_were_read_whole(tmp_path, lines, message):
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines) + "\n")
    for read in (read_records, RecordFile):
        with pytest.raises(RecordError, match=message):
            read(path)


def test_a_file_that_is_not_there_or_not_utf8_is_refused(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b"\n\xe4")
    with pytest.raises(RecordError, match="byte 1 is not UTF-8"):
        RecordFile(tmp_path / "latin.jsonl")
    with pytest.raises(RecordError, match="there is no such record file"):
        RecordFile(tmp_path / "nowhere.jsonl")


def test_a_record_takes_a_few_bytes_of_memory(tmp_path):
    path = tmp_path / "long.jsonl"
    write_records(path, (record(i, text="word " * 400) for i in range(2000)))
    tracemalloc.start()
    file = RecordFile(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(file) == 2000 and path.stat().st_size > 4_000_000
    assert held < 2000 * 8 + 100_000
