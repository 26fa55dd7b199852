"""One number from the parts of a score."""

from collections.abc import Mapping


def reward(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """R = sum_k w_k p_k / sum_k w_k over the parts k that could be scored.

    Args:
        parts: name -> value in [0, 1], or None where nothing can be scored.
        weights: name -> weight of every part, 0 or more.

    Returns:
        A number in [0, 1]; None when no part with a weight could be scored.
    """
    known = [(weights[name], value) for name, value in parts.items() if value is not None and weights[name] > 0]
    total = sum(weight for weight, _ in known)
    return sum(weight * value for weight, value in known) / total if known else None
