"""Corpus metrics of single-label classification: WAR, UAR, macro and weighted F1.

Called a thousand times by the bootstrap, so counted from one confusion matrix; the tests compare with scikit-learn.
"""

from collections.abc import Sequence

import numpy as np


def confusion(gold: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts [K, K+1] by gold class (row) and predicted class (column); the last column is for no class at all.

    Args:
        gold: [N] integers in 0..K-1.
        predicted: [N] integers in 0..K, where K stands for an unparseable answer.
        classes: K.
    """
    flat = np.bincount(gold * (classes + 1) + predicted, minlength=classes * (classes + 1))
    return flat.reshape(classes, classes + 1)


def _f1_and_support(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 per class [K] = 2 TP / (gold + predicted), 0 for a class that occurs in neither, and its gold count [K]."""
    support, claimed = counts.sum(axis=1), counts.sum(axis=0)[:-1]
    return 2 * counts.diagonal() / np.maximum(support + claimed, 1), support


def weighted_f1(gold: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """F1 per class averaged with the share of each class in gold, as `sklearn.metrics.f1_score(average="weighted")`.

    Args:
        gold: [N] integers in 0..K-1.
        predicted: [N] integers in 0..K, where K stands for an unparseable answer.
        classes: K.

    Returns:
        A number in [0, 1]; 0 when there are no items.
    """
    f1, support = _f1_and_support(confusion(gold, predicted, classes))
    return float(f1 @ support / max(support.sum(), 1))


def classification_metrics(
    gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]
) -> dict[str, float]:
    """Corpus metrics of single-label classification, all in [0, 1].

    Means over classes (`uar`, `macro_f1`) run over the labels that occur in gold, so that a label nobody asked about
    neither helps nor hurts by itself; claiming it is still a miss for the gold label.

    Args:
        gold: [N] labels, N >= 1.
        predicted: [N] labels; None where the answer could not be read: wrong everywhere.
        labels: the label space.

    Returns:
        war: weighted average recall, which is accuracy.
        uar: unweighted average recall.
        macro_f1: unweighted mean of F1.
        weighted_f1: mean of F1 weighted by the share of each label in gold.
        unparseable: share of None.

    Raises:
        KeyError: for a label that is not in `labels`.
    """
    code = {label: i for i, label in enumerate(labels)}
    gold_N = np.array([code[x] for x in gold])
    predicted_N = np.array([len(code) if x is None else code[x] for x in predicted])
    counts = confusion(gold_N, predicted_N, len(code))
    f1, support = _f1_and_support(counts)
    present = support > 0
    return {
        "war": float((gold_N == predicted_N).mean()),
        "uar": float((counts.diagonal()[present] / support[present]).mean()),
        "macro_f1": float(f1[present].mean()),
        "weighted_f1": float(f1 @ support / support.sum()),
        "unparseable": float((predicted_N == len(code)).mean()),
    }
