"""The batch scripts on a real SLURM: jobs of two nodes finish, and one that is stopped ends with the weights of one that is not."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cases import SMALL, Cluster, until
from verbs import call

from runtime.files import read_jsonl

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run folder of a cold start on two nodes, with its log beside it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    made = call("data_synth", [*SMALL, f"hydra.run.dir={run}"], run.parent / "log", cluster.environment)
    assert made.code == 0, made.text
    log = run.parent / "sft.out"
    job = cluster.submit(log, "--nodes=2", "slurm/train.sbatch", "sft", *SMALL, f"hydra.run.dir={run}")
    cluster.finish(job, log)
    yield run
    shutil.rmtree(run)


def test_a_cold_start_on_two_nodes_finishes(trained: Path):
    said = (trained.parent / "sft.out").read_text()
    assert "finished after 0 restart(s)" in said and (trained / "done-sft").is_file()
    assert '"ranks": 2' in (trained / "manifest.json").read_text()
    assert (trained / "sft" / "final" / "model.safetensors").is_file()
    assert read_jsonl(trained / "sft" / "metrics.jsonl")[-1]["step"] == 60  # as debug=smoke has it


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job of reinforcement on two nodes."""

    number: str
    run: Path
    log: Path

    @property
    def weights(self) -> bytes:
        return (self.run / "rl" / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def submit(trained: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Submitted]:
    """Submits one by name."""
    folder = tmp_path_factory.mktemp("reinforced")

    def submit(name: str) -> Submitted:
        run, log = folder / name, folder / f"{name}.out"
        shutil.copytree(trained, run)
        arguments = [*SMALL, f"rl.init={trained}/sft/final", f"hydra.run.dir={run}"]
        return Submitted(cluster.submit(log, "--nodes=2", "slurm/train.sbatch", "rl", *arguments), run, log)

    return submit


@pytest.fixture(scope="module")
def whole(submit: Callable[[str], Submitted], cluster: Cluster) -> Submitted:
    """One that was left alone."""
    job = submit("whole")
    assert "finished after 0 restart(s)" in cluster.finish(job.number, job.log)
    return job


def test_reinforcement_on_two_nodes_finishes(whole: Submitted, trained: Path):
    said_by = [
        len(read_jsonl(path)) for path in sorted((whole.run / "rl" / "rollouts").glob("step_000005_rank*.jsonl"))
    ]
    assert said_by == [8, 8]  # two ranks of two prompts with four completions
    assert whole.weights != (trained / "sft" / "final" / "model.safetensors").read_bytes()  # something was learnt


@pytest.mark.parametrize("number", ["TERM", "USR1"])
def test_reinforcement_that_is_stopped_and_requeued_ends_with_the_same_weights(
    submit: Callable[[str], Submitted], whole: Submitted, cluster: Cluster, number: str
):
    stopped = submit(number)
    metrics = stopped.run / "rl" / "metrics.jsonl"
    until(lambda: metrics.is_file() and metrics.read_text(), "the first step")
    # the next step has begun, and has two micro-batches to go; as SLURM does it before the time is up, to the step alone
    cluster.ask("scancel", f"--signal={number}", f"{stopped.number}.1")
    until(lambda: "out of time; requeued (restart 1)" in stopped.log.read_text(), "the requeueing")
    (checkpoint,) = (stopped.run / "rl" / "checkpoints").glob("checkpoint-*")
    assert 1 < int(checkpoint.name.rpartition("-")[2]) < 6  # the step was finished, and it was not the last one
    said = cluster.finish(stopped.number, stopped.log)
    assert "finished after 1 restart(s)" in said
    assert whole.weights == stopped.weights
    assert max(row["grad_norm"] for row in read_jsonl(metrics)) > 0
    assert [row["step"] for row in read_jsonl(metrics)] == [1, 2, 3, 4, 5, 6]


def test_a_job_that_lacks_something_is_not_started(cluster: Cluster, tmp_path: Path):
    log = tmp_path / "out"
    nowhere = f"rl.init={tmp_path}/nowhere"
    job = cluster.submit(log, "slurm/train.sbatch", "rl", *SMALL, nowhere, f"hydra.run.dir={tmp_path}/run")
    until(lambda: cluster.state(job) == "FAILED", "the end of the job")
    said = log.read_text()
    assert f"{nowhere}: there is nothing here; mend the path" in said
    assert "the preflight found something to mend (above); nothing was started" in said
    assert os.listdir(tmp_path / "run") == ["frozen-rl.yaml"]
