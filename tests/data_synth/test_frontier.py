"""When to stop asking does not depend on the order in which records are done."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_synth.config import SynthConfig
from data_synth.frontier import Frontier
from data_synth.outcomes import Outcome, Outcomes


def frontier(settings: SynthConfig, count: int, outcomes=None, **changes) -> Frontier:
    return Frontier(range(count), outcomes, SynthConfig(**(vars(settings) | changes)))  # type: ignore[arg-type]


def test_chains_ahead_of_a_gap_are_not_sure_but_enough(settings):
    found = frontier(settings, 5, limit=2)
    found.take(1, True)
    assert (found.kept, found.enough, found.full) == (0, False, False)
    found.take(3, True)
    assert (found.kept, found.enough, found.full) == (0, True, False)  # 0 and 2 may still be chains, no more are needed
    found.take(0, False)
    assert (found.kept, found.enough, found.full) == (1, True, False)
    found.take(2, True)
    assert (found.kept, found.enough, found.full) == (2, True, True)  # the limit cuts before 3


@pytest.mark.parametrize("changes", [{"limit": None}, {"limit": 2, "balance": "coarse"}])
def test_without_a_limit_and_with_a_balance_there_is_no_stop(settings, changes):
    found = frontier(settings, 3, **changes)
    for index in range(3):
        found.take(index, True)
    assert not found.enough and not found.full


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 99))
def test_any_order_ends_at_the_same_record(chains, limit, seed):
    settings = SynthConfig(0, limit, 1, False, 0, 0, 9, None, None, [], None, None, None, None)
    order = list(range(len(chains)))
    random.Random(seed).shuffle(order)
    found = Frontier(order, None, settings)  # type: ignore[arg-type]
    for index in order:
        found.take(index, chains[index])
    assert found.kept == min(limit, sum(chains)) and found.full == (sum(chains) >= limit)


def test_chains_that_repeat_an_earlier_one_do_not_count(settings, tmp_path):
    said = ["warm words and a smile", "warm words and a smile", "a cold and flat voice"]
    with Outcomes(tmp_path / "outcomes.db", fresh=True) as outcomes:
        found = frontier(settings, 3, outcomes, limit=2, near_duplicate=0.9)
        for place in (1, 0, 2):
            outcomes.add(Outcome(place, f"u{place}", "all", 1.0, said[place], {}, ()))
        found.take(1, True)
        found.take(0, True)
        assert (found.kept, found.enough) == (1, False)  # two chains, of which one is no news
        found.take(2, True)
        assert found.full
