"""The supervised stage of a run: `sft/final` from `synth/chains.jsonl`."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from evaluation.sweep import objective
from models.load import load_model, load_processor
from models.session import Session, open_session
from runtime.cluster import ClusterConfig
from runtime.errors import StageError
from runtime.main import verb
from runtime.run import run_stage
from runtime.seeds import seed_everything
from sft.config import SFTConfig
from sft.perception import base_model
from sft.train import Example, train
from tasks.record import read_records


def run(session: Session) -> dict[str, Any]:
    """Train once for these settings; see `sft.train.train` for the result."""
    settings = session.section("sft", SFTConfig)
    cluster = session.section("cluster", ClusterConfig)
    folder = session.folder / "sft"
    chains = Path(settings.chains) if settings.chains else session.folder / "synth" / "chains.jsonl"
    if not chains.is_file():
        raise StageError(
            f"sft: there are no chains at {chains}; run `python -m data_synth` with the same settings first, or name a file "
            "with sft.chains=FILE"
        )
    init = Path(settings.init) if settings.init else base_model(session.model)

    inputs = {"chains": chains} | ({"init": init} if isinstance(init, Path) else {})

    def work() -> dict[str, Any]:
        seed_everything(session.seed)
        root, task = session.data.root, session.task
        examples = [Example(task.prompt(r, root), r.rationale) for r in read_records(chains) if r.rationale]
        held = round(len(examples) * settings.holdout)
        processor = load_processor(session.model, init)
        model = load_model(session.model, init, train=True)
        cut = len(examples) - held  # chains come in shuffled order, so the last ones are a fair sample
        parts = (examples[:cut], examples[cut:])
        with session.tracker("sft", inputs) as tracker:
            result = train("sft", model, processor, *parts, settings, folder, session.seed, cluster, tracker)
            tracker.made("model", folder / "final")
            return result

    return run_stage(folder, session.settings(sft=settings), inputs, work)


@verb("sft")
def main(cfg: DictConfig) -> float | None:
    """Entry point; what it returns is what a sweeper looks at."""
    session = open_session(cfg, parent=cfg.sft.init)
    print(run(session))
    return objective(session.folder, "sft")
