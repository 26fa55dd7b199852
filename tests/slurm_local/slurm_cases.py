"""What the tests on a real SLURM have in common: a small run, and how a job is submitted and waited for."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from verbs import ROOT

LIMIT = 1500
"""Seconds after which a job that hangs is given up; it is slow machines that need them."""
SMALL = [  # as little as there can be of all of it, on two ranks with two micro-batches a step
    "debug=smoke",
    "model.perception=null",
    "task.train=12",
    "task.dev=0",
    "task.test=0",
    "synth.limit=8",
    "sft.batch=2",
    "sft.accumulation=2",
    "sft.holdout=0",
    "sft.save_every=100",
    "rl.max_steps=6",
    "rl.prompts=2",
    "rl.accumulation=2",
    "rl.parity_every=100",
    "rl.eval_every=0",
    "rl.save_every=100",
    "rl.warmup=0",
]
RESOURCES = ["--gpus-per-node=0", "--cpus-per-task=1", "--mem=1G", "--time=60"]


def until(happened: Callable[[], object], what: str) -> None:
    """Look again and again, and give up with a name for it."""
    end = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < end, f"waited {LIMIT} s for {what}"
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster and what its jobs find in their environment."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, log: Path, *command: str) -> str:
        """Submit a batch script; gives the number of the job."""
        return self.ask("sbatch", "--parsable", f"--output={log}", *RESOURCES, *command)

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, ...; of an array, of all its tasks."""
        return self.ask("squeue", "--noheader", "--states=all", "--array", f"--jobs={job}", "--format=%T")

    def finish(self, job: str, log: Path) -> str:
        """Wait until a job has ended well; gives its log."""
        until(
            lambda: self.state(job) not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"), f"job {job}"
        )
        said = log.read_text()
        assert self.state(job) == "COMPLETED", said
        return said
