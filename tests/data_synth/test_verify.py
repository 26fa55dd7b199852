"""Every draft gets a verdict, and every rejection its reason."""

from dataclasses import replace

import pytest

from data_synth.teacher import Draft
from data_synth.verify import verify

GOOD = "<discriminate>positive: a warm word</discriminate><calibrate>said plainly</calibrate><answer>1.8</answer>"


def test_a_good_chain_is_accepted_with_its_parts(remarks, remark, settings):
    verdict = verify(remarks, remark(x=2.0), Draft(GOOD), settings)
    assert verdict.accepted and verdict.reason is None
    assert verdict.parts["calibrate"] == pytest.approx(1 - 0.2 / 6)  # 0.2 off on a range of 6


@pytest.mark.parametrize(
    "text, reason",
    [
        ("I think it is positive.", "fault: missing_block"),
        (GOOD.replace("1.8", "9"), "fault: bad_answer"),
        (GOOD.replace("said plainly", "The label is 2, so"), "speaks of the label: 'the label is'"),
        (GOOD.replace("a warm word", "warm").replace("said plainly", "so " * 61), "too long: 62 words"),
        (GOOD.replace("positive", "negative"), "wrong verdict"),
        (GOOD.replace("1.8", "-1.8"), "answer contradicts verdict"),
        (GOOD.replace("1.8", "0.8"), "answer too far off: closeness 0.800"),  # 1 - 1.2 / 6
    ],
)
def test_a_bad_chain_is_rejected_with_the_rule_it_broke(remarks, remark, settings, text, reason):
    verdict = verify(remarks, remark(x=2.0), Draft(text), settings)
    assert not verdict.accepted and verdict.reason == reason


def test_an_explanation_of_too_few_words_is_rejected(remarks, remark, settings):
    verdict = verify(remarks, remark(), Draft(GOOD), replace(settings, min_words=6))
    assert verdict.reason == "too short: 5 words"


def test_a_transcript_copied_whole_is_rejected_and_a_short_quote_is_not(remarks, remark, settings):
    said = "well I must say that was one lovely day by the sea"
    copied = GOOD.replace("a warm word", f"they said '{said.upper()}!'")
    assert verify(remarks, remark(text=said), Draft(copied), settings).reason == "copies a whole view: text"
    assert verify(remarks, remark(text=said), Draft(copied), replace(settings, copy_words=None)).accepted
    assert verify(
        remarks, remark(text="lovely day"), Draft(GOOD.replace("warm word", "'lovely day'")), settings
    ).accepted


def test_no_text_is_rejected_with_the_teachers_reason(remarks, remark, settings):
    assert (
        verify(remarks, remark(), Draft(None, "cues disagree: words up"), settings).reason == "cues disagree: words up"
    )


def test_a_looser_setting_accepts_a_farther_answer(remarks, remark, settings):
    assert verify(
        remarks, remark(x=2.0), Draft(GOOD.replace("1.8", "0.8")), replace(settings, min_calibrate=0.75)
    ).accepted
