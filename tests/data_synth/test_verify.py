"""Every draft gets a verdict, and every rejection its reason."""

from dataclasses import replace

import pytest

from data_synth.teacher import Draft
from data_synth.verify import verify
from tasks.record import Turn

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
    assert verify(
        remarks, remark(text=said), Draft(copied), replace(settings, copy_words=None, copy_share=None)
    ).accepted
    assert verify(
        remarks, remark(text="lovely day"), Draft(GOOD.replace("warm word", "'lovely day'")), settings
    ).accepted


def test_a_chain_that_is_mostly_quotation_is_rejected(remarks, remark, settings):
    said = "well I must say that was one lovely day by the sea and I would do it all again tomorrow"
    quote = GOOD.replace("a warm word", "the words are 'that was one lovely day by the sea'")
    # 3 words, 8 quoted and 2 are 13, of which 8 stand in runs of five of the transcript: 62 %
    assert verify(remarks, remark(text=said), Draft(quote), settings).reason == "mostly copied: 62% of its words"
    assert verify(remarks, remark(text=said), Draft(quote), replace(settings, copy_share=0.7)).accepted
    assert verify(remarks, remark(text=said), Draft(quote), replace(settings, copy_share=None)).accepted
    short = GOOD.replace("a warm word", "the words are 'that was one lovely' thing")  # four words in a row are no run
    assert verify(remarks, remark(text=said), Draft(short), replace(settings, copy_share=0.0)).accepted


def test_a_turn_of_a_dialogue_is_copied_as_a_transcript_is(remarks, remark, settings):
    turns = (Turn("a", "how are you today"), Turn("b", "I have never been better in my life"))
    quote = GOOD.replace("a warm word", "I have never been better in my life")
    assert verify(remarks, remark(views={"text": turns}), Draft(quote), settings).reason == "copies a whole view: text"


@pytest.mark.parametrize("word", ["positive", "2.0", "1.8", "Positive."])
def test_what_argues_first_must_not_state_the_label(remarks, remark, settings, word):
    task = type(remarks)(grammar="evidence_first")
    chain = "<evidence>a warm word</evidence><discriminate>positive: so it is</discriminate><answer>1.8</answer>"
    assert verify(task, remark(x=2.0), Draft(chain), settings).accepted
    early = Draft(chain.replace("a warm word", f"a warm word, {word}"))
    name = word.lower().rstrip(".")
    assert verify(task, remark(x=2.0), early, settings).reason == f"states the label too early: {name!r}"


@pytest.mark.parametrize("word", ["positively", "12.0", "2.05", "1.85", "v2.0"])
def test_a_word_or_number_that_only_contains_the_label_does_not_state_it(remarks, remark, settings, word):
    chain = "<evidence>a warm word</evidence><discriminate>positive: so it is</discriminate><answer>1.8</answer>"
    early = Draft(chain.replace("a warm word", f"a warm word, {word}"))
    assert verify(type(remarks)(grammar="evidence_first"), remark(x=2.0), early, settings).accepted


def test_after_a_verdict_the_label_may_be_named_unless_the_teacher_was_told_it(remarks, remark, settings):
    named = Draft(GOOD.replace("said plainly", "said plainly, a positive 1.8"))
    assert verify(remarks, remark(x=2.0), named, settings).accepted
    told = verify(remarks, remark(x=2.0), named, settings, told=True)
    assert told.reason == "states the label too early: 'positive'"
    assert verify(remarks, remark(x=2.0), Draft(GOOD), settings, told=True).accepted


def test_the_size_of_a_negative_label_states_it_too(remarks, remark, settings):
    chain = Draft(
        "<discriminate>negative: a cold word</discriminate><calibrate>about 1.8 strong</calibrate><answer>-1.8</answer>"
    )
    assert verify(remarks, remark(x=-1.8), chain, settings).accepted
    told = verify(remarks, remark(x=-1.8), chain, settings, told=True)
    assert told.reason == "states the label too early: '-1.8'"


GERMAN = (
    "die Worte sind warm und freundlich, die Stimme steigt am Ende deutlich an, nur das Gesicht bleibt dabei ganz ruhig"
)


@pytest.mark.parametrize(
    "words, found",
    [
        (GERMAN, "de"),  # 20 words and "said plainly"
        ("тёплые слова и улыбка", "cyrillic"),  # 4 words: told by their letters, of which 18 are not Latin and 11 are
        ("这个声音非常温暖而且他一直在微笑着说话", "cjk"),
    ],
)
def test_another_language_is_rejected(remarks, remark, settings, words, found):
    foreign = Draft(GOOD.replace("a warm word", words))
    assert verify(remarks, remark(), foreign, settings).reason == f"other language: {found}"
    assert verify(remarks, remark(), foreign, replace(settings, language=None)).accepted


def test_the_language_asked_for_is_accepted_and_english_then_is_not(remarks, remark, settings):
    german, english = (
        Draft(GOOD.replace("a warm word", text).replace("said plainly", "deutlich" if text == GERMAN else "plainly"))
        for text in (
            GERMAN,
            "the words are warm and the voice rises at the end, only the face stays quite calm, and the tone is bright",
        )
    )
    assert verify(remarks, remark(), german, replace(settings, language="de")).accepted
    assert verify(remarks, remark(), english, replace(settings, language="de")).reason == "other language: en"
    assert verify(remarks, remark(), english, settings).accepted


def test_a_foreign_quotation_in_an_english_explanation_is_no_other_language(remarks, remark, settings):
    quote = GOOD.replace(
        "a warm word",
        "the speaker says 'das ist ja wunderbar' with a rising voice and a broad smile, which fits the friendly words well",
    )
    assert verify(remarks, remark(), Draft(quote), settings).accepted
    assert verify(remarks, remark(), Draft(GOOD.replace("a warm word", "warm: 'привет'")), settings).accepted


def test_no_text_is_rejected_with_the_teachers_reason(remarks, remark, settings):
    assert (
        verify(remarks, remark(), Draft(None, "cues disagree: words up"), settings).reason == "cues disagree: words up"
    )


def test_a_looser_setting_accepts_a_farther_answer(remarks, remark, settings):
    assert verify(
        remarks, remark(x=2.0), Draft(GOOD.replace("1.8", "0.8")), replace(settings, min_calibrate=0.75)
    ).accepted
