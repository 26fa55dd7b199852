"""Near duplicates: the similarity is that of Jaccard, and MinHash only says which texts to compare."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_synth.duplicates import NEAREST, Duplicates, jaccard, shingle

WORDS = "warm cold voice rises falls smile frown slow fast word loud soft bright dull high low".split()


def test_shingles_are_runs_of_three_words():
    assert shingle("The voice RISES, the smile stays.") == {
        "the voice rises",
        "voice rises the",
        "rises the smile",
        "the smile stays",
    }
    assert shingle("two words") == {"two words"} and shingle("") == {""}


def test_similarity_is_the_common_share_of_all_runs():
    # a b c d and a b c e have one of three runs in common: abc; bcd and bce are their own
    assert jaccard(shingle("a b c d"), shingle("a b c e")) == 1 / 3


@pytest.mark.parametrize("least, twin", [(0.9, None), (0.7, "one")])
def test_the_threshold_decides(least, twin):
    text = " ".join(f"w{i}" for i in range(22))  # 20 runs of three
    other = text + " x y z"  # the same 20 and three more: 20 / 23 = .87
    seen = Duplicates(least)
    assert seen.find("one", text) is None and seen.find("two", other) == twin


def test_the_first_is_kept_and_the_same_words_in_another_order_are_not_the_same():
    seen = Duplicates(0.9)
    assert seen.find("a", "warm voice and a broad smile") is None
    assert seen.find("b", "Warm voice, and a broad smile!") == "a"
    assert seen.find("c", "a broad smile and warm voice") is None
    assert seen.find("d", "a broad smile and warm voice") == "c"


def test_what_is_dropped_is_not_compared_with():
    long = [f"w{i}" for i in range(40)]
    a, b, c = (" ".join(long[i : i + 32]) for i in (0, 2, 4))
    # 30 runs each; neighbours share 28: 28 / 32 = .875; a and c share 26: 26 / 34 = .76
    seen = Duplicates(0.85)
    assert (seen.find("a", a), seen.find("b", b), seen.find("c", c)) == (None, "a", None)


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=12), max_size=12))
def test_no_two_texts_that_are_kept_are_equal_and_every_dropped_one_has_its_twin(texts):
    seen, kept = Duplicates(0.8), {}
    for i, words in enumerate(texts):
        text = " ".join(words)
        twin = seen.find(str(i), text)
        if twin is None:
            kept[str(i)] = text
        else:
            assert jaccard(shingle(text), shingle(kept[twin])) >= 0.8
    assert len({shingle(text) for text in kept.values()}) == len(kept)


def test_in_a_crowd_of_similar_texts_few_are_compared_and_a_duplicate_is_still_found(monkeypatch):
    compared = []
    monkeypatch.setattr("data_synth.duplicates.jaccard", lambda *pair: compared.append(pair) or jaccard(*pair))
    # 8 common runs and 2 of its own: 8 / 12 = .67 of any other
    texts = [f"words up voice down face flat the strength is clear {i}a {i}b" for i in range(500)]
    seen = Duplicates(0.9)
    assert [seen.find(str(i), text) for i, text in enumerate(texts)] == [None] * 500
    assert len(compared) <= 500 * NEAREST
    assert seen.find("again", texts[17]) == "17"


def test_of_similar_pairs_hardly_one_is_missed():
    draw, seen, found = random.Random(0), Duplicates(0.9), 0
    for i in range(200):
        words = [f"{i}-{n}-{draw.random()}" for n in range(42)]
        other = [*words[:40], "x", "y"]  # 38 of 40 + 2 runs: .905 (numbers are split at the dots, in both alike)
        assert seen.find(f"{i}", " ".join(words)) is None
        found += seen.find(f"{i} again", " ".join(other)) == f"{i}"
    assert found == 200
