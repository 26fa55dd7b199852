"""Intervals and tests against scipy and against enumerations by hand."""

import time

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from evaluation.stats import bootstrap_difference, bootstrap_interval, bootstrap_intervals, holm, mcnemar, resampled
from tasks.metrics.regression import regression_metrics


def test_the_interval_is_that_of_scipy_when_every_item_is_its_own_group():
    x = np.random.default_rng(3).normal(size=60)
    ours = bootstrap_interval(lambda i: float(x[i].mean()), [str(k) for k in range(60)], resamples=4000, seed=5)
    theirs = bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(6))
    assert ours.value == pytest.approx(x.mean())
    assert ours.unit == "group"
    # both ends wobble by less than a tenth of the standard error (0.13) at 4000 samples
    assert ours.lo == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.hi == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_whole_groups_are_drawn():
    # groups a = {0, 0} and b = {1, 1, 1, 1}: aa, ab, ba, bb are equally likely, with means 0, 4/6, 4/6, 1
    x = np.array([0.0, 0, 1, 1, 1, 1])
    groups = ["a", "a", "b", "b", "b", "b"]
    means = [float(x[i].mean()) for i in resampled(groups, 400, seed=0)]
    assert sorted(set(means)) == pytest.approx([0, 4 / 6, 1])
    assert means.count(0.0) / 400 == pytest.approx(0.25, abs=0.06)
    interval = bootstrap_interval(lambda i: float(x[i].mean()), groups, resamples=400)
    assert (interval.lo, interval.hi) == (0.0, 1.0)


def test_clustered_intervals_are_wider_when_items_of_a_group_agree():
    speaker = np.repeat(np.random.default_rng(0).normal(size=10), 20)
    clustered = bootstrap_interval(lambda i: float(speaker[i].mean()), [f"{k // 20}" for k in range(200)])
    independent = bootstrap_interval(lambda i: float(speaker[i].mean()), [f"{k}" for k in range(200)])
    assert clustered.hi - clustered.lo > 3 * (independent.hi - independent.lo)


def test_one_group_falls_back_to_items_and_says_so():
    x = np.arange(20.0)
    one = bootstrap_interval(lambda i: float(x[i].mean()), ["same"] * 20)
    assert one.unit == "item"
    assert one.lo < one.value < one.hi


def test_the_seed_decides_the_interval():
    x = np.random.default_rng(0).normal(size=30)
    groups = [str(k % 9) for k in range(30)]
    a, b, c = (bootstrap_interval(lambda i: float(x[i].mean()), groups, seed=s) for s in (1, 1, 2))
    assert a == b != c


def test_two_hundred_items_with_all_metrics_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    gold, predicted = rng.uniform(-3, 3, (2, 200)).tolist()

    def metrics(items):
        pairs = [gold[i] for i in items], [predicted[i] for i in items]
        return regression_metrics(*pairs, lo=-3, hi=3, neutral=0.2, scheme="mosi")

    start = time.perf_counter()
    assert "mae" in bootstrap_intervals(metrics, [str(k % 20) for k in range(200)])
    assert time.perf_counter() - start < 2


def test_a_constant_difference_has_no_spread_and_the_smallest_p():
    x = np.random.default_rng(0).normal(size=30)
    groups = [str(k) for k in range(30)]
    d = bootstrap_difference(lambda i: float(x[i].mean()) + 1, lambda i: float(x[i].mean()), groups, resamples=99)
    assert (d.value, d.lo, d.hi) == pytest.approx((1.0, 1.0, 1.0))
    assert d.p == pytest.approx(2 / 100)  # 2 (0 + 1) / (99 + 1)


def test_equal_systems_have_p_one_and_an_interval_around_zero():
    x = np.random.default_rng(0).normal(size=30)
    d = bootstrap_difference(lambda i: float(x[i].mean()), lambda i: float(x[i].mean()), ["g", "h", "i"] * 10)
    assert (d.value, d.lo, d.hi, d.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_p_value_is_calibrated_when_there_is_no_difference():
    rng = np.random.default_rng(11)
    groups = [str(k) for k in range(40)]
    below = 0
    for trial in range(100):
        a, b = rng.normal(size=(2, 40))
        d = bootstrap_difference(lambda i, a=a: a[i].mean(), lambda i, b=b: b[i].mean(), groups, 200, trial)
        below += d.p < 0.1
    assert 3 <= below <= 20  # 10 expected


def test_mcnemar_by_hand():
    # 1 item only A, 5 items only B, the rest agree: 2 (C(6,0) + C(6,1)) / 2^6 = 14/64
    a = [True] + [False] * 5 + [True] * 4
    b = [False] + [True] * 5 + [True] * 4
    assert mcnemar(a, b) == pytest.approx(14 / 64)
    assert mcnemar(b, a) == pytest.approx(14 / 64)
    assert mcnemar(a, b) == pytest.approx(binomtest(1, 6).pvalue)


def test_mcnemar_of_systems_that_never_differ_is_one():
    assert mcnemar([True, False], [True, False]) == 1.0


def test_holm_by_hand():
    # sorted .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04, running maximum .04 .06 .06 .06
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
