"""A record file, read to its end: what `tasks.record.read_records` stops at is noted here, line by line.

These findings are about the file. A run refuses such a file as a whole, so they have to be mended; setting records aside does not
help.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.doctor.findings import Finding
from runtime.errors import RecordError
from tasks.record import SPLITS, Record, record_from_json
from tasks.target import target_from_json


def read(path: Path) -> tuple[list[Record], list[Finding]]:
    """Every line that is a record, the first one of each uid, and what is wrong with the file.

    Args:
        path: JSONL of records.

    Raises:
        RecordError: when there is no such file, or not one line of it is a record.
    """
    if not path.is_file():
        raise RecordError(f"{path}: there is no such record file; run the verb that writes it, or mend the path")
    records: dict[str, Record] = {}
    line_of: dict[str, int] = {}
    findings: list[Finding] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        record = _record(line, where, findings)
        if record is None:
            continue
        if record.uid in records:
            reason = (
                f"{where}: uid {record.uid!r} is that of line {line_of[record.uid]}, too; give every row its own uid"
            )
            findings.append(Finding("uid", record.uid, reason))
            continue
        records[record.uid], line_of[record.uid] = record, number
    if not records:
        first = findings[0].reason if findings else "it is empty"
        raise RecordError(f"{path}: no line of it is a record; {first}")
    return list(records.values()), findings + groups_in_two_splits(list(records.values()))


def _record(line: bytes, where: str, findings: list[Finding]) -> Record | None:
    """The record of a line, or None and a finding."""
    try:
        obj = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        reason = f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8"
        findings.append(Finding("record", None, reason))
        return None
    except json.JSONDecodeError as error:
        reason = f"{where}: not JSON ({error.msg} at column {error.colno}); mend or remove the line"
        findings.append(Finding("record", None, reason))
        return None
    except RecordError as error:
        findings.append(Finding("record", None, f"{where}: {error}"))
        return None
    uid = obj.get("uid") if isinstance(obj, Mapping) and isinstance(obj.get("uid"), str) else None
    if refused := _refused_target(obj):
        findings.append(Finding("label", uid, f"{where}: {refused}"))
        return None
    try:
        return record_from_json(obj)
    except (RecordError, TypeError) as error:
        findings.append(Finding("record", uid, f"{where}: {error}"))
        return None


def _refuse(name: str) -> Any:
    raise RecordError(f"JSON numbers must be finite; got {name!r}; remove the row or mend its label")


def _refused_target(obj: Any) -> str | None:
    """Why the target of a row is none, where the row has one at all."""
    if not isinstance(obj, Mapping) or not isinstance(obj.get("target"), Mapping):
        return None
    try:
        target_from_json(obj["target"])
    except (RecordError, TypeError) as error:
        return str(error)
    return None


def groups_in_two_splits(records: Sequence[Record]) -> list[Finding]:
    """One finding for each group that occurs in more than one split."""
    members: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        members.setdefault(record.group, {}).setdefault(record.split, []).append(record)
    findings = []
    for group, by_split in members.items():
        if len(by_split) < 2:
            continue
        counts = ", ".join(f"{len(by_split[s])} in {s}" for s in SPLITS if s in by_split)
        fewest = min(by_split.values(), key=len)
        reason = f"group {group!r} has {counts}; keep every speaker, dialogue or text in one split"
        findings.append(Finding("group", fewest[0].uid, reason))
    return findings
