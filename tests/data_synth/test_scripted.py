"""The teacher with known faults: every defect is what its name says, at its rate, and what was drawn is on record."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir

from data_synth.scripted import DECOYS, DEFECTS, FOREIGN, LEAKS, ScriptedTeacher
from data_synth.teacher import Case, Draft, blind
from runtime.config import make
from runtime.errors import ConfigError
from tasks.dc import GRAMMARS, Answer, parse
from tasks.record import Media
from tasks.target import Class, Scalar, Space

CONF = str(Path(__file__).parents[2] / "conf")
HONEST = "<discriminate>positive: 'lovely' up</discriminate><calibrate>strength clear</calibrate><answer>1.8</answer>"


def write(case: Case, indices: Sequence[int] = (0,), *, seed: int = 0, **rates: float) -> list[Draft]:
    """What a teacher with these rates writes; those not given are 0."""
    return asyncio.run(ScriptedTeacher(edge=0.5, seed=seed, rates=rates).write(case, indices))


def only(defect: str) -> Any:
    """The rate at which nothing else is written."""
    return {defect: 1.0}


@pytest.fixture
def lovely(remarks, remark):
    return blind(remarks, remark(text="the meal was lovely"), Path("."))


@pytest.mark.parametrize(
    "defect, text",
    [
        ("wrong", HONEST.replace("positive", "negative").replace(" up", " down").replace("1.8", "-1.8")),
        ("copy", HONEST.replace("'lovely' up", "they say 'the meal was lovely', 'lovely' up")),
        ("contradiction", HONEST.replace("1.8", "-1.8")),
        ("far", HONEST.replace("1.8", "0.3")),  # a quarter of the range of 6 below; above is 3.3, beyond the scale
    ],
)
def test_a_defect_spoils_what_its_name_says_and_nothing_else(lovely, defect, text):
    (draft,) = write(lovely, **only(defect))
    assert draft.text == text
    assert draft.provenance["defect"] == defect and draft.provenance["cues"]["valence"] == 0.5859


def test_without_rates_every_draft_is_honest(lovely):
    (draft,) = write(lovely)
    assert draft.text == HONEST and draft.provenance["defect"] is None


@pytest.mark.parametrize(("defect", "wordings"), [("leak", LEAKS), ("decoy", DECOYS)])
def test_every_wording_of_a_leak_or_a_decoy_opens_the_explanation(lovely, defect, wordings):
    drafts = write(lovely, range(200), **only(defect))
    assert {d.provenance["wording"] for d in drafts} == set(wordings)
    for draft in drafts:
        said = draft.provenance["wording"].format(verdict="positive", answer="1.8")
        assert draft.text == HONEST.replace("'lovely' up", f"{said}, 'lovely' up")


def test_every_foreign_explanation_keeps_verdict_and_answer(lovely):
    drafts = write(lovely, range(200), foreign=1.0)
    assert {d.provenance["wording"] for d in drafts} == set(FOREIGN)
    for draft in drafts:
        answer = parse(draft.text or "", lovely.like, lovely.grammar)
        assert isinstance(answer, Answer) and (answer.verdict, answer.value.render()) == ("positive", "1.8")
        assert answer.bodies == {"discriminate": FOREIGN[draft.provenance["wording"]], "calibrate": "1.8"}


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=lambda g: g.name)
def test_what_is_broken_is_no_answer_in_any_grammar_and_everything_else_is_one(remarks, remark, grammar):
    remarks.grammar = grammar
    case = blind(remarks, remark(text="the meal was lovely"), Path("."))
    for defect in DEFECTS:
        drafts = write(case, range(20), **only(defect))
        read = [isinstance(parse(d.text or "", case.like, grammar), Answer) for d in drafts]
        assert not any(read) if defect == "broken" else all(read)


def test_defects_come_at_their_rates_and_each_candidate_draws_by_itself(lovely):
    found = Counter(d.provenance["defect"] for d in write(lovely, range(1000), wrong=0.2, leak=0.3))
    # four standard deviations: sqrt(1000 * .2 * .8) = 12.6 and sqrt(1000 * .3 * .7) = 14.5
    assert abs(found["wrong"] - 200) < 51 and abs(found["leak"] - 300) < 58 and found.total() == 1000
    assert set(found) == {"wrong", "leak", None}


def test_the_seed_decides_what_is_drawn_and_the_place_of_the_clip_does_not(remarks, remark, tmp_path):
    t = np.arange(16_000) / 16_000
    for folder in ("here", "angry"):
        (tmp_path / folder).mkdir()
    soundfile.write(tmp_path / "here" / "a.wav", np.sin(2 * np.pi * (150 * t + 60 * t**2)), 16_000)
    shutil.copy(tmp_path / "here" / "a.wav", tmp_path / "angry" / "a.wav")
    clip = remark(uid="clip", views={"audio": Media("audio", "a.wav")}, x=1.0)
    relabelled = remark(uid="other", views={"audio": Media("audio", "a.wav")}, x=-2.0)
    here, there = (blind(remarks, r, tmp_path / f) for r, f in ((clip, "here"), (relabelled, "angry")))
    rates: Any = {"wrong": 0.3, "leak": 0.3}
    assert write(here, range(20), **rates) == write(there, range(20), **rates)
    assert write(here, range(20), **rates) != write(here, range(20), seed=1, **rates)


def test_a_neutral_answer_cannot_be_far_away_and_gets_a_clear_side_when_it_is_wrong(remarks, remark):
    case = blind(remarks, remark(text="the meal was on Tuesday"), Path("."))
    honest, wrong = write(case, far=1.0)[0], write(case, wrong=1.0)[0]
    assert honest.provenance["defect"] is None and (honest.text or "").endswith("<answer>0.0</answer>")
    assert (wrong.text or "").endswith(
        ("<answer>1.5</answer>", "<answer>-1.5</answer>")
    )  # a quarter of 6 from the middle


def test_emotions_are_spoilt_within_and_across_their_parents(remarks, remark, tmp_path):
    space = Space(("angry", "sad", "happy", "neutral"), ("negative", "negative", "positive", "neutral"))
    like = Class("angry", space)
    for defect, parents in (("wrong", {"positive", "neutral"}), ("far", {"negative"}), ("contradiction", None)):
        answer = Answer(like, "negative", {"discriminate": "pitch high", "calibrate": "arousal high"})
        rng = np.random.default_rng(0)
        case = blind(remarks, remark(target=like), tmp_path)
        found = DEFECTS[defect](answer, case, rng)
        assert found
        spoilt = parse(found[0], like, remarks.grammar)
        assert isinstance(spoilt, Answer) and spoilt.value != like
        assert spoilt.value.coarse() in parents if parents else spoilt.verdict != spoilt.value.coarse()


def test_a_draft_that_was_not_written_stays_so(remarks, remark):
    case = blind(remarks, remark(text="今天天气很好", target=Scalar(0, -1, 1)), Path("."))
    assert write(case, wrong=1.0) == [Draft(None, "no cue could be measured", write(case)[0].provenance)]


@pytest.mark.parametrize(
    "rates, message",
    [
        ({"wrng": 0.1}, r"teacher.rates: defects are wrong, leak, .*, decoy; got \['wrng'\]; mend the config"),
        ({"wrong": -0.1}, "teacher.rates: shares that add up to 1 at the most; got {'wrong': -0.1}"),
        ({"wrong": 0.6, "leak": 0.5}, "teacher.rates: shares that add up to 1 at the most; got"),
    ],
)
def test_rates_that_cannot_be_are_refused(rates, message):
    with pytest.raises(ConfigError, match=message):
        ScriptedTeacher(edge=0.5, seed=0, rates=rates)


def test_its_config_makes_it_and_its_settings_tell_seed_and_rates():
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("pipeline", overrides=["run.dir=x", "teacher=scripted", "seed=3"])
    teacher = make(cfg, "teacher")
    settings = teacher.settings()
    assert settings["seed"] == 3 and set(settings["rates"]) == set(DEFECTS) and settings["edge"] == 0.5
