"""One batch of SFT with clips of different lengths: padded to the longest, and packed into one row."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from benchmarks.scene import Scene
from benchmarks.timing import GRADIENT, LOGPS, Comparison, Result
from models.packing import attach, pack
from sft.train import Collator, Example


def batch(scene: Scene) -> dict[str, Any]:
    """As the collator of `python -m sft` makes it: clips of all three lengths, with answers of `completion` tokens."""
    size = scene.size
    lengths = [seconds for seconds, count in zip(size.seconds, size.batch, strict=True) for _ in range(count)]
    answer = scene.processor.decode(scene.completions(1)[0].tolist())
    examples = [Example(scene.messages(i, seconds), answer) for i, seconds in enumerate(lengths)]
    return Collator(scene.processor, examples, scene.model.device)([{"row": i} for i in range(len(examples))])


def packing(scene: Scene) -> list[Comparison]:
    """Forward and backward of the loss on the answers."""
    model = copy.deepcopy(scene.model)
    attach(model)
    add_fused_lm_head(model)
    padded = batch(scene)
    mask = padded["attention_mask"]

    def learn(inputs: dict[str, Any]) -> Callable[[], Result]:
        def work() -> Result:
            model.zero_grad()
            loss = model(**inputs, fused_lm_head=True).loss
            loss.backward()
            grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            return {"loss": loss.detach(), "gradient": torch.cat(grads)}

        return work

    padding = 1 - mask.float().mean().item()
    return [
        Comparison(
            f"SFT batch, {padding:.0%} padding",
            {"padded": learn(padded), "packed": learn(pack(padded))},
            {"loss": LOGPS, "gradient": GRADIENT},
        )
    ]
