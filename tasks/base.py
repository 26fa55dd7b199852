"""A task: prompt, label space and grader in one place. `score` is the one grading path of the whole framework.

The synthesis filter, the RL reward, the evaluation and the offline scorer all call `Task.score`; nothing else judges text.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rewards.claims import precision
from runtime.errors import ConfigError
from tasks.dc import GRAMMARS, Answer, Fault, Grammar, parse
from tasks.record import Media, Record, Turn, read_records, resolve
from tasks.record_file import RecordFile
from tasks.target import Target

PARTS = ("format", "discriminate", "calibrate", "agreement", "explanation", "evidence")
"""Names of the parts of a score, unweighted; `conf/reward/` gives them weights.

format        the grammar holds
discriminate  the stated verdict equals coarse(gold); without a stated verdict, that of the answer does
calibrate     closeness of the answer to gold, by target kind
agreement     coarse(answer) equals the stated verdict: the model does not contradict itself
explanation   its sentences carry the emotion that they should; needs a verifier
evidence      the cues that it claims were measured in the clip; needs the clip

The last two are None here: what reads explanations, and only where the config asks for it, is `evaluation/grading.py`.
"""

UNREAD: dict[str, float | None] = {"explanation": None, "evidence": None}
"""The parts for which an explanation has to be read."""

WRONG: Mapping[str, float | None] = dict.fromkeys(PARTS, 0.0) | UNREAD
"""The parts of a text that is no answer."""

Message = dict[str, Any]
"""`{"role": ..., "content": [part, ...]}`; a part is `{"type": "text", "text"}` (with `"view"` when it shows one)
or `{"type": "audio" | "image" | "video", "path", "span"}`."""


@dataclass(frozen=True, slots=True)
class Score:
    """How good one completion is."""

    parts: Mapping[str, float | None]
    """Every name of PARTS in [0, 1]; None where nothing can be scored (left out of the mean and counted, never zero)."""
    fault: Fault | None
    answer: Answer | None
    speaks_for: str | None = None
    """The label (the side, for intensities) that a verifier reads out of the explanation; None where none was asked."""
    unheard: bool = False
    """Whether a judge was asked about the explanation and could not be heard, which says nothing about it."""
    checked: Mapping[str, bool] = field(default_factory=dict)
    """Cue that it claims and that could be measured -> whether it was measured so."""

    @property
    def precision(self) -> float | None:
        """Share of the cues it claims that were measured so; None where no claim could be checked."""
        return precision(self.checked)


Grade = Callable[[Sequence[Record], Sequence[str]], list[Score]]
"""[N] records and [N] completions -> [N] scores: `Task.grade`, or `evaluation.grading.Grader.grade` around it."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The records of a task and the folder below which their media lie."""

    records: tuple[Record, ...] | RecordFile
    root: Path

    def split(self, name: str) -> list[Record]:
        """Records of one split, in file order."""
        return [r for r in self.records if r.split == name]

    def without(self, uids: Collection[str]) -> "Dataset":
        """The same data set without some of its records."""
        if isinstance(self.records, RecordFile):
            return replace(self, records=self.records.without(uids))
        return replace(self, records=tuple(r for r in self.records if r.uid not in uids))


class Task(ABC):
    """One task. Subclasses say how records are made and asked about; grading is written here, once.

    Args:
        name: what run folders and tables call it.
        views: which views the prompt shows, in order.
        grammar: a name of `tasks.dc.GRAMMARS`.
    """

    def __init__(self, *, name: str, views: Sequence[str], grammar: str = "dc") -> None:
        if grammar not in GRAMMARS:
            raise ConfigError(f"task.grammar: one of {sorted(GRAMMARS)}; got {grammar!r}; mend the config")
        self.name = name
        self.views = tuple(views)
        self.grammar: Grammar = GRAMMARS[grammar]

    @abstractmethod
    def prepare(self, folder: Path) -> Path:
        """Write `folder/records.jsonl` (and media, if they are made here); running it twice changes nothing.

        Returns:
            The root below which the records' media pointers lead.
        """

    @abstractmethod
    def question(self, record: Record) -> str:
        """What is asked after the views have been shown."""

    @abstractmethod
    def metrics(self, gold: Sequence[Target], answers: Sequence[Target | None]) -> dict[str, float]:
        """Corpus metrics; an answer of None (unparseable) counts as wrong in every one of them."""

    @abstractmethod
    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> list[Target]:
        """The answers of a trivial rule (constant, majority), printed beside every score."""

    def dataset(self, folder: Path, stream: bool = False) -> Dataset:
        """Prepare (if needed) and read the records.

        Args:
            folder: of the records.
            stream: whether to leave them on disk; see `RecordFile`.

        Raises:
            RecordError: for a malformed file, or a grammar that states a verdict the target does not have.
        """
        root = self.prepare(folder)
        path = folder / "records.jsonl"
        records = RecordFile(path) if stream else tuple(read_records(path))
        if self.grammar.verdict and any(r.target.coarse() is None for r in records):
            raise ConfigError(
                f"task.grammar: {self.grammar.name!r} states a coarse verdict, and {self.name} has none; "
                "use grammar=think or answer"
            )
        return Dataset(records, root)

    def prompt(self, record: Record, root: Path) -> list[Message]:
        """The student's prompt: the chosen views that the record has, then the question.

        Raises:
            MediaError: when a pointer leads outside `root`.
        """
        parts: list[dict[str, Any]] = []
        for name in self.views:
            match record.views.get(name):
                case None:
                    continue
                case str() as text:
                    parts.append({"type": "text", "text": f"{name}: {text}\n", "view": name})
                case Media() as media:
                    parts.append({"type": media.kind, "path": str(resolve(root, media.path)), "span": media.span})
                case turns:
                    parts.append({"type": "text", "text": _dialogue(turns), "view": name})
        parts.append({"type": "text", "text": self.question(record)})
        return [{"role": "user", "content": parts}]

    def parse(self, record: Record, completion: str) -> Answer | Fault:
        """What `completion` says about `record`."""
        return parse(completion, record.target, self.grammar)

    def score(self, record: Record, completion: str) -> Score:
        """Grade one completion (hint included) against the gold target.

        Args:
            record: carries the gold target.
            completion: any string.

        Returns:
            The parts; WRONG together with a named fault when the text is not an answer.
        """
        answer = self.parse(record, completion)
        if isinstance(answer, Fault):
            return Score(WRONG, answer, None)
        gold, coarse = record.target, answer.value.coarse()
        verdict = coarse if answer.verdict is None else answer.verdict
        parts = UNREAD | {
            "format": 1.0,
            "discriminate": None if gold.coarse() is None else float(verdict == gold.coarse()),
            "calibrate": answer.value.score(gold),
            "agreement": None if answer.verdict is None else float(coarse == answer.verdict),
        }
        return Score(parts, None, answer)

    def grade(self, records: Sequence[Record], completions: Sequence[str]) -> list[Score]:
        """`score` of each pair."""
        return [self.score(r, c) for r, c in zip(records, completions, strict=True)]


def _dialogue(turns: tuple[Turn, ...]) -> str:
    return "".join(f"{i}. {turn.speaker}: {turn.text}\n" for i, turn in enumerate(turns))
