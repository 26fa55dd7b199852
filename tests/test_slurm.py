"""The batch scripts parse, hold no experiment knob, and requeue exactly when they were told to stop."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))

STAND_INS = {
    # one node; its options are dropped
    "srun": 'while [[ $1 == --* ]]; do shift; done; SLURM_NODEID=0 SLURM_NNODES=1 "$@"',
    "scontrol": 'if [[ $1 == show ]]; then echo localhost; else echo "$@" >> "$LOG"; fi',
    "torchrun": 'echo "torchrun $*" >> "$LOG"; [[ -z ${SIGNAL:-} ]] || kill -TERM $PPID; sleep 0.2; exit "$RC"',
}


@pytest.fixture
def job(tmp_path):
    """Runs train.sbatch as SLURM would; gives its exit code, what it called, and what it printed."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    log = tmp_path / "log"

    def submit(*arguments: str, **environment: str):
        log.write_text("")
        slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
        settings = slurm | {"SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "8", "LOG": str(log), "RC": "0"}
        done = subprocess.run(
            ["bash", str(ROOT / "slurm" / "train.sbatch"), *arguments],
            env=os.environ | settings | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, log.read_text(), done.stdout + done.stderr

    return submit


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse_and_hold_no_experiment_knob(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    code = "\n".join(line for line in script.read_text().splitlines() if not line.startswith("#"))
    named = re.findall(r"[\s+~\"]((?:[a-z_]+\.)+[a-z_]+|task|model|hint|reward|optim|engine|teacher|seed)=", code)
    assert set(named) <= {
        "run.name",
        "teacher.base_url",
        "synth.shard",
    }  # where it lies, where it listens, and which part


def test_a_job_starts_one_rank_per_gpu_and_passes_the_overrides_on(job):
    code, calls, said = job("rl", "run.name=a", "hint=polarity", "note=two words")
    assert code == 0, said
    # 20000 + 7 % 10000
    assert calls == (
        "torchrun --nnodes=1 --nproc-per-node=2 --node-rank=0 --master-addr=localhost --master-port=20007 "
        "-m rl run.name=a hint=polarity note=two words\n"
    )
    assert "finished after 0 restart(s)" in said


def test_a_job_that_was_told_to_stop_is_requeued(job):
    code, calls, said = job("rl", "run.name=a", RC="1", SIGNAL="TERM", SLURM_RESTART_COUNT="3")
    assert code == 0 and calls.endswith("requeue 7\n") and "requeued (restart 4)" in said


def test_a_job_that_finished_in_spite_of_the_signal_is_not_requeued(job):
    code, calls, _ = job("rl", "run.name=a", SIGNAL="TERM")
    assert code == 0 and "requeue" not in calls


def test_a_job_that_failed_is_not_requeued_and_keeps_its_code(job):
    code, calls, said = job("rl", "run.name=a", RC="3")
    assert code == 3 and "requeue" not in calls and "failed with code 3 after 0 restart(s); not requeued" in said


def test_restarts_are_bounded(job):
    code, calls, _ = job("rl", "run.name=a", RC="1", SIGNAL="TERM", SLURM_RESTART_COUNT="2", MAX_RESTARTS="2")
    assert code == 1 and "requeue" not in calls


def test_a_run_without_a_name_is_refused_because_a_requeued_job_could_not_find_it(job):
    code, calls, said = job("rl", "hint=none")
    assert (code, calls) == (2, "") and "name the run (run.name=NAME)" in said
