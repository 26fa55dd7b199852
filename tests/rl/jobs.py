"""What a rank does by itself in the tests of several ranks: it makes a trainer from a `Job` of plain values, and trains."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from omegaconf import OmegaConf
from toys import brief, hint_config, rl_config, weights
from transformers import TrainerCallback

from models import resume
from models.engine.base import Completion
from models.engine.hf import HFEngine
from models.load import ModelConfig, base_checkpoint, load_model, load_processor, save_model
from models.processor import Processor
from rl.train import train
from rl.trainer import HintGRPOTrainer, make_trainer
from runtime.cluster import PLAIN, ClusterConfig
from runtime.errors import StageError
from runtime.files import read_jsonl
from runtime.logs import MetricsCallback
from runtime.main import CONF
from sft.config import SFTConfig
from sft.train import Example
from sft.train import make_trainer as make_sft_trainer
from tasks.base import Task
from tasks.record import Record

ROUNDING = 1e-5


@dataclass(frozen=True)
class Job:
    """What a rank needs to make a trainer of its own."""

    model: ModelConfig
    task: Task
    records: list[Record]
    root: Path
    folder: Path
    settings: dict[str, Any]
    cluster: ClusterConfig = field(default_factory=lambda: PLAIN)

    def processor(self) -> Processor:
        return brief(load_processor(self.model, base_checkpoint(self.model)))

    def fresh(self) -> torch.nn.Module:
        torch.manual_seed(7)  # a new adapter is drawn
        return load_model(self.model, base_checkpoint(self.model), train=True)

    def trainer(self, *callbacks: TrainerCallback) -> HintGRPOTrainer:
        return make_trainer(
            "rl",
            self.fresh(),
            self.processor(),
            self.task,
            self.records,
            self.root,
            rl_config(**self.settings),
            hint_config(),
            weights(),
            {},
            self.folder / "rl",
            0,
            [MetricsCallback(self.folder / "rl" / "metrics.jsonl", "rl"), *callbacks],
            cluster=self.cluster,
        )


def say_the_same_everywhere() -> None:
    """Completions that follow from prompt, sibling and hint alone: as long, and as varied, as sampled ones."""
    prefill = HFEngine.prefill

    def note(self, prompts):
        self.prompts = prompts
        return prefill(self, prompts)

    def sample(self, state, prompt_of, sampling, prefixes=None):
        said = []
        for i, b in enumerate(prompt_of):
            sibling, hint = prompt_of[:i].count(b), tuple(prefixes[i]) if prefixes else ()
            number = crc32(repr((self.prompts[b].ids.tolist(), sibling, hint)).encode())
            draw = torch.Generator().manual_seed(number)
            ids = torch.randint(5, 300, (1 + number % sampling.max_new_tokens,), generator=draw).tolist()
            said.append(Completion(tuple(ids), (-5.0,) * len(ids), False))
        return said

    HFEngine.prefill, HFEngine.sample = note, sample


class Gradients(TrainerCallback):
    """Keeps the gradient of each step as the optimizer gets it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative, over all parameters; none may be missing where the other side has something to say."""
    a, b = (
        torch.cat([g.get(n, torch.zeros_like(e)).flatten() for n, e in expected.items()]) for g in (found, expected)
    )
    assert all(not g.any() for n, g in found.items() if n not in expected)
    return ((a - b).norm() / b.norm()).item()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The log, without what is of the machine or of the start of a process."""
    rows = read_jsonl(folder / "rl" / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(("speed/", "step_time", "scoring/"))} for row in rows]


ROUNDING = 1e-5


def whole_stage(job: Job, stop_at: int | None) -> tuple[str, list[int]]:
    """The stage from start, or from where it was stopped, to the end; SIGTERM goes to rank 1 while it measures dev.

    Returns:
        The error, if any, and the number of each measurement, with a -1 when the policy was written.
    """
    steps = []

    def measure(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
        steps.append(len(steps))
        if len(steps) == stop_at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return {"norm": sum(p.norm().item() for p in policy.parameters())}

    resume.save_model = lambda *args: (steps.append(-1), save_model(*args))
    try:
        train(
            job.fresh(),
            job.processor(),
            job.task,
            job.records,
            job.root,
            rl_config(**job.settings),
            hint_config(),
            weights(),
            {},
            job.folder / "rl",
            0,
            measure,
            cluster=job.cluster,
        )
    except StageError as error:
        return str(error), steps
    return "", steps


def fine_tune(job: Job) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Gradients of each step and final weights."""
    gradients = Gradients()
    examples = [
        Example(job.task.prompt(r, job.root), f"<answer>{i}.0</answer>"[: 9 + 4 * i]) for i, r in enumerate(job.records)
    ]
    cfg = SFTConfig(**{**OmegaConf.load(Path(CONF) / "sft" / "default.yaml"), **job.settings})
    processor = load_processor(job.model, base_checkpoint(job.model))
    trainer = make_sft_trainer("sft", job.fresh(), processor, examples, [], cfg, job.folder / "sft", 0, job.cluster)
    trainer.add_callback(gradients)
    trainer.train()
    with trainer.whole() as policy:
        return gradients.seen, {n: p.detach().clone() for n, p in policy.named_parameters()}
