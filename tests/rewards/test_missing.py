"""Filling in what was not heard."""

from itertools import combinations

import pytest

from rewards.missing import fill_missing


def test_nothing_changes_when_all_or_none_were_heard():
    assert fill_missing([1.0, 0.0, 0.3], [True] * 3) == [1.0, 0.0, 0.3]
    assert fill_missing([None, None, 0.0], [True, True, False]) == [None, None, 0.0]


def test_by_hand():
    # heard 1, 0, 0 of five: mean 1/3, stretched by (5 - 1) / (3 - 1) = 2
    assert fill_missing([1.0, None, 0.0, 0.0, None], [True] * 5) == pytest.approx([5 / 3, 1 / 3, -1 / 3, -1 / 3, 1 / 3])
    assert fill_missing([None, 1.0, None, 0.0], [True, True, True, False]) == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("heard", [2, 3, 5])
def test_over_all_ways_to_be_heard_the_mean_is_the_value(heard):
    x = [1.0, 0.0, 0.25, 1.0, 0.5, 0.0]  # the last one is at fault: never asked, always known
    asked = [True] * 5 + [False]
    ways = [set(way) | {5} for way in combinations(range(5), heard)]
    filled = [fill_missing([v if i in way else None for i, v in enumerate(x)], asked) for way in ways]
    means = [sum(v for v in column if v is not None) / len(ways) for column in zip(*filled, strict=True)]
    assert means == pytest.approx(x)
