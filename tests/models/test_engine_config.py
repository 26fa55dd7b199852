"""What `conf/engine/` may say, and what comes of it where vLLM is not installed."""

import importlib.util
from pathlib import Path

import pytest
import torch

from models.engine.base import Sampling
from models.engine.config import EngineConfig, VLLMSettings, make_engine
from models.engine.hf import HFEngine
from runtime.errors import ConfigError

SETTINGS = {
    "url": None,
    "max_model_len": 512,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 96,
    "block_size": 32,
    "kv_cache_gib": 0.1,
    "gpu_memory_utilization": 0.4,
    "eager": True,
}


def settings(**changes) -> VLLMSettings:
    return VLLMSettings(**SETTINGS | changes)


def test_the_default_engine_is_the_model_itself(tiny):
    cfg, model, processor = tiny
    engine = make_engine(EngineConfig("hf", None), cfg, Path("unused"), Path("unused"), 0, model, processor)
    assert isinstance(engine, HFEngine)


def test_an_engine_of_the_model_itself_follows_whatever_model_it_is_given(tiny, fresh):
    _, model, processor = tiny
    engine, greedy = HFEngine(model, processor), Sampling(6, 0.0)
    prompt = processor.encode([{"role": "user", "content": [{"type": "text", "text": "How?"}]}])
    with torch.no_grad():
        for weight in fresh.parameters():
            weight += 0.2 * torch.randn_like(weight)
    (before,) = engine.sample(engine.prefill([prompt]), [0], greedy)
    engine.follow(fresh, 1)
    (after,) = engine.sample(engine.prefill([prompt]), [0], greedy)
    assert after.logprobs != before.logprobs
    assert HFEngine(fresh, processor).generate([prompt], greedy, 1, 1) == [[after]]


def test_vllm_that_is_not_installed_is_said(tiny, monkeypatch):
    cfg, model, processor = tiny
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"engine=vllm: vLLM is not installed here; CONTRIBUTING.md says how .* use engine=hf"
    ):
        make_engine(EngineConfig("vllm", settings()), cfg, Path("unused"), Path("unused"), 0, model, processor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EngineConfig("sglang", None), r"engine.name: one of \('hf', 'vllm'\); got 'sglang'; mend the config"),
        (lambda: EngineConfig("hf", settings()), r"engine.vllm: .* to no other; name is 'hf'; choose engine=hf"),
        (lambda: EngineConfig("vllm", None), r"engine.vllm: .* to no other; name is 'vllm'; choose engine=vllm"),
        (lambda: settings(max_model_len=0), "engine.vllm.max_model_len: 1 or more; got 0; mend the config"),
        (lambda: settings(block_size=0), "engine.vllm.block_size: 1 or more; got 0; mend the config"),
        (
            lambda: settings(kv_cache_gib=0.0),
            r"kv_cache_gib > 0 or null; got gpu_memory_utilization=0.4 kv_cache_gib=0.0;",
        ),
        (
            lambda: settings(gpu_memory_utilization=1.5),
            r"gpu_memory_utilization in \(0, 1\], .* got gpu_memory_utilization=1.5",
        ),
    ],
)
def test_a_wrong_setting_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
