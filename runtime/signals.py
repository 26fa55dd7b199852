"""Stopping in good order: SIGTERM or SIGUSR1 to any rank makes all ranks save after the same step and leave.

Transformers' `enable_jit_checkpoint` lets each rank decide by a timer of its own, so ranks may save different steps, and it
saves before the optimizer step, after the batch has used up random numbers. Here the ranks agree once per step, and save
after it; a continued run ends with the weights of one that was never stopped.
"""

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopTogether(TrainerCallback):
    """While the Trainer trains, a signal means: finish the step, save, return from `train()`.

    `train()` then returns as if it had finished: compare `state.global_step` with `state.max_steps` after it. Outside of
    training the signals do what they did before. A second signal changes nothing, since SLURM and torchrun both send one.

    Args:
        every: stop only after a multiple of this many steps. GRPO that uses one batch of completions for several steps
            needs their number here, because buffered completions are not part of a checkpoint.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the signals."""
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask all ranks whether one of them was told to stop (one number per step crosses the network)."""
        asked = torch.tensor(int(self.asked), device=args.device)
        if dist.is_initialized():
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        if asked.item() and state.global_step % self.every == 0:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
