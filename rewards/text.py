"""Overlap of free texts."""

from collections import Counter


def token_f1(predicted: str, gold: str) -> float:
    """F1 of lower-cased whitespace tokens, counted with multiplicity (the SQuAD overlap measure)."""
    p, g = Counter(predicted.lower().split()), Counter(gold.lower().split())
    if not p and not g:
        return 1.0
    return 2 * (p & g).total() / (p.total() + g.total())
