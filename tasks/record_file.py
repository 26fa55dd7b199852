"""Records that stay on disk: a file of any length is checked once, and then read record by record."""

import hashlib
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tasks.record import SPLITS, Record, read_records, record_from_line, record_lines


class RecordFile:
    """The records of a file in file order; a record takes 8 bytes of memory.

    Args:
        path: a record file, which must not change while this is used.

    Raises:
        RecordError: as `read_records` does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places, uids, groups, splits = array("q"), array("Q"), array("Q"), bytearray()
        for place, number, line in record_lines(path):
            record = record_from_line(path, number, line)
            self._places.append(place)
            uids.append(_hash(record.uid))
            groups.append(_hash(record.group))
            splits.append(SPLITS.index(record.split))
        if _repeats(uids) or _crosses(groups, splits):
            read_records(path)  # says where; or finds that two hashes are equal by chance

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        with self.path.open("rb") as file:
            return self._read(file, self._places[index])

    def __iter__(self) -> Iterator[Record]:
        with self.path.open("rb") as file:
            for place in self._places:
                yield self._read(file, place)

    def _read(self, file: BinaryIO, place: int) -> Record:
        file.seek(place)
        return record_from_line(self.path, f"byte {place}", file.readline().decode())

    def without(self, uids: Collection[str]) -> "RecordFile":
        """The same file without some of its records."""
        left = RecordFile.__new__(RecordFile)
        left.path = self.path
        left._places = array("q", (p for p, record in zip(self._places, self, strict=True) if record.uid not in uids))
        return left


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _repeats(uids: array) -> bool:
    return len(np.unique(np.frombuffer(uids, dtype=np.uint64))) < len(uids)


def _crosses(groups: array, splits: bytearray) -> bool:
    """Whether records of one group are in different splits."""
    group, split = np.frombuffer(groups, dtype=np.uint64), np.frombuffer(splits, dtype=np.uint8)
    order = np.argsort(group)
    return bool(((np.diff(group[order]) == 0) & (np.diff(split[order].astype(int)) != 0)).any())
