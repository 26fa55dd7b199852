"""Media files made worse on purpose: noise at a signal-to-noise ratio, and frames that never arrived.

What is not made worse comes out bit for bit as models/media.py reads it from the source: pictures are copied or coded without
loss, sounds are kept as floats at the rate that the model hears.
"""

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import OutputContainer

from models.media import RATE, read_audio

BLOCK = 1 << 14
"""Samples of sound in one packet."""


def mixed(clean_T: np.ndarray, noise_T: np.ndarray, snr: float) -> np.ndarray:
    """Sound with noise, scaled such that 10 log10(mean square of the sound / mean square of the noise) is `snr`.

    Args:
        clean_T: float32 samples in [-1, 1].
        noise_T: as many samples of any scale.
        snr: signal-to-noise ratio in dB, over the whole sound, its pauses included.

    Returns:
        (T,) float32. Sums may leave [-1, 1]: cutting them off would be a second defect. A silent sound, for which no ratio
        exists, stays silent, and so does noise that is silent itself.
    """
    signal, noise = (float(np.mean(np.square(x, dtype=np.float64))) for x in (clean_T, noise_T))
    if signal == 0 or noise == 0:
        return clean_T
    return (clean_T + noise_T * math.sqrt(signal / noise / 10 ** (snr / 10))).astype(np.float32)


def write_sound(path: Path, wave_T: np.ndarray) -> None:
    """(T,) float32 samples at 16 kHz as a wav file of floats."""
    soundfile.write(path, wave_T, RATE, format="WAV", subtype="FLOAT")


def replace_sound(source: Path, path: Path, wave_T: np.ndarray | None) -> None:
    """A film with another sound; its pictures are copied packet by packet.

    Args:
        source: anything that FFmpeg reads, with a video stream.
        path: gets a Matroska file.
        wave_T: float32 samples at 16 kHz; None for a silent film.
    """
    with av.open(str(source)) as film, av.open(str(path), "w", format="matroska") as out:
        pictures = film.streams.video[0]
        copy = out.add_stream_from_template(pictures)
        track = None if wave_T is None else _track(out)
        for packet in film.demux(pictures):
            if packet.dts is not None:  # the last one, which is empty, has none
                packet.stream = copy
                out.mux(packet)
        if track is not None and wave_T is not None:
            _add(out, track, wave_T)


def freeze_frames(source: Path, path: Path, share: float, fps: float, rng: np.random.Generator) -> None:
    """A film of which a share never arrived: the last frame that did stays on the screen. The sound stays.

    What is lost are stretches of 1 / `fps` seconds, so that of the frames that a model is shown at this rate, and not of the
    source's many more, the share is lost. The first stretch always arrives.

    Args:
        source: anything that FFmpeg reads, with a video stream.
        path: gets a Matroska file, its pictures coded without loss (FFV1).
        share: of the stretches, in [0, 1].
        fps: frames per second that the model is shown.
        rng: draws which ones.
    """
    with av.open(str(source)) as film, av.open(str(path), "w", format="matroska") as out:
        pictures = film.streams.video[0]
        rate = Fraction(pictures.average_rate or pictures.guessed_rate or fps)
        coded = out.add_stream("ffv1", rate=rate)
        coded.width, coded.height, coded.pix_fmt = pictures.width, pictures.height, pictures.pix_fmt
        track = _track(out) if film.streams.audio else None
        length = max(1.0, rate / fps)
        """Of a stretch, in frames."""
        shown, lost, stretch = None, False, 0
        for number, frame in enumerate(film.decode(pictures)):
            if int(number / length) != stretch:
                stretch, lost = int(number / length), bool(rng.random() < share)
            shown = frame if shown is None or not lost else shown
            still = av.VideoFrame.from_ndarray(shown.to_ndarray(), format=shown.format.name)
            still.colorspace, still.color_range = shown.colorspace, shown.color_range  # decide what its bytes look like
            still.pts, still.time_base = number, 1 / rate
            out.mux(coded.encode(still))
        out.mux(coded.encode())
        if track is not None:
            _add(out, track, read_audio(source))


def _track(out: OutputContainer) -> AudioStream:
    return out.add_stream("pcm_f32le", rate=RATE, layout="mono")


def _add(out: OutputContainer, track: AudioStream, wave_T: np.ndarray) -> None:
    for start in range(0, len(wave_T), BLOCK):
        block = av.AudioFrame.from_ndarray(wave_T[None, start : start + BLOCK], format="flt", layout="mono")
        block.sample_rate, block.pts, block.time_base = RATE, start, Fraction(1, RATE)
        out.mux(track.encode(block))
    out.mux(track.encode())
