"""Answers without a word of explanation, scored and written as the evaluation writes those of a checkpoint."""

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

from evaluation.run import EvalConfig
from evaluation.score import score_predictions
from models.session import Session
from runtime.files import write_jsonl
from tasks.base import Task
from tasks.dc import GRAMMARS, Answer, render
from tasks.record import Record
from tasks.target import Target


def scored(session: Session, cfg: EvalConfig, answers: Mapping[str, Target], folder: Path) -> dict[str, Any]:
    """Score one answer per record of `cfg.split` and write `folder/predictions.jsonl`.

    A row holds `answer` and a null `completion`, which is how `evaluation.score` tells that the grammar of the task does not
    apply to it.

    Args:
        session: the run.
        cfg: says split, limit and resamples.
        answers: uid -> answer.
        folder: of the result.

    Returns:
        What `evaluation.score.score_predictions` returns.
    """
    task, records = session.task, session.data.split(cfg.split)[: cfg.limit]
    write_jsonl(folder / "predictions.jsonl", [_row(task, r, answers[r.uid]) for r in records])
    return score_predictions(
        task,
        records,
        {},
        answers={r.uid: answers[r.uid].render() for r in records},
        train=session.data.split("train"),
        resamples=cfg.resamples,
        seed=session.seed,
    )


def bare(task: Task) -> Task:
    """The same task, answered in the grammar that has no room for reasoning."""
    task = copy(task)
    task.grammar = GRAMMARS["answer"]
    return task


def said(task: Task, value: Target) -> str:
    """The whole completion that answers `value` in the grammar of a bare task."""
    return render(Answer(value), task.grammar)


def _row(task: Task, record: Record, value: Target) -> dict[str, Any]:
    unworded = bare(task)
    score = unworded.score(record, said(unworded, value))
    return {
        "uid": record.uid,
        "group": record.group,
        "gold": record.target.render(),
        "answer": value.render(),
        "verdict": None,
        "fault": score.fault,
        "parts": {**score.parts, "format": None},  # nobody was asked to hold a form
        "completion": None,
        "meta": dict(record.meta),
    }
