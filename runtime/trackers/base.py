"""What a run tells, and what every back end does with it. It knows no task: media come as files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runtime.files import digest
from runtime.run import contents

STEP = "train/global_step"
"""A column of every row; W&B's own step starts again offline when a run is continued."""


@dataclass(frozen=True, slots=True)
class About:
    """What a back end is told when a run begins."""

    project: str
    group: str
    """What is compared together: usually the name of the run folder or sweep."""
    job_type: str
    """The stage."""
    tags: Sequence[str]
    config: Mapping[str, Any]
    """Resolved, without secrets."""
    folder: Path
    """Of the stage."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.group}/{self.job_type}"


@dataclass(frozen=True, slots=True)
class Clip:
    """A file that a browser plays or shows, in a cell of a table."""

    kind: Literal["audio", "image", "video"]
    path: Path


Cell = str | float | Clip | None


Kind = Literal["dataset", "model", "result"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something that one stage made and another uses. Nothing of it is copied: a back end keeps where it is and its hashes."""

    name: str
    """RUN-STAGE, the same for who made it and who uses it."""
    kind: Kind
    path: Path
    """A file, or a folder with a checkpoint."""
    hashes: Mapping[str, str]
    """Of each file, by its name: the first 16 digits of SHA-256."""

    @staticmethod
    def of(kind: Kind, path: Path, run: Path) -> "Artifact":
        """What lies at `RUN/STAGE/...`, for example `RUN/sft/final` or `RUN/synth/chains.jsonl`.

        Args:
            kind: what it is.
            path: where; in another run, one level below its stage.
            run: the folder of this run.

        Raises:
            StageError: when nothing lies there.
        """
        path, run = path.resolve(), run.resolve()
        owner, *stage = path.parts[len(run.parts) - 1 : -1] if path.is_relative_to(run) else path.parts[-3:-1]
        letters = "".join(c if c.isalnum() or c in "._-" else "_" for c in "-".join([owner, *stage]))
        return Artifact(letters, kind, path, contents(kind, path))

    @property
    def version(self) -> str:
        """One short hash of all contents."""
        return digest(dict(self.hashes))

    @property
    def files(self) -> dict[str, str]:
        """URI of each file by a name that begins with its hash: other contents in the same place are another version."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return {f"{sha}/{name}": (folder / name).as_uri() for name, sha in self.hashes.items()}


class Backend(ABC):
    """A run in one place. Its id stays when the stage is continued; the steps of an attempt never fall."""

    @abstractmethod
    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Keep some numbers of a step."""

    @abstractmethod
    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Cell]]) -> None:
        """Keep a table of a step; all rows have the same columns."""

    @abstractmethod
    def used(self, artifact: Artifact) -> None:
        """The run reads this."""

    @abstractmethod
    def made(self, artifact: Artifact) -> None:
        """The run has written this."""

    @abstractmethod
    def finish(self, failed: bool) -> None:
        """Write what is left and close."""
