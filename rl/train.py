"""The reinforcement stage: train (or go on), and write the policy."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evaluation.grading import RewardConfig
from models.engine.base import MakeEngine
from models.engine.hf import HFEngine
from models.processor import Processor
from rl.alarm import farming, pays_canaries
from rl.config import HintConfig, RLConfig
from rl.trainer import HintGRPOTrainer, make_trainer
from runtime.cluster import PLAIN, ClusterConfig
from runtime.errors import StageError
from runtime.files import read_jsonl
from runtime.logs import MetricsCallback
from runtime.signals import StopTogether
from runtime.trackers.tracker import Tracker
from tasks.base import Grade, Task
from tasks.record import Record

MeasureDev = Callable[[torch.nn.Module, Path | None], dict[str, float]]
"""Unhinted metrics of a policy on the dev records, and a file for its answers."""


class Evaluate(TrainerCallback):
    """Unhinted metrics on the dev records while training, in the log as `dev/...`; the answers, in `dev/step_*.jsonl`.

    With a warning where they say that the reward is being farmed.
    """

    def __init__(self, every: int, measure: MeasureDev, trainer: HintGRPOTrainer, folder: Path) -> None:
        self.every = every
        self.measure = measure
        self.trainer = trainer
        self.folder = folder

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure after every `every` steps, and after the last."""
        step = state.global_step
        if step % self.every == 0 or step == state.max_steps or self.trainer.memory.spent:
            said = self.folder / f"step_{step:06}.jsonl" if state.is_world_process_zero else None
            with self.trainer.whole() as policy:
                found = {f"dev/{name}": value for name, value in self.measure(policy, said).items()}
            for name, value in found.items():
                self.trainer.meter.add(name, value)
            for warning in (farming([*state.log_history, found]), pays_canaries(found)):
                if warning:
                    self.trainer.accelerator.print(warning, flush=True)


def train(
    model: torch.nn.Module,
    processor: Processor,
    task: Task,
    records: Sequence[Record],
    root: Path,
    cfg: RLConfig,
    hint: HintConfig,
    weights: RewardConfig,
    references: Mapping[str, str],
    folder: Path,
    seed: int,
    measure_dev: MeasureDev | None,
    engine: MakeEngine = HFEngine,
    grade: Grade | None = None,
    cluster: ClusterConfig = PLAIN,
    tracker: Tracker | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train (or go on from the newest checkpoint in `folder`) and write `folder/final`.

    Args:
        model: the policy, after the cold start.
        processor: its processor.
        task: prompts and grading.
        records: training records; their rationales are not looked at.
        root: their data root.
        cfg: settings of the stage.
        hint: whom to hint and how hinted rows count.
        weights: of the reward parts.
        references: verified chains by uid, from which some strategies take their hints; may lack any.
        folder: gets checkpoints, metrics.jsonl, rollouts/, dev/, difficulty.jsonl and final/.
        seed: of prompt order and sampling.
        measure_dev: unhinted metrics on the dev records, where there are any.
        engine: makes what samples.
        grade: scores completions; None: `task.grade`, which does not read explanations.
        cluster: how the ranks share the memory.
        tracker: gets every row of metrics.jsonl.
        callbacks: more of them, called before the policy is measured on dev.

    Returns:
        Number of steps, and what `hint_summary` and `parity_summary` make of the logged steps.

    Raises:
        StageError: when there are too few records for one step, or a signal ended the training before its last step.
        ConfigError: when the hint does not go together with the task.
        ParityError: when trainer and engine disagree, or a modality does not reach the loss.
    """
    hint.check_task(task)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if len(records) < ranks * cfg.prompts:
        each = f" on each of {ranks} ranks" if ranks > 1 else ""
        raise StageError(
            f"rl: {len(records)} training records, one step takes rl.prompts={cfg.prompts}{each}; lower it"
        )
    shown = ("reward", "hint/stuck_rate", "solve/unhinted", "dev/polarity")
    trainer = make_trainer(
        "rl",
        model,
        processor,
        task,
        records,
        root,
        cfg,
        hint,
        weights,
        references,
        folder,
        seed,
        [MetricsCallback(folder / "metrics.jsonl", "rl", shown, tracker), *callbacks],
        engine,
        grade,
        cluster,
    )
    if cfg.eval_every and measure_dev:
        trainer.add_callback(Evaluate(cfg.eval_every, measure_dev, trainer, folder / "dev"))
    trainer.add_callback(StopTogether(cfg.iterations))  # the last: a signal may come during the evaluation
    processor.prefetch(task.prompt(record, root) for record in records)
    trainer.go_on(folder / "checkpoints")
    if not trainer.finished(trainer.state):
        raise StageError(f"rl: stopped by a signal at step {trainer.state.global_step}; call the same command to go on")
    trainer.write(processor, folder / "final")
    if trainer.is_world_process_zero():
        trainer.memory.solve.export(folder / "difficulty.jsonl", records, cfg.hard_below)
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "hint/stuck_rate" in row]
    return {"steps": trainer.state.global_step, "hint": hint_summary(rows), "parity": parity_summary(rows)}


def hint_summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Means over the first and the last third of the logged steps, and over all."""
    names = ("hint/stuck_rate", "hint/rate", "hint/reliance", "solve/unhinted", "solve/hinted", "reward")
    third = max(1, len(rows) // 3)
    phases = {"all": rows, "first third": rows[:third], "last third": rows[-third:]}

    def mean(part: Sequence[dict[str, Any]], name: str) -> float | None:
        known = [row[name] for row in part if row.get(name) is not None]
        return round(fmean(known), 4) if known else None

    return {phase: {name.removeprefix("hint/"): mean(part, name) for name in names} for phase, part in phases.items()}


def parity_summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The worst engine difference and the latest modality drops that the gate saw."""
    seen = [row for row in rows if row.get("parity/logp_mean") is not None]
    if not seen:
        return {}
    drops = {k.removeprefix("parity/"): v for k, v in seen[-1].items() if k.endswith("_drop")}
    return {"checks": len(seen), "logp_mean_worst": max(row["parity/logp_mean"] for row in seen)} | drops
