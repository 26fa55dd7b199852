"""The policy's weights as an engine with a model of its own wants them: names of a full Omni checkpoint, adapters merged in."""

from collections.abc import Iterator

import torch
from peft.tuners.lora import LoraLayer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from models.shared_prefix import thinker

RENAMED = {"model.language_model.": "model.", "model.visual.": "visual.", "model.audio_tower.": "audio_tower."}
"""Prefixes at run time, and in a checkpoint of the thinker."""

WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an element."""


@torch.no_grad()
def policy_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every weight, one at a time.

    A LoRA delta is added to a copy of the weight that it belongs to; nothing in the model changes.
    """
    base = thinker(model)
    omni = isinstance(base, Qwen2_5OmniThinkerForConditionalGeneration)
    for name, value in base.named_parameters():
        if ".lora_" in name:
            continue
        path, adapted, kind = name.rpartition(".base_layer.")
        if adapted:
            layer, name = base.get_submodule(path), f"{path}.{kind}"
            assert isinstance(layer, LoraLayer), type(layer)
            if kind == "weight":
                delta = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)  # type: ignore[operator]
                value = (value + delta).to(value.dtype)
        if omni:
            old = next((prefix for prefix in RENAMED if name.startswith(prefix)), "")
            name = f"thinker.{RENAMED.get(old, '')}{name.removeprefix(old)}"
        yield name, value.detach()


def checksum(tensor: torch.Tensor) -> int:
    """Sum of the bits of the values, read as whole numbers, modulo 2**64.

    Whole numbers add up to the same in any order, so tensors that were joined have the sum of their checksums.
    """
    bits = tensor.detach().contiguous().view(WHOLE_NUMBERS[tensor.element_size()])
    return int(bits.sum(dtype=torch.int64).item())
