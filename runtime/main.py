"""How a command begins and ends.

A user's mistake ends it with one line that says so and exit code 1, without a traceback. No secret is let in, and none out.
"""

import functools
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import datasets
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers.utils import logging as transformers_logging

from runtime.errors import UndertoneError
from runtime.secrets import redact_text, refuse_in_command, refuse_in_config

CONF = str(Path(__file__).parents[1] / "conf")
"""Every command's `config_path`. Absolute, because Hydra takes a relative one of `python -m sft` for a package."""

LONGEST = 255
"""Bytes in the name of a folder, on Linux."""

T = TypeVar("T")


def folder_name(overrides: str) -> str:
    """What a member of a sweep is called (conf/pipeline.yaml): its overrides; beyond `LONGEST` their end becomes a hash of all."""
    if len(overrides.encode()) <= LONGEST:
        return overrides
    end = f"...{sha256(overrides.encode()).hexdigest()[:12]}"
    return overrides.encode()[: LONGEST - len(end)].decode(errors="ignore") + end


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


class Crash(Exception):
    """A bug whose traceback held a secret; its text is that traceback without it."""


def verb(config_name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Make a Hydra app of the body of a command; `config_name` is the file in `conf/`.

    Overrides that hold a secret are refused before Hydra sees them: a sweep writes them to `multirun.yaml` first of all, and
    `hydra.output_subdir` to two more files.
    """

    def decorate(main: Callable[[DictConfig], object]) -> Callable[[], None]:
        app = hydra.main(version_base=None, config_path=CONF, config_name=config_name)(command(main))

        @functools.wraps(main)
        def run() -> None:
            try:
                refuse_in_command(sys.argv[1:])
            except UndertoneError as error:
                sys.exit(f"error: {error}")
            app()

        return run

    return decorate


def command(main: Callable[[DictConfig], T]) -> Callable[[DictConfig], T]:
    """Wrap the body of a Hydra app. Only errors that a user can mend are shortened; bugs keep their traceback, without secrets.

    A member of a sweep in this process raises instead of ending it: the other members are still to come.
    """

    @functools.wraps(main)
    def run(cfg: DictConfig) -> T:
        quiet()
        try:
            refuse_in_config(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
            return main(cfg)
        except UndertoneError as error:
            text = redact_text(str(error))
            if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
                raise type(error)(text) from None
            sys.exit(f"error: {text}")
        except OmegaConfBaseException as error:
            sys.exit(f"error: config: {redact_text(str(error).splitlines()[0])}; mend the config")
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            if (shown := redact_text(told)) == told:
                raise
            raise Crash(shown) from None

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
