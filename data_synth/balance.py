"""Which accepted chains to take when there are more than enough: as many of each kind as can be had."""

from collections import Counter
from collections.abc import Mapping

from data_synth.outcomes import Outcome


def cell(outcome: Outcome, balance: str) -> str:
    """The kind that a chain is counted under.

    Args:
        outcome: with a chain.
        balance: `coarse` for the gold verdict, `difficulty` for the verdict and how many candidates were right: none or up to
            a third of them is hard, more than two thirds easy.
    """
    if balance == "coarse":
        return outcome.coarse
    level = "hard" if outcome.pass_rate <= 1 / 3 else "middle" if outcome.pass_rate <= 2 / 3 else "easy"
    return f"{outcome.coarse}, {level}"


def quotas(counts: Mapping[str, int], limit: int) -> Counter[str]:
    """Equal shares of `limit`; what a small cell cannot fill goes to the others, as water finds its level.

    Args:
        counts: how many there are of each kind.
        limit: how many are wanted, 0 or more.

    Returns:
        How many to take of each kind, at most what there is; together `limit`, or all when there are fewer.
    """
    taken: Counter[str] = Counter()
    for done, name in enumerate(sorted(counts, key=lambda n: (counts[n], n))):
        taken[name] = min(counts[name], (limit - taken.total()) // (len(counts) - done))
    return taken
