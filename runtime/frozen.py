"""A job's config, composed once and kept in its run folder: ranks, requeued jobs and members of a sweep read it as it was.

Where every process composes for itself, an edit of `conf/` between submission, start and requeueing changes the run, and each
rank makes a dated folder of its own.

    python -m runtime.frozen rl run.name=a hint=polarity                      # prints outputs/a, the run folder
    python -m rl --config-path $PWD/outputs/a --config-name frozen-rl         # what the batch scripts start
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from runtime.errors import ConfigError, UndertoneError
from runtime.files import write_text
from runtime.secrets import refuse_in_config

CONF = Path(__file__).parents[1] / "conf"
# Hydra's own part of the file: neither a dated folder nor a log of its own
HYDRA = {
    "defaults": ["_self_", {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
    "hydra": {"output_subdir": None, "job": {"chdir": False}},
}


def frozen_file(folder: Path, verb: str) -> Path:
    """Where the config of a verb is kept."""
    return folder / f"frozen-{verb}.yaml"


def done_file(folder: Path, verb: str) -> Path:
    """What the batch script leaves behind when the verb has done this config to its end."""
    return folder / f"done-{verb}"


def is_done(folder: Path, verb: str) -> bool:
    """Whether a job has done what is frozen here."""
    return done_file(folder, verb).is_file()


def freeze(cfg: DictConfig, verb: str, folder: Path) -> Path:
    """Write a composed config, whatever it refers to resolved, into its run folder.

    Args:
        cfg: as Hydra composed it, its own section `hydra` included.
        verb: the module that runs it: rl, sft, data_synth, evaluation, pipeline.
        folder: of the run.

    Raises:
        ConfigError: for a key or password among the settings, which must not be written down, or a value that cannot be resolved.
    """
    folder = folder.absolute()
    before = HydraConfig.instance().cfg
    try:
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(cfg)  # copies it
        settings: Any = OmegaConf.to_container(
            OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), resolve=True
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}; state it, or mend the config") from None
    finally:
        HydraConfig.instance().cfg = before
    refuse_in_config(settings)
    hydra = HYDRA["hydra"] | {"run": {"dir": str(folder)}}
    text = f"# Composed once; `python -m {verb} --config-path {folder} --config-name frozen-{verb}` reads it.\n"
    text += OmegaConf.to_yaml(OmegaConf.create(HYDRA | {"hydra": hydra} | settings))
    path = frozen_file(folder, verb)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        done_file(folder, verb).unlink(missing_ok=True)
        write_text(path, text)
    return path


def compose_and_freeze(verb: str, overrides: Sequence[str]) -> Path:
    """Freeze one run, as `python -m VERB OVERRIDES` would compose it.

    Returns:
        The run folder.

    Raises:
        ConfigError: see `freeze`, and for overrides that do not compose.
    """
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            cfg = compose("pipeline", overrides=list(overrides), return_hydra_config=True)  # the tree of every verb
            HydraConfig.instance().set_config(cfg)
            folder = Path(str(cfg.hydra.run.dir))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}; mend the overrides {' '.join(overrides)}") from None
    freeze(cfg, verb, folder)
    return folder


if __name__ == "__main__":
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        sys.exit("usage: python -m runtime.frozen VERB OVERRIDES...")
    try:
        print(compose_and_freeze(sys.argv[1], sys.argv[2:]))
    except UndertoneError as problem:
        sys.exit(f"error: {problem}")
