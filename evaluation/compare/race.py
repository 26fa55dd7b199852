"""How many generated tokens each arm needed for what the reference had reached at its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.compare.runs import TOKENS, Arm, Run, number
from evaluation.report import LOWER_IS_BETTER
from runtime.errors import ConfigError, StageError

WINDOW = 3
"""A curve is its trailing mean over so many evaluations, so that one lucky evaluation does not reach a level."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The tokens that one arm needed for a level."""

    arm: str
    budget: float | None
    """Tokens at the last evaluation, mean over seeds; None where the log has no curve."""
    tokens: float | None
    """Tokens at the first evaluation that reaches the level; None where none does."""
    reached: int
    """Number of seeds whose own curve reaches the level."""
    seeds: int


@dataclass(frozen=True, slots=True)
class Race:
    """How many generated tokens each arm needed for what the reference had reached at its end."""

    key: str
    where: tuple[str, Any] | None
    level: float
    arms: tuple[Reach, ...]


def race(arms: Sequence[Arm], key: str, where: tuple[str, Any] | None = None) -> Race:
    """The generated tokens at which each arm first reaches the final level of the first one.

    The curve of an arm holds, for every step at which all its seeds logged `key`, the means over seeds of tokens and value;
    then values are averaged over the last WINDOW evaluations (all of them where there are fewer). The level is the end of
    the reference's curve; a point counts from it on, nothing is interpolated between evaluations.

    Args:
        arms: the reference first.
        key: of the rows in `rl/metrics.jsonl`, such as `dev/polarity`; lower is better for those of LOWER_IS_BETTER.
        where: only the dev records with this value of this key in their `meta`, by the answers in `rl/dev/`.

    Raises:
        ConfigError: for a slice of what is not measured on dev.
        StageError: when the reference has no such curve.
    """
    if where is not None and not key.startswith("dev/"):
        raise ConfigError(f"--curve {key} --where {where[0]}=...: only curves dev/METRIC can be sliced; leave one out")
    sign = -1 if key.rpartition("/")[2] in LOWER_IS_BETTER else 1
    reference = _curve(arms[0].runs, key, where)
    if not reference:
        raise StageError(
            f"{arms[0].name}: no step of {arms[0].runs[0].folder} has both {key} and {TOKENS} in its metrics.jsonl"
            f"{' and answers of such records in dev/' if where else ''} for every seed; name a key that was logged, or train "
            "the reference anew"
        )
    level = reference[-1][1]

    def needed(runs: Sequence[Run]) -> float | None:
        return next((tokens for tokens, value in _curve(runs, key, where) if sign * value >= sign * level), None)

    def reach(arm: Arm) -> Reach:
        curve = _curve(arm.runs, key, where)
        reached = sum(needed([run]) is not None for run in arm.runs)
        return Reach(arm.name, curve[-1][0] if curve else None, needed(arm.runs), reached, len(arm.runs))

    return Race(key, where, level, tuple(map(reach, arms)))


def _points(run: Run, key: str, where: tuple[str, Any] | None) -> dict[int, tuple[float, float]]:
    """Step -> tokens and value, where both are known."""
    tokens = {row["step"]: row[TOKENS] for row in run.log if number(row.get(TOKENS))}
    values = {row["step"]: row[key] for row in run.log if number(row.get(key))}
    if where is not None:
        name, values = key.removeprefix("dev/"), {}
        for step, said in run.looks.items():
            chosen = [(r.target, answer) for r, answer in said if r.meta.get(where[0]) == where[1]]
            measured = run.task.metrics(*map(list, zip(*chosen, strict=True))) if chosen else {}
            if name in measured:
                values[step] = measured[name]
    return {step: (tokens[step], values[step]) for step in sorted(tokens.keys() & values.keys())}


def _curve(runs: Sequence[Run], key: str, where: tuple[str, Any] | None = None) -> list[tuple[float, float]]:
    """(tokens, smoothed value) at the steps that all runs have."""
    points = [_points(run, key, where) for run in runs]
    steps = sorted(set.intersection(*(set(of_run) for of_run in points)))
    if not steps:
        return []
    tokens, values = np.array([[of_run[step] for step in steps] for of_run in points], float).mean(0).T
    window = min(WINDOW, len(values))
    smooth = [float(values[i - window : i].mean()) for i in range(window, len(values) + 1)]
    return list(zip(tokens[window - 1 :].tolist(), smooth, strict=True))
