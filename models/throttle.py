"""How many requests to have in flight: as few as give the server's best throughput.

Latency is no guide here. A server that batches answers each request more slowly as the batch grows and still writes more in
all, which latency-based limiters (TCP Vegas, Netflix's gradient) take for a queue. So throughput itself is measured, on a
ladder of limits 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...:

    a window     every place is filled twice or more, and the work that ends per second is the rate of this rung
    home         the lowest rung whose rate lies within SLACK of the best rate known
    a look       one window on a neighbour of home that has not been measured for PATIENCE windows; while nothing above home is
                 known, the look is an OCTAVE up, which doubles the limit
    refusals     429 or 503, CHANCE of them in a window: two rungs down at once, and what is known about the rung and those above
                 is forgotten; it is looked at again after 2 windows, after 4 when it is refused again, after 8 from then on

A server that begins to refuse, slows down (FALL) or speeds up is followed.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

START = 4
"""The first limit."""
SLACK = 0.02
"""Share of throughput that is given up for fewer requests in flight."""
FALL = 0.6
"""A rung that gives less than this share of what it gave makes all that is known stale."""
LEAST = 8
"""Requests in the shortest window."""
PATIENCE = 24
OCTAVE = 4
CHANCE = 2
"""One refusal alone may be chance."""
LONGEST = 8
"""Windows until a rung that was refused again and again is looked at."""


@dataclass(slots=True)
class Place:
    """One request in flight; the caller says how it went before it leaves."""

    epoch: int
    work: float | None = 0.0
    """What came out of it, in tokens; 0 for a failure, None for a request that was given up and says nothing."""
    refused: bool = False
    """Whether the server said that it has too much to do."""


def ladder(ceiling: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to `ceiling`, which is the last."""
    rungs = [1, 2, 3] + [n << power for power in range(ceiling.bit_length()) for n in (4, 5, 6, 7)]
    return [n for n in rungs if n < ceiling] + [ceiling]


class Throttle:
    """Lets requests through, `limit` at a time, and moves the limit.

    Args:
        ceiling: most requests in flight, 1 or more.
    """

    def __init__(self, ceiling: int) -> None:
        self.rungs = ladder(ceiling)
        self._rung = max(i for i, limit in enumerate(self.rungs) if limit <= START)
        self._rate: dict[int, float] = {}
        self._due: dict[int, int] = {}
        """From which window on a rung may be looked at (again)."""
        self._hold: dict[int, int] = {}
        self._windows = self._epoch = self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._restart()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return self.rungs[self._rung]

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[Place]:
        """Wait for a place and hold it."""
        await self._enter()
        place = Place(self._epoch)
        try:
            yield place
        except asyncio.CancelledError:
            place.work = None
            raise
        finally:
            self._leave(place)

    async def _enter(self) -> None:
        if self._in_flight < self.limit and not self._queue:
            self._in_flight += 1
            return
        given = asyncio.get_running_loop().create_future()
        self._queue.append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.cancelled():
                self._queue.remove(given)
            else:  # the place was given in the same moment
                self._in_flight -= 1
                self._let_in()
            raise

    def _let_in(self) -> None:
        while self._queue and self._in_flight < self.limit:
            given = self._queue.popleft()
            if not given.cancelled():
                given.set_result(None)
                self._in_flight += 1

    def _leave(self, place: Place) -> None:
        full = self._in_flight + len(self._queue) >= 0.8 * self.limit
        self._in_flight -= 1
        self._refused += (
            place.refused and place.epoch == self._epoch
        )  # else the limit has been lowered since it was sent
        if self._refused == CHANCE:
            self._back_off()
        elif full and place.work is not None:
            self._count(place.work)
        else:  # too few requests are there to tell what the server could do
            self._restart()
        self._let_in()

    def _restart(self) -> None:
        """Begin a window: its clock starts when all that was in flight on another rung has ended."""
        self._ended, self._refused, self._work, self._since = 0, 0, 0.0, 0.0
        self._settling = max(self._in_flight, self.limit)

    def _count(self, work: float) -> None:
        now = asyncio.get_running_loop().time()
        self._ended += 1
        if self._ended == self._settling:
            self._since = now
        elif self._ended > self._settling:
            self._work += work
            if self._ended == self._settling + self.limit * max(2, math.ceil(LEAST / self.limit)):
                self._measured(self._work / max(now - self._since, 1e-9))

    def _measured(self, rate: float) -> None:
        """A window has ended."""
        self._windows += 1
        known = self._rate.get(self._rung, rate)
        if rate < FALL * known:  # the server is not what it was: nothing that is known still holds
            self._rate.clear()
            self._due.clear()
            known = rate
        self._rate[self._rung] = (rate + 2 * known) / 3
        self._due[self._rung] = self._windows + PATIENCE
        self._hold.pop(self._rung, None)
        best = max(self._rate.values())
        home = min(rung for rung, known in self._rate.items() if known >= (1 - SLACK) * best)
        self._rung = self._look_from(home)
        self._restart()

    def _look_from(self, home: int) -> int:
        """Home, or the neighbour whose turn it is."""
        top = len(self.rungs) - 1
        step = 1 if any(rung > home for rung in self._due) else OCTAVE
        for rung in (min(home + step, top), home - 1):
            if rung >= 0 and rung != home and self._due.get(rung, 0) <= self._windows:
                return rung
        return home

    def _back_off(self) -> None:
        refused = self._rung
        self._epoch += 1
        self._hold[refused] = min(2 * self._hold.get(refused, 1), LONGEST)
        for rung in range(refused, len(self.rungs)):
            self._rate.pop(rung, None)
            self._due[rung] = self._windows + self._hold[refused]
        self._rung = max(refused - 2, 0)
        self._restart()
