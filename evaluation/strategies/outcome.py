"""The numbers of `strategies.json`: what the strategies scored, what they took, and what the shares of the vote mean."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np

from evaluation.answers import gist
from evaluation.compare.contrast import Comparison
from evaluation.report import LOWER_IS_BETTER
from evaluation.stats import bootstrap_intervals, cell
from evaluation.strategies.config import REFERENCE
from evaluation.strategies.decide import Decision, Vote
from tasks.base import Task
from tasks.dc import Answer
from tasks.metrics.calibration import best_risks, bins_of, calibration_metrics, risks
from tasks.record import Record

BINS = 10
"""Of a reliability diagram and of both ECEs, at the most."""
PER = 100
"""Tokens to which a gain is related."""


def outcome(
    comparison: Comparison, scored: Mapping[str, Mapping[str, Any]], decided: Mapping[str, Sequence[Decision]]
) -> dict[str, Any]:
    """Scores, costs and paired differences.

    Args:
        comparison: with the strategies as arms, greedy first.
        scored: strategy -> what `summarize` says of it.
        decided: strategy -> [N] decisions, of all its clips.

    Returns:
        items, unit, units, resamples;
        strategies: name -> {metrics: name -> {value, lo, hi}; tokens, calls, prompt: means over clips of what it alone would have
            taken; unread: see `Decision`, summed};
        differences: [{strategy, metric, value, lo, hi, p, holm, gain}] to greedy, as `evaluation.compare` has them; gain is what
            got better, in the unit of the metric, for every PER tokens more that a clip takes, and null where it takes no more.
    """
    strategies: dict[str, dict[str, Any]] = {
        arm.arm: {"metrics": {name: scored[arm.arm]["metrics"][name] for name in arm.metrics}} | costs(decided[arm.arm])
        for arm in comparison.arms
    }
    least = strategies[REFERENCE]["tokens"]
    differences = [
        {
            "strategy": c.arm,
            "metric": c.metric,
            **cell(c.difference),
            "p": c.difference.p,
            "holm": c.holm,
            "gain": gain(c.metric, c.difference.value, strategies[c.arm]["tokens"] - least),
        }
        for c in comparison.contrasts
    ]
    return {
        "items": comparison.items,
        "unit": comparison.unit,
        "units": comparison.units,
        "resamples": comparison.resamples,
        "strategies": strategies,
        "differences": differences,
    }


def costs(decisions: Sequence[Decision]) -> dict[str, float]:
    """Means of what a clip takes, and how much could not be read."""
    return {
        "tokens": fmean(d.cost.tokens for d in decisions),
        "calls": fmean(d.cost.calls for d in decisions),
        "prompt": fmean(d.cost.prompt for d in decisions),
        "unread": sum(d.unread for d in decisions),
    }


def gain(metric: str, difference: float, extra: float) -> float | None:
    """What got better for every PER tokens more; None without more tokens."""
    better = -difference if metric in LOWER_IS_BETTER else difference
    return PER * better / extra + 0.0 if extra > 0 else None  # + 0.0 turns -0.0 into 0.0


def curve(
    task: Task,
    records: Sequence[Record],
    by_size: Mapping[int, Sequence[Decision]],
    metrics: Sequence[str],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """How a strategy does with its first k samples.

    Args:
        task: of the records.
        records: [N].
        by_size: k -> [N] decisions.
        metrics: names.
        resamples: bootstrap samples of the intervals.
        seed: of the bootstrap.

    Returns:
        [{samples, tokens, metrics: name -> {value, lo, hi}}], ascending.
    """
    gold, groups = [record.target for record in records], [record.group for record in records]
    points = []
    for samples, decisions in sorted(by_size.items()):
        parsed = [task.parse(record, d.completion) for record, d in zip(records, decisions, strict=True)]
        said = [one.value if isinstance(one, Answer) else None for one in parsed]

        def corpus(items: np.ndarray, said: Sequence[Any] = said) -> dict[str, float]:
            return task.metrics([gold[i] for i in items], [said[i] for i in items])

        measured = bootstrap_intervals(corpus, groups, resamples, seed)
        cells = {name: cell(measured[name]) for name in metrics}
        points.append({"samples": samples, "tokens": costs(decisions)["tokens"], "metrics": cells})
    return points


def calibration(records: Sequence[Record], votes: Sequence[Vote], resamples: int, seed: int) -> dict[str, Any]:
    """Whether the share of the vote tells how likely the vote is right.

    An item is right where vote and gold have one gist, the same that the share counts: the side of a number, a class exactly.

    Args:
        records: [N].
        votes: [N] of all samples.
        resamples: bootstrap samples of the intervals, clustered by group.
        seed: of the bootstrap.

    Returns:
        metrics: name of `calibration_metrics` -> {value, lo, hi};
        bins: {width, mass} -> [{n, confidence, accuracy}] of both reliability diagrams;
        risk: {shares, best} -> [N] risk at the coverages 1/N .. 1.
    """
    share_N = np.array([v.share for v in votes])
    right_N = np.array(
        [v.value is not None and gist(v.value) == gist(r.target) for r, v in zip(records, votes, strict=True)]
    )

    def measured(items: np.ndarray) -> dict[str, float]:
        return calibration_metrics(share_N[items], right_N[items], BINS)

    found = bootstrap_intervals(measured, [record.group for record in records], resamples, seed)
    return {
        "metrics": {name: cell(interval) for name, interval in found.items()},
        "bins": {
            how: [asdict(b) for b in bins_of(share_N, right_N, BINS, mass=how == "mass")] for how in ("width", "mass")
        },
        "risk": {
            "shares": risks(share_N, right_N).tolist(),
            "best": best_risks(len(right_N), int((~right_N).sum())).tolist(),
        },
    }
