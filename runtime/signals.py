"""Stopping in good order: SIGTERM or SIGUSR1 to any rank makes all ranks save after the same step and leave.

Transformers' `enable_jit_checkpoint` lets each rank decide by a timer of its own, so ranks may save different steps, and it
saves before the optimizer step, after the batch has used up random numbers. Here the ranks agree once per step, and save
after it; a continued run ends with the weights of one that was never stopped.

A job that ends at a known time need not wait for a signal, which SLURM sends up to half a minute late: UNDERTONE_SAVE_BY, in
seconds since 1970, is when the ranks stop by themselves (slurm/common.sh sets it).
"""

import os
import signal
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # of SLURM, torchrun, and submitit


class StopTogether(TrainerCallback):
    """While the Trainer trains, a signal means: finish the step, save, return from `train()`. So does the end of the job.

    `train()` then returns as if it had finished: compare `state.global_step` with `state.max_steps` after it. Outside of
    training the signals do what they did before. A second signal changes nothing, since SLURM and torchrun both send one.
    A function that listened to a signal before (submitit's, which has the job requeued) hears of it once all is saved.

    Args:
        every: stop only after a multiple of this many steps. GRPO that uses one batch of completions for several steps
            needs their number here, because buffered completions are not part of a checkpoint.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.asked: int | None = None  # by which signal
        self.save_by = float(os.environ.get("UNDERTONE_SAVE_BY") or "inf")
        self._before: dict[signal.Signals, Any] = {}

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.asked = number

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the signals."""
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask all ranks whether one of them was told to stop (one number per step crosses the network)."""
        asked = torch.tensor(int(self.asked is not None or time.time() >= self.save_by), device=args.device)
        if dist.is_initialized():
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        if asked.item() and state.global_step % self.every == 0:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the signals back. All ranks leave together: SLURM ends the others when one has left, be they saving or not."""
        if dist.is_initialized():
            dist.barrier()
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)
        handler = before.get(self.asked)  # type: ignore[call-overload]
        if callable(handler):
            handler(self.asked, None)
