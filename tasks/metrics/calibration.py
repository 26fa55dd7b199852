"""Whether a confidence means what it says, and whether it tells right answers from wrong ones.

With N items, confidence c_i in [0, 1] and r_i whether item i is right:

    ECE     sum over bins b of |b| / N * |mean r in b - mean c in b|    (Guo et al., ICML 2017, arXiv 1706.04599, eq. 3)
    Brier   mean of (c_i - r_i)^2                                       (Brier 1950)
    risk(k) share of wrong items among the k most confident ones; coverage is k / N
                                                                        (Geifman and El-Yaniv, NeurIPS 2017, arXiv 1705.08500)
    AURC    mean of risk(1) .. risk(N)                                  (Geifman, Uziel and El-Yaniv, ICLR 2019, arXiv 1805.08206)

ECE has bins of equal width, (0, 1/M], (1/M, 2/M] and so on with 0 in the first, as in that paper, or of equal mass, between
the quantiles (Nguyen and O'Connor, EMNLP 2015). Shares of a few samples take few values: items of one confidence are never
parted. So no bin depends on the order of the items, and there can be fewer bins than asked for. For the same reason the risk
inside of a tie is its mean over all orders of the tie, which is exact and needs no draws.

References: a confidence that knows nothing has a risk of E / N at every coverage, where E items are wrong, and so that AURC; the
best one puts every right item first, risk(k) = max(0, k - (N - E)) / k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Bin:
    """Items of about the same confidence."""

    n: int
    confidence: float
    """Mean of them, in [0, 1]."""
    accuracy: float
    """Share that is right."""


def bins_of(confidence: ArrayLike, right: ArrayLike, bins: int, mass: bool = False) -> list[Bin]:
    """The points of a reliability diagram: bins that hold something, by ascending confidence.

    Args:
        confidence: [N] in [0, 1], N >= 1.
        right: [N].
        bins: how many at the most.
        mass: whether bins hold about the same number of items, instead of being equally wide.
    """
    c_N, r_N = np.asarray(confidence, float), np.asarray(right, float)
    edges = np.linspace(0, 1, bins + 1)
    inner = (np.quantile(c_N, edges) if mass else edges)[1:-1]
    bin_N = np.searchsorted(inner, c_N)  # an edge belongs to the bin below it
    return [
        Bin(int(here.sum()), float(c_N[here].mean()), float(r_N[here].mean()))
        for here in (bin_N == b for b in np.unique(bin_N))
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """ECE of bins that hold all items, in [0, 1]."""
    return sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n for b in bins)


def brier(confidence: ArrayLike, right: ArrayLike) -> float:
    """Mean squared distance of confidence and outcome, in [0, 1]."""
    return float(np.mean((np.asarray(confidence, float) - np.asarray(right, float)) ** 2))


def risks(confidence: ArrayLike, right: ArrayLike) -> np.ndarray:
    """[N] risk(1) .. risk(N), in a tie the mean over its orders."""
    c_N, wrong_N = np.asarray(confidence, float), 1 - np.asarray(right, float)
    _, tie_N, size_T = np.unique(-c_N, return_inverse=True, return_counts=True)
    share_T = np.bincount(tie_N, weights=wrong_N) / size_T
    return np.cumsum(np.repeat(share_T, size_T)) / np.arange(1, len(c_N) + 1)


def best_risks(n: int, wrong: int) -> np.ndarray:
    """[n] the risks of a confidence that puts all right items before the `wrong` ones."""
    k_N = np.arange(1, n + 1)
    return np.maximum(0, k_N - (n - wrong)) / k_N


def calibration_metrics(confidence: ArrayLike, right: ArrayLike, bins: int) -> dict[str, float]:
    """All numbers of the top of this file.

    Args:
        confidence: [N] in [0, 1], N >= 1.
        right: [N].
        bins: of both ECEs.

    Returns:
        `ece` (equal width), `ece_mass`, `brier`, `aurc`, `aurc_best` (the least for as many errors), `risk` (share of wrong items,
        which is the AURC of a confidence that knows nothing), `confidence` (mean: above 1 - risk it is too sure).
    """
    n = len(np.asarray(right))
    wrong = n - int(np.sum(right))
    return {
        "ece": expected_calibration_error(bins_of(confidence, right, bins)),
        "ece_mass": expected_calibration_error(bins_of(confidence, right, bins, mass=True)),
        "brier": brier(confidence, right),
        "aurc": float(risks(confidence, right).mean()),
        "aurc_best": float(best_risks(n, wrong).mean()),
        "risk": wrong / n,
        "confidence": float(np.asarray(confidence, float).mean()),
    }
