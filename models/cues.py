"""What can be measured in a clip without any label: the course of the pitch, the bend of a mouth, the tone of the words.

    voice_cues(wave)    pitch, loudness, tempo of the loudest voice
    face_cues(frames)   the mouth of a schematic face; a real face is not measurable here
    word_cues(text)     lexicon valence of an English text and the words that carry it
    clip_cues(views)    all of these, of one record's views

A field that cannot be measured is None, never a guess. `direction` reads a cue as +1 (up), 0 (flat) or -1 (down).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import librosa
import numpy as np
from scipy import ndimage, signal
from torch import Tensor
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from models.media import has_sound, read_audio, read_video
from tasks.record import Media, View

SLOPE_SEMITONES = 2.0
"""A pitch that moves less than this over a clip counts as flat."""
MOUTH_BEND = 0.25
"""A mouth whose corners rise less than this share of its half width counts as flat."""
WORDS_VALENCE = 0.05
"""Compound scores nearer to zero than this are neutral (the threshold that VADER's authors recommend)."""

DARK, UNEVEN, STROKE = 0.5, 0.1, 0.1
"""A schematic mouth is darker than this share of the skin, on skin that varies less than this share, and (root mean square, as
a share of its width) no further than this from a parabola."""

FPS, MAX_FRAMES = 5.0, 16
"""How many frames of a video are measured."""

HOP_SECONDS = 0.01
WINDOW_SECONDS = 0.064
PITCH_HZ = (65.0, 500.0)
SILENCE_DB = -60.0
"""A clip whose loud frames stay below this level (dB re full scale) holds no voice."""
ACTIVE_DB = 25.0
"""Frames this far below the loud ones are pauses."""
PERIODICITY = 0.5
"""A frame is voiced when it correlates at least this much with itself one period later."""
DIP_DB = 2.0
"""Two loudness peaks are two syllables when the level between them drops by this much (de Jong and Wempe 2009)."""


def _direction(x: float | None, least: float) -> int | None:
    return None if x is None else (x >= least) - (x <= -least)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceCues:
    """Prosody of one clip."""

    pitch_hz: float | None = None
    """Median fundamental frequency of the voiced frames."""
    pitch_slope: float | None = None
    """Semitones that the pitch moves over the voiced part, up is positive."""
    pitch_range: float | None = None
    """Semitones between the 10th and the 90th percentile."""
    energy_db: float | None = None
    """Level of the frames that are no pause, dB re full scale; depends on the recording gain."""
    brightness_db: float | None = None
    """Energy of 1 to 5 kHz over that of 50 Hz to 1 kHz in voiced frames (the alpha ratio of Eyben et al. 2016, inverted);
    rises with vocal effort and does not depend on the gain."""
    rate: float | None = None
    """Syllables a second between the first and the last sound."""
    pauses: float | None = None
    """Share of silent frames between the first and the last sound, in [0, 1]."""

    @property
    def direction(self) -> int | None:
        """Where the pitch goes."""
        return _direction(self.pitch_slope, SLOPE_SEMITONES)


NORMED = ("pitch", "range", "tone", "pace")
"""The voice cues that are read against a norm: median pitch, range of the pitch, brightness, rate."""

MIN_VOICES = 8
"""Fewer measurable clips than this make no norm."""


@dataclass(frozen=True, slots=True)
class VoiceNorms:
    """What is usual among the voices of a run; each a row in the order of NORMED."""

    median: tuple[float, ...]
    mad: tuple[float, ...]
    """Median absolute deviation times 1.4826, which is the standard deviation of a normal sample."""

    def levels(self, voice: VoiceCues, edge: float) -> tuple[int, ...] | None:
        """Each cue as -1, 0 or +1: below, within or above `edge` deviations of the median; None when one is unmeasurable."""
        row = _row(voice)
        if row is None:
            return None
        z = [(x - m) / d for x, m, d in zip(row, self.median, self.mad, strict=True)]
        return tuple((v > edge) - (v < -edge) for v in z)


def _row(voice: VoiceCues) -> tuple[float, ...] | None:
    if voice.pitch_hz is None or voice.pitch_range is None or voice.brightness_db is None or voice.rate is None:
        return None
    return float(12 * np.log2(voice.pitch_hz)), voice.pitch_range, voice.brightness_db, voice.rate


def fit_norms(voices: Sequence[VoiceCues]) -> VoiceNorms | None:
    """Median and spread of the measurable voices, without any label; None when there are fewer than MIN_VOICES."""
    rows = [row for voice in voices if (row := _row(voice)) is not None]
    if len(rows) < MIN_VOICES:
        return None
    median = np.median(rows, axis=0)
    mad = 1.4826 * np.median(np.abs(rows - median), axis=0)
    return VoiceNorms(tuple(median.tolist()), tuple(np.maximum(mad, 1e-6).tolist()))


@dataclass(frozen=True, slots=True)
class FaceCues:
    """The mouth, over the frames of one clip."""

    mouth_curve: float | None = None
    """How far the corners lie above the middle, over half the width of the mouth, clipped to [-1, 1]; a smile is positive."""

    @property
    def direction(self) -> int | None:
        """Where the corners of the mouth go."""
        return _direction(self.mouth_curve, MOUTH_BEND)


@dataclass(frozen=True, slots=True)
class WordCues:
    """Lexicon reading of one text."""

    valence: float | None
    """VADER compound score in [-1, 1]; None for a text that cannot be read."""
    strongest: tuple[tuple[str, float], ...] = ()
    """Up to three words in falling order of what they add to the valence (negation included), with that amount in [-2, 2]."""

    @property
    def direction(self) -> int | None:
        """The side that the words take."""
        return _direction(self.valence, WORDS_VALENCE)


def voice_cues(wave: np.ndarray, rate: int = 16_000) -> VoiceCues:
    """Measure the voice in a clip.

    Pitch is YIN (de Cheveigne and Kawahara 2002; some 30 times faster than pYIN and as good for medians), voicing a
    normalised autocorrelation, syllables the peaks of loudness with a dip between them (de Jong and Wempe 2009).

    Args:
        wave: (T,) float mono samples in [-1, 1].
        rate: samples per second.

    Returns:
        The cues; all None for silence or less than one analysis window, pitch None for unvoiced sound.
    """
    window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    if len(wave) < window:
        return VoiceCues()
    padded = np.pad(wave.astype(np.float32), window // 2)
    frames_NW = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power_N = np.square(frames_NW).mean(1)
    level_N = 10 * np.log10(power_N + 1e-12)
    loud = float(np.percentile(level_N, 95))
    if loud < SILENCE_DB:
        return VoiceCues()

    active_N = level_N > loud - ACTIVE_DB
    first, last = np.flatnonzero(active_N)[[0, -1]]
    inside_N = slice(first, last + 1)
    smooth_N = ndimage.gaussian_filter1d(level_N[inside_N], 2, mode="nearest")
    peaks = signal.find_peaks(
        smooth_N, height=loud - ACTIVE_DB / 2, prominence=DIP_DB, distance=round(0.08 / HOP_SECONDS)
    )[0]

    f0_N = librosa.yin(
        padded, fmin=PITCH_HZ[0], fmax=PITCH_HZ[1], sr=rate, frame_length=window, hop_length=hop, center=False
    )
    voiced_N = active_N & (_periodicity(frames_NW, np.round(rate / f0_N).astype(int)) > PERIODICITY)
    cues = VoiceCues(
        energy_db=float(10 * np.log10(power_N[active_N].mean())),
        rate=len(peaks) / (float(last + 1 - first) * HOP_SECONDS),
        pauses=float(1 - active_N[inside_N].mean()),
    )
    if voiced_N.sum() * HOP_SECONDS < 0.1:
        return cues
    semitones_V = 12 * np.log2(f0_N[voiced_N])
    third = len(semitones_V) // 3
    return VoiceCues(
        pitch_hz=float(np.median(f0_N[voiced_N])),
        # the middles of the outer thirds lie two thirds of the course apart
        pitch_slope=float(np.median(semitones_V[-third:]) - np.median(semitones_V[:third])) * 1.5,
        pitch_range=float(np.subtract(*np.percentile(semitones_V, [90, 10]))),
        energy_db=cues.energy_db,
        brightness_db=_brightness(frames_NW[voiced_N], rate),
        rate=cues.rate,
        pauses=cues.pauses,
    )


def _periodicity(frames_NW: np.ndarray, lag_N: np.ndarray) -> np.ndarray:
    """[N] correlation in [-1, 1] of each frame with itself `lag` samples later."""
    span = frames_NW.shape[1] - int(lag_N.max())
    now = frames_NW[:, :span]
    later = np.take_along_axis(frames_NW, np.arange(span) + lag_N[:, None], axis=1)
    norm = np.sqrt(np.square(now).sum(1) * np.square(later).sum(1))
    return (now * later).sum(1) / np.maximum(norm, 1e-9)


def _brightness(frames_VW: np.ndarray, rate: int) -> float:
    power_K = np.square(np.abs(np.fft.rfft(frames_VW * np.hanning(frames_VW.shape[1])))).mean(0)
    hz_K = np.fft.rfftfreq(frames_VW.shape[1], 1 / rate)
    low, high = ((hz_K >= a) & (hz_K < b) for a, b in ((50, 1000), (1000, 5000)))
    return float(10 * np.log10((power_K[high].sum() + 1e-12) / (power_K[low].sum() + 1e-12)))


def face_cues(frames: Tensor | np.ndarray) -> FaceCues:
    """Measure the mouth of a flat-shaded, schematic face that fills most of the picture.

    In each frame the mouth is a dark stroke on even skin below two dark eyes; a parabola is fitted to it. A frame without
    such a stroke (every real face) counts for nothing.

    Args:
        frames: (T, 3, H, W) uint8 RGB.

    Returns:
        The median over the frames; None when fewer than half of them show such a face.
    """
    bends = [b for frame in np.asarray(frames) if (b := _mouth(frame)) is not None]
    if not bends or 2 * len(bends) < len(frames):
        return FaceCues()
    return FaceCues(float(np.clip(np.median(bends), -1, 1)))


def _mouth(frame_3HW: np.ndarray) -> float | None:
    """Rise of the corners over half the width of the mouth in one frame; None when there is no schematic face."""
    green_HW = frame_3HW[1].astype(np.float32)  # video coding keeps it sharp, and lips differ from skin most in it
    height, width = green_HW.shape
    skin = float(np.median(green_HW[height // 4 : -height // 4, width // 4 : -width // 4]))
    dark_HW = green_HW < DARK * skin
    part_HW = np.asarray(ndimage.label(dark_HW, structure=np.ones((3, 3)))[0])  # type: ignore[index]
    best = None
    for number, (rows, columns) in enumerate(ndimage.find_objects(part_HW), 1):
        wide, tall = columns.stop - columns.start, rows.stop - rows.start
        inside = rows.start > height // 2 and rows.stop < height and columns.start > 0 and columns.stop < width
        if inside and wide >= max(0.15 * width, tall, 8) and (best is None or wide > best[1]):
            best = number, wide, rows, columns
    if best is None:
        return None
    number, wide, rows, columns = best
    above_HW = green_HW[max(rows.start - wide // 6 - 1, 0) : rows.start - 1, columns]
    if above_HW.std() > UNEVEN * skin:
        return None
    y, x = np.nonzero(part_HW == number)
    weight = skin - green_HW[y, x]
    along = (2 * x + 1 - columns.start - columns.stop) / wide  # -1 to 1 from corner to corner
    fit = np.polynomial.polynomial.polyfit(along, y, 2, w=np.sqrt(weight))
    off = np.sqrt(np.average(np.square(np.polynomial.polynomial.polyval(along, fit) - y), weights=weight))
    return None if off > STROKE * wide else float(-fit[2] / (wide / 2))  # rows count downwards


@cache
def _vader() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


def word_cues(text: str, most: int = 3) -> WordCues:
    """Read an English text with the VADER lexicon and rules (Hutto and Gilbert 2014).

    A word's share is the change of the score when it is left out, so that in "not good" both words carry their part.

    Args:
        text: any text; other languages in Latin letters mostly read as neutral.
        most: how many words are named at the most.

    Returns:
        The cues; a valence of None for a text without Latin letters that holds no word (or emoticon) of the lexicon either.
    """
    words, vader = text.split(), _vader()
    valence = vader.polarity_scores(text)["compound"]
    if not valence and not re.search("[a-zA-Z]", text):
        return WordCues(None)
    shares: dict[str, float] = {}
    for i, word in enumerate(words):
        bare = word.strip(".,!?;:\"'()[]*").lower()
        if bare in vader.lexicon and bare not in shares:
            rest = " ".join(words[:i] + words[i + 1 :])
            shares[bare] = valence - (vader.polarity_scores(rest)["compound"] if rest else 0.0)
    ranked = sorted(shares.items(), key=lambda item: -abs(item[1]))
    return WordCues(valence, tuple((w, round(s, 4)) for w, s in ranked[:most] if s))


@dataclass(frozen=True, slots=True)
class ClipCues:
    """Everything that was measured of one record."""

    words: WordCues
    voice: VoiceCues
    face: FaceCues

    def levels(self, norms: VoiceNorms | None, edge: float) -> dict[str, int | None]:
        """Level (+1, 0, -1; None where unmeasurable) of `words`, `voice` (the course of its pitch) and `face`, and of NORMED.

        Args:
            norms: what is usual among the voices; without them NORMED cannot be told.
            edge: how many deviations from the norm are high or low.
        """
        normed = None if norms is None else norms.levels(self.voice, edge)
        directions = {"words": self.words.direction, "voice": self.voice.direction, "face": self.face.direction}
        return directions | dict(zip(NORMED, normed or (None,) * len(NORMED), strict=True))


def sound(views: Mapping[str, View]) -> Media | None:
    """The audio view, else a video with sound. Paths are absolute."""
    media = [v for v in views.values() if isinstance(v, Media)]
    audio = next((m for m in media if m.kind == "audio"), None)
    return audio or next((m for m in media if m.kind == "video" and has_sound(Path(m.path))), None)


def clip_cues(views: Mapping[str, View]) -> ClipCues:
    """Measure the first text, the sound and the first video of a record; what it does not have is unmeasurable.

    Args:
        views: by name; paths are absolute.

    Raises:
        MediaError: for media that cannot be read.
    """
    text = next((v for v in views.values() if isinstance(v, str)), None)
    video = next((v for v in views.values() if isinstance(v, Media) and v.kind == "video"), None)
    heard = sound(views)
    return ClipCues(
        WordCues(None) if text is None else word_cues(text),
        VoiceCues() if heard is None else voice_cues(read_audio(heard.path, heard.span)),
        FaceCues() if video is None else face_cues(read_video(video.path, FPS, video.span, MAX_FRAMES)[0]),
    )


def word_signs(text: str) -> dict[str, int]:
    """Words of a text that the lexicon knows, in lower case, and the side that each takes there (negation included)."""
    return {word: 1 if share > 0 else -1 for word, share in word_cues(text, most=len(text)).strongest}


def emotion_share(text: str) -> float:
    """Share of the words of a text that stand in the lexicon, in [0, 1]; 0 for a text without words."""
    words = re.findall(r"[a-z']+", text.lower())
    return sum(w in _vader().lexicon for w in words) / len(words) if words else 0.0
