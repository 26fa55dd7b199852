"""`python -m evaluation.baselines classical|regression|labels`: in the run folder, beside what a checkpoint scores there."""

import sys
from typing import Any

from omegaconf import DictConfig

from evaluation.baselines import classical, labels, regression
from evaluation.score import align
from models.session import open_session
from runtime.main import verb

STAGES = {"classical": classical.run, "regression": regression.run, "labels": labels.run}


def table(name: str, result: dict[str, Any]) -> str:
    """Metrics with their intervals, and what the trivial rule scores."""
    rows = [["", name, "95 % interval", "trivial rule"]]
    for metric, m in result["metrics"].items():
        rows.append(
            [metric, f"{m['value']:.3f}", f"[{m['lo']:.3f}, {m['hi']:.3f}]", f"{result['baseline'][metric]:.3f}"]
        )
    return align(rows)


def main() -> None:
    """Entry point: the name of the baseline, then Hydra's overrides."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in STAGES:
        sys.exit(f"error: {name!r} is no baseline; write python -m evaluation.baselines {'|'.join(STAGES)} task=...")
    sys.argv[:2] = [
        f"{sys.argv[0]} {name}"
    ]  # what is left is for Hydra, and the manifest still shows the whole command

    @verb("eval")
    def app(cfg: DictConfig) -> None:
        session = open_session(cfg, parent=cfg.eval.init)
        result = STAGES[name](session)
        print(table(name, result) if "metrics" in result else result)

    app()


main()
