"""Verbs, run as a user runs them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import StageError


def verb(name: str, log: Path, overrides: Sequence[str]) -> str:
    """Run a verb as a user does, with its output in a log.

    Returns:
        The last line of the output.

    Raises:
        StageError: with the end of the log, when the command fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        command = [sys.executable, "-m", *name.split(), *overrides]
        code = subprocess.run(command, stdout=out, stderr=out).returncode
    if code:
        raise StageError(f"{' '.join(command)}: ended with {code}; {log} ends with:\n{log.read_text()[-2000:]}")
    return log.read_text().strip().rpartition("\n")[2]
