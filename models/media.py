"""The only place that opens media bytes: sound and frames through PyAV, which carries its own decoders.

Frames are chosen as `qwen_omni_utils` chooses them, so that a clip looks here as it looked when the real checkpoint was
trained.
"""

import math
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from qwen_omni_utils.v2_5.vision_process import FRAME_FACTOR, smart_nframes

from runtime.errors import MediaError

RATE = 16_000
"""Samples per second, what the Whisper features expect."""

Span = tuple[float, float] | None


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        raise MediaError(f"{path}: there is no such media file; mend the record's path, or remove the record")
    try:
        return av.open(str(path))
    except FFmpegError as error:
        raise MediaError(
            f"{path}: not a readable media file ({error}); replace the file, or remove the record"
        ) from None


def _refuse_torn_wav(path: Path) -> None:
    """FFmpeg reads a wav file that was cut off as a shorter sound; its header still says how long it was."""
    with path.open("rb") as file:
        head = file.read(4096)
    start = head.find(b"data") + 8
    if head[:4] != b"RIFF" or start < 8:
        return
    promised, held = int.from_bytes(head[start - 4 : start], "little"), path.stat().st_size - start
    if held < promised < 0x7FFF0000:  # a program that writes into a pipe does not know, and states the largest number
        raise MediaError(
            f"{path}: holds {held} of the {promised} bytes of sound that its header states, so it was cut off; replace the "
            "file, or remove the record"
        )


def has_sound(path: Path) -> bool:
    """Whether the file holds an audio stream."""
    with _open(path) as container:
        return bool(container.streams.audio)


def read_audio(path: str | Path, span: Span = None, rate: int = RATE) -> np.ndarray:
    """The sound of an audio or video file.

    Args:
        path: wav, flac, mp3, mp4 and whatever else FFmpeg reads.
        span: start and end in seconds; None is the whole file.
        rate: samples per second of the result.

    Returns:
        (T,) float32 mono samples, finite; in [-1, 1] but for files of floats, which may go beyond.

    Raises:
        MediaError: when the file is missing, unreadable, without sound, or in `span` without a sample or with NaN or infinity.
    """
    path = Path(path)
    with _open(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{path}: holds no audio stream; drop the audio view, or replace the file")
        _refuse_torn_wav(path)
        resampler = av.AudioResampler(format="fltp", rate=rate)
        try:
            pieces = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
            pieces += resampler.resample(None)
        except FFmpegError as error:
            raise MediaError(f"{path}: breaks off while decoding sound ({error}); replace the file") from None
    # the mean of the channels, as librosa does it: FFmpeg's own mixing to mono makes two like channels louder by sqrt(2)
    wave = np.concatenate([p.to_ndarray().mean(0) for p in pieces]) if pieces else np.zeros(0, np.float32)
    if span is not None:
        wave = wave[round(span[0] * rate) : round(span[1] * rate)]
    if not len(wave):
        raise MediaError(f"{path}: no sound in span {span}; mend the span, or remove the record")
    if not np.isfinite(wave).all():
        raise MediaError(f"{path}: holds sound that is not a finite number; replace the file, or remove the record")
    return wave


def read_video(path: str | Path, fps: float, span: Span = None, max_frames: int = 768) -> tuple[torch.Tensor, float]:
    """Frames of a video, evenly spaced at about `fps`.

    Args:
        path: anything FFmpeg reads.
        fps: wanted frames per second.
        span: start and end in seconds, both included; None is the whole file.
        max_frames: an upper bound; longer videos are sampled more sparsely.

    Returns:
        Frames (T, 3, H, W) uint8 with T a multiple of 2, and the rate at which they were really taken.

    Raises:
        MediaError: when the file is missing, unreadable, or has fewer than two frames in `span`.
    """
    path = Path(path)
    with _open(path) as container:
        if not container.streams.video:
            raise MediaError(f"{path}: holds no video stream; drop the video view, or replace the file")
        stream = container.streams.video[0]
        source_fps = float(stream.average_rate or stream.guessed_rate or fps)
        try:
            promised = sum(packet.size > 0 for packet in container.demux(video=0))  # one a frame; nothing is decoded
        except FFmpegError as error:
            raise _breaks_off(path, error) from None
    picked, rate = _pick(path, promised, source_fps, fps, span, max_frames)
    frames, total = _decode(path, picked)
    if total != promised:  # frames that an edit list hides, or that could not be decoded
        picked, rate = _pick(path, total, source_fps, fps, span, max_frames)
        frames, _ = _decode(path, picked)
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(), rate


def _breaks_off(path: Path, error: FFmpegError) -> MediaError:
    return MediaError(f"{path}: breaks off while decoding frames ({error}); replace the file")


def _pick(path: Path, total: int, source_fps: float, fps: float, span: Span, max_frames: int) -> tuple[set[int], float]:
    """Numbers of the frames to take of a video of `total` frames, and their rate."""
    first, last = 0, total - 1
    if span is not None:  # as `calculate_video_frame_range` of qwen_omni_utils, which refuses less than two frames
        first = math.ceil(span[0] * source_fps)
        last = min(max(math.floor(span[1] * source_fps), first + FRAME_FACTOR - 1), last)
    held = max(0, last - first + 1)
    if held < FRAME_FACTOR:
        raise MediaError(f"{path}: {held} frames in span {span}, at least {FRAME_FACTOR} are needed; mend or remove it")
    count = smart_nframes({"fps": min(fps, source_fps), "max_frames": min(max_frames, held)}, held, source_fps)
    return set(torch.linspace(first, last, count).round().long().tolist()), count / held * source_fps


def _decode(path: Path, picked: set[int]) -> tuple[list[np.ndarray], int]:
    """The picked frames (H, W, 3), the only ones that become pixels, and how many there are in all."""
    frames, total = [], 0
    with _open(path) as container:
        try:
            for total, frame in enumerate(container.decode(video=0), 1):
                if total - 1 in picked:
                    frames.append(frame.to_ndarray(format="rgb24"))
        except FFmpegError as error:
            raise _breaks_off(path, error) from None
    return frames, total


def read_image(path: str | Path) -> torch.Tensor:
    """An image as (3, H, W) uint8.

    Raises:
        MediaError: when the file is missing or unreadable.
    """
    with _open(Path(path)) as container:
        try:
            frame = next(container.decode(video=0))
        except (FFmpegError, StopIteration, IndexError) as error:
            raise MediaError(f"{path}: not a readable image ({error!r}); replace the file") from None
        return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).contiguous()
