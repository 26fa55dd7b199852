"""When stuck prompts are hinted, step by step, and what is remembered for it: by hand, and as laws."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import hint_config

from rl.hints.control import HintState


def probabilities(steps: int, **hint) -> list[float]:
    cfg = hint_config(**hint)
    return [HintState.start(cfg).probability(cfg, step, steps) for step in range(steps)]


def test_a_constant_schedule_always_hints():
    assert probabilities(3) == [1.0] * 3


def test_no_hints_while_the_policy_warms_up():
    assert probabilities(4, warmup=0.5) == [0.0, 0.0, 1.0, 1.0]
    assert probabilities(10, warmup=0.25) == [0.0] * 3 + [1.0] * 7  # step 2.5 is not over in step 2
    assert probabilities(3, warmup=1.0) == [0.0] * 3


def test_a_cosine_goes_from_always_to_never():
    assert probabilities(5, schedule="cosine") == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466, 0.0])
    assert probabilities(1, schedule="cosine") == [1.0]


def test_a_cosine_starts_behind_the_warm_up():
    assert probabilities(10, schedule="cosine", warmup=0.5) == pytest.approx(
        [0.0] * 5 + [1.0, 0.8535534, 0.5, 0.1464466, 0.0]
    )


def test_without_a_strategy_never():
    assert probabilities(2, strategy="none") == [0.0, 0.0]


@given(st.integers(1, 50), st.floats(0, 1), st.sampled_from(["constant", "cosine", "ema"]), st.booleans(), st.data())
def test_a_probability_is_one(steps, warmup, schedule, off, data):
    cfg = hint_config(warmup=warmup, schedule=schedule)
    state = HintState(0.5, off=off)
    found = [state.probability(cfg, step, steps) for step in range(steps)]
    assert all(0 <= p <= 1 for p in found)
    later = [p for step, p in enumerate(found) if step >= warmup * steps]
    assert later == sorted(later, reverse=True)
    assert not any(found[: len(found) - len(later)])
    assert not (off and any(found))


def test_the_switch_follows_a_running_mean_and_never_comes_back():
    cfg = hint_config(schedule="ema", ema_decay=0.5, ema_off=0.75)
    state = HintState.start(cfg)
    seen = []
    for solved in (1, 3, 4, 4, 0, 0):  # of four prompts
        state.learn(cfg, (solved, 4), (0, 0))
        seen.append((state.solvable, state.off, state.probability(cfg, 0, 10)))
    assert seen == [
        (0.125, False, 1.0),  # halfway from 0 to the first share
        (0.4375, False, 1.0),
        (0.71875, False, 1.0),
        (0.859375, True, 0.0),
        (0.4296875, True, 0.0),
        (0.21484375, True, 0.0),
    ]


def test_a_mean_that_only_reaches_the_mark_does_not_pass_it():
    cfg = hint_config(schedule="ema", ema_decay=0.5, ema_off=0.75)
    state = HintState.start(cfg)
    for off in (False, False, True):  # 0.5, 0.75, 0.875
        state.learn(cfg, (4, 4), (0, 0))
        assert state.off == off


def test_one_batch_that_happens_to_be_solved_does_not_end_hints_for_good():
    cfg = hint_config(schedule="ema", ema_decay=0.9, ema_off=0.95)
    state = HintState.start(cfg)
    steps = 0
    while not state.off:
        state.learn(cfg, (20, 20), (0, 0))
        steps += 1
    assert steps == 29  # 1 - .9**28 = .948, 1 - .9**29 = .953


def test_a_step_without_unhinted_rollouts_says_nothing_of_them():
    cfg = hint_config(schedule="ema", ema_decay=0.0, ema_off=0.5)
    state = HintState.start(cfg)
    state.learn(cfg, (0, 0), (4, 4))
    assert (state.solvable, state.off) == (0.0, False)
    state.learn(cfg, (1, 1), (0, 0))
    assert (state.solvable, state.off) == (1.0, True)


def test_other_schedules_watch_the_mean_and_are_not_switched_off():
    cfg = hint_config(schedule="constant", ema_decay=0.0, ema_off=0.5)
    state = HintState.start(cfg)
    state.learn(cfg, (4, 4), (0, 0))
    assert (state.solvable, state.off) == (1.0, False)


def test_the_length_moves_towards_the_success_that_is_wanted():
    cfg = hint_config(strategy="adaptive", start=0.5, target=0.5, gain=0.4)
    state = HintState.start(cfg)
    lengths = [state.length]
    for hinted in ((0, 4), (4, 4), (1, 4), (2, 4), (0, 0), (3, 4)):
        state.learn(cfg, (0, 4), hinted)
        lengths.append(state.length)
    # too few: longer by 0.4 * 0.5; too many: shorter; on target, or without any: as it was
    assert lengths == pytest.approx([0.5, 0.7, 0.5, 0.6, 0.6, 0.6, 0.5])


def test_the_length_stays_within_0_and_1_and_nothing_is_given_away_at_0():
    cfg = hint_config(strategy="adaptive", start=0.9, target=0.5, gain=1.0)
    state = HintState.start(cfg)
    state.learn(cfg, (0, 4), (0, 4))
    assert state.length == 1.0
    for _ in range(3):
        state.learn(cfg, (4, 4), (4, 4))
    assert state.length == 0.0


def test_no_other_strategy_moves_the_length():
    cfg = hint_config(strategy="ladder")
    state = HintState.start(cfg)
    state.learn(cfg, (0, 4), (0, 4))
    assert state.length == cfg.start


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 10),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted)),
)
def test_the_controller_ends_in_range_whatever_happens(start, target, gain, outcomes):
    cfg = hint_config(strategy="adaptive", start=start, target=target, gain=gain)
    state = HintState.start(cfg)
    for helped, told in outcomes:
        before = state.length
        state.learn(cfg, (0, 0), (helped, told))
        assert 0 <= state.length <= 1
        if told:
            assert (state.length - before) * (target - helped / told) >= 0


def test_the_likelihood_fades_from_its_weight_to_nothing():
    cfg = hint_config(prefix="likelihood", likelihood=0.2)
    state = HintState.start(cfg)
    assert [state.likelihood(cfg, step, 5) for step in range(5)] == pytest.approx([0.2, 0.1707107, 0.1, 0.0292893, 0.0])
    assert state.likelihood(cfg, 0, 1) == 0.2


@given(st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_state_survives_a_file_bit_for_bit(length, solvable, off):
    state = HintState(length, solvable, off)
    assert HintState(**json.loads(json.dumps(state.to_json()))) == state
