"""Whether a training step fits, for one model config; a frame rate and size with which it does.

Memory is arithmetic, not measured. In bytes, with b bytes a number (model.dtype), one prompt of P tokens and its G answers of A
tokens in a micro-batch, T = P + G A (the prompt is shared: models/shared_prefix.py):

    weights       all parameters x b
    training      trained parameters x 3 b (gradient, two moments of Adam); a LoRA adapter is kept in float32: x 16
    activations   T x layers x (4 h + 2 q + 2 kv + 4 i) x b     inputs and outputs of two norms, of attention, and of the gated MLP
    logits        G A x vocabulary x 4 x 2                      values and gradients in float32
    media         pixels of the patches x 4, and, where towers are trained, patches x depth x (8 h + 4 i) x b of the vision tower
    cache         T x layers x 2 kv x b                         while sampling, when activations and logits are not there

h, q, kv, i are the widths of the hidden state, of all queries, of all keys, and of the MLP. The peak is weights + training + media
+ the larger of (activations + logits) and cache. Workspaces, fragmentation and other processes come on top: leave a fifth free.
Checkpointed activations, ZeRO and several prompts in a micro-batch are not in it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    Qwen2_5OmniConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from evaluation.doctor.tokens import Counter, Prompt, Sampling
from models.load import DTYPES, ModelConfig, base_checkpoint

STEPS = (1, 2, 4, 8)
"""A suggestion divides frame rate and frame area by these."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model, for arithmetic."""

    parameters: int
    trained: int
    adapter: bool
    """Whether those that are trained are a LoRA adapter."""
    layers: int
    per_token: int
    """Numbers kept for the backward pass, a token and layer."""
    cached: int
    """Numbers in the key/value cache, a token and layer."""
    vocabulary: int
    per_patch: int
    """Numbers kept for the backward pass by the vision tower, a patch; 0 when it is frozen or not there."""
    bytes: int
    """Of one number."""
    positions: int
    """Most tokens that its position code is made for."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the model and the device."""

    group: int
    answer: int
    """Tokens of the longest answer."""
    context: int
    """Most tokens of prompt and answer."""
    memory: float
    """Bytes."""


def shape_of(cfg: ModelConfig) -> Shape:
    """Read from the checkpoint's config; no weight is loaded.

    Raises:
        OSError: when the checkpoint is nowhere to be found.
    """
    config: Any = AutoConfig.from_pretrained(base_checkpoint(cfg))
    config = config.thinker_config if isinstance(config, Qwen2_5OmniConfig) else config
    text = config.get_text_config()
    with torch.device("meta"):
        omni = cfg.family == "omni"
        model: PreTrainedModel = (
            Qwen2_5OmniThinkerForConditionalGeneration(config) if omni else AutoModelForCausalLM.from_config(config)
        )
        parameters = model.num_parameters()
        per_patch = 0
        if isinstance(model, Qwen2_5OmniThinkerForConditionalGeneration):
            eyes = config.vision_config
            model.model.audio_tower.requires_grad_(not cfg.freeze_towers)
            model.model.visual.requires_grad_(not cfg.freeze_towers)
            if not (cfg.freeze_towers or cfg.lora):
                per_patch = eyes.depth * (8 * eyes.hidden_size + 4 * eyes.intermediate_size)
        if cfg.lora:
            get_peft_model(model, LoraConfig(r=cfg.lora.r, target_modules=cfg.lora.targets, task_type="CAUSAL_LM"))
    head = text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    return Shape(
        parameters=parameters,
        trained=model.num_parameters(only_trainable=True),
        adapter=cfg.lora is not None,
        layers=text.num_hidden_layers,
        per_token=4 * text.hidden_size + 2 * queries + 2 * keys + 4 * text.intermediate_size,
        cached=2 * keys,
        vocabulary=text.vocab_size,
        per_patch=per_patch,
        bytes=torch.empty((), dtype=DTYPES[cfg.dtype]).element_size(),
        positions=text.max_position_embeddings,
    )


def memory(shape: Shape, load: Load, tokens: int, patches: int, pixels: int) -> dict[str, float]:
    """Bytes by purpose and `peak`; the formula stands at the head of this file.

    Args:
        shape: of the model.
        load: group and answer.
        tokens: of the prompt.
        patches: of its pictures.
        pixels: numbers in a patch.
    """
    answers = load.group * load.answer
    whole = tokens + answers
    found = {
        "weights": float(shape.parameters * shape.bytes),
        "training": float(shape.trained * (16 if shape.adapter else 3 * shape.bytes)),
        "activations": float(whole * shape.layers * shape.per_token * shape.bytes),
        "logits": float(answers * shape.vocabulary * 8),
        "media": float(patches * (pixels * 4 + shape.per_patch * shape.bytes)),
        "cache": float(whole * shape.layers * shape.cached * shape.bytes),
    }
    step = max(found["activations"] + found["logits"], found["cache"])
    return found | {"peak": found["weights"] + found["training"] + found["media"] + step}


def forecast(
    counter: Counter, prompts: Sequence[Prompt], shape: Shape, sampling: Sampling, load: Load
) -> dict[str, Any]:
    """Lengths and memory as configured, and a setting that fits.

    Args:
        counter: of the model.
        prompts: at least one.
        shape: of the model.
        sampling: as configured.
        load: what has to fit.

    Returns:
        A JSON-able dict:
        tokens: {least, median, p95, most, longest (its uid), text (mean)}; memory: bytes by purpose at the longest prompt;
        fits: whether that is within `load`; suggestion: the setting with the most tokens that fits, {fps, max_frames,
            longest_edge, tokens, peak}, which is the one that is configured where it fits, and None where none does;
        load, parameters, trained: what it was reckoned with.
    """

    def at(sampling: Sampling) -> tuple[np.ndarray, dict[str, float], bool]:
        lengths = np.array([counter.tokens(prompt, sampling) for prompt in prompts])
        longest, most = prompts[int(lengths.argmax())], int(lengths.max())
        size = memory(shape, load, most, counter.patches(longest, sampling), counter.pixels)
        return lengths, size, most + load.answer <= load.context and size["peak"] <= load.memory

    lengths, size, fits = at(sampling)
    films = any(clip.picture is not None and clip.picture.fps for prompt in prompts for clip in prompt.clips)
    others = [sampling.coarser(*by) for by in product(STEPS, STEPS)] if films and not fits else []
    tried = [(lengths, size, fits, sampling), *((*at(other), other) for other in others)]
    fitting = [(int(n.max()), s.fps, m["peak"], s) for n, m, ok, s in tried if ok]
    best = max(fitting, key=lambda item: item[:2], default=None)
    return {
        "tokens": {
            "least": int(lengths.min()),
            "median": float(np.median(lengths)),
            "p95": float(np.quantile(lengths, 0.95)),
            "most": int(lengths.max()),
            "longest": prompts[int(lengths.argmax())].uid,
            "text": float(np.mean([prompt.text for prompt in prompts])),
        },
        "memory": size,
        "fits": fits,
        "suggestion": best
        and {
            "fps": best[1],
            "max_frames": best[3].max_frames,
            "longest_edge": best[3].longest_edge,
            "tokens": best[0],
            "peak": best[2],
        },
        "load": asdict(load),
        "parameters": shape.parameters,
        "trained": shape.trained,
    }
