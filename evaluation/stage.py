"""The evaluation stage of a run: `eval/<name>/` from a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from evaluation.grading import ExplanationConfig, make_grader
from evaluation.report import print_table
from evaluation.run import EvalConfig, evaluate
from evaluation.show import Show, chosen, numbers
from evaluation.sweep import objective
from models.load import load_model, load_processor
from models.session import Session, open_session
from runtime.errors import StageError
from runtime.files import read_jsonl
from runtime.main import verb
from runtime.run import run_stage
from runtime.seeds import seed_everything
from runtime.trackers.tracker import Tracker

WHOLE_ONLY = ("base", "sft")
"""Stations on the way to the policy: no modality is silenced for them."""


def run(session: Session, name: str, checkpoint: Path | str) -> dict[str, Any]:
    """Evaluate one checkpoint once for these settings.

    Args:
        session: the run.
        name: of the result, and of its folder below `eval/`: base, sft, rl, or init for a checkpoint from elsewhere.
        checkpoint: a folder or a hub name.

    Returns:
        What `evaluation.run.evaluate` returns.
    """
    settings: EvalConfig = session.section("eval", EvalConfig)
    settings = replace(settings, silence=[]) if name in WHOLE_ONLY else settings
    explanation = session.section("explanation", ExplanationConfig)
    folder = session.folder / "eval" / name

    inputs = {"records": session.records} | ({"checkpoint": checkpoint} if isinstance(checkpoint, Path) else {})

    def work() -> dict[str, Any]:
        seed_everything(session.seed)
        processor = load_processor(session.model, checkpoint)
        model = load_model(session.model, checkpoint, train=False)
        model.to("cuda" if torch.cuda.is_available() else "cpu")  # as the Trainer does by itself; not run on a GPU yet
        grade = make_grader(session).grade
        with session.tracker(f"eval/{name}", inputs) as tracker:
            result = evaluate(session.task, model, processor, session.data, settings, folder, session.seed, grade)
            _tell(session, settings, folder, tracker, result)
            return result

    stated = session.settings(eval=replace(settings, init=None), explanation=explanation)
    return run_stage(folder, stated, inputs, work)


def _tell(session: Session, settings: EvalConfig, folder: Path, tracker: Tracker, result: dict[str, Any]) -> None:
    """Metrics, and the first predictions beside their clips."""
    predictions = folder / "predictions.jsonl"
    records = session.data.split(settings.split)
    show = Show(tracker, session.data.root, folder / "shown", session.run.table_rows)
    tracker.row(tracker.next, numbers(result, settings.split))
    left = ("group", "gold", "text", "media", "meta")
    show.table(tracker.next, "predictions", chosen(records, read_jsonl(predictions), leave=left))
    tracker.made("result", predictions)


def chosen_checkpoint(session: Session) -> tuple[str, Path]:
    """Name and folder of what is evaluated: `eval.init`, or the newest checkpoint of the run.

    Raises:
        StageError: when there is none.
    """
    if session.cfg.eval.init:
        return "init", Path(session.cfg.eval.init)
    found = [n for n in ("rl", "sft") if (session.folder / n / "final").is_dir()]
    if not found:
        raise StageError(
            f"evaluation: no checkpoint in {session.folder}; run `python -m sft` or `python -m rl` with the same run.name, "
            "or name one with eval.init=FOLDER"
        )
    return found[0], session.folder / found[0] / "final"


@verb("eval")
def main(cfg: DictConfig) -> float | None:
    """Entry point; what it returns is what a sweeper looks at."""
    session = open_session(cfg, parent=cfg.eval.init)
    name, checkpoint = chosen_checkpoint(session)
    result = run(session, name, checkpoint)
    print(print_table({"task": session.task.name, "baseline": result["baseline"], name: result}))
    return objective(session.folder, "evaluation")
