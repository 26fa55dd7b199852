"""DeepSpeed ZeRO-3 for ranks that see different media.

ZeRO-3 collects the weights of a module from all ranks whenever the module runs, so all ranks must run the same modules in the
same order. A rank whose batch holds no sound does not run the audio tower, and the others would wait for it for ever. Frozen
towers need not be split: they stay whole on each rank, out of the tree of modules that DeepSpeed is given, where forward passes
find them all the same. So they are in none of its checkpoints, either; the final one has them (`models.resume.Resumable.whole`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, Qwen2_5OmniThinkerModel
from transformers.integrations import deepspeed as integration

TOWERS = ("audio_tower", "visual")


def towers_of(backbone: PreTrainedModel) -> list[torch.nn.Module]:
    """Those of an omni thinker, hidden or not; none of a text model."""
    return [backbone.audio_tower, backbone.visual] if isinstance(backbone, Qwen2_5OmniThinkerModel) else []


def hide_towers(backbone: Qwen2_5OmniThinkerModel) -> None:
    """Take the towers out of the tree of modules; they stay attributes."""
    for name in TOWERS:
        backbone.__dict__[name] = backbone._modules.pop(name)


def show_towers(backbone: Qwen2_5OmniThinkerModel) -> None:
    """Put hidden towers back into the tree of modules."""
    for name in TOWERS:
        backbone.add_module(name, backbone.__dict__.pop(name))


@contextmanager
def loaded_whole() -> Iterator[None]:
    """Inside, `from_pretrained` gives each rank a whole model, although the training is one under ZeRO-3."""
    config = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = config
