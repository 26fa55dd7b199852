"""Corpus metrics of sentiment intensity, with the two conventions of the literature.

The rules are those of MMSA (github.com/thuiar/MMSA, src/MMSA/utils/metricsTop.py, `__eval_mosi_regression` and
`__eval_sims_regression`); the tests check against them class by class.
"""

from collections.abc import Sequence

import numpy as np

from runtime.errors import ConfigError
from tasks.metrics.classification import weighted_f1

HALF_RANGE = {"mosi": 3.0, "sims": 1.0}
"""Each scheme is defined on [-half, half]; other scales are mapped onto it linearly."""

SIMS_EDGES = {3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}
"""Inner edges of the SIMS bins, which are closed on the right."""


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _two_way(gold: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Accuracy and weighted F1 of two boolean arrays; zeros when they are empty."""
    if not len(gold):
        return 0.0, 0.0
    return float((gold == predicted).mean()), weighted_f1(gold.astype(int), predicted.astype(int), 2)


def regression_metrics(
    gold: Sequence[float], predicted: Sequence[float | None], *, lo: float, hi: float, neutral: float, scheme: str
) -> dict[str, float]:
    """Corpus metrics of numbers on the scale [lo, hi].

    Class accuracies are computed after the linear map of [lo, hi] onto the scale of the scheme; `mae` and `corr` keep
    the native scale. An unparseable prediction is replaced by the end of the scale that is farther from gold, and where
    gold is the exact middle by the end of the other two-way class: as bad as possible in `mae`, wrong in all the rest.

    Args:
        gold: [N] numbers, N >= 1.
        predicted: [N] numbers; None where the answer could not be read.
        lo: lower end of the scale.
        hi: upper end of the scale, above `lo`.
        neutral: half width of the neutral zone around the middle, in native units.
        scheme: "mosi" or "sims".

    Returns:
        Both schemes: `acc3`, `acc5`, `mae`, `corr` (Pearson; 0 where it is undefined because one side is constant),
        `polarity` (accuracy of negative / neutral / positive, the zone of `Scalar.coarse`), `unparseable` (share of
        None). "mosi" adds `acc7`, `acc2_has0` and `f1_has0` (>= 0 against < 0, all items), `acc2_non0` and `f1_non0`
        (> 0 against <= 0, items whose gold is not 0; both 0 when there are none), and does not clip before `mae` and
        `corr`. "sims" adds `acc2` and `f1` (> 0 against <= 0), and clips to the scale before everything. F1 is weighted.

    Raises:
        ConfigError: for an unknown scheme.
    """
    if scheme not in HALF_RANGE:
        raise ConfigError(f"metrics scheme: one of {sorted(HALF_RANGE)}; got {scheme!r}; mend the config of the task")
    mid, half = (lo + hi) / 2, HALF_RANGE[scheme]
    y = np.array(gold, dtype=float)
    parsed = np.array([p is not None for p in predicted])
    p = np.array([0.0 if x is None else x for x in predicted], dtype=float)
    in_upper_class = y >= mid if scheme == "mosi" else y > mid
    p = np.where(parsed, p, np.where(in_upper_class, lo, hi))
    if scheme == "sims":
        y, p = y.clip(lo, hi), p.clip(lo, hi)

    def side(x: np.ndarray) -> np.ndarray:
        return np.where(np.abs(x - mid) <= neutral + 1e-9, 0, np.sign(x - mid))

    native = {
        "mae": float(np.abs(p - y).mean()),
        "corr": _correlation(p, y),
        # `parsed`, because a neutral zone as wide as the scale would call the replaced values right
        "polarity": float(((side(p) == side(y)) & parsed).mean()),
        "unparseable": float((~parsed).mean()),
    }
    if (lo, hi) != (-half, half):  # rounded, so that the map does not push a value over the edge of a bin
        y, p = (np.round((x - mid) * (2 * half / (hi - lo)), 9) for x in (y, p))
    if scheme == "sims":
        bins = {k: [np.searchsorted(edges, x) for x in (y, p)] for k, edges in SIMS_EDGES.items()}
        acc2, f1 = _two_way(y > 0, p > 0)
        return {"acc2": acc2, "f1": f1} | {f"acc{k}": float((a == b).mean()) for k, (a, b) in bins.items()} | native
    has0, f1_has0 = _two_way(y >= 0, p >= 0)
    non0, f1_non0 = _two_way(y[y != 0] > 0, p[y != 0] > 0)
    accuracy = {
        f"acc{2 * k + 1}": float((np.round(p.clip(-k, k)) == np.round(y.clip(-k, k))).mean()) for k in (1, 2, 3)
    }
    return {"acc2_has0": has0, "acc2_non0": non0, "f1_has0": f1_has0, "f1_non0": f1_non0} | accuracy | native
