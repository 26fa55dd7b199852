"""Texts with sets of labels, cut into a part to train on and a part that is held out, with no text in both.

A line of a JSONL corpus, for example of explanations in the language that a task's own are written in:

    {"text": "the voice drops", "labels": ["sadness"], "group": "clip-7", "split": "train"}

`labels` may be empty; `group` (what must not be torn apart) is the text itself where it is left out; `split` is train or
test on every line or on none: a fifth of the groups, chosen by seed, is then held out.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import RecordError
from tasks.readers.table import error, read_text

SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class Example:
    """A text and all labels that apply to it."""

    text: str
    labels: frozenset[str]
    group: str
    """Examples of a group are never parted, neither by folds nor by the bootstrap."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What to train on, and what is held out."""

    labels: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    dropped: int
    """Examples that were taken out of train, because their text is held out."""


def text_key(text: str) -> str:
    """Texts with the same key are one text: equal but for case and outer blanks."""
    return text.strip().casefold()


def corpus(labels: Iterable[str], train: Sequence[Example], test: Sequence[Example]) -> Corpus:
    """Without those training examples whose text is held out."""
    held_out = {text_key(e.text) for e in test}
    kept = tuple(e for e in train if text_key(e.text) not in held_out)
    return Corpus(tuple(labels), kept, tuple(test), len(train) - len(kept))


def indicators(examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
    """(N, L) bool: which labels apply."""
    return np.array([[label in e.labels for label in labels] for e in examples]).reshape(len(examples), len(labels))


def read_corpus(path: Path, seed: int) -> Corpus:
    """Read a JSONL corpus; its labels are in alphabetic order.

    Args:
        path: see the top of this file.
        seed: chooses the groups that are held out, where the file does not.

    Raises:
        RecordError: with `file:line`, for a malformed line; or for a file with no label, or with an empty part.
    """
    rows: list[tuple[Example, str | None]] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            rows.append(_example(f"{path}:{number}", line))
    if len(stated := {split is None for _, split in rows}) > 1:
        raise error(path, "split", "stated on every line or on none", "both", "add it, or leave it out")
    if stated == {True}:
        groups = sorted({e.group for e, _ in rows})
        chosen = np.random.default_rng(seed).permutation(len(groups))[: max(1, len(groups) // 5)]
        held_out = {groups[i] for i in chosen}
        rows = [(e, "test" if e.group in held_out else "train") for e, _ in rows]
    labels = sorted({label for e, _ in rows for label in e.labels})
    found = corpus(labels, *([e for e, split in rows if split == name] for name in SPLITS))
    if not labels or not found.test or len({e.group for e in found.train}) < 2:
        raise RecordError(
            f"{path}: a label, a held-out text, and two groups to train on are the least; got {len(labels)} labels, "
            f"{len(found.test)} held-out texts and {len({e.group for e in found.train})} groups to train on "
            f"({found.dropped} texts dropped that are held out too); add lines"
        )
    return found


def _example(where: str, line: str) -> tuple[Example, str | None]:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as fault:
        raise RecordError(f"{where}: not JSON ({fault.msg} at column {fault.colno}); mend or remove the line") from None
    if not isinstance(row, dict) or not row.keys() <= {"text", "labels", "group", "split"}:
        raise error(where, "line", "an object of text, labels, group and split", line[:80], "mend the line")
    text, labels, split = row.get("text"), row.get("labels"), row.get("split")
    if not isinstance(text, str) or not text.strip():
        raise error(where, "text", "a non-empty string is required", text, "mend or remove the line")
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise error(where, "labels", "a list of non-empty strings is required", labels, "mend the line")
    group = row.get("group", text_key(text))
    if not isinstance(group, str):
        raise error(where, "group", "a string, where it is stated", group, "mend the line")
    if split not in (None, *SPLITS):
        raise error(where, "split", f"one of {', '.join(SPLITS)}, where it is stated", split, "mend the line")
    return Example(text, frozenset(labels), group), split
