"""Overlap of sets: triggers, open and closed label sets."""

from collections.abc import Set


def set_f1(predicted: Set, gold: Set) -> float:
    """Harmonic mean of precision and recall, 2|P&G| / (|P| + |G|); two empty sets agree."""
    if not predicted and not gold:
        return 1.0
    return 2 * len(predicted & gold) / (len(predicted) + len(gold))


def jaccard(predicted: Set, gold: Set) -> float:
    """|P & G| / |P | G|; two empty sets agree."""
    if not predicted and not gold:
        return 1.0
    return len(predicted & gold) / len(predicted | gold)
