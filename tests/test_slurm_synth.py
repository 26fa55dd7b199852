"""The batch scripts of synthesis: which teacher a shard talks to, and what becomes of a job whose time is up."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STAND_INS = {
    # the server, which lives until it is ended; the question whether it answers; and the client
    "python": """
        case "$2" in
          vllm.*) echo "server ${*:3}" >> "$LOG"; [[ -z ${DEAD:-} ]] || exit 1; exec sleep 60;;
          data_synth) echo "client ${*:3}" >> "$LOG"; [[ -z ${SIGNAL:-} ]] || { kill -TERM $PPID; exec sleep 60; }; exit "$RC";;
          *) echo "asks ${*: -1}" >> "$LOG"; [[ -z ${DEAD:-} ]];;
        esac""",
    "scontrol": 'echo "$@" >> "$LOG"',
    "squeue": '[[ -z ${ENDED:-} ]] && echo "7 RUNNING"',
}


@pytest.fixture
def job(tmp_path):
    """Runs a script as SLURM would; gives its exit code, what it called, and what it printed."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    log = tmp_path / "log"

    def submit(script: str, *arguments: str, **environment: str):
        log.write_text("")
        slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1", "VENV": ".venv"}
        done = subprocess.run(
            ["bash", str(ROOT / "slurm" / script), *arguments],
            env=os.environ | slurm | {"LOG": str(log), "RC": "0", "POLL_SECONDS": "0.05"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, log.read_text().splitlines(), done.stdout + done.stderr

    return submit


ARRAY = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}


def test_a_task_of_an_array_is_a_shard_and_passes_the_overrides_on(job):
    code, calls, said = job("synth.sbatch", "run.name=a", "teacher=cue", "note=two words", **ARRAY)
    assert (code, calls) == (0, ["client synth.shard=2/4 run.name=a teacher=cue note=two words"]), said
    assert "finished after 0 restart(s)" in said


def test_a_single_job_is_no_shard(job):
    code, calls, said = job("synth.sbatch", "run.name=a", SLURM_ARRAY_TASK_ID="0", SLURM_ARRAY_TASK_COUNT="1")
    assert (code, calls) == (0, ["client run.name=a"]), said


def test_a_task_with_gpus_has_a_server_of_its_own_which_ends_with_it(job):
    code, calls, said = job("synth.sbatch", "run.name=a", SLURM_GPUS_ON_NODE="4", TENSOR_PARALLEL="2", **ARRAY)
    assert code == 0, said
    server = next(call for call in calls if call.startswith("server"))
    # 30000 + 12 % 10000; four GPUs hold two copies of two
    assert "--host 127.0.0.1 --port 30012 " in server and "--tensor-parallel-size 2 --data-parallel-size 2 " in server
    assert '--limit-mm-per-prompt {"audio": 2, "video": 1, "image": 1}' in server and "--allowed-local" not in server
    assert calls[-1] == "client teacher.base_url=http://127.0.0.1:30012/v1 synth.shard=2/4 run.name=a"
    # run() returned, which waits until nobody holds its pipes: the server is gone


def test_a_server_may_read_the_media_of_a_shared_disk_when_it_is_told_where(job, tmp_path):
    _, calls, _ = job(
        "synth.sbatch", "run.name=a", SLURM_GPUS_ON_NODE="1", MEDIA_ROOT="/data/my clips", MODEL="/m", SERVED="t"
    )
    server = next(call for call in calls if call.startswith("server"))
    assert "--allowed-local-media-path /data/my clips" in server and "--model /m --served-model-name t " in server


def test_a_server_that_dies_ends_the_job(job):
    code, calls, said = job("synth.sbatch", "run.name=a", SLURM_GPUS_ON_NODE="1", DEAD="1")
    assert code == 1 and "the server ended before it answered" in said
    assert not any(call.startswith("client") for call in calls)


def test_workers_find_the_job_that_is_their_teacher(job, tmp_path):
    (tmp_path / "outputs" / "slurm").mkdir(parents=True)
    (tmp_path / "outputs" / "slurm" / "teacher-7").write_text("http://n3:30007\n")
    code, calls, said = job("synth.sbatch", "run.name=a", TEACHER="7", SLURM_GPUS_ON_NODE="1", **ARRAY)
    assert code == 0, said
    assert calls == [
        "asks http://n3:30007",
        "client teacher.base_url=http://n3:30007/v1 synth.shard=2/4 run.name=a",
    ]


def test_workers_do_not_wait_for_a_teacher_that_has_ended(job):
    code, calls, said = job("synth.sbatch", "run.name=a", TEACHER="7", ENDED="1", **ARRAY)
    assert (code, calls) == (1, []) and "the teacher, job 7, has ended; submit slurm/teacher.sbatch again" in said


def test_a_worker_that_was_told_to_stop_is_requeued_and_its_client_ended(job):
    code, calls, said = job("synth.sbatch", "run.name=a", SIGNAL="1", SLURM_RESTART_COUNT="3", **ARRAY)
    assert code == 0 and calls[-1] == "requeue 12_2" and "requeued (restart 4)" in said  # 12 would be the whole array


def test_restarts_of_a_worker_are_bounded_and_a_failure_is_no_reason_for_one(job):
    code, calls, said = job(
        "synth.sbatch", "run.name=a", SIGNAL="1", SLURM_RESTART_COUNT="2", MAX_RESTARTS="2", **ARRAY
    )
    assert code == 128 + 15 and "requeue 12_2" not in calls, said
    code, calls, said = job("synth.sbatch", "run.name=a", RC="3", **ARRAY)
    assert code == 3 and "requeue 12_2" not in calls and "failed with code 3 after 0 restart(s); not requeued" in said


def test_workers_without_the_name_of_a_run_are_refused(job):
    code, calls, said = job("synth.sbatch", "teacher=cue", **ARRAY)
    assert (code, calls) == (2, []) and "name the run (run.name=NAME)" in said


def test_a_teacher_for_others_says_where_it_is_until_it_ends(tmp_path, job):
    address = tmp_path / "outputs" / "slurm" / "teacher-12"
    programs = tmp_path / ".venv" / "bin" / "python"
    # a server that ends by itself once its address is there, and keeps a copy of it
    wait = f"until [[ -s {address} ]]; do sleep 0.05; done; cp {address} {tmp_path}/seen; exit 0"
    programs.write_text(STAND_INS["python"].replace("exec sleep 60", wait).join(["#!/bin/bash", "\n"]))
    code, calls, said = job("teacher.sbatch", "--max-num-seqs", "8", SLURM_GPUS_ON_NODE="2")
    assert code == 0, said
    assert (tmp_path / "seen").read_text() == "http://n1:30012\n" and not address.exists()
    server = next(call for call in calls if call.startswith("server"))
    assert "--host 0.0.0.0 " in server and "--tensor-parallel-size 2 --data-parallel-size 1 " in server
    assert server.endswith("--max-num-seqs 8")
