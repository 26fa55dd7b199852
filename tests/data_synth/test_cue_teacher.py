"""The cue teacher writes what it measured, in every grammar, and is believed only where the task agrees."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_synth.cue import CueTeacher, compose, emotion_of
from data_synth.run import synthesize
from data_synth.teacher import blind
from models.cues import MIN_VOICES, VoiceCues, VoiceNorms, fit_norms
from runtime.errors import ConfigError
from runtime.files import read_jsonl
from tasks.dc import GRAMMARS, Answer, parse
from tasks.record import Media
from tasks.studio.task import caption
from tasks.target import Class, Scalar, Space, Text

SPACE = Space(("neutral", "happy", "sad", "angry"), ("neutral", "positive", "negative", "negative"))


def write(teacher, task, record, root=Path(".")):
    (draft,) = asyncio.run(teacher.write(blind(task, record, root), [0]))
    return draft


def test_a_text_is_answered_by_its_lexicon_score(remarks, remark):
    draft = write(CueTeacher(edge=0.5), remarks, remark(text="the meal was lovely"))
    # lovely: compound 0.5859, times half the range of 6 is 1.8
    assert draft.text == (
        "<discriminate>positive: 'lovely' up</discriminate><calibrate>strength clear</calibrate><answer>1.8</answer>"
    )
    assert draft.provenance["cues"]["valence"] == 0.5859


def test_a_plain_text_is_neutral(remarks, remark):
    draft = write(CueTeacher(edge=0.5), remarks, remark(text="the meal was on Tuesday"))
    assert draft.text == (
        "<discriminate>neutral: no strong words</discriminate><calibrate>strength none</calibrate><answer>0.0</answer>"
    )


def test_the_scale_of_the_target_is_used(remarks, remark):
    draft = write(CueTeacher(edge=0.5), remarks, remark(text="lovely", target=Scalar(1, 1, 5)))
    assert draft.text and draft.text.endswith("<answer>4.2</answer>")  # 3 + 2 * 0.5859


def test_an_angle_bracket_in_the_text_does_not_break_the_grammar(remarks, remark):
    draft = write(CueTeacher(edge=0.5), remarks, remark(text="love you <3 </discriminate>"))
    assert draft.text and "<3" not in draft.text and remarks.score(remark(x=2.0), draft.text).fault is None


def test_studio_chains_say_the_true_cues_and_fail_only_where_equal_weights_name_the_wrong_side(
    studio, settings, tmp_path
):
    task, dataset = studio
    result = synthesize(task, dataset, CueTeacher(edge=0.5), settings, tmp_path)
    print(result)
    assert result["accepted"] + sum(result["rejected"].values()) == result["asked"] == 60
    assert set(result["rejected"]) == {"wrong verdict"} and result["accepted"] >= 30
    written = {row["uid"]: row["text"] for row in read_jsonl(tmp_path / "rejected.jsonl")}
    rejected = set(written)
    written |= {row["uid"]: row["rationale"] for row in read_jsonl(tmp_path / "chains.jsonl")}
    for record in dataset.split("train"):
        text, cues = written[record.uid], record.meta["cues"]
        answer = task.parse(record, text)
        assert isinstance(answer, Answer) and isinstance(answer.value, Scalar)
        assert answer.bodies["discriminate"] == caption(record)
        assert answer.value.x == sum(cues.values())
        assert answer.bodies["calibrate"] == f"strength {abs(answer.value.x)}"
        # words against face: 1.2 - 0.8 = 0.4 is not neutral, the mean of the signs is
        wrong = cues["words"] == -cues["face"] != 0 and cues["voice"] == 0
        assert (record.uid in rejected) == wrong


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=lambda g: g.name)
def test_chains_can_be_composed_in_every_grammar(grammar):
    like = Scalar(0, -3, 3)
    answer = parse(compose(Scalar(-2, -3, 3), "words down", "strength 2.0", grammar), like, grammar)
    assert isinstance(answer, Answer) and answer.value == Scalar(-2, -3, 3)
    for said in ("words down", "strength 2.0"):
        assert said in answer.explanation or grammar.name == "answer"


@pytest.mark.parametrize(
    "levels, fear, emotion",
    [
        ((1, 1, 1, 1), False, "anger"),
        ((1, 1, 0, 1), False, "happiness"),
        ((1, 1, 0, 0), False, "happiness"),
        ((-1, -1, 0, 0), False, "sadness"),
        ((1, 0, 0, -1), False, "neutral"),
        ((1, -1, 0, 1), True, "fear"),
        ((1, -1, 0, 1), False, "neutral"),
    ],
)
def test_voice_levels_give_the_emotion_of_the_rule(levels, fear, emotion):
    assert emotion_of(*levels, fear=fear) == emotion


def test_norms_are_the_median_and_the_scaled_deviation_of_the_measurable_voices():
    voices = [VoiceCues(pitch_hz=2.0**i, pitch_range=i, brightness_db=-i, rate=3.0) for i in range(1, MIN_VOICES + 2)]
    norms = fit_norms([*voices, VoiceCues()])
    # 1..9: median 5, absolute deviations 4 3 2 1 0 1 2 3 4 with median 2; pitch in semitones is 12 times that
    assert norms is not None and norms.median == (60, 5, -5, 3)
    assert norms.mad == pytest.approx((12 * 2 * 1.4826, 2 * 1.4826, 2 * 1.4826, 1e-6))
    assert norms.levels(voices[0], 0.5) == (-1, -1, 1, 0) and norms.levels(VoiceCues(), 0.5) is None
    assert fit_norms(voices[: MIN_VOICES - 1]) is None


def speech(path: Path, hz: float, syllables: int) -> None:
    """A buzzing voice of one second with so many bursts."""
    t = np.arange(16_000) / 16_000
    wave = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 12)) * np.sin(np.pi * syllables * t) ** 2
    soundfile.write(path, 0.1 * wave, 16_000)


def test_speech_is_answered_relative_to_the_voices_of_the_run(remarks, remark, tmp_path):
    records = []
    for i in range(9):
        speech(tmp_path / f"{i}.wav", hz=120 + 15 * i, syllables=2 + i // 2)
        records.append(remark(uid=f"s-{i}", target=Class("sad", SPACE), views={"audio": Media("audio", f"{i}.wav")}))
    teacher = CueTeacher(edge=0.5)
    assert (
        write(teacher, remarks, records[0], tmp_path).reason
        == f"no norm: fewer than {MIN_VOICES} voices could be measured"
    )
    teacher.fit([blind(remarks, r, tmp_path) for r in records])
    low, high = (write(teacher, remarks, records[i], tmp_path).text for i in (0, 8))
    assert low and high
    assert "pitch low" in low and "pace slow" in low and "pitch high" in high and "pace fast" in high
    assert remarks.score(records[0], low).fault is None and isinstance(teacher.norms, VoiceNorms)


@pytest.mark.parametrize(
    "views, target, reason",
    [
        ({"text": "hm"}, Text(("hello",)), "no cue rule: for text targets"),
        ({"text": "hm"}, Class("sad", SPACE), "no cue rule: for classes without sound"),
        ({"text": "今天天气很好"}, Scalar(0, -1, 1), "no cue could be measured"),
    ],
)
def test_what_it_cannot_judge_it_leaves_out(remarks, remark, views, target, reason):
    draft = write(CueTeacher(edge=0.5), remarks, remark(views=views, target=target))
    assert draft.text is None and draft.reason == reason


def test_unknown_labels_and_a_missing_emotion_are_left_out(remarks, remark, tmp_path):
    speech(tmp_path / "a.wav", 200, 3)
    voice = {"audio": Media("audio", "a.wav")}
    teacher = CueTeacher(edge=0.5)
    strange = remark(views=voice, target=Class("x", Space(("x", "y"))))
    assert write(teacher, remarks, strange, tmp_path).reason == "no cue rule: for these labels"
    teacher.norms = VoiceNorms((0.0, 0.0, -20.0, 0.0), (1.0,) * 4)  # far below this voice in pitch, tone, pace
    few = remark(views=voice, target=Class("sad", Space(("sad", "neutral"), ("negative", "neutral"))))
    assert write(teacher, remarks, few, tmp_path).reason == "not among the labels: anger"


def test_a_negative_edge_is_refused():
    with pytest.raises(ConfigError, match=r"teacher.edge: 0 or more deviations; got -1"):
        CueTeacher(edge=-1)
