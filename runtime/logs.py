"""Where numbers go while training: a line on the console, a line in metrics.jsonl, and a row for the trackers."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from runtime.files import write_jsonl
from runtime.trackers.tracker import Tracker


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class MetricsCallback(TrainerCallback):
    """Every logged row as one JSON line `{"step", "epoch", ...}`, and a console line with the time that is left.

    When training continues from a checkpoint, the rows of later steps go: they are about to be made again. So the file of a
    run that was killed reads like that of a run that was not. Transformers prints rows as well when its progress bar is off;
    `trainer.remove_callback(PrinterCallback)` ends that.

    Args:
        path: the metrics.jsonl of one stage.
        name: of the stage, for the console.
        show: what the console line shows of a row, where the row has it.
        tracker: gets every row of the file, those of a former attempt that it lacks included.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        show: Sequence[str] = ("loss", "reward", "eval_loss"),
        tracker: Tracker | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.show = show
        self.tracker = tracker
        self._first = 0
        self._start = 0.0
        self._kept: set[frozenset[str]] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the rows of steps that are about to be repeated."""
        self._first, self._start = state.global_step, time.monotonic()
        if state.is_world_process_zero:
            rows = [row for row in _whole_rows(self.path) if row["step"] <= self._first]
            self._kept = {frozenset(row) for row in rows if row["step"] == self._first}
            write_jsonl(self.path, rows)
            for row in rows:
                self._tell(row)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log where a checkpoint is written: a running mean is not part of it, so a continued run would show another one."""
        if state.global_step % args.save_steps == 0:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one row. Values that are not finite become null, as JSON has no word for them."""
        # The closing row of `train()` sums up one attempt, not the run.
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
        row = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        row = {"step": state.global_step, "epoch": state.epoch, **row}
        if state.global_step == self._first and frozenset(row) in self._kept:
            return  # what is logged when training begins was logged before the interruption, too
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        self._tell(row)
        self._print(state, numbers)

    def _tell(self, row: Mapping[str, Any]) -> None:
        if self.tracker is not None:
            self.tracker.row(row["step"], {_shown(k): v for k, v in row.items() if k != "step"})

    def _print(self, state: TrainerState, numbers: Mapping[str, float]) -> None:
        parts = [f"{self.name} {state.global_step}/{state.max_steps}"]
        parts += [f"{k} {numbers[k]:.4g}" for k in self.show if k in numbers]
        if done := state.global_step - self._first:
            pace = (time.monotonic() - self._start) / done
            parts += [f"{pace:.3g} s/step", f"ETA {_clock(pace * (state.max_steps - state.global_step))}"]
        print("  ".join(parts), flush=True)


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file whose last line may have been cut off by a kill."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _shown(key: str) -> str:
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"
