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
from data_synth.prompts import CONCLUSION, CORRECTION, answer_rule, from_json, instructions, schema, verdict_rule
from data_synth.run import synthesize
from data_synth.teacher import Draft, blind
from models.budget import BudgetSpent, Spent
from models.probe import QUESTION
from runtime.errors import ConfigError, MediaError, StageError
from runtime.files import digest
from tasks.base import Dataset
from tasks.dc import GRAMMARS, Answer, parse, render
from tasks.record import Media
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Space, Text, Vector
from tests.models.mediafiles import tone, write_mp4, write_sound


@pytest.fixture
def serve(tmp_path):
    """Starts a server that lacks the named features; gives its address, and a way to the requests it got after the probe."""
    processes = []

    def start(*lacking):
        log = tmp_path / f"requests-{len(processes)}.jsonl"
        program = Path(__file__).with_name("chat_server.py")
        process = subprocess.Popen(
            [sys.executable, str(program), str(log), *lacking], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        return url, lambda: [row for row in map(json.loads, log.read_text().splitlines()) if QUESTION not in str(row)]

    yield start
    for process in processes:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture
def server(serve):
    return serve()


FREE = {"max_requests": None, "max_tokens": None, "max_cost": None, "prompt_price": None, "completion_price": None}


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
        "form": "tags",
        "files": None,
        "budget": FREE,
    }
    return ChatTeacher(**(values | changes))


def entered(chat, work):
    """What `work` gives while the teacher is entered."""

    async def run():
        async with chat:
            return await work(chat)

    return asyncio.run(run())


def test_one_failure_is_retried_and_garbage_is_rejected(server, remarks, remark, settings, tmp_path):
    url, requests = server
    texts = {"a": "a lovely day", "b": "a flaky day", "c": "a garbage day", "d": "refuse this", "e": "a silent day"}
    data = Dataset(tuple(remark(uid=u, text=t) for u, t in texts.items()), tmp_path)
    result = synthesize(remarks, data, teacher(url), settings, tmp_path / "run")
    assert result["accepted"] == 2
    assert result["rejected"] == {"fault": 1, "teacher refused": 1, "teacher wrote nothing": 1}
    assert len(requests()) == 6  # five records, one of them twice
    chain = json.loads((tmp_path / "run" / "chains.jsonl").read_text().splitlines()[0])["meta"]["synth"]
    told = {"model": "m", "temperature": 0.5, "max_tokens": 64, "seed": 7, "form": "tags"}
    assert chain["settings"] == told | {"wording": digest([CORRECTION, CONCLUSION])}  # not where the server is
    assert chain["draft"] == {
        "model": "m-1",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 70, "completion_tokens": 30},
    }
    media = {"audio": 50, "image": 50, "video": 50, "sound of a video": 30}
    assert json.loads((tmp_path / "run" / "server.json").read_text()) == {
        "base_url": url,
        "in_flight": 3,
        **{"n": True, "schema": True, "seed": True, "max_tokens": True, "media": media},
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
    assert "secret-1" not in "".join(p.read_text() for p in tmp_path.glob("*.jsonl") if "requests" not in p.name)


@pytest.mark.parametrize(
    "media, message",
    [
        (Media("video", "cut.mp4", (0.0, 1.0)), r"whole files alone are sent, got span \(0.0, 1.0\)"),
        (Media("image", "a.unknown"), "unknown kind of file; give it the usual suffix"),
        (Media("image", "a.png"), "cannot be read"),
    ],
)
def test_media_that_cannot_be_sent_are_named(server, remarks, remark, tmp_path, media, message):
    write_mp4(tmp_path / "cut.mp4")
    case = blind(remarks, remark(views={"video": media}), tmp_path)
    with pytest.raises(MediaError, match=message):
        entered(teacher(server[0]), lambda chat: chat.write(case, [0]))


# Candidates, rewriting and concluding


@pytest.mark.parametrize("lacking, many, seeds", [((), True, [9]), (("n",), False, [9, 10]), (("-n",), False, [9, 10])])
def test_several_drafts_are_one_request_where_the_server_gives_several_texts(
    serve, remarks, remark, tmp_path, lacking, many, seeds
):
    url, requests = serve(*lacking)
    case = blind(remarks, remark(), tmp_path)

    async def two(chat):
        assert chat.many == many
        return await chat.write(case, [2, 3]) if many else [(await chat.write(case, [i]))[0] for i in (2, 3)]

    drafts = entered(teacher(url), two)
    assert ["plainly 9" in drafts[0].text, "plainly 10" in drafts[1].text] == [True, True]  # the seed, 7, and the index
    bodies = [request["body"] for request in requests()]
    assert (
        [body["seed"] for body in bodies] == seeds and [body.get("n", 1) for body in bodies] == [2] if many else [1, 1]
    )
    usage = {"prompt_tokens": 70, "completion_tokens": 60 if many else 30}  # of one request, carried by its first draft
    assert [draft.provenance["usage"] for draft in drafts] == [usage, None if many else usage]


def test_choices_that_do_not_come_have_a_reason(serve, remarks, remark, tmp_path):
    case = blind(remarks, remark(), tmp_path)
    drafts = entered(teacher(serve("n")[0]), lambda chat: chat.write(case, [0, 1]))
    assert drafts[0].text is not None and drafts[1] == Draft(None, "teacher wrote nothing: 1 of 2 choices came")


def test_a_rewrite_is_told_what_was_said_and_what_is_right(server, remarks, remark, tmp_path):
    url, requests = server
    case = blind(remarks, remark(), tmp_path)
    draft = entered(teacher(url), lambda chat: chat.rewrite(case, Draft("so-so"), Scalar(-1.5, -3, 3, 0.2)))
    assert draft.text is not None
    system, item, failed, told = requests()[0]["body"]["messages"]
    assert (system["role"], item["role"], failed) == ("system", "user", {"role": "assistant", "content": "so-so"})
    assert "the right verdict is negative and the right answer is -1.5" in told["content"]
    assert "name neither the verdict nor the answer" in told["content"]


def test_who_concludes_sees_item_and_reasoning_and_no_label(server, remarks, remark, tmp_path):
    url, requests = server
    case = blind(remarks, remark(text="a lovely day", x=-2.5), tmp_path)
    draft = entered(teacher(url), lambda chat: chat.conclude(case, "the voice is warm"))
    assert draft.text is not None
    _, item, told = requests()[0]["body"]["messages"]
    assert "a lovely day" in str(item) and "<explanation>the voice is warm</explanation>" in told["content"]
    assert "2.5" not in str(requests())


# A reply as JSON


def test_a_reply_in_json_becomes_the_chain_that_it_says(server, remarks, remark, settings, tmp_path):
    url, requests = server
    result = synthesize(remarks, Dataset((remark(),), tmp_path), teacher(url, form="json"), settings, tmp_path / "run")
    assert result["accepted"] == 1
    body = requests()[0]["body"]
    assert body["response_format"]["json_schema"]["schema"] == schema(Scalar(0, -3, 3, 0.2), GRAMMARS["dc"])
    told = body["messages"][0]["content"]
    assert "one JSON object" in told and "verdict: VERDICT\ndiscriminate: what" in told and "</" not in told
    chain = json.loads((tmp_path / "run" / "chains.jsonl").read_text())["rationale"]
    assert chain == (
        "<discriminate>positive: a warm word</discriminate><calibrate>a warm word</calibrate><answer>2.0</answer>"
    )


def test_a_server_without_schemas_is_named_before_anything_is_asked(serve):
    url, requests = serve("schema")
    message = r"teacher 'm' at .*teacher.form=json asks for a JSON schema, and the server does not keep to one; set"
    with pytest.raises(StageError, match=message):
        entered(teacher(url, form="json"), lambda chat: chat.write(None, [0]))
    assert requests() == []


ANSWERS = [
    (Scalar(1.5, -3, 3, 0.2), {"verdict": "positive", "answer": 1.5}),
    (Class("rage", Space(("joy", "rage"), ("up", "down"))), {"verdict": "down", "answer": "rage"}),
    (Ordinal(3, ("a", "b", "c", "d")), {"verdict": "high", "answer": "d"}),
]


@pytest.mark.parametrize("value, fields", ANSWERS, ids=lambda v: v.kind if hasattr(v, "kind") else "")
@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=lambda g: g.name)
def test_a_reply_to_the_schema_is_the_rendered_answer(value, fields, grammar):
    bodies = {name: f"cue {name}" for name in grammar.blocks if name != "answer"}
    said = bodies | {name: fields[name] for name in ("answer", *(["verdict"] if grammar.verdict else []))}
    shape = schema(value, grammar)
    assert shape["required"] == list(shape["properties"]) and set(shape["required"]) == set(said)
    told = from_json(json.dumps(said), grammar)
    assert parse(told, value, grammar) == Answer(value, value.coarse() if grammar.verdict else None, bodies)
    assert told == render(Answer(value, value.coarse() if grammar.verdict else None, bodies), grammar)


@pytest.mark.parametrize("text", ['{"verdict": "positive", "discr', "[1]", '{"answer": 2}', "good"])
def test_what_is_no_reply_to_the_schema_stays_as_it_is(text):
    assert from_json(text, GRAMMARS["dc"]) == text


# Ears and eyes


def shown(remark, folder, *views):
    """A record with a wav, a silent mp4 (`mute`), and an mp4 with a track."""
    write_sound(folder / "a.wav", tone(0.5))
    write_mp4(folder / "mute.mp4")
    write_mp4(folder / "film.mp4", sound=tone(1.0))
    files = {"audio": Media("audio", "a.wav"), "mute": Media("video", "mute.mp4"), "film": Media("video", "film.mp4")}
    return remark(views={"text": "hello"} | {"audio" if v == "audio" else "video": files[v] for v in views})


def kinds(body):
    return [part["type"] for part in body["messages"][1]["content"] if part["type"] != "text"]


@pytest.mark.parametrize(
    "views, lacking, sent, asked",
    [
        (("mute",), (), ["video_url"], False),
        (("film",), (), ["video_url"], True),
        (("film",), ("sound",), ["video_url", "input_audio"], False),
        (("film", "audio"), (), ["input_audio", "video_url"], False),  # the prompt has sound of its own
        (("film",), ("audio",), ["video_url"], True),
        (("mute",), ("audio", "sound"), ["video_url"], False),
    ],
)
def test_a_video_with_a_track_is_heard_inside_or_beside(serve, remarks, remark, tmp_path, views, lacking, sent, asked):
    url, requests = serve(*lacking)
    case = blind(remarks, shown(remark, tmp_path, *views), tmp_path)
    (draft,) = entered(teacher(url), lambda chat: chat.write(case, [0]))
    (body,) = [request["body"] for request in requests()]
    assert draft.text and kinds(body) == sent
    assert body.get("mm_processor_kwargs") == ({"use_audio_in_video": True} if asked else None)


DROPPED = r"dropped it and said nothing \(70 prompt tokens, as without it\)"


@pytest.mark.parametrize(
    "views, lacking, kind, why",
    [
        (("audio",), ("audio",), "audio", DROPPED),
        (("audio",), ("-audio",), "audio", "refused: .*too many tokens"),
        (("mute",), ("video",), "video", DROPPED),
        (("film",), ("audio", "sound"), "audio", DROPPED),
        (("audio",), ("usage",), "audio", "the server reports no prompt_tokens"),
    ],
)
def test_a_server_that_is_deaf_or_blind_to_what_the_task_shows_is_named(
    serve, remarks, remark, tmp_path, views, lacking, kind, why
):
    url, requests = serve(*lacking)
    case = blind(remarks, shown(remark, tmp_path, *views), tmp_path)
    message = rf"teacher 'm' at {url}: the task shows {kind}, and it does not reach the model: .*{why}.*task.views"
    with pytest.raises(StageError, match=message):
        entered(teacher(url), lambda chat: chat.write(case, [0]))
    assert requests() == []


def test_a_server_on_the_same_disk_is_given_files(serve, remarks, remark, tmp_path):
    url, requests = serve()
    case = blind(remarks, shown(remark, tmp_path, "audio", "mute"), tmp_path)
    entered(teacher(url, files=str(tmp_path)), lambda chat: chat.write(case, [0]))
    parts = [part for part in requests()[0]["body"]["messages"][1]["content"] if part["type"] != "text"]
    assert parts == [
        {"type": "audio_url", "audio_url": {"url": (tmp_path / "a.wav").as_uri()}},
        {"type": "video_url", "video_url": {"url": (tmp_path / "mute.mp4").as_uri()}},
    ]
    with pytest.raises(StageError, match=rf"the task shows video, and it does not reach the model: .*{DROPPED}"):
        entered(teacher(serve("file")[0], files=str(tmp_path)), lambda chat: chat.write(case, [0]))


# Budget


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(server, remarks, remark, settings, tmp_path):
    url, requests = server
    data = Dataset(tuple(remark(uid=f"r-{i}", text=f"day {i}") for i in range(6)), tmp_path)
    spent = teacher(url, budget=FREE | {"max_requests": 13, "prompt_price": 2.0, "completion_price": 5.0})
    result = synthesize(remarks, data, spent, settings, tmp_path / "run")
    asked = len(requests())
    # of 13 requests, the probe takes 8: a question twice, one with n, one with a schema, four media
    assert (result["stopped"], result["accepted"], asked) == ("budget", 5, 5)
    assert result["cost"] == pytest.approx(5 * (70 * 2.0 + 30 * 5.0) / 1e6)
    again = synthesize(remarks, data, teacher(url), settings, tmp_path / "run")
    assert (again["stopped"], again["accepted"], len(requests())) == (None, 6, 6)


def test_a_budget_that_does_not_cover_one_request_says_so(server):
    spent = teacher(server[0], budget=FREE | {"max_tokens": 50})
    spent.budget.spent = Spent(3, 40, 9)
    message = (
        r"teacher.budget: the next request could go over max_tokens=50; spent are 3 requests and 49 tokens.*larger"
    )
    with pytest.raises(BudgetSpent, match=message):
        entered(spent, lambda chat: chat.write(None, [0]))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"base_url": "localhost:8000"}, "teacher.base_url: begins with http:// or https://; got 'localhost:8000'"),
        ({"temperature": 3}, r"teacher.temperature: in \[0, 2\]; got 3"),
        ({"max_tokens": 0}, "teacher.max_tokens: 1 or more; got 0"),
        ({"concurrency": 0}, "teacher.concurrency: 1 or more; got 0"),
        ({"retries": -1}, "teacher.retries: 0 or more; got -1"),
        ({"timeout": 0}, "teacher.timeout: more than 0 seconds; got 0"),
        ({"form": "xml"}, "teacher.form: one of tags, json; got 'xml'"),
        ({"files": "no/such"}, "teacher.files: a folder that is there, or null; got 'no/such'"),
        ({"budget": FREE | {"max_cost": 1}}, "teacher.budget.max_cost: a cost needs teacher.budget.prompt_price"),
        ({"budget": FREE | {"max_tokens": -1}}, "teacher.budget.max_tokens: 0 or more, or null; got -1"),
        (
            {"budget": {}},
            "teacher.budget: its keys are max_requests, max_tokens, max_cost, prompt_price, completion_price",
        ),
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
