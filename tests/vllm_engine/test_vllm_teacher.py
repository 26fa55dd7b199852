"""Synthesis against real servers, started with the command that the documentation names: vLLM, and transformers as a cross-check.

The tiny omni model is served with random weights, so that its chains are rejected; what is looked at is what was asked, what
reached the model, and what is noted about it.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_cases import STARTED, free_port, running

from data_synth.chat import ChatTeacher
from data_synth.prompts import schema
from data_synth.teacher import blind
from models.chat import Chat
from models.probe import probe
from runtime.errors import StageError
from runtime.files import read_jsonl
from tasks.record import Media, Record
from tasks.studio.task import Studio
from tasks.target import Scalar
from tests.models.mediafiles import tone, write_mp4, write_sound

ROOT = Path(__file__).parents[2]
FREE = {"max_requests": None, "max_tokens": None, "max_cost": None, "prompt_price": None, "completion_price": None}


def served(ready: str, *overrides: str) -> Iterator[str]:
    """The address of a server, once it has said that it is `ready`."""
    port = free_port()
    with running("data_synth.serve", f"port={port}", *overrides, ready=ready, folder=ROOT, OMP_NUM_THREADS="1"):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def vllm(cache) -> Iterator[str]:
    """A vLLM with the tiny omni model."""
    yield from served(STARTED, "model=tiny_omni", f"options=[--allowed-local-media-path,{cache}]")


@pytest.fixture(scope="module")
def transformers(cache) -> Iterator[tuple[str, str]]:
    """`transformers serve` with SmolLM2, and what it calls it."""
    for url in served("Uvicorn running", "model=smollm2", "backend=transformers"):
        yield url, str(cache / "smollm2-135m-instruct")


def teacher(url: str, model: str, **changes) -> ChatTeacher:
    values = {"base_url": url, "model": model, "api_key_env": None, "temperature": 1.0, "max_tokens": 32, "seed": 3}
    values |= {"concurrency": 8, "retries": 1, "timeout": 300.0, "form": "tags", "files": None, "budget": FREE}
    return ChatTeacher(**(values | changes))


def entered(chat: ChatTeacher, work):
    async def run():
        async with chat:
            return await work(chat)

    return asyncio.run(run())


def studio(*views: str) -> Studio:
    return Studio(name="studio", views=views, grammar="dc", train=1, dev=0, test=0, conflict=None, seed=0)


@pytest.fixture(scope="module")
def clips(cache) -> Path:
    """One sound, and one film of two seconds with a track."""
    folder = cache / "clips"
    folder.mkdir(exist_ok=True)
    write_sound(folder / "a.wav", tone(2.0))
    write_mp4(folder / "mute.mp4", frames=16, fps=8, size=(112, 112))
    write_mp4(folder / "film.mp4", frames=16, fps=8, size=(112, 112), sound=tone(2.0))
    return folder


def prompt_tokens(url: str, clips: Path, video: str | None, audio: bool, **changes) -> int:
    """Of a request that shows these."""
    views = {"text": "what a lovely day"}
    views |= {"video": Media("video", video)} if video else {}
    views |= {"audio": Media("audio", "a.wav")} if audio else {}
    record = Record(uid="r", task="studio", split="train", group="g", views=views, target=Scalar(1.0, -3, 3, 0.2))
    case = blind(studio("video", "audio", "text"), record, clips)
    (draft,) = entered(teacher(url, "tiny_omni", **changes), lambda chat: chat.write(case, [0]))
    return draft.provenance["usage"]["prompt_tokens"]


def capabilities(url: str, model: str):
    chat = teacher(url, model)._chat
    assert isinstance(chat, Chat)

    async def run():
        async with chat:
            return await probe(chat)

    return asyncio.run(run())


def test_vllm_is_found_to_do_all_that_it_is_asked(vllm):
    found = capabilities(vllm, "tiny_omni")
    assert (found.n, found.schema, found.seed, found.max_tokens) == (True, True, True, True)
    assert all(isinstance(found.media[kind], int) for kind in ("audio", "image", "video"))


def test_what_transformers_serve_passes_over_is_noticed(transformers):
    found = capabilities(*transformers)
    assert (found.n, found.schema, found.seed, found.max_tokens) == (False, False, True, True)
    assert all("dropped it and said nothing" in str(found.media[kind]) for kind in ("audio", "image", "video"))
    with pytest.raises(
        StageError, match=r"teacher.form=json asks for a JSON schema, and the server does not keep to one"
    ):
        entered(teacher(*transformers, form="json"), lambda chat: chat.write(None, [0]))


def test_a_text_model_on_transformers_serve_is_refused_for_a_clip_and_writes_about_a_text(transformers, clips):
    views = {"text": "what a lovely day", "audio": Media("audio", "a.wav")}
    record = Record(uid="r", task="studio", split="train", group="g", views=views, target=Scalar(1.0, -3, 3, 0.2))
    with pytest.raises(StageError, match=r"the task shows audio, and it does not reach the model: .*dropped it"):
        case = blind(studio("audio", "text"), record, clips)
        entered(teacher(*transformers), lambda chat: chat.write(case, [0]))
    case = blind(studio("text"), record, clips)
    (draft,) = entered(teacher(*transformers), lambda chat: chat.write(case, [0]))
    assert draft.text and 0 < draft.provenance["usage"]["completion_tokens"] <= 32


def test_sound_and_frames_reach_the_model_and_a_film_is_not_seen_deaf(vllm, clips):
    text = prompt_tokens(vllm, clips, None, False)
    sound = prompt_tokens(vllm, clips, None, True) - text
    frames = prompt_tokens(vllm, clips, "mute.mp4", False) - text
    # two seconds at 25 tokens each and the two tokens around them
    assert sound == 52 and frames > 52
    assert prompt_tokens(vllm, clips, "film.mp4", False) - text >= frames + 50  # its track is heard
    assert prompt_tokens(vllm, clips, "film.mp4", True) - text == frames + sound  # and not twice


def test_files_are_read_by_a_server_that_may(vllm, clips):
    by_url = prompt_tokens(vllm, clips, "mute.mp4", True, files=str(clips))
    assert by_url == prompt_tokens(vllm, clips, "mute.mp4", True)


def test_several_texts_and_the_same_ones_for_the_same_seed(vllm, clips):
    record = Record(
        uid="r", task="studio", split="train", group="g", views={"text": "hello"}, target=Scalar(1.0, -3, 3)
    )
    case = blind(studio("text"), record, clips)
    texts = [
        [
            draft.text
            for draft in entered(teacher(vllm, "tiny_omni", seed=seed), lambda chat: chat.write(case, [0, 1, 2]))
        ]
        for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1] != texts[2] and len(set(texts[0])) == 3


def test_a_schema_makes_a_chain_even_of_a_random_model(vllm, clips):
    task, target = studio("text"), Scalar(1.0, -3, 3, 0.2)
    record = Record(uid="r", task="studio", split="train", group="g", views={"text": "hello"}, target=target)
    case = blind(task, record, clips)
    assert "verdict" in schema(case.like, case.grammar)["properties"]

    async def ten(chat):
        return await chat.write(case, range(10))

    drafts = entered(teacher(vllm, "tiny_omni", form="json", max_tokens=200), ten)
    for draft in drafts:  # most are cut off, since nothing tells a random model to end a string
        said = "".join((draft.text or "").split()).removeprefix('{"verdict":"').removeprefix("<discriminate>")
        assert said.startswith(("negative", "neutral", "positive"))


def test_the_whole_command_asks_about_every_clip_and_notes_what_it_cost(vllm, tmp_path):
    overrides = [f"teacher.base_url={vllm}", "synth.candidates=2", "task.train=12", "task.dev=1", "task.test=1"]
    command = [sys.executable, "-m", "data_synth", "teacher=local", *overrides, f"hydra.run.dir={tmp_path}"]
    for _ in range(2):  # the second time, everything is there
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads((tmp_path / "synth" / "stage.json").read_text())["result"]
        assert (result["asked"], result["requests"], result["stopped"]) == (12, 12, None)  # two drafts a request
        rows = read_jsonl(tmp_path / "synth" / "rejected.jsonl")
        assert result["accepted"] + len(rows) >= 24 - result["accepted"]
        used = [row["synth"]["draft"]["usage"] for row in rows if row["index"] == 0]
        assert all(usage["prompt_tokens"] > 400 and usage["completion_tokens"] > 0 for usage in used)
        assert {row["synth"]["draft"]["model"] for row in rows} == {"tiny_omni"}
