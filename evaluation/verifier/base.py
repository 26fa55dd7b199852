"""The seam of every text emotion classifier, and where one comes from: `Cached(load_verifier("outputs/verifier"))`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from evaluation.verifier.hf import HFVerifier
from evaluation.verifier.linear import SETTINGS_FILE, load_linear
from runtime.errors import ConfigError

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class Verifier(Protocol):
    """Reads emotions from sentences."""

    @property
    def labels(self) -> tuple[str, ...]:
        """[L] names, without repetition."""
        ...

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(N, L) float64 in [0, 1]: how likely each label applies; rows of a multi-label verifier need not sum to one."""
        ...


class Cached:
    """A verifier that reads a text once per process. A row of 28 labels takes about 0.4 kB beside its text."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.asked = 0
        """How many texts the verifier itself has read."""
        self._rows: dict[str, np.ndarray] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of the verifier."""
        return self.verifier.labels

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """As the verifier's; what is new goes to it as one batch."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            self.asked += len(new)
            self._rows |= zip(new, self.verifier.probabilities(new), strict=True)
        return np.array([self._rows[text] for text in texts]).reshape(len(texts), len(self.labels))


def load_verifier(source: str | Path, device: str = "cpu") -> Verifier:
    """The verifier that `source` names.

    Args:
        source: a folder that `python -m evaluation.verifier` wrote, a folder with a sequence classifier of transformers, or
            the hub name of one.
        device: where a sequence classifier runs; the linear verifier runs on the CPU.

    Raises:
        ConfigError: when there is nothing of the kind, or it was written in another format.
    """
    folder = Path(source)
    if not folder.is_dir():
        if isinstance(source, str) and HUB_NAME.fullmatch(source) and not folder.exists():
            return HFVerifier(source, device)
        raise ConfigError(
            f"verifier: {str(source)!r} is no folder and no hub name; mend the path, or train a verifier with "
            f"python -m evaluation.verifier data=goemotions out={source}"
        )
    if (folder / SETTINGS_FILE).is_file():
        return load_linear(folder)
    if (folder / "config.json").is_file():
        return HFVerifier(str(source), device)
    raise ConfigError(
        f"verifier: {folder} holds neither {SETTINGS_FILE} (of python -m evaluation.verifier) nor config.json (of a sequence "
        f"classifier of transformers); got {sorted(p.name for p in folder.iterdir())[:5]}; name another folder"
    )
