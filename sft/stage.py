"""The supervised stage of a run: `sft/final` from `synth/chains.jsonl`."""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from evaluation.sweep import objective
from models.load import load_model, load_processor
from models.session import Session, open_session
from runtime.errors import StageError
from runtime.main import CONF, command
from runtime.run import run_stage
from runtime.seeds import seed_everything
from sft.config import SFTConfig
from sft.perception import base_model
from sft.train import Example, train
from tasks.record import read_records


def run(session: Session) -> dict[str, Any]:
    """Train once for these settings; see `sft.train.train` for the result."""
    settings = session.section("sft", SFTConfig)
    folder = session.folder / "sft"
    chains = Path(settings.chains) if settings.chains else session.folder / "synth" / "chains.jsonl"
    if not chains.is_file():
        raise StageError(
            f"sft: there are no chains at {chains}; run `python -m data_synth` with the same settings first, or name a file "
            "with sft.chains=FILE"
        )
    init = Path(settings.init) if settings.init else base_model(session.model)

    def work() -> dict[str, Any]:
        seed_everything(session.seed)
        root, task = session.data.root, session.task
        examples = [Example(task.prompt(r, root), r.rationale) for r in read_records(chains) if r.rationale]
        held = round(len(examples) * settings.holdout)
        processor = load_processor(session.model, init)
        model = load_model(session.model, init, train=True)
        cut = len(examples) - held  # chains come in shuffled order, so the last ones are a fair sample
        with session.tracker("sft"):
            return train("sft", model, processor, examples[:cut], examples[cut:], settings, folder, session.seed)

    inputs = {"chains": chains} | ({"init": init} if isinstance(init, Path) else {})
    return run_stage(folder, session.settings(sft=settings), inputs, work)


@hydra.main(version_base=None, config_path=CONF, config_name="sft")
@command
def main(cfg: DictConfig) -> float | None:
    """Entry point; what it returns is what a sweeper looks at."""
    session = open_session(cfg, parent=cfg.sft.init)
    print(run(session))
    return objective(session.folder, "sft")
