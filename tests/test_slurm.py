"""The batch scripts parse, hold no experiment knob, and requeue exactly when they were told to stop or their time is up."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))

STAND_INS = {
    # one node; its options are dropped
    "srun": 'while [[ $1 == --* ]]; do shift; done; SLURM_NODEID=0 SLURM_NNODES=1 exec "$@"',
    "scontrol": 'if [[ $1 == show ]]; then echo localhost; else echo "$@" >> "$LOG"; fi',
    # when the job ends; of the number of an array, every task does
    "squeue": 'echo "${END:-N/A}"; [[ $* != *"--jobs=7 "* || -z ${SLURM_ARRAY_JOB_ID:-} ]] || echo "${END:-N/A}"',
    "python": """
        [[ $1 != -c ]] || exec grep -q models.engine.serve "$LOG"  # the question whether the server answers
        echo "python $*" >> "$LOG"
        case "$2" in
          runtime.frozen) echo outputs/a;;
          runtime.preflight) exit "${FOUND:-0}";;
          models.engine.serve) exec sleep 60;;
        esac""",
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
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    (tmp_path / "outputs" / "a").mkdir(parents=True)
    log = tmp_path / "log"

    def submit(*arguments: str, **environment: str):
        log.write_text("")
        slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
        slurm |= {"SLURM_JOB_NUM_NODES": "1", "POLL_SECONDS": "0.05", "VENV": ".venv"}
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
    named = re.findall(r"[\s+~(\"]((?:[a-z_]+\.)+[a-z_]+|task|model|hint|reward|optim|engine|teacher|seed)=", code)
    # where it lies, where it listens, and which part
    assert set(named) <= {"run.name", "hydra.run.dir", "teacher.base_url", "engine.vllm.url", "synth.shard"}


def test_a_job_composes_once_looks_and_starts_one_rank_per_gpu(job, tmp_path):
    code, calls, said = job("rl", "run.name=a", "hint=polarity", "note=two words")
    assert code == 0, said
    folder = tmp_path / "outputs" / "a"
    # 20000 + 7 % 10000
    assert calls.splitlines() == [
        "python -m runtime.frozen rl run.name=a hint=polarity note=two words",
        f"python -m runtime.preflight {folder}/frozen-rl.yaml --gpus=2 --port=20007",
        "torchrun --nnodes=1 --nproc-per-node=2 --node-rank=0 --shutdown-timeout=240 "
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --master-addr=localhost --master-port=20007 "
        f"-m rl --config-path {folder} --config-name frozen-rl",
    ]
    assert "finished after 0 restart(s)" in said
    assert (folder / "done-rl").is_file()


def test_a_requeued_job_goes_on_with_the_config_it_was_submitted_with(job, tmp_path):
    job("rl", "run.name=a", RC="1")
    code, calls, said = job("rl", "run.name=a", SLURM_RESTART_COUNT="1")
    assert code == 0 and "runtime.frozen" not in calls, said
    assert f"--config-path {tmp_path}/outputs/a --config-name frozen-rl" in calls


def test_a_task_of_an_array_takes_its_own_folder(job, tmp_path):
    (tmp_path / "b=1,c=2").mkdir()
    code, calls, said = job("sft", "--frozen", "/nowhere", f"{tmp_path}/b=1,c=2", SLURM_ARRAY_TASK_ID="1")
    assert code == 0, said
    assert (
        f"-m sft --config-path {tmp_path}/b=1,c=2 --config-name frozen-sft" in calls and "runtime.frozen" not in calls
    )


def test_nothing_is_started_where_the_preflight_finds_something(job):
    code, calls, said = job("rl", "run.name=a", FOUND="1")
    assert code == 2 and "torchrun" not in calls and "the preflight found something to mend (above)" in said


def test_a_verb_of_one_process_gets_one_and_is_refused_on_several_nodes(job):
    code, calls, said = job("evaluation", "run.name=a")
    assert code == 0 and "--nnodes=1 --nproc-per-node=1 " in calls, said
    code, calls, said = job("evaluation", "run.name=a", SLURM_JOB_NUM_NODES="2")
    assert code == 2 and "torchrun" not in calls
    assert "evaluation is a single process: submit it on one node, not on 2" in said


def test_the_last_node_serves_the_engine_and_the_others_train(job, tmp_path):
    more = {"SLURM_JOB_NUM_NODES": "3", "ENGINE_NODES": "1", "ENGINE_CHECKPOINT": "/c"}
    code, calls, said = job("rl", "run.name=a", "engine=vllm", **more)
    assert code == 0, said
    # 30000 + 7 % 10000; the server ends with the job, or this would have waited a minute
    assert (
        f"python -m models.engine.serve /c {tmp_path}/outputs/a/engine-served --host 0.0.0.0 --port 30007 "
        "--tensor-parallel-size 2 --max-model-len 4096\n"
    ) in calls
    last = calls.splitlines()[-1]
    assert last.startswith("torchrun --nnodes=2 ") and "--shutdown-timeout=480 " in last
    assert last.endswith("--config-name frozen-rl engine.vllm.url=http://localhost:30007")
    code, calls, said = job("rl", "run.name=a", **more | {"ENGINE_CHECKPOINT": ""})
    assert code != 0 and "names the checkpoint that rl starts from" in said


def test_a_job_that_was_told_to_stop_is_requeued(job):
    code, calls, said = job("rl", "run.name=a", RC="1", SIGNAL="TERM", SLURM_RESTART_COUNT="3")
    assert code == 0 and calls.endswith("requeue 7\n") and "requeued (restart 4)" in said


def test_a_job_that_finished_in_spite_of_the_signal_is_not_requeued(job):
    code, calls, _ = job("rl", "run.name=a", SIGNAL="TERM")
    assert code == 0 and "requeue" not in calls


def test_a_job_that_failed_is_not_requeued_and_keeps_its_code(job, tmp_path):
    code, calls, said = job("rl", "run.name=a", RC="3")
    assert code == 3 and "requeue" not in calls and "failed with code 3 after 0 restart(s); not requeued" in said
    assert not (tmp_path / "outputs" / "a" / "done-rl").exists()


def in_seconds(seconds: int) -> str:
    """A time as squeue prints it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))


def test_a_job_whose_time_is_nearly_up_is_requeued_though_no_signal_came(job):
    code, calls, said = job("rl", "run.name=a", RC="1", END=in_seconds(200))  # 240 before its end it saves and leaves
    assert code == 0 and calls.endswith("requeue 7\n") and "requeued (restart 1)" in said
    code, calls, said = job("rl", "run.name=a", RC="1", END=in_seconds(3000))
    assert code == 1 and "requeue" not in calls
    code, calls, said = job("rl", "run.name=a", RC="1", END=in_seconds(3000), SAVE_SECONDS="3600")
    assert code == 0 and calls.endswith("requeue 7\n")


def test_the_last_task_of_an_array_bears_its_number_and_is_requeued_alone(job, tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    code, calls, said = job("sft", "--frozen", "/nowhere", str(tmp_path), RC="1", END=in_seconds(200), **array)
    assert code == 0 and calls.endswith("requeue 7_1\n"), said


def test_restarts_are_bounded(job):
    code, calls, _ = job("rl", "run.name=a", RC="1", SIGNAL="TERM", SLURM_RESTART_COUNT="2", MAX_RESTARTS="2")
    assert code == 1 and "requeue" not in calls


def test_a_run_without_a_name_is_refused_because_a_requeued_job_could_not_find_it(job):
    code, calls, said = job("rl", "hint=none")
    assert (code, calls) == (2, "") and "name the run (run.name=NAME)" in said


def submitted(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / "slurm" / "submit.sh"), *arguments], cwd=ROOT, capture_output=True, text=True)


def test_a_dry_run_prints_one_whole_script_and_submits_nothing():
    done = submitted("--dry-run", "--nodes=2", "slurm/train.sbatch", "rl", "run.name=a", "note=two words")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert options[1] == "--nodes=1" and options[-1] == "--nodes=2"  # the last one counts
    assert r"set -- rl run.name=a note=two\ words" in lines
    assert "finish() {" in lines and "start_engine() {" in lines and not any("source slurm/" in line for line in lines)
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


def test_what_is_no_script_is_refused():
    done = submitted("--dry-run", "--nodes", "2", "slurm/train.sbatch", "rl")
    assert (
        done.returncode == 2 and "2: there is no such script" in done.stderr and "write options with =" in done.stderr
    )
