"""The reinforcement stage of a run: `rl/final` from `sft/final`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from evaluation.canaries import common_answer, margins
from evaluation.grading import ExplanationConfig, RewardConfig, make_grader
from evaluation.run import EvalConfig, measure
from evaluation.show import Show
from evaluation.sweep import objective
from models.engine.config import EngineConfig, make_engine
from models.load import load_model, load_processor
from models.session import Session, open_session
from rl.config import HintConfig, RLConfig
from rl.hints.forms import QUOTING
from rl.show import ShowRollouts
from rl.train import train
from runtime.cluster import ClusterConfig
from runtime.errors import StageError
from runtime.main import verb
from runtime.run import run_stage
from runtime.seeds import seed_everything
from tasks.record import Record, read_records


def run(session: Session) -> dict[str, Any]:
    """Train once for these settings; see `rl.train.train` for the result."""
    settings = session.section("rl", RLConfig)
    hint, reward = session.section("hint", HintConfig), session.section("reward", RewardConfig)
    evaluation = session.section("eval", EvalConfig)
    engine = session.section("engine", EngineConfig)
    explanation = session.section("explanation", ExplanationConfig)
    cluster = session.section("cluster", ClusterConfig)
    hint.check_task(session.task)
    folder = session.folder / "rl"
    init = Path(settings.init) if settings.init else session.folder / "sft" / "final"
    if not init.is_dir():
        raise StageError(
            f"rl: there is no checkpoint at {init}; run `python -m sft` with the same settings first, or name one with "
            "rl.init=FOLDER"
        )
    quoting = hint.strategy in QUOTING
    chains = Path(settings.chains) if settings.chains else session.folder / "synth" / "chains.jsonl"
    if quoting and not chains.is_file():
        raise StageError(
            f"rl: hint.strategy={hint.strategy} takes its hints from chains, and there are none at {chains}; run "
            "`python -m data_synth` with the same settings first, or name a file with rl.chains=FILE"
        )

    inputs = {"records": session.records, "init": init} | ({"chains": chains} if quoting else {})

    def work() -> dict[str, Any]:
        seed_everything(session.seed)
        data, task = session.data, session.task
        processor = load_processor(session.model, init)
        model = load_model(session.model, init, train=True)
        dev = data.split("dev")
        references = {r.uid: r.rationale for r in read_records(chains) if r.rationale} if quoting else {}

        grader, common = make_grader(session), common_answer(task, data)
        kinds = ("blind", "parasitic") if explanation.asks else ("blind",)  # unread, an explanation costs nothing

        def watch(records: Sequence[Record], texts: Sequence[str]) -> dict[str, float]:
            found = margins(task, grader.grade, reward.weights, records, texts, common).values()
            worst = {kind: [margin for k, margin in found if k == kind] for kind in kinds}
            return {f"canary/{kind}": min(of_kind) for kind, of_kind in worst.items() if of_kind}

        def measure_dev(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
            return measure(task, policy, processor, dev, data.root, evaluation, said, watch)

        with session.tracker("rl", inputs) as tracker:
            train_set, rows = data.split("train"), session.run.table_rows
            show = Show(tracker, data.root, folder / "shown", rows)
            completions = ShowRollouts(
                show, train_set, folder / "rollouts", session.run.table_every, settings.iterations
            )
            result = train(
                model,
                processor,
                task,
                train_set,
                data.root,
                settings,
                hint,
                reward,
                references,
                folder,
                session.seed,
                measure_dev if dev else None,
                partial(make_engine, engine, session.model, init, folder / "engine", session.seed),
                grader.grade,
                cluster,
                tracker,
                [completions],
            )
            tracker.made("model", folder / "final")
            return result

    return run_stage(
        folder, session.settings(rl=settings, hint=hint, reward=reward, explanation=explanation), inputs, work
    )


@verb("rl")
def main(cfg: DictConfig) -> float | None:
    """Entry point; what it returns is what a sweeper looks at."""
    session = open_session(cfg, parent=cfg.rl.init)
    print(run(session))
    return objective(session.folder, "rl")
