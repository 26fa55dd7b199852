"""What a teacher is, and what it sees: a `Case`, which is a record without its label.

A teacher is never handed a record. `blind` copies the views that the student is shown and the space of the answer, with the
label blanked out: two records that differ in nothing but label, raters, rationale, meta, uid or group give the same case.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tasks.base import Message, Task
from tasks.dc import Grammar
from tasks.record import Media, Record, View, resolve
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Target, Text, Vector

if TYPE_CHECKING:
    from models.budget import Budget


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
    """What this draft in particular came from, JSON-able: measured cues, or `model`, `finish_reason` and `usage`.

    `usage` {prompt_tokens, completion_tokens} is what this draft has cost: the drafts of one request share its prompt, and the
    first of them alone counts it. Sums over a journal are then what was spent.
    """


class Teacher(ABC):
    """Writes drafts. Used as an async context manager, so that connections live as long as the run and no longer."""

    name: str
    concurrency: int = 1
    """Most items in flight at once. What a server really takes is found out by the client (`models/throttle.py`)."""
    many: bool = False
    """Whether one request gives several drafts. A teacher that has to ask its server knows it once it is entered."""
    budget: Budget | None = None
    """What may be spent; None where writing costs nothing. The run tells it first what former calls have spent."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides what it writes (no secret), JSON-able; part of every provenance and of every generation.

        Not part of it: concurrency, timeouts, retries, prices, budgets. A run may go on with others.
        """

    @abstractmethod
    async def write(self, case: Case, indices: Sequence[int]) -> list[Draft]:
        """Write about one case, without its label.

        Args:
            case: the item.
            indices: which of its candidates, for the seed (seed + index); exactly one, unless the teacher writes `many`.

        Returns:
            One draft for each index, in their order.

        Raises:
            MediaError: when a view cannot be read.
            BudgetSpent: when the budget does not allow it; nothing was asked.
            StageError: when the teacher cannot work at all; what is written so far is kept.
        """

    async def rewrite(self, case: Case, failed: Draft, gold: Target) -> Draft:
        """Write once more, knowing what was wrong and what would have been right. The only place where a label is shown.

        Args:
            case: the item.
            failed: a draft with a text that was not accepted.
            gold: the target, with its value.

        Returns:
            A whole completion in the grammar. Its explanation must not name the verdict or the answer, nor say that they
            were given: `conclude` has to reach them from the explanation alone. Errors as in `write`.
        """
        return Draft(None, f"teacher {self.name} does not rewrite")

    async def conclude(self, case: Case, reasoning: str) -> Draft:
        """Complete an answer from someone's reasoning, without the label.

        Args:
            case: the item.
            reasoning: the explanation of a rewritten chain, with neither verdict nor answer.

        Returns:
            A whole completion in the grammar, of which only verdict and answer are used. Errors as in `write`.
        """
        return Draft(None, f"teacher {self.name} does not conclude")

    def instructions(self, case: Case) -> str:
        """What it is told beyond the student's prompt, in every kind of request; part of the generation."""
        return ""

    def found(self) -> dict[str, Any]:
        """What it found out about its server when it was entered, JSON-able, for the run folder; empty for nothing."""
        return {}

    def fit(self, cases: Iterable[Case]) -> None:  # noqa: B027  (most teachers have nothing to fit)
        """Look over the cases of the run once, before the first `write`. They are made while they are looked at."""

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
