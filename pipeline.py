"""Chains the verbs into one run folder and skips what is done: `python -m pipeline`, or `make run`.

    data -> synth -> (perception) -> sft -> rl -> evaluation of base, SFT and RL -> summary.json, report.html

The only file that knows all verbs.
"""

from typing import Any

from omegaconf import DictConfig

import data_synth.stage
import evaluation.stage
import rl.stage
import sft.stage
from data_synth.config import SynthConfig
from evaluation.grading import ExplanationConfig, RewardConfig
from evaluation.report import print_table, write_report
from evaluation.run import EvalConfig
from models.engine.config import EngineConfig
from models.session import Session, open_session
from rl.config import HintConfig, RLConfig
from runtime.cluster import ClusterConfig
from runtime.config import make, section
from runtime.files import write_json
from runtime.main import verb
from sft.config import SFTConfig
from sft.perception import base_model
from tasks.studio.task import Studio, oracles

SCHEMAS = {
    "engine": EngineConfig,
    "synth": SynthConfig,
    "sft": SFTConfig,
    "hint": HintConfig,
    "reward": RewardConfig,
    "explanation": ExplanationConfig,
    "rl": RLConfig,
    "eval": EvalConfig,
    "cluster": ClusterConfig,
}


def check(cfg: DictConfig) -> None:
    """Refuse a setting of a late stage before an early one has cost an hour.

    Raises:
        ConfigError: see `runtime.config.section` and `make`.
    """
    for name, schema in SCHEMAS.items():
        section(cfg, name, schema)
    make(cfg, "teacher")
    section(cfg, "hint", HintConfig).check_task(make(cfg, "task"))


def run(session: Session) -> dict[str, Any]:
    """All stages, then the summary that `summary.json` holds and the report is made from."""
    folder = session.folder
    base = base_model(session.model)
    synth = data_synth.stage.run(session)
    cold = sft.stage.run(session)
    policy = rl.stage.run(session)
    scores = {
        "base": evaluation.stage.run(session, "base", base),
        "sft": evaluation.stage.run(session, "sft", folder / "sft" / "final"),
        "rl": evaluation.stage.run(session, "rl", folder / "rl" / "final"),
    }
    summary: dict[str, Any] = {
        "task": session.task.name,
        "model": session.model.name,
        "seed": session.seed,
        "baseline": scores["rl"]["baseline"],
        **scores,
        "ablations": {f"silent {name}": metrics for name, metrics in scores["rl"]["silenced"].items()},
        "synth": synth,
        "training": {"sft": cold, "rl": {"steps": policy["steps"]}},
        "hint": policy["hint"],
        "parity": policy["parity"],
        "seconds": {"synth": synth["seconds"], "sft": cold["seconds"], "rl": policy["seconds"]}
        | {f"eval {name}": result["seconds"] for name, result in scores.items()},
    }
    if isinstance(session.task, Studio):
        summary["oracles"] = studio_oracles(session)
    return summary


def studio_oracles(session: Session) -> dict[str, dict[str, float]]:
    """What perfect perception of one modality, or of all three, would score."""
    test = session.data.split("test")
    gold = [record.target for record in test]
    answers = oracles(session.data.split("train"), test)
    return {name: session.task.metrics(gold, said) for name, said in answers.items()}


@verb("pipeline")
def main(cfg: DictConfig) -> None:
    """Run everything that is not done yet, print the table, write the report."""
    check(cfg)
    session = open_session(cfg)
    summary = run(session)
    write_json(session.folder / "summary.json", summary)
    print(print_table(summary))
    print(f"\nreport: {write_report(session.folder)}")


if __name__ == "__main__":
    main()
