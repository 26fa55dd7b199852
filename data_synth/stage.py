"""The synthesis stage of a run: `synth/chains.jsonl` from `data/records.jsonl`."""

from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from data_synth.config import SynthConfig
from data_synth.run import synthesize
from models.session import Session, open_session
from runtime.config import make
from runtime.main import CONF, command
from runtime.run import run_stage


def run(session: Session) -> dict[str, Any]:
    """Synthesise once for these settings; see `data_synth.run.synthesize` for the result."""
    settings = session.section("synth", SynthConfig)
    folder = session.folder / "synth"
    teacher = make(session.cfg, "teacher")
    made_from = session.settings(synth=settings) | {
        "teacher": OmegaConf.to_container(session.cfg.teacher, resolve=True)
    }
    return run_stage(
        folder,
        made_from,
        {"records": session.records},
        lambda: synthesize(session.task, session.data, teacher, settings, folder),
    )


@hydra.main(version_base=None, config_path=CONF, config_name="synth")
@command
def main(cfg: DictConfig) -> None:
    """Entry point."""
    print(run(open_session(cfg)))
