"""Examples from the studio, settings of a short stage, and fresh models to train."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from models.load import ModelConfig, base_checkpoint, load_model
from models.processor import Processor
from sft.config import SFTConfig
from sft.train import Example
from tasks.base import Dataset
from tasks.studio.task import Studio, caption

Fresh = Callable[..., torch.nn.Module]


@pytest.fixture(scope="session")
def examples(studio: Studio, studio_data: Dataset) -> list[Example]:
    """Six short chains: with two a batch, epochs of three steps."""
    records = studio_data.split("train")[:6]
    return [
        Example(studio.prompt(r, studio_data.root), f"<answer>{caption(r)}</answer>"[: 30 + i])
        for i, r in enumerate(records)
    ]


@pytest.fixture(scope="session")
def settings() -> Callable[..., SFTConfig]:
    """Settings of four steps, logged and saved at each."""

    def make(**changes) -> SFTConfig:
        values = {
            "init": None,
            "chains": None,
            "max_steps": 4,
            "batch": 2,
            "accumulation": 1,
            "lr": 1e-2,
            "warmup": 0.25,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "gradient_checkpointing": False,
            "packing": True,
            "holdout": 0.0,
            "eval_every": 2,
            "save_every": 1,
            "log_every": 1,
        }
        return SFTConfig(**(values | changes))

    return make


@pytest.fixture(scope="session")
def fresh(tiny: tuple[ModelConfig, torch.nn.Module, Processor]) -> Fresh:
    """Loads the tiny model for training, the same every time."""
    cfg, _, _ = tiny

    def load(**changes) -> torch.nn.Module:
        torch.manual_seed(7)  # a new adapter is drawn
        return load_model(replace(cfg, **changes), base_checkpoint(cfg), train=True)

    return load


@pytest.fixture(scope="session")
def processor(tiny: tuple[ModelConfig, torch.nn.Module, Processor]) -> Processor:
    """Shared, so that clips are encoded once in all tests."""
    return tiny[2]
