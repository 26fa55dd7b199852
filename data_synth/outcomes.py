"""What became of each record, on disk by its place in the order of asking; derived from the journal, and made anew by every run.

Records are done in any order. Here they are put in order, so that the files of a run do not depend on who answered first, and
nothing but numbers stays in memory. A shard's file is what `data_synth/merge.py` reads.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

FIELDS = ("place", "uid", "coarse", "pass_rate", "explanation", "chain", "rejected")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One record that was asked about."""

    place: int
    """In the order of asking, from 0, over all shards."""
    uid: str
    coarse: str
    """Gold verdict, `all` for a target without one."""
    pass_rate: float
    """Share in [0, 1] of the label-free candidates that were accepted."""
    explanation: str
    """Of the chain; empty without one."""
    chain: dict[str, Any] | None
    """The record with `rationale` and `meta.synth`, JSON-able; None when nothing was accepted."""
    rejected: tuple[dict[str, Any], ...]
    """Rows of rejected.jsonl."""

    def unselected(self, reason: str) -> "Outcome":
        """The same with its chain among the rejected ones."""
        assert self.chain is not None
        synth = self.chain["meta"]["synth"]
        row = rejected_row(self.uid, "select", synth["index"], reason, self.chain["rationale"], synth)
        return replace(self, chain=None, rejected=(*self.rejected, row))


def rejected_row(
    uid: str, step: str, index: int, reason: str, text: str | None, synth: dict[str, Any]
) -> dict[str, Any]:
    """One line of rejected.jsonl."""
    return {"uid": uid, "step": step, "index": index, "reason": reason, "text": text, "synth": synth}


class Outcomes:
    """A file of outcomes. Not durable before it is closed: what a kill takes is made again from the journal.

    Args:
        path: of the file.
        fresh: whether to forget what it holds.
    """

    def __init__(self, path: Path, fresh: bool) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = MEMORY")
        self._db.execute("PRAGMA synchronous = OFF")
        if fresh:
            self._db.execute("DROP TABLE IF EXISTS outcomes")
        self._db.execute(f"CREATE TABLE IF NOT EXISTS outcomes ({', '.join(FIELDS)}, PRIMARY KEY (place))")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def add(self, outcome: Outcome) -> None:
        """Keep one."""
        chain, rejected = (
            json.dumps(v, ensure_ascii=False, allow_nan=False) for v in (outcome.chain, outcome.rejected)
        )
        row = (outcome.place, outcome.uid, outcome.coarse, outcome.pass_rate, outcome.explanation, chain, rejected)
        self._db.execute(f"INSERT INTO outcomes VALUES ({', '.join('?' * len(FIELDS))})", row)

    def at(self, place: int) -> Outcome:
        """That of one place, which must have been added."""
        return _outcome(self._db.execute("SELECT * FROM outcomes WHERE place = ?", (place,)).fetchone())

    def __iter__(self) -> Iterator[Outcome]:
        """All, in the order of asking."""
        return map(_outcome, self._db.execute("SELECT * FROM outcomes ORDER BY place"))


def _outcome(row: tuple[Any, ...]) -> Outcome:
    place, uid, coarse, pass_rate, explanation, chain, rejected = row
    return Outcome(place, uid, coarse, pass_rate, explanation, json.loads(chain), tuple(json.loads(rejected)))
