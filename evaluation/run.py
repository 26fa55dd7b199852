"""Run a model over a split, without hints, and score it: whole, and with a modality silenced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from evaluation.page import shown_of
from evaluation.score import summarize
from models.engine.hf import HFEngine, Sampling
from models.processor import MODALITIES, Processor
from runtime.errors import ConfigError
from runtime.files import write_jsonl
from tasks.base import Dataset, Grade, Score, Task
from tasks.record import SPLITS, Media, Record


@dataclass
class EvalConfig:
    """What `conf/eval/` may say."""

    split: str
    limit: int | None
    batch: int
    max_new_tokens: int
    temperature: float
    silence: list[str]
    resamples: int
    init: str | None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"eval.split: one of {SPLITS}; got {self.split!r}; mend the config")
        if unknown := sorted(set(self.silence) - set(MODALITIES)):
            raise ConfigError(f"eval.silence: members of {MODALITIES}; got {unknown}; mend the config")
        if self.batch < 1 or self.max_new_tokens < 1 or self.temperature < 0:
            got = f"batch={self.batch} max_new_tokens={self.max_new_tokens} temperature={self.temperature}"
            raise ConfigError(
                f"eval: batch and max_new_tokens 1 or more, temperature 0 or more; got {got}; mend the config"
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"eval.limit: 1 or more, or null for all; got {self.limit}; mend the config")
        if self.resamples < 1:
            raise ConfigError(f"eval.resamples: 1 or more; got {self.resamples}; mend the config")


def complete(
    task: Task,
    model: torch.nn.Module,
    processor: Processor,
    records: Sequence[Record],
    root: Path,
    cfg: EvalConfig,
    silence: frozenset[str] = frozenset(),
) -> list[str]:
    """One unhinted completion for each record.

    Args:
        silence: modalities to blank (zero samples, grey frames, empty transcript).
    """
    engine, sampling = HFEngine(model, processor), Sampling(cfg.max_new_tokens, cfg.temperature)
    texts = []
    what = "answers" + "".join(f" without {modality}" for modality in sorted(silence))
    with tqdm(total=len(records), desc=what, leave=False, disable=None) as bar:
        for start in range(0, len(records), cfg.batch):  # media of one batch at a time
            part = records[start : start + cfg.batch]
            prompts = [processor.encode(task.prompt(record, root), silence) for record in part]
            texts += [
                processor.decode(group[0].token_ids) for group in engine.generate(prompts, sampling, 1, cfg.batch)
            ]
            bar.update(len(part))
    return texts


def measure(
    task: Task,
    model: torch.nn.Module,
    processor: Processor,
    records: Sequence[Record],
    root: Path,
    cfg: EvalConfig,
    said: Path | None = None,
    watch: Callable[[Sequence[Record], Sequence[str]], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Corpus metrics alone, without intervals: for curves while training.

    Args:
        said: gets a line for each record, its uid and the answer (null where none can be read).
        watch: further metrics of the completions.

    Returns:
        The task's metrics, `calibrate` (mean closeness of the answers; of the rated ones), and those of `watch`.
    """
    texts = complete(task, model, processor, records, root, cfg)
    scores = task.grade(records, texts)
    answers = [s.answer.value if s.answer else None for s in scores]
    if said:
        rows = zip(records, answers, strict=True)
        write_jsonl(said, [{"uid": r.uid, "answer": a.render() if a else None} for r, a in rows])
    close = [c for s in scores if (c := s.parts["calibrate"]) is not None]
    found = task.metrics([r.target for r in records], answers) | ({"calibrate": fmean(close)} if close else {})
    return found | watch(records, texts) if watch else found


def evaluate(
    task: Task,
    model: torch.nn.Module,
    processor: Processor,
    data: Dataset,
    cfg: EvalConfig,
    folder: Path,
    seed: int,
    grade: Grade | None = None,
) -> dict[str, Any]:
    """Score a model on a split and write `folder/predictions.jsonl`.

    Args:
        grade: scores the completions; None: `task.grade`, which does not read explanations.

    Returns:
        What `score_predictions` returns, and under `silenced` the metrics with each modality of `cfg.silence` blanked.
    """
    records = data.split(cfg.split)[: cfg.limit]
    shown = {view for r in records for view in _modalities(r, task)}
    processor.prefetch(task.prompt(record, data.root) for record in records)
    completions = complete(task, model, processor, records, data.root, cfg)
    scores = (grade or task.grade)(records, completions)
    result = score_and_write(task, records, completions, scores, data, cfg, folder, seed)
    silenced = {}
    for modality in cfg.silence:
        if modality not in shown:
            continue
        texts = complete(task, model, processor, records, data.root, cfg, frozenset({modality}))
        answers = [score.answer for score in task.grade(records, texts)]
        silenced[modality] = task.metrics([r.target for r in records], [a.value if a else None for a in answers])
    return {**result, "silenced": silenced}


def score_and_write(
    task: Task,
    records: Sequence[Record],
    completions: Sequence[str],
    scores: Sequence[Score],
    data: Dataset,
    cfg: EvalConfig,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Write `folder/predictions.jsonl`, and return what `score_predictions` returns."""
    rows = zip(records, completions, scores, strict=True)
    write_jsonl(folder / "predictions.jsonl", [_row(record, text, score) for record, text, score in rows])
    graded = [(score.fault, score) for score in scores]
    return summarize(task, records, graded, train=data.split("train"), resamples=cfg.resamples, seed=seed)


def _modalities(record: Record, task: Task) -> set[str]:
    found = set()
    for name in task.views:
        match record.views.get(name):
            case None:
                continue
            case Media(kind="audio"):
                found.add("audio")
            case Media():
                found.add("video")
            case _:
                found.add("text")
    return found


def _row(record: Record, completion: str, score: Score) -> dict[str, Any]:
    text, media = shown_of(record)
    return {
        "uid": record.uid,
        "group": record.group,
        "gold": record.target.render(),
        "answer": score.answer.value.render() if score.answer else None,
        "verdict": score.answer.verdict if score.answer else None,
        "fault": score.fault,
        "parts": dict(score.parts),
        "speaks_for": score.speaks_for,
        "evidence_precision": score.precision,
        "checked": dict(score.checked),
        "completion": completion,
        "text": text,
        "media": media,
        "meta": dict(record.meta),
    }
