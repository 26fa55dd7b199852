"""Accept or reject a draft, always with a reason. Grades come from `Task.score`, the one grading path."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from data_synth.config import SynthConfig
from data_synth.language import foreign
from data_synth.teacher import Draft
from tasks.base import Task
from tasks.dc import Answer
from tasks.record import Record, Turn

RUN = 5
"""Words in a row that two texts do not share by chance: one run of them counts as copied."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one draft."""

    accepted: bool
    reason: str | None
    """Why not; None when accepted. What stands before the colon is the kind of reason, which is counted."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """The score's parts; empty when there was no text."""

    @property
    def total(self) -> float:
        """Sum of the parts that could be scored: by this candidates are compared."""
        return sum(part for part in self.parts.values() if part is not None)


def verify(task: Task, record: Record, draft: Draft, settings: SynthConfig, told: bool = False) -> Verdict:
    """Judge one draft against the gold target.

    The first rule that is broken names the reason: no text (the teacher's own reason), the grammar, a phrase that
    gives away knowledge of the label, the label where it must not stand, length, language, a transcript copied, then
    verdict, agreement and calibration.

    Args:
        task: grades.
        record: carries the gold target.
        draft: of a teacher.
        settings: the rules.
        told: whether the teacher was shown the label. Its explanation must then not state it anywhere, since somebody is to
            conclude it from there; else it must not stand before the verdict in a grammar that argues first.
    """
    if draft.text is None:
        return Verdict(False, draft.reason or "the teacher wrote nothing")
    score = task.score(record, draft.text)
    if score.answer is None:
        return Verdict(False, f"fault: {score.fault}", score.parts)
    answer, calibrate = score.answer, score.parts["calibrate"]
    reason = _explanation_fault(task, record, answer, settings, told)
    if reason is not None:
        pass
    elif score.parts["discriminate"] == 0:
        reason = "wrong verdict"
    elif score.parts["agreement"] == 0:
        reason = "answer contradicts verdict"
    elif calibrate is None:
        reason = "nothing to grade against"
    elif calibrate < settings.min_calibrate:
        reason = f"answer too far off: closeness {calibrate:.3f}"
    return Verdict(reason is None, reason, score.parts)


def _explanation_fault(task: Task, record: Record, answer: Answer, settings: SynthConfig, told: bool) -> str | None:
    """The first rule that the explanation breaks."""
    explanation, words = answer.explanation, len(answer.explanation.split())
    early = explanation if told else _before_verdict(task, answer)
    if leak := next((p for p in settings.leak_phrases if p.lower() in explanation.lower()), None):
        return f"speaks of the label: {leak!r}"
    if early and (label := next((name for name in _labels(record, answer) if _states(early, name)), None)):
        return f"states the label too early: {label!r}"
    if answer.bodies and words < settings.min_words:
        return f"too short: {words} words"
    if words > settings.max_words:
        return f"too long: {words} words"
    if settings.language is not None and (found := foreign(explanation, settings.language)):
        return f"other language: {found}"
    if name := _copied_whole(record, explanation, settings.copy_words):
        return f"copies a whole view: {name}"
    if settings.copy_share is not None and (share := _copied_share(record, explanation)) > settings.copy_share:
        return f"mostly copied: {share:.0%} of its words"
    return None


def _before_verdict(task: Task, answer: Answer) -> str:
    """What a grammar that states a verdict argues before it."""
    blocks = task.grammar.blocks
    before = blocks[: blocks.index(task.grammar.verdict)] if task.grammar.verdict else ()
    return " ".join(answer.bodies[name] for name in before)


def _labels(record: Record, answer: Answer) -> list[str]:
    """Verdict and answer, the right ones and the stated ones."""
    names = (record.target.coarse(), answer.verdict, record.target.render(), answer.value.render())
    return list(dict.fromkeys(name for name in names if name))


def _states(text: str, label: str) -> bool:
    """Whether a label stands in a text as a word or number of its own; that of a number with either sign."""
    return re.search(rf"(?<![\w.]){re.escape(label.lstrip('-'))}(?!\w|\.\d)", text, re.IGNORECASE) is not None


def _copied_whole(record: Record, explanation: str, least: int | None) -> str | None:
    """The name of a text view of `least` words or more (of any turn, in a dialogue) that occurs whole in the explanation."""
    if least is None:
        return None
    said = f" {' '.join(_words(explanation))} "
    for name, words in _shown(record):
        if len(words) >= least and f" {' '.join(words)} " in said:
            return name
    return None


def _copied_share(record: Record, explanation: str) -> float:
    """Share of the explanation's words that stand in a run of `RUN` or more that some view has, too."""
    words = _words(explanation)
    shown = {run for _, view in _shown(record) for run in _runs(view)}
    copied = {at for start, run in enumerate(_runs(words)) if run in shown for at in range(start, start + RUN)}
    return len(copied) / len(words) if words else 0.0


def _runs(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]


def _shown(record: Record) -> Iterator[tuple[str, list[str]]]:
    """Name and words of every text view; of a dialogue, turn by turn."""
    for name, view in record.views.items():
        if isinstance(view, str):
            yield name, _words(view)
        elif isinstance(view, tuple):
            yield from ((name, _words(turn.text)) for turn in view if isinstance(turn, Turn))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
