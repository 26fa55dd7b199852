"""Uncertainty of corpus metrics: bootstrap intervals clustered by group, paired tests, and correction for many tests.

Items of one speaker or dialogue are not independent, so whole groups are drawn (Efron and Tibshirani 1993, An
Introduction to the Bootstrap, chapters 8 and 13).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile interval."""

    value: float
    lo: float
    hi: float
    unit: str
    """What was drawn: "group", or "item" where there are fewer than two groups."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference with its percentile interval and two-sided bootstrap p-value."""

    value: float
    lo: float
    hi: float
    p: float
    unit: str


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
