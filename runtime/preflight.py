"""What would stop a job after its first hour in the queue, looked for before anything is started.

    python -m runtime.preflight RUN/frozen-VERB.yaml [--free-gb 20] [--gpus N] [--port P]

The batch scripts call it on every node of a job (slurm/common.sh); on a login node it says what can be seen from there. Every
finding is printed with what to do, and the exit code is 1 if there is one.
"""

import argparse
import importlib.metadata
import os
import re
import shutil
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from packaging.requirements import Requirement

from runtime.config import flatten

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
INPUTS = re.compile(r"(^|\.)(init|chains|data)$")
"""Names of settings that are places of something to read, where they are a text."""


def places(cfg: DictConfig) -> Iterator[str]:
    """Inputs that are named in the config and are not there."""
    named = flatten(OmegaConf.to_container(cfg))
    for name, path in ((k, v) for k, v in named.items() if isinstance(v, str) and INPUTS.search(k)):
        if not Path(path).exists():
            yield f"{name}={path}: there is nothing here; mend the path, or copy it to where this node can read it"


def room(folder: Path, free_gb: float) -> Iterator[str]:
    """The run folder cannot be written, or its disk is nearly full."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".preflight-{socket.gethostname()}-{os.getpid()}"
    try:
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        yield f"{folder}: cannot be written ({error.strerror}); choose another hydra.run.dir, or mend its rights or quota"
        return
    free = shutil.disk_usage(folder).free / 1e9
    if free < free_gb:
        yield f"{folder}: {free:.1f} GB are free, {free_gb:g} are wanted (--free-gb); delete old checkpoints, or take another disk"


def packages() -> Iterator[str]:
    """Packages that are missing, or of a version that the project does not go with."""
    for line in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]:
        wanted = Requirement(line)
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{wanted.name}: not installed in {sys.prefix}; run `make setup`, or name the environment with VENV=FOLDER"
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name}: version {found} where {wanted.specifier} is needed; run `make setup`"


def port_taken(port: int) -> Iterator[str]:
    """The port where ranks are to meet belongs to somebody else."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            yield f"port {port}: {error.strerror}; submit again (the number follows that of the job), or ask for whole nodes"


def gpus_missing(gpus: int) -> Iterator[str]:
    """SLURM gave GPUs that torch cannot use."""
    if not gpus:
        return
    import torch  # takes seconds

    found = torch.cuda.device_count()
    if found != gpus:
        yield (
            f"GPUs: SLURM gave {gpus}, torch {torch.__version__} sees {found}; look at nvidia-smi and CUDA_VISIBLE_DEVICES, and "
            "whether torch is a CUDA build"
        )


def findings(config: Path, free_gb: float, gpus: int, port: int | None) -> list[str]:
    """Everything that is wrong here, a sentence each.

    Args:
        config: as `runtime.frozen` wrote it, in the run folder.
        free_gb: that the disk of the run folder must have.
        gpus: that torch must see; 0: none is looked for.
        port: that must be free on this node; None: none.
    """
    if not config.is_file():
        return [f"{config}: there is no such config; write it with `python -m runtime.frozen VERB run.name=NAME ...`"]
    cfg = OmegaConf.load(config)
    assert isinstance(cfg, DictConfig)
    found = [*places(cfg), *room(config.parent, free_gb), *packages(), *gpus_missing(gpus)]
    return found + (list(port_taken(port)) if port is not None else [])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m runtime.preflight", description="Look before a job leaps.")
    parser.add_argument("config", type=Path, help="frozen-VERB.yaml of the run folder")
    parser.add_argument("--free-gb", type=float, default=20, help="room for checkpoints (20)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that torch must see (0: not looked at)")
    parser.add_argument("--port", type=int, help="where ranks are to meet, if it is on this node")
    asked = parser.parse_args()
    if found := findings(asked.config, asked.free_gb, asked.gpus, asked.port):
        print("\n".join(f"preflight on {socket.gethostname()}: {line}" for line in found), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
