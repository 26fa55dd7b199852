"""How a command ends when a user's mistake stopped it: one line that says so, and exit code 1, without a traceback."""

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

import datasets
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from transformers.utils import logging

from runtime.errors import UndertoneError

T = TypeVar("T")


def command(main: Callable[[DictConfig], T]) -> Callable[[DictConfig], T]:
    """Wrap the body of a Hydra app. Only errors that a user can mend are shortened; bugs keep their traceback."""

    @functools.wraps(main)
    def run(cfg: DictConfig) -> T:
        logging.disable_progress_bar()  # a bar for every checkpoint that is read or written hides our own lines
        logging.set_verbosity_error()
        datasets.disable_progress_bars()
        try:
            return main(cfg)
        except (UndertoneError, OmegaConfBaseException) as error:
            sys.exit(f"error: {error}")

    return run
