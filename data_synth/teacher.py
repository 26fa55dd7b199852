"""What a teacher is, and what it sees: a `Case`, which is a record without its label.

A teacher is never handed a record. `blind` copies the views that the student is shown and the space of the answer, with the
label blanked out: two records that differ in nothing but label, raters, rationale, meta, uid or group give the same case.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tasks.base import Message, Task
from tasks.dc import Grammar
from tasks.record import Media, Record, View, resolve
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Target, Text, Vector


@dataclass(frozen=True, slots=True)
class Case:
    """One item to write about, without its label.

    Media are absolute paths, for opening only: file names of some corpora spell the label, so none may reach a model.
    """

    views: Mapping[str, View]
    """What the student is shown, by name, in the order of the prompt."""
    messages: Sequence[Message]
    """The student's prompt."""
    like: Target
    """The space of the answer (range, labels, names); its value is a fixed one."""
    grammar: Grammar


@dataclass(frozen=True, slots=True)
class Draft:
    """What a teacher wrote, or why it wrote nothing."""

    text: str | None
    reason: str | None = None
    """Why there is no text; None when there is."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What this draft in particular came from (measured cues, token counts), JSON-able."""


class Teacher(ABC):
    """Writes drafts. Used as an async context manager, so that connections live as long as the run and no longer."""

    name: str
    concurrency: int = 1
    """How many cases may be in flight at once."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides what it writes (no secret), JSON-able; part of every provenance."""

    @abstractmethod
    async def write(self, case: Case) -> Draft:
        """Write about one case.

        Raises:
            MediaError: when a view cannot be read.
            StageError: when the teacher cannot work at all; what is written so far is kept.
        """

    def instructions(self, case: Case) -> str:
        """What it is told beyond the student's prompt."""
        return ""

    def fit(self, cases: Sequence[Case]) -> None:  # noqa: B027  (most teachers have nothing to fit)
        """Look over all cases of the run once, before the first `write`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None


def blank(target: Target) -> Target:
    """`target` with its value replaced by one that depends on its space alone."""
    match target:
        case Scalar():
            return replace(target, x=(target.lo + target.hi) / 2)
        case Ordinal():
            return replace(target, level=0)
        case Class():
            return replace(target, label=target.space.labels[0])
        case LabelSet():
            return replace(target, labels=frozenset())
        case IndexSet():
            return replace(target, indices=frozenset())
        case Vector():
            return replace(target, x=(None,) * len(target.names))
        case Text():
            return Text(("text",))
        case Composite():
            return replace(target, fields={name: blank(part) for name, part in target.fields.items()})
    raise TypeError(f"no blank form for {type(target).__name__}; add one here")


def blind(task: Task, record: Record, root: Path) -> Case:
    """What a teacher may see of `record`.

    Raises:
        MediaError: when a media pointer leads outside `root`.
    """
    shown = {name: record.views[name] for name in task.views if name in record.views}
    bare = Record(
        uid="case", task=record.task, split=record.split, group="case", views=shown, target=blank(record.target)
    )
    views = {n: replace(v, path=str(resolve(root, v.path))) if isinstance(v, Media) else v for n, v in shown.items()}
    return Case(views, task.prompt(bare, root), bare.target, task.grammar)
