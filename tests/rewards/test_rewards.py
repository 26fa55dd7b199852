"""Rewards by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.numbers import closeness, level_closeness, mean_closeness
from rewards.sets import jaccard, set_f1
from rewards.text import token_f1

sets = st.frozensets(st.integers(0, 5))
sentences = st.lists(st.sampled_from(["so", "it", "is", "new"]), max_size=6).map(" ".join)


def test_closeness_falls_by_distance_over_the_range() -> None:
    assert closeness(1.5, 0.0, -3, 3) == 0.75  # 1 - 1.5 / 6
    assert closeness(2, 2, 1, 5) == 1.0
    assert closeness(5, 1, 1, 5) == 0.0  # a whole range away
    assert closeness(9, 1, 1, 5) == 0.0  # 1 - 8 / 4 is below the floor


def test_mean_closeness_counts_rated_entries_only() -> None:
    # rated: 1 - 1/4 and 1 - 2/4; the second entry nobody rated
    assert mean_closeness([1, 0, 4], [2, None, 2], 0, 4) == 0.625
    assert mean_closeness([None, 2], [2, 2], 0, 4) == 0.5  # a missing answer scores 0: (0 + 1) / 2
    assert mean_closeness([1.0], [None], 0, 4) is None
    assert mean_closeness([], [], 0, 4) is None


def test_mean_closeness_wants_one_entry_each() -> None:
    with pytest.raises(ValueError, match="zip"):
        mean_closeness([1.0], [1.0, 2.0], 0, 4)


def test_levels_fall_by_steps() -> None:
    assert [level_closeness(k, 0, 5) for k in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_sets_overlap() -> None:
    assert set_f1({1, 2}, {2, 3, 4}) == pytest.approx(0.4)  # 2 * 1 / (2 + 3)
    assert jaccard({1, 2}, {2, 3, 4}) == 0.25  # 1 of 4
    assert set_f1(set(), set()) == jaccard(set(), set()) == 1.0
    assert set_f1(set(), {1}) == jaccard({1}, set()) == 0.0


def test_tokens_overlap_with_multiplicity() -> None:
    assert token_f1("so so sad", "So sad") == 0.8  # shared: so, sad; 2 * 2 / (3 + 2)
    assert token_f1("", " ") == 1.0
    assert token_f1("", "sad") == 0.0


@given(sets, sets)
def test_set_scores_are_symmetric_shares(a: frozenset[int], b: frozenset[int]) -> None:
    for score in (set_f1, jaccard):
        assert 0 <= score(a, b) == score(b, a) <= 1
        assert (score(a, b) == 1) == (a == b)
    assert jaccard(a, b) <= set_f1(a, b)


@given(sentences, sentences)
def test_token_scores_are_symmetric_shares(a: str, b: str) -> None:
    assert 0 <= token_f1(a, b) == token_f1(b, a) <= 1
    assert token_f1(a, a) == 1


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_closeness_is_a_symmetric_share(a: float, b: float) -> None:
    assert 0 <= closeness(a, b, -3, 3) == closeness(b, a, -3, 3) <= 1
