"""Studio: sentiment of short rendered clips that needs words, voice and face at once.

    label = clip(0.8 * words + 1.0 * voice + 1.2 * face, -3, 3), each cue in {-1, 0, +1}

In a *conflict* clip the words say one thing and voice and face the other. Everything follows from the seed: a clip is drawn
from `default_rng([seed, split, index])`, so the test clips do not depend on how many training clips there are.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import ConfigError
from runtime.run import run_stage
from tasks.base import Task
from tasks.metrics.regression import regression_metrics
from tasks.record import SPLITS, Media, Record, write_records
from tasks.studio import render
from tasks.target import Scalar, Target

WEIGHTS = {"words": 0.8, "voice": 1.0, "face": 1.2}
LO, HI, NEUTRAL = -3.0, 3.0, 0.2
CAST = {"train": range(16), "dev": range(16, 18), "test": range(18, 24)}
"""Numbers of the speakers of each split; no speaker is heard in two."""
CUE_SHARE = 0.7
"""How likely a cue is to be there at all."""
NEUTRAL_SHARE = 0.08
"""Share of clips without conflict in which no cue is there."""
DIRECTION = {-1: "down", 0: "flat", 1: "up"}


class Studio(Task):
    """The built-in task.

    Args:
        name, views, grammar: as in `Task`; the views are `text`, `audio` (wav) and `video` (mp4 with the same sound).
        train, dev, test: how many clips each split has.
        conflict: share of clips in [0, 1] whose words contradict voice and face; None draws every cue by itself.
        seed: of everything.

    Raises:
        ConfigError: for a negative count or a share outside [0, 1].
    """

    def __init__(
        self,
        *,
        name: str,
        views: Sequence[str],
        grammar: str,
        train: int,
        dev: int,
        test: int,
        conflict: float | None,
        seed: int,
    ) -> None:
        super().__init__(name=name, views=views, grammar=grammar)
        self.counts = {"train": train, "dev": dev, "test": test}
        if min(self.counts.values()) < 0:
            raise ConfigError(f"task.train, dev, test: counts are 0 or more; got {self.counts}; mend the config")
        if conflict is not None and not 0 <= conflict <= 1:
            raise ConfigError(f"task.conflict: a share in [0, 1], or null; got {conflict!r}; mend the config")
        self.conflict, self.seed = conflict, seed

    def prepare(self, folder: Path) -> Path:
        """Render `folder/clips/*.{wav,mp4}`, then write `folder/records.jsonl`; clips that are there are kept.

        Raises:
            StageError: when `folder` holds clips of other settings.
        """
        settings = {"name": self.name, "counts": self.counts, "conflict": self.conflict, "seed": self.seed}

        def work() -> dict[str, Any]:
            records = self.records()
            for record in records:
                self._render(folder, record)
            write_records(folder / "records.jsonl", records)
            return {"clips": len(records)}

        run_stage(folder / "clips", settings, {}, work)
        return folder

    def records(self) -> list[Record]:
        """All records; nothing is rendered."""
        return [self._record(split, index) for split in SPLITS for index in range(self.counts[split])]

    def _record(self, split: str, index: int) -> Record:
        rng = np.random.default_rng([self.seed, SPLITS.index(split), index])
        conflict = self.conflict is not None and bool(rng.uniform() < self.conflict)
        cues = draw_cues(conflict, rng) if self.conflict is not None else draw_independent_cues(rng)
        number = int(rng.choice(CAST[split]))
        uid = f"{self.name}-{split}-{index:05d}"
        return Record(
            uid=uid,
            task=self.name,
            split=split,
            group=f"speaker-{number:02d}",
            views={
                "text": render.sentence(cues["words"], rng),
                "audio": Media("audio", f"clips/{uid}.wav"),
                "video": Media("video", f"clips/{uid}.mp4"),
            },
            target=Scalar(intensity(cues), LO, HI, NEUTRAL),
            meta={"conflict": conflict, "cues": cues},
        )

    def _render(self, folder: Path, record: Record) -> None:
        wav, mp4 = folder / "clips" / f"{record.uid}.wav", folder / "clips" / f"{record.uid}.mp4"
        if mp4.is_file():  # written last
            return
        index = int(record.uid.rpartition("-")[2])
        rng = np.random.default_rng([self.seed, SPLITS.index(record.split), index, 1])
        speaker = render.make_speaker(self.seed, int(record.group.removeprefix("speaker-")))
        sound = render.sound(speaker, record.meta["cues"]["voice"], rng)
        frames = render.frames(speaker, record.meta["cues"]["face"], rng)
        render.write_bytes(wav, render.wav_bytes(sound))
        render.write_bytes(mp4, render.mp4_bytes(frames, sound))

    def question(self, record: Record) -> str:
        """Short, so that the prompt of the tiny model stays short."""
        return "How does the speaker feel, from -3 to 3?"

    def metrics(self, gold: Sequence[Target], answers: Sequence[Target | None]) -> dict[str, float]:
        """MAE, Corr, Acc-2, Acc-7, F1 as for CMU-MOSI, with the neutral zone of the target."""
        return regression_metrics(
            [_x(t) for t in gold],
            [None if t is None else _x(t) for t in answers],
            lo=LO,
            hi=HI,
            neutral=NEUTRAL,
            scheme="mosi",
        )

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> list[Target]:
        """The mean label of the training clips."""
        return _conditional_mean(train, test, lambda cues: ())


def draw_cues(conflict: bool, rng: np.random.Generator) -> dict[str, int]:
    """The latent cues of one clip: one sign for all that are there, except that in a conflict the words have the other sign."""
    sign = int(rng.choice((-1, 1)))
    if not conflict and rng.uniform() < NEUTRAL_SHARE:
        return dict.fromkeys(WEIGHTS, 0)
    drawn = ("voice", "face") if conflict else ("words", "voice", "face")
    while True:
        cues = {name: sign * int(rng.uniform() < CUE_SHARE) for name in drawn}
        if any(cues.values()):
            return ({"words": -sign} if conflict else {}) | cues


def draw_independent_cues(rng: np.random.Generator) -> dict[str, int]:
    """Cues that say nothing about each other, so that each has to be perceived by itself."""
    return {name: int(rng.integers(-1, 2)) for name in WEIGHTS}


def intensity(cues: Mapping[str, int]) -> float:
    """The label of a clip, in [-3, 3] with one decimal."""
    return round(min(max(sum(WEIGHTS[name] * cues[name] for name in WEIGHTS), LO), HI), 1) + 0.0


def caption(record: Record) -> str:
    """What can be perceived, without what it means: "words up, voice down, face flat"."""
    return ", ".join(f"{name} {DIRECTION[record.meta['cues'][name]]}" for name in WEIGHTS)


def oracles(train: Sequence[Record], test: Sequence[Record]) -> dict[str, list[Target]]:
    """What perfect perception of one modality, or of all three, would answer: the mean training label given the cues.

    Returns:
        Answers to `test` under "text", "audio", "video" and "all three". Cues that never occur in `train` get its mean.
    """
    sees = {"text": ("words",), "audio": ("voice",), "video": ("face",), "all three": ("words", "voice", "face")}
    return {
        name: _conditional_mean(train, test, lambda cues, names=names: tuple(cues[n] for n in names))
        for name, names in sees.items()
    }


def _x(target: Target) -> float:
    assert isinstance(target, Scalar)
    return target.x


def _conditional_mean(
    train: Sequence[Record], test: Sequence[Record], key: Callable[[Mapping[str, int]], tuple[int, ...]]
) -> list[Target]:
    overall = float(np.mean([_x(r.target) for r in train]))
    by_key: dict[tuple[int, ...], list[float]] = {}
    for record in train:
        by_key.setdefault(key(record.meta["cues"]), []).append(_x(record.target))
    means = (float(np.mean(by_key.get(key(r.meta["cues"]), overall))) for r in test)
    return [Scalar(round(mean, 2), LO, HI, NEUTRAL) for mean in means]
