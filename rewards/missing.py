"""Parts of a reward that could not be heard: estimates that keep the expected advantage where it was.

A judge on a server leaves some siblings of a group without a value, whatever they wrote. To leave the part out of the weighted
mean of those is not harmless: with a share p missing the expected advantage of a group becomes (1 - p) of the true one plus p
of the one without that part, so it shrinks, and turns its sign where the other parts point elsewhere.

Of G siblings n are heard, any n alike. With m the mean of these,

    v_i = m + (G - 1) / (n - 1) * (x_i - m)    heard
    v_i = m                                    not heard

has the expectation x_i for every sibling: sibling i is heard with n / G, and m then holds it with weight 1 / n, so that
E[x_i - m] = (n - 1) / n * G / (G - 1) * (x_i - mean(x)). Reward and advantage (unscaled) are linear in the parts, so theirs
are right as well. It costs variance: the fewer are heard, the further the values spread, beyond [0, 1] too.
"""

from collections.abc import Sequence


def fill_missing(values: Sequence[float | None], asked: Sequence[bool]) -> list[float | None]:
    """Estimates of one part for the siblings of one group.

    Args:
        values: [G] the part; None where it was asked for and not heard.
        asked: [G] whether the judge was asked at all; the others (completions at fault) keep their value.

    Returns:
        [G] what to put in their place; unchanged where all or none were heard. When one alone was heard, all that were asked get
        its value, so that the part makes no difference among them.
    """
    heard = [value for value, a in zip(values, asked, strict=True) if a and value is not None]
    if not heard:
        return list(values)
    mean = sum(heard) / len(heard)
    stretch = (sum(asked) - 1) / (len(heard) - 1) if len(heard) > 1 else 0.0

    def estimate(value: float | None) -> float:
        return mean if value is None else mean + stretch * (value - mean)

    return [estimate(value) if a and len(heard) < sum(asked) else value for value, a in zip(values, asked, strict=True)]
