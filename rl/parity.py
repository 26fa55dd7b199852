"""The parity gate: a trainer that is deaf, blind, or not the policy that sampled stops with an error that says so.

Three questions, asked at step 0 and every `rl.parity_every` steps:

- Did the loss see the media that the engine saw, bit for bit (`models/fingerprint.py`)? Stock TRL trains Qwen2.5-Omni deaf:
  sampling hears the sound, the loss does not, and no number looks wrong.
- Do the log-probabilities change when a modality of the prompt is silenced (zero samples, grey frames, empty transcript)?
  What has reached the model may still be ignored in it.
- Does the trainer give the sampled tokens the log-probabilities that the engine recorded?
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.fingerprint import Clip, Fingerprint, Layout
from models.processor import Encoded, Processor
from runtime.errors import ParityError
from tasks.base import Message, Task
from tasks.record import Record

DEAF = 1e-7
"""Mean absolute change of a log-probability below which a modality does not reach the loss at all."""

REMEDY = {
    "audio": "check that input_features and use_audio_in_video reach the forward pass",
    "image": "check that pixel_values and image_grid_thw reach the forward pass",
    "video": "check that pixel_values_videos and video_grid_thw reach the forward pass",
    "text": "check task.views and the chat template",
}


UNIT = {"audio": "mel frames", "image": "patches", "video": "patches"}


def check_media(engine: Sequence[Fingerprint], loss: Fingerprint, uids: Sequence[str], step: int) -> None:
    """Refuse to go on when the loss did not see what the engine saw.

    How often a clip was seen does not count, nor in what order: the formulations of sampling and scoring differ in that.

    Args:
        engine: [B] what the engine was given of each prompt.
        loss: what the model was given of all of them while the loss was computed.
        uids: [B] of the records that the prompts show.
        step: for the message.

    Raises:
        ParityError: naming the modality, what either side saw of it, and the likely cause.
    """
    sampled_flags, scored_flags = ({x.use_audio_in_video for x in _layouts(side)} for side in (engine, [loss]))
    if sampled_flags and scored_flags and sampled_flags != scored_flags:
        raise ParityError(
            f"step {step}: audio lies elsewhere in the prompts of the loss: the engine was given use_audio_in_video="
            f"{_listed(sampled_flags)}, the loss {_listed(scored_flags)}; hand both sides the flag of the prompt "
            "(`Encoded.sounding`)"
        )
    for kind in UNIT:
        sampled, scored = _clips(kind, engine), _clips(kind, [loss])
        if sampled == scored:
            continue
        lost = (u for u, seen in zip(uids, engine, strict=True) if not scored.issuperset(_clips(kind, [seen])))
        record = next(lost, None)
        raise ParityError(
            f"step {step}: engine and loss saw different {kind}: the engine {_amount(kind, sampled)}, the loss "
            f"{_amount(kind, scored)}{f', first in record {record!r}' if record else ''}; likely cause: "
            f"{_cause(kind, sampled, scored)}"
        )
    if _layouts(engine) != _layouts([loss]):
        raise ParityError(
            f"step {step}: engine and loss saw the same video at different seconds per frame: the engine "
            f"{_listed(x.seconds for x in _layouts(engine))}, the loss {_listed(x.seconds for x in _layouts([loss]))}; check "
            "that video_second_per_grid reaches the forward pass, and model.fps"
        )


def _clips(kind: str, prints: Sequence[Fingerprint]) -> set[Clip]:
    return {clip for seen in prints for clip in seen.clips[kind]}


def _layouts(prints: Sequence[Fingerprint]) -> set[Layout]:
    return {layout for seen in prints for layout in seen.layout}


def _listed(values: Iterable[Any]) -> str:
    return "/".join(map(str, sorted(set(values)))) or "none"


def _amount(kind: str, clips: set[Clip]) -> str:
    return f"{len(clips)} clips of {sum(clip.size for clip in clips)} {UNIT[kind]}"


def _cause(kind: str, sampled: set[Clip], scored: set[Clip]) -> str:
    if len(scored) < len(sampled):
        return f"media missing from the loss; {REMEDY[kind]}"
    if len(scored) > len(sampled):
        return "media missing from the engine; check what it is handed"
    if sum(clip.size for clip in scored) != sum(clip.size for clip in sampled):
        return "other frames or size on one side; check that both encode with the same model.fps, max_frames and video_size"
    return "other values of the same size: another clip, a silenced one, or one that was processed differently"


@dataclass(frozen=True, slots=True)
class LogpParity:
    """Engine against trainer, over sampled tokens."""

    largest: float
    mean: float
    tokens: int


def compare(trainer_NC: torch.Tensor, engine_NC: torch.Tensor, mask_NC: torch.Tensor) -> LogpParity:
    """Absolute difference of log-probabilities over the tokens where the engine recorded one (elsewhere it is NaN)."""
    sampled = mask_NC.bool() & ~engine_NC.isnan()
    difference = (trainer_NC.detach() - engine_NC)[sampled].abs()
    return LogpParity(difference.max().item(), difference.mean().item(), len(difference))


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
    shown = [present(m, processor.settings.audio_in_video) for m in messages]
    full = mean_logp(prompts)
    drops = {}
    for modality in sorted(set().union(*shown)):
        showing = [i for i, modalities in enumerate(shown) if modality in modalities]
        silenced = list(prompts)
        for i in showing:
            silenced[i] = processor.encode(messages[i], frozenset({modality}))
        if modality == "audio" and all(_same_sound(prompts[i], silenced[i]) for i in showing):
            continue
        change = (full - mean_logp(silenced))[showing]
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
