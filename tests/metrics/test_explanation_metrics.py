"""Rates of explanations, by hand."""

import pytest

from tasks.metrics.explanation import evidence_precision, explanation_metrics, side_of
from tasks.target import Class, Scalar, Space


def test_the_four_rates():
    #        right, says so; right, says else; wrong, explains gold; wrong, says so; no answer; right, nobody could read it
    gold = ["joy", "joy", "joy", "anger", "anger", "anger"]
    said = ["joy", "joy", "anger", "joy", None, "anger"]
    read = ["joy", "anger", "joy", "joy", "anger", None]
    found = explanation_metrics(gold, said, read)
    assert found == pytest.approx({"eea": 2 / 6, "epc": 2 / 6, "fcr": 1 / 6, "inconsistent": 2 / 3})


def test_without_a_right_answer_none_is_inconsistent():
    assert explanation_metrics(["joy"], ["anger"], ["joy"])["inconsistent"] == 0.0


def test_precision_is_the_mean_of_what_could_be_checked():
    assert evidence_precision([0.5, None, 1.0]) == 0.75
    assert evidence_precision([None]) == 0.0


def test_an_explanation_speaks_for_a_class_or_for_the_side_of_an_intensity():
    assert side_of(Class("fear", Space(("fear", "joy"), ("negative", "positive")))) == "fear"
    assert side_of(Scalar(-1.5, -3.0, 3.0)) == "negative"
    assert side_of(None) is None
