"""What every arm scores on parts of the items, to see where a difference comes from. A description: nothing is tested here.

missing       which of the task's views a record lacks
group         its leakage unit (speaker, dialogue); the largest ones
bin           its gold: whole numbers of a scale, labels of a class
difficulty    how many of all runs, of whichever arm, find the side: a slice that one arm's errors decided would flatter the others
any other     the value of this key in its `meta`
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.compare.contrast import Summary, compare
from evaluation.compare.runs import Arm
from evaluation.compare.versus import right
from runtime.errors import ConfigError
from tasks.record import Record
from tasks.target import Scalar

NAMED = ("missing", "group", "bin", "difficulty")
MOST = 12
"""Values of one slice; the largest ones are shown."""
RESAMPLES = 200
"""Bootstrap samples of a slice: its intervals need no p-values."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the items."""

    value: str
    items: int
    arms: tuple[Summary, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """The items in parts."""

    name: str
    parts: tuple[Part, ...]
    left_out: int
    """Parts that are too small, or not among the largest."""


def slice_by(name: str, arms: Sequence[Arm], metrics: Sequence[str], seed: int = 0) -> Slice:
    """What every arm scores on each part.

    Args:
        name: of NAMED, or a key of the records' `meta`.
        arms: on the same items.
        metrics: names of corpus metrics.
        seed: of the bootstrap.

    Raises:
        ConfigError: for a name that is neither.
    """
    records = list(arms[0].runs[0].records.values())
    value_of = _valued(name, arms, records)
    parts: dict[str, list[str]] = {}
    for record in records:
        parts.setdefault(value_of(record), []).append(record.uid)
    large = [value for value, uids in parts.items() if len(uids) > 1]
    shown = sorted(sorted(large, key=lambda value: -len(parts[value]))[:MOST], key=_order)

    def measured(value: str) -> Part:
        found = compare(arms, metrics, only=frozenset(parts[value]), resamples=RESAMPLES, seed=seed)
        return Part(value, found.items, found.arms)

    return Slice(name, tuple(map(measured, shown)), len(parts) - len(shown))


def applicable(arms: Sequence[Arm]) -> list[str]:
    """Slices with at least two parts: those of NAMED, and keys of `meta` with a few plain values."""
    records = list(arms[0].runs[0].records.values())
    keys = sorted({k for r in records for k, v in r.meta.items() if isinstance(v, bool | str | int)})
    keys = [k for k in keys if 2 <= len({json.dumps(r.meta.get(k)) for r in records}) <= MOST]
    found = []
    for name in [*keys, *NAMED]:
        value_of = _valued(name, arms, records)
        if len({value_of(r) for r in records}) > 1:
            found.append(name)
    return found


def _valued(name: str, arms: Sequence[Arm], records: Sequence[Record]) -> Callable[[Record], str]:
    match name:
        case "missing":
            views = arms[0].runs[0].task.views
            return lambda r: ", ".join(v for v in views if v not in r.views) or "nothing"
        case "group":
            return lambda r: r.group
        case "bin":
            return lambda r: f"{round(r.target.x):+d}" if isinstance(r.target, Scalar) else r.target.render()
        case "difficulty":
            runs = [run for arm in arms for run in arm.runs]
            share = {r.uid: sum(right(r.target, run.answers[r.uid]) for run in runs) / len(runs) for r in records}
            return lambda r: _third(share[r.uid])
        case _ if any(name in r.meta for r in records):
            return lambda r: json.dumps(r.meta.get(name))
    known = sorted({key for r in records for key in r.meta})
    raise ConfigError(
        f"slices: {', '.join(NAMED)}, or a key of meta ({', '.join(known) or 'none'}); got {name!r}; mend it"
    )


def _third(share: float) -> str:
    return "hard: under 1/3 of runs" if share < 1 / 3 else "middle" if share < 2 / 3 else "easy: 2/3 of runs and more"


def _order(value: str) -> tuple[int, float, str]:
    """Numbers by size before words."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value
