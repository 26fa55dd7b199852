"""`hydra/launcher=slurm` with stand-ins for sbatch and squeue: what is submitted, what is left alone, and what each came to."""

import os
import time
from pathlib import Path

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf

from runtime.errors import StageError
from runtime.files import write_json
from runtime.frozen import done_file
from runtime.main import CONF
from sft.stage import main

SEEDS = [["seed=1"], ["seed=2"], ["seed=3"]]
STAND_INS = {
    "sbatch": 'echo "$*" >> "$LOG"; [[ -z ${REFUSED:-} ]] || { echo "no such partition" >&2; exit 1; }; echo 12',
    "squeue": 'for a in "$@"; do [[ $a != --jobs=* ]] || grep -sxF "${a#--jobs=}" "$QUEUE"; done; true',
}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs the sweep; gives its results and the calls of sbatch."""
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(log))
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))

    def run(*overrides: str):
        log.write_text("")
        loader = ConfigLoaderImpl(create_config_search_path(CONF))
        asked = ["hydra/launcher=slurm", "hydra.launcher.poll_s=0.01", f"hydra.sweep.dir={tmp_path}/s", *overrides]
        cfg = loader.load_configuration("sft", asked, RunMode.MULTIRUN)
        launcher = instantiate(cfg.hydra.launcher)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        launcher.setup(hydra_context=context, task_function=main, config=cfg)
        return launcher.launch(SEEDS, 0), log.read_text().splitlines()

    return run


def finish(folder: Path, eval_loss: float) -> None:
    """Leave what a member leaves."""
    write_json(folder / "sft" / "stage.json", {"made_from": {}, "result": {"eval_loss": eval_loss}})
    done_file(folder, "sft").touch()


def test_all_members_are_one_array_with_a_config_each(sweep, tmp_path, capsys):
    results, (call,) = sweep("hydra.launcher.options='--nodes=2 --comment=\"two words\"'", "hydra.launcher.at_once=2")
    folders = [f"{tmp_path}/s/seed={seed}" for seed in (1, 2, 3)]
    assert call == (
        f"--parsable --array=0-2%2 --job-name=s --output={tmp_path}/s/slurm/%A_%a.out --nodes=2 --comment=two words "
        f"slurm/train.sbatch sft --frozen {' '.join(folders)}"
    )
    assert [OmegaConf.load(f"{folder}/frozen-sft.yaml").seed for folder in folders] == [1, 2, 3]
    assert [OmegaConf.load(f"{folder}/frozen-sft.yaml").run.dir for folder in folders] == folders
    # none has left anything behind
    assert [result.status for result in results] == [JobStatus.FAILED] * 3
    with pytest.raises(
        StageError, match=r"seed=3: sft did not finish; why is in .*/s/slurm/12_2.out; the same command goes on"
    ):
        _ = results[2].return_value
    assert capsys.readouterr().out.count("error: ") == 3


def test_the_same_command_submits_what_is_not_done_and_waits_for_what_is_in_the_queue(
    sweep, tmp_path, monkeypatch, capsys
):
    sweep()
    finish(tmp_path / "s" / "seed=1", 0.5)
    (tmp_path / "queue").write_text("12_2\n")

    def leave_the_queue(_):
        (tmp_path / "queue").write_text("")
        finish(tmp_path / "s" / "seed=3", 0.25)

    monkeypatch.setattr(time, "sleep", leave_the_queue)
    capsys.readouterr()
    results, (call,) = sweep()
    assert "--array=0-0 " in call and call.endswith(f"--frozen {tmp_path}/s/seed=2")
    assert "3 members, 1 to submit, 1 in the queue" in capsys.readouterr().out
    assert [result.status for result in results] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.COMPLETED]
    assert (results[0].return_value, results[2].return_value) == (0.5, 0.25)


def test_nothing_is_submitted_where_all_is_done(sweep, tmp_path):
    sweep()
    for seed in (1, 2, 3):
        finish(tmp_path / "s" / f"seed={seed}", 0.5)
    results, calls = sweep()
    assert calls == [] and [result.return_value for result in results] == [0.5] * 3


def test_a_member_whose_config_has_changed_is_not_done(sweep, tmp_path):
    sweep()
    for seed in (1, 2, 3):
        finish(tmp_path / "s" / f"seed={seed}", 0.5)
    path = tmp_path / "s" / "seed=2" / "frozen-sft.yaml"
    path.write_text(path.read_text().replace("max_steps:", "max_steps: 1 #"))
    _, (call,) = sweep()
    assert call.endswith(f"--frozen {tmp_path}/s/seed=2")


def test_a_sweep_that_slurm_does_not_take_is_an_error_that_says_why(sweep, monkeypatch):
    monkeypatch.setenv("REFUSED", "1")
    with pytest.raises(StageError, match="sbatch does not take the sweep: no such partition; mend hydra"):
        sweep("hydra.launcher.options='-p x'")
