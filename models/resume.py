"""Going on from a Trainer's checkpoint with the weights that it holds."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Trainer, TrainerState

from runtime.checkpoints import last_checkpoint


class Resumable(Trainer):
    """Reads whole checkpoints as `from_pretrained` does; put it before the trainer that it mends.

    The Trainer's own way matches the names in the file with those at run time, and `save_pretrained` writes an omni thinker
    under other names: nothing matches, a warning is printed, and training goes on from the weights it once started from,
    with the optimizer state of the ones it lost.
    """

    def go_on(self, folder: Path) -> None:
        """Train to the last step, from the newest whole checkpoint in `folder` or from the start.

        From a checkpoint of the last step the Trainer would make one step more; that one is loaded, and nothing is trained.
        """
        checkpoint = last_checkpoint(folder)
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                return
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        policy = self.model
        if model is not None or isinstance(policy, PeftModel):  # FSDP, adapters: read by run-time names, and so written
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        assert isinstance(policy, PreTrainedModel), type(policy)
        saved = type(policy).from_pretrained(resume_from_checkpoint, dtype=policy.dtype)
        policy.load_state_dict(saved.state_dict())
