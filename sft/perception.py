"""Perception: what stands in for pretraining of the tiny model, and is named for what it is.

A real checkpoint hears pitch and sees a smile before anybody teaches it sentiment. The tiny one is random, so when it is
built it is trained for a few minutes to *caption cues* of rendered clips ("words up, voice down, face flat"): cues drawn
independently of each other, from speakers of another seed, with no sentiment in the captions. The result is cached and is
a base checkpoint like any other.

    python -m sft.perception            # builds it for conf/model/tiny_omni.yaml
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig

from models.load import ModelConfig, base_checkpoint, cache_folder, load_model, load_processor
from runtime.config import section
from runtime.errors import StageError
from runtime.files import digest
from runtime.main import verb
from runtime.run import finished, run_stage
from runtime.seeds import seed_everything
from sft.config import SFTConfig
from sft.train import Example, train
from tasks.studio.task import Studio, caption

QUESTION = "What do words, voice and face do?"

SEED = 1000
"""Added to the model's seed, so that no speaker of the studio is heard before its own training."""

FORMAT = 2
"""Raised when the stage itself changes, so that old caches are not used."""


def base_model(cfg: ModelConfig) -> Path | str:
    """The checkpoint that a cold start begins from; for the tiny model, after perception (built once, then cached)."""
    base = base_checkpoint(cfg)
    if cfg.perception is None:
        return base
    settings = cfg.perception
    made_from = {
        "base": Path(base).name,
        "perception": vars(settings),
        "media": [cfg.audio_in_video, cfg.fps, cfg.max_frames, dict(cfg.video_size)],
        "dtype": cfg.dtype,
        "format": FORMAT,
    }
    folder = cache_folder() / f"tiny_omni-perception-{digest(made_from)}"
    folder.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not finished(folder):
        raise StageError(
            f"perception: the tiny model has not been taught to perceive yet ({folder}), which one process does once for all; run "
            "`python -m sft.perception` with the same settings first"
        )
    stage = SFTConfig(
        init=None,
        chains=None,
        max_steps=settings.steps,
        batch=settings.batch,
        accumulation=1,
        lr=settings.lr,
        warmup=0.05,
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        packing=True,
        holdout=0.0,
        eval_every=settings.steps,
        save_every=100,
        log_every=50,
    )

    def work() -> dict[str, Any]:
        seed_everything(cfg.seed)
        clips = Studio(
            name="perception",
            views=("video", "audio", "text"),
            grammar="dc",
            train=settings.clips,
            dev=0,
            test=0,
            conflict=None,
            seed=SEED + cfg.seed,
        )
        data = clips.dataset(folder / "data")
        examples = []
        for record in data.records:
            (turn,) = clips.prompt(record, data.root)
            views = [part for part in turn["content"] if "path" in part or "view" in part]
            messages = [{**turn, "content": [*views, {"type": "text", "text": QUESTION}]}]
            examples.append(Example(messages, caption(record)))
        processor = load_processor(cfg, base)
        # all weights, whatever is trained later: an adapter or frozen towers on random weights would perceive nothing
        model = load_model(replace(cfg, lora=None, freeze_towers=False), base, train=True)
        return train("perception", model, processor, examples, [], stage, folder, cfg.seed)

    with FileLock(str(folder) + ".lock"):  # members of a sweep wait for the first one
        run_stage(folder, made_from, {}, work)
    return folder / "final"


@verb("sft")
def main(cfg: DictConfig) -> None:
    """Build the base model and print where it is."""
    print(base_model(section(cfg, "model", ModelConfig)))


if __name__ == "__main__":
    main()
