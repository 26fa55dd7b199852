"""How a command ends when a user's mistake stopped it: one line that says so, and exit code 1, without a traceback."""

import functools
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import datasets
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from transformers.utils import logging as transformers_logging

from runtime.errors import UndertoneError

CONF = str(Path(__file__).parents[1] / "conf")
"""Every command's `config_path`. Absolute, because Hydra takes a relative one of `python -m sft` for a package."""

T = TypeVar("T")


def command(main: Callable[[DictConfig], T]) -> Callable[[DictConfig], T]:
    """Wrap the body of a Hydra app. Only errors that a user can mend are shortened; bugs keep their traceback.

    A member of a sweep in this process raises instead of ending it: the other members are still to come.
    """

    @functools.wraps(main)
    def run(cfg: DictConfig) -> T:
        quiet()
        try:
            return main(cfg)
        except UndertoneError as error:
            if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            sys.exit(f"error: {error}")
        except OmegaConfBaseException as error:
            sys.exit(f"error: config: {str(error).splitlines()[0]}; mend the config")

    return run


def quiet() -> None:
    """Silence what libraries say and nobody can act on, so that our own lines are seen."""
    transformers_logging.disable_progress_bar()  # one for every checkpoint that is read or written
    transformers_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    # TRL asks transformers by a name that transformers has deprecated
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # DeepSpeed is looked at even where it is not used, and then misses a GPU
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
