"""Which engine samples, and how it is made."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from models.engine.base import Engine
from models.engine.hf import HFEngine
from models.load import ModelConfig
from models.processor import Processor
from runtime.errors import ConfigError

NAMES = ("hf", "vllm")


@dataclass
class VLLMSettings:
    """How vLLM runs inside the training process; a server has its own settings."""

    url: str | None
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    kv_cache_gib: float | None
    gpu_memory_utilization: float
    eager: bool

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"engine.vllm.{name}: 1 or more; got {getattr(self, name)}; mend the config")
        if not 0 < self.gpu_memory_utilization <= 1 or (self.kv_cache_gib is not None and self.kv_cache_gib <= 0):
            got = f"gpu_memory_utilization={self.gpu_memory_utilization} kv_cache_gib={self.kv_cache_gib}"
            raise ConfigError(
                f"engine.vllm: gpu_memory_utilization in (0, 1], kv_cache_gib > 0 or null; got {got}; mend the config"
            )


@dataclass
class EngineConfig:
    """A section of `conf/engine/`; the keys are explained there."""

    name: str
    vllm: VLLMSettings | None

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(f"engine.name: one of {NAMES}; got {self.name!r}; mend the config")
        if (self.name == "vllm") != (self.vllm is not None):
            raise ConfigError(
                f"engine.vllm: settings belong to name=vllm and to no other; name is {self.name!r}; choose engine={self.name}"
            )


def make_engine(
    cfg: EngineConfig,
    model_cfg: ModelConfig,
    checkpoint: Path,
    folder: Path,
    seed: int,
    model: torch.nn.Module,
    processor: Processor,
) -> Engine:
    """The engine that a section of the config asks for.

    Args:
        cfg: the section.
        model_cfg: of the policy.
        checkpoint: that the policy starts from.
        folder: for weights on their way to a server, which must be able to read them there.
        seed: of vLLM itself; completions are seeded one by one, from torch's generator.
        model: the policy.
        processor: its processor.

    Raises:
        ConfigError: when vLLM is not installed.
        StageError: when no server answers.
    """
    if cfg.vllm is None:
        return HFEngine(model, processor)
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "engine=vllm: vLLM is not installed here; CONTRIBUTING.md says how (section The environment), or use engine=hf"
        )
    # before vLLM is imported: one process, because weights are handed over by reference; and no report of its use to its makers
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}.items():
        os.environ.setdefault(name, value)
    from models.engine.vllm import InProcess, Remote, VLLMEngine

    if cfg.vllm.url is None:
        return VLLMEngine(InProcess(cfg.vllm, checkpoint, model_cfg.dtype, seed), processor)
    return VLLMEngine(Remote(cfg.vllm.url, folder), processor)
