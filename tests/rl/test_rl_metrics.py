"""What is said about a step's rollouts."""

import pytest

from models.engine.base import Completion
from models.fingerprint import Fingerprint
from rl.metrics import cut_short
from rl.rollout import Group, Rollout
from tasks.base import PARTS, Score
from tasks.record import Record
from tasks.target import Scalar

RECORD = Record(
    uid="r", task="t", split="train", group="g", views={"text": "hm"}, target=Scalar(1.0, -3.0, 3.0), raters=None
)


def group(*finished: bool) -> Group:
    score = Score(dict.fromkeys(PARTS, 0.0), None, None)
    rows = tuple(Rollout("", (), Completion((1, 2), (-0.1, -0.1), f), "", score) for f in finished)
    return Group(RECORD, (), Fingerprint({}, ()), rows, (), False, 8)


def test_completions_that_are_cut_are_warned_of_with_the_share_and_the_limit():
    warning = cut_short([group(True, False), group(True, True)], 48)
    assert warning is not None
    assert warning.startswith("warning: 25% of the first rollouts were cut off at rl.max_new_tokens=48")


@pytest.mark.parametrize(("cut", "warned"), [(0, False), (1, False), (2, True)])
def test_a_tenth_may_be_cut(cut: int, warned: bool):
    rows = [False] * cut + [True] * (10 - cut)
    assert (cut_short([group(*rows)], 48) is not None) == warned
