"""Settings, prompts and comparisons of the tests in this folder."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from models.engine.base import Completion, Sampling
from models.processor import Encoded, Processor

SETTINGS: dict[str, Any] = {
    "url": None,
    "max_model_len": 512,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 96,  # less than some prompts have: they are computed in pieces, cut anywhere
    "block_size": 32,
    "kv_cache_gib": 0.1,
    "gpu_memory_utilization": 0.4,
    "eager": True,
}

QUESTIONS = ("How does the speaker feel, from -3 to 3?", "What does the voice do?")

VIEWS = {
    "text": (),
    "image": ("image",),
    "audio": ("audio",),
    "video": ("video",),
    "video with sound": ("video",),
    "audio and video": ("audio", "video"),
    "image and video with sound": ("image", "video"),
    "two videos with sound": ("video", "video"),
}


STARTED = "Application startup complete"
"""What vLLM says when it is ready."""

GREEDY = Sampling(max_new_tokens=12, temperature=0.0)
HINT, LONGER_HINT = (300, 301, 302), (400, 401, 402, 403, 404)
EXACT = 1e-5
"""Of a log-probability in float32: 80 units in the last place of a sum of magnitude 1, over a few thousand terms."""


def tokens(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [c.token_ids for c in completions]


def difference(one: Sequence[Completion], other: Sequence[Completion]) -> float:
    pairs = [(p, q) for a, b in zip(one, other, strict=True) for p, q in zip(a.logprobs, b.logprobs, strict=True)]
    return max(abs(p - q) for p, q in pairs)


def scored(
    model: PreTrainedModel, processor: Processor, prompt: Encoded, prefix: Sequence[int], said: Sequence[int], t: float
) -> torch.Tensor:
    """[T] log-probabilities of `said` after prompt and prefix, at temperature `t`, from one ordinary forward."""
    batch = processor.collate([prompt])
    new = torch.tensor([*prefix, *said])
    batch["input_ids"] = torch.cat([batch["input_ids"], new[None]], 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits[0, :-1]
    return (logits / t).log_softmax(-1)[-len(said) :].gather(1, new[-len(said) :, None])[:, 0]


def free_port() -> int:
    """That nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(module: str, *arguments: str, ready: str, folder: Path, **environment: str) -> Iterator[None]:
    """`python -m module arguments` in a folder, once it has said that it is `ready`, until the end of the block."""
    server = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if ready in line:
            break
    else:
        pytest.fail("".join(said[-40:]))
    threading.Thread(target=server.stdout.read, daemon=True).start()  # a full pipe would stop it
    try:
        yield
    finally:
        server.terminate()
        server.wait()
