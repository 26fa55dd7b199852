"""vLLM in a process of its own, for `engine=vllm engine.vllm.url=...`.

    python -m models.engine.serve CHECKPOINT FOLDER [options of `vllm serve`]

CHECKPOINT is what training starts from; only its config and processor are used, the weights come from the trainer. FOLDER
gets a copy of these in the form that vLLM wants. What runs then is a plain `vllm serve` with three addresses more:

    GET  /undertone/limits    what a prompt must respect
    POST /undertone/draw      completions of prompts, which come as the tensors that the trainer scores
    POST /undertone/load      weights, from a file that the server can read

Whoever reaches the port can change the model: let it listen on localhost (`--host 127.0.0.1`) or inside a private network.
"""

import asyncio
import json
import os
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import load

from models.engine.vllm import REQUIRED, Draw, Drawn, Rules, as_prompt
from models.load import save_for_engine
from runtime.errors import UndertoneError

USAGE = "usage: python -m models.engine.serve CHECKPOINT FOLDER [options of vllm serve]"


class Endpoint:
    """ASGI middleware of vLLM's server: answers /undertone/..., and leaves everything else to it."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """One request."""
        place, _, what = scope.get("path", "").rpartition("/")
        if place != "/undertone":
            return await self.app(scope, receive, send)
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        answer: Any = f"there are {', '.join(ANSWERS)}"
        status = 404
        if what in ANSWERS:
            try:
                status, answer = 200, await ANSWERS[what](scope["app"].state.engine_client, b"".join(pieces))
            except (UndertoneError, ValueError, OSError) as error:
                status, answer = 400, str(error)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


async def limits(vllm: Any, body: bytes) -> dict[str, int]:
    """What a prompt must respect."""
    return {"max_model_len": vllm.model_config.max_model_len}


async def draw(vllm: Any, body: bytes) -> list[dict[str, Any]]:
    """The completions that `models.engine.vllm.Remote.draw` asks for."""
    tensors = load(body)
    request = json.loads(tensors.pop("request").numpy().tobytes())
    rules, draws = Rules(**request["rules"]), [Draw(**fields) for fields in request["draws"]]
    batches: defaultdict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        batches[int(number)][name] = tensor
    prompts = {number: as_prompt(batch, vllm.vllm_config) for number, batch in batches.items()}

    async def one(draw: Draw) -> Drawn:
        prompt = prompts[draw.prompt].before(draw.prefix)
        (output,) = [out async for out in vllm.generate(prompt, rules.params(draw.seed), uuid4().hex)]
        return rules.read(output)

    return [asdict(drawn) for drawn in await asyncio.gather(*map(one, draws))]


async def take(vllm: Any, body: bytes) -> list[dict[str, Any]]:
    """Load the weights of a file; see `PolicyWorker.take_weights`."""
    replies = await vllm.collective_rpc("take_weights", args=(json.loads(body)["path"],))
    await vllm.reset_encoder_cache()
    await vllm.reset_mm_cache()
    await vllm.reset_prefix_cache()
    return replies


ANSWERS: dict[str, Callable[[Any, bytes], Awaitable[Any]]] = {"limits": limits, "draw": draw, "load": take}


def main(arguments: list[str]) -> None:
    """Become a `vllm serve`."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        raise SystemExit(USAGE)
    checkpoint, folder, *options = arguments
    save_for_engine(Path(checkpoint) if Path(checkpoint).is_dir() else checkpoint, Path(folder))
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in REQUIRED.items()]
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    own = ["--model", folder, *flags, "--middleware", "models.engine.serve.Endpoint"]
    os.execv(sys.executable, [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *own, *options])


if __name__ == "__main__":
    main(sys.argv[1:])
