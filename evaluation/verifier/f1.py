"""F1 of sets of labels, quickly enough for the bootstrap, and the threshold that is best for it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np


def f1_of(
    gold_NL: np.ndarray, said_NL: np.ndarray, labels: Sequence[str]
) -> Callable[[np.ndarray], Mapping[str, float]]:
    """A function of item indices [M], with repetitions, that gives corpus metrics in [0, 1].

    Args:
        gold_NL: bool, which labels apply.
        said_NL: bool, which labels a classifier names.
        labels: [L].

    Returns:
        macro_f1: unweighted mean of F1 over the labels that occur in gold among the items;
        micro_f1: F1 of all decisions together;
        f1/LABEL: of each label, 2 TP / (gold + said), 0 where it occurs in neither.
    """
    counts_NL3 = np.stack([gold_NL & said_NL, gold_NL, said_NL], -1).astype(np.int32)

    def metrics(items: np.ndarray) -> Mapping[str, float]:
        times_N = np.bincount(items, minlength=len(counts_NL3))
        hits_L, gold_L, said_L = np.tensordot(times_N, counts_NL3, 1).T
        f1_L = 2 * hits_L / np.maximum(gold_L + said_L, 1)
        return {
            "macro_f1": float(f1_L[gold_L > 0].mean()) if gold_L.any() else 0.0,
            "micro_f1": float(2 * hits_L.sum() / max(gold_L.sum() + said_L.sum(), 1)),
            **{f"f1/{label}": float(f1) for label, f1 in zip(labels, f1_L, strict=True)},
        }

    return metrics


def best_threshold(gold_N: np.ndarray, prob_N: np.ndarray) -> float:
    """The probability from which on naming a label gives its best F1; 1 for a label that never applies.

    Args:
        gold_N: bool, whether the label applies.
        prob_N: in [0, 1].
    """
    if not gold_N.any():
        return 1.0
    order = np.argsort(-prob_N, kind="stable")
    prob_N, hits_N = prob_N[order], np.cumsum(gold_N[order])
    f1_N = 2 * hits_N / (np.arange(1, len(order) + 1) + gold_N.sum())
    f1_N[:-1][prob_N[:-1] == prob_N[1:]] = 0  # equal probabilities are named together
    return float(prob_N[f1_N.argmax()])
