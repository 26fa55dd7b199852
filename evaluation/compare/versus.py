"""Item by item: which of two arms finds the side where the other one does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.compare.runs import Arm
from evaluation.stats import mcnemar
from tasks.target import Target


@dataclass(frozen=True, slots=True)
class Versus:
    """One arm and the reference, item by item; a majority of an arm's seeds decides whether it is right."""

    arm: str
    only_reference: int
    only_arm: int
    p: float
    """Exact McNemar."""


def majority(arm: Arm) -> Mapping[str, bool]:
    """Uid -> whether more than half of the runs find the side."""
    records = arm.runs[0].records
    return {
        uid: 2 * sum(right(record.target, run.answers[uid]) for run in arm.runs) > len(arm.runs)
        for uid, record in records.items()
    }


def versus(arms: Sequence[Arm]) -> list[Versus]:
    """Every arm against the first one, on all items."""
    reference, *others = [(arm.name, majority(arm)) for arm in arms]
    return [_versus(name, found, reference[1]) for name, found in others]


def _versus(name: str, ours: Mapping[str, bool], theirs: Mapping[str, bool]) -> Versus:
    pairs = [(ours[uid], theirs[uid]) for uid in theirs]
    only_theirs, only_ours = (sum(a != b and a is who for a, b in pairs) for who in (False, True))
    return Versus(name, only_theirs, only_ours, mcnemar(*map(list, zip(*pairs, strict=True))))


def right(gold: Target, answer: Target | None) -> bool:
    """Whether an answer lies on gold's side; for targets without sides, whether it is gold."""
    if answer is None:
        return False
    side = gold.coarse()
    return answer.render() == gold.render() if side is None else answer.coarse() == side
