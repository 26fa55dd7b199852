"""How many requests to have in flight: as few as give the server's best throughput.

Latency is no guide here. A server that batches answers each request more slowly as the batch grows and still writes more in
all, which latency-based limiters (TCP Vegas, Netflix's gradient) take for a queue. So throughput itself is measured, on a
ladder of limits 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...:

    a window     every place is filled twice or more, and the work that ends per second is the rate
    a look       one window on a rung beside home, right after one at home; only these two are compared, so that a server (or a
                 machine) that is slower today than it was an hour ago misleads nobody
    up           by an OCTAVE, which doubles the limit, or by a rung: home moves there if the rate is higher by more than SLACK.
                 Near the best limit a rung is worth less than a window's noise; an octave is not, and brings home back from
                 where chance has led it
    down         by a rung: home moves there if the rate is not lower by more than SLACK
    in vain      the next look of that kind comes after 2 windows, then 4, 8, ... up to LONGEST; of an octave after 8, then 64
    refusals     429 or 503, CHANCE of them in a window: two rungs down at once, or back home from a look

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
LEAST = 8
"""Requests in the shortest window."""
CHANCE = 2
"""One refusal alone may be chance."""
OCTAVE, UP, DOWN = 4, 1, -1
"""The looks, in rungs; the first that is due is taken."""
LONGEST = {OCTAVE: 64, UP: 16, DOWN: 16}
"""Windows between looks in vain. A server that suffers under load suffers most from an octave."""


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
        self._home = self._rung = max(i for i, limit in enumerate(self.rungs) if limit <= START)
        self._rate: float | None = None
        """At home, in the window that has just ended."""
        self._step = OCTAVE
        """Of the look that is being taken, or was last."""
        self._hold = dict.fromkeys(LONGEST, 1)
        self._due = dict.fromkeys(LONGEST, 0)
        """From which window on there is a look of that kind."""
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
        if self._rung == self._home:
            self._rate = rate
        else:
            assert self._rate is not None, "a look comes right after a window at home"
            if rate > self._rate * (1 - SLACK if self._step == DOWN else 1 + SLACK):
                self._home, self._rate = self._rung, rate
                for step in LONGEST:
                    if step * self._step > 0:  # on in this direction
                        self._hold[step], self._due[step] = 1, self._windows
                    else:  # and not soon back
                        self._hold[step] = max(4, self._hold[step])
                        self._due[step] = max(self._windows + 4, self._due[step])
            else:
                self._in_vain(self._step)
        self._rung = self._home if self._rate is None else self._look()
        self._restart()

    def _look(self) -> int:
        """Home, or the rung whose turn it is."""
        for step in LONGEST:
            rung = min(max(self._home + step, 0), len(self.rungs) - 1)
            if rung != self._home and self._due[step] <= self._windows:
                self._step = step
                return rung
        return self._home

    def _in_vain(self, step: int) -> None:
        self._hold[step] = min(abs(step) * 2 * self._hold[step], LONGEST[step])
        self._due[step] = self._windows + self._hold[step]
        self._rate = None  # it is not the last window any more

    def _back_off(self) -> None:
        self._epoch += 1
        self._hold[OCTAVE] = LONGEST[OCTAVE]  # would be refused again
        for step in (OCTAVE, UP):
            self._in_vain(step)
        if self._rung <= self._home:
            self._home = max(self._home - 2, 0)
        self._rung = self._home
        self._restart()
