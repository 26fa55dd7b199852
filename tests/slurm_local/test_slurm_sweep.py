"""A sweep on a real SLURM: one command, one array, one table; a member that was killed is all that the same command does again."""

import re
from pathlib import Path

import pytest
from slurm_cases import RESOURCES, SMALL, Cluster, until
from verbs import call, finish, start

from evaluation.sweep import read_sweep, table
from runtime.frozen import is_done

pytestmark = pytest.mark.slow


def members(sweep: Path) -> dict[str, bool]:
    """Name of each member, and whether it is done."""
    return {path.parent.name: is_done(path.parent, "sft") for path in sorted(sweep.glob("*/frozen-sft.yaml"))}


def test_a_sweep_of_which_one_member_is_killed_ends_in_one_table(cluster: Cluster, tmp_path: Path):
    run, sweep, log = tmp_path / "run", tmp_path / "sweep", tmp_path / "log"
    made = call("data_synth", [*SMALL, f"hydra.run.dir={run}"], log, cluster.environment)
    assert made.code == 0, made.text
    command = [
        "-m",
        "hydra/launcher=slurm",
        f"hydra.launcher.options='{' '.join(RESOURCES)} --no-requeue'",
        "hydra.launcher.at_once=2",
        "hydra.launcher.poll_s=0.5",
        f"hydra.sweep.dir={sweep}",
        "hydra.sweep.subdir='seed=${seed},sft.lr=${sft.lr},sft.packing=${sft.packing}'",  # what is swept, and no more
        f"sft.chains={run}/synth/chains.jsonl",
        *SMALL,
        "sft.max_steps=1",
        "sft.log_every=1",
        "sft.lr=1e-3,2e-3",
        "sft.packing=true,false",
        "seed=1,2",
    ]
    launcher = start("sft", command, log, cluster.environment)
    until(lambda: "submitted as array" in log.read_text() or not launcher.is_alive(), "the array")
    assert launcher.is_alive(), log.read_text()
    (array,) = re.findall(r"submitted as array (\d+);", log.read_text())
    until(lambda: cluster.state(f"{array}_3") == "RUNNING", "the fourth member")
    cluster.ask("scancel", "--signal=KILL", "--full", f"{array}_3")  # as when its memory runs out
    outcome = finish(launcher, log)
    assert outcome.code == 1, outcome.text
    assert "8 members, 8 to submit, 0 in the queue" in outcome.text
    assert len(re.findall("^error: .* sft did not finish; why is in ", outcome.text, re.M)) == 1
    done = members(sweep)
    assert len(done) == 8
    (lost,) = (name for name, is_done_ in done.items() if not is_done_)
    assert (sweep / lost / "job-sft").read_text() == f"{array}_3\n"

    again = call("sft", command, log, cluster.environment)
    assert again.code == 0, again.text
    assert "8 members, 1 to submit, 0 in the queue" in again.text
    assert members(sweep) == dict.fromkeys(done, True)

    rows = table(read_sweep(sweep), ["loss"])
    assert rows[0] == ["seed", "sft.lr", "sft.packing", "state", "loss"]
    assert {tuple(row[:3]) for row in rows[1:]} == {
        (seed, lr, packing) for seed in "12" for lr in ("0.001", "0.002") for packing in ("True", "False")
    }
    assert {row[3] for row in rows[1:]} == {"sft done"}
    assert all(float(row[4]) > 0 for row in rows[1:])
