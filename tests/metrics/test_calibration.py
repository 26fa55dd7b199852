"""Calibration of confidences: by hand, against scikit-learn, and what holds for all of them."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from tasks.metrics.calibration import (
    best_risks,
    bins_of,
    brier,
    calibration_metrics,
    expected_calibration_error,
    risks,
)

items = st.lists(st.tuples(st.integers(0, 8).map(lambda k: k / 8), st.booleans()), min_size=1, max_size=30)
"""Shares of eight samples, as a vote gives them: full of ties."""


def test_six_items_by_hand():
    # two bins: (0, .5] holds .25 (wrong), .5 (right), .5 (wrong); (.5, 1] holds .75 (right), 1 (right), 1 (wrong)
    confidence, right = [0.25, 0.5, 0.5, 0.75, 1.0, 1.0], [False, True, False, True, True, False]
    low, high = bins_of(confidence, right, 2)
    assert (low.n, low.confidence, low.accuracy) == pytest.approx((3, 1.25 / 3, 1 / 3))
    assert (high.n, high.confidence, high.accuracy) == pytest.approx((3, 2.75 / 3, 2 / 3))
    found = calibration_metrics(confidence, right, 2)
    assert found["ece"] == pytest.approx((0.25 / 3 + 0.75 / 3) / 2)
    assert found["brier"] == pytest.approx((0.0625 + 0.25 + 0.25 + 0.0625 + 0 + 1) / 6)
    # sure first: two of confidence 1 with one error, then .75 right, then two of .5 with one error, then .25 wrong
    expected = [1 / 2, 1 / 2, 1 / 3, 1.5 / 4, 2 / 5, 3 / 6]
    assert risks(confidence, right) == pytest.approx(expected)
    assert found["aurc"] == pytest.approx(sum(expected) / 6)
    assert found["aurc_best"] == pytest.approx((1 / 4 + 2 / 5 + 3 / 6) / 6)  # three right ones first
    assert (found["risk"], found["confidence"]) == pytest.approx((0.5, 4 / 6))


def test_zero_lies_in_the_first_bin_and_an_edge_in_the_bin_below():
    assert [b.n for b in bins_of([0.0, 0.5, 0.5, 0.51, 1.0], [True] * 5, 2)] == [3, 2]


def test_items_of_one_confidence_stay_in_one_bin_of_equal_mass():
    # quartiles of 1..8 eighths are four bins of two; eight equal ones are one bin
    eighths = [k / 8 for k in range(1, 9)]
    assert [b.n for b in bins_of(eighths, [True] * 8, 4, mass=True)] == [2, 2, 2, 2]
    assert [b.n for b in bins_of([0.5] * 8, [True] * 8, 4, mass=True)] == [8]


@given(items, st.integers(1, 12), st.sampled_from([(False, "uniform"), (True, "quantile")]))
def test_bins_are_those_of_scikit_learn(pairs, bins, how):
    confidence, right = map(list, zip(*pairs, strict=True))
    mass, strategy = how
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins, strategy=strategy, pos_label=True)
    found = bins_of(confidence, right, bins, mass)
    assert [b.accuracy for b in found] == pytest.approx(accuracy)
    assert [b.confidence for b in found] == pytest.approx(mean)
    assert sum(b.n for b in found) == len(pairs)


@given(items)
def test_brier_is_that_of_scikit_learn(pairs):
    confidence, right = map(list, zip(*pairs, strict=True))
    assert brier(confidence, right) == pytest.approx(brier_score_loss(right, confidence, pos_label=True))


@given(items, st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    ours, theirs = (calibration_metrics(*map(list, zip(*some, strict=True)), 5) for some in (pairs, shuffled))
    assert ours == pytest.approx(theirs)


@given(st.lists(st.tuples(st.integers(0, 2).map(lambda k: k / 2), st.booleans()), min_size=1, max_size=5))
def test_the_risk_of_ties_is_the_mean_over_all_orders(pairs):
    curves = []
    for order in permutations(pairs):
        ranked = sorted(order, key=lambda pair: -pair[0])  # stable: the order decides ties
        wrong = np.cumsum([not right for _, right in ranked])
        curves.append(wrong / np.arange(1, len(pairs) + 1))
    confidence, right = map(list, zip(*pairs, strict=True))
    assert risks(confidence, right) == pytest.approx(np.mean(curves, axis=0))


@given(items)
def test_aurc_lies_between_the_best_and_the_worst_order(pairs):
    confidence, right = map(list, zip(*pairs, strict=True))
    found, n, wrong = calibration_metrics(confidence, right, 5), len(pairs), sum(not r for _, r in pairs)
    worst = np.minimum(1, wrong / np.arange(1, n + 1)).mean()
    assert found["aurc_best"] - 1e-12 <= found["aurc"] <= worst + 1e-12
    assert 0 <= found["ece"] <= 1 and 0 <= found["ece_mass"] <= 1


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_what_knows_all_has_the_best_aurc_and_what_knows_nothing_the_error_rate(right):
    n, wrong = len(right), sum(not r for r in right)
    sure = calibration_metrics([float(r) for r in right], right, 10)
    closed = sum(j / (n - wrong + j) for j in range(1, wrong + 1)) / n
    assert sure["aurc"] == pytest.approx(closed) == pytest.approx(sure["aurc_best"])
    assert best_risks(n, wrong)[-1] == pytest.approx(wrong / n)
    assert sure["ece"] == sure["ece_mass"] == sure["brier"] == 0
    blind = calibration_metrics([0.5] * n, right, 10)
    assert blind["aurc"] == pytest.approx(wrong / n) == pytest.approx(blind["risk"])


def test_right_as_often_as_it_says_has_little_error_and_too_sure_has_the_gap():
    rng = np.random.default_rng(0)
    confidence = rng.integers(0, 17, 20_000) / 16
    right = rng.random(20_000) < confidence
    assert expected_calibration_error(bins_of(confidence, right, 10)) < 0.01
    # a third of what it says: the gap is two thirds of the mean confidence in every bin
    third = rng.random(20_000) < confidence / 3
    assert expected_calibration_error(bins_of(confidence, third, 10)) == pytest.approx(1 / 3, abs=0.01)
