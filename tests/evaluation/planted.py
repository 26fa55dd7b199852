"""A data set with fifty known defects: studio clips, and what can happen to them on their way to a training run."""

import json
import os
import signal
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

from evaluation.doctor.media import Look, look
from tasks.base import Dataset
from tasks.record import Media, Record
from tasks.studio.render import SAMPLE_RATE
from tasks.target import Class, Scalar, Space

RNG_SEED = 5
WORDS = "it was a long day and nobody knew what to make of the letter that had come"


@dataclass(frozen=True)
class Planted:
    """Where the damaged set lies, and what is wrong with it."""

    records: Path
    defects: list[tuple[str | None, str]]
    """Uid (None where the line has none that can be read) and kind."""


def write_film(path: Path, images: np.ndarray, samples: np.ndarray | None, fps: int = 5, codec: str = "mpeg4") -> None:
    """Frames (F, H, W, 3) uint8 and int16 samples at 16 kHz, or no track."""
    with av.open(str(path), "w") as box:
        film = box.add_stream(codec, rate=fps)
        film.height, film.width = images.shape[1:3]
        film.pix_fmt = "yuv420p"
        track = None if samples is None else box.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for image in images:
            box.mux(film.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        box.mux(film.encode(None))
        if track is not None and samples is not None:
            _encode_sound(box, track, samples, SAMPLE_RATE)


def write_coded(path: Path, samples: np.ndarray, codec: str, rate: int, bit_rate: int) -> None:
    """Int16 samples at `rate` through a lossy coder."""
    with av.open(str(path), "w") as box:
        track = box.add_stream(codec, rate=rate, layout="mono")
        track.bit_rate = bit_rate
        _encode_sound(box, track, samples, rate)


def _encode_sound(box, track, samples: np.ndarray, rate: int) -> None:
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    box.mux(track.encode(frame))
    box.mux(track.encode(None))


def read_film(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames (F, H, W, 3) and int16 samples of a studio clip."""
    with av.open(str(path)) as box:
        images = np.stack([frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)])
    with av.open(str(path)) as box:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in box.decode(audio=0)])
    return images, (np.clip(sound, -1, 1) * 32767).astype(np.int16)


def dies_on_the_third(record: Record) -> Look:
    """Looks at a record as a decoder does that writes beyond its buffer."""
    if record.uid.endswith("2"):
        os.kill(os.getpid(), signal.SIGKILL)
    return look(record, Path(), ())


def larger(images: np.ndarray, times: int) -> np.ndarray:
    """The same frames with more pixels."""
    return images.repeat(times, axis=1).repeat(times, axis=2)


class Planter:
    """Damages records of a studio set one by one; those it has not touched stay as they were.

    Args:
        data: rendered clips with the views text, audio and video, at least 40 in train and 12 in test.
    """

    def __init__(self, data: Dataset) -> None:
        self.root = data.root
        self.records = {record.uid: record for record in data.records}
        self.train, self.test = (iter(data.split(split)) for split in ("train", "test"))
        self.lines: list[bytes] = []
        """Further lines of the file."""
        self.defects: list[tuple[str | None, str]] = []
        self.rng = np.random.default_rng(RNG_SEED)

    def next(self) -> Record:
        """A training record that is still clean."""
        return next(self.train)

    def mark(self, kind: str, record: Record, **changes) -> None:
        """The record gets these fields, and with them a defect of this kind."""
        self.records[record.uid] = replace(record, **changes)
        self.defects.append((record.uid, kind))

    def view(self, kind: str, name: str, view, record: Record | None = None) -> None:
        """A record whose only view besides its text is this one."""
        record = record or self.next()
        texts = {} if name == "text" else {"text": record.views["text"]}
        self.mark(kind, record, views=texts | {name: view})

    def file(self, name: str) -> Path:
        """A path for a new file."""
        path = self.root / "planted" / name
        path.parent.mkdir(exist_ok=True)
        return path

    def sound(self, name: str, samples: np.ndarray, rate: int = SAMPLE_RATE, subtype: str = "PCM_16") -> Media:
        """A wav file of float samples."""
        soundfile.write(self.file(name), samples, rate, subtype=subtype)
        return Media("audio", f"planted/{name}")

    def film(self, name: str, images: np.ndarray, samples: np.ndarray | None, **options) -> Media:
        """An mp4 file."""
        write_film(self.file(name), images, samples, **options)
        return Media("video", f"planted/{name}")

    def of(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """Frames and sound of a record's film."""
        video = self.records[record.uid].views["video"]
        assert isinstance(video, Media)
        return read_film(self.root / video.path)

    def wave(self, record: Record) -> np.ndarray:
        """Float samples of a record's wav file."""
        audio = self.records[record.uid].views["audio"]
        assert isinstance(audio, Media)
        return soundfile.read(self.root / audio.path, dtype="float32")[0]

    def write(self, path: Path) -> Planted:
        """Write the record file."""
        rows = [json.dumps(r.to_json(), ensure_ascii=False).encode() for r in self.records.values()]
        path.write_bytes(b"".join(line + b"\n" for line in [*rows, *self.lines]))
        return Planted(path, self.defects)


def plant(data: Dataset) -> Planted:
    """Damage a studio set in fifty ways, and write `planted.jsonl` beside its records.

    Args:
        data: as `Planter` wants it; its folder is written to, its clips stay as they are.
    """
    planter = Planter(data)
    for group in (_lines, _labels, _pointers, _torn, _hushed, _sizes, _copies, _texts, _odd):
        group(planter)
    assert len(planter.defects) == 50
    return planter.write(data.root / "planted.jsonl")


def _lines(p: Planter) -> None:
    """Seven of the file."""
    row, again = p.next().to_json(), p.next()
    p.lines += [json.dumps(row | {"colour": "red", "uid": "odd-field"}).encode(), b'{"uid": "cut-', b'{"uid": "\xff"}']
    p.lines += [
        json.dumps(row | {"uid": "no-split", "split": "validation"}).encode(),
        json.dumps(again.to_json()).encode(),
    ]
    p.lines += [json.dumps(row | {"uid": "nan", "meta": {"x": float("nan")}}).encode()]
    p.defects += [("odd-field", "record"), (None, "record"), (None, "record"), ("no-split", "record"), (None, "record")]
    p.defects += [(again.uid, "uid")]
    p.mark("group", p.next(), group="speaker-20")  # of the test split


def _labels(p: Planter) -> None:
    """Four labels."""
    row = p.next().to_json()
    p.lines.append(json.dumps(row | {"uid": "too-high", "target": row["target"] | {"x": 3.5}}).encode())
    p.defects.append(("too-high", "label"))
    p.mark("label", p.next(), target=Scalar(2.0, -3, 3), raters=(("r1", "x", -1.0), ("r2", "x", 0.0)))
    space = Space(("joy", "anger", "fear"))
    p.mark("label", p.next(), target=Class("joy", space), raters=(("r1", "label", "anger"), ("r2", "label", "fear")))
    p.mark("outlier", p.next(), target=Scalar(40.0, -50, 50))  # on a scale of its own


def _pointers(p: Planter) -> None:
    """Three that lead nowhere."""
    for path in ("clips/gone.wav", "../beyond.wav", "https://example.org/clip.wav"):
        p.view("missing", "audio", Media("audio", path))


def _torn(p: Planter) -> None:
    """Six files that cannot be read to their end."""
    p.file("words.mp4").write_text("this is not a film")
    p.view("unreadable", "video", Media("video", "planted/words.mp4"))
    record = p.next()
    whole = (p.root / record.views["video"].path).read_bytes()  # type: ignore[union-attr]
    p.file("half.mp4").write_bytes(whole[: len(whole) // 2])
    p.view("unreadable", "video", Media("video", "planted/half.mp4"), record)
    record = p.next()
    sound = (p.root / record.views["audio"].path).read_bytes()  # type: ignore[union-attr]
    p.file("torn.wav").write_bytes(sound[: len(sound) // 2])
    p.view("unreadable", "audio", Media("audio", "planted/torn.wav"), record)
    record = p.next()
    wave = p.wave(record)
    wave[len(wave) // 2] = np.nan
    p.view("unreadable", "audio", p.sound("nan.wav", wave, subtype="FLOAT"), record)
    record = p.next()
    p.view("unreadable", "audio", replace(record.views["audio"], span=(5.0, 6.0)), record)  # type: ignore[type-var]
    record = p.next()
    p.view("unreadable", "video", replace(record.views["audio"], kind="video"), record)  # type: ignore[type-var]


def _hushed(p: Planter) -> None:
    """Seven without sound, or with pictures of one colour."""
    record = p.next()
    p.view("no_track", "video", p.film("mute-1.mp4", p.of(record)[0], None), record)
    record = p.next()
    p.film("mute-2.mp4", p.of(record)[0], None)
    p.view("no_track", "audio", Media("audio", "planted/mute-2.mp4"), record)
    p.view("silent", "audio", p.sound("zeros.wav", np.zeros(SAMPLE_RATE)))
    p.view("silent", "audio", p.sound("hiss.wav", p.rng.normal(0, 1e-4, SAMPLE_RATE)))  # -80 dB
    record = p.next()
    images, samples = p.of(record)
    p.view("silent", "video", p.film("hushed.mp4", images, np.zeros_like(samples)), record)
    record = p.next()
    images, samples = p.of(record)
    p.view("blank", "video", p.film("black.mp4", np.zeros_like(images), samples), record)
    Image.new("RGB", (64, 64), (90, 90, 90)).save(p.file("grey.png"))
    p.view("blank", "video", Media("image", "planted/grey.png"))


def _sizes(p: Planter) -> None:
    """Six that are too short or too long for the model."""
    record = p.next()
    p.view("too_short", "audio", p.sound("blip.wav", p.wave(record)[3000:3320]), record)  # 20 ms
    record = p.next()
    p.view("too_short", "audio", replace(record.views["audio"], span=(0.5, 0.54)), record)  # type: ignore[type-var]
    record = p.next()
    p.view("too_short", "video", p.film("still.mp4", p.of(record)[0][:1], None), record)
    record = p.next()
    p.view("too_long", "audio", p.sound("lecture.wav", np.tile(p.wave(record), 27)), record)  # 32.4 s, 30 are heard
    stripe = p.rng.integers(0, 255, (4, 900, 3), np.uint8)
    Image.fromarray(stripe).save(p.file("stripe.png"))
    p.view("too_long", "video", Media("image", "planted/stripe.png"))
    p.view("too_long", "text", " ".join([WORDS] * 300))


def _copies(p: Planter) -> None:
    """Six that are in the test split, too."""
    record, copy = p.next(), next(p.test)
    p.file("copy.wav").write_bytes((p.root / copy.views["audio"].path).read_bytes())  # type: ignore[union-attr]
    p.view("duplicate", "audio", Media("audio", "planted/copy.wav"), record)
    record, copy = p.next(), next(p.test)
    write_coded(p.file("copy.mp3"), (p.wave(copy) * 16000).astype(np.int16), "libmp3lame", SAMPLE_RATE, 32_000)
    p.view("duplicate", "audio", Media("audio", "planted/copy.mp3"), record)
    record, copy = p.next(), next(p.test)
    write_coded(p.file("copy.m4a"), (p.wave(copy)[::2] * 32000).astype(np.int16), "aac", SAMPLE_RATE // 2, 32_000)
    p.view("duplicate", "audio", Media("audio", "planted/copy.m4a"), record)
    record, copy = p.next(), next(p.test)
    images, samples = p.of(copy)
    p.view("duplicate", "video", p.film("copy.mp4", larger(images, 2), samples, codec="libx264"), record)
    record, copy = p.next(), next(p.test)
    Image.fromarray(p.of(copy)[0][2]).save(p.file("face.png"))
    Image.fromarray(larger(p.of(copy)[0][2:3], 2)[0]).save(p.file("face.jpg"), quality=70)
    p.records[copy.uid] = replace(copy, views={"video": Media("image", "planted/face.png")})
    p.view("duplicate", "video", Media("image", "planted/face.jpg"), record)
    record, copy = p.next(), next(p.test)
    p.records[copy.uid] = replace(copy, views={"text": WORDS})
    p.view("duplicate", "text", f"{WORDS.title()}!", record)


def _texts(p: Planter) -> None:
    """Four texts, and a record of which nothing is shown."""
    record = p.next()
    p.mark("empty_text", record, views=dict(record.views) | {"text": " \n "})
    for text in ("what a lovely cafÃ©", "itâ€™s over \ufffd"):
        record = p.next()
        p.mark("mojibake", record, views=dict(record.views) | {"text": text})
    record = p.next()
    p.mark("media_token", record, views=dict(record.views) | {"text": "it was <|AUDIO|> again"})
    record = p.next()
    p.mark("no_view", record, views={"transcript": "nobody shows this"})


def _odd(p: Planter) -> None:
    """Six to look at."""
    for gain, level, name in ((8.0, 1.0, "hot.wav"), (6.0, 0.5, "hot-then-turned-down.wav")):
        record = p.next()
        p.view("clipped", "audio", p.sound(name, np.clip(gain * p.wave(record), -level, level)), record)
    record = p.next()
    images, samples = p.of(record)
    p.view("length", "video", p.film("late.mp4", images, samples[: len(samples) // 2]), record)
    record = p.next()
    short = p.sound("half.wav", p.wave(record)[: SAMPLE_RATE // 2])
    p.mark("length", record, views=dict(record.views) | {"audio": short})
    record = p.next()
    images, samples = p.of(record)
    p.view("sparse", "video", p.film("long.mp4", np.tile(images, (16, 1, 1, 1)), np.tile(samples[:19200], 16)), record)
    record = p.next()
    images, samples = p.of(record)
    p.view("shrunk", "video", p.film("large.mp4", larger(images, 10), samples), record)
