"""Small media files with contents that can be told again after decoding."""

from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 16_000
LEVEL = 10
"""Grey levels between one frame of a written video and the next."""


def tone(seconds: float, hz: float = 220.0, rate: int = RATE) -> np.ndarray:
    """[T] a quiet sine with slowly changing loudness, so that no two windows are alike."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hz * t) * (0.5 + 0.4 * np.sin(2 * np.pi * 0.9 * t))).astype(np.float32)


def write_sound(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """Write (T,) or (T, channels) as 16-bit wav or flac, by the name's ending."""
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def write_mp4(
    path: Path, frames: int = 24, fps: int = 12, sound: np.ndarray | None = None, size: tuple[int, int] = (64, 64)
) -> Path:
    """Write frames (H, W) of even grey: frame i has the level LEVEL * i; `sound`, if any, becomes an aac track."""
    with av.open(str(path), "w") as box:
        film = box.add_stream("mpeg4", rate=fps, options={"qmin": "1", "qmax": "2"})
        film.height, film.width = size
        film.pix_fmt = "yuv420p"
        track = None if sound is None else box.add_stream("aac", rate=RATE, layout="mono")
        for i in range(frames):
            image = np.full((*size, 3), LEVEL * i, np.uint8)
            box.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        box.mux(film.encode(None))
        if track is not None and sound is not None:
            block = av.AudioFrame.from_ndarray((sound[None] * 32767).astype("<i2"), format="s16", layout="mono")
            block.sample_rate, block.pts = RATE, 0
            box.mux(track.encode(block))
            box.mux(track.encode(None))
    return path


def numbers(frames) -> list[int]:
    """Which frames of a written video these are."""
    return [round(float(level) / LEVEL) for level in frames.float().mean((1, 2, 3))]
