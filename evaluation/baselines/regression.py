"""A regression head on the model that SFT starts from: what a model gives up by saying its score in words.

    last hidden state of the prompt -> linear -> tanh -> the scale of the label

It is trained on every label of the training split with squared error, on the scale [-1, 1]; of the looks at dev the one with
the lowest error is kept. A head says nothing and explains nothing. `final/` is a checkpoint as any other with
`head.safetensors` beside the weights: named in `eval.init` it goes on from there, and with `baseline.regression.max_steps=0`
it is only evaluated, on another task too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import mse_loss
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from evaluation.baselines.answers import scored
from evaluation.baselines.config import BaselineConfig, RegressionConfig
from evaluation.run import EvalConfig
from models.load import base_checkpoint, load_model, load_processor, save_model
from models.processor import Processor
from models.session import Session
from models.shared_prefix import backbone_of, run_prompt
from runtime.errors import ConfigError, StageError
from runtime.files import write_jsonl
from runtime.run import run_stage
from runtime.seeds import seed_everything
from tasks.base import Dataset, Task
from tasks.record import Record
from tasks.target import Scalar

HEAD = "head.safetensors"


class Regressor(torch.nn.Module):
    """A model whose head for words is not used, and a head for one number.

    Args:
        model: as `load_model` returns it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        width = backbone_of(model).config.get_text_config().hidden_size
        self.head = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(
            self.head.weight
        )  # the first answer is the middle of the scale, whatever the hidden states
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, prompt: dict[str, Any]) -> torch.Tensor:
        """(B,) scores in (-1, 1) of B left-padded prompts."""
        last_BH = run_prompt(backbone_of(self.model), prompt).hidden_BPH[:, -1]
        return torch.tanh(self.head(last_BH.float())[:, 0])

    @property
    def trained(self) -> dict[str, torch.nn.Parameter]:
        """What has a gradient, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def unit(target: Scalar) -> float:
    """A label on the scale [-1, 1]."""
    return 2 * (target.x - target.lo) / (target.hi - target.lo) - 1


def at_unit(like: Scalar, u: float) -> Scalar:
    """The inverse of `unit` on the scale of `like`, with four decimals."""
    return replace(like, x=min(max(round(like.lo + (u + 1) / 2 * (like.hi - like.lo), 4), like.lo), like.hi))


def batches(n: int, size: int, seed: int) -> Iterator[list[int]]:
    """Row numbers of one batch after the other, for ever: every epoch in an order of its own, its last batch smaller."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n).tolist()
        yield from (order[start : start + size] for start in range(0, n, size))


def predict(
    regressor: Regressor, processor: Processor, task: Task, data: Dataset, records: Sequence[Record], batch: int
) -> np.ndarray:
    """[N] scores in (-1, 1)."""
    regressor.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(records), batch):
            found += regressor(_prompts(processor, task, data, records[start : start + batch], regressor)).tolist()
    return np.array(found)


def _prompts(
    processor: Processor, task: Task, data: Dataset, records: Sequence[Record], regressor: Regressor
) -> dict[str, Any]:
    prompts = [processor.encode(task.prompt(record, data.root)) for record in records]
    return processor.collate(prompts, regressor.head.weight.device)


def _units(records: Sequence[Record]) -> np.ndarray:
    return np.array([unit(r.target) for r in records if isinstance(r.target, Scalar)])


def train(
    regressor: Regressor,
    processor: Processor,
    task: Task,
    data: Dataset,
    cfg: RegressionConfig,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Minimise the squared error on the training split and keep the weights of the best look at dev.

    Writes `folder/curve.jsonl`: step, training loss and mean absolute error on dev, both on the scale [-1, 1].

    Returns:
        `step` of the kept weights, and their `dev_mae` on [-1, 1].
    """
    records, dev = data.split("train"), data.split("dev")
    gold_N = torch.tensor(_units(records), dtype=torch.float32, device=regressor.head.weight.device)
    trained = regressor.trained
    optimizer = torch.optim.AdamW(trained.values(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, round(cfg.warmup * cfg.max_steps), cfg.max_steps)
    kept: dict[str, torch.Tensor] = {}
    best = {"step": 0, "dev_mae": float("inf")}
    curve = []
    chosen = batches(len(records), cfg.batch, seed)
    for step in tqdm(range(1, cfg.max_steps + 1), desc="regression", leave=False, disable=None):
        rows = next(chosen)
        regressor.train()
        loss = mse_loss(regressor(_prompts(processor, task, data, [records[i] for i in rows], regressor)), gold_N[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), cfg.max_grad_norm)
        optimizer.step()
        schedule.step()
        if step % cfg.eval_every == 0 or step == cfg.max_steps:
            mae = float(np.abs(predict(regressor, processor, task, data, dev, cfg.batch) - _units(dev)).mean())
            curve.append({"step": step, "loss": loss.item(), "dev_mae": mae})
            write_jsonl(folder / "curve.jsonl", curve)
            if mae < best["dev_mae"]:
                best = {"step": step, "dev_mae": mae}
                kept = {name: p.detach().cpu().clone() for name, p in trained.items()}
    regressor.load_state_dict(kept, strict=False)
    return best


def run(session: Session) -> dict[str, Any]:
    """Train and score once for these settings: `baseline/regression/final`, and `eval/regression` with the predictions.

    Returns:
        What `score_predictions` returns, and under `training` what `train` returns.

    Raises:
        ConfigError: when the answers are not numbers, or no checkpoint is named where one is needed.
        StageError: when the checkpoint, its head, or the dev split is missing.
    """
    cfg: EvalConfig = session.section("eval", EvalConfig)
    settings = session.section("baseline", BaselineConfig).regression
    task, data = session.task, session.data
    folder, model_folder = session.folder / "eval" / "regression", session.folder / "baseline" / "regression"
    if other := next((r for r in data.records if not isinstance(r.target, Scalar)), None):
        raise ConfigError(
            f"baselines regression: answers must be numbers, and those of {task.name} are of kind {other.target.kind!r}; choose "
            "a task such as studio, or the baseline classical"
        )
    init = _init(session, cfg)
    has_head = isinstance(init, Path) and (init / HEAD).is_file()
    if not settings.max_steps and not has_head:
        raise StageError(
            f"baseline.regression.max_steps=0: a head is evaluated, and there is no {HEAD} in {init}; name a "
            "baseline/regression/final in eval.init, or train one"
        )
    if settings.max_steps and not data.split("dev"):
        raise StageError(
            f"baselines regression: the weights to keep are chosen on dev, and {task.name} has no record there; give the "
            "task a dev split"
        )

    def work() -> dict[str, Any]:
        seed_everything(session.seed)
        processor = load_processor(session.model, init)
        regressor = Regressor(load_model(session.model, init, train=bool(settings.max_steps)))
        if settings.backbone == "frozen":
            regressor.model.requires_grad_(False)
        if has_head:
            assert isinstance(init, Path)
            regressor.head.load_state_dict(load_file(init / HEAD))
        regressor.to("cuda" if torch.cuda.is_available() else "cpu")
        processor.prefetch(task.prompt(record, data.root) for record in data.records)
        training = {}
        if settings.max_steps:
            training = train(regressor, processor, task, data, settings, session.seed, model_folder)
            save_model(regressor.model, processor, model_folder / "final")
            save_file(regressor.head.cpu().state_dict(), model_folder / "final" / HEAD)
            regressor.head.to(next(regressor.model.parameters()).device)
        records = data.split(cfg.split)[: cfg.limit]
        scores = predict(regressor, processor, task, data, records, cfg.batch)
        answers = {
            r.uid: at_unit(r.target, float(u))
            for r, u in zip(records, scores, strict=True)
            if isinstance(r.target, Scalar)
        }
        return {**scored(session, cfg, answers, folder), "training": training}

    made_from = session.settings(regression=settings, eval=replace(cfg, init=None))
    inputs = {"records": session.records} | ({"init": init} if isinstance(init, Path) else {})
    return run_stage(folder, made_from, inputs, work)


def _init(session: Session, cfg: EvalConfig) -> Path | str:
    """The checkpoint to start from."""
    if cfg.init is None:
        if session.model.perception is not None:
            raise ConfigError(
                f"eval.init: {session.model.name} starts from what `python -m sft.perception` makes of it, and evaluation does not "
                "train; name the folder that this command prints, so that the head starts where SFT does"
            )
        return base_checkpoint(session.model)
    if not Path(cfg.init).is_dir():
        raise StageError(f"eval.init: there is no checkpoint at {cfg.init}; mend the path")
    return Path(cfg.init)
