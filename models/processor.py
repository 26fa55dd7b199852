"""Messages to tensors, in one place for synthesis, training, scoring and evaluation.

Every difference between the stock processor, `generate` and `forward` is settled here:

- A video's own sound (`audio_in_video`) is decided once per model. When it is on, a video's track is interleaved with its
  frames and a separate audio part is left out, being the same sound; a video without a track is given silence of its own
  length. So one batch never mixes sounding and silent videos, which the model cannot express: its flag
  `use_audio_in_video` holds for a whole call, and forgetting it raises nothing.
- Log-mel features are made for the sound's own length, not for the extractor's 30 or 300 s window, and are equal to the
  valid frames of the padded ones. Sound longer than the window is refused, where the stock extractor cuts it off.
- Pictures are resized as bytes, as the stock processors do it, and stay bytes until they are on the device: `collate` turns
  them into normalised floats, four times as large.
- The video size is the setting's, where a class attribute of the stock processor would override it.
- Media tokens are refused in text that is encoded, and are never sampled (`forbidden_ids`).

A clip is decoded and featurised once for all prompts, processes and runs (models/clips.py). A prompt adds its text to it.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase, Qwen2_5OmniProcessor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import _get_feat_extract_output_lengths

from models.clips import KINDS, ClipReader, MediaSettings, existing
from models.media_cache import MediaCache, Tensors
from runtime.errors import ConfigError, MediaError
from tasks.base import Message

STACKED = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "video_second_per_grid")
MODALITIES = ("audio", "video", "text")
"""What can be silenced: zero samples, grey frames, an empty transcript, all of the original length or place."""

NO_ENERGY = -1.5
"""Log-mel of zero samples: (log10(1e-10) + 4) / 4."""

GREY = 128
"""Every byte of a blanked picture."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One prompt, unpadded. Media tensors are opaque from here on: passed to `collate`, never read."""

    ids: torch.Tensor
    """[P] token ids, placeholders expanded."""
    media: dict[str, torch.Tensor]
    """By the names of the model's arguments; pictures are patches of bytes, not normalised yet."""
    sounding: bool
    """Whether a video carries its sound, the `use_audio_in_video` of every forward over it."""
    messages: Sequence[Message]
    """What was encoded."""
    silence: frozenset[str]
    """What of it was blanked."""

    @property
    def nbytes(self) -> int:
        """Memory that its tensors take."""
        return self.ids.nbytes + sum(tensor.nbytes for tensor in self.media.values())


@dataclass(frozen=True, slots=True)
class Clips:
    """The media of one prompt, decoded, each list in the order of the prompt.

    An engine with a processor of its own starts from these.
    """

    turns: list[dict[str, Any]]
    """The messages as a chat template reads them: texts, and a part `{"type": kind}` for every medium."""
    images: list[torch.Tensor]
    """(3, H, W) uint8, as large as the model sees them: to resize them once more changes nothing."""
    sounds: list[np.ndarray]
    """(T,) float32 at 16 kHz."""
    mels: list[torch.Tensor]
    """(bins, frames) float32 log-mel features of the sounds, without padding."""
    track_of: list[int | None]
    """For each sound: index of the video whose track it is, or None for a sound of its own."""
    videos: list[torch.Tensor]
    """(T, 3, H, W) uint8, sized like the images."""
    fps: float
    """Frames per second of the videos; 0 without one."""


class Processor:
    """Encodes prompts (at most once each, while they stay in memory) and pads them into batches.

    Args:
        processor: the real omni processor, or a tokenizer for a text-only model.
        settings: how media become tensors.
        cache: keeps decoded clips on disk; None keeps none.
        memory: bytes of encoded prompts to keep.
    """

    def __init__(
        self,
        processor: Qwen2_5OmniProcessor | PreTrainedTokenizerBase,
        settings: MediaSettings,
        cache: MediaCache | None = None,
        memory: int = 4 << 30,
    ) -> None:
        self.processor = processor
        self.settings = settings
        self.memory = memory
        self.encodings = 0
        """How often a prompt was really encoded; the rest came from memory."""
        self._encoded: OrderedDict[str, Encoded] = OrderedDict()
        self._held = 0
        """Bytes of them."""
        self._reader = ClipReader(processor, settings, cache) if isinstance(processor, Qwen2_5OmniProcessor) else None
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
        if key in self._encoded:
            self._encoded.move_to_end(key)
            return self._encoded[key]
        encoded = self._encoded[key] = self._encode(messages, silence)
        self.encodings += 1
        self._held += encoded.nbytes
        while self._held > self.memory:
            self._held -= self._encoded.popitem(last=False)[1].nbytes
        return encoded

    def prefetch(self, prompts: Iterable[Sequence[Message]]) -> None:
        """Bring the media of prompts to disk in background threads, so that `encode` need not wait for decoding; see ClipReader."""
        if self._reader is not None:
            self._reader.prefetch(part for messages in prompts for part in self._media_of(messages))

    def uncached(self, prompts: Iterable[Sequence[Message]]) -> int:
        """How many clips of these prompts the disk cache lacks, which are those that do not fit when all were read before."""
        reader = self._reader
        if reader is None:
            return 0
        return sum(reader.missing(part) for messages in prompts for part in self._media_of(messages))

    def clips(self, messages: Sequence[Message], silence: frozenset[str] = frozenset()) -> Clips:
        """The media of one prompt; arguments and errors as in `encode`."""
        found = Clips([], [], [], [], [], [], 0.0)
        rates: list[float] = []
        kinds = {part["type"] for part in _parts(messages)}
        if kinds != {"text"} and self._reader is None:
            raise MediaError(
                f"a text-only model was given {sorted(kinds - {'text'})}; set task.views to text views, or use an omni model"
            )
        in_video = self.settings.audio_in_video and "video" in kinds

        def seen(pixels: torch.Tensor) -> torch.Tensor:
            return torch.full_like(pixels, GREY) if "video" in silence else pixels

        def hear(clip: Tensors, video: int | None) -> None:
            wave, mel = clip["wave"], clip["mel"]
            if "audio" in silence:
                wave, mel = torch.zeros_like(wave), torch.full_like(mel, NO_ENERGY)
            found.sounds.append(wave.numpy())
            found.mels.append(mel)
            found.track_of.append(video)

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
                        found.images.append(seen(self._clip(part)["pixels"]))
                    case "audio":
                        if in_video:
                            continue
                        hear(self._clip(part), None)
                    case "video":
                        clip = self._clip(part)
                        if in_video:
                            hear(clip, len(found.videos))
                        found.videos.append(seen(clip["pixels"]))
                        rates.append(clip["fps"].item())
                    case kind:
                        raise MediaError(f"part of unknown type {kind!r}; allowed: text, image, audio, video")
                content.append({"type": part["type"]})
            found.turns.append({"role": message["role"], "content": content})
        if len(set(rates)) > 1:
            raise MediaError(f"videos of one prompt were sampled at different rates {rates}; give them one length")
        return replace(found, fps=rates[0]) if rates else found

    def _clip(self, part: dict[str, Any]) -> Tensors:
        assert self._reader is not None
        return self._reader.read(part)

    def _media_of(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Parts of one prompt that `clips` reads."""
        parts = [part for part in _parts(messages) if part["type"] in KINDS]
        in_video = self.settings.audio_in_video and any(part["type"] == "video" for part in parts)
        return [part for part in parts if not (in_video and part["type"] == "audio")]

    def _encode(self, messages: Sequence[Message], silence: frozenset[str]) -> Encoded:
        clips = self.clips(messages, silence)
        real = self.processor
        if not isinstance(real, Qwen2_5OmniProcessor):
            return Encoded(self._text_prompt_ids(clips.turns), {}, False, messages, silence)
        in_video = self.settings.audio_in_video and bool(clips.videos)
        media: dict[str, torch.Tensor] = {}
        if clips.images:
            media["pixel_values"], grids = _patches(real.image_processor, clips.images)
            media["image_grid_thw"] = torch.tensor([[1, *grid] for grid in grids])
        if clips.videos:
            media["pixel_values_videos"], grids = _patches(real.video_processor, clips.videos)
            media["video_grid_thw"] = torch.tensor(grids)
            media["video_second_per_grid"] = torch.tensor(self._seconds_per_grid(clips))
        if clips.mels:
            frames = max(mel.shape[1] for mel in clips.mels)
            filled = [(mel, torch.ones(mel.shape[1], dtype=torch.int32)) for mel in clips.mels]
            padded = [[pad(tensor, (0, frames - tensor.shape[-1])) for tensor in pair] for pair in filled]
            media["input_features"], media["feature_attention_mask"] = map(torch.stack, zip(*padded, strict=True))
        return Encoded(self._prompt_ids(clips, media, in_video), media, in_video, messages, silence)

    def _seconds_per_grid(self, clips: Clips) -> list[float]:
        """For each video: seconds from one row of its grid to the next."""
        assert isinstance(self.processor, Qwen2_5OmniProcessor)
        return [self.processor.video_processor.temporal_patch_size / clips.fps for _ in clips.videos]

    def _prompt_ids(self, clips: Clips, media: dict[str, torch.Tensor], in_video: bool) -> torch.Tensor:
        """Token ids of the chat template, with as many placeholders as the towers will give tokens, by the stock rules."""
        real = self.processor
        assert isinstance(real, Qwen2_5OmniProcessor)
        text = real.apply_chat_template(clips.turns, tokenize=False, add_generation_prompt=True)
        seen: dict[str, Any] = {name: grids.numpy() for name, grids in media.items() if name.endswith("grid_thw")}
        seen["video_second_per_grid"] = self._seconds_per_grid(clips)
        heard = {"num_audio_tokens": _get_feat_extract_output_lengths(np.array([m.shape[1] for m in clips.mels]))}
        track_of_video = [
            sound for sound, video in enumerate(clips.track_of) if video is not None
        ]  # they come in order
        options = {
            "load_audio_from_video": in_video,
            "position_id_per_seconds": real.position_id_per_seconds,
            "seconds_per_chunk": real.seconds_per_chunk,
        }
        (text,), _ = real.get_text_with_replacements(
            [text],
            [real.replace_image_token(seen, i) for i in range(len(clips.images))],
            [real.replace_video_token(seen, i, heard, track_of_video, **options) for i in range(len(clips.videos))],
            [real.replace_audio_token(heard, i) for i, video in enumerate(clips.track_of) if video is None],
        )
        return torch.tensor(self.tokenizer(text)["input_ids"])

    def _text_prompt_ids(self, turns: list[dict[str, Any]]) -> torch.Tensor:
        flat = [{"role": t["role"], "content": "".join(p["text"] for p in t["content"])} for t in turns]
        text = self.tokenizer.apply_chat_template(flat, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return torch.tensor(self.text_ids(text))

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
            `input_ids` and `attention_mask` (B, P), the media tensors of all prompts, and `use_audio_in_video`. Pictures are
            brought to the device as bytes and normalised there.
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
            for name, stock in (
                ("pixel_values", self.processor.image_processor),
                ("pixel_values_videos", self.processor.video_processor),
            ):
                if name in batch:
                    batch[name] = _normalised(batch[name], stock)
            batch["use_audio_in_video"] = with_video == {True}
        return batch


def _parts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [part for message in messages for part in message["content"]]


def _stamp(path: str) -> tuple[int, int]:
    stat = existing(path).stat()
    return stat.st_mtime_ns, stat.st_size


def _patches(stock: Any, pictures: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[list[int]]]:
    """All patches (N, 3 x 2 x 14 x 14) of images or videos, in the order that the tower wants, and the grid of each."""
    cut = [stock.patchify(p[None], stock.patch_size, stock.merge_size, stock.temporal_patch_size) for p in pictures]
    return torch.cat([patches[0] for patches, *_ in cut]), [grid for _, *grid in cut]


def _normalised(patches: torch.Tensor, stock: Any) -> torch.Tensor:
    """Bytes to floats, with the mean and deviation of each colour as the stock processor has them."""
    coloured = patches.view(len(patches), 3, stock.patch_size, -1)
    mean, std = tuple(stock.image_mean), tuple(stock.image_std)
    return stock.rescale_and_normalize(
        coloured, stock.do_rescale, stock.rescale_factor, stock.do_normalize, mean, std
    ).view_as(patches)
