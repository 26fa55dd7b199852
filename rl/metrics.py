"""What a step's rollouts say about hints and rewards, and the mean of such numbers over steps and ranks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from accelerate.utils import gather_object

from rl.rollout import Group, Rollout, solved
from tasks.base import PARTS
from tasks.dc import Fault

CUT = 0.1
"""Share of cut completions that is worth a warning."""


class Meter:
    """Weighted means since the last row of the log."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, value: float, weight: float = 1.0) -> None:
        """Note a metric."""
        self._sums[name][0] += weight * value
        self._sums[name][1] += weight

    def add_mean(self, name: str, values: Iterable[float | None]) -> None:
        """Note every value that is known; nothing where none is."""
        if known := [v for v in values if v is not None]:
            self.add(name, fmean(known), len(known))

    def means(self) -> dict[str, float]:
        """The mean of each metric over all ranks; all of them must call."""
        sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for of_rank in gather_object([dict(self._sums)]):  # some names may be known to one rank alone
            for name, (total, weight) in of_rank.items():
                sums[name][0] += total
                sums[name][1] += weight
        return {name: total / weight for name, (total, weight) in sums.items()}

    def clear(self) -> None:
        """Begin the next row."""
        self._sums.clear()


def add_rollouts(meter: Meter, groups: Sequence[Group], visited: Sequence[Group]) -> None:
    """Note the metrics that docs/hints.md lists.

    Args:
        meter: takes them.
        groups: that are learnt from.
        visited: these, and the ones that others have replaced.
    """
    rows = [r for g in groups for r in g.rollouts]
    first = [s for g in visited for s in g.unhinted]
    meter.add_mean("hint/stuck_rate", [g.stuck for g in visited if g.unhinted])
    meter.add_mean("hint/rate", [r.hinted for r in rows])
    # of what stuck prompts are told: 0 where nothing may be said, or nothing was
    meter.add_mean("hint/level", [float(max(r.level for r in g.rollouts)) for g in groups if g.stuck])
    meter.add_mean("hint/refused", [g.refused for g in groups if g.stuck])
    meter.add_mean("solve/verdict_unhinted", [s.parts["discriminate"] for s in first])
    meter.add_mean("solve/unhinted", [solved(s) for s in first])
    meter.add_mean("solve/hinted", [solved(r.score) for r in rows if r.hinted])
    for part in PARTS:
        values = [s.parts[part] for s in first]
        meter.add_mean(f"parts/{part}", values)
        meter.add_mean(f"parts/{part}_unscored", [v is None for v in values])
    for fault in Fault:
        meter.add_mean(f"fault/{fault}", [r.score.fault == fault for r in rows])


def cut_short(groups: Sequence[Group], limit: int) -> str | None:
    """A warning where many of these rollouts were cut off at `rl.max_new_tokens`, None where few were.

    What is cut earns nothing, so a limit below the length of some answers teaches the policy to give others: on EmoDB all but
    the shortest, "neutral" (LOG.md).
    """
    cut = fmean(not r.completion.finished for g in groups for r in g.rollouts)
    if cut <= CUT:
        return None
    return (
        f"warning: {cut:.0%} of the first rollouts were cut off at rl.max_new_tokens={limit}, and earn nothing for that: answers "
        "with long explanations will die out. Raise it above the longest chain of the cold start, or lower rl.temperature if "
        "they ramble (read rollouts/step_000000*.jsonl)"
    )


def rollout_lines(groups: Sequence[Group], reward: Callable[[Rollout], float | None]) -> list[dict[str, Any]]:
    """Everything that the model said, for `rollouts/`."""
    return [
        {
            "uid": g.record.uid,
            "sibling": i,
            "hint": r.hint,
            "told": r.told,
            "level": r.level,
            "completion": r.text,
            "fault": r.score.fault,
            "parts": dict(r.score.parts),
            "checked": dict(r.score.checked),
            "reward": reward(r),
            "tokens": len(r.completion.token_ids),
            "finished": r.completion.finished,
            "stuck": g.stuck,
        }
        for g in groups
        for i, r in enumerate(g.rollouts)
    ]
