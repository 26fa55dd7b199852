"""A checkpoint under every condition, in its run folder.

    eval/<checkpoint>/                the clean evaluation, as `python -m evaluation` makes it
    eval/<checkpoint>-<condition>/    predictions.jsonl and scores, as of any evaluation
    eval/<checkpoint>-robustness/     robustness.json, robustness.html

What was changed (noisy sounds, films with lost frames) is deleted again when its condition is scored.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from evaluation.compare.contrast import Comparison, compare
from evaluation.compare.page import compare_page
from evaluation.compare.runs import Arm, read_run
from evaluation.compare.versus import versus
from evaluation.grading import ExplanationConfig, make_grader
from evaluation.robustness.conditions import Condition, Place, wanted, worsened
from evaluation.robustness.config import RobustnessConfig
from evaluation.robustness.table import CLEAN, outcome, plots
from evaluation.run import EvalConfig, complete, score_and_write
from evaluation.stage import run as evaluate_clean
from models.load import load_model, load_processor
from models.processor import Processor
from models.session import Session
from runtime.errors import ConfigError
from runtime.files import write_json, write_text
from runtime.run import run_stage
from runtime.seeds import seed_everything


def run(session: Session, name: str, checkpoint: Path) -> Comparison:
    """Evaluate under every condition, and compare with the clean evaluation.

    Args:
        session: the run.
        name: of the checkpoint: sft, rl, or init for one from elsewhere.
        checkpoint: its folder.

    Raises:
        ConfigError: for a metric that the task does not have, or conditions of which none changes what it shows.
    """
    cfg: RobustnessConfig = session.section("robustness", RobustnessConfig)
    settings: EvalConfig = session.section("eval", EvalConfig)
    records = session.data.split(settings.split)[: settings.limit]
    gold = [record.target for record in records]
    known = list(session.task.metrics(gold, gold))
    if cfg.metrics is not None and (not cfg.metrics or not set(cfg.metrics) <= set(known)):
        raise ConfigError(f"robustness.metrics: some of {known}, or null for all; got {cfg.metrics}; mend the config")
    conditions = wanted(cfg, records, session.task.views, session.model.audio_in_video)
    if not conditions:
        raise ConfigError(
            f"robustness: none of the conditions changes what {session.task.name} shows ({', '.join(session.task.views)}); name "
            "others"
        )
    evaluate_clean(session, name, checkpoint)

    @cache
    def loaded() -> tuple[torch.nn.Module, Processor]:
        model = load_model(session.model, checkpoint, train=False)
        model.to("cuda" if torch.cuda.is_available() else "cpu")  # not run on a GPU yet
        return model, load_processor(session.model, checkpoint)

    arms = [Arm(CLEAN, (read_run(session.folder / "eval" / name),))]
    for condition in conditions:
        folder = session.folder / "eval" / f"{name}-{condition.name}"
        _one(session, cfg, settings, condition, checkpoint, folder, loaded)
        arms.append(Arm(condition.name, (read_run(folder),)))
    found = compare(arms, cfg.metrics or known, resamples=settings.resamples, seed=session.seed)
    folder = session.folder / "eval" / f"{name}-robustness"
    write_json(folder / "robustness.json", outcome(found))
    write_text(folder / "robustness.html", compare_page(arms, found, versus(arms), [], None, plots(found, conditions)))
    return found


def _one(
    session: Session,
    cfg: RobustnessConfig,
    settings: EvalConfig,
    condition: Condition,
    checkpoint: Path,
    folder: Path,
    loaded: Callable[[], tuple[torch.nn.Module, Processor]],
) -> dict[str, Any]:
    """One condition, once."""
    records = session.data.split(settings.split)[: settings.limit]
    explanation: ExplanationConfig = session.section("explanation", ExplanationConfig)
    place = Place(
        session.data.root,
        folder / "media",
        session.task.views,
        session.model.fps,
        session.model.audio_in_video,
        session.seed,
    )
    source = cfg.transcripts.get(str(condition.level)) if condition.kind == "transcript" else None

    def work() -> dict[str, Any]:
        seed_everything(session.seed)
        shutil.rmtree(place.folder, ignore_errors=True)  # of a call that was killed
        worse = worsened(condition, cfg, records, place)
        model, processor = loaded()
        processor.prefetch(session.task.prompt(record, Path("/")) for record in worse)
        texts = complete(session.task, model, processor, worse, Path("/"), settings)
        scores = make_grader(session).grade(records, texts)  # held against what was really there
        shutil.rmtree(place.folder, ignore_errors=True)
        return score_and_write(session.task, records, texts, scores, session.data, settings, folder, session.seed)

    inputs = {"records": session.records, "checkpoint": checkpoint}
    if source is not None and Path(source).is_file():
        inputs["transcripts"] = Path(source)
    stated = session.settings(eval=replace(settings, init=None, silence=[]), explanation=explanation) | {
        "condition": asdict(condition),
        "noise": cfg.noise if condition.kind == "snr" else None,
        "source": None if source is None or Path(source).is_file() else source,
    }
    return run_stage(folder, stated, inputs, work)
