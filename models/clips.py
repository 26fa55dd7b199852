"""One clip to the tensors that depend on nothing but the clip and the media settings: resized pictures, waveform, log-mel.

So they are made once for all prompts, processes and runs, and kept on disk (models/media_cache.py). `prefetch` makes them in
background threads, ahead of need; decoding, resizing and the Fourier transform release Python's lock.
"""

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5OmniProcessor
from transformers.image_utils import SizeDict

from models.media import RATE, has_sound, read_audio, read_image, read_video
from models.media_cache import MediaCache, Tensors, content
from runtime.errors import MediaError

KINDS = ("image", "audio", "video")
"""Types of a message part that stand for a clip."""

MIN_SAMPLES = 800
"""50 ms: below about 30 ms the audio tower gets no token at all."""

MAX_RATIO = 200
"""Of the sides of a picture; the stock resizing refuses more."""

BLOCK = 16
"""Sounds are padded to a multiple of so many frames for the extractor: a matrix product of fewer columns adds up in another
order, which moves the last bit of some values away from those of the stock window."""

FORMAT = 1
"""Raised when the same clip and settings give other tensors, so that entries of older versions are not used."""

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that prefetch."""


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """How media become tensors."""

    audio_in_video: bool
    fps: float
    max_frames: int
    video_size: dict[str, int]
    """`shortest_edge` and `longest_edge`: bounds of one frame's area in pixels (height x width), as the processor names them."""


class ClipReader:
    """Reads the clips that message parts point at.

    Args:
        processor: the real omni processor, whose sizes and features are made.
        settings: the rest of what decides them.
        cache: keeps the tensors on disk; None keeps none.
    """

    def __init__(self, processor: Qwen2_5OmniProcessor, settings: MediaSettings, cache: MediaCache | None) -> None:
        self.processor = processor
        self.settings = settings
        self.cache = cache

    def read(self, part: dict[str, Any]) -> Tensors:
        """The tensors of a part of one of KINDS.

        Returns:
            image: `pixels` (3, H, W) uint8, as large as the model sees them.
            audio: `wave` (T,) float32 at 16 kHz, and `mel` (bins, frames) float32 without padding.
            video: `pixels` (T, 3, H, W) uint8 and `fps` () float64; with `audio_in_video` also `wave` and `mel` of its track,
            or of silence of its length.

        Raises:
            MediaError: for unreadable media, a sound shorter than MIN_SAMPLES or longer than the extractor's window, or a
                picture too narrow to be resized.
        """
        if self.cache is None:
            return self._make(part)
        return self.cache.fetch(self._made_from(part), lambda: self._make(part))

    def prefetch(self, parts: Iterable[dict[str, Any]]) -> None:
        """Bring clips into the cache in background threads, in this order; `read` waits for one that a thread is at.

        What cannot be read is left for `read` to refuse. The threads stop when these clips fill the cache, or the program
        ends. Without a cache nothing happens.
        """
        cache = self.cache
        if cache is None:
            return
        todo, left = iter(list(parts)), cache.limit  # one iterator, shared by the threads

        def work() -> None:
            nonlocal left
            for part in todo:
                if left <= 0 or not threading.main_thread().is_alive():
                    return
                with suppress(MediaError):
                    left -= cache.warm(self._made_from(part), lambda part=part: self._make(part))

        for _ in range(WORKERS):
            threading.Thread(target=work, name="prefetch").start()

    def missing(self, part: dict[str, Any]) -> bool:
        """Whether there is a disk cache and a part's tensors are not in it."""
        return self.cache is not None and self._made_from(part) not in self.cache

    def _made_from(self, part: dict[str, Any]) -> dict[str, Any]:
        """All that decides a part's tensors."""
        real = self.processor
        image, video, sound = real.image_processor, real.video_processor, real.feature_extractor
        heard = [sound.sampling_rate, sound.n_fft, sound.hop_length, sound.feature_size, sound.n_samples]
        decisive = {
            "image": [dict(image.size), image.patch_size, image.merge_size, image.resample],
            "audio": heard,
            "video": [
                self.settings.fps,
                self.settings.max_frames,
                self.settings.video_size,
                video.patch_size,
                video.merge_size,
                video.resample,
                heard if self.settings.audio_in_video else None,
            ],
        }
        return {
            "kind": part["type"],
            "content": content(existing(part["path"])),
            "span": part["span"],
            "settings": decisive[part["type"]],
            "format": FORMAT,
        }

    def _make(self, part: dict[str, Any]) -> Tensors:
        path, span = part["path"], part["span"]
        if part["type"] == "audio":
            return self._featurised(path, read_audio(path, span))
        if part["type"] == "image":
            pixels, stock = _not_too_narrow(path, read_image(path)), self.processor.image_processor
            factor = stock.patch_size * stock.merge_size
            size = SizeDict(**dict(stock.size))
            return {"pixels": stock.resize(pixels[None], size, stock.resample, factor)[0]}
        frames, fps = read_video(path, self.settings.fps, span, self.settings.max_frames)
        pixels, stock = _not_too_narrow(path, frames), self.processor.video_processor
        factor = stock.patch_size * stock.merge_size
        size = SizeDict(**self.settings.video_size)
        # the cap is that of qwen_omni_utils, on all frames of a video together: from about 300 large ones on
        pixels = stock.resize(pixels[None], size, stock.resample, factor, cap_pixels_per_frame=True)[0]
        tensors = {"pixels": pixels, "fps": torch.tensor(fps, dtype=torch.float64)}
        if self.settings.audio_in_video:
            silence = np.zeros(round(len(frames) / fps * RATE), np.float32)
            tensors |= self._featurised(path, read_audio(path, span) if has_sound(Path(path)) else silence)
        return tensors

    def _featurised(self, path: str, wave: np.ndarray) -> Tensors:
        extractor = self.processor.feature_extractor
        window, block = extractor.n_samples, BLOCK * extractor.hop_length
        if len(wave) > window:
            raise MediaError(
                f"{path}: {len(wave) / RATE:.1f} s of sound, the model hears at most {window / RATE:.0f} s; "
                "cut the clip, or give the record a span"
            )
        if len(wave) < MIN_SAMPLES:
            raise MediaError(f"{path}: {len(wave)} samples of sound, at least {MIN_SAMPLES} are needed; remove it")
        # one window of silence after the sound completes its last frame, as the full padding does
        length = min(window, -(-(len(wave) + extractor.n_fft) // block) * block)
        out = extractor(wave, sampling_rate=RATE, max_length=length, return_attention_mask=True, return_tensors="pt")
        valid = int(torch.as_tensor(out["attention_mask"]).sum())
        mel = torch.as_tensor(out["input_features"])[0, :, :valid].clone()
        return {"wave": torch.from_numpy(wave), "mel": mel}


def existing(path: str) -> Path:
    """The path of a media file, or the error that it is not there."""
    if not Path(path).is_file():
        raise MediaError(f"{path}: there is no such media file; mend the record's path, or remove the record")
    return Path(path)


def _not_too_narrow(path: str, pixels: torch.Tensor) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    if max(height, width) > MAX_RATIO * min(height, width):
        raise MediaError(
            f"{path}: {width} x {height} pixels, one side may be {MAX_RATIO} times the other at most; crop it, or remove the "
            "record"
        )
    return pixels
