"""Corpus metrics of set-valued answers: trigger utterances, label sets."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from rewards.sets import set_f1


def set_metrics(gold: Sequence[AbstractSet], predicted: Sequence[AbstractSet | None]) -> dict[str, float]:
    """Corpus metrics of sets, all in [0, 1].

    Args:
        gold: [N] sets, N >= 1.
        predicted: [N] sets; None where the answer could not be read: it finds nothing and agrees with nothing.

    Returns:
        precision, recall, f1: of the positive class, elements pooled over all items (0 where a denominator is 0).
        mean_f1: mean of F1 per item; two empty sets agree.
        exact: share of items that are equal.
        unparseable: share of None.
    """
    pairs = [(g, p) for g, p in zip(gold, predicted, strict=True) if p is not None]
    hits = sum(len(g & p) for g, p in pairs)
    claimed, wanted, n = sum(len(p) for _, p in pairs), sum(map(len, gold)), len(gold)
    return {
        "precision": hits / max(claimed, 1),
        "recall": hits / max(wanted, 1),
        "f1": 2 * hits / max(claimed + wanted, 1),
        "mean_f1": sum(set_f1(p, g) for g, p in pairs) / n,
        "exact": sum(g == p for g, p in pairs) / n,
        "unparseable": (n - len(pairs)) / n,
    }
