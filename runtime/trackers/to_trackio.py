"""trackio: a database and a page on this machine, without an account. `trackio show --project NAME` opens it.

Its files are where trackio keeps those of all runs, in TRACKIO_DIR or its own default, so that runs are compared on one page.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import trackio

from runtime.trackers.base import STEP, About, Artifact, Backend, Cell, Clip


class Trackio(Backend):
    """A trackio run. A process has one at a time."""

    def __init__(self, about: About, id: str) -> None:
        with redirect_stdout(io.StringIO()):  # it says where it keeps things, several times
            self._run = trackio.init(
                project=about.project,
                name=f"{about.name}-{id}",  # a run is continued by its name; two folders may have the same one
                group=about.group,
                # it knows neither job types nor tags
                config={**about.config, "job_type": about.job_type, "tags": list(about.tags)},
                resume="allow",
                embed=False,
            )
        print(f"trackio: to look at it: trackio show --project {about.project}", flush=True)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """See `Backend`."""
        self._run.log({STEP: step, **values}, step=step)

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Cell]]) -> None:
        """See `Backend`. Its tables show pictures alone, so sound and film stand beside them, once, under the table's name."""
        seen: dict[Clip, str] = {}
        for row in rows:
            for column, cell in row.items():
                if isinstance(cell, Clip) and cell not in seen:
                    seen[cell] = f"{name}/{column}_{sum(key.startswith(f'{name}/{column}_') for key in seen.values())}"
        data: list[list[Any]] = [[seen[v] if isinstance(v, Clip) else v for v in row.values()] for row in rows]
        media = {key: _media(clip) for clip, key in seen.items()}
        self._run.log({STEP: step, name: trackio.Table(columns=list(rows[0]), data=data), **media}, step=step)

    def used(self, artifact: Artifact) -> None:
        """See `Backend`. What no run of this project has made is noted as it is found."""
        try:
            self._run.use_artifact(f"{artifact.name}:{artifact.version}")
        except ValueError:  # there is none
            self.made(artifact)
            self._run.use_artifact(f"{artifact.name}:{artifact.version}")

    def made(self, artifact: Artifact) -> None:
        """See `Backend`."""
        self._run.log_artifact(_reference(artifact), aliases=[artifact.version])

    def finish(self, failed: bool) -> None:
        """See `Backend`. It does not keep how a run ended."""
        with redirect_stdout(io.StringIO()):
            trackio.finish()


def _media(clip: Clip) -> object:
    kinds = {"audio": trackio.Audio, "image": trackio.Image, "video": trackio.Video}
    return kinds[clip.kind](str(clip.path), caption=clip.path.stem)


def _reference(artifact: Artifact) -> trackio.Artifact:
    made = trackio.Artifact(
        artifact.name, artifact.kind, metadata={"path": str(artifact.path), "sha256": dict(artifact.hashes)}
    )
    for name, uri in artifact.files.items():
        made.add_reference(uri, name=name, checksum=False)
    return made
