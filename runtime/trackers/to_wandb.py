"""Weights & Biases. Without an account it writes to `folder/wandb`, which `wandb sync` uploads later. W&B online: not run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from runtime.trackers.base import STEP, About, Artifact, Backend, Cell, Clip

DATA = "WANDB_DATA_DIR"
"""Where W&B keeps files until they are uploaded; it reads the variable whenever it does."""


class WandB(Backend):
    """A W&B run, offline without WANDB_API_KEY (unless WANDB_MODE says otherwise). A process has one at a time."""

    def __init__(self, about: About, id: str) -> None:
        self._placed = DATA not in os.environ
        if self._placed:  # else the clips of tables would lie in the home directory until they are uploaded
            os.environ[DATA] = str(about.folder / "wandb")
        wandb.setup(wandb.Settings(silent=True))  # before it advertises Weave where it sees openai
        offline = "WANDB_MODE" not in os.environ and not os.environ.get("WANDB_API_KEY")
        self._run = wandb.init(
            project=about.project,
            group=about.group,
            job_type=about.job_type,
            tags=list(about.tags),
            name=about.name,
            id=id,
            resume="allow",
            dir=about.folder,
            config=dict(about.config),
            mode="offline" if offline else None,
            settings=wandb.Settings(
                x_transaction_log_flush_interval=0.5,  # the default of 15 s loses a whole short run on SIGKILL
                disable_git=True,  # the address of a remote may hold a token; the config has the revision
                save_code=False,
                console="off",
                silent=True,
            ),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        if self._run.offline:
            print(f"W&B is offline; to upload: wandb sync {Path(self._run.dir).parent}", flush=True)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """See `Backend`."""
        self._run.log({STEP: step, **values})

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Cell]]) -> None:
        """See `Backend`. Each step's table is a file of its own, so that none takes another's place."""
        columns: list[Any] = list(rows[0])
        data: list[Any] = [[_cell(row[column]) for column in columns] for row in rows]
        self._run.log({STEP: step, name: wandb.Table(columns=columns, data=data, allow_mixed_types=True)})

    def used(self, artifact: Artifact) -> None:
        """See `Backend`. The maker has logged the same name and contents, which is how W&B joins the two.

        `use_artifact` refuses to work offline; what it calls online writes the same to the run's file.
        """
        self._run._log_artifact(_reference(artifact), use_after_commit=True)

    def made(self, artifact: Artifact) -> None:
        """See `Backend`."""
        self._run.log_artifact(_reference(artifact))

    def finish(self, failed: bool) -> None:
        """See `Backend`."""
        self._run.finish(exit_code=int(failed))
        if self._placed:
            del os.environ[DATA]


def _cell(value: Cell) -> object:
    if not isinstance(value, Clip):
        return value
    path = str(value.path)
    match value.kind:
        case "audio":
            return wandb.Audio(path)
        case "image":
            return wandb.Image(path)
        case "video":
            return wandb.Video(path, format="mp4")


def _reference(artifact: Artifact) -> wandb.Artifact:
    made = wandb.Artifact(
        artifact.name, artifact.kind, metadata={"path": str(artifact.path), "sha256": dict(artifact.hashes)}
    )
    for name, uri in artifact.files.items():
        made.add_reference(
            uri, name=name, checksum=False
        )  # the name has the hash; another one would read every byte again
    return made
