"""Measured cues against the truth of rendered clips, hand-made tones, hand-drawn mouths and hand-computed lexicon scores."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from models.cues import FaceCues, VoiceCues, WordCues, face_cues, voice_cues, word_cues
from models.media import read_audio, read_video
from tasks.studio import render

RATE = 16_000


def glide(start_hz: float, stop_hz: float, seconds: float = 1.0) -> np.ndarray:
    """A tone with three harmonics whose pitch moves at a constant rate in semitones."""
    hz = start_hz * (stop_hz / start_hz) ** np.linspace(0, 1, round(seconds * RATE))
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    return (0.2 * (np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase))).astype(np.float32)


def smile(rise: float, half_width: int = 12) -> np.ndarray:
    """(1, 3, 64, 64) even skin with a dark mouth whose corners lie `rise` pixels above its middle."""
    row, column = np.mgrid[:64, :64]
    along = (column - 31.5) / (half_width + 0.5)
    mouth = (np.abs(row - 46 + rise * along**2) <= 1.5) & (np.abs(along) <= 1)
    grey = np.where(mouth, 30, 180).astype(np.uint8)
    return np.broadcast_to(grey, (1, 3, 64, 64))


def test_the_cues_of_rendered_clips_are_recovered(tmp_path):
    drawn, read = [], []
    for index in range(60):
        rng = np.random.default_rng([5, index])
        speaker, (words, voice, face) = render.make_speaker(5, index % 24), rng.integers(-1, 2, 3).tolist()
        text, sound = render.sentence(words, rng), render.sound(speaker, voice, rng)
        (tmp_path / "clip.wav").write_bytes(render.wav_bytes(sound))
        (tmp_path / "clip.mp4").write_bytes(render.mp4_bytes(render.frames(speaker, face, rng), sound))
        drawn.append((words, voice, face))
        read.append(
            (
                word_cues(text).direction,
                voice_cues(read_audio(tmp_path / "clip.wav")).direction,
                face_cues(read_video(tmp_path / "clip.mp4", 5.0)[0]).direction,
            )
        )
    right = (np.array(drawn) == np.array(read)).mean(0)
    print("share of clips with the right direction (words, voice, face):", right)
    assert (right > 0.95).all()


def test_a_steady_tone_has_its_pitch_and_no_slope():
    cues = voice_cues(glide(220, 220))
    assert cues.pitch_hz == pytest.approx(220, rel=0.01)
    assert cues.pitch_slope == pytest.approx(0, abs=0.1) and cues.pitch_range == pytest.approx(0, abs=0.1)
    assert cues.direction == 0


@pytest.mark.parametrize("start, stop, sign", [(110, 220, 1), (220, 110, -1)])
def test_an_octave_glide_has_a_slope_of_twelve_semitones(start, stop, sign):
    cues = voice_cues(glide(start, stop))
    assert cues.pitch_slope == pytest.approx(12 * sign, abs=0.8)
    assert cues.pitch_range == pytest.approx(0.8 * 12, abs=0.8)  # 10th to 90th percentile of an even glide
    assert cues.direction == sign


def test_gain_changes_the_level_and_nothing_else():
    loud, soft = voice_cues(glide(150, 200)), voice_cues(glide(150, 200) / 2)
    assert loud.energy_db is not None and soft.energy_db is not None
    assert loud.energy_db - soft.energy_db == pytest.approx(6.02, abs=0.01)  # 20 log10(2)
    assert asdict(replace(loud, energy_db=0.0)) == pytest.approx(
        asdict(replace(soft, energy_db=0.0)), rel=1e-3, abs=1e-3
    )


def test_brightness_is_the_energy_above_one_kilohertz_over_that_below():
    t = np.arange(RATE) / RATE
    wave = 0.2 * np.sin(2 * np.pi * 200 * t) + 0.02 * np.sin(2 * np.pi * 2000 * t)
    assert voice_cues(wave).brightness_db == pytest.approx(-20, abs=0.2)  # a tenth of the amplitude


def test_bursts_are_syllables_and_gaps_are_pauses():
    burst, gap = glide(200, 200, 0.2) * np.hanning(3200), np.zeros(1600)
    cues = voice_cues(np.concatenate([burst, gap, burst, gap, burst, gap, burst]))
    # four bursts between the first and the last sound, which lie a little inside 4 * 0.2 + 3 * 0.1 = 1.1 s
    assert cues.rate == pytest.approx(4 / 1.1, rel=0.1)
    steady = voice_cues(glide(200, 200, 1.1))
    assert cues.pauses is not None and cues.pauses > 0.1 and steady.pauses == 0


def test_noise_has_a_level_but_no_pitch():
    cues = voice_cues(np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32))
    assert cues.energy_db == pytest.approx(-20, abs=0.5)  # 20 log10(0.1)
    assert cues.pitch_hz is None and cues.pitch_slope is None and cues.direction is None


@pytest.mark.parametrize("wave", [np.zeros(0), np.zeros(RATE), glide(200, 200)[:500]])
def test_silence_and_too_short_sound_have_no_cues(wave):
    assert voice_cues(wave) == VoiceCues()


@pytest.mark.parametrize("rise, direction", [(6, 1), (-6, -1), (0, 0), (2, 0)])
def test_a_drawn_mouth_has_the_curve_it_was_drawn_with(rise, direction):
    cues = face_cues(smile(rise))
    assert cues.mouth_curve == pytest.approx(rise / 12.5, abs=0.06)  # rise over half the width
    assert cues.direction == direction


def test_pictures_without_a_schematic_face_have_no_mouth():
    noise = np.random.default_rng(0).integers(0, 255, (4, 3, 56, 56), dtype=np.uint8)
    for frames in (noise, np.zeros((2, 3, 56, 56), np.uint8), np.full((2, 3, 8, 8), 200, np.uint8), noise[:0]):
        assert face_cues(frames) == FaceCues(None)


def test_a_face_in_less_than_half_of_the_frames_is_not_measured():
    empty = np.full((1, 3, 64, 64), 180, np.uint8)
    assert face_cues(np.concatenate([smile(6), empty])).mouth_curve is not None
    assert face_cues(np.concatenate([smile(6), empty, empty])) == FaceCues(None)


@pytest.mark.parametrize("clip", ["WolfgangLanger_Pexels.mp4", "single_face.mp4", "no_face.mp4"])
def test_a_real_face_is_not_measured(real_data, clip):
    assert face_cues(read_video(real_data / "face_media_open" / clip, 2.0)[0]) == FaceCues(None)


def test_one_word_reads_as_the_lexicon_says():
    # lexicon: lovely 2.8; compound = x / sqrt(x^2 + 15) = 2.8 / sqrt(22.84)
    cues = word_cues("the meal was lovely today")
    assert cues.valence == pytest.approx(0.5859, abs=1e-4) and cues.strongest == (("lovely", 0.5859),)
    assert cues.direction == 1


def test_negation_turns_a_word():
    cues = word_cues("this is not good")
    assert cues.direction == -1 and cues.strongest[0][0] == "good" and cues.strongest[0][1] < 0


def test_plain_words_are_neutral_and_unreadable_text_is_not_measured():
    assert word_cues("the short report") == WordCues(0.0) and word_cues("the short report").direction == 0
    for text in ("", "今天天气很好", "12:30"):
        assert word_cues(text) == WordCues(None) and word_cues(text).direction is None
    assert word_cues(":)").direction == 1


def test_no_more_words_are_named_than_asked_for():
    named = word_cues("good great nice happy, terrible", most=2).strongest
    assert len(named) == 2 and abs(named[0][1]) >= abs(named[1][1])
