"""Clips that a browser plays, small enough for twenty of them to lie inside one page.

Many corpora hold MPEG-4 part 2 or AVI, which no browser plays, so everything is encoded anew with what PyAV carries. Where
no video encoder is there, a strip of frames and the sound take the place of the film.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image

from runtime.errors import MediaError

VIDEO = (("libx264", "aac", "mp4", "video/mp4"), ("libvpx", "libopus", "webm", "video/webm"))
"""Video encoder, audio encoder, container, MIME type; the first whose encoders are there is taken."""
AUDIO = (("libmp3lame", "mp3", "audio/mpeg"), ("pcm_s16le", "wav", "audio/wav"))
HEIGHT = 240
"""Pixels; larger frames are made smaller."""
FPS = 12
RATE = 16_000
SECONDS = 20.0
"""Longer clips are cut off."""
STRIP_FRAMES = 6

Span = tuple[float, float] | None
Encoded = tuple[str, bytes]
"""MIME type and content."""


def browser_clip(path: Path, kind: str, span: Span = None) -> list[Encoded]:
    """What to embed for a media file, in the order of showing.

    Args:
        path: audio, image or video file.
        kind: "audio", "image" or "video".
        span: start and end in seconds; None is the whole file, of which the first SECONDS are kept.

    Raises:
        MediaError: when the file is missing, unreadable, or holds nothing of this kind.
    """
    if not path.is_file():
        raise MediaError(f"{path}: there is no such media file; mend the record's path, or remove the record")
    start, end = span or (0.0, SECONDS)
    end = min(end, start + SECONDS)
    try:
        if kind == "audio":
            samples = _sound(path, start, end)
            if not len(samples):
                raise MediaError(f"{path}: no sound between {start} and {end} s; mend the span, or replace the file")
            return [_audio(samples)]
        images = list(_images(path, start, end))
        if kind == "image":
            return [_png(images[:1])]
        sound = _sound(path, start, end)
        encoders = next((v for v in VIDEO if {v[0], v[1]} <= av.codecs_available), None)
        if encoders:
            return [_video(images, sound, *encoders)]
        strip = [images[i] for i in np.linspace(0, len(images) - 1, min(STRIP_FRAMES, len(images))).astype(int)]
        return [_png(strip), *([_audio(sound)] if len(sound) else [])]
    except FFmpegError as error:
        raise MediaError(f"{path}: not a readable {kind} file ({error}); replace it, or remove the record") from None


def _images(path: Path, start: float, end: float) -> Iterator[np.ndarray]:
    """RGB frames [H, W, 3] at FPS, with even H and W as the encoders want them."""
    with av.open(str(path)) as box:
        if not box.streams.video:
            raise MediaError(f"{path}: holds no video stream; drop the video view, or replace the file")
        box.seek(int(start * av.time_base))
        shown = 0
        for frame in box.decode(video=0):
            time = frame.time or 0.0
            if time >= end:
                break
            if time < start - 1e-6:
                continue
            scale = min(1.0, HEIGHT / frame.height)
            width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
            image = frame.to_ndarray(format="rgb24", width=width, height=height)
            while shown / FPS <= time - start + 1e-6:
                shown += 1
                yield image
        if not shown:
            raise MediaError(f"{path}: holds no frame between {start} and {end} s; mend the span, or replace the file")


def _sound(path: Path, start: float, end: float) -> np.ndarray:
    """Mono 16-bit samples [T] at RATE; empty when a film is silent."""
    with av.open(str(path)) as box:
        if not box.streams.audio:
            if box.streams.video:
                return np.zeros(0, np.int16)
            raise MediaError(f"{path}: holds no audio stream; drop the audio view, or replace the file")
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        pieces = []
        for frame in box.decode(audio=0):
            if (frame.time or 0.0) >= end:
                break
            pieces += resampler.resample(frame)
        pieces += resampler.resample(None)
    samples = np.concatenate([piece.to_ndarray().ravel() for piece in pieces] or [np.zeros(0, np.int16)])
    return samples[int(start * RATE) : int(end * RATE)]


def _track(box: OutputContainer, codec: str) -> AudioStream:
    track = box.add_stream(codec, rate=RATE, layout="mono")
    assert isinstance(track, AudioStream)
    return track


def _write_sound(box: OutputContainer, track: AudioStream, samples: np.ndarray) -> None:
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    box.mux(track.encode(frame))
    box.mux(track.encode(None))


def _audio(samples: np.ndarray) -> Encoded:
    codec, container, mime = next(a for a in AUDIO if a[0] in av.codecs_available)
    out = io.BytesIO()
    with av.open(out, "w", format=container) as box:
        _write_sound(box, _track(box, codec), samples)
    return mime, out.getvalue()


def _video(
    images: list[np.ndarray], sound: np.ndarray, codec: str, sound_codec: str, container: str, mime: str
) -> Encoded:
    out = io.BytesIO()
    with av.open(out, "w", format=container) as box:
        film = box.add_stream(codec, rate=FPS, options={"crf": "28"})
        assert isinstance(film, VideoStream)
        film.height, film.width = images[0].shape[:2]
        film.pix_fmt = "yuv420p"
        track = _track(box, sound_codec) if len(sound) else None  # every stream before the first packet
        for image in images:
            box.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        box.mux(film.encode(None))
        if track is not None:
            _write_sound(box, track, sound)
    return mime, out.getvalue()


def _png(images: list[np.ndarray]) -> Encoded:
    out = io.BytesIO()
    Image.fromarray(np.concatenate(images, axis=1)).save(out, "PNG", optimize=True)
    return "image/png", out.getvalue()
