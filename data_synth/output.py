"""What a synthesis has left in a run folder, for those who show it or pass it on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evaluation.page import media_root
from runtime.config import make
from runtime.errors import ConfigError, StageError
from runtime.main import CONF
from tasks.base import Task


@dataclass(frozen=True, slots=True)
class Output:
    """A synthesis that has written its files; nothing but its result is in memory."""

    run: Path
    folder: Path
    """Holds `chains.jsonl` and `rejected.jsonl`."""
    records: Path
    """What it was asked about."""
    root: Path
    """Below which the media of the records lie."""
    task: Task
    result: dict[str, Any]
    """What `data_synth.run.synthesize` returned."""
    config: DictConfig
    """Of the run, resolved and without secrets."""


def run_folder(overrides: Sequence[str]) -> Path:
    """The run folder that `run.name=NAME` (or `hydra.run.dir=FOLDER`) names, as for every verb; it is not made.

    Raises:
        ConfigError: for what is no override of the config.
    """
    try:
        with initialize_config_dir(CONF, version_base=None):
            return Path(compose("synth", list(overrides), return_hydra_config=True).hydra.run.dir)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}; name the run, run.name=NAME") from None


def read_output(run: Path) -> Output:
    """Find the synthesis of a run folder; its own `config.yaml` tells task and settings.

    Raises:
        StageError: when the run folder has none that has written its files.
    """
    folder = run / "synth"
    stage = folder / "stage.json"
    result = json.loads(stage.read_text(encoding="utf-8")).get("result") if stage.is_file() else None
    if result is None:
        raise StageError(
            f"{folder}: there is no synthesis that came to its end; run `python -m data_synth` with the same run.name first, "
            "and `python -m data_synth.merge` where it was done in shards"
        )
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    return Output(run, folder, run / "data" / "records.jsonl", media_root(run), make(config, "task"), result, config)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, one at a time."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)
