"""What both trainers share: going on from checkpoints, writing the final weights, and several ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Qwen2_5OmniThinkerModel, Trainer, TrainerState
from trl.models.utils import unwrap_model_for_generation

from models.load import save_model
from models.processor import Processor
from models.shared_prefix import backbone_of
from models.zero import hide_towers, loaded_whole, show_towers, towers_of
from runtime.checkpoints import last_checkpoint
from runtime.errors import ConfigError


class Resumable(Trainer):
    """Reads whole checkpoints as `from_pretrained` does; put it before the trainer that it mends.

    The Trainer's own way matches the names in the file with those at run time, and `save_pretrained` writes an omni thinker
    under other names: nothing matches, a warning is printed, and training goes on from the weights it once started from,
    with the optimizer state of the ones it lost.

    Raises:
        ConfigError: for a way of distributing that would hang, or learn or write something wrong.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled:
            raise ConfigError(
                "FSDP: keeps pieces of the weights on each rank, where sampling, the parity gate and the final checkpoint want "
                "them whole; use cluster=zero3 (DeepSpeed), zero2, or plain DDP (cluster=ddp)"
            )
        plugin = self.accelerator.state.deepspeed_plugin
        backbone = backbone_of(self.policy)
        towers = towers_of(backbone)
        if plugin is not None and any(p.requires_grad for tower in towers for p in tower.parameters()):
            raise ConfigError(
                "DeepSpeed with trained towers: a rank whose batch holds no sound or no picture has gradients in another "
                "order than the others, and DeepSpeed adds up what comes at the same time, without looking; set "
                "model.freeze_towers=true (and keep model.lora.targets out of the towers), or use plain DDP"
            )
        self.sharded = plugin is not None and plugin.zero_stage == 3
        self._hides_towers = bool(towers) and self.sharded
        if self._hides_towers:
            assert isinstance(backbone, Qwen2_5OmniThinkerModel)
            for tower in towers:
                tower.to(self.args.device)  # nobody else will move them
            hide_towers(backbone)

    @contextmanager
    def whole(self) -> Iterator[torch.nn.Module]:
        """The trained model with all of its weights, whatever distributed training does to them; all ranks enter and leave."""
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:  # type: ignore[arg-type]
            assert isinstance(model, torch.nn.Module)
            if not self._hides_towers:
                yield model
                return
            backbone = backbone_of(model)
            assert isinstance(backbone, Qwen2_5OmniThinkerModel)
            show_towers(backbone)
            yield model
            hide_towers(backbone)

    @property
    def policy(self) -> torch.nn.Module:
        """The trained model, out of what distributed training wraps around it."""
        policy = self.accelerator.unwrap_model(self.model)
        assert isinstance(policy, torch.nn.Module)
        return policy

    def finished(self, state: TrainerState) -> bool:
        """Whether training ends in this state."""
        return state.global_step >= self.args.max_steps

    def go_on(self, folder: Path) -> None:
        """Train to the last step, from the newest whole checkpoint in `folder` or from the start.

        From a checkpoint of the last step the Trainer would make one step more; that one is loaded, and nothing is trained.

        Raises:
            ConfigError: when the optimizer state of the checkpoint is split over another number of ranks.
        """
        checkpoint = last_checkpoint(folder)
        if checkpoint is not None:
            pieces, ranks = len(list(checkpoint.glob("global_step*/*_optim_states.pt"))), self.accelerator.num_processes
            if pieces and pieces != ranks:
                raise ConfigError(
                    f"{checkpoint}: DeepSpeed split its optimizer state over {pieces} ranks, and there are {ranks} now; go on with "
                    f"{pieces} ranks, or remove the checkpoints to start anew (under cluster=ddp any number goes on)"
                )
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if self.finished(state):
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                return
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def write(self, processor: Processor, folder: Path) -> None:
        """Write the trained weights to `folder`: the first rank writes, and all wait until they are there."""
        with self.whole() as policy:
            if self.is_world_process_zero():
                save_model(policy, processor, folder)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        policy = self.model
        if model is not None or isinstance(policy, PeftModel):  # FSDP, adapters: read by run-time names, and so written
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        assert isinstance(policy, PreTrainedModel), type(policy)
        with loaded_whole():
            saved = type(policy).from_pretrained(resume_from_checkpoint, dtype=policy.dtype).state_dict()
        policy.load_state_dict({name: saved[name] for name in policy.state_dict()})  # hidden towers are in neither
