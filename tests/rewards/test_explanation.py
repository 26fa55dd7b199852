"""ERV and what is built on it, by hand."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.explanation import distinct, erv, intensity, label_set, sentences, valence, within

PUBLISHED = re.compile(r'(?<=[\.!?])\s+(?=(?:[^"]*"[^"]*")*[^"]*$)')
"""Where the code of ERV (Rhatanii/ERV at 19cb9a7) splits."""


def sets(*spelled: str) -> list[frozenset[str]]:
    return [frozenset(s.split()) for s in spelled]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("She smiles. Her voice rises!  Is she glad?", ["She smiles.", "Her voice rises!", "Is she glad?"]),
        ('He says "Stop. Now." and turns. Then he cries.', ['He says "Stop. Now." and turns.', "Then he cries."]),
        ('A. B "C. D', ['A. B "C.', "D"]),  # no split before a quote that is never closed
        ("3.5 of 5, i.e. much", ["3.5 of 5, i.e.", "much"]),
        ("", []),
        ("  . ", ["."]),
    ],
)
def test_sentences_end_at_stops_outside_quotes(text: str, found: list[str]):
    assert sentences(text) == found


@given(st.text(alphabet='aB.!?" \n\t', max_size=40))
def test_sentences_are_those_of_the_published_expression(text: str):
    assert sentences(text) == [piece for s in PUBLISHED.split(text) if (piece := s.strip())]


@pytest.mark.parametrize(
    ("probabilities", "found"),
    [
        ((0.5, 0.2, 0.05), "joy anger"),
        ((0.5, 0.2, 0.3), "joy neutral"),  # three pass, the two likeliest stay
        ((0.1, 0.05, 0.02), "joy"),  # none above .1: the likeliest
        ((0.05, 0.1000001, 0.02), "anger"),
    ],
)
def test_a_sentence_carries_what_passes_the_threshold_at_most_two_or_the_likeliest(probabilities, found: str):
    assert label_set(probabilities, ("joy", "anger", "neutral"), threshold=0.1, most=2) == set(found.split())


@pytest.mark.parametrize(
    ("spelled", "emotion", "expected"),
    [
        (("anger", "neutral", "sadness anger", "joy"), "anger", 2 / 3),  # the neutral sentence counts for nothing
        (("neutral", "neutral"), "anger", 0.0),
        (("neutral", "joy neutral", "joy"), "neutral", 2 / 3),
        (("neutral joy", "anger"), "anger", 1 / 2),  # only what is neutral and nothing else is left out
        ((), "anger", 0.0),
        ((), "neutral", 0.0),
        (("anger",), "anger", 1.0),
    ],
)
def test_erv_by_hand(spelled, emotion: str, expected: float):
    assert erv(sets(*spelled), emotion) == pytest.approx(expected)


def test_what_erv_pays_for_one_strong_sentence_among_neutral_ones():
    """The weakness that the other factors are for."""
    assert erv(sets("anger", *["neutral"] * 9), "anger") == erv(sets(*["anger"] * 10), "anger") == 1.0


def test_valence_is_what_positive_labels_have_more():
    # (.6 - .2) / (.6 + .2 + .2)
    assert valence((0.6, 0.2, 0.2), (1, -1, 0)) == pytest.approx(0.4)
    assert valence((0.0, 0.0), (1, -1)) == 0.0
    assert valence((0.3,), (-1,)) == -1.0


@pytest.mark.parametrize(
    ("valences", "share", "expected"),
    [
        ((0.5, 0.0, 0.9), 0.5, (1.0 + 0.6) / 2),  # the neutral sentence counts for nothing
        ((-0.5, 0.5), 0.5, 0.5),  # the wrong side earns nothing
        ((0.05, -0.02), 0.5, 0.0),
        ((0.05, 0.5), 0.0, 0.5),
        ((), 0.5, 0.0),
        ((), 0.0, 0.0),
        ((-1.0,), -0.4, 0.4),
    ],
)
def test_intensities_are_compared_in_side_and_size(valences, share: float, expected: float):
    assert intensity(valences, share, zone=0.1) == pytest.approx(expected)


@pytest.mark.parametrize(("amount", "expected"), [(0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0), (40, 0.5)])
def test_too_little_and_too_much_earn_less(amount: float, expected: float):
    assert within(amount, 10, 20) == expected


@given(st.lists(st.sampled_from(sets("joy", "anger", "neutral", "joy anger", "neutral joy"))))
def test_erv_is_a_share_and_does_not_depend_on_the_order(found):
    for emotion in ("joy", "neutral", "fear"):
        value = erv(found, emotion)
        assert 0 <= value <= 1
        assert value == erv(found[::-1], emotion)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["voice up, face flat"], 1.0),
        (["voice up, Voice  up, face flat"], 2 / 3),
        (["tone dull, pace fast", "arousal low, tone dull"], 1.0),  # another block may take it up
        (["so. so. so. so."], 1 / 4),
        ([], 1.0),
        (["..."], 1.0),
    ],
)
def test_what_is_said_twice_counts_once(texts, expected: float):
    assert distinct(texts) == pytest.approx(expected)
