"""A comparison: several ways to the same numbers, shown to agree and then timed in turn.

What is timed is what was compared: the same function returns the numbers in both cases. The ways take turns, so that a
machine that others load and unload slows all of them alike; the median of each is kept.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

Result = Mapping[str, torch.Tensor]
Clock = Callable[[], float]


class UnequalError(AssertionError):
    """Two ways do not give the same numbers, so their times mean nothing."""


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest |a - b|; infinite when the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    return (a.double() - b.double()).abs().max().item()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """||a - b|| / ||a||."""
    return ((a.double() - b.double()).norm() / a.double().norm()).item()


@dataclass(frozen=True, slots=True)
class Limit:
    """How far two results may lie apart."""

    distance: Callable[[torch.Tensor, torch.Tensor], float]
    allowed: float


SAME = Limit(largest, 0.0)
LOGPS = Limit(largest, 1e-5)
"""Of log-probabilities in fp32."""
GRADIENT = Limit(relative, 1e-4)
"""Of a whole gradient in fp32."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of the table."""

    name: str
    ways: Mapping[str, Callable[[], Result]]
    """The first is the yardstick; every way returns the same keys."""
    limits: Mapping[str, Limit]
    """By key of a result."""

    def check(self) -> dict[str, float]:
        """Run every way once.

        Returns:
            The largest distance from the yardstick, by key.

        Raises:
            UnequalError: naming the way, the key, the distance and what is allowed.
        """
        yardstick, *others = self.ways
        wanted = self.ways[yardstick]()
        found = dict.fromkeys(self.limits, 0.0)
        for way in others:
            got = self.ways[way]()
            for key, limit in self.limits.items():
                distance = limit.distance(wanted[key], got[key])
                if not distance <= limit.allowed:  # NaN fails, too
                    raise UnequalError(
                        f"{self.name}: {key} of {way!r} and {yardstick!r} lie {distance:.1e} apart, allowed is "
                        f"{limit.allowed:.0e}; their times cannot be compared"
                    )
                found[key] = max(found[key], distance)
        return found


@dataclass(frozen=True, slots=True)
class Timing:
    """What a comparison came to."""

    name: str
    seconds: Mapping[str, float]
    """Median of each way."""
    distances: Mapping[str, float]

    def ratio(self, way: str) -> float:
        """How many times longer the yardstick took than `way`."""
        return next(iter(self.seconds.values())) / self.seconds[way]

    def lines(self) -> list[str]:
        """The timing as rows of a markdown table: what, way, seconds, times faster than the yardstick."""
        return [
            f"| {self.name if i == 0 else '':34} | {way:24} | {seconds:8.3f} | {'' if i == 0 else f'{self.ratio(way):.1f}x':>6} |"
            for i, (way, seconds) in enumerate(self.seconds.items())
        ]


def measure(comparison: Comparison, repeats: int, clock: Clock = time.process_time) -> Timing:
    """Check a comparison, then time its ways in turn.

    Args:
        comparison: what to measure.
        repeats: calls of each way; the check before them has warmed everything up.
        clock: seconds; CPU time of this process unless a device has to be waited for.
    """
    distances = comparison.check()
    taken: dict[str, list[float]] = {way: [] for way in comparison.ways}
    for _ in range(repeats):
        for way, work in comparison.ways.items():
            start = clock()
            work()
            taken[way].append(clock() - start)
    return Timing(comparison.name, {way: median(times) for way, times in taken.items()}, distances)
