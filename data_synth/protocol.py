"""How one record gets its chain.

    write     `candidates` drafts without the label; each is verified, and of those accepted the best is taken
    rewrite   where none is: the best failure is written once more by a teacher that is shown the label
    conclude  its explanation alone is given to a teacher that is not; kept only if that still reaches the right answer

So every chain that is kept was either written without the label, or leads to the answer without it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from data_synth.config import SynthConfig
from data_synth.journal import Journal
from data_synth.teacher import Case, Draft, Teacher
from data_synth.verify import Verdict, verify
from runtime.files import digest
from tasks.base import Task
from tasks.dc import Answer, render
from tasks.record import Record


@dataclass(frozen=True, slots=True)
class Attempt:
    """One draft and what became of it."""

    step: str
    """write, rewrite, conclude, or select for one that was good and not the best."""
    index: int
    draft: Draft
    verdict: Verdict
    more: dict[str, Any] = field(default_factory=dict)
    """What else belongs into its provenance."""


@dataclass(frozen=True, slots=True)
class Pursuit:
    """All attempts at one record."""

    chosen: Attempt | None
    rejected: tuple[Attempt, ...]
    pass_rate: float
    """Share in [0, 1] of the label-free candidates that were accepted."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What every record needs."""

    task: Task
    teacher: Teacher
    journal: Journal
    settings: SynthConfig


async def pursue(desk: Desk, record: Record, case: Case, generation: str) -> Pursuit:
    """Carry out the protocol for one record, with what the journal holds of it first.

    Args:
        desk: task, teacher, journal and settings.
        record: with the gold target, which is shown to the teacher in a rewrite alone.
        case: the record without its label.
        generation: hash of all that a draft is made from.

    Raises:
        MediaError, StageError: from the teacher; what it wrote before is in the journal.
    """
    drafts = await _candidates(desk, record.uid, case, generation)
    tried = [Attempt("write", i, d, verify(desk.task, record, d, desk.settings)) for i, d in enumerate(drafts)]
    good = [attempt for attempt in tried if attempt.verdict.accepted]
    failed = tuple(attempt for attempt in tried if not attempt.verdict.accepted)
    share = len(good) / len(tried)
    if good:
        best = max(good, key=lambda attempt: attempt.verdict.total)  # the first of equals
        rest = tuple(_not_best(attempt, best) for attempt in good if attempt is not best)
        return Pursuit(best, tuple(sorted((*failed, *rest), key=lambda attempt: attempt.index)), share)
    written = [attempt for attempt in failed if attempt.draft.text is not None]
    if not desk.settings.rewrite or not written or len(case.grammar.blocks) == 1:  # an answer alone argues nothing
        return Pursuit(None, failed, share)
    last = await _informed(desk, record, case, generation, max(written, key=lambda a: a.verdict.total).draft)
    return Pursuit(last, failed, share) if last.verdict.accepted else Pursuit(None, (*failed, last), share)


def _not_best(attempt: Attempt, best: Attempt) -> Attempt:
    reason = f"not selected: candidate {best.index} is at least as good"
    return Attempt("select", attempt.index, attempt.draft, Verdict(False, reason, attempt.verdict.parts))


async def _candidates(desk: Desk, uid: str, case: Case, generation: str) -> list[Draft]:
    """The label-free drafts, in one request where the teacher can, else one after another."""
    found = await desk.journal.find(uid, generation, "write")
    missing = [index for index in range(desk.settings.candidates) if index not in found]
    for indices in [missing] if desk.teacher.many and missing else [[index] for index in missing]:
        new = dict(zip(indices, await desk.teacher.write(case, indices), strict=True))
        await desk.journal.add(uid, generation, "write", new)
        found |= new
    return [found[index] for index in range(desk.settings.candidates)]


async def _informed(desk: Desk, record: Record, case: Case, generation: str, failed: Draft) -> Attempt:
    """The label-informed rewrite of a failure, accepted only if its explanation leads to the answer by itself."""
    task, teacher, settings = desk.task, desk.teacher, desk.settings
    about = digest([generation, failed.text, record.target.to_json()])
    draft = await _once(desk, record.uid, about, "rewrite", lambda: teacher.rewrite(case, failed, record.target))
    verdict = verify(task, record, draft, settings, told=True)
    if not verdict.accepted or draft.text is None:
        return Attempt("rewrite", 0, draft, verdict)
    answer = task.parse(record, draft.text)
    assert isinstance(answer, Answer), "it was verified"
    reasoning = answer.explanation
    about = digest([generation, reasoning])
    conclusion = await _once(desk, record.uid, about, "conclude", lambda: teacher.conclude(case, reasoning))
    more = {"concluded": {"text": conclusion.text, "reason": conclusion.reason, "draft": dict(conclusion.provenance)}}
    judged = _judge(desk, record, answer, conclusion)
    if judged.accepted:
        return Attempt("rewrite", 0, draft, verdict, more)
    return Attempt("conclude", 0, draft, Verdict(False, f"not concluded: {judged.reason}", verdict.parts), more)


def _judge(desk: Desk, record: Record, rewritten: Answer, conclusion: Draft) -> Verdict:
    """The verdict on the rewritten explanation with the verdict and answer that somebody concluded from it."""
    if conclusion.text is None:
        return verify(desk.task, record, conclusion, desk.settings)
    said = desk.task.parse(record, conclusion.text)
    if not isinstance(said, Answer):
        return Verdict(False, f"fault: {said}")
    chain = render(Answer(said.value, said.verdict, rewritten.bodies), desk.task.grammar)
    return verify(desk.task, record, Draft(chain), desk.settings)


async def _once(desk: Desk, uid: str, about: str, step: str, ask: Callable[[], Awaitable[Draft]]) -> Draft:
    """The journal's draft of this step, else one that is asked for now."""
    found = await desk.journal.find(uid, about, step)
    if not found:
        found = {0: await ask()}
        await desk.journal.add(uid, about, step, found)
    return found[0]


def provenance(common: dict[str, Any], attempt: Attempt, pass_rate: float) -> dict[str, Any]:
    """`meta.synth` of a chain, `synth` of a rejected one."""
    return common | {
        "step": attempt.step,
        "index": attempt.index,
        "pass_rate": pass_rate,
        "draft": dict(attempt.draft.provenance),
        "parts": dict(attempt.verdict.parts),
        **attempt.more,
    }
