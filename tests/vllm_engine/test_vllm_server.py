"""vLLM in a server of its own, started with the command that the documentation names."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from vllm_cases import EXACT, GREEDY, HINT, SETTINGS, STARTED, VIEWS, difference, free_port, running, tokens

from models.engine.base import Sampling
from models.engine.config import EngineConfig, VLLMSettings, make_engine
from models.engine.hf import HFEngine
from models.load import base_checkpoint
from runtime.errors import ParityError, StageError

ROOT = Path(__file__).parents[2]
OPTIONS = ["--max-model-len", "512", "--enforce-eager", "--kv-cache-memory-bytes", "100M", "--dtype", "float32"]


@pytest.fixture(scope="module")
def url(tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server for the tiny model, in a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    port = free_port()
    model = str(base_checkpoint(tiny[0]))
    arguments = [model, str(folder), *OPTIONS, "--host", "127.0.0.1", "--port", str(port)]
    with running("models.engine.serve", *arguments, ready=STARTED, folder=ROOT, VLLM_CPU_OMP_THREADS_BIND="nobind"):
        yield f"http://127.0.0.1:{port}"


def at(url: str) -> EngineConfig:
    """Its other settings are for vLLM in this process."""
    return EngineConfig("vllm", VLLMSettings(**SETTINGS | {"url": url}))


@pytest.fixture(scope="module")
def engine(url: str, tiny, tmp_path_factory: pytest.TempPathFactory):
    cfg, model, processor = tiny
    return make_engine(at(url), cfg, Path("unused"), tmp_path_factory.mktemp("weights"), 0, model, processor)


@pytest.mark.parametrize("kind", VIEWS)
def test_a_server_says_what_the_model_itself_says(engine, tiny, prompts_of, processor_of, kind):
    engine.follow(tiny[1], 0)
    prompts, own = prompts_of(kind), HFEngine(tiny[1], processor_of(kind))
    prompt_of, prefixes = [0, 1, 0, 1], [(), (), HINT, HINT]
    expected = own.sample(own.prefill(prompts), prompt_of, GREEDY, prefixes)
    got = engine.sample(engine.prefill(prompts), prompt_of, GREEDY, prefixes)
    assert tokens(got) == tokens(expected) and difference(got, expected) < EXACT
    assert [c.finished for c in got] == [c.finished for c in expected]
    assert engine.fingerprints == own.fingerprints


def test_a_server_follows_the_policy_and_remembers_nothing_of_the_old_one(
    engine, tiny, moved, prompts_of, processor_of
):
    prompts, own = prompts_of("video with sound"), HFEngine(moved, processor_of("video with sound"))
    engine.follow(tiny[1], 0)
    before = engine.sample(engine.prefill(prompts), [0, 1], GREEDY)
    engine.follow(moved, 1)
    engine.cached_tokens = 0
    after = engine.sample(engine.prefill(prompts), [0, 1], GREEDY)
    expected = own.sample(own.prefill(prompts), [0, 1], GREEDY)
    assert engine.cached_tokens == 0
    assert tokens(after) == tokens(expected) and difference(after, expected) < EXACT < difference(after, before)


def test_a_server_keeps_a_prompt_for_its_group_and_its_hint(engine, tiny, prompts_of):
    engine.follow(tiny[1], 2)
    prompt, _ = prompts_of("two videos with sound")
    engine.prompt_tokens = engine.cached_tokens = 0
    state = engine.prefill([prompt])
    engine.sample(state, [0], GREEDY)
    torch.manual_seed(0)
    group = engine.sample(state, [0] * 8, Sampling(8, 1.0), [HINT] * 8)
    assert len({c.token_ids for c in group}) == 8
    block = 128  # vLLM's own on a CPU
    assert len(prompt.ids) > block
    assert engine.cached_tokens == 8 * ((len(prompt.ids)) // block * block)


def test_a_server_that_reads_an_old_file_is_noticed(engine, tiny, moved, tmp_path, monkeypatch):
    engine.follow(tiny[1], 3)
    old = shutil.copy(engine.host.folder / "policy.safetensors", tmp_path)
    ask = engine.host._ask
    monkeypatch.setattr(engine.host, "_ask", lambda what, body: ask(what, json.dumps({"path": str(old)}).encode()))
    with pytest.raises(
        ParityError, match=r"step 4: the policy's weights did not reach vLLM: \d+ of \d+ tensors were not taken"
    ):
        engine.follow(moved, 4)


def test_what_a_server_cannot_do_is_said(engine, url):
    with pytest.raises(
        StageError, match=r"could not load: .*no_such_file.*; was it started with `python -m models.engine"
    ):
        engine.host._ask("load", json.dumps({"path": "/no_such_file"}).encode())
    with pytest.raises(StageError, match=r"could not dance: .*there are limits, draw, load"):
        engine.host._ask("dance", None)
    with urllib.request.urlopen(f"{url}/v1/models") as answer:  # the rest is a plain `vllm serve`
        assert json.load(answer)["object"] == "list"


def test_a_server_that_is_not_there_is_said(tiny, tmp_path):
    message = r"engine.vllm.url=http://127.0.0.1:9: no answer \(.*\); start it first: python -m models.engine.serve"
    with pytest.raises(StageError, match=message):
        make_engine(at("http://127.0.0.1:9/"), tiny[0], tmp_path, tmp_path, 0, *tiny[1:])
