"""Where numbers go while training: a line on the console, a line in metrics.jsonl, and W&B when asked for."""

import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from runtime.files import write_jsonl
from runtime.manifest import redact

if TYPE_CHECKING:
    import wandb

_run: "wandb.Run | None" = None  # the open W&B run of this process, as `wandb.run` is one per process


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
    """

    def __init__(self, path: Path, name: str, show: Sequence[str] = ("loss", "reward", "eval_loss")) -> None:
        self.path = path
        self.name = name
        self.show = show
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
        if _run is not None:
            _run.log({_wandb_name(k): v for k, v in row.items()})
        self._print(state, numbers)

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


def _wandb_name(key: str) -> str:
    if key == "step":
        return "train/global_step"
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


@contextmanager
def wandb_run(
    report_to: Sequence[str],
    folder: Path,
    *,
    project: str,
    group: str,
    job_type: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
) -> Iterator["wandb.Run | None"]:
    """A W&B run around a stage, filled by `MetricsCallback`; nothing at all unless `report_to` has "wandb".

    Only rank 0 opens one. Without WANDB_API_KEY (and WANDB_MODE) it is offline, and the command that uploads it is printed.
    The id is kept in `folder/wandb_id`, so a continued stage continues its run; rows carry `train/global_step`, because
    W&B's own step starts again offline.

    Args:
        report_to: names of trackers, as in `TrainingArguments`.
        folder: of the stage; W&B's files go to `folder/wandb`.
        project: the W&B project.
        group: what is compared together, usually the name of the run or sweep.
        job_type: the stage.
        tags: free labels.
        config: the resolved config; secrets are redacted.
    """
    global _run
    if "wandb" not in report_to or int(os.environ.get("RANK", "0")):
        yield None
        return
    import wandb

    offline = "WANDB_MODE" not in os.environ and not os.environ.get("WANDB_API_KEY")
    id_file = folder / "wandb_id"
    folder.mkdir(parents=True, exist_ok=True)
    if not id_file.is_file():
        id_file.write_text(uuid.uuid4().hex[:8])
    run = wandb.init(
        project=project,
        group=group,
        job_type=job_type,
        tags=list(tags),
        name=f"{group}/{job_type}",
        id=id_file.read_text(),
        resume="allow",
        dir=folder,
        config=redact(config),
        mode="offline" if offline else None,
        # the default of 15 s loses the last rows, or a whole short run, on SIGKILL
        settings=wandb.Settings(x_transaction_log_flush_interval=0.5, console="off", silent=True),
    )
    run.define_metric("train/global_step")
    run.define_metric("*", step_metric="train/global_step")
    if offline:
        print(f"W&B is offline (no WANDB_API_KEY); to upload: wandb sync {Path(run.dir).parent}", flush=True)
    _run = run
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    else:
        run.finish()
    finally:
        _run = None
