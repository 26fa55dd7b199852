"""Synthesis against a real server: our client, which finds its own number of requests in flight, against fixed numbers of them.

The server is the tiny omni model behind vLLM, on this machine. Fixed numbers are served by the plain `openai` client. All take
turns for ROUNDS rounds, so that a machine that others load slows all of them alike; our client keeps what it has learnt from
one round to the next, as it does in a run. A rate is tokens per second of wall time, a round's prompts are new to the server.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from statistics import median
from typing import Any

import openai

from benchmarks.timing import UnequalError
from models.chat import Chat

FIXED = (4, 16, 32, 64, 128)
CEILING = 128
ROUNDS = 5
SETTLING, SECONDS = 5.0, 10.0
"""Of one turn: what ends in the first is not counted; what is in flight at the end is given up."""
TOKENS = 48
QUESTION = "How does the speaker feel, from -3 to 3, and what do words, voice and face do?"
Ask = Callable[[dict[str, Any]], Awaitable[tuple[str, int]]]
"""A request, to the text and its tokens."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second in every round."""

    fixed: Mapping[int, Sequence[float]]
    """By requests in flight."""
    ours: Sequence[float]
    limit: int
    """Where our client ended."""

    @property
    def best(self) -> int:
        """The fixed number whose median is the highest."""
        return max(self.fixed, key=lambda n: median(self.fixed[n]))

    @property
    def share(self) -> float:
        """What ours reaches of the best fixed number, the median over rounds; the first, in which it looks for its limit, is left
        out. Both of a round ran within the same minutes, so that what else the machine did counts for both.
        """
        return median(ours / best for ours, best in zip(self.ours[1:], self.fixed[self.best][1:], strict=True))

    def lines(self) -> list[str]:
        """The comparison as rows of a markdown table."""
        rows = [
            f"| {f'teacher server, {n} in flight':34} | {'openai':24} | {median(got):6.0f}/s | {'best' * (n == self.best):>6} |"
            for n, got in self.fixed.items()
        ]
        name = f"teacher server, settled at {self.limit}"
        return [*rows, f"| {name:34} | {'ours, adaptive':24} | {median(self.ours[1:]):6.0f}/s | {self.share:6.2f} |"]


@contextmanager
def vllm_server() -> Iterator[str]:
    """Address of a server that lives as long as the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "data_synth.serve", "model=tiny_omni", "backend=vllm", f"port={port}"]
    log = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}/v1"
    try:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            while True:
                try:
                    client.models.list()
                    break
                except openai.APIConnectionError:
                    if server.poll() is not None:
                        raise RuntimeError("the server ended before it answered; start it by hand to see why") from None
                    time.sleep(1)
        yield url
    finally:
        server.terminate()
        server.wait()


async def compare(url: str) -> Rates:
    """Check that both clients are told the same, then let them take turns."""
    numbers, ours = count(), []
    fixed: dict[int, list[float]] = {n: [] for n in FIXED}
    async with _chat(url) as chat, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as plain:

        async def by_chat(request: dict[str, Any]) -> tuple[str, int]:
            reply = await chat.ask(**request)
            return reply.text or "", reply.provenance["usage"]["completion_tokens"]

        async def by_openai(request: dict[str, Any]) -> tuple[str, int]:
            reply = await plain.chat.completions.create(model="tiny_omni", **request)
            assert reply.usage is not None
            return reply.choices[0].message.content or "", reply.usage.completion_tokens

        for _ in range(3):
            request = _request(next(numbers))
            told = [await ask(request) for ask in (by_chat, by_openai)]
            if told[0] != told[1] or not told[0][0]:
                raise UnequalError(f"the clients are told {told[0]} and {told[1]}; their rates cannot be compared")
        for _ in range(ROUNDS):
            for n in FIXED:
                fixed[n].append(await _turn(by_openai, n, numbers))
            ours.append(await _turn(by_chat, CEILING, numbers))
    return Rates(fixed, ours, chat.throttle.limit)


def _chat(url: str) -> Chat:
    return Chat(
        "teacher",
        base_url=url,
        model="tiny_omni",
        api_key_env=None,
        temperature=1.0,
        max_tokens=TOKENS,
        seed=0,
        concurrency=CEILING,
        retries=0,
        timeout=300.0,
    )


def _request(number: int) -> dict[str, Any]:
    content = f"Clip {number}. {QUESTION}"
    sampling = {"max_tokens": TOKENS, "temperature": 1.0, "seed": number}
    return {"messages": [{"role": "user", "content": content}], **sampling}


async def _turn(ask: Ask, workers: int, numbers: Iterator[int]) -> float:
    """Tokens per second of so many workers."""
    written = 0

    async def work() -> None:
        nonlocal written
        while True:
            _, tokens = await ask(_request(next(numbers)))
            written += tokens

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    await asyncio.sleep(SETTLING)
    start, before = time.perf_counter(), written
    await asyncio.sleep(SECONDS)
    rate = (written - before) / (time.perf_counter() - start)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if not isinstance(error, asyncio.CancelledError):
            raise UnequalError(f"a request failed: {error!r}; the rates cannot be compared")
    return rate


def rates() -> Iterator[Rates]:
    """The comparison; nothing where vLLM is not installed."""
    if find_spec("vllm") is not None:
        with vllm_server() as url:
            yield asyncio.run(compare(url))
