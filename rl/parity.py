"""The parity gate: a trainer that is deaf, blind, or not the policy that sampled stops with an error that says so.

Two questions, asked at step 0 and every `rl.parity_every` steps:

- Does the trainer give the sampled tokens the log-probabilities that the engine recorded?
- Do the log-probabilities change when a modality of the prompt is silenced (zero samples, grey frames, empty transcript)?
  Stock TRL trains Qwen2.5-Omni deaf: sampling hears the sound, the loss does not, and no number looks wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.processor import Encoded, Processor
from runtime.errors import ParityError
from tasks.base import Message, Task
from tasks.record import Record

DEAF = 1e-7
"""Mean absolute change of a log-probability below which a modality does not reach the loss at all."""

REMEDY = {
    "audio": "check that input_features and use_audio_in_video reach the forward pass",
    "video": "check that pixel_values_videos and video_grid_thw reach the forward pass",
    "text": "check task.views and the chat template",
}


@dataclass(frozen=True, slots=True)
class LogpParity:
    """Engine against trainer, over sampled tokens."""

    largest: float
    mean: float


def compare(trainer_NC: torch.Tensor, engine_NC: torch.Tensor, mask_NC: torch.Tensor) -> LogpParity:
    """Absolute difference of log-probabilities over the tokens where the engine recorded one (elsewhere it is NaN)."""
    sampled = mask_NC.bool() & ~engine_NC.isnan()
    difference = (trainer_NC.detach() - engine_NC)[sampled].abs()
    return LogpParity(difference.max().item(), difference.mean().item())


def check_logps(parity: LogpParity, tolerance: float, step: int) -> None:
    """Refuse to go on when trainer and engine are not the same policy.

    Raises:
        ParityError: naming both figures and the likely causes.
    """
    if not parity.mean <= tolerance:  # NaN fails, too
        raise ParityError(
            f"step {step}: log-probabilities of engine and trainer differ by {parity.mean:.2e} on average ({parity.largest:.2e} "
            f"at most), allowed is rl.parity_tolerance={tolerance:.0e}; likely causes: weights that never reached the engine, "
            "media or use_audio_in_video given to one side only, dropout in the adapter (model.lora.dropout must be 0 for rl)"
        )


def present(messages: Sequence[Message], audio_in_video: bool) -> list[str]:
    """Modalities that a prompt shows and that can be silenced; an empty transcript is none."""
    parts = [p for m in messages for p in m["content"]]
    found = {"text" for p in parts if p["type"] == "text" and "view" in p and p["text"].strip() != f"{p['view']}:"}
    found |= {"video" for p in parts if p["type"] in ("image", "video")}
    sounding = ("audio", "video") if audio_in_video else ("audio",)
    return sorted(found | {"audio" for p in parts if p["type"] in sounding})


def silenced_drops(
    task: Task,
    records: Sequence[Record],
    root: Path,
    processor: Processor,
    mean_logp: Callable[[Sequence[Encoded]], torch.Tensor],
) -> dict[str, tuple[float, float]]:
    """What each modality is worth to the trainer's own scoring path.

    Args:
        task: makes the prompts.
        records: [B] prompts that were rolled out.
        root: data root.
        processor: encodes them, with and without a modality.
        mean_logp: the trainer's scoring path: (B,) mean log-probability of the completions of each prompt.

    Returns:
        For each modality that the prompts show: mean drop in log-probability (above 0: it helps), mean absolute change.
        What is silent already (films without a sound track) is left out.
    """
    messages = [task.prompt(record, root) for record in records]
    prompts = [processor.encode(m) for m in messages]
    full = mean_logp(prompts)
    drops = {}
    for modality in present(messages[0], processor.settings.audio_in_video):
        silenced = [processor.encode(m, frozenset({modality})) for m in messages]
        if modality == "audio" and all(_same_sound(a, b) for a, b in zip(prompts, silenced, strict=True)):
            continue
        change = full - mean_logp(silenced)
        drops[modality] = (change.mean().item(), change.abs().mean().item())
    return drops


def _same_sound(a: Encoded, b: Encoded) -> bool:
    return "input_features" in a.media and torch.equal(a.media["input_features"], b.media["input_features"])


def check_drops(drops: dict[str, tuple[float, float]], step: int) -> None:
    """Refuse to go on deaf or blind.

    Raises:
        ParityError: naming the modality that does not reach the loss.
    """
    for modality, (_, change) in drops.items():
        if change <= DEAF:  # NaN is left to `check_logps`, whose advice fits it
            raise ParityError(
                f"step {step}: silencing {modality} changes no log-probability of the trainer (by {change:.1e}): {modality} does "
                f"not reach the loss; {REMEDY[modality]}"
            )
