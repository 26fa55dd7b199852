"""The choice among more chains than are wanted: equal shares, filled up like water."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_synth.balance import cell, quotas
from data_synth.outcomes import Outcome


@pytest.mark.parametrize(
    "counts, limit, taken",
    [
        ({"a": 10, "b": 10, "c": 10}, 9, {"a": 3, "b": 3, "c": 3}),
        ({"a": 1, "b": 10, "c": 10}, 9, {"a": 1, "b": 4, "c": 4}),  # what a lacks is shared by the others
        ({"a": 1, "b": 2, "c": 10}, 9, {"a": 1, "b": 2, "c": 6}),
        ({"a": 5, "b": 5}, 7, {"a": 3, "b": 4}),  # the odd one goes to the last
        ({"a": 2, "b": 2}, 9, {"a": 2, "b": 2}),  # fewer than wanted: all
        ({}, 9, {}),
    ],
)
def test_quotas_are_equal_and_what_a_cell_lacks_goes_to_the_others(counts, limit, taken):
    assert quotas(counts, limit) == taken


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 50)), st.integers(1, 120))
def test_quotas_use_the_limit_up_and_no_cell_gets_more_than_a_larger_one(counts, limit):
    taken = quotas(counts, limit)
    assert taken.total() == min(limit, sum(counts.values()))
    assert all(0 <= taken[name] <= counts[name] for name in counts)
    for small in counts:
        for large in counts:
            if counts[small] <= counts[large]:
                assert taken[small] <= taken[large] + (counts[small] == counts[large])
    # water: who did not get everything has as much as anybody, but for the one that cannot be divided
    short = [taken[name] for name in counts if taken[name] < counts[name]]
    assert all(max(taken.values()) - share <= 1 for share in short)


@pytest.mark.parametrize(
    "pass_rate, level",
    [(0.0, "hard"), (1 / 3, "hard"), (0.5, "middle"), (2 / 3, "middle"), (0.75, "easy"), (1.0, "easy")],
)
def test_difficulty_is_how_many_candidates_were_right(pass_rate, level):
    outcome = Outcome(0, "u", "negative", pass_rate, "", {}, ())
    assert cell(outcome, "difficulty") == f"negative, {level}" and cell(outcome, "coarse") == "negative"
