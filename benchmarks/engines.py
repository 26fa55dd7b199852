"""Rollouts of a training step: transformers' generate, our own sampler on the training model, and vLLM where it is installed.

As in a training step, vLLM is given the policy's weights each time, and has computed nothing of the prompt before.
"""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count

import torch
from hydra import compose, initialize_config_dir

from benchmarks import naive
from benchmarks.scene import Scene
from benchmarks.timing import SAME, Comparison, Limit, Result, largest
from models.engine.base import Engine, Sampling
from models.engine.config import EngineConfig, make_engine
from models.engine.hf import HFEngine
from models.load import ModelConfig
from runtime.config import section
from runtime.main import CONF

VLLM_LOGPS = Limit(largest, 1e-3)
"""Of log-probabilities: vLLM has kernels of its own."""


def vllm(scene: Scene) -> Engine:
    """As `engine=vllm` makes it, for the scene's model."""
    checkpoint = scene.folder / "checkpoint"
    scene.model.save_pretrained(checkpoint)
    scene.processor.processor.save_pretrained(checkpoint)
    changes = ["engine=vllm", "model=tiny_omni", "engine.vllm.eager=true", "engine.vllm.kv_cache_gib=0.5"]
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("rl", changes)
    settings, model = section(cfg, "engine", EngineConfig), section(cfg, "model", ModelConfig)
    return make_engine(settings, model, checkpoint, scene.folder, 0, scene.model, scene.processor)


def engines(scene: Scene) -> list[Comparison]:
    """Greedy completions and their log-probabilities, of `generate` the completions alone."""
    size = scene.size
    prompts = [scene.prompt(size.seconds[1], i) for i in range(size.prompts)]
    prompt_of = [b for b in range(size.prompts) for _ in range(size.group)]
    model, greedy = copy.deepcopy(scene.model).eval(), Sampling(size.completion, 0.0)
    steps = count()

    def sampled_by(engine: Engine) -> Callable[[], Result]:
        def work() -> Result:
            engine.follow(model, next(steps))
            said = engine.sample(engine.prefill(prompts), prompt_of, greedy)
            ids, logps = zip(*((c.token_ids, c.logprobs) for c in said), strict=True)
            return {"ids": torch.tensor(ids), "logps": torch.tensor(logps)}

        return work

    @torch.no_grad()
    def generate() -> Result:
        rows = scene.processor.collate([prompts[b] for b in prompt_of], model.device)
        ids = naive.generate(model, rows, scene.processor, size.completion, do_sample=False)
        return {"ids": ids.cpu(), "logps": logps}

    ours = sampled_by(HFEngine(model, scene.processor))
    logps = ours()["logps"]
    ways = {"transformers, generate": generate, "hf, shared prompt": ours}
    if find_spec("vllm") is not None:
        ways["vllm"] = sampled_by(vllm(scene))
    return [Comparison(f"rollouts of {size.prompts} groups", ways, {"ids": SAME, "logps": VLLM_LOGPS})]
