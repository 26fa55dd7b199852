"""What a prompt can be made of, and a model to try it on."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from models.processor import Encoded, Processor

KINDS = ("audio", "silent video", "video with sound", "text", "text model")


@dataclass(frozen=True)
class Case:
    """A model that a test may change, and prompts for it, the first one longer than the second."""

    model: PreTrainedModel
    processor: Processor
    prompts: tuple[Encoded, ...]
