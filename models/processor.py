"""Messages to tensors, in one place for synthesis, training, scoring and evaluation.

Every difference between the stock processor, `generate` and `forward` is settled here:

- A video's own sound (`audio_in_video`) is decided once per model. When it is on, a video's track is interleaved with its
  frames and a separate audio part is left out, being the same sound; a video without a track is given silence of its own
  length. So one batch never mixes sounding and silent videos, which the model cannot express: its flag
  `use_audio_in_video` holds for a whole call, and forgetting it raises nothing.
- Log-mel features are made for the sound's own length, not for the extractor's 30 or 300 s window, and are equal to the
  valid frames of the padded ones. Sound longer than the window is refused, where the stock extractor cuts it off.
- The video size reaches the processor with every call, because a class attribute of the stock one overrides the setting.
- Media tokens are refused in text that is encoded, and are never sampled (`forbidden_ids`).
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase, Qwen2_5OmniProcessor

from models.media import RATE, has_sound, read_audio, read_image, read_video
from runtime.errors import ConfigError, MediaError
from tasks.base import Message

STACKED = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "video_second_per_grid")
MODALITIES = ("audio", "video", "text")
"""What can be silenced: zero samples, grey frames, an empty transcript, all of the original length or place."""

MIN_SAMPLES = 800
"""50 ms: below about 30 ms the audio tower gets no token at all."""


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """How media become tensors."""

    audio_in_video: bool
    fps: float
    max_frames: int
    video_size: dict[str, int]
    """`shortest_edge` and `longest_edge`: bounds of one frame's area in pixels (height x width), as the processor names them."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One prompt, unpadded. Media tensors are opaque from here on: passed to the model, never read."""

    ids: torch.Tensor
    """[P] token ids, placeholders expanded."""
    media: dict[str, torch.Tensor]
    sounding: bool
    """Whether a video carries its sound, the `use_audio_in_video` of every forward over it."""
    messages: Sequence[Message]
    """What was encoded."""
    silence: frozenset[str]
    """What of it was blanked."""


@dataclass(frozen=True, slots=True)
class Clips:
    """The media of one prompt as they were read, each list in the order of the prompt.

    An engine with a processor of its own starts from these.
    """

    turns: list[dict[str, Any]]
    """The messages as a chat template reads them: texts, and a part `{"type": kind}` for every medium."""
    images: list[torch.Tensor]
    """(3, H, W) uint8."""
    sounds: list[np.ndarray]
    """(T,) float32 at 16 kHz."""
    track_of: list[int | None]
    """For each sound: index of the video whose track it is, or None for a sound of its own."""
    videos: list[torch.Tensor]
    """(T, 3, H, W) uint8."""
    fps: float
    """Frames per second of the videos; 0 without one."""


class Processor:
    """Encodes prompts (at most once each, while they stay in the cache) and pads them into batches.

    Args:
        processor: the real omni processor, or a tokenizer for a text-only model.
        settings: how media become tensors.
        capacity: number of prompts kept.
    """

    def __init__(
        self, processor: Qwen2_5OmniProcessor | PreTrainedTokenizerBase, settings: MediaSettings, capacity: int = 4096
    ) -> None:
        self.processor = processor
        self.settings = settings
        self.capacity = capacity
        self.encodings = 0
        """How often a prompt was really encoded; the rest came from the cache."""
        self._cache: OrderedDict[str, Encoded] = OrderedDict()
        self.tokenizer: PreTrainedTokenizerBase
        if isinstance(processor, Qwen2_5OmniProcessor):
            self.tokenizer = processor.tokenizer
            self._media_tokens: list[str] = [
                processor.image_token,
                processor.audio_token,
                processor.video_token,
                processor.vision_bos_token,
                processor.vision_eos_token,
                processor.audio_bos_token,
                processor.audio_eos_token,
            ]
        else:
            self.tokenizer = processor
            self._media_tokens = []
        self.forbidden_ids = [self.tokenizer.convert_tokens_to_ids(token) for token in self._media_tokens]
        self.tokenizer.padding_side = "left"
        pad_id, eos_id = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        if not isinstance(pad_id, int) or not isinstance(eos_id, int):
            raise ConfigError(
                f"model: its tokenizer needs an eos and a pad token, and has {self.tokenizer.eos_token!r} and "
                f"{self.tokenizer.pad_token!r}; set them (pad may be eos) and save the checkpoint again"
            )
        self.pad_id = pad_id
        self.eos_ids = [eos_id]
        """Tokens that end an answer."""

    def encode(self, messages: Sequence[Message], silence: frozenset[str] = frozenset()) -> Encoded:
        """Encode one prompt.

        Args:
            messages: as `Task.prompt` makes them.
            silence: members of MODALITIES to blank, for ablations and the parity gate.

        Raises:
            MediaError: for unreadable media, sound longer than the extractor's window, a media token in a text, or media given
                to a text model.
        """
        if unknown := silence - set(MODALITIES):
            raise ConfigError(f"silence: members of {MODALITIES}; got {sorted(unknown)}; mend the config")
        key = json.dumps([messages, sorted(silence), [_stamp(p["path"]) for p in _parts(messages) if p.get("path")]])
        if key not in self._cache:
            self._cache[key] = self._encode(messages, silence)
            self.encodings += 1
            if len(self._cache) > self.capacity:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def clips(self, messages: Sequence[Message], silence: frozenset[str] = frozenset()) -> Clips:
        """Read the media of one prompt; arguments and errors as in `encode`."""
        images: list[torch.Tensor] = []
        sounds: list[np.ndarray] = []
        videos: list[torch.Tensor] = []
        track_of: list[int | None] = []
        rates: list[float] = []
        turns = []
        kinds = {part["type"] for part in _parts(messages)}
        if kinds != {"text"} and not isinstance(self.processor, Qwen2_5OmniProcessor):
            raise MediaError(
                f"a text-only model was given {sorted(kinds - {'text'})}; set task.views to text views, or use an omni model"
            )
        in_video = self.settings.audio_in_video and "video" in kinds
        for message in messages:
            content = []
            for part in message["content"]:
                match part["type"]:
                    case "text":
                        hide = "text" in silence and part.get("view")
                        content.append({"type": "text", "text": f"{part['view']}: \n" if hide else part["text"]})
                        self._refuse_media_tokens(part["text"])
                        continue
                    case "image":
                        image = read_image(part["path"])
                        images.append(torch.full_like(image, 128) if "video" in silence else image)
                    case "audio":
                        if in_video:
                            continue
                        sounds.append(self._sound(part, silence))
                        track_of.append(None)
                    case "video":
                        frames, fps = read_video(
                            part["path"], self.settings.fps, part["span"], self.settings.max_frames
                        )
                        if in_video:
                            sounds.append(self._sound(part, silence, seconds=len(frames) / fps))
                            track_of.append(len(videos))
                        videos.append(torch.full_like(frames, 128) if "video" in silence else frames)
                        rates.append(fps)
                    case kind:
                        raise MediaError(f"part of unknown type {kind!r}; allowed: text, image, audio, video")
                content.append({"type": part["type"]})
            turns.append({"role": message["role"], "content": content})
        if len(set(rates)) > 1:
            raise MediaError(f"videos of one prompt were sampled at different rates {rates}; give them one length")
        return Clips(turns, images, sounds, track_of, videos, rates[0] if rates else 0.0)

    def _encode(self, messages: Sequence[Message], silence: frozenset[str]) -> Encoded:
        clips = self.clips(messages, silence)
        if not isinstance(self.processor, Qwen2_5OmniProcessor):
            return Encoded(self._text_prompt_ids(clips.turns), {}, False, messages, silence)
        in_video = self.settings.audio_in_video and bool(clips.videos)
        text = self.processor.apply_chat_template(clips.turns, tokenize=False, add_generation_prompt=True)
        options: dict[str, Any] = {"return_tensors": "pt"}
        if clips.videos:
            size = {"size": self.settings.video_size, "do_sample_frames": False}
            options |= {"videos_kwargs": size, "fps": clips.fps}
            if in_video:
                options |= {"load_audio_from_video": True, "audio_from_video_indices": clips.track_of}
        if clips.sounds:
            # 400 samples of silence after the sound complete its last window, as the full padding does
            options["audio_kwargs"] = {"max_length": max(map(len, clips.sounds)) + 400, "truncation": False}
        out = dict(
            self.processor(
                text=[text],
                images=clips.images or None,
                audio=clips.sounds or None,
                videos=clips.videos or None,
                **options,
            )
        )
        media = {k: torch.as_tensor(v) for k, v in out.items() if k in STACKED}
        if clips.sounds:
            valid = int(out["feature_attention_mask"].sum(1).max())
            media["input_features"] = out["input_features"][..., :valid]
            media["feature_attention_mask"] = out["feature_attention_mask"][..., :valid]
        return Encoded(out["input_ids"][0], media, in_video, messages, silence)

    def _text_prompt_ids(self, turns: list[dict[str, Any]]) -> torch.Tensor:
        flat = [{"role": t["role"], "content": "".join(p["text"] for p in t["content"])} for t in turns]
        text = self.tokenizer.apply_chat_template(flat, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return torch.tensor(self.text_ids(text))

    def _sound(self, part: dict[str, Any], silence: frozenset[str], seconds: float | None = None) -> np.ndarray:
        if seconds is not None and not has_sound(Path(part["path"])):
            wave = np.zeros(round(seconds * RATE), np.float32)
        else:
            wave = read_audio(part["path"], part["span"])
        assert isinstance(self.processor, Qwen2_5OmniProcessor)
        window = self.processor.feature_extractor.n_samples
        if len(wave) > window:
            raise MediaError(
                f"{part['path']}: {len(wave) / RATE:.1f} s of sound, the model hears at most {window / RATE:.0f} s; "
                "cut the clip, or give the record a span"
            )
        if len(wave) < MIN_SAMPLES:
            raise MediaError(
                f"{part['path']}: {len(wave)} samples of sound, at least {MIN_SAMPLES} are needed; remove it"
            )
        return np.zeros_like(wave) if "audio" in silence else wave

    def _refuse_media_tokens(self, text: str) -> None:
        if found := [token for token in self._media_tokens if token in text]:
            raise MediaError(f"text holds {found[0]!r}, which stands for media; remove it from the record")

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text, for a hint prefix or an answer.

        Raises:
            MediaError: when the text holds a media token, which would stand for media that are not there.
        """
        self._refuse_media_tokens(text)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of a whole answer, end token included."""
        return [*self.text_ids(text), *self.eos_ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled tokens, without special ones."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def collate(self, prompts: Sequence[Encoded], device: torch.device | str = "cpu") -> dict[str, Any]:
        """Pad prompts on the left into one model input.

        Returns:
            `input_ids` and `attention_mask` (B, P), the media tensors of all prompts, and `use_audio_in_video`.
        """
        length = max(len(p.ids) for p in prompts)
        batch: dict[str, Any] = {
            "input_ids": torch.stack([pad(p.ids, (length - len(p.ids), 0), value=self.pad_id) for p in prompts]),
            "attention_mask": torch.stack([pad(torch.ones_like(p.ids), (length - len(p.ids), 0)) for p in prompts]),
        }
        heard = [p.media for p in prompts if "input_features" in p.media]
        if heard:
            frames = max(m["input_features"].shape[-1] for m in heard)
            for name in ("input_features", "feature_attention_mask"):
                batch[name] = torch.cat([pad(m[name], (0, frames - m[name].shape[-1])) for m in heard])
        for name in STACKED:
            if tensors := [p.media[name] for p in prompts if name in p.media]:
                batch[name] = torch.cat(tensors)
        with_video = {p.sounding for p in prompts if "pixel_values_videos" in p.media}
        assert len(with_video) < 2, "silent and sounding videos in one batch: encode() should have prevented it"
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        if isinstance(self.processor, Qwen2_5OmniProcessor):
            batch["use_audio_in_video"] = with_video == {True}
        return batch


def _parts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [part for message in messages for part in message["content"]]


def _stamp(path: str) -> tuple[int, int]:
    if not Path(path).is_file():
        raise MediaError(f"{path}: there is no such media file; mend the record's path, or remove the record")
    stat = Path(path).stat()
    return stat.st_mtime_ns, stat.st_size
