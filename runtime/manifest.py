"""What made a run: code, versions, machine, seed, config and data, once for every attempt. Never a secret."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from runtime.errors import StageError
from runtime.files import digest, sha256, write_json
from runtime.secrets import redact, redact_command
from runtime.trackers.base import Artifact

PACKAGES = (
    "undertone torch torchvision transformers trl accelerate peft datasets deepspeed tokenizers safetensors numpy scipy "
    "librosa av vllm"
).split()


def _git() -> dict[str, Any] | None:
    """Revision of the code and whether it was changed; None outside a git checkout."""

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"revision": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    """The class of machine, not its name."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "ranks": int(os.environ.get("WORLD_SIZE", "1")),
    }


def note_lineage(run: Path, stage: str, used: Sequence[Artifact], made: Sequence[Artifact]) -> None:
    """Write down in `run/manifest.json`, under `lineage`, what a stage has read and written."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    lines = [{a.name: {"path": str(a.path), "sha256": dict(a.hashes)} for a in some} for some in (used, made)]
    manifest.setdefault("lineage", {})[stage] = dict(zip(("used", "made"), lines, strict=True))
    write_json(path, manifest)


def write_manifest(
    run: Path, config: Mapping[str, Any], *, seed: int, parent: str | None, inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """Write `run/manifest.json`, or add an attempt to it when the run is continued.

    Args:
        run: the run folder.
        config: the resolved config; only its hash (without secrets) is kept here.
        seed: of the run.
        parent: the checkpoint that this attempt starts from, if it is not the run's own.
        inputs: data files by name; their contents are hashed.

    Returns:
        What was written: `started`, `seed`, and per attempt date, command, parent, config, inputs, git, python, packages,
        machine.

    Raises:
        StageError: when an input is missing, or the run was begun with another seed.
    """
    for name, path in inputs.items():
        if not path.is_file():
            raise StageError(f"input {name!r}: there is no file {path}; mend the path in the config")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    attempt = {
        "at": now,
        "command": redact_command(sys.argv),
        "parent": parent,
        "config": digest(redact(config)),
        "inputs": {name: {"path": str(path), "sha256": sha256(path)} for name, path in inputs.items()},
        "git": _git(),
        "python": platform.python_version(),
        "packages": _versions(),
        "machine": _machine(),
    }
    path = run / "manifest.json"
    manifest = json.loads(path.read_text()) if path.is_file() else {"started": now, "seed": seed, "attempts": []}
    if manifest["seed"] != seed:
        raise StageError(
            f"{run} was begun with seed {manifest['seed']}, not with seed {seed}; choose another run.name, or go back to the "
            "old seed"
        )
    manifest["attempts"].append(attempt)
    write_json(path, manifest)
    return manifest
