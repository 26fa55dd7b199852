"""One look at the media of a record: facts, defects, and prints by which the same clip is known again.

Whatever training reads is read here by the same functions (models/media.py), so what they refuse is found before a run. Frames are
decoded once, all of them; sound is decoded once, at its own rate, because resampling hides where it was cut off.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from qwen_omni_utils.v2_5.vision_process import FRAME_FACTOR
from scipy.signal import resample_poly

from evaluation.doctor.findings import Finding
from models.clips import MAX_RATIO, MIN_SAMPLES
from models.media import RATE, read_audio, read_image, read_video
from models.media_cache import content
from runtime.errors import MediaError
from tasks.record import Media, Record, resolve

WINDOW = 0.03
"""Seconds over which a level is measured."""
SILENCE_DB = -60.0
"""Sound whose loud windows stay below this level (dB re full scale) holds no voice; models/cues.py counts it as unmeasurable."""
UNIFORM = 1.5
"""Grey levels: frames whose pixels deviate less than this from their mean show nothing."""
PLATEAU, PLATEAU_RUN, FULL = 1e-4, 4, 0.999
"""Sound is cut off where it stays within this share of its own peak for PLATEAU_RUN samples, or is above FULL (a lossy coder bends
plateaus, and its overshoot ends there)."""
CLIPPED_SHARE = 1e-3
"""Share of such samples from which on a clip counts as clipped."""
LENGTHS = (0.4, 0.1)
"""Sound and pictures may differ by so many seconds, or by this share of the longer one."""

PRINT_RATE, PRINT_SECONDS = 2_000, 10
"""A print of sound is its first seconds at this rate: coders keep what is below 1 kHz."""
PRINT_LOW_HZ = 100
"""Below, mains hum, rumble and offsets make strangers alike."""
PRINT_FRAMES, PRINT_SIDE = 6, 8
"""A print of pictures is so many frames at the most, evenly spaced, as grey thumbnails of this side."""


@dataclass(frozen=True, slots=True)
class Sound:
    """An audio view, or the track of a video."""

    seconds: float
    samples: int
    """At RATE, as the model hears it."""
    print: bytes
    """int8 samples at PRINT_RATE, loudest 127; empty for silence."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image or video view."""

    width: int
    height: int
    frames: int
    """In the span; 1 for an image."""
    fps: float
    """Of the file; 0 for an image."""
    print: bytes
    """uint8 thumbnails (frames, PRINT_SIDE, PRINT_SIDE); empty for pictures of one colour."""

    @property
    def seconds(self) -> float:
        """Length; 0 for an image."""
        return self.frames / self.fps if self.fps else 0.0


@dataclass(frozen=True, slots=True)
class Clip:
    """What is known of one readable view. A video has both, or a picture alone when it is without sound."""

    media: Media
    content: str
    """Hash of the file's bytes."""
    sound: Sound | None
    picture: Picture | None


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that one look at a record gave."""

    uid: str
    clips: dict[str, Clip]
    """By the name of the view; those that could not be read are not there."""
    findings: tuple[Finding, ...]
    seconds: float
    """Of processor time."""


def look(record: Record, root: Path, views: tuple[str, ...] | None) -> Look:
    """Read the media of a record.

    Args:
        record: its pointers lead below `root`.
        root: of the data.
        views: names of the views to look at; None is all of them.
    """
    start = time.process_time()
    clips: dict[str, Clip] = {}
    findings: list[Finding] = []
    for name, view in record.views.items():
        if not isinstance(view, Media) or (views is not None and name not in views):
            continue
        try:
            path = resolve(root, view.path)
        except MediaError as error:
            findings.append(Finding("missing", record.uid, str(error), name))
            continue
        if not path.is_file():
            reason = f"{path}: there is no such media file; mend the record's path, or remove the record"
            findings.append(Finding("missing", record.uid, reason, name))
            continue
        clip, found = _read(path, view)
        findings += [Finding(kind, record.uid, reason, name) for kind, reason in found]
        if clip is not None:
            clips[name] = clip
    findings += _lengths(record.uid, clips)
    return Look(record.uid, clips, tuple(findings), time.process_time() - start)


Found = list[tuple[str, str]]
"""Kinds and reasons."""


@dataclass(frozen=True, slots=True)
class _Streams:
    """What the container says, without decoding."""

    rate: int | None
    """Samples a second of its audio stream; None without one."""
    fps: float | None
    """Of its video stream; None without one."""
    frames: int
    """Of its video stream; 0 where they were not counted."""


def _streams(path: Path, count: bool) -> _Streams:
    """Raises MediaError for a file that is no media file, or breaks off while its frames are counted."""
    try:
        with av.open(str(path)) as box:
            rate = box.streams.audio[0].rate if box.streams.audio else None
            if not box.streams.video:
                return _Streams(rate, None, 0)
            film = box.streams.video[0]
            fps = float(film.average_rate or film.guessed_rate or 1)
            frames = sum(packet.size > 0 for packet in box.demux(video=0)) if count else 0  # one a frame
            return _Streams(rate, fps, frames)
    except FFmpegError as error:
        raise MediaError(
            f"{path}: not a readable media file ({error}); replace the file, or remove the record"
        ) from None


def _read(path: Path, media: Media) -> tuple[Clip | None, Found]:
    """A clip that exists, and its defects; None when it cannot be read."""
    found: Found = []
    try:
        streams = _streams(path, media.kind == "video")
        picture = sound = None
        if media.kind != "audio":
            picture = _picture(path, media, streams, found)
        elif streams.rate is None:
            found.append(("no_track", f"{path}: holds no audio stream; drop the audio view, or replace the file"))
        if media.kind != "image" and streams.rate is not None:
            sound = _sound(path, media, streams.rate, found)
    except MediaError as error:
        return None, [("unreadable", str(error))]
    if (sound if media.kind == "audio" else picture) is None:
        return None, found
    return Clip(media, content(path), sound, picture), found


def _sound(path: Path, media: Media, rate: int, found: Found) -> Sound:
    wave = read_audio(path, media.span, rate)
    samples = math.ceil(len(wave) * RATE / rate)
    loud = _loud_db(wave, rate)
    if loud < SILENCE_DB:
        level = (
            "is nothing but zeros"
            if loud == -math.inf
            else f"is at {loud:.0f} dB re full scale, {SILENCE_DB:g} are needed"
        )
        found.append(("silent", f"{path}: its loudest part {level}; replace the file, or drop the view"))
    elif (share := clipped_share(wave)) > CLIPPED_SHARE:
        found.append(
            ("clipped", f"{path}: {share:.1%} of its samples are cut off at its peak; record it with less gain")
        )
    if samples < MIN_SAMPLES:
        need = f"{MIN_SAMPLES} are needed ({1000 * MIN_SAMPLES // RATE} ms)"
        found.append(("too_short", f"{path}: {samples} samples of sound at {RATE} Hz, {need}; remove it"))
    return Sound(len(wave) / rate, samples, _sound_print(wave, rate) if loud >= SILENCE_DB else b"")


def _loud_db(wave: np.ndarray, rate: int) -> float:
    """Level of the loud windows (95th percentile) in dB re full scale."""
    window = max(1, min(len(wave), round(WINDOW * rate)))
    power = np.square(wave[: len(wave) // window * window].reshape(-1, window)).mean(1)
    loud = float(np.percentile(power, 95))
    return 10 * math.log10(loud) if loud else -math.inf


def clipped_share(wave: np.ndarray) -> float:
    """Share of the samples of (T,) that were cut off at the peak or at full scale, in [0, 1]."""
    size = np.abs(wave)
    flat = size >= size.max() * (1 - PLATEAU)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    runs = edges[1::2] - edges[::2]
    return max(float(runs[runs >= PLATEAU_RUN].sum()), float((size > FULL).sum())) / len(wave)


def _sound_print(wave: np.ndarray, rate: int) -> bytes:
    step = math.gcd(rate, PRINT_RATE)
    low = resample_poly(wave[: PRINT_SECONDS * rate], PRINT_RATE // step, rate // step)
    spectrum = np.fft.rfft(low)
    spectrum[: math.ceil(PRINT_LOW_HZ * len(low) / PRINT_RATE)] = 0
    low = np.fft.irfft(spectrum, len(low))
    return np.round(low * (127 / max(float(np.abs(low).max()), 1e-9))).astype(np.int8).tobytes()


def _picture(path: Path, media: Media, streams: _Streams, found: Found) -> Picture | None:
    if media.kind == "image":
        frames, held, fps = read_image(path)[None], 1, 0.0
    elif streams.fps is None:
        raise MediaError(f"{path}: holds no video stream; drop the video view, or replace the file")
    else:
        held, fps = streams.frames, streams.fps
        if media.span is not None:
            held = max(0, min(held, math.floor(media.span[1] * fps) + 1) - math.ceil(media.span[0] * fps))
        if 0 < held < FRAME_FACTOR:
            found.append(("too_short", f"{path}: {held} frames, at least {FRAME_FACTOR} are needed; remove it"))
            return None
        frames, _ = read_video(path, fps / 2, media.span, PRINT_FRAMES)  # as many as a print has, or those there are
    height, width = frames.shape[-2:]
    if max(height, width) > MAX_RATIO * min(height, width):
        most = f"one side may be {MAX_RATIO} times the other at most"
        found.append(("too_long", f"{path}: {width} x {height} pixels, {most}; crop it, or remove the record"))
        return None
    grey = frames.numpy().mean(1)
    if max(float(frame.std()) for frame in grey) < UNIFORM:
        found.append(("blank", f"{path}: every frame is of one colour; replace the file, or drop the view"))
        return Picture(width, height, held, fps, b"")
    return Picture(width, height, held, fps, np.stack([_thumbnail(frame) for frame in grey]).tobytes())


def _thumbnail(grey: np.ndarray) -> np.ndarray:
    """(PRINT_SIDE, PRINT_SIDE) uint8 means of the cells of a picture (H, W), as large as they come out."""
    rows, columns = (np.linspace(0, n, PRINT_SIDE + 1).astype(int) for n in grey.shape)
    sums = np.pad(grey.cumsum(0).cumsum(1), ((1, 0), (1, 0)))[np.ix_(rows, columns)]
    cells = np.outer(np.diff(rows), np.diff(columns))
    return np.round(np.diff(np.diff(sums, axis=0), axis=1) / np.maximum(cells, 1)).clip(0, 255).astype(np.uint8)


def _lengths(uid: str, clips: dict[str, Clip]) -> list[Finding]:
    """Sound against pictures, in every video and between the views of a record."""
    films = {n: c.picture.seconds for n, c in clips.items() if c.picture is not None and c.picture.fps}
    sounds = {n: c.sound.seconds for n, c in clips.items() if c.sound is not None}
    found = []
    for film, seen in films.items():
        for sound, heard in sounds.items():
            own = film == sound
            if (own or sound not in films) and abs(seen - heard) > max(LENGTHS[0], LENGTHS[1] * max(seen, heard)):
                what = "its own sound" if own else f"the view {sound}"
                reason = f"views.{film}: {seen:.2f} s of pictures, and {what} has {heard:.2f} s; cut both to one length"
                found.append(Finding("length", uid, reason, film))
    return found
