"""Graded closeness of numbers."""

from collections.abc import Sequence


def closeness(predicted: float, gold: float, lo: float, hi: float) -> float:
    """1 - |predicted - gold| / (hi - lo), floored at 0; 1 is exact, 0 is a whole range away.

    Args:
        predicted: any finite number; values outside [lo, hi] simply score lower.
        gold: the reference, in [lo, hi].
        lo: lower end of the scale.
        hi: upper end of the scale, above `lo`.
    """
    return max(0.0, 1.0 - abs(predicted - gold) / (hi - lo))


def mean_closeness(
    predicted: Sequence[float | None], gold: Sequence[float | None], lo: float, hi: float
) -> float | None:
    """Mean closeness over the entries that gold rates; a rated entry without a prediction scores 0.

    Args:
        predicted: [K] one number per entry, None where the answer is silent.
        gold: [K] one number per entry, None where nobody rated it.
        lo: lower end of the scale.
        hi: upper end of the scale.

    Returns:
        A number in [0, 1], or None when gold rates no entry at all.
    """
    rated = [(p, g) for p, g in zip(predicted, gold, strict=True) if g is not None]
    if not rated:
        return None
    return sum(0.0 if p is None else closeness(p, g, lo, hi) for p, g in rated) / len(rated)


def level_closeness(predicted: int, gold: int, levels: int) -> float:
    """1 - |predicted - gold| / (levels - 1) for ordered levels 0..levels-1."""
    return 1.0 - abs(predicted - gold) / (levels - 1)
