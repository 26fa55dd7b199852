"""One run told to all back ends that are asked for, through kills and continuations.

A back end only takes rows on, so a row that was sent before a kill must not be sent again when its step is repeated, and one
that was lost must be. What a back end surely has is kept beside the stage, in `trackers.json`: {"wandb": {"id", "step"}, ...}.
It writes to disk twice a second, so that a row is safe after SAFE seconds; what a kill leaves unsure is sent again. So each
attempt begins where the last one was safe, the steps of those last seconds may be there twice, and none is missing.
"""

import json
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runtime.cluster import first_rank
from runtime.files import write_json
from runtime.trackers.base import About, Artifact, Backend, Cell, Kind

TRACKERS = ("wandb", "trackio")
SAFE = 2.0
"""Seconds."""


@dataclass
class _Line:
    """One back end, and what it is known to have."""

    backend: Backend
    id: str
    had: int
    """The last step that was safe when it was opened; -1 for none."""
    unsure: deque[tuple[float, int]] = field(default_factory=deque)
    """When each of the latest rows was sent, and its step."""

    def sent(self, step: int) -> None:
        self.unsure.append((time.monotonic(), step))
        while self.unsure[0][0] < time.monotonic() - SAFE:
            self.unsure.popleft()

    @property
    def safe(self) -> int:
        """Further rows of the oldest unsure step may be unsure, too."""
        return max(self.had, self.unsure[0][1] - 1) if self.unsure else self.had


class Tracker:
    """All back ends of one stage; none of them is fine.

    Args:
        run: the run folder.
        folder: of the stage.
        lines: the back ends by name.
    """

    def __init__(self, run: Path, folder: Path, lines: Mapping[str, _Line]) -> None:
        self._run, self._folder, self._lines = run, folder, lines
        self.inputs: list[Artifact] = []
        self.outputs: list[Artifact] = []

    @property
    def next(self) -> int:
        """A step that is new to all of them, for a stage without steps."""
        return 1 + max((line.had for line in self._lines.values()), default=-1)

    def wants(self, step: int) -> bool:
        """Whether anybody lacks what belongs to this step."""
        return any(step > line.had for line in self._lines.values())

    def row(self, step: int, values: Mapping[str, float | None]) -> None:
        """Tell some numbers of a step. Steps of one call of the stage never fall; None is no number and left out."""
        known = {name: value for name, value in values.items() if value is not None}
        for line in self._new(step):
            line.backend.row(step, known)

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Cell]]) -> None:
        """Tell a table of a step; all rows have the same columns. An empty one is not told."""
        for line in self._new(step) if rows else ():
            line.backend.table(step, name, rows)

    def _new(self, step: int) -> Iterator[_Line]:
        for line in self._lines.values():
            if step > line.had:
                yield line
                line.sent(step)
                self._remember()

    def used(self, path: Path) -> None:
        """Tell what the stage reads: a file of records or chains, or a checkpoint folder."""
        artifact = Artifact.of("model" if path.is_dir() else "dataset", path, self._run)
        self.inputs.append(artifact)
        for line in self._lines.values():
            line.backend.used(artifact)

    def made(self, kind: Kind, path: Path) -> None:
        """Tell what the stage has written: a file, or a checkpoint folder."""
        artifact = Artifact.of(kind, path, self._run)
        self.outputs.append(artifact)
        for line in self._lines.values():
            line.backend.made(artifact)

    def _remember(self) -> None:
        state = {name: {"id": line.id, "step": line.safe} for name, line in self._lines.items()}
        write_json(self._folder / "trackers.json", state)

    def close(self, failed: bool) -> None:
        """Close all back ends; whatever they were told is safe then."""
        for line in self._lines.values():
            line.backend.finish(failed)
            if line.unsure:
                line.had = line.unsure[-1][1]
                line.unsure.clear()
        if self._lines:
            self._remember()


@contextmanager
def open_tracker(report_to: Sequence[str], run: Path, about: About) -> Iterator[Tracker]:
    """The tracker of a stage, open while it works; on ranks other than the first it tells nobody.

    Args:
        report_to: some of TRACKERS.
        run: the run folder.
        about: the stage.
    """
    path, lines = about.folder / "trackers.json", dict[str, _Line]()
    about.folder.mkdir(parents=True, exist_ok=True)
    state = json.loads(path.read_text()) if path.is_file() else {}
    for name in report_to if first_rank() else ():
        known = state.get(name) or {"id": uuid.uuid4().hex[:8], "step": -1}
        lines[name] = _Line(_open(name, about, known["id"]), known["id"], known["step"])
    tracker = Tracker(run, about.folder, lines)
    if lines:
        tracker._remember()
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.close(failed)


def _open(name: str, about: About, id: str) -> Backend:
    """Imports only what is asked for."""
    match name:
        case "wandb":
            from runtime.trackers.to_wandb import WandB

            return WandB(about, id)
        case "trackio":
            from runtime.trackers.to_trackio import Trackio

            return Trackio(about, id)
    raise AssertionError(f"the config was checked: {name}")
