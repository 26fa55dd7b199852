"""Whole GRPO steps of two trainers from one seed: media, sampling, grading, loss, backward, optimizer.

Both train a copy of one model with one set of TRL settings on the same prompts, which are drawn in the same order. Every
step shows clips that no step before it showed, so that ours, too, has to read and encode them. The parity gate looks at the
first step and every `rl.parity_every` later ones; the first two steps are not timed.
"""

import copy
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from datasets import Dataset as HFDataset
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from benchmarks.naive import NaiveGRPOTrainer
from benchmarks.scene import Scene
from benchmarks.timing import LOGPS, Clock, Comparison, Limit, Result, Timing, largest, relative
from evaluation.grading import RewardConfig
from models.engine import hf
from models.engine.hf import draw
from rewards.total import reward
from rl.config import HintConfig, RLConfig
from rl.trainer import HintGRPOTrainer, make_trainer
from runtime.config import section
from runtime.main import CONF

LIMITS = {
    "logps": LOGPS,
    "reward": Limit(largest, 1e-6),
    "loss": Limit(largest, 1e-6),
    "grad_norm": Limit(relative, 1e-5),
}
"""Of the first step: log-probabilities in the loss, and what was logged. The loss itself says little, being 0 where a policy
has not moved since it sampled and all completions are of one length."""
WARM = 2
"""Steps that are not timed."""
WHOLE = "whole"
PHASES = ("sampling, media, reward", "loss, forward", "loss, backward")
"""What remains is the optimizer, and what a trainer does besides."""


def _as_generate(probs_NV: torch.Tensor) -> torch.Tensor:
    """What transformers' `generate` draws from the same seed."""
    return torch.multinomial(probs_NV, 1)


class Stopwatch(TrainerCallback):
    """Seconds of every optimizer step, as a whole and by phase; each step starts from a seed of its own.

    In the first, which is compared and not timed, both trainers draw alike.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.steps: list[dict[str, float]] = []
        self.logps: torch.Tensor | None = None
        """(N, C) of the first loss; rows in order of their first number, because trainers shuffle them."""
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the watch."""
        torch.manual_seed(state.global_step)
        hf.draw = _as_generate if state.global_step == 0 else draw
        self.steps.append(dict.fromkeys((WHOLE, *PHASES), 0.0))
        self._start = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop it, after the optimizer."""
        self.steps[-1][WHOLE] = self.clock() - self._start

    def follow(self, trainer: GRPOTrainer) -> None:
        """Time the phases of a trainer that has this callback."""

        def timed(phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                start = self.clock()
                out = work(*args, **kwargs)
                self.steps[-1][phase] += self.clock() - start
                return out

            return wrapped

        sampling, forward, backward = PHASES
        trainer._generate_and_score_completions = timed(sampling, trainer._generate_and_score_completions)
        trainer.compute_loss = timed(forward, trainer.compute_loss)
        trainer.accelerator.backward = timed(backward, trainer.accelerator.backward)
        score = trainer._get_per_token_logps_and_entropies

        def noted(*args: Any, **kwargs: Any) -> Any:
            out = score(*args, **kwargs)
            if self.logps is None and torch.is_grad_enabled():
                self.logps = out[0].detach()[out[0][:, 0].argsort()]
            return out

        trainer._get_per_token_logps_and_entropies = noted

    def median(self, phase: str) -> float:
        """Of the steps after the first two."""
        return median(step[phase] for step in self.steps[WARM:])


def config(scene: Scene) -> DictConfig:
    """The project's own settings, sized for the scene."""
    size = scene.size
    changes = {
        "hint": "none",
        "reward": "default",
        "rl.max_steps": size.steps,
        "rl.prompts": size.prompts,
        "rl.group": size.group,
        "rl.max_new_tokens": size.completion,
        "rl.temperature": 1.0,
        "rl.loss": "dr_grpo",
        "rl.scale": "none",
        "rl.beta": 0.0,  # no reference model
        "rl.lr": 1e-4,
        "rl.parity_every": 1000,
        "rl.eval_every": 0,
        "rl.save_every": 1000,
    }
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("rl", [f"{key}={value}" for key, value in changes.items()])


def ours(scene: Scene, watch: Stopwatch, ranks: int = 1) -> HintGRPOTrainer:
    """The trainer of `python -m rl`, hints off, with as many prompts for each rank as for one."""
    cfg, size = config(scene), scene.size
    records = [scene.record(i, size.seconds[1]) for i in range(size.steps * size.prompts * ranks)]
    return make_trainer(
        "bench",
        copy.deepcopy(scene.model),
        scene.processor,
        scene.task,
        records,
        scene.folder,
        section(cfg, "rl", RLConfig),
        section(cfg, "hint", HintConfig),
        section(cfg, "reward", RewardConfig),
        {},
        scene.folder / "rl",
        0,
        [watch],
    )


def naively(scene: Scene, watch: Stopwatch, like: HintGRPOTrainer) -> NaiveGRPOTrainer:
    """The naive port, with the settings and the prompts of `like`."""
    records, weights = like.record_of, like.reward_weights_by_part
    trainer = NaiveGRPOTrainer(
        copy.deepcopy(scene.model),
        copy.deepcopy(like.args),
        processor=scene.processor,
        messages={uid: scene.task.prompt(record, scene.folder) for uid, record in records.items()},
        grade=lambda uid, text: reward(scene.task.score(records[uid], text).parts, weights),
        train_dataset=HFDataset.from_dict({"prompt": list(records)}),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def first_step(trainer: GRPOTrainer, watch: Stopwatch) -> Result:
    """What LIMITS compares."""
    assert watch.logps is not None
    row = next(row for row in trainer.state.log_history if "loss" in row)
    logged = {name: torch.tensor([row[name]]) for name in LIMITS if name != "logps"}
    return logged | {"logps": watch.logps}


def whole_step(scene: Scene, clock: Clock = time.process_time) -> list[Timing]:
    """Run both trainers.

    Returns:
        Median seconds of a step after the first two: of the whole step, then of its phases.
    """
    watches = {name: Stopwatch(clock) for name in ("naive port", "ours")}
    our_trainer = ours(scene, watches["ours"])
    trainers = {"naive port": naively(scene, watches["naive port"], our_trainer), "ours": our_trainer}
    first: dict[str, Result] = {}
    for name, trainer in trainers.items():
        watches[name].follow(trainer)
        trainer.train()
        first[name] = first_step(trainer, watches[name])
    distances = Comparison("whole step", {name: lambda r=r: r for name, r in first.items()}, LIMITS).check()
    return [
        Timing(name, {way: watch.median(phase) for way, watch in watches.items()}, distances)
        for name, phase in ((f"GRPO step, B = {scene.size.prompts}", WHOLE), *((f"- {p}", p) for p in PHASES))
    ]
