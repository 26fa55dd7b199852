"""Runs the commands of the project as separate processes, without paying for their imports every time.

A fork server imports torch, transformers, trl and the verbs once; every command is then a fresh process forked from it,
which can be killed like any other. `test_pipeline.py` starts one real `python -m pipeline` besides.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["pipeline"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    """Exit code; negative when a signal ended it."""
    text: str
    """Everything it printed, standard error included."""


def start(module: str, arguments: Sequence[str], log: Path, environment: dict[str, str]) -> BaseProcess:
    """Start `python -m module arguments` in the folder of the project; it prints to `log`."""
    log.write_text("")  # there even when it is killed at once
    process = _server.Process(target=_main, args=(module, list(arguments), log, environment), daemon=True)
    process.start()
    return process


def call(module: str, arguments: Sequence[str], log: Path, environment: dict[str, str]) -> Outcome:
    """Run a command to its end."""
    return finish(start(module, arguments, log, environment), log)


def finish(process: BaseProcess, log: Path, kill_when: Callable[[], bool] | None = None) -> Outcome:
    """Wait for the end of a command, or kill it (-9) as soon as `kill_when` says so."""
    while process.is_alive():
        if kill_when is not None and kill_when():
            process.kill()
        process.join(0.005 if kill_when is not None else 120)
    assert process.exitcode is not None
    return Outcome(process.exitcode, log.read_text())


def _main(module: str, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    os.chdir(ROOT)
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
