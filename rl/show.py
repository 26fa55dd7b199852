"""Completions in the trackers, beside the clips they speak of."""

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evaluation.show import Show, chosen
from runtime.files import read_jsonl
from tasks.record import Record


class ShowRollouts(TrainerCallback):
    """A table `completions` after the first step and every `every` steps: the first rows of the first rank's rollouts.

    Nothing is drawn or computed anew: it reads what the trainer has written to `rollouts/`.

    Args:
        show: makes the tables.
        records: whose rollouts they are.
        rollouts: the folder.
        every: steps from table to table.
        iterations: steps on one batch of rollouts.
    """

    def __init__(self, show: Show, records: Sequence[Record], rollouts: Path, every: int, iterations: int) -> None:
        self.show, self.records, self.rollouts = show, records, rollouts
        self.every, self.iterations = every, iterations

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Show the rollouts that this step has learnt from."""
        step = state.global_step
        if self.show.tracker.wants(step) and (step == 1 or step % self.every == 0):
            sampled = (step - 1) // self.iterations * self.iterations
            rows = read_jsonl(self.rollouts / f"step_{sampled:06d}_rank0.jsonl")
            self.show.table(step, "completions", chosen(self.records, rows, leave=()))
