"""From a data set to verified chains: ask the teacher, keep what it writes, judge, choose, write.

folder/journal.db       every draft as it arrives, on the disk before anything else is done with it (data_synth/journal.py)
folder/outcomes.db      what became of each record; made anew from the journal (data_synth/outcomes.py)
folder/server.json      what the teacher found out about its server, if it has one
folder/chains.jsonl     what is kept, and
folder/rejected.jsonl   what is not, with the reason (data_synth/files.py); written whole at the end

Records are read when their turn comes and forgotten when they are done, so memory does not grow with their number.
"""

import asyncio
import hashlib
import random
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_synth.config import SynthConfig
from data_synth.files import write_files
from data_synth.frontier import Frontier
from data_synth.journal import Journal
from data_synth.outcomes import Outcome, Outcomes, rejected_row
from data_synth.protocol import Desk, Pursuit, provenance, pursue
from data_synth.teacher import Case, Teacher, blind
from models.budget import BudgetSpent
from runtime.errors import MediaError, StageError
from runtime.files import digest, sha256, write_json
from tasks.base import Dataset, Task
from tasks.dc import Answer
from tasks.record import Record


def synthesize(task: Task, dataset: Dataset, teacher: Teacher, settings: SynthConfig, folder: Path) -> dict[str, Any]:
    """Have chains written for the training split and keep those that the task's grader accepts.

    Same records, teacher and settings give the same files, whatever the order in which answers come. When a former call was
    cut off, or its budget was spent, its journal is used first. A shard writes all its chains; `merge` chooses among them.

    Args:
        task: asks and grades.
        dataset: its records and media root; only the split `train` is used.
        teacher: sees cases, never records.
        settings: order, limit, protocol and acceptance rules.
        folder: of this run, or of this shard, alone.

    Returns:
        What `write_files` does, and of the whole journal `requests`, `tokens` and `cost` (None without prices); `stopped` is
        "budget" when it ended the work before its time, else None.

    Raises:
        StageError: when the teacher cannot work at all; call again to continue.
    """
    order = asking_order(dataset, settings.seed)
    places = own_places(dataset, order, settings.part)
    teacher.fit(_cases(task, dataset, order))
    with Journal(folder / "journal.db") as journal, Outcomes(folder / "outcomes.db", fresh=True) as outcomes:
        if teacher.budget is not None:
            teacher.budget.spent = journal.spent()
        stopped = asyncio.run(_ask(Desk(task, teacher, journal, settings), dataset, order, places, outcomes))
        if found := teacher.found():
            write_json(folder / "server.json", found)
        spent = journal.spent()
        chosen = replace(settings, limit=None, balance=None, near_duplicate=None) if settings.shard else settings
        result = write_files(outcomes, chosen, folder)
    cost = None if teacher.budget is None else teacher.budget.cost(spent)
    return result | {"requests": spent.requests, "tokens": spent.tokens, "cost": cost, "stopped": stopped}


def asking_order(dataset: Dataset, seed: int) -> array:
    """Positions in `dataset.records` of the training records, in the order in which they are asked about."""
    order = array("q", (i for i, record in enumerate(dataset.records) if record.split == "train"))
    random.Random(seed).shuffle(order)
    return order


def own_places(dataset: Dataset, order: array, shard: tuple[int, int]) -> array:
    """Places in `order` that belong to shard (number from 0, of how many); which it is, a hash of the uid says."""
    part, parts = shard
    if parts == 1:
        return array("q", range(len(order)))
    mine = (place for place, i in enumerate(order) if _number(dataset.records[i].uid) % parts == part)
    return array("q", mine)


def _number(uid: str) -> int:
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8])


def _cases(task: Task, dataset: Dataset, order: array) -> Iterator[Case]:
    for i in order:
        with suppress(MediaError):  # `_outcome` meets it again
            yield blind(task, dataset.records[i], dataset.root)


async def _ask(desk: Desk, dataset: Dataset, order: array, places: array, outcomes: Outcomes) -> str | None:
    """Ask about records, `teacher.concurrency` at once, until the limit is reached or the budget is spent; says if the latter.

    When a request fails for good, those in flight are waited for, since they are paid for, and nothing new is begun.
    """
    teacher, frontier = desk.teacher, Frontier(places, outcomes, desk.settings)
    todo, flying, failures = iter(range(len(places))), set(), []

    async def one(index: int) -> tuple[int, Outcome]:
        record = dataset.records[order[places[index]]]
        return index, await _outcome(desk, record, dataset.root, places[index])

    bar = Progress(desk, len(places))
    async with teacher:
        try:
            while not frontier.full:
                while not (failures or frontier.enough) and len(flying) < teacher.concurrency:
                    if (index := next(todo, None)) is None:
                        break
                    flying.add(asyncio.create_task(one(index)))
                if not flying:
                    break
                done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    try:
                        index, outcome = ended.result()
                    except StageError as error:
                        failures.append(error)
                        continue
                    outcomes.add(outcome)
                    frontier.take(index, outcome.chain is not None)
                    bar.update(frontier.kept, outcome)
        finally:
            bar.close()
            for ended in flying:
                ended.cancel()
            await asyncio.gather(*flying, return_exceptions=True)
    for error in failures:
        if not isinstance(error, BudgetSpent):
            raise error
    return "budget" if failures else None


async def _outcome(desk: Desk, record: Record, root: Path, place: int) -> Outcome:
    """Carry out the protocol for one record. One whose media cannot be read is rejected, and tried again in the next call."""
    coarse = record.target.coarse() or "all"
    common = {"teacher": desk.teacher.name, "settings": desk.teacher.settings(), "prompt_hash": None}
    common["record_hash"] = digest(record.to_json())
    try:
        case = blind(desk.task, record, root)
        common["prompt_hash"] = await generation(desk.teacher, case)
        pursuit = await pursue(desk, record, case, common["prompt_hash"])
    except MediaError as error:
        synth = common | {"step": "write", "index": 0, "pass_rate": 0.0, "draft": {}, "parts": {}}
        row = rejected_row(record.uid, "write", 0, f"unreadable media: {error}", None, synth)
        return Outcome(place, record.uid, coarse, 0.0, "", None, (row,))
    return _from_pursuit(desk.task, record, place, common, pursuit)


def _from_pursuit(task: Task, record: Record, place: int, common: dict[str, Any], pursuit: Pursuit) -> Outcome:
    coarse, share = record.target.coarse() or "all", pursuit.pass_rate
    rejected = tuple(
        rejected_row(record.uid, a.step, a.index, a.verdict.reason or "", a.draft.text, provenance(common, a, share))
        for a in pursuit.rejected
    )
    chosen = pursuit.chosen
    if chosen is None:
        return Outcome(place, record.uid, coarse, share, "", None, rejected)
    assert chosen.draft.text is not None
    synth = provenance(common, chosen, share)
    chain = replace(record, rationale=chosen.draft.text.strip(), meta={**record.meta, "synth": synth})
    answer = task.parse(record, chosen.draft.text)
    assert isinstance(answer, Answer), "it was verified"
    return Outcome(place, record.uid, coarse, share, answer.explanation, chain.to_json(), rejected)


async def generation(teacher: Teacher, case: Case) -> str:
    """Hash of all that a draft depends on; media count by content, so a moved data folder changes nothing.

    Raises:
        MediaError: when a file cannot be read.
    """
    shown = [
        {k: v for k, v in part.items() if k != "path"}
        | ({"sha256": await asyncio.to_thread(_content, part["path"])} if "path" in part else {})
        for message in case.messages
        for part in message["content"]
    ]
    space = [case.like.to_json(), case.grammar.name]
    return digest([teacher.name, teacher.settings(), teacher.instructions(case), shown, space])


def _content(path: str) -> str:
    try:
        return sha256(Path(path))
    except OSError as error:
        raise MediaError(
            f"{path}: cannot be read ({error.strerror}); mend the record's path, or remove the record"
        ) from None


class Progress:
    """A bar with what was accepted and spent; it ends at the limit where there is one, else at the last record."""

    def __init__(self, desk: Desk, records: int) -> None:
        settings, self._budget = desk.settings, desk.teacher.budget
        self._limit = settings.limit if settings.balance is None else None
        self._accepted = 0
        self._bar = tqdm(total=self._limit or records, desc=f"synthesis ({desk.teacher.name})", disable=None)

    def update(self, kept: int, outcome: Outcome) -> None:
        """One more record is done; `kept` chains are sure."""
        self._accepted += outcome.chain is not None
        self._bar.update(1 if self._limit is None else kept - self._bar.n)
        shown: dict[str, object] = {"accepted": self._accepted}
        if self._budget is not None:
            shown["tokens"] = self._budget.spent.tokens
            if (cost := self._budget.cost()) is not None:
                shown["cost"] = f"{cost:.2f}"
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._bar.close()
