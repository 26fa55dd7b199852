"""The chat client against a server that breaks down (tests/data_synth/fault_proxy.py); more with the teacher and the judge."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest

from models.budget import Budget, Limits, Spent
from models.chat import LONGEST_PAUSE, LONGEST_WISH, Chat, Reply, ServerError, pause, wish
from models.parts import openai_part
from runtime.errors import ConfigError, MediaError

VALUES = {"base_url": "http://x/v1", "model": "m", "api_key_env": None, "temperature": 0.0, "max_tokens": 64}
VALUES |= {"seed": None, "concurrency": 8, "retries": 0, "timeout": 10.0}


@pytest.fixture
def serve(tmp_path):
    """Starts the server with these options; gives a client's settings, and a way to what happened so far."""
    processes = []

    def start(*options):
        log = tmp_path / f"{len(processes)}.jsonl"
        program = Path(__file__).parents[1] / "data_synth" / "fault_proxy.py"
        process = subprocess.Popen([sys.executable, program, log, *options], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        settings = VALUES | {"base_url": f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"}
        return settings, lambda: [json.loads(line) for line in log.read_text().splitlines()]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def asked(chat, *texts, **more):
    """What is answered to each text."""

    async def run():
        async with chat:
            return await asyncio.gather(*(chat.ask([{"role": "user", "content": text}], **more) for text in texts))

    return asyncio.run(run())


def test_a_server_that_fails_three_in_ten_times_answers_everybody_once(serve):
    settings, log = serve("--rate", "0.3", "--seed", "1")
    texts = [f"remark {i}" for i in range(300)]
    chat = Chat("judge", **(settings | {"retries": 8, "timeout": 0.5, "concurrency": 32}))
    replies = asked(chat, *texts)
    assert all(reply.reason is None and reply.text.startswith("<discriminate>") for reply in replies)
    assert len({reply.text for reply in replies}) == 300  # each has its own
    rows = log()
    did = Counter(row["did"] for row in rows)
    assert set(did) == {"answer", "500", "429", "timeout", "cut", "garbage", "schema", "drip"}
    answered = Counter(row["words"] for row in rows if row["did"] == "answer")
    assert answered.keys() == set(texts)
    assert chat.budget.spent.requests >= len(rows)  # on a busy machine, an attempt may be given up before it arrives


@pytest.mark.parametrize(
    "fault, kind",
    [
        ("500", "InternalServerError"),
        ("429", "RateLimitError"),
        ("timeout", "Timeout"),
        ("drip", "Timeout"),  # a byte now and then: no single read is slow
        ("cut", "APIConnectionError"),
        ("garbage", "NotJSON"),
        ("schema", "NotAChatCompletion"),
    ],
)
def test_a_failure_that_stays_is_named_after_all_attempts(serve, fault, kind):
    settings, log = serve("--rate", "1", "--faults", fault)
    chat = Chat("judge", **(settings | {"retries": 1, "timeout": 0.5}))
    with pytest.raises(
        ServerError, match=rf"judge 'm' at http://.*: {kind}: .*; mend judge.base_url, judge.model or"
    ) as e:
        asked(chat, "a remark")
    assert e.value.kind == kind and [row["did"] for row in log()] == [fault, fault]
    assert chat.budget.spent == Spent(2)


def test_only_refusals_for_load_bring_the_limit_down(serve):
    limits = {}
    for fault in ("429", "500"):
        settings, _ = serve("--rate", "1", "--faults", fault)
        chat = Chat("judge", **settings)

        async def run(chat=chat):
            async with chat:
                asking = (chat.ask([{"role": "user", "content": str(i)}]) for i in range(4))
                return await asyncio.gather(*asking, return_exceptions=True)

        errors = asyncio.run(run())
        assert [type(error) for error in errors] == [ServerError] * 4
        limits[fault] = chat.throttle.limit
    assert limits == {"429": 2, "500": 4}  # two rungs down from 4


def test_several_texts_come_back_in_order_and_the_first_carries_the_tokens(serve):
    settings, _ = serve("--rate", "0")
    chat = Chat("judge", **settings)

    async def run():
        async with chat:
            return await chat.ask_for([{"role": "user", "content": "a remark"}], n=3)

    replies = asyncio.run(run())
    counted = [reply.provenance["usage"] for reply in replies]
    written = sum(len(reply.text.split()) for reply in replies)
    assert len({reply.text for reply in replies}) == 3
    assert counted == [{"prompt_tokens": 2, "completion_tokens": written}, None, None]
    assert chat.budget.spent == Spent(1, 2, written)


def test_no_request_is_sent_that_the_budget_might_not_cover(serve):
    settings, log = serve("--rate", "0")
    # every answer has 6 words or tokens and may have 64; the prompts have 2 each
    budget = Budget("judge.budget", Limits(None, 100, None, None, None))
    chat = Chat("judge", **settings, budget=budget)

    async def run():
        async with chat:
            asking = (chat.ask([{"role": "user", "content": f"remark {i}"}]) for i in range(20))
            return await asyncio.gather(*asking, return_exceptions=True)

    replies = asyncio.run(run())
    got = [reply for reply in replies if isinstance(reply, Reply)]
    assert len(got) == len(log()) < 20 and budget.spent.tokens <= 100
    assert budget.spent.tokens + 64 + 2 > 100  # none was sent away that was sure to fit


def test_what_a_server_asks_to_wait_is_understood():
    assert wish({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert wish({"retry-after": "7"}) == 7.0 and wish({"retry-after": "-3"}) == 0.0
    assert wish({"retry-after": formatdate(time() + 60, usegmt=True)}) == pytest.approx(60, abs=2)
    assert wish({"retry-after": "soon"}) is None and wish({}) is None


def test_pauses_double_with_jitter_and_never_undercut_what_was_asked():
    drawn = [[pause(attempt, None) for _ in range(200)] for attempt in (0, 1, 4, 20)]
    for times, most in zip(drawn, (0.5, 1.0, 8.0, LONGEST_PAUSE), strict=True):  # 0.5 * 2**attempt
        assert most / 2 <= min(times) < max(times) <= most and len(set(times)) > 100
    assert all(3.0 <= pause(0, 3.0) <= 3.75 for _ in range(200))
    assert pause(0, 1e6) <= 1.25 * LONGEST_WISH


def test_errors_begin_with_the_name_of_the_section(monkeypatch):
    with pytest.raises(ConfigError, match=r"judge.max_tokens: 1 or more; got 0"):
        Chat("judge", **(VALUES | {"max_tokens": 0}))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"judge.api_key_env: the environment variable 'NO_SUCH_KEY' is not set"):
        Chat("judge", **(VALUES | {"api_key_env": "NO_SUCH_KEY"}))
    told = {"base_url": "http://x/v1", "model": "m", "temperature": 0.0, "max_tokens": 64}
    assert Chat("judge", **VALUES).settings() == told


def test_a_file_that_cannot_be_sent_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"whole files alone are sent, got span \(0.0, 1.0\)"):
        openai_part({"type": "video", "path": "a.mp4", "span": (0.0, 1.0)})
    with pytest.raises(MediaError, match=r"gone.png: there is no such file; mend the record's path"):
        openai_part({"type": "image", "path": str(tmp_path / "gone.png"), "span": None}, files=tmp_path)
    (tmp_path / "a.png").write_bytes(b"1")
    sent = openai_part({"type": "image", "path": str(tmp_path / "a.png"), "span": None})
    assert sent == {"type": "image_url", "image_url": {"url": "data:image/png;base64,MQ=="}}
