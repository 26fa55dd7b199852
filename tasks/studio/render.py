"""Renders one clip of the studio: a sentence, a voice-like sound and a schematic face, each carrying one cue in {-1, 0, +1}.

    words   a key word of positive, neutral or negative meaning in a plain sentence
    voice   the pitch rises, stays or falls by about ten semitones over the clip
    face    the mouth curves up, is flat, or curves down

Everything else (speaker, sentence, loudness, syllables, vowels, blinks, noise) is drawn independently of the cues.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

SECONDS = 1.2
SAMPLE_RATE = 16_000
SAMPLES = 19_200
FPS = 5
FRAMES = 6
SIZE = 56
SEMITONES = 10.0
"""How far the pitch moves over a clip with a voice cue."""

KEY_WORDS = {
    1: "good great nice happy lovely wonderful amazing excellent brilliant fantastic beautiful awesome".split(),
    0: "usual normal ordinary regular typical average common plain local recent short familiar".split(),
    -1: "bad awful terrible horrible sad nasty ugly dreadful miserable poor boring lousy".split(),
}
"""Words whose sign the VADER lexicon shares; the neutral ones and all words of the templates are unknown to it."""

TEMPLATES = (
    "the meal was {} today",
    "we had {} weather all week",
    "this {} film is on again",
    "they told the {} story",
    "my day has been {}",
    "it was that {} song",
    "her new house looks {}",
    "our {} trip took two days",
)

VOWELS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480]], dtype=float)
"""[V, 3] formants in Hz of a, i, u, e for an adult male (Peterson and Barney 1952, table II)."""
BANDWIDTHS = np.array([80.0, 110.0, 160.0])
GAINS = np.array([1.0, 0.6, 0.3])
TOP_HZ = 4_000


@dataclass(frozen=True, slots=True)
class Speaker:
    """What is constant over the clips of one speaker."""

    pitch: float
    """Middle of the pitch range in Hz, 220 to 350: high voices, because the 25 ms windows of the log-mel features do not resolve
    the harmonics of voices below about 160 Hz, and a tiny tower then takes far longer to hear where the pitch goes."""
    tract: float
    """Factor on all formants."""
    tilt: float
    """Spectral slope: a harmonic at f has gain (f / 100 Hz) ** -tilt."""
    skin: tuple[float, float, float]
    backdrop: tuple[float, float, float]
    radius: float
    """Half height of the face in pixels."""
    x: float
    y: float


def make_speaker(seed: int, number: int) -> Speaker:
    """Speaker `number` of the cast of `seed`. Golden-ratio steps spread the pitches evenly in any run of numbers."""
    rng = np.random.default_rng([seed, 3, number])  # 0, 1, 2 are the clips of the splits
    return Speaker(
        pitch=220 * 1.6 ** ((number * 0.618034) % 1),
        tract=rng.uniform(0.92, 1.18),
        tilt=rng.uniform(0.7, 1.2),
        skin=tuple(rng.uniform(0.7, 1.05) * np.array((235, 180, 140)) + rng.normal(0, 8, 3)),
        backdrop=tuple(rng.uniform(60, 140, 3)),
        radius=rng.uniform(20, 24),
        x=SIZE / 2 + rng.uniform(-3, 3),
        y=SIZE / 2 + rng.uniform(-2, 2),
    )


def sentence(words: int, rng: np.random.Generator) -> str:
    """Four to six plain words, one of which carries the cue `words`."""
    template, word = rng.choice(TEMPLATES), rng.choice(KEY_WORDS[words])
    return str(template).format(word)


def sound(speaker: Speaker, voice: int, rng: np.random.Generator) -> np.ndarray:
    """A voice-like sound: harmonics of a gliding pitch, shaped by formants, in three or four syllables.

    Returns:
        [SAMPLES] int16 at SAMPLE_RATE.
    """
    t = np.arange(SAMPLES) / SAMPLE_RATE
    wobble = 0.3 * np.sin(2 * np.pi * (rng.uniform(1.5, 3) * t + rng.uniform()))
    jitter = np.interp(t, np.linspace(0, SECONDS, 120), rng.normal(0, 0.12, 120))
    semitones = SEMITONES * rng.uniform(0.85, 1.15) * voice * (t / SECONDS - 0.5) + rng.normal(0, 0.7)
    pitch = speaker.pitch * 2 ** ((semitones + wobble + jitter) / 12)

    count = int(rng.integers(3, 5))
    place = t / SECONDS * count  # in syllables
    syllable = np.minimum(place.astype(int), count - 1)
    stress, vowel = rng.uniform(0.6, 1.0, count), rng.integers(0, len(VOWELS), count)
    envelope = 0.1 + stress[syllable] * np.sin(np.pi * (place - syllable)) ** 2
    envelope *= np.minimum(1, np.minimum(t, SECONDS - t) / 0.02)

    hz = np.arange(1, TOP_HZ)
    formants = speaker.tract * VOWELS[:, :, None]  # [V, 3, 1]
    shape = (GAINS[:, None] / (1 + ((hz - formants) / BANDWIDTHS[:, None]) ** 2)).sum(1) + 0.02
    shape = np.pad(shape * (hz / 100) ** -speaker.tilt, ((0, 0), (1, 1)))  # [V, TOP_HZ + 1], silent at both ends
    row = vowel[syllable]

    step = np.exp(2j * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
    turn, wave = np.ones(SAMPLES, complex), np.zeros(SAMPLES)
    for k in range(1, int(TOP_HZ / pitch.min()) + 1):
        turn *= step
        wave += shape[row, np.minimum(k * pitch, TOP_HZ).astype(int)] * np.imag(turn)
    wave = (wave / wave.std() + rng.normal(0, 0.05, SAMPLES)) * envelope
    wave *= 0.1 * 10 ** (rng.uniform(-3, 3) / 20) / wave.std()
    return (np.clip(wave, -1, 1) * 32767).astype(np.int16)


def _inside(distance: np.ndarray) -> np.ndarray:
    """Soft mask of a shape from the signed distance to its edge in pixels (negative is inside)."""
    return np.clip(0.5 - distance, 0, 1)[..., None]


def _ellipse(x: np.ndarray, y: np.ndarray, rx: float | np.ndarray, ry: float | np.ndarray) -> np.ndarray:
    return _inside((np.hypot(x / rx, y / ry) - 1) * np.minimum(rx, ry))


def frames(speaker: Speaker, face: int, rng: np.random.Generator) -> np.ndarray:
    """A schematic face with a curved mouth, a little motion, sometimes a blink.

    Returns:
        [FRAMES, SIZE, SIZE, 3] uint8 RGB.
    """
    time = np.arange(FRAMES)[:, None, None]
    sway = rng.uniform(0, 1.2, 2)[:, None] * np.sin(2 * np.pi * (time.ravel() / FRAMES + rng.uniform(size=(2, 1))))
    row, column = np.mgrid[:SIZE, :SIZE] + 0.5
    x = column - speaker.x - rng.uniform(-1, 1) - sway[0][:, None, None]  # [F, S, S], from the middle of the face
    y = row - speaker.y - rng.uniform(-1, 1) - sway[1][:, None, None]
    r = speaker.radius

    open_eye = np.full(FRAMES, 0.13 * r)
    if rng.uniform() < 0.5:
        open_eye[rng.integers(FRAMES)] = 0.03 * r
    eyes = sum(_ellipse(x - side * 0.33 * r, y + 0.25 * r, 0.1 * r, open_eye[:, None, None]) for side in (-1, 1))

    bend = (
        (face * rng.uniform(0.75, 1.25) + rng.normal(0, 0.08)) * 0.17 * r * (1 + 0.1 * np.sin(time + rng.uniform(0, 6)))
    )
    along = x / (0.48 * r)
    height = y - 0.45 * r + bend * (2 * along**2 - 1)
    slope = 4 * bend * along / (0.48 * r)
    mouth = _inside(np.abs(height) / np.hypot(1, slope) - 0.06 * r) * _inside((np.abs(along) - 1) * 0.48 * r)

    image = np.broadcast_to(np.array(speaker.backdrop), (FRAMES, SIZE, SIZE, 3)).copy()
    for mask, colour in ((_ellipse(x, y, 0.82 * r, r), speaker.skin), (eyes, (30, 30, 40)), (mouth, (120, 20, 30))):
        image += mask * (np.array(colour) - image)
    image *= rng.uniform(0.9, 1.05)
    return np.clip(image + rng.normal(0, 3, (FRAMES, SIZE, SIZE, 1)), 0, 255).astype(np.uint8)


def mp4_bytes(images: np.ndarray, samples: np.ndarray) -> bytes:
    """The clip as mp4: mpeg4 video at FPS and an aac track of the same sound.

    Args:
        images: [FRAMES, SIZE, SIZE, 3] uint8 RGB.
        samples: [SAMPLES] int16.
    """
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as box:
        video = box.add_stream("mpeg4", rate=FPS, options={"flags": "+bitexact", "qmin": "2", "qmax": "4"})
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        audio = box.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"flags": "+bitexact"})
        audio.bit_rate = 64_000
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            box.mux(video.encode(frame))
        block = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        box.mux(audio.encode(block))
        box.mux(video.encode())
        box.mux(audio.encode())
    return out.getvalue()


def wav_bytes(samples: np.ndarray) -> bytes:
    """[N] int16 samples as a mono wav file at SAMPLE_RATE."""
    out = io.BytesIO()
    soundfile.write(out, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a clip so that it is whole or absent."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(content)
    beside.replace(path)
