"""The studio: the same clips for the same seed, cues that can be perceived, and no single modality that suffices."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from runtime.errors import ConfigError, StageError
from tasks.record import Media, Record, read_records
from tasks.studio import render
from tasks.studio.task import Studio, caption, draw_cues, intensity, oracles
from tasks.target import Scalar


def studio(**changes) -> Studio:
    settings = {
        "name": "studio",
        "views": ["video", "audio", "text"],
        "grammar": "dc",
        "train": 3,
        "dev": 1,
        "test": 2,
        "conflict": 0.4,
        "seed": 0,
    }
    return Studio(**(settings | changes))


def wavs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "clips").glob("*.wav")}


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- making ---


def test_the_same_seed_gives_the_same_clips(tmp_path: Path) -> None:
    for name in ("a", "b"):
        studio().prepare(tmp_path / name)
    assert wavs(tmp_path / "a") == wavs(tmp_path / "b") and len(wavs(tmp_path / "a")) == 6
    records = [(tmp_path / name / "records.jsonl").read_bytes() for name in ("a", "b")]
    assert records[0] == records[1]


def test_another_seed_gives_other_clips_and_other_speakers(tmp_path: Path) -> None:
    studio().prepare(tmp_path / "a")
    studio(seed=1).prepare(tmp_path / "b")
    assert not set(wavs(tmp_path / "a").values()) & set(wavs(tmp_path / "b").values())
    assert render.make_speaker(0, 3) != render.make_speaker(1, 3)


def test_the_test_split_does_not_depend_on_the_size_of_the_training_split() -> None:
    few, many = ([r for r in studio(train=n).records() if r.split == "test"] for n in (3, 30))
    assert few == many


def test_a_killed_run_resumes_to_the_same_files(tmp_path: Path) -> None:
    studio().prepare(tmp_path / "whole")
    studio().prepare(tmp_path / "killed")
    killed = tmp_path / "killed"
    kept = killed / "clips" / "studio-train-00000.mp4"
    before = kept.stat().st_mtime_ns
    (killed / "records.jsonl").unlink()
    (killed / "clips" / "stage.json").write_text(
        (killed / "clips" / "stage.json").read_text().replace('"result"', '"old"')
    )
    (killed / "clips" / "studio-test-00001.mp4").unlink()
    (killed / "clips" / "studio-test-00001.wav").write_bytes(b"torn")
    studio().prepare(killed)
    assert kept.stat().st_mtime_ns == before
    assert wavs(killed) == wavs(tmp_path / "whole")
    assert read_records(killed / "records.jsonl") == read_records(tmp_path / "whole" / "records.jsonl")


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    studio().prepare(tmp_path)
    with pytest.raises(StageError, match=r"settings\.conflict: was 0\.4, now 0\.5"):
        studio(conflict=0.5).prepare(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dev": -1}, r"task\.train, dev, test: counts are 0 or more; got .*; mend the config"),
        ({"conflict": 1.5}, r"task\.conflict: a share in \[0, 1\], or null; got 1\.5; mend the config"),
        ({"grammar": "xml"}, r"task\.grammar: one of .*; got 'xml'; mend the config"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        studio(**changes)


# --- what a clip says ---


def test_the_label_is_the_weighted_sum_of_the_cues() -> None:
    assert intensity({"words": -1, "voice": 1, "face": 0}) == 0.2  # -0.8 + 1.0
    assert intensity({"words": 1, "voice": 1, "face": 1}) == 3.0
    assert intensity({"words": 1, "voice": -1, "face": -1}) == -1.4  # 0.8 - 1.0 - 1.2
    assert str(intensity({"words": 0, "voice": 0, "face": 0})) == "0.0"


def test_words_contradict_voice_and_face_in_conflict_clips_alone() -> None:
    for i in range(300):
        agree, torn = draw_cues(False, rng(i)), draw_cues(True, rng(i))
        assert {*agree.values()} <= {0, 1} or {*agree.values()} <= {0, -1}
        assert torn["words"] != 0 and {torn["voice"], torn["face"]} in ({-torn["words"]}, {-torn["words"], 0})


def test_without_a_share_of_conflict_every_cue_is_drawn_by_itself() -> None:
    records = studio(train=3000, conflict=None).records()[:3000]
    cues = np.array([list(r.meta["cues"].values()) for r in records])
    assert np.abs(np.corrcoef(cues.T) - np.eye(3)).max() < 0.06
    assert {tuple(c) for c in cues} == {(w, v, f) for w in (-1, 0, 1) for v in (-1, 0, 1) for f in (-1, 0, 1)}


def test_shares_are_as_set() -> None:
    records = studio(train=3000).records()[:3000]
    conflict = [r for r in records if r.meta["conflict"]]
    assert len(conflict) / 3000 == pytest.approx(0.4, abs=0.03)
    nothing = [r for r in records if not r.meta["conflict"] and not any(r.meta["cues"].values())]
    assert len(nothing) / (3000 - len(conflict)) == pytest.approx(0.08, abs=0.02)
    assert {r.meta["conflict"] for r in studio(conflict=0).records()} == {False}
    assert {r.group for r in records} == {f"speaker-{n:02d}" for n in range(16)}


def test_a_caption_says_what_is_perceived_and_not_what_it_means() -> None:
    record = studio().records()[0]
    torn = Record(
        uid="a",
        task="studio",
        split="dev",
        group="g",
        views=record.views,
        target=record.target,
        meta={"conflict": True, "cues": {"words": 1, "voice": -1, "face": 0}},
    )
    assert caption(torn) == "words up, voice down, face flat"


def test_sentences_are_short_and_their_key_word_alone_carries_the_cue() -> None:
    for cue in (-1, 0, 1):
        for i in range(100):
            said = render.sentence(cue, rng(i)).split()
            assert 4 <= len(said) <= 6
            signs = [c for c, key_words in render.KEY_WORDS.items() for w in said if w in key_words]
            assert signs == [cue]


def test_vader_agrees_with_the_key_words() -> None:
    vader = pytest.importorskip("vaderSentiment.vaderSentiment", reason="vaderSentiment is not installed")
    analyzer = vader.SentimentIntensityAnalyzer()
    for cue, key_words in render.KEY_WORDS.items():
        for template in render.TEMPLATES:
            scores = [analyzer.polarity_scores(template.format(w))["compound"] for w in key_words]
            assert {int(np.sign(s)) for s in scores} == {cue}


def pitch_track(samples: np.ndarray) -> np.ndarray:
    """[12] pitch in Hz of twelve windows of 60 ms spread over the clip, by autocorrelation between 100 and 560 Hz."""
    x = samples / 32768
    found = []
    for start in np.linspace(400, len(x) - 1400, 12).astype(int):
        frame = x[start : start + 960] * np.hanning(960)
        correlation = np.correlate(frame, frame, "full")[959:]
        correlation = correlation / np.correlate(np.hanning(960), np.hanning(960), "full")[959:].clip(1)
        lags = np.arange(16_000 // 560, 16_000 // 100)
        found.append(16_000 / lags[correlation[lags].argmax()])
    return np.array(found)


@pytest.mark.parametrize("voice", [-1, 0, 1])
def test_the_pitch_really_rises_stays_or_falls(voice: int) -> None:
    for number in range(0, 24, 2):
        speaker = render.make_speaker(0, number)
        track = 12 * np.log2(pitch_track(render.sound(speaker, voice, rng(number))) / speaker.pitch)
        # median slope in semitones a clip: octave errors of single windows do not move it
        slopes = [(track[j] - track[i]) / (j - i) * 13 for i in range(12) for j in range(i + 4, 12)]
        assert np.median(slopes) == pytest.approx(render.SEMITONES * voice, abs=2.5)
        assert abs(np.median(track)) < 3


@pytest.mark.parametrize("face", [-1, 0, 1])
def test_the_mouth_really_bends(face: int) -> None:
    for number in range(0, 24, 2):
        speaker = render.make_speaker(0, number)
        images = render.frames(speaker, face, rng(number)).astype(float)
        assert images.shape == (render.FRAMES, render.SIZE, render.SIZE, 3)
        # the mouth is the reddest thing below the eyes; its height in the middle minus that at the corners, in pixels
        dark = 255 - images[..., 1]
        rows = np.arange(render.SIZE)[:, None]
        below = (rows > speaker.y + 0.05 * speaker.radius) & (rows < speaker.y + 0.8 * speaker.radius)
        weight = np.where(below, (dark - 130).clip(0) ** 2, 0).mean(0)
        middle, corner = speaker.x, 0.36 * speaker.radius

        def height(x: float, weight: np.ndarray = weight, rows: np.ndarray = rows) -> float:
            columns = weight[:, round(x) - 2 : round(x) + 3]
            return float((columns * rows).sum() / columns.sum())

        bend = height(middle) - (height(middle - corner) + height(middle + corner)) / 2
        assert (bend > 1.2, bend < -1.2) == (face > 0, face < 0), (number, bend)


def test_the_video_carries_the_sound_of_the_wav(tmp_path: Path) -> None:
    data = studio(train=2, dev=0, test=0).dataset(tmp_path)
    for record in data.records:
        audio, video = record.views["audio"], record.views["video"]
        assert isinstance(audio, Media) and isinstance(video, Media)
        samples, rate = soundfile.read(data.root / audio.path, dtype="float32")
        assert (rate, samples.shape) == (16_000, (19_200,))
        with av.open(str(data.root / video.path)) as box:
            decoded = np.concatenate([f.to_ndarray()[0] for f in box.decode(audio=0)])
        with av.open(str(data.root / video.path)) as box:
            images = np.stack([f.to_ndarray(format="rgb24") for f in box.decode(video=0)])
            assert box.streams.video[0].average_rate == 5 and box.streams.audio[0].rate == 16_000
        assert images.shape == (6, 56, 56, 3)
        assert np.corrcoef(decoded[:19_200], samples)[0, 1] > 0.99  # same samples at the same time, but for the codec
        assert abs(decoded[19_200:]).max(initial=0) < 0.02


def test_the_picture_survives_the_codec() -> None:
    speaker = render.make_speaker(0, 5)
    images = render.frames(speaker, 1, rng(1))
    coded = render.mp4_bytes(images, render.sound(speaker, 0, rng(1)))
    with av.open(io.BytesIO(coded), mode="r") as box:
        seen = np.stack([f.to_ndarray(format="rgb24") for f in box.decode(video=0)])
    assert np.abs(seen.astype(int) - images).mean() < 6


# --- what can be known from one modality ---


def test_no_single_modality_suffices(capsys: pytest.CaptureFixture[str]) -> None:
    task = studio(train=1500, dev=0, test=1500)
    train, test = (
        [r for r in task.records() if r.split == "train"],
        [r for r in task.records() if r.split == "test"],
    )
    gold = [r.target for r in test]
    found = {name: task.metrics(gold, answers) for name, answers in oracles(train, test).items()}
    found["constant"] = task.metrics(gold, task.baseline(train, test))
    with capsys.disabled():
        for name, m in found.items():
            print(f"\n  {name:10} Corr {m['corr']:.3f}  polarity {m['polarity']:.3f}  MAE {m['mae']:.3f}", end="")
    assert found["all three"]["corr"] == pytest.approx(1) and found["all three"]["polarity"] == 1
    for name in ("text", "audio", "video"):
        assert found["constant"]["corr"] < found[name]["corr"] < 0.9
        assert found[name]["polarity"] < 0.85
        assert found[name]["mae"] > 0.5


def test_cues_that_training_never_showed_get_the_mean() -> None:
    base = studio().records()[0]

    def clip(face: int, x: float) -> Record:
        return Record(
            uid="a",
            task="studio",
            split="train",
            group="g",
            views=base.views,
            target=Scalar(x, -3, 3, 0.2),
            meta={"conflict": False, "cues": {"words": 0, "voice": 0, "face": face}},
        )

    train = [clip(1, 1.2), clip(0, 0.0), clip(1, 0.9)]
    assert [t.render() for t in oracles(train, [clip(1, 0), clip(-1, 0)])["video"]] == ["1.05", "0.7"]
