"""Weak scaling: real ranks do the same work, and what is not the same training is not timed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import ranks
from benchmarks.ranks import Rank, Scaling, scaling
from benchmarks.scene import SMOKE
from benchmarks.step import WARM
from benchmarks.timing import UnequalError


def test_the_ratios_are_those_of_the_medians() -> None:
    found = Scaling(alone=2.0, apart=2.5, together=4.0)
    assert [line.split("|")[2:5] for line in found.lines()] == [
        [f" {'one rank':24} ", "  2.000 w ", f" {'':>6} "],
        [f" {'two, each by itself':24} ", "  2.500 w ", f" {'0.80':>6} "],
        [f" {'two of one training':24} ", "  4.000 w ", f" {'0.50':>6} "],
    ]
    assert "at 0.50 of the speed of one rank alone, and at 0.62 of that of two that share nothing" in found.note()


@pytest.mark.slow
def test_ranks_of_real_trainings_say_how_long_their_steps_took(tmp_path: Path) -> None:
    (alone,), (first, second) = ranks._train("smoke", tmp_path, [1, 2])
    assert first.weights == second.weights != alone.weights
    assert {len(rank.seconds) for rank in (alone, first, second)} == {SMOKE.steps - WARM}
    assert min(*alone.seconds, *first.seconds, *second.seconds) > 0


def test_a_rank_that_fails_is_heard(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"a rank failed:\n(.|\n)*KeyError: 'huge'"):
        ranks._train("huge", tmp_path, [1])


def said(*weights: str) -> list[Rank]:
    return [Rank([1.0 + i, 3.0 + i], name) for i, name in enumerate(weights)]


def test_seconds_of_all_ranks_and_rounds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {(1,): [said("a")], (1, 1): [said("a"), said("a")], (2,): [said("b", "b")]}
    asked: list[Sequence[int]] = []
    monkeypatch.setattr(ranks, "_train", lambda size, folder, n: asked.append(n) or answers[tuple(n)])
    assert list(scaling(rounds=2)) == [Scaling(alone=2.0, apart=2.0, together=2.5)]
    assert asked == [[1], [1, 1], [2]] * 2


@pytest.mark.parametrize(
    "apart, together",
    [(("a", "c"), ("b", "b")), (("a", "a"), ("b", "c")), (("a", "a"), ("a", "a"))],
    ids=["two alone differ", "ranks drift apart", "ranks learn nothing of each other"],
)
def test_what_is_not_the_same_training_is_not_compared(monkeypatch, apart, together) -> None:
    answers = {(1,): [said("a")], (1, 1): [said(name) for name in apart], (2,): [said(*together)]}
    monkeypatch.setattr(ranks, "_train", lambda size, folder, n: answers[tuple(n)])
    with pytest.raises(UnequalError, match="ranks: final weights differ where they must not"):
        list(scaling())
