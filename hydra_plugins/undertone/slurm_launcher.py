"""`hydra/launcher=slurm`: the members of a sweep as one SLURM array of slurm/train.sbatch.

So a member is a job like any other: on several nodes if asked for, its config composed once (runtime/frozen.py), saved and
requeued when its time is up. The same command again submits only what has not been finished, and waits for what still runs.

Every command of the project imports this file, as Hydra looks for its plugins; so it imports little.
"""

import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

SCRIPT = "slurm/train.sbatch"


class SlurmLauncher(Launcher):
    """Submits, waits until no member is in the queue any more, and hands back what each came to.

    Args:
        options: of sbatch, as a shell reads them.
        at_once: members that run at the same time, at most.
        poll_s: seconds between two looks at the queue.
    """

    def __init__(self, options: str, at_once: int | None, poll_s: float) -> None:
        self.options = options
        self.at_once = at_once
        self.poll_s = poll_s

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's."""
        self.context, self.config = hydra_context, config
        # `python -m rl` runs rl.stage.main, `python -m pipeline` its own
        room = task_function.__module__.partition(".")[0]
        self.verb = "pipeline" if room == "__main__" else room

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the members; one that fails is a failed `JobReturn`, and the others go on.

        Raises:
            StageError: when SLURM does not take the jobs.
        """
        from runtime.frozen import freeze, is_done

        setup_globals()
        members = [self._compose(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        folders = [Path(cfg.hydra.runtime.output_dir) for cfg in members]
        running = [folder for folder in folders if in_queue(job_of(folder, self.verb))]
        for cfg, folder in zip(members, folders, strict=True):
            if folder not in running:
                freeze(cfg, self.verb, folder)
        todo = [folder for folder in folders if folder not in running and not is_done(folder, self.verb)]
        print(
            f"sweep {self._sweep()}: {len(folders)} members, {len(todo)} to submit, {len(running)} in the queue",
            flush=True,
        )
        if todo:
            self._submit(todo)
        self._wait([*todo, *running])
        pairs = zip(members, job_overrides, strict=True)
        return [self._result(cfg, overrides) for cfg, overrides in pairs]

    def _sweep(self) -> Path:
        return Path(str(self.config.hydra.sweep.dir))

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        HydraConfig.instance().set_config(cfg)
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str((self._sweep() / str(cfg.hydra.sweep.subdir)).absolute())
        return cfg

    def _submit(self, folders: Sequence[Path]) -> None:
        from runtime.errors import StageError

        limit = f"%{self.at_once}" if self.at_once else ""
        (self._sweep() / "slurm").mkdir(parents=True, exist_ok=True)
        command = [
            "sbatch",
            "--parsable",
            f"--array=0-{len(folders) - 1}{limit}",
            f"--job-name={self._sweep().name}",
            f"--output={self._sweep().absolute()}/slurm/%A_%a.out",
            *shlex.split(self.options),
            SCRIPT,
            self.verb,
            "--frozen",
            *map(str, folders),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise StageError(
                f"hydra/launcher=slurm: sbatch does not take the sweep: {said}; mend hydra.launcher.options={self.options!r}, and "
                "call this from the root of the project on a machine that can submit"
            ) from None
        array = done.stdout.strip().partition(";")[0]  # a federation adds the name of the cluster
        for number, folder in enumerate(folders):
            _job_file(folder, self.verb).write_text(f"{array}_{number}\n")
        print(
            f"submitted as array {array}; logs are in {self._sweep()}/slurm. Waiting; if this is stopped, the jobs go on, and "
            "the same command waits again",
            flush=True,
        )

    def _wait(self, folders: Sequence[Path]) -> None:
        left = {folder: job_of(folder, self.verb) for folder in folders}
        while left := {folder: job for folder, job in left.items() if in_queue(job)}:
            time.sleep(self.poll_s)

    def _result(self, cfg: DictConfig, overrides: Sequence[str]) -> JobReturn:
        from evaluation.sweep import objective
        from runtime.errors import StageError
        from runtime.frozen import is_done

        folder = Path(cfg.hydra.runtime.output_dir)
        result = JobReturn(overrides=list(overrides), cfg=cfg, hydra_cfg=cfg, working_dir=str(folder))
        if is_done(folder, self.verb):
            result.status, result.return_value = JobStatus.COMPLETED, objective(folder, self.verb)
        else:
            log = f"{self._sweep()}/slurm/{job_of(folder, self.verb)}.out"
            problem = StageError(
                f"{folder}: {self.verb} did not finish; why is in {log}; the same command goes on with it"
            )
            print(f"error: {problem}", flush=True)
            result.status, result.return_value = JobStatus.FAILED, problem
        return result


def _job_file(folder: Path, verb: str) -> Path:
    return folder / f"job-{verb}"


def job_of(folder: Path, verb: str) -> str | None:
    """The SLURM job that a member was last submitted as, such as 12_3."""
    path = _job_file(folder, verb)
    return path.read_text().strip() if path.is_file() else None


def in_queue(job: str | None) -> bool:
    """Whether SLURM still has it: waiting, running, or on its way out."""
    if job is None:
        return False
    asked: Any = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True
    )
    if asked.returncode and "Invalid job id" not in asked.stderr:  # the controller is busy, or away: nothing is known
        return True
    return bool(asked.stdout.strip())
