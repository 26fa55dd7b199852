"""The probe against a real server in another process that lacks one feature after the other."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from models.chat import Chat, ServerError
from models.media import RATE, has_sound, read_audio, read_video
from models.probe import FPS, QUESTION, Capabilities, film, probe
from runtime.errors import StageError

WHOLE = Capabilities(
    n=True,
    schema=True,
    seed=True,
    max_tokens=True,
    media={"audio": 50, "image": 50, "video": 50, "sound of a video": 30},
)
DROPPED = "the server dropped it and said nothing ({} prompt tokens, as without it)"


@pytest.fixture
def found(tmp_path):
    """What is found out about a server that lacks the named features, with files or without, and its requests."""

    def look(*lacking, files=None, model="m"):
        log = tmp_path / "log.jsonl"
        program = Path(__file__).parents[1] / "data_synth" / "chat_server.py"
        process = subprocess.Popen([sys.executable, program, log, *lacking], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        values = {"base_url": f"http://127.0.0.1:{process.stdout.readline().strip()}/v1", "model": model}
        values |= {"api_key_env": None, "temperature": 0.7, "max_tokens": 64, "seed": 5}
        chat = Chat("teacher", **values, concurrency=4, retries=0, timeout=10.0)

        async def run():
            async with chat:
                return await probe(chat, files)

        try:
            return asyncio.run(run()), [json.loads(line)["body"] for line in log.read_text().splitlines()]
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()

    return look


@pytest.mark.parametrize(
    "lacking, expected",
    [
        ((), WHOLE),
        (("n",), replace(WHOLE, n=False)),
        (("-n",), replace(WHOLE, n=False)),
        (("schema",), replace(WHOLE, schema=False)),
        (("-schema",), replace(WHOLE, schema=False)),
        (("seed",), replace(WHOLE, seed=False)),
        (("max_tokens",), replace(WHOLE, max_tokens=False)),
        (("audio",), replace(WHOLE, media=WHOLE.media | {"audio": DROPPED.format(70)})),
        (("image",), replace(WHOLE, media=WHOLE.media | {"image": DROPPED.format(70)})),
        # without sound, a video with a track is 120 prompt tokens as well
        (("sound",), replace(WHOLE, media=WHOLE.media | {"sound of a video": DROPPED.format(120)})),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_what_a_server_passes_over_in_silence_is_noticed(found, lacking, expected):
    assert found(*lacking)[0] == expected


def test_a_refused_medium_has_the_servers_reason(found):
    why = found("-image")[0].lacks("image")
    assert why is not None and why.startswith("refused: ") and "too many tokens" in why


def test_without_token_counts_nothing_is_believed(found):
    result, requests = found("usage")
    assert not result.max_tokens and result.n and len(requests) == 4  # media are not even tried
    assert all(result.lacks(kind) == "the server reports no prompt_tokens" for kind in WHOLE.media)


def test_a_probe_is_eight_short_requests_of_one_question(found):
    _, requests = found()
    assert len(requests) == 8 and all(QUESTION in str(body["messages"]) for body in requests)
    assert max(body["max_tokens"] for body in requests) <= 96


def test_files_are_sent_by_url_where_that_is_asked_for(found, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    result, requests = found(files=shared)
    sent = [part for body in requests for part in body["messages"][0]["content"] if "video_url" in part]
    assert all(part["video_url"]["url"].startswith(shared.as_uri()) for part in sent) and len(sent) == 2
    assert not any(shared.iterdir())  # they are gone again
    assert result.media["video"] == 50
    refused = found("file", files=shared)[0]
    assert refused.lacks("video") == DROPPED.format(70) and refused.lacks("audio") is None


def test_a_server_that_refuses_a_plain_question_is_named(found):
    with pytest.raises(
        StageError, match=r"teacher 'refuse' at http://.*: refused: .*too many tokens.*mend teacher.model"
    ):
        found(model="refuse")


def test_a_server_that_fails_at_a_plain_question_stops_the_probe(found):
    with pytest.raises(ServerError, match=r"InternalServerError.*out of memory"):
        found(model="broken")


def test_a_film_has_its_frames_and_its_track(tmp_path):
    frames = np.zeros((8, 112, 112, 3), np.uint8)
    wave = 0.3 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)
    for name, track in (("mute.mp4", None), ("film.mp4", wave)):
        (tmp_path / name).write_bytes(film(frames, track))
        seen, rate = read_video(tmp_path / name, FPS)
        assert seen.shape == (8, 3, 112, 112) and rate == FPS and has_sound(tmp_path / name) == (track is not None)
    heard = read_audio(tmp_path / "film.mp4")
    assert len(heard) == pytest.approx(RATE, rel=0.1) and heard.std() == pytest.approx(0.3 / 2**0.5, rel=0.1)
    with av.open(str(tmp_path / "film.mp4")) as box:
        assert {stream.type for stream in box.streams} == {"video", "audio"}
