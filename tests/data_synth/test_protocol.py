"""One record's way to its chain: candidates, the best of them, the rewrite of a failure, and the proof that it convinces."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from data_synth.journal import Journal
from data_synth.protocol import Desk, Pursuit, pursue
from data_synth.teacher import Case, Draft, Teacher, blind
from runtime.errors import StageError
from tasks.target import Scalar

RIGHT, NEAR, WRONG, CUT = "positive 2.0", "positive 1.7", "negative -2.0", "cut"


def chain(said: str, cue: str = "a warm word") -> Draft:
    """A completion from a verdict and an answer."""
    if said == CUT:
        return Draft("<discriminate>positive: a wa")
    verdict, answer = said.split()
    return Draft(
        f"<discriminate>{verdict}: {cue}</discriminate><calibrate>said plainly</calibrate><answer>{answer}</answer>"
    )


class Script(Teacher):
    """Reads from lists what to say, and notes what it was asked."""

    name = "script"

    def __init__(
        self,
        write: Sequence[str | Draft],
        rewrite: Draft | None = None,
        conclude: Draft | None = None,
        many: bool = False,
    ) -> None:
        self.says, self.says_informed, self.says_blind, self.many = write, rewrite, conclude, many
        self.asked: list[tuple] = []

    def settings(self):
        return {}

    async def write(self, case: Case, indices: Sequence[int]) -> list[Draft]:
        self.asked.append(("write", *indices))
        return [chain(said) if isinstance(said := self.says[i], str) else said for i in indices]

    async def rewrite(self, case, failed, gold):
        self.asked.append(("rewrite", failed.text, gold))
        return await super().rewrite(case, failed, gold) if self.says_informed is None else self.says_informed

    async def conclude(self, case, reasoning):
        self.asked.append(("conclude", reasoning))
        return await super().conclude(case, reasoning) if self.says_blind is None else self.says_blind


@pytest.fixture
def carry_out(remarks, remark, settings, tmp_path):
    """Runs the protocol for one record that is 2.0."""

    def run(teacher: Teacher, name: str = "journal.db", task=remarks, x: float = 2.0, **changes) -> Pursuit:
        record = remark(x=x)
        wanted = {"candidates": len(getattr(teacher, "says", [0])), "rewrite": True}
        with Journal(tmp_path / name) as journal:
            desk = Desk(task, teacher, journal, replace(settings, **(wanted | changes)))
            return asyncio.run(pursue(desk, record, blind(task, record, Path(".")), "generation"))

    return run


def rows(pursuit: Pursuit) -> list[tuple[str, int, str | None]]:
    return [(a.step, a.index, a.verdict.reason) for a in pursuit.rejected]


def test_the_best_accepted_candidate_is_taken_and_every_other_kept_with_its_reason(carry_out):
    teacher = Script([NEAR, WRONG, RIGHT, CUT, RIGHT])
    done = carry_out(teacher)
    # parts of the right ones: format 1, discriminate 1, agreement 1 and calibrate 1; of the near one 1 - .3 / 6 = .95
    assert done.chosen is not None and (done.chosen.step, done.chosen.index) == ("write", 2)
    assert done.chosen.verdict.total == 4 and done.pass_rate == 3 / 5
    assert rows(done) == [
        ("select", 0, "not selected: candidate 2 is at least as good"),
        ("write", 1, "wrong verdict"),
        ("write", 3, "fault: unclosed_block"),
        ("select", 4, "not selected: candidate 2 is at least as good"),
    ]
    assert teacher.asked == [("write", i) for i in range(5)]  # one by one, and no rewrite


def test_a_teacher_of_many_is_asked_once_and_then_only_for_what_is_missing(carry_out):
    teacher = Script([WRONG, WRONG, RIGHT], many=True)
    carry_out(teacher, candidates=2)
    again = carry_out(teacher, candidates=3)
    assert [a for a in teacher.asked if a[0] == "write"] == [("write", 0, 1), ("write", 2)]
    assert again.chosen is not None and again.chosen.index == 2


def test_what_is_in_the_journal_is_not_asked_again(carry_out):
    informed, concluded = chain(RIGHT, "a sunny tone"), chain(NEAR)
    first = carry_out(Script([WRONG, CUT], informed, concluded))
    silent = Script([WRONG, CUT])
    assert carry_out(silent) == first and silent.asked == []


def test_the_best_failure_is_rewritten_and_kept_when_its_explanation_convinces(carry_out):
    informed = chain(RIGHT, "a sunny tone")
    teacher = Script([CUT, WRONG], informed, chain(NEAR, "whatever"))
    done = carry_out(teacher)
    # of the two failures the second at least keeps to the form; the teacher is shown it and the gold target
    assert teacher.asked[2:] == [
        ("rewrite", chain(WRONG).text, Scalar(2.0, -3, 3, 0.2)),
        ("conclude", "a sunny tone said plainly"),  # neither verdict nor answer
    ]
    assert done.chosen is not None and (done.chosen.step, done.chosen.index) == ("rewrite", 0)
    assert done.chosen.draft == informed and done.pass_rate == 0
    assert done.chosen.more["concluded"]["text"] == chain(NEAR, "whatever").text
    assert rows(done) == [("write", 0, "fault: unclosed_block"), ("write", 1, "wrong verdict")]


@pytest.mark.parametrize(
    "concluded, reason",
    [
        (chain(WRONG), "not concluded: wrong verdict"),
        (chain("positive 0.5"), "not concluded: answer too far off: closeness 0.750"),  # 1 - 1.5 / 6
        (chain("positive -1.0"), "not concluded: answer contradicts verdict"),
        (chain(CUT), "not concluded: fault: unclosed_block"),
        (Draft(None, "teacher refused"), "not concluded: teacher refused"),
        (None, "not concluded: teacher script does not conclude"),
    ],
)
def test_a_rewrite_whose_explanation_does_not_convince_is_rejected(carry_out, concluded, reason):
    done = carry_out(Script([WRONG], chain(RIGHT), concluded))
    assert done.chosen is None and rows(done) == [("write", 0, "wrong verdict"), ("conclude", 0, reason)]
    assert done.rejected[1].draft == chain(RIGHT)  # what is rejected is the rewritten chain


@pytest.mark.parametrize(
    "rewritten, reason",
    [
        (chain(WRONG), "wrong verdict"),
        (chain(RIGHT, "clearly positive"), "states the label too early: 'positive'"),
        (chain(RIGHT, "a 2.0 of warmth"), "states the label too early: '2.0'"),
        (chain(RIGHT, "the label is warm"), "speaks of the label: 'the label is'"),
        (None, "teacher script does not rewrite"),
    ],
)
def test_a_rewrite_that_is_wrong_or_gives_the_label_away_is_not_even_put_to_the_proof(carry_out, rewritten, reason):
    teacher = Script([WRONG], rewritten, chain(RIGHT))
    done = carry_out(teacher)
    assert done.chosen is None and rows(done)[1] == ("rewrite", 0, reason)
    assert [a[0] for a in teacher.asked] == ["write", "rewrite"]


def test_without_rewrite_a_failure_is_the_end(carry_out):
    teacher = Script([WRONG])
    assert carry_out(teacher, rewrite=False).chosen is None and teacher.asked == [("write", 0)]


def test_where_nothing_was_written_there_is_nothing_to_rewrite(carry_out):
    teacher = Script([Draft(None, "teacher refused")], chain(RIGHT), chain(RIGHT))
    assert rows(carry_out(teacher)) == [("write", 0, "teacher refused")] and teacher.asked == [("write", 0)]


def test_a_grammar_that_argues_nothing_has_nothing_to_rewrite(carry_out, remarks):
    teacher = Script([Draft("<answer>-2.0</answer>")], chain(RIGHT), chain(RIGHT))
    done = carry_out(teacher, task=type(remarks)(grammar="answer"))
    assert rows(done) == [("write", 0, "wrong verdict")] and teacher.asked == [("write", 0)]


def test_another_label_or_another_failure_is_another_rewrite(carry_out):
    teacher = Script([WRONG], chain("positive 1.0", "a soft tone"), chain("positive 1.0"))
    carry_out(teacher, x=1.0)
    carry_out(teacher, x=1.2)
    assert [a[0] for a in teacher.asked] == [
        "write",
        "rewrite",
        "conclude",
        "rewrite",
    ]  # the proof is without the label


def test_what_was_written_before_a_teacher_fails_is_kept(carry_out):
    class Falls(Script):
        async def write(self, case, indices):
            if indices == [1]:
                raise StageError("the server is gone")
            return await super().write(case, indices)

    with pytest.raises(StageError, match="the server is gone"):
        carry_out(Falls([WRONG, RIGHT]))
    teacher = Script([WRONG, RIGHT])
    assert carry_out(teacher).chosen is not None and teacher.asked == [("write", 1)]
