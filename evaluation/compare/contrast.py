"""Arms against the first one: means over seeds, paired differences, corrected p-values. Why these: evaluation/stats.py."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.compare.runs import Arm, Run, check_same_items
from evaluation.score import explanation_rates, read_in
from evaluation.stats import RESAMPLES, Difference, Interval, holm, mean_difference, mean_interval, measure_arm, paired
from runtime.errors import ConfigError, RecordError
from tasks.record import Record


@dataclass(frozen=True, slots=True)
class Summary:
    """What one arm scored."""

    arm: str
    seeds: tuple[int, ...]
    tokens: float | None
    """Generated while training, mean over seeds; None where a run does not say."""
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Contrast:
    """One arm minus the reference in one metric."""

    arm: str
    metric: str
    difference: Difference
    holm: float
    """P-value corrected over all contrasts of the comparison."""
    paired: bool
    """Whether seeds were compared one by one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All arms on the same items, and every one against the first."""

    where: tuple[str, Any] | None
    items: int
    unit: str
    units: int
    resamples: int
    arms: tuple[Summary, ...]
    contrasts: tuple[Contrast, ...]


def compare(
    arms: Sequence[Arm],
    metrics: Sequence[str],
    *,
    where: tuple[str, Any] | None = None,
    only: frozenset[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Every arm against the first one.

    Args:
        arms: two or more, with different names.
        metrics: names of the task's corpus metrics to test, and of those of explanations where all runs have them; with the
            arms they are the family of Holm's correction.
        where: only the items whose record has this value of this key in its `meta`.
        only: uids of the items, if not all.
        resamples: bootstrap samples of the items.
        seed: of the bootstrap.

    Raises:
        ConfigError: for fewer than two arms, a name that occurs twice, or a metric or key that does not exist.
        RecordError: for arms on different items, or fewer than two items.
    """
    names = [arm.name for arm in arms]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"arms: two or more with different names; got {', '.join(names) or 'none'}; name another arm")
    check_same_items(arms)
    first = arms[0].runs[0]
    records = _chosen([r for uid, r in first.records.items() if only is None or uid in only], where)
    gold, groups = [r.target for r in records], [r.group for r in records]
    each = [read_in(list(run.read.values())) for arm in arms for run in arm.runs]
    which = all(labels for labels, _ in each), all(claims for _, claims in each)
    known = first.task.metrics(gold, gold) | explanation_rates(gold, gold, [(None, None)] * len(gold), which)
    if not metrics or (unknown := [name for name in metrics if name not in known]):
        got = ", ".join(unknown) if metrics else "none"
        raise ConfigError(f"metrics: of {first.task.name}: {', '.join(known)}; got {got}; mend the command")

    def corpus(run: Run) -> Callable[[np.ndarray], dict[str, float]]:
        said = [run.answers[record.uid] for record in records]
        read = [run.read[record.uid] for record in records]

        def metrics(items: np.ndarray) -> dict[str, float]:
            ours, theirs = [gold[i] for i in items], [said[i] for i in items]
            found = first.task.metrics(ours, theirs)
            return found | explanation_rates(ours, theirs, [read[i] for i in items], which)

        return metrics

    measured = [measure_arm({run.seed: corpus(run) for run in arm.runs}, groups, resamples, seed) for arm in arms]
    pairs = [(k, metric) for k in range(1, len(arms)) for metric in metrics]
    differences = [mean_difference(measured[k][metric], measured[0][metric]) for k, metric in pairs]
    corrected = holm([d.p for d in differences])
    one = measured[0][metrics[0]]
    return Comparison(
        where,
        len(records),
        one.unit,
        one.units,
        resamples,
        tuple(
            Summary(arm.name, found[metrics[0]].seeds, _tokens(arm), {m: mean_interval(found[m]) for m in metrics})
            for arm, found in zip(arms, measured, strict=True)
        ),
        tuple(
            Contrast(names[k], metric, difference, p, paired(measured[k][metric], measured[0][metric]))
            for (k, metric), difference, p in zip(pairs, differences, corrected, strict=True)
        ),
    )


def _chosen(records: list[Record], where: tuple[str, Any] | None) -> list[Record]:
    if where is not None:
        key, wanted = where
        if not any(key in record.meta for record in records):
            known = sorted({key for record in records for key in record.meta})
            raise ConfigError(
                f"where: no item has {key!r} in its meta; it has {', '.join(known) or 'nothing'}; mend it"
            )
        values = sorted({json.dumps(record.meta.get(key)) for record in records})
        records = [record for record in records if record.meta.get(key) == wanted]
        if len(records) < 2:
            raise RecordError(
                f"where: {len(records)} items have {key}={json.dumps(wanted)}, 2 or more are needed; "
                f"values are {', '.join(values[:12])}; choose another"
            )
    if len(records) < 2:
        raise RecordError(
            f"compare: {len(records)} items were evaluated, 2 or more are needed; evaluate a larger split"
        )
    return records


def _tokens(arm: Arm) -> float | None:
    spent = [run.tokens for run in arm.runs]
    known = [n for n in spent if n is not None]
    return float(np.mean(known)) if len(known) == len(spent) else None
