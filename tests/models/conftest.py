"""Clips and prompts of every kind that a prompt can be of."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import Case
from mediafiles import tone, write_mp4, write_sound
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from models.load import ModelConfig, base_checkpoint, load_model
from models.processor import MediaSettings, Processor
from models.tiny import CORPUS, EOS, PAD, build_tokenizer


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sounds and two videos with a track, called 0 and 1; 0 is the longer one."""
    folder = tmp_path_factory.mktemp("clips")
    for i, seconds in enumerate((2.0, 1.0)):
        write_sound(folder / f"{i}.wav", tone(0.65 * seconds, hz=200 + 90 * i))
        write_mp4(folder / f"{i}.mp4", frames=round(12 * seconds), fps=12, sound=tone(seconds, hz=300 - 50 * i))
    return folder


@pytest.fixture(scope="session")
def llama() -> tuple[LlamaForCausalLM, Processor]:
    """A random text-only model; shared, so read only."""
    tokenizer = build_tokenizer(CORPUS)
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    tokenizer.chat_template = "{% for m in messages %}" + turn + "{% endfor %}<|im_start|>assistant\n"
    ids = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval(), Processor(tokenizer, MediaSettings(False, 4.0, 8, {}))


@pytest.fixture
def fresh(tiny: tuple[ModelConfig, torch.nn.Module, Processor]) -> PreTrainedModel:
    """A tiny omni model that a test may change."""
    cfg, _, _ = tiny
    model = load_model(cfg, base_checkpoint(cfg), train=False).eval()
    assert isinstance(model, PreTrainedModel)
    return model


@pytest.fixture
def case(
    tiny: tuple[ModelConfig, torch.nn.Module, Processor], fresh: PreTrainedModel, llama, clips: Path
) -> Callable[[str], Case]:
    """Makes a case of one of KINDS."""

    def make(kind: str) -> Case:
        real = tiny[2].processor
        size = {"shortest_edge": 3136, "longest_edge": 200704}
        processor = Processor(real, MediaSettings(kind == "video with sound", 4.0, 8, size))
        model = fresh
        if kind == "text model":
            model, processor = copy.deepcopy(llama[0]), llama[1]
        prompts = []
        for i, question in enumerate(("How does the speaker feel, from -3 to 3?", "What does the voice do?")):
            view = "audio" if kind == "audio" else "video" if "video" in kind else None
            ending = {"audio": "wav", "video": "mp4"}
            parts = [{"type": view, "path": str(clips / f"{i}.{ending[view]}"), "span": None}] if view else []
            content = [*parts, {"type": "text", "text": question}]
            prompts.append(processor.encode([{"role": "user", "content": content}]))
        assert len(prompts[0].ids) > len(prompts[1].ids)
        return Case(model, processor, (prompts[0], prompts[1]))

    return make
