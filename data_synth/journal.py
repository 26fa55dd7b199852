"""What a teacher has written, in an SQLite file that survives a kill at any moment; nothing in it is ever asked for again.

A draft is known by the record's uid, its *generation* (hash of all that it was made from: prompt, media, teacher, sampling), the
step of the protocol and its index. Another prompt or another teacher is another generation; old ones stay. Rows are added and
never changed.

HTTP knows no "this is the same request as before": what was in flight when a process was killed is asked for again, at most
`teacher.concurrency` items, and so is a reply that came in during the last few milliseconds. Whatever `add` has returned for is
on the disk (`synchronous=FULL`). The file is locked while it is open, so that two processes cannot pay for the same drafts; and
without the shared memory that SQLite would use otherwise, which network file systems do not have.
"""

import asyncio
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from data_synth.teacher import Draft
from models.budget import Spent
from runtime.errors import StageError

T = TypeVar("T")

TABLE = """
CREATE TABLE IF NOT EXISTS drafts (
    uid TEXT, generation TEXT, step TEXT, number INTEGER,
    text TEXT, reason TEXT, provenance TEXT,
    requests INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
    PRIMARY KEY (uid, generation, step, number)
) WITHOUT ROWID
"""


class Journal:
    """Memory of drafts. Used as a context manager inside a running event loop's program; closed, it is one file.

    Args:
        path: of the file, in the folder of the run.

    Raises:
        StageError: when another process has it open, or the folder holds the journal of a former version.
    """

    def __init__(self, path: Path) -> None:
        old = path.with_name("journal.jsonl")
        if old.exists():
            raise StageError(
                f"{old}: drafts in the format of a former version, which this one does not read; choose another run.name, "
                "or delete the file to have them written anew"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._thread = ThreadPoolExecutor(1, "journal")  # the disk is waited for here, and requests go on meanwhile
        self._new: deque[tuple[Any, ...]] = deque()
        try:
            self._db = self._thread.submit(_open, path).result()
        except sqlite3.OperationalError as error:
            self._thread.shutdown()
            raise StageError(
                f"{path}: cannot be opened ({error}); if another process is at work in this folder, wait for it or choose "
                "another run.name"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.submit(self._write).result()
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()

    async def find(self, uid: str, generation: str, step: str) -> dict[int, Draft]:
        """The drafts of one step by index; empty where none was written."""
        query = "SELECT number, text, reason, provenance FROM drafts WHERE uid = ? AND generation = ? AND step = ?"
        rows = await self._run(lambda: self._db.execute(query, (uid, generation, step)).fetchall())
        return {number: Draft(text, reason, json.loads(provenance)) for number, text, reason, provenance in rows}

    async def add(self, uid: str, generation: str, step: str, drafts: Mapping[int, Draft]) -> None:
        """Keep the drafts of one request; they are on the disk when this returns.

        They are in the queue at once, even if the caller is cancelled. Requests that end while the disk is busy are
        written together.
        """
        for order, (number, draft) in enumerate(drafts.items()):
            usage = draft.provenance.get("usage") or {}
            cost = (int(order == 0), usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
            provenance = json.dumps(dict(draft.provenance), ensure_ascii=False, allow_nan=False)
            self._new.append((uid, generation, step, number, draft.text, draft.reason, provenance, *cost))
        await self._run(self._write)

    def spent(self) -> Spent:
        """What all drafts of all generations have cost. A request whose reply was lost is not known here."""
        query = "SELECT SUM(requests), SUM(prompt_tokens), SUM(completion_tokens) FROM drafts"
        return Spent(*(n or 0 for n in self._thread.submit(lambda: self._db.execute(query).fetchone()).result()))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _write(self) -> None:
        """Commit all that waits; nothing, when a former call has taken it along."""
        rows = [self._new.popleft() for _ in range(len(self._new))]
        if rows:
            with self._db:
                self._db.executemany(f"INSERT INTO drafts VALUES ({', '.join('?' * len(rows[0]))})", rows)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=1)
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        db.execute(f"PRAGMA {pragma}")
    with db:
        db.execute(TABLE)
    return db
