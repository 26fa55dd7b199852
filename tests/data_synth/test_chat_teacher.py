"""The chat teacher against a real HTTP server in another process."""

import asyncio
import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from data_synth.chat import ChatTeacher
from data_synth.prompts import answer_rule, instructions, verdict_rule
from data_synth.run import synthesize
from data_synth.teacher import blind
from runtime.errors import ConfigError, MediaError, StageError
from tasks.base import Dataset
from tasks.dc import GRAMMARS
from tasks.record import Media
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Space, Text, Vector


@pytest.fixture
def server(tmp_path):
    """Address of the server, and the requests it got so far."""
    log = tmp_path / "requests.jsonl"
    program = Path(__file__).with_name("chat_server.py")
    process = subprocess.Popen([sys.executable, str(program), str(log)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    yield f"http://127.0.0.1:{port}/v1", lambda: [json.loads(line) for line in log.read_text().splitlines()]
    process.terminate()
    process.wait()
    process.stdout.close()


def teacher(base_url, **changes):
    values = {
        "base_url": base_url,
        "model": "m",
        "api_key_env": None,
        "temperature": 0.5,
        "max_tokens": 64,
        "seed": 7,
        "concurrency": 3,
        "retries": 2,
        "timeout": 10.0,
    }
    return ChatTeacher(**(values | changes))


def test_one_failure_is_retried_and_garbage_is_rejected(server, remarks, remark, settings, tmp_path):
    url, requests = server
    texts = {"a": "a lovely day", "b": "a flaky day", "c": "a garbage day", "d": "refuse this", "e": "a silent day"}
    data = Dataset(tuple(remark(uid=u, text=t) for u, t in texts.items()), tmp_path)
    result = synthesize(remarks, data, teacher(url), settings, tmp_path / "run")
    assert result["accepted"] == 2
    assert result["rejected"] == {"fault": 1, "teacher refused": 1, "teacher wrote nothing": 1}
    assert len(requests()) == 6  # five records, one of them twice
    chain = json.loads((tmp_path / "run" / "chains.jsonl").read_text().splitlines()[0])["meta"]["synth"]
    assert chain["settings"] == {"base_url": url, "model": "m", "temperature": 0.5, "max_tokens": 64, "seed": 7}
    assert chain["draft"] == {
        "model": "m-1",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 70, "completion_tokens": 30},
    }
    synthesize(remarks, data, teacher(url), settings, tmp_path / "run")
    assert len(requests()) == 6  # a second run asks nobody


def test_a_server_that_keeps_failing_stops_the_run_with_the_remedy(server, remarks, remark, settings, tmp_path):
    url, requests = server
    data = Dataset((remark(text="a broken day"),), tmp_path)
    with pytest.raises(StageError, match=r"InternalServerError.*out of memory.*call again to continue"):
        synthesize(remarks, data, teacher(url), settings, tmp_path / "run")
    assert len(requests()) == 3  # the first and two retries


def test_a_server_that_is_not_there_stops_the_run(remarks, remark, settings, tmp_path):
    data = Dataset((remark(),), tmp_path)
    with pytest.raises(StageError, match=r"APIConnectionError.*mend teacher.base_url"):
        synthesize(remarks, data, teacher("http://127.0.0.1:9/v1", retries=0), settings, tmp_path / "run")


def test_a_request_holds_prompt_rules_sampling_and_media_but_no_label_and_no_file_name(
    server, studio, settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("TEACHER_KEY", "secret-1")
    url, requests = server
    task, dataset = studio
    record = dataset.split("train")[0]
    synthesize(task, Dataset((record,), dataset.root), teacher(url, api_key_env="TEACHER_KEY"), settings, tmp_path)
    (request,) = requests()
    assert request["path"] == "/v1/chat/completions" and request["key"] == "Bearer secret-1"
    body = request["body"]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0.5, 64, 7)
    system, user = body["messages"]
    assert "<discriminate>VERDICT:" in system["content"] and "from -3 to 3" in system["content"]
    parts = {part["type"]: part for part in user["content"] if part["type"] != "text"}
    assert set(parts) == {"video_url", "input_audio"} and record.views["text"] in str(user["content"])
    video = parts["video_url"]["video_url"]["url"]
    media = {name: view for name, view in record.views.items() if isinstance(view, Media)}
    assert (
        video == "data:video/mp4;base64," + base64.b64encode((dataset.root / media["video"].path).read_bytes()).decode()
    )
    wave, rate = soundfile.read(
        io.BytesIO(base64.b64decode(parts["input_audio"]["input_audio"]["data"])), dtype="int16"
    )
    sent, _ = soundfile.read(dataset.root / media["audio"].path, dtype="int16")
    assert rate == 16_000 and abs(wave.astype(int) - sent).max() <= 1
    for hidden in (record.uid, Path(media["video"].path).name, Path(media["audio"].path).name, "conflict"):
        assert hidden not in json.dumps(body)
    assert "secret-1" not in "".join(p.read_text() for p in tmp_path.glob("*.jsonl") if p.name != "requests.jsonl")


@pytest.mark.parametrize(
    "media, message",
    [
        (Media("video", "a.mp4", (0.0, 1.0)), r"whole files alone are sent, got span \(0.0, 1.0\)"),
        (Media("video", "a.unknown"), "unknown kind of file; give it the usual suffix"),
        (Media("image", "a.png"), "cannot be read"),
    ],
)
def test_media_that_cannot_be_sent_are_named(remarks, remark, tmp_path, media, message):
    async def write():
        async with teacher("http://127.0.0.1:9/v1") as chat:
            await chat.write(blind(remarks, remark(views={"video": media}), tmp_path))

    with pytest.raises(MediaError, match=message):
        asyncio.run(write())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"base_url": "localhost:8000"}, "teacher.base_url: begins with http:// or https://; got 'localhost:8000'"),
        ({"temperature": 3}, r"teacher.temperature: in \[0, 2\]; got 3"),
        ({"max_tokens": 0}, "teacher.max_tokens: 1 or more; got 0"),
        ({"concurrency": 0}, "teacher.concurrency: 1 or more; got 0"),
        ({"retries": -1}, "teacher.retries: 0 or more; got -1"),
        ({"timeout": 0}, "teacher.timeout: more than 0 seconds; got 0"),
        ({"api_key_env": "NO_SUCH_KEY"}, "the environment variable 'NO_SUCH_KEY' is not set; export the key in it"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_sent(change, message):
    with pytest.raises(ConfigError, match=message):
        teacher(**({"base_url": "http://127.0.0.1:9/v1"} | change))


MOODS = Space(("joy", "rage", "grief"), ("up", "down", "down"))


@pytest.mark.parametrize(
    "like, answer, verdict",
    [
        (Scalar(0, -3, 3, 0.2), "a number from -3 to 3", "neutral means within 0.2 of the middle of the scale, 0"),
        (Scalar(3, 1, 5), "a number from 1 to 5", "neutral means exactly the middle of the scale, 3"),
        (Ordinal(0, ("a", "b", "c", "d")), "from lowest to highest: a, b, c, d", "one of: low, high"),
        (Class("joy", MOODS), "one of: joy, rage, grief", "one of: up, down"),
        (
            LabelSet(frozenset(), MOODS),
            "labels from: joy, rage, grief",
            "a comma-separated list from: up, down; or none",
        ),
        (LabelSet(frozenset(), None, {"glad": "up"}), "labels of your own", "from: up, other; or none"),
        (IndexSet(frozenset(), 4), "utterance numbers from 0 to 3", "one of: last, previous, earlier, none"),
        (
            Vector(("a", "b"), (None, None), 0, 5),
            "a=NUMBER, b=NUMBER, each NUMBER from 0 to 5",
            "list from: a, b; or none",
        ),
        (
            Composite({"note": Text(("x",)), "mood": Class("joy", MOODS)}),
            "mood: one of: joy, rage, grief",
            "one of: up, down",
        ),
    ],
    ids=lambda v: v.kind if not isinstance(v, str) else "",
)
def test_every_kind_of_answer_is_put_into_words(like, answer, verdict):
    assert answer in answer_rule(like) and verdict in verdict_rule(like)
    told = instructions(like, GRAMMARS["dc"])
    assert answer_rule(like) in told and verdict_rule(like) in told


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=lambda g: g.name)
def test_the_form_in_the_instructions_has_the_blocks_of_the_grammar_in_order(grammar):
    told = instructions(Text(("x",)) if grammar.verdict is None else Scalar(0, -1, 1), grammar)
    places = [told.index(f"<{name}>") for name in grammar.blocks]
    assert places == sorted(places) and ("VERDICT" in told) == (grammar.verdict is not None)
