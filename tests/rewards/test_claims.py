"""What counts as a claim, and when it is right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.claims import LEVELS, MODALITY, NAMES, Claim, check, claims


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("words up, voice down, face flat", [("words", 1), ("voice", -1), ("face", 0)]),
        (
            "pitch high, range wide, tone dull, pace fast",
            [("pitch", 1), ("range", 1), ("tone", -1), ("pace", 1)],
        ),
        ("The pitch rises while the mouth stays flat.", [("pitch", 1), ("face", 0)]),
        ("a low voice and a quiet, slow tempo", [("voice", -1), ("pace", -1)]),
        ("She speaks slowly and smiles.", [("pace", -1), ("face", 1)]),
        ("'lovely' up, 'not' down", [("'lovely'", 1), ("'not'", -1)]),
        ("the speaker is glad", []),
        ("up and down", []),
        ("", []),
    ],
)
def test_claims_name_a_cue_and_a_level(text: str, found):
    assert [(c.cue, c.level) for c in claims(text)] == found


@pytest.mark.parametrize("text", ["no smile", "She isn't smiling", "without a smile"])
def test_a_negation_in_the_clause_turns_the_claim(text: str):
    assert claims(text) == [Claim("face", 1, negated=True)]


def test_a_claim_that_is_repeated_counts_once():
    assert claims("face up, face up. A face that is up") == [Claim("face", 1)]


MEASURED = {"words": 1, "voice": -1, "face": 0}


@pytest.mark.parametrize(
    ("text", "precision", "coverage", "score"),
    [
        ("words up, voice down, face flat", 1.0, 1.0, 1.0),
        ("words up", 1.0, 1 / 3, 1 / 3),
        ("words up, voice up", 1 / 2, 1 / 3, 1 / 6),
        ("words down, voice up", 0.0, 0.0, 0.0),
        ("words up, words down, voice down", 1 / 2, 1 / 3, 1 / 6),  # at two levels: wrong
        ("no smile", 1.0, 1 / 3, 1 / 3),
        ("energy high, words up", 1.0, 1 / 3, 1 / 3),  # not measured: left out
        ("a happy person", None, 0.0, 0.0),
        ("energy high", None, 0.0, 0.0),
    ],
)
def test_evidence_by_hand(text: str, precision, coverage, score):
    found = check(claims(text), MEASURED)
    assert (found.precision, found.coverage, found.score) == pytest.approx((precision, coverage, score))


def test_what_cannot_be_measured_is_unscored_and_not_wrong():
    found = check(claims("words up"), {"words": None, "face": None})
    assert (found.precision, found.coverage, found.score) == (None, None, None)


def test_to_claim_everything_is_worse_than_the_truth():
    everything = ", ".join(
        f"{NAMES[cue][0]} {word}" for cue in MODALITY for level in LEVELS for word in LEVELS[level][:1]
    )
    assert check(claims(everything), MEASURED).score == 0.0


@given(st.text(alphabet="abcdefghij ,.'", max_size=60))
def test_any_text_can_be_read(text: str):
    assert all(c.level in LEVELS for c in claims(text))
