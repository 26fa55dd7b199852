"""Processors, checkpoints and trainers for the tests of the rl room."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys
from jobs import Job
from toys import ArbitraryRemarks, ArbitraryStudio, hint_config, remarks, rl_config, weights
from transformers import LlamaConfig, LlamaForCausalLM

from models.load import LoraSettings, ModelConfig, base_checkpoint, load_model
from models.processor import MediaSettings, Processor
from models.tiny import CORPUS, build_tokenizer
from rl.trainer import HintGRPOTrainer, make_trainer
from tasks.base import Dataset
from tasks.studio.task import Studio

MakeTrainer = Callable[..., HintGRPOTrainer]


@pytest.fixture(scope="session")
def words() -> Processor:
    """A processor for text alone."""
    tokenizer = build_tokenizer(CORPUS)
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}\n{% endfor %}> "
    return Processor(tokenizer, MediaSettings(False, 2.0, 2, {}))


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory, words: Processor) -> ModelConfig:
    """A random text-only model with its tokenizer, on disk."""
    tokenizer = words.tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=words.pad_id,
        bos_token_id=None,
        eos_token_id=words.eos_ids[0],
    )
    folder = tmp_path_factory.mktemp("text_model")
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelConfig(
        name="tiny_text",
        family="text",
        source=str(folder),
        dtype="float32",
        attn="sdpa",
        audio_in_video=False,
        fps=2.0,
        max_frames=2,
        video_size={},
        media_cache_gb=0,
        freeze_towers=False,
        lora=None,
        tiny=None,
        perception=None,
        seed=0,
    )


@pytest.fixture
def lora() -> LoraSettings:
    return LoraSettings(r=4, alpha=8, dropout=0.0, targets=r".*\.(q_proj|v_proj)")


@pytest.fixture
def text_trainer(text_model: ModelConfig, words: Processor, tmp_path: Path) -> MakeTrainer:
    """Makes a trainer over six remarks and a fresh text model; `hard` names the stuck ones."""

    def make(hard=(), model=None, processor=None, hint=None, callbacks=(), **settings) -> HintGRPOTrainer:
        base = base_checkpoint(text_model)
        task = ArbitraryRemarks()
        task.hard = frozenset(hard)
        trainer = make_trainer(
            "rl",
            model if model is not None else load_model(text_model, base, train=True),
            processor or toys.brief(words),
            task,
            remarks(),
            tmp_path,
            rl_config(**settings),
            hint or hint_config(),
            weights(),
            {},
            tmp_path / "rl",
            0,
            list(callbacks),
        )
        return trainer

    return make


@pytest.fixture(scope="session")
def arbitrary_studio(studio: Studio) -> ArbitraryStudio:
    """The studio of `studio_data`, graded arbitrarily; the records of even number are hard."""
    counts = studio.counts
    task = ArbitraryStudio(
        name=studio.name,
        views=list(studio.views),
        grammar="dc",
        train=counts["train"],
        dev=counts["dev"],
        test=counts["test"],
        conflict=studio.conflict,
        seed=studio.seed,
    )
    task.hard = frozenset(r.uid for r in task.records() if int(r.uid[-5:]) % 2 == 0)
    return task


@pytest.fixture(scope="session")
def brief(tiny) -> Processor:
    """The tiny omni model's processor with many ends; shared, so that clips are encoded once in all tests."""
    _, _, processor = tiny
    return toys.brief(processor)


@pytest.fixture
def omni_trainer(
    tiny, brief: Processor, studio_data: Dataset, arbitrary_studio: ArbitraryStudio, tmp_path: Path
) -> MakeTrainer:
    """Makes a trainer over four clips (two of them hard) and a fresh tiny omni model."""
    cfg, _, _ = tiny

    def make(hint=None, model=None, processor=None, task=None, callbacks=(), **settings) -> HintGRPOTrainer:
        return make_trainer(
            "rl",
            model if model is not None else load_model(cfg, base_checkpoint(cfg), train=True),
            processor or brief,
            task or arbitrary_studio,
            studio_data.split("train")[:4],
            studio_data.root,
            rl_config(**settings),
            hint or hint_config(),
            weights(),
            {},
            tmp_path / "rl",
            0,
            list(callbacks),
        )

    return make


@pytest.fixture
def text_job(text_model: ModelConfig, tmp_path: Path) -> Callable[..., Job]:
    def make(hard=(), **settings) -> Job:
        task = ArbitraryRemarks()
        task.hard = frozenset(hard)
        settings = {"prompts": 1, "max_steps": 2, "parity_tolerance": 100.0, "loss": "dapo"} | settings
        return Job(text_model, task, remarks()[:4], Path("."), tmp_path, settings)

    return make


@pytest.fixture
def omni_job(tiny, studio_data, arbitrary_studio, tmp_path: Path) -> Callable[..., Job]:
    """Words alone and a film with sound: whichever rank has the words has no gradient for the towers."""

    def make(**settings) -> Job:
        film, words = studio_data.split("train")[:2]
        records = [film, replace(words, views={"text": words.views["text"]})]
        settings = {"prompts": 1, "max_steps": 2, "parity_tolerance": 100.0, "parity_every": 1} | settings
        return Job(tiny[0], arbitrary_studio, records, studio_data.root, tmp_path, settings)

    return make
