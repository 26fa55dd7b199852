"""Uncertainty of corpus metrics: bootstrap intervals clustered by group, paired tests, and correction for many tests.

Items of one speaker or dialogue are not independent, so whole groups are drawn (Efron and Tibshirani 1993, An
Introduction to the Bootstrap, chapters 8 and 13).

One run stands for its checkpoint alone; a method ("arm") is its mean over several seeds, all evaluated on the same items.
Seeds and items are then crossed, and both are samples: another seed would have come out otherwise, and so would other
speakers. `mean_interval` and `mean_difference` allow for both. Their variance is that of two-way clustering (Cameron,
Gelbach and Miller 2011), where a seed is one kind of cluster and a group of items the other:

    V = V_seeds + V_items - V_both, and never less than the larger of V_seeds and V_items

V_seeds is that of a mean of independent seeds; V_items is the bootstrap variance over groups of items, the same for all
seeds of both arms; V_both is what both of them contain, the noise of a seed on an item (not below the larger: max-se of
MacKinnon, Nielsen and Webb, arXiv 2406.08880). Interval and p-value come from Student's t; its degrees of freedom are those
of Welch and Satterthwaite, V^2 / (V_seeds^2 / (seeds - 1) + V_items^2 / (groups - 1)), and not fewer than the smaller of
the two. With one seed this is the clustered paired test on items; with metrics that do not depend on the items it is
exactly the paired t-test over seeds (Welch's, where seeds are not paired).

Why this one, and not percentiles of a bootstrap that draws seeds and groups: with five seeds or six speakers percentiles
are too narrow (Colas, Sigaud and Oudeyer 2019, A Hitchhiker's Guide to Statistical Comparisons of RL Algorithms, advise
Welch's t-test for few seeds). How often 2000 simulated pairs of equal arms, five seeds each, were rejected at .05 (standard
error .005), with Gaussian scores except in the last row:

    what varies                                 percentiles   t over seeds alone   this test
    seeds alone                                        .174                 .058        .058
    items alone, 6 groups                              .146                1.000        .047
    seeds, items and their noise, 20 groups            .025                 .088        .038
    noise alone, 20 groups                             .005                 .058        .018
    accuracy on 200 items of 20 groups                 .039                 .054        .044

Neither has this p-value a floor of 2 / resamples, which Holm's correction of a large family would run into. A sign or rank
test cannot reject with five seeds: its smallest two-sided p is 2 / 2^5 = .0625. Intervals rather than point estimates over
few seeds: Agarwal et al. 2021, arXiv 2108.13264; tests on the same items: Dror et al. 2018, The Hitchhiker's Guide to
Testing Statistical Significance in NLP.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval: of percentiles for one run, of Student's t for a mean over seeds."""

    value: float
    lo: float
    hi: float
    unit: str
    """What was drawn: "group", or "item" where there are fewer than two groups."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference with its interval and two-sided p-value: by percentiles for two runs, by Student's t for means."""

    value: float
    lo: float
    hi: float
    p: float
    unit: str


def cell(found: Interval | Difference) -> dict[str, float]:
    """A value and its interval, as every JSON file of an evaluation has them."""
    return {"value": found.value, "lo": found.lo, "hi": found.hi}


def unit_of(groups: Sequence[str]) -> str:
    """What the bootstrap draws for these groups: "group", or "item" where there are fewer than two groups."""
    return "group" if len(set(groups)) > 1 else "item"


def resampled(groups: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Item indices of each bootstrap sample: as many groups as there are, drawn with replacement, with all their items."""
    if unit_of(groups) == "item":
        members = [np.array([i]) for i in range(len(groups))]
    else:
        items: dict[str, list[int]] = {}
        for i, group in enumerate(groups):
            items.setdefault(group, []).append(i)
        members = [np.array(found) for found in items.values()]
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])


def _ends(draws: Sequence[float], level: float) -> tuple[float, float]:
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def bootstrap_intervals(
    metrics: Callable[[np.ndarray], Mapping[str, float]],
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of several metrics at once, from the same samples.

    Args:
        metrics: item indices [M], with repetitions, -> named corpus metrics.
        groups: [N] group of each item.
        resamples: number of bootstrap samples.
        seed: decides the samples.
        level: coverage of the interval, in (0, 1).
    """
    values = metrics(np.arange(len(groups)))
    draws = [metrics(sample) for sample in resampled(groups, resamples, seed)]
    unit = unit_of(groups)
    return {k: Interval(v, *_ends([d[k] for d in draws], level), unit) for k, v in values.items()}


def bootstrap_interval(
    metric: Callable[[np.ndarray], float],
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """`bootstrap_intervals` of one metric."""
    return bootstrap_intervals(lambda i: {"": metric(i)}, groups, resamples, seed, level)[""]


def bootstrap_difference(
    metric_a: Callable[[np.ndarray], float],
    metric_b: Callable[[np.ndarray], float],
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Interval and p-value of `metric_a - metric_b` on the same items, both computed on the same samples.

    The p-value is twice the smaller share of samples on one side of zero (zeros count on both sides), with the observed
    data added as one sample, so that it is never below 2 / (resamples + 1).
    """
    items = np.arange(len(groups))
    draws = np.array([metric_a(i) - metric_b(i) for i in resampled(groups, resamples, seed)])
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (1 + rarer) / (resamples + 1))
    return Difference(metric_a(items) - metric_b(items), *_ends(draws.tolist(), level), p, unit_of(groups))


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One corpus metric of the runs of one method, on the items as they are and on every bootstrap sample of them."""

    seeds: tuple[int, ...]
    """[S] seed of each run, ascending."""
    values_S: np.ndarray
    samples_RS: np.ndarray
    """[R, S]; row r holds the same sample of items for every seed, and for every arm that has the same groups."""
    unit: str
    """What was drawn: "group", or "item"."""
    units: int
    """How many of them there are."""


def measure_arm(
    metrics: Mapping[int, Callable[[np.ndarray], Mapping[str, float]]],
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Arm]:
    """Every corpus metric of one arm; arms can be compared when groups, resamples and seed are the same.

    Args:
        metrics: seed of a run -> function of item indices [M], with repetitions, that gives its named corpus metrics.
        groups: [N] group of each item.
        resamples: number of bootstrap samples, 2 or more.
        seed: decides the samples.
    """
    seeds = tuple(sorted(metrics))
    whole = [metrics[s](np.arange(len(groups))) for s in seeds]
    drawn = [[metrics[s](items) for s in seeds] for items in resampled(groups, resamples, seed)]
    unit = unit_of(groups)
    units = len(set(groups)) if unit == "group" else len(groups)
    return {
        name: Arm(
            seeds,
            np.array([of_seed[name] for of_seed in whole]),
            np.array([[of_seed[name] for of_seed in row] for row in drawn]),
            unit,
            units,
        )
        for name in whole[0]
    }


def mean_interval(arm: Arm, level: float = 0.95) -> Interval:
    """The mean over seeds, with an interval for other seeds and other items (see the top of this file)."""
    value, lo, hi, _ = _student([arm], [1], level)
    return Interval(value, lo, hi, arm.unit)


def mean_difference(a: Arm, b: Arm, level: float = 0.95) -> Difference:
    """Mean of `a` minus mean of `b` on the same items, with its interval and two-sided p-value (see the top of this file).

    Runs are paired where both arms have the same seeds, as runs from one cold start in one order of data; otherwise seeds
    of the two arms are independent. An arm with one seed has no V_seeds: the result then holds for that checkpoint alone.
    """
    if paired(a, b):
        both = Arm(a.seeds, a.values_S - b.values_S, a.samples_RS - b.samples_RS, a.unit, a.units)
        return Difference(*_student([both], [1], level), both.unit)
    return Difference(*_student([a, b], [1, -1], level), a.unit)


def paired(a: Arm, b: Arm) -> bool:
    """Whether the runs of two arms are compared seed by seed."""
    return a.seeds == b.seeds


def _student(arms: Sequence[Arm], signs: Sequence[int], level: float) -> tuple[float, float, float, float]:
    """Value, both ends and p-value of the signed sum of means of arms whose seeds are independent."""
    value = float(sum(sign * arm.values_S.mean() for sign, arm in zip(signs, arms, strict=True)))
    sample_R = sum(sign * arm.samples_RS.mean(1) for sign, arm in zip(signs, arms, strict=True))
    of_items = _of_units(np.asarray(sample_R)[:, None], arms[0].units)
    several = [arm for arm in arms if len(arm.seeds) > 1]
    of_seeds = [float(arm.values_S.var(ddof=1)) / len(arm.seeds) for arm in several]
    of_both = 0.0
    for arm in several:  # an item's own variance is in both terms; what single seeds have beyond it is noise
        mean, single = _of_units(arm.samples_RS.mean(1, keepdims=True), arm.units), _of_units(arm.samples_RS, arm.units)
        of_both += max(0.0, single - mean) / (len(arm.seeds) - 1)
    total = sum(of_seeds) + of_items
    variance = max(sum(of_seeds), of_items, total - of_both)
    if variance == 0:
        return value, value, value, float(value == 0)
    shares = [(v, len(arm.seeds) - 1) for v, arm in zip(of_seeds, several, strict=True)] + [
        (of_items, arms[0].units - 1)
    ]
    shares = [(v, df) for v, df in shares if v > 0]
    freedom = max(variance**2 / sum(v**2 / df for v, df in shares), min(df for _, df in shares))
    error = variance**0.5
    half = float(student.ppf((1 + level) / 2, freedom)) * error
    return value, value - half, value + half, float(2 * student.sf(abs(value) / error, freedom))


def _of_units(samples_RS: np.ndarray, units: int) -> float:
    """Bootstrap variance, mean over columns, without the factor (U - 1) / U by which the bootstrap of U units is too small."""
    return float(samples_RS.var(0, ddof=1).mean()) * units / (units - 1) if units > 1 else 0.0


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> float:
    """Exact two-sided McNemar p-value: a binomial test of the items that exactly one of two systems gets right.

    Args:
        right_a: [N] whether system A is right.
        right_b: [N] whether system B is right on the same items.

    Returns:
        A p-value in (0, 1]; 1 when the systems never differ.
    """
    only_a = sum(bool(a) and not b for a, b in zip(right_a, right_b, strict=True))
    only_b = sum(bool(b) and not a for a, b in zip(right_a, right_b, strict=True))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down method (Holm 1979), in the given order.

    The smallest of m is multiplied by m, the next by m - 1, and so on; running maximum, at most 1.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
