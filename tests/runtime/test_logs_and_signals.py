"""Rows and checkpoints of a run that was stopped read like those of a run that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from runtime.logs import MetricsCallback
from runtime.signals import StopTogether

STEPS = 8


class Line(nn.Module):
    """y = a x + b, with noise, so that the state of the random numbers matters."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, x, y):
        return {"loss": ((self.line(x + 0.1 * torch.randn_like(x)) - y) ** 2).mean()}


class At(TrainerCallback):
    """Do something when a step begins."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.action()


def trainer(folder: Path, *callbacks) -> Trainer:
    torch.manual_seed(0)
    data = [{"x": torch.tensor([i / 10]), "y": torch.tensor([i / 5 + 1])} for i in range(10)]
    args = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        learning_rate=0.1,
        logging_steps=1,
        save_steps=100,
        save_strategy="steps",
        eval_strategy="steps",
        eval_steps=4,
        eval_on_start=True,
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["y"],
        seed=1,
    )
    callbacks = [MetricsCallback(folder / "metrics.jsonl", "fit"), StopTogether(), *callbacks]
    made = Trainer(model=Line(), args=args, train_dataset=data, eval_dataset=data[:4], callbacks=callbacks)
    made.remove_callback(PrinterCallback)
    return made


def rows(folder: Path):
    timing = ("runtime", "per_second")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith(timing)} for row in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    done = trainer(folder)
    done.train()
    return rows(folder), {k: v.clone() for k, v in done.model.state_dict().items()}


def test_every_logged_row_is_one_json_line_with_its_step(whole):
    assert [row["step"] for row in whole[0] if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in whole[0] if "eval_loss" in row] == [0, 4, 8]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_after_the_step_and_the_continued_run_ends_with_the_same_weights_and_rows(
    tmp_path, whole, number
):
    before = signal.getsignal(number)
    stopped = trainer(tmp_path, At(4, lambda: os.kill(os.getpid(), number)))
    stopped.train()
    assert stopped.state.global_step == 4 < STEPS
    assert signal.getsignal(number) == before
    assert [p.name for p in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]

    continued = trainer(tmp_path)
    continued.train(resume_from_checkpoint=True)
    assert rows(tmp_path) == whole[0]
    assert all(torch.equal(v, whole[1][k]) for k, v in continued.model.state_dict().items())


def test_rows_after_the_checkpoint_are_dropped_and_a_torn_line_is_forgiven(tmp_path, whole):
    trainer(tmp_path, At(4, lambda: os.kill(os.getpid(), signal.SIGTERM))).train()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "epoch": 1.0, "loss": 9.0}\n{"step": 6, "ep')  # a kill -9 after the checkpoint
    trainer(tmp_path).train(resume_from_checkpoint=True)
    assert rows(tmp_path) == whole[0]


def test_stopping_waits_for_a_multiple_of_the_given_number_of_steps(tmp_path):
    fit = trainer(tmp_path, StopTogether(every=4), At(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    fit.remove_callback(next(c for c in fit.callback_handler.callbacks if isinstance(c, StopTogether) and c.every == 1))
    fit.train()
    assert fit.state.global_step == 4


def test_training_stops_by_itself_when_the_job_is_about_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERTONE_SAVE_BY", str(time.time() + 3600))
    assert trained(tmp_path / "early") == STEPS
    monkeypatch.setenv("UNDERTONE_SAVE_BY", str(time.time() - 1))
    assert trained(tmp_path / "late") == 1
    assert (tmp_path / "late" / "checkpoints" / "checkpoint-1" / "trainer_state.json").is_file()
    monkeypatch.setenv("UNDERTONE_SAVE_BY", "")  # a job without a limit
    assert trained(tmp_path / "never") == STEPS


def trained(folder: Path) -> int:
    """The step that a training in this folder comes to."""
    folder.mkdir()
    fit = trainer(folder)
    fit.train()
    return fit.state.global_step


def test_who_listened_to_a_signal_before_hears_of_it_when_all_is_saved(tmp_path):
    heard = []
    saved = tmp_path / "checkpoints" / "checkpoint-2" / "trainer_state.json"
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append((number, saved.is_file())))
    try:
        fit = trainer(tmp_path, At(2, lambda: os.kill(os.getpid(), signal.SIGUSR2)))
        fit.train()
        os.kill(os.getpid(), signal.SIGUSR2)  # it has the signal back
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert fit.state.global_step == 2
    assert heard == [(signal.SIGUSR2, True)] * 2


def test_the_console_line_tells_step_loss_pace_and_time_left(tmp_path, capsys):
    trainer(tmp_path).train()
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"fit 2/{STEPS}"))
    assert [part.split()[0] for part in line.split("  ")[1:2]] == ["loss"]
    assert "s/step  ETA 0:0" in line


def test_numbers_that_are_not_finite_become_null(tmp_path):
    fit = trainer(tmp_path)
    callback = next(c for c in fit.callback_handler.callbacks if isinstance(c, MetricsCallback))
    callback.path.write_text("")
    callback.on_log(
        fit.args, fit.state, fit.control, logs={"loss": float("nan"), "grad_norm": float("inf"), "kind": "x"}
    )
    assert rows(tmp_path) == [{"step": 0, "epoch": 0, "loss": None, "grad_norm": None}]


RANKS = """
import os, signal, sys
from types import SimpleNamespace
import torch.distributed as dist
from transformers import TrainerControl, TrainerState
from runtime.signals import StopTogether

child = os.fork()
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0 if child else 1, world_size=2)
stop, args, stopped = StopTogether(), SimpleNamespace(device="cpu"), None
stop.on_train_begin(args, TrainerState(), TrainerControl())
for step in range(1, 7):
    if step == 3 and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    control = TrainerControl()
    stop.on_step_end(args, TrainerState(global_step=step), control)
    if control.should_training_stop:
        print(f"<{dist.get_rank()} {step} {control.should_save}>", flush=True)
        break
dist.destroy_process_group()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_ranks_stop_at_the_same_step_when_one_of_them_is_told_to(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "meet")],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "<0 3 True>" in done.stdout and "<1 3 True>" in done.stdout


class Told:
    """A tracker that remembers what it was told."""

    def __init__(self):
        self.rows = []

    def row(self, step, values):
        self.rows.append({"step": step, **values})


def test_a_tracker_is_told_every_row_of_the_file_and_at_the_start_those_that_it_may_lack(tmp_path):
    first, second = Told(), Told()
    told_by(first, trainer(tmp_path, At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))).train()
    told_by(second, trainer(tmp_path)).train(resume_from_checkpoint=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    names = [{"step": row.pop("step")} | {shown(k): v for k, v in row.items()} for row in lines]
    assert second.rows == names and {"train/loss", "train/epoch", "eval/loss"} <= {k for row in names for k in row}
    assert first.rows == names[: len(first.rows)] and first.rows[-1]["step"] == 4


def shown(key):
    return "eval/" + key[5:] if key.startswith("eval_") else "train/" + key


def told_by(told, made):
    next(c for c in made.callback_handler.callbacks if isinstance(c, MetricsCallback)).tracker = told
    return made
