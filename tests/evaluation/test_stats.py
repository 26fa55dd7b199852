"""Intervals and tests against scipy and against enumerations by hand."""

import time

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, sem, ttest_1samp, ttest_ind, ttest_rel
from scipy.stats import t as student

from evaluation.stats import (
    Arm,
    bootstrap_difference,
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    mcnemar,
    mean_difference,
    mean_interval,
    measure_arm,
    resampled,
)
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


def means(x_SN, groups, seeds=None, resamples=1000, seed=0):
    """An arm whose corpus metric is the mean over items."""
    runs = dict(zip(seeds or range(len(x_SN)), x_SN, strict=True))
    return measure_arm({s: lambda i, x=x: {"mean": x[i].mean()} for s, x in runs.items()}, groups, resamples, seed)[
        "mean"
    ]


def every_item(count):
    return [str(k) for k in range(count)]


def test_one_run_a_side_draws_the_samples_of_the_paired_bootstrap():
    a, b = np.random.default_rng(4).normal(size=(2, 60))
    old = bootstrap_difference(lambda i: a[i].mean(), lambda i: b[i].mean(), every_item(60), resamples=500, seed=3)
    arms = [means([x], every_item(60), resamples=500, seed=3) for x in (a, b)]
    draws = arms[0].samples_RS[:, 0] - arms[1].samples_RS[:, 0]
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([old.lo, old.hi])
    new = mean_difference(*arms)
    assert (new.value, new.unit) == (pytest.approx(old.value), "group")
    # Student's ends are 2.5 % wider than percentiles of 60 items, which wobble by some 5 % at 500 samples
    assert [new.lo, new.hi] == pytest.approx([old.lo, old.hi], abs=0.12 * (old.hi - old.lo))


def test_one_run_a_side_is_the_paired_t_test_over_items():
    b, noise = np.random.default_rng(5).normal(size=(2, 40))
    a = b + 0.36 + (noise - noise.mean()) / noise.std(ddof=1)  # t = 0.36 * sqrt(40) = 2.28
    ours = mean_difference(*(means([x], every_item(40), resamples=8000) for x in (a, b)))
    theirs = ttest_rel(a, b)
    # the standard error of a bootstrap wobbles by 1 / sqrt(2 * 8000) = 0.8 %
    assert (ours.hi - ours.lo) / 2 == pytest.approx(sem(a - b) * student.ppf(0.975, 39), rel=0.03)
    assert theirs.pvalue == pytest.approx(0.028, abs=0.001)
    assert ours.p == pytest.approx(theirs.pvalue, rel=0.12)


def test_seeds_alone_are_the_t_tests_of_scipy():
    a, b = np.array([0.81, 0.79, 0.84, 0.80, 0.83]), np.array([0.74, 0.78, 0.73, 0.79, 0.75])
    items = np.ones((1, 30))
    arms = (
        means(a[:, None] * items, every_item(30), resamples=5),
        means(b[:, None] * items, every_item(30), resamples=5),
    )
    ours, theirs = mean_difference(*arms), ttest_rel(a, b)
    assert ours.value == pytest.approx(0.056)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert [ours.lo, ours.hi] == pytest.approx(list(theirs.confidence_interval(0.95)))
    one = mean_interval(arms[0])
    assert [one.lo, one.hi] == pytest.approx(list(ttest_1samp(a, 0).confidence_interval(0.95)))

    others = means(b[:4, None] * items, every_item(30), seeds=[7, 8, 9, 10], resamples=5)
    welch = ttest_ind(a, b[:4], equal_var=False)
    assert mean_difference(arms[0], others).p == pytest.approx(welch.pvalue)
    assert mean_difference(others, arms[0]).p == pytest.approx(welch.pvalue)


def test_the_two_way_variance_by_hand():
    # two seeds with values 1 and 3; samples (0, 2), (2, 2), (1, 5), (1, 3): means 1 2 3 2, variances 2/3
    samples = np.array([[0.0, 2], [2, 2], [1, 5], [1, 3]])
    arm = Arm((0, 1), np.array([1.0, 3.0]), samples, "group", 3)
    # V_seeds = 2 / 2 = 1 with 1 degree of freedom; V_items = (2/3) (3/2) = 1 with 2
    # single seeds have variances 2/3 and 2, times 3/2: mean 2; V_both = (2 - 1) / (2 - 1) = 1; V = 1 + 1 - 1
    # degrees of freedom 1^2 / (1^2 / 1 + 1^2 / 2) = 2/3, but not below 1
    interval = mean_interval(arm)
    half = student.ppf(0.975, 1)
    assert (interval.value, interval.lo, interval.hi) == pytest.approx((2, 2 - half, 2 + half))
    # without the noise of single seeds (both columns the same) V = 1 + 1
    arm = Arm((0, 1), np.array([1.0, 3.0]), np.repeat([[1.0], [2], [3], [2]], 2, axis=1), "group", 3)
    assert mean_interval(arm).hi == pytest.approx(2 + 2**0.5 * student.ppf(0.975, 4 / 1.5))
    # more noise than all else: means 1.5 1.5 2.5 2.5, V_items = (1/3) (3/2) is what is left, V_both = (2) (3/2) - 1/2
    arm = Arm((0, 1), np.array([2.0, 2.0]), np.array([[0.0, 3], [2, 1], [4, 1], [2, 3]]), "group", 3)
    assert mean_interval(arm).hi == pytest.approx(2 + 0.5**0.5 * student.ppf(0.975, 2))


def test_runs_of_the_same_seeds_are_paired_and_others_are_not():
    rng = np.random.default_rng(2)
    cold_start = rng.normal(0, 1, (6, 1))  # what both runs of a seed share
    a, b = (cold_start + 0.1 * rng.normal(size=(6, 1)) + gain + np.zeros((6, 25)) for gain in (0.3, 0.0))
    groups = every_item(25)
    same = mean_difference(means(a, groups, resamples=5), means(b, groups, resamples=5))
    other = mean_difference(means(a, groups, resamples=5), means(b, groups, seeds=range(10, 16), resamples=5))
    assert same.value == pytest.approx(other.value)
    assert same.p < 0.02 < 0.3 < other.p
    # what items have in common cancels, whether seeds are paired or not
    hard = 100 * rng.normal(size=25)
    shifted = mean_difference(means(a + hard, groups), means(b + hard, groups, seeds=range(10, 16)))
    assert (shifted.lo, shifted.hi) == pytest.approx((other.lo, other.hi))


@pytest.mark.parametrize(
    "seeds, items, noise, percentiles_fail", [(1, 0, 0, True), (0, 1, 0, True), (1, 1, 1, False), (0, 0, 1, False)]
)
def test_equal_arms_are_rejected_no_more_often_than_it_says(seeds, items, noise, percentiles_fail):
    rng, trials, by_t, by_percentiles = np.random.default_rng(8), 300, 0, 0
    for trial in range(trials):
        difference = (
            seeds * 5**0.5 * rng.normal(size=(5, 1))
            + items * 6**0.5 * rng.normal(size=(1, 6))
            + noise * 30**0.5 * rng.normal(size=(5, 6))
        )
        base = rng.normal(size=(5, 6))
        a, b = (means(x, every_item(6), resamples=100, seed=trial) for x in (base + difference, base))
        by_t += mean_difference(a, b).p < 0.1
        drawn_RS = rng.integers(5, size=(100, 5))  # seeds, and the groups are drawn already
        draws_R = np.take_along_axis(a.samples_RS - b.samples_RS, drawn_RS, axis=1).mean(1)
        by_percentiles += 2 * min((draws_R <= 0).mean(), (draws_R >= 0).mean()) < 0.1
    assert by_t <= 44  # 30 expected, standard error 5.2; fewer where there is noise
    assert by_t >= (1 if noise else 16)
    assert (by_percentiles > 44) == percentiles_fail  # why percentiles are not the test


def test_a_difference_without_any_spread_is_certain():
    arms = [means(np.full((3, 4), x), every_item(4), resamples=5) for x in (0.5, 0.25)]
    assert mean_difference(*arms).p == 0.0
    same = mean_difference(arms[0], arms[0])
    assert (same.value, same.lo, same.hi, same.p) == (0.0, 0.0, 0.0, 1.0)


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
