"""Whether explanations say what the answers say.

ERV's three rates (arXiv 2510.23506; tools/response_gpt_check.py of Rhatanii/ERV), with p the answer, j what a reader of the
explanation alone takes it to speak for, and g the gold label, over all items:

    EEA   P(j = g)             explanation emotion accuracy
    EPC   P(j = p)             explanation-prediction consistency
    FCR   P(p = g and j = g)   faithful consistency rate

An item without a readable answer counts as wrong in all three.
"""

from collections.abc import Sequence

from tasks.target import Class, Target


def side_of(target: Target | None) -> str | None:
    """What an explanation of `target` should speak for: the label itself of a class, else the coarse side."""
    return None if target is None else target.render() if isinstance(target, Class) else target.coarse()


def explanation_metrics(
    gold: Sequence[str | None], answers: Sequence[str | None], spoken: Sequence[str | None]
) -> dict[str, float]:
    """The three rates, and one that is asked beside them.

    Args:
        gold: [N] labels.
        answers: [N] labels, None where there is no answer.
        spoken: [N] what the explanations speak for, None where there is none, or nothing could read it.

    Returns:
        eea, epc, fcr, and `inconsistent`: of the right answers, the share whose explanation speaks for something else (as
        MIGR, arXiv 2512.02699, reports it); 0 without a right answer.
    """
    n, everything = len(gold), list(zip(gold, answers, spoken, strict=True))
    right = [(p, j) for g, p, j in everything if p is not None and p == g]
    return {
        "eea": sum(p is not None and j == g for g, p, j in everything) / n,
        "epc": sum(p is not None and j == p for _, p, j in everything) / n,
        "fcr": sum(j == p for p, j in right) / n,
        "inconsistent": sum(j != p for p, j in right) / len(right) if right else 0.0,
    }


def evidence_precision(precision: Sequence[float | None]) -> float:
    """Mean share of the cues claimed that were measured so, over the explanations with a claim that could be checked, or 0.

    Args:
        precision: [N], None where no claim could be checked.
    """
    known = [x for x in precision if x is not None]
    return sum(known) / len(known) if known else 0.0
