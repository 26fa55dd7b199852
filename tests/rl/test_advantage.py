"""Rewards and advantages, computed by hand."""

import math
from itertools import combinations

import pytest
import torch

from models.engine.base import Completion
from rewards.total import reward
from rl.advantage import EPSILON, advantages, rewards_to_compare
from rl.rollout import Rollout
from tasks.base import UNREAD, WRONG, Score
from tasks.dc import Fault

WEIGHTS = {"format": 0.5, "discriminate": 1.0, "calibrate": 1.0, "agreement": 0.25}


def parts(format, discriminate, calibrate, agreement):
    return {"format": format, "discriminate": discriminate, "calibrate": calibrate, "agreement": agreement}


def row(rewards, hinted=None, baseline="shared", scale="none"):
    return advantages([rewards], [hinted or [False] * len(rewards)], baseline=baseline, scale=scale)[0].tolist()


def test_the_reward_is_the_weighted_mean_of_the_parts():
    # (0.5 * 1 + 1 * 0 + 1 * 0.5 + 0.25 * 1) / (0.5 + 1 + 1 + 0.25) = 1.25 / 2.75
    assert reward(parts(1.0, 0.0, 0.5, 1.0), WEIGHTS) == pytest.approx(1.25 / 2.75)
    assert reward(parts(1.0, 1.0, 1.0, 1.0), WEIGHTS) == 1.0
    assert reward(parts(0.0, 0.0, 0.0, 0.0), WEIGHTS) == 0.0


def test_an_unscorable_part_leaves_the_mean_to_the_others():
    # (0.5 * 1 + 1 * 0.5 + 0.25 * 1) / (0.5 + 1 + 0.25) = 1.25 / 1.75
    assert reward(parts(1.0, None, 0.5, 1.0), WEIGHTS) == pytest.approx(1.25 / 1.75)
    assert reward(parts(None, None, None, None), WEIGHTS) is None


def test_a_part_of_weight_zero_counts_for_nothing():
    weights = WEIGHTS | {"discriminate": 0.0, "agreement": 0.0}
    # (0.5 * 1 + 1 * 0.4) / 1.5 = 0.6
    assert reward(parts(1.0, 0.0, 0.4, 0.0), weights) == pytest.approx(0.6)
    assert reward(parts(None, 1.0, None, 1.0), weights) is None


def test_shared_advantages_are_centred_on_the_group():
    # mean 0.5
    assert row([1.0, 0.0, 0.5, 0.5]) == pytest.approx([0.5, -0.5, 0.0, 0.0])


def test_scaled_advantages_are_divided_by_the_deviation_of_the_group():
    # variance (0.25 + 0.25) / (4 - 1) = 1/6
    a = 0.5 / (math.sqrt(1 / 6) + EPSILON)
    assert EPSILON == 1e-4
    assert row([1.0, 0.0, 0.5, 0.5], scale="group") == pytest.approx([a, -a, 0.0, 0.0])


def test_hinted_and_unhinted_siblings_can_be_compared_among_themselves():
    rewards, hinted = [1.0, 0.5, 0.9, 0.7], [False, False, True, True]
    # means 0.75 and 0.8
    assert row(rewards, hinted, baseline="context") == pytest.approx([0.25, -0.25, 0.1, -0.1])
    # mean 0.775
    assert row(rewards, hinted, baseline="shared") == pytest.approx([0.225, -0.275, 0.125, -0.075])


def test_contexts_are_scaled_by_their_own_deviation():
    # two siblings that differ by d have the deviation d / sqrt(2)
    a, b = 0.25 / (0.5 / math.sqrt(2) + EPSILON), 0.1 / (0.2 / math.sqrt(2) + EPSILON)
    found = row([1.0, 0.5, 0.9, 0.7], [False, False, True, True], baseline="context", scale="group")
    assert found == pytest.approx([a, -a, b, -b], rel=1e-5)


@pytest.mark.parametrize("scale", ["none", "group"])
def test_a_sibling_that_is_alone_in_its_context_gets_zero(scale):
    found = row([1.0, 1.0, 0.0, 0.9], [False, False, False, True], baseline="context", scale=scale)
    assert found[3] == 0.0
    assert found[0] == found[1] > 0 > found[2]


def test_an_unscorable_rollout_gets_zero_and_moves_no_mean():
    assert row([1.0, None, 0.0]) == pytest.approx([0.5, 0.0, -0.5])
    assert row([None, 1.0]) == [0.0, 0.0]


@pytest.mark.parametrize("baseline", ["shared", "context"])
def test_a_group_in_which_nothing_could_be_scored_gets_zeros(baseline):
    assert row([None] * 4, [False, False, True, True], baseline=baseline, scale="group") == [0.0] * 4


@pytest.mark.parametrize("scale", ["none", "group"])
def test_equal_rewards_give_exactly_zero(scale):
    # in float32, eight times 0.7 has a mean that is not 0.7
    assert (torch.full((8,), 0.7) - torch.full((8,), 0.7).mean()).abs().max() > 0
    assert row([0.7] * 8, scale=scale) == [0.0] * 8


def test_every_prompt_has_a_mean_of_its_own():
    found = advantages([[1.0, 0.0], [0.4, 0.2]], [[False] * 2] * 2, baseline="shared", scale="none")
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.tensor([[0.5, -0.5], [0.1, -0.1]]))


def sibling(
    explanation: float | None, calibrate: float, *, unheard: bool = False, fault: Fault | None = None
) -> Rollout:
    known = {"format": 1.0, "discriminate": 1.0, "calibrate": calibrate, "agreement": 1.0}
    shown = WRONG if fault else UNREAD | known | {"explanation": explanation}
    return Rollout("", (), Completion((), (), True), "", Score(shown, fault, None, unheard=unheard))


READ = WEIGHTS | {"explanation": 1.0, "evidence": 1.0}


def test_all_heard_nothing_is_estimated():
    rows = [sibling(1.0, 0.5), sibling(0.0, 0.5)]
    assert rewards_to_compare(rows, READ, True) == [reward(r.score.parts, READ) for r in rows]


def test_siblings_that_a_judge_was_not_heard_on_get_the_mean_and_the_others_are_stretched():
    fault = sibling(None, 0.0, fault=Fault.EMPTY)
    rows = [sibling(1.0, 0.5), sibling(0.0, 0.5), sibling(None, 0.5, unheard=True), fault]
    # three were asked and two heard: mean 1/2, stretched by (3 - 1) / (2 - 1); the completion at fault was not asked
    expected = [(0.5 + 1 + 0.5 + 0.25 + e) / 3.75 for e in (1.5, -0.5, 0.5)]
    assert rewards_to_compare(rows, READ, True) == pytest.approx([*expected, 0.0])


def test_the_expected_advantage_is_the_one_without_failures():
    """Over all ways in which 2 of 4 may have failed; left out of the mean instead, it is another one."""
    truth = [(1.0, 0.2), (0.0, 0.9), (0.5, 0.5), (1.0, 0.4)]

    def of(unheard: tuple[int, ...], estimate: bool) -> torch.Tensor:
        rows = [
            sibling(None if i in unheard else e, c, unheard=i in unheard and estimate) for i, (e, c) in enumerate(truth)
        ]
        return advantages([rewards_to_compare(rows, READ, True)], [[False] * 4], baseline="shared", scale="none")[0]

    ways = list(combinations(range(4), 2))
    whole = of((), True)
    mean = torch.stack([of(w, True) for w in ways]).mean(0)
    left_out = torch.stack([of(w, False) for w in ways]).mean(0)
    assert mean.tolist() == pytest.approx(whole.tolist(), abs=1e-6)
    assert (left_out - whole).abs().max() > 0.01
