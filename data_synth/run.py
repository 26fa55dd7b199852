"""From a data set to verified chains: ask the teacher, keep a journal, judge, write.

folder/journal.jsonl    every draft as it arrives, one fsynced line each: what a killed run has paid for is kept
folder/chains.jsonl     accepted: the records with `rationale` and `meta.synth`; written whole at the end
folder/rejected.jsonl   everything else that was asked, with the reason
"""

import asyncio
import json
import os
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_synth.config import SynthConfig
from data_synth.teacher import Case, Draft, Teacher, blind
from data_synth.verify import verify
from runtime.errors import MediaError
from runtime.files import digest, sha256, write_jsonl
from tasks.base import Dataset, Task
from tasks.record import Record, write_records


class Journal:
    """Append-only memory of drafts. A line that a kill tore off is dropped when the file is opened again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._drafts: dict[tuple[str, str], Draft] = {}
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            row = json.loads(line)
            self._drafts[row["uid"], row["prompt_hash"]] = Draft(row["text"], row["reason"], row["provenance"])
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def find(self, uid: str, prompt_hash: str) -> Draft | None:
        """What was written about this record for this very prompt."""
        return self._drafts.get((uid, prompt_hash))

    def add(self, uid: str, prompt_hash: str, draft: Draft) -> None:
        """Remember a draft; it is on the disk when this returns."""
        row = {"uid": uid, "prompt_hash": prompt_hash} | asdict(draft)
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def synthesize(task: Task, dataset: Dataset, teacher: Teacher, settings: SynthConfig, folder: Path) -> dict[str, Any]:
    """Have chains written for the training split and keep those that the task's grader accepts.

    Same records, teacher and settings give the same files. When a former call was cut off, its journal is used first.

    Args:
        task: asks and grades.
        dataset: its records and media root; only the split `train` is used.
        teacher: sees cases, never records.
        settings: order, limit and acceptance rules.
        folder: of this run alone.

    Returns:
        `asked`, `accepted`, `rejected` {kind of reason: count}, `by_coarse` {coarse gold: {asked, accepted}}.

    Raises:
        StageError: when the teacher cannot work at all; call again to continue.
    """
    records = dataset.split("train")
    random.Random(settings.seed).shuffle(records)
    items = [(record, _case(task, record, dataset.root)) for record in records]
    teacher.fit([case for _, case in items if isinstance(case, Case)])
    chains, rejected, result = asyncio.run(_ask(task, items, teacher, settings, folder))
    write_records(folder / "chains.jsonl", chains)
    write_jsonl(folder / "rejected.jsonl", rejected)
    return result


def _case(task: Task, record: Record, root: Path) -> Case | MediaError:
    try:
        return blind(task, record, root)
    except MediaError as error:
        return error


async def _ask(
    task: Task, items: Sequence[tuple[Record, Case | MediaError]], teacher: Teacher, settings: SynthConfig, folder: Path
) -> tuple[list[Record], list[dict[str, Any]], dict[str, Any]]:
    chains: list[Record] = []
    rejected: list[dict[str, Any]] = []
    asked: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    common = {"teacher": teacher.name, "settings": teacher.settings()}
    journal = Journal(folder / "journal.jsonl")
    bar = tqdm(total=len(items), desc=f"synthesis ({teacher.name})", disable=None)
    try:
        async with teacher, aclosing(_drafts(items, teacher, journal)) as drafts:
            async for record, prompt_hash, draft in drafts:
                verdict = verify(task, record, draft, settings)
                coarse = record.target.coarse() or "all"
                asked[coarse] += 1
                source = common | {"prompt_hash": prompt_hash, "record_hash": digest(record.to_json())}
                source |= {"draft": dict(draft.provenance), "parts": dict(verdict.parts)}
                if verdict.accepted:
                    accepted[coarse] += 1
                    assert draft.text is not None
                    chains.append(replace(record, rationale=draft.text.strip(), meta={**record.meta, "synth": source}))
                else:
                    assert verdict.reason is not None
                    reasons[verdict.reason.partition(":")[0]] += 1
                    rejected.append({"uid": record.uid, "reason": verdict.reason, "text": draft.text, "synth": source})
                bar.update()
                bar.set_postfix(accepted=len(chains), refresh=False)
                if len(chains) == settings.limit:
                    break
    finally:
        bar.close()
        journal.close()
    result = {
        "asked": asked.total(),
        "accepted": len(chains),
        "rejected": dict(reasons.most_common()),
        "by_coarse": {c: {"asked": asked[c], "accepted": accepted[c]} for c in sorted(asked)},
    }
    return chains, rejected, result


async def _drafts(
    items: Sequence[tuple[Record, Case | MediaError]], teacher: Teacher, journal: Journal
) -> AsyncGenerator[tuple[Record, str | None, Draft]]:
    """Drafts with the hash of their prompt, at most `teacher.concurrency` in flight.

    They come in the order of `items`, so that a limit always cuts at the same place.
    """

    async def one(record: Record, case: Case | MediaError) -> tuple[Record, str | None, Draft]:
        try:
            if isinstance(case, MediaError):
                raise case
            prompt_hash = _prompt_hash(teacher, case)
            draft = journal.find(record.uid, prompt_hash)
            if draft is None:
                draft = await teacher.write(case)
                journal.add(record.uid, prompt_hash, draft)
        except MediaError as error:  # not in the journal: the file may be mended before the next call
            return record, None, Draft(None, f"unreadable media: {error}")
        return record, prompt_hash, draft

    window: deque[asyncio.Task[tuple[Record, str | None, Draft]]] = deque()
    try:
        for record, case in items:
            window.append(asyncio.create_task(one(record, case)))
            if len(window) >= teacher.concurrency:
                yield await window.popleft()
        while window:
            yield await window.popleft()
    finally:
        for waiting in window:
            waiting.cancel()
        await asyncio.gather(*window, return_exceptions=True)


def _prompt_hash(teacher: Teacher, case: Case) -> str:
    """Hash of all that the draft depends on; media count by content, so a moved data folder changes nothing."""
    shown = [
        {k: v for k, v in part.items() if k != "path"} | ({"sha256": _content(part["path"])} if "path" in part else {})
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
