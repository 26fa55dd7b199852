"""Real vLLM on the tiny omni model. `make test-vllm` has an environment of its own; elsewhere these tests are skipped."""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import av
import pytest
import torch
from transformers import PreTrainedModel
from vllm_cases import QUESTIONS, SETTINGS, VIEWS

from models.engine.config import EngineConfig, VLLMSettings, make_engine
from models.load import ModelConfig, base_checkpoint, load_model
from models.processor import Encoded, MediaSettings, Processor
from tests.models.mediafiles import tone, write_mp4, write_sound


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say so where vLLM is missing."""
    if find_spec("vllm") is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed here; make test-vllm"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sounds, two pictures, two videos with a track; 0 is the longer one, and lasts for more than one chunk of 2 s."""
    folder = tmp_path_factory.mktemp("clips")
    for i, seconds in enumerate((2.5, 1.0)):
        write_sound(folder / f"{i}.wav", tone(0.65 * seconds, hz=200 + 90 * i))
        write_mp4(folder / f"{i}.mp4", frames=round(8 * seconds), fps=8, sound=tone(seconds, hz=300 - 50 * i))
        pixels = torch.randint(
            256, (80 + 16 * i, 112, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8
        )
        with av.open(str(folder / f"{i}.png"), "w", format="image2") as box:
            stream = box.add_stream("png", rate=1)
            stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "rgb24"
            box.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24")))
            box.mux(stream.encode(None))
    return folder


@pytest.fixture(scope="session")
def processor_of(tiny: tuple[ModelConfig, torch.nn.Module, Processor]) -> Callable[[str], Processor]:
    """The processor for one of VIEWS: with or without sound in videos."""

    def make(kind: str) -> Processor:
        size = {"shortest_edge": 3136, "longest_edge": 200704}
        return Processor(tiny[2].processor, MediaSettings("with sound" in kind, 4.0, 12, size))

    return make


@pytest.fixture(scope="session")
def prompts_of(clips: Path, processor_of: Callable[[str], Processor]) -> Callable[[str], list[Encoded]]:
    """Two prompts of one of VIEWS, of different length."""
    ending = {"audio": "wav", "video": "mp4", "image": "png"}

    def make(kind: str) -> list[Encoded]:
        prompts = []
        for i, question in enumerate(QUESTIONS):
            parts = [
                {"type": view, "path": str(clips / f"{(i + j) % 2}.{ending[view]}"), "span": None}
                for j, view in enumerate(VIEWS[kind])
            ]
            content = [*parts, {"type": "text", "text": question}]
            prompts.append(processor_of(kind).encode([{"role": "user", "content": content}]))
        assert len(prompts[0].ids) != len(prompts[1].ids)
        return prompts

    return make


@pytest.fixture
def fresh(tiny: tuple[ModelConfig, torch.nn.Module, Processor]) -> PreTrainedModel:
    """A tiny omni model that a test may change."""
    model = load_model(tiny[0], base_checkpoint(tiny[0]), train=False).eval()
    assert isinstance(model, PreTrainedModel)
    return model


@pytest.fixture(scope="session")
def started(tiny: tuple[ModelConfig, torch.nn.Module, Processor]):
    """One vLLM in this process, for all tests."""
    cfg, model, processor = tiny
    section = EngineConfig("vllm", VLLMSettings(**SETTINGS))
    checkpoint = base_checkpoint(cfg)
    assert isinstance(checkpoint, Path)
    return make_engine(section, cfg, checkpoint, Path("unused"), 0, model, processor)


@pytest.fixture
def engine(started, tiny: tuple[ModelConfig, torch.nn.Module, Processor]):
    """That vLLM with the tiny model's weights, and nothing in its caches."""
    own = copy.copy(started)
    own._step, own.prompt_tokens, own.cached_tokens = None, 0, 0
    own.follow(tiny[1], 0)
    return own


@pytest.fixture
def moved(fresh):
    """The tiny model after a step in every weight."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in fresh.parameters():
            weight += 0.2 * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0
    return fresh
