"""The throttle against simulated servers, in virtual time: seconds pass when nobody has anything to do."""

import asyncio
import math
import random
import selectors
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.throttle import Throttle, ladder


class Jump(selectors.SelectSelector):
    """Waits for a timer by moving the clock."""

    now = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "everybody waits for somebody else"
        self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.jump = Jump()
        super().__init__(self.jump)

    def time(self):
        return self.jump.now


@dataclass
class Server:
    """Shares what it can write among the requests in flight, and refuses those that find `room` others."""

    rate: Callable[[int], float]
    """Tokens per second in all, by requests in flight."""
    room: int = 1000
    flying: int = 0
    most: int = 0
    refused: int = 0

    async def write(self, tokens):
        if self.flying >= self.room:
            self.refused += 1
            await asyncio.sleep(0.01)
            return False
        self.flying += 1
        self.most = max(self.most, self.flying)
        left = float(tokens)
        while left > 1e-6:
            pace = self.rate(self.flying) / self.flying
            seconds = min(left / pace, 0.5)
            await asyncio.sleep(seconds)
            left -= pace * seconds
        self.flying -= 1
        return True


@dataclass
class Run:
    """What a client made of a server."""

    throttle: Throttle
    limits: list[int] = field(default_factory=list)
    """At the end of every request."""
    tokens: int = 0
    seconds: float = 0.0

    @property
    def settled(self):
        """The usual limit of the second half."""
        return median(self.limits[len(self.limits) // 2 :])


def serve(server, requests, ceiling=64, lengths=(50, 50), throttle=None, change=None):
    """Send requests of so many tokens, drawn between `lengths`, as a runner does with `ceiling` items at once."""
    run, draw = Run(throttle or Throttle(ceiling)), random.Random(0)

    async def one(items, number):
        async with items:
            if change is not None and number == requests // 2:
                change()
            tokens = draw.randint(*lengths)
            while True:
                async with run.throttle.place() as place:
                    done = await server.write(tokens)
                    place.work, place.refused = tokens * done, not done
                run.limits.append(run.throttle.limit)
                if done:
                    run.tokens += tokens
                    return
                await asyncio.sleep(0.05)

    async def everything():
        items = asyncio.Semaphore(ceiling)
        await asyncio.gather(*(one(items, number) for number in range(requests)))
        run.seconds = asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(everything())
    return run


@given(st.integers(1, 500))
def test_a_ladder_climbs_by_a_quarter_or_less_and_ends_at_the_ceiling(ceiling):
    rungs = ladder(ceiling)
    assert rungs[0] == 1 and rungs[-1] == ceiling and rungs == sorted(set(rungs))
    assert all(b <= max(a + 1, 1.25 * a) for a, b in pairwise(rungs))


@pytest.mark.parametrize("knee", [1, 6, 12, 24, 48])
def test_the_limit_settles_at_the_knee(knee):
    # 20 tokens a second for each request up to the knee, and not one more in all beyond it
    run = serve(Server(lambda flying: 20 * min(flying, knee)), requests=max(1500, 120 * knee))
    assert 0.8 * knee <= run.settled <= 1.25 * knee
    assert run.tokens / run.seconds >= 0.9 * 20 * knee  # looking around and the way there included


@pytest.mark.parametrize("knee", [12, 24])
def test_lengths_that_vary_do_not_cost_throughput(knee):
    run = serve(Server(lambda flying: 20 * min(flying, knee)), requests=1500, lengths=(10, 200))
    assert run.settled >= 0.8 * knee and run.tokens / run.seconds >= 0.9 * 20 * knee


def test_a_server_that_suffers_under_load_is_spared():
    # beyond 12 in flight, each more costs 5 %: at 24 it writes 240 / 1.6 = 150 tokens a second
    run = serve(Server(lambda flying: 20 * min(flying, 12) / (1 + 0.05 * max(0, flying - 12))), requests=3000)
    assert 10 <= run.settled <= 14 and run.tokens / run.seconds >= 0.9 * 240


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_slow_growth_is_climbed_in_noise(seed):
    """Tokens a second of the tiny omni model behind vLLM on a CPU (LOG.md, 2026-11-28), on a machine that others load."""
    known = {1: 100, 4: 369, 16: 1023, 32: 1449, 64: 2117, 128: 2479}
    draw, noise = random.Random(seed), {"at": -9.0, "level": 0.0}

    def at(flying: float) -> float:
        (low, below), (high, above) = max(p for p in pairwise(known.items()) if p[0][0] <= min(flying, 127))
        return below + (above - below) * (flying - low) / (high - low)

    def rate(flying: int) -> float:
        now = asyncio.get_running_loop().time()
        if (passed := now - noise["at"]) > 0.2:  # 15 % of noise that lasts for seconds
            kept = math.exp(-min(passed, 50) / 2)
            noise["level"] = kept * noise["level"] + draw.gauss(0, 0.15) * math.sqrt(1 - kept * kept)
            noise["at"] = now
        return at(flying) * math.exp(noise["level"])

    run = serve(Server(rate), requests=4000, ceiling=128, lengths=(48, 48))
    half = run.limits[len(run.limits) // 2 :]
    assert sum(map(at, half)) / len(half) >= 0.95 * known[128]


def test_growing_latency_is_no_reason_to_stop_while_throughput_grows():
    # a batching server: latency at 64 is ten times that at 1, and throughput is greatest there all the same
    run = serve(Server(lambda flying: 400 * flying / (flying + 6)), requests=3000)
    assert run.settled >= 48 and run.tokens / run.seconds >= 0.95 * 400 * 64 / 70


def test_refusals_bring_the_limit_below_what_is_refused_and_are_few():
    server = Server(lambda flying: 20 * flying, room=10)
    run = serve(server, requests=3000)
    assert 8 <= run.settled <= 10 and server.most == 10
    assert server.refused <= 0.03 * 3000 and run.tokens / run.seconds >= 0.93 * 200


def test_a_server_that_begins_to_refuse_is_followed_and_so_is_its_recovery():
    server = Server(lambda flying: 20 * min(flying, 32))
    first = serve(server, requests=2000)
    assert first.settled >= 28
    server.room = 6
    second = serve(server, requests=2000, throttle=first.throttle)
    assert 5 <= second.settled <= 6
    server.room = 1000
    third = serve(server, requests=4000, throttle=first.throttle)
    assert third.settled >= 28


def test_a_server_that_slows_down_in_the_middle_is_measured_anew():
    server = Server(lambda flying: 20 * min(flying, 32))

    def slower():
        server.rate = lambda flying: 20 * min(flying, 8) / (1 + 0.05 * max(0, flying - 8))

    run = serve(server, requests=6000, change=slower)
    assert median(run.limits[2000:3000]) >= 28 and median(run.limits[-1000:]) <= 10


@pytest.mark.parametrize("seed", [0, 1])
def test_a_machine_that_is_now_fast_and_now_slow_does_not_strand_the_limit(seed):
    loop = asyncio.get_running_loop

    def rate(flying):
        pace = random.Random(100 * seed + loop().time() // 20).uniform(0.4, 1)  # another one every 20 seconds
        return 1500 * flying / (flying + 20) * pace  # at 64 in flight it writes half as much again as at 20

    assert serve(Server(rate), requests=2000).settled >= 40


def test_refusals_now_and_then_do_not_bring_everything_to_a_halt():
    class Moody(Server):
        draw = random.Random(0)

        async def write(self, tokens):
            self.room = 0 if self.draw.random() < 0.04 else 1000  # whatever the load
            return await super().write(tokens)

    assert serve(Moody(lambda flying: 20 * min(flying, 32)), requests=3000).settled >= 4


def test_never_more_than_the_ceiling_are_in_flight_and_one_is_enough():
    server = Server(lambda flying: 20 * flying)
    assert serve(server, requests=200, ceiling=1).limits == [1] * 200 and server.most == 1


def test_too_few_requests_to_fill_the_limit_move_nothing():
    async def slowly():
        throttle = Throttle(64)
        for _ in range(200):
            async with throttle.place() as place:
                await asyncio.sleep(1)
                place.work = 50
        return throttle.limit

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(slowly()) == 4  # where it began


def test_whoever_gives_up_waiting_takes_no_place_along():
    async def crowd():
        throttle, entered = Throttle(4), []

        async def one(number, seconds):
            async with throttle.place() as place:
                entered.append(number)
                await asyncio.sleep(seconds)
                place.work = 1

        tasks = [asyncio.create_task(one(i, 10)) for i in range(8)]
        await asyncio.sleep(1)
        assert entered == [0, 1, 2, 3]
        for given_up in (tasks[0], tasks[5]):  # one in flight, one in the queue
            given_up.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert entered == [0, 1, 2, 3, 4, 6, 7]
        await asyncio.wait_for(asyncio.gather(*(one(i, 1) for i in (8, 9, 10, 11))), 2)  # all four places are free

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(crowd())
