"""E1 and E4: cold starts, arms, evaluations, in folders that say what they are; what is done is not done again."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evidence.plan import COLD, POLICY, STUDIO, Overrides
from runtime.errors import StageError
from tasks.record import read_records, write_records


def verb(name: str, folder: Path, overrides: Sequence[str]) -> None:
    """Run a verb as a user does; its output goes to a log beside the run.

    Raises:
        StageError: with the end of the log, when the command fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name.replace(' ', '_')}.log"
    with log.open("w") as out:
        command = [sys.executable, "-m", *name.split(), f"hydra.run.dir={folder}", *overrides]
        code = subprocess.run(command, stdout=out, stderr=out).returncode
    if code:
        raise StageError(f"{' '.join(command)}: ended with {code}; {log} ends with:\n{log.read_text()[-2000:]}")


def with_data_of(other: Path, folder: Path) -> None:
    """Take over the clips of another run, which need not be rendered again."""
    if not (folder / "data").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(other / "data", folder / "data")


def cold_start(out: Path, seed: int) -> Path:
    """The run folder of a seed's cold start, evaluated."""
    chains, folder = easy_chains(out), out / "cold" / f"seed{seed}"
    if not (folder / "eval" / "sft" / "stage.json").is_file():
        with_data_of(out / "synth", folder)
        overrides = (*STUDIO, f"seed={seed}", f"sft.chains={chains}", *COLD)
        verb("sft", folder, overrides)
        verb("evaluation", folder, overrides)
    return folder


def easy_chains(out: Path) -> Path:
    """A file of the accepted chains whose clips have no conflict."""
    path, folder = out / "easy.jsonl", out / "synth"
    if not path.is_file():
        verb("data_synth", folder, STUDIO)
        easy = [r for r in read_records(folder / "synth" / "chains.jsonl") if not r.meta["conflict"]]
        write_records(path, easy)
    return path


def arm(out: Path, name: str, overrides: Overrides, seed: int) -> Path:
    """The run folder of an arm, trained and evaluated."""
    cold, folder = out / "cold" / f"seed{seed}", out / name.replace(" ", "_") / f"seed{seed}"
    if not (folder / "eval" / "rl" / "stage.json").is_file():
        with_data_of(cold, folder)
        chains = out / "synth" / "synth" / "chains.jsonl"
        everything = (
            *STUDIO,
            f"seed={seed}",
            f"rl.init={cold / 'sft' / 'final'}",
            f"rl.chains={chains}",
            *POLICY,
            *overrides,
        )
        verb("rl", folder, everything)
        verb("evaluation", folder, everything)
    return folder


def run(out: Path, arms: Mapping[str, Overrides], seeds: Sequence[int], jobs: int) -> None:
    """Everything, seed by seed, so that what is there when time is up is whole seeds."""
    easy_chains(out)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda seed: cold_start(out, seed), seeds))
        list(pool.map(lambda job: arm(out, *job), [(n, o, seed) for seed in seeds for n, o in arms.items()]))
