"""The strategies of one checkpoint, in its run folder.

    eval/<checkpoint>-strategies/    drawn.jsonl: everything that was said; strategies.json, strategies.html
    eval/<checkpoint>-<strategy>/    predictions.jsonl and scores as of any evaluation, for `python -m evaluation.compare`

What is said is drawn once. How it is read (scorer, metrics, what grades explanations) can change: then the strategies decide anew.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from evaluation.compare.contrast import compare
from evaluation.compare.runs import Arm, read_run
from evaluation.grading import ExplanationConfig, grader_for
from evaluation.run import EvalConfig, score_and_write
from evaluation.strategies.config import NAMES, SAMPLED, StrategiesConfig
from evaluation.strategies.decide import Clip, Decision, decide, sizes, vote
from evaluation.strategies.draw import DRAWN, Drawn, draw, drawn_from_json
from evaluation.strategies.outcome import calibration, costs, curve, outcome
from evaluation.strategies.page import strategies_page
from evaluation.strategies.scorers import score_samples, scorer_settings
from models.engine.hf import HFEngine
from models.load import load_model, load_processor
from models.session import Session
from runtime.errors import ConfigError, RecordError
from runtime.files import digest, read_jsonl, write_json, write_text
from runtime.run import run_stage
from tasks.base import Grade, Task
from tasks.dc import Answer
from tasks.record import Record


def run(session: Session, name: str, checkpoint: Path) -> dict[str, Any]:
    """Ask, decide, score and compare.

    Args:
        session: the run.
        name: of the checkpoint: sft, rl, or init for one from elsewhere.
        checkpoint: its folder.

    Returns:
        What `strategies.json` holds: see `outcome`, and samples, temperature, scorer; curves: strategy -> `curve`; calibration:
        see `calibration`, null without samples.

    Raises:
        ConfigError: for a metric that the task does not have, or a scorer that lacks what it needs.
    """
    cfg: StrategiesConfig = session.section("strategies", StrategiesConfig)
    settings: EvalConfig = session.section("eval", EvalConfig)
    explanation: ExplanationConfig = session.section("explanation", ExplanationConfig)
    records = session.data.split(settings.split)[: settings.limit]
    metrics = _metrics(session.task, records, cfg.metrics)
    reading = scorer_settings(cfg.scorer, explanation) if "rerank" in cfg.names else None
    score = None if reading is None else grader_for(session, reading).grade  # refused before an hour of drawing
    folder = session.folder / "eval" / f"{name}-strategies"
    drawn = _draw(session, cfg, settings, records, checkpoint, folder)
    clips = _read(session.task, records, drawn, cfg.scorer, score)
    names = [known for known in NAMES if known in cfg.names]
    grammar = session.task.grammar
    decided = {strategy: [decide(strategy, clip, cfg.drawn, grammar) for clip in clips] for strategy in names}
    scored = {strategy: _score(session, name, strategy, records, found) for strategy, found in decided.items()}
    arms = [Arm(strategy, (read_run(session.folder / "eval" / f"{name}-{strategy}"),)) for strategy in names]
    compared = compare(arms, metrics, resamples=settings.resamples, seed=session.seed)
    curves = {
        strategy: curve(
            session.task,
            records,
            {n: [decide(strategy, clip, n, grammar) for clip in clips] for n in sizes(cfg.drawn)},
            metrics,
            settings.resamples,
            session.seed,
        )
        for strategy in names
        if strategy in SAMPLED
    }
    votes = [vote(clip.samples, grammar) for clip in clips] if cfg.drawn else []
    result = outcome(compared, scored, decided) | {
        "samples": cfg.drawn,
        "temperature": cfg.temperature,
        "scorer": cfg.scorer,
        "curves": curves,
        "calibration": calibration(records, votes, settings.resamples, session.seed) if votes else None,
    }
    write_json(folder / "strategies.json", result)
    write_text(folder / "strategies.html", strategies_page(f"{session.run.name}: strategies of {name}", result))
    return result


def _metrics(task: Task, records: Sequence[Record], wanted: Sequence[str] | None) -> list[str]:
    """Refused before anything is drawn."""
    if len(records) < 2:
        raise RecordError(
            f"strategies: {len(records)} clips to ask about, 2 or more are needed; mend eval.split or eval.limit"
        )
    gold = [record.target for record in records]
    known = list(task.metrics(gold, gold))
    if wanted is not None and (not wanted or not set(wanted) <= set(known)):
        raise ConfigError(f"strategies.metrics: some of {known}, or null for all; got {wanted}; mend the config")
    return known if wanted is None else list(wanted)


def _draw(
    session: Session,
    cfg: StrategiesConfig,
    settings: EvalConfig,
    records: Sequence[Record],
    checkpoint: Path,
    folder: Path,
) -> list[Drawn]:
    """Everything that is said, once."""

    def work() -> dict[str, Any]:
        processor, model = load_processor(session.model, checkpoint), load_model(session.model, checkpoint, train=False)
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu")  # not run on a GPU yet
        processor.prefetch(session.task.prompt(record, session.data.root) for record in records)
        engine, root = HFEngine(model, processor), session.data.root
        drawn = draw(session.task, engine, records, root, cfg, settings.max_new_tokens, session.seed, folder)
        return {"n": len(drawn)}

    stated = {
        "split": settings.split,
        "limit": settings.limit,
        "max_new_tokens": settings.max_new_tokens,
        "batch": cfg.batch,
        "samples": cfg.drawn,
        "temperature": cfg.temperature,
        "request": cfg.request if "refine" in cfg.names else None,
    }
    inputs = {"records": session.records, "checkpoint": checkpoint}
    run_stage(folder, session.settings() | {"strategies": stated}, inputs, work)
    return [drawn_from_json(row) for row in read_jsonl(folder / DRAWN)]


def _read(
    task: Task, records: Sequence[Record], drawn: Sequence[Drawn], scorer: str, grade: Grade | None
) -> list[Clip]:
    """What was said, read and scored; without a grader samples are scored by their log-probability."""

    def answer(record: Record, text: str) -> Answer | None:
        parsed = task.parse(record, text)
        return parsed if isinstance(parsed, Answer) else None

    samples = [
        tuple((one.text, answer(record, one.text)) for one in clip.samples)
        for record, clip in zip(records, drawn, strict=True)
    ]
    seconds = [
        None if clip.refined is None else answer(record, clip.refined.text)
        for record, clip in zip(records, drawn, strict=True)
    ]
    if grade is None:
        scores = [[one.logprob for one in clip.samples] for clip in drawn]
    else:
        scores = score_samples(scorer, grade, records, samples)
    return [Clip(d, some, tuple(s), second) for d, some, s, second in zip(drawn, samples, scores, seconds, strict=True)]


def _score(
    session: Session, name: str, strategy: str, records: Sequence[Record], decisions: Sequence[Decision]
) -> dict[str, Any]:
    """The decisions of one strategy as an evaluation of its own, which is made anew whenever they or their grading change."""
    settings: EvalConfig = session.section("eval", EvalConfig)
    explanation: ExplanationConfig = session.section("explanation", ExplanationConfig)
    folder = session.folder / "eval" / f"{name}-{strategy}"

    def work() -> dict[str, Any]:
        completions = [d.completion for d in decisions]
        scores = grader_for(session, explanation).grade(records, completions)
        scored = score_and_write(
            session.task, records, completions, scores, session.data, settings, folder, session.seed
        )
        return scored | {"cost": costs(decisions)}

    stated = session.settings(explanation=explanation) | {
        "strategy": strategy,
        "resamples": settings.resamples,
        "decisions": digest([asdict(d) for d in decisions]),
    }
    return run_stage(folder, stated, {"records": session.records}, work, anew=True)
