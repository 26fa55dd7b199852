"""What every benchmark looks at: clips of a moving bar under a tone, one question, and a random thinker.

At full size an 8 s clip is 632 media tokens (8 x 54 of 16 frames, 200 of sound) and the whole prompt 716.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from models import tiny
from models.processor import Encoded, MediaSettings, Processor
from tasks.base import PARTS, Message, Score, Task
from tasks.record import Media, Record
from tasks.target import Scalar, Target

RATE = 16_000
CLIP_FPS = 8
HEIGHT, WIDTH = 168, 252
"""Pixels; 54 tokens for two frames."""
SETTINGS = MediaSettings(True, 2.0, 64, {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28})
QUESTION = (
    "How does the speaker feel, from -3 to 3? What do words, voice and face do? First the direction: negative, neutral or "
    "positive. Then the strength, the cues that raise or lower it."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    shape: tiny.TinyShape
    vocabulary: int
    """Rows of embedding and head; the tokenizer knows fewer, as that of the real checkpoint does."""
    seconds: tuple[float, float, float]
    """Clip lengths: short, the one of every other benchmark, long."""
    prompts: int
    """B of a training step."""
    group: int
    completion: int
    hint: int
    """Tokens of a hint."""
    batch: tuple[int, int, int]
    """Samples with a short, a usual and a long clip in a batch of SFT."""
    steps: int
    """Optimizer steps of a run of the trainer; the third and later ones are timed."""
    repeats: int


FULL = Size(
    tiny.TinyShape(width=256, layers=4, tower_width=64, tower_layers=2, max_audio_s=30),
    vocabulary=4096,
    seconds=(2.0, 8.0, 16.0),
    prompts=2,
    group=8,
    completion=120,
    hint=32,
    batch=(4, 3, 1),
    steps=7,
    repeats=5,
)
SMOKE = Size(
    tiny.TinyShape(width=64, layers=2, tower_width=32, tower_layers=2, max_audio_s=30),
    vocabulary=640,
    seconds=(1.0, 1.5, 2.0),
    prompts=2,
    group=2,
    completion=5,
    hint=3,
    batch=(1, 1, 1),
    steps=3,
    repeats=1,
)


def write_clip(path: Path, seconds: float, number: int) -> None:
    """A bright bar that wanders over a ground that brightens, with a tone; `number` changes bar and tone."""
    frames = round(seconds * CLIP_FPS)
    t = np.arange(round(seconds * RATE)) / RATE
    tone = (0.2 * np.sin(2 * np.pi * (220 + 20 * number) * t) * (1 + 0.5 * np.sin(2 * np.pi * t))).astype(np.float32)
    with av.open(str(path), "w") as box:
        film = box.add_stream("mpeg4", rate=CLIP_FPS)
        film.width, film.height, film.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        track = box.add_stream("aac", rate=RATE, layout="mono")
        for i in range(frames):
            image = np.full((HEIGHT, WIDTH, 3), 9 * i % 255, np.uint8)
            left = (5 * i + 30 * number) % (WIDTH - 20)
            image[30:90, left : left + 20] = (0, 255, 40 * number % 255)
            box.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        box.mux(film.encode())
        block = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = RATE, 0
        box.mux(track.encode(block))
        box.mux(track.encode())


class Watch(Task):
    """Clips to be judged. A random model never writes an answer, so any text earns something, and rewards differ."""

    def __init__(self) -> None:
        super().__init__(name="watch", views=["video"])

    def prepare(self, folder: Path) -> Path:
        raise NotImplementedError("the benchmarks make their own records")

    def question(self, record: Record) -> str:
        return QUESTION

    def score(self, record: Record, completion: str) -> Score:
        """Share of the characters that are new, in every part."""
        return Score(dict.fromkeys(PARTS, len(set(completion)) / max(1, len(completion))), None, None)

    def metrics(self, gold: Sequence[Target], answers: Sequence[Target | None]) -> dict[str, float]:
        return {}

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> list[Target]:
        return [r.target for r in test]


@dataclass(frozen=True, slots=True)
class Scene:
    """A model and what it is shown."""

    size: Size
    folder: Path
    """Holds the clips, and whatever a benchmark writes."""
    task: Task
    processor: Processor
    """Its `forbidden_ids` hold the end token too, so that every completion has full length."""
    model: PreTrainedModel
    """In training mode, towers frozen; patch a copy."""

    def record(self, number: int, seconds: float) -> Record:
        """One clip, written when it is first asked for."""
        name = f"{number}-{seconds:g}s.mp4"
        if not (self.folder / name).is_file():
            write_clip(self.folder / name, seconds, number)
        views = {"video": Media("video", name)}
        return Record(
            uid=name, task=self.task.name, split="train", group=name, views=views, target=Scalar(1, -3, 3, 0.2)
        )

    def messages(self, number: int, seconds: float) -> list[Message]:
        """The prompt about one clip."""
        return self.task.prompt(self.record(number, seconds), self.folder)

    def prompt(self, seconds: float, number: int = 0) -> Encoded:
        """The same, encoded."""
        return self.processor.encode(self.messages(number, seconds))

    def completions(self, rows: int) -> torch.Tensor:
        """(rows, C) plain tokens: the first `group` rows, over and over."""
        draw = torch.Generator().manual_seed(0)
        few = torch.randint(260, 600, (self.size.group, self.size.completion), generator=draw)
        return few.repeat(-(-rows // len(few)), 1)[:rows].to(self.model.device)


def freeze_towers(model: PreTrainedModel) -> None:
    """As `model.freeze_towers=true` does."""
    for name in ("audio_tower", "visual"):
        model.base_model.get_submodule(name).requires_grad_(False)


def never_ending(processor: Processor) -> Processor:
    """One whose completions all reach the full length."""
    endless = Processor(processor.processor, processor.settings)
    endless.forbidden_ids = [*endless.forbidden_ids, *endless.eos_ids]
    return endless


def make_scene(size: Size, folder: Path) -> Scene:
    """The scene with a tiny thinker on the CPU."""
    tokenizer = tiny.build_tokenizer(tiny.CORPUS)
    model = tiny.build_model(tokenizer, size.shape, seed=0)
    model.resize_token_embeddings(size.vocabulary, mean_resizing=False)
    return scene_of(model, tokenizer, size, folder)


def scene_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, size: Size, folder: Path) -> Scene:
    """The scene with a given thinker."""
    freeze_towers(model)
    processor = Processor(tiny.build_processor(tokenizer, size.shape.max_audio_s), SETTINGS)
    return Scene(size, folder, Watch(), never_ending(processor), model.train())
