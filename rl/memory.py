"""What reinforcement remembers from step to step besides weights and optimizer, and how it gets into a checkpoint."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from rl.difficulty import SolveMemory
from rl.hints.control import HintState


class Memory(TrainerCallback, ExportableState):
    """Hints, solve rates and tokens spent: the Trainer writes them into `trainer_state.json`, the last file of a checkpoint."""

    def __init__(self, hints: HintState, budget: int | None) -> None:
        self.hints = hints
        self.solve = SolveMemory()
        self.budget = budget
        self.generated = 0
        """Tokens so far, on all ranks."""

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "args": {},
            "attributes": {"hints": self.hints.to_json(), "solve": self.solve.state(), "generated": self.generated},
        }

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take up what the checkpoint says."""
        self.recall(state)

    def recall(self, state: TrainerState) -> None:
        """Become what `state` was saved with."""
        states: Any = state.stateful_callbacks  # a dictionary by then
        saved = states[type(self).__name__]["attributes"]
        self.hints, self.generated = HintState(**saved["hints"]), saved["generated"]
        self.solve.load(saved["solve"])  # the sampler has this one already

    @property
    def spent(self) -> bool:
        """Whether the budget of tokens is used up."""
        return self.budget is not None and self.generated >= self.budget

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the training where the budget of tokens is used up."""
        if self.spent:
            control.should_save = control.should_training_stop = True
