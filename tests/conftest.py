"""Shared fixtures. Real data is looked for, never downloaded; tests that need it skip with the reason."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

    from models.load import ModelConfig
    from models.processor import Processor
    from tasks.base import Dataset
    from tasks.studio.task import Studio

ROOT = Path(__file__).parents[1]

settings.register_profile(
    "undertone", deadline=None, derandomize=True
)  # the same examples everywhere, on slow machines too
settings.load_profile("undertone")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real corpora."""
    named = os.environ.get("UNDERTONE_DATA")
    places = [Path(named)] if named else [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
    for place in places:
        if (place / "README.md").is_file():
            return place
    pytest.skip("real data not found; set UNDERTONE_DATA to the folder that holds its README")


# The heavy fixtures import what they need by themselves, so that a test of plain arithmetic does not wait for torch.


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """UNDERTONE_CACHE for the rest of the session: nothing is built in, or taken from, the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERTONE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny(cache: Path) -> "tuple[ModelConfig, torch.nn.Module, Processor]":
    """A random tiny omni model in evaluation mode. It is shared: load another one to train or patch it (`load_model`)."""
    from models.load import ModelConfig, base_checkpoint, load_model, load_processor
    from models.tiny import TinyShape

    cfg = ModelConfig(
        name="tiny_omni",
        family="omni",
        source="tiny_omni",
        dtype="float32",
        attn="sdpa",
        audio_in_video=True,
        fps=4.0,
        max_frames=8,
        video_size={"shortest_edge": 6272, "longest_edge": 200704},
        media_cache_gb=1,
        freeze_towers=False,
        lora=None,
        tiny=TinyShape(width=64, layers=2, tower_width=32, tower_layers=2, max_audio_s=30),
        perception=None,
        seed=0,
    )
    base = base_checkpoint(cfg)
    return cfg, load_model(cfg, base, train=False).eval(), load_processor(cfg, base)


@pytest.fixture(scope="session")
def studio() -> "Studio":
    """The built-in task with few clips."""
    from tasks.studio.task import Studio

    return Studio(
        name="studio",
        views=["video", "audio", "text"],
        grammar="dc",
        train=16,
        dev=4,
        test=8,
        conflict=0.4,
        seed=0,
    )


@pytest.fixture(scope="session")
def studio_data(studio: "Studio", tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """Its rendered records: 16 train, 4 dev, 8 test. Shared, like `tiny`: read only."""
    return studio.dataset(tmp_path_factory.mktemp("studio"))
