"""Accept or reject a draft, always with a reason. Grades come from `Task.score`, the one grading path."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from data_synth.config import SynthConfig
from data_synth.teacher import Draft
from tasks.base import Task
from tasks.record import Record, Turn


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one draft."""

    accepted: bool
    reason: str | None
    """Why not; None when accepted. What stands before the colon is the kind of reason, which is counted."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """The score's parts; empty when there was no text."""


def verify(task: Task, record: Record, draft: Draft, settings: SynthConfig) -> Verdict:
    """Judge one draft against the gold target.

    The first rule that is broken names the reason: no text (the teacher's own reason), the grammar, a phrase that
    gives away knowledge of the label, length, a transcript copied whole, then verdict, agreement and calibration.
    """
    if draft.text is None:
        return Verdict(False, draft.reason or "the teacher wrote nothing")
    score = task.score(record, draft.text)
    if score.answer is None:
        return Verdict(False, f"fault: {score.fault}", score.parts)
    explanation, words = score.answer.explanation, len(score.answer.explanation.split())
    calibrate = score.parts["calibrate"]
    reason = None
    if leak := next((p for p in settings.leak_phrases if p.lower() in explanation.lower()), None):
        reason = f"speaks of the label: {leak!r}"
    elif score.answer.bodies and words < settings.min_words:
        reason = f"too short: {words} words"
    elif words > settings.max_words:
        reason = f"too long: {words} words"
    elif name := _copied(record, explanation, settings.copy_words):
        reason = f"copies a whole view: {name}"
    elif score.parts["discriminate"] == 0:
        reason = "wrong verdict"
    elif score.parts["agreement"] == 0:
        reason = "answer contradicts verdict"
    elif calibrate is None:
        reason = "nothing to grade against"
    elif calibrate < settings.min_calibrate:
        reason = f"answer too far off: closeness {calibrate:.3f}"
    return Verdict(reason is None, reason, score.parts)


def _copied(record: Record, explanation: str, least: int | None) -> str | None:
    """The name of a text view of `least` words or more (of any turn, in a dialogue) that occurs whole in the explanation."""
    if least is None:
        return None
    said = f" {' '.join(_words(explanation))} "
    for name, view in record.views.items():
        texts = (
            [view]
            if isinstance(view, str)
            else [t.text for t in view if isinstance(t, Turn)]
            if isinstance(view, tuple)
            else []
        )
        for words in map(_words, texts):
            if len(words) >= least and f" {' '.join(words)} " in said:
                return name
    return None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
