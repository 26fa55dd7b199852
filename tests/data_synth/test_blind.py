"""A teacher cannot see a label, because nothing that holds one is handed to it."""

import pytest

from data_synth.teacher import blank, blind
from runtime.errors import MediaError
from tasks.record import Media
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Space, Text, Vector

MOODS = Space(("joy", "rage", "grief"), ("up", "down", "down"))
PAIRS = [
    (Scalar(-2.5, -3, 3, 0.2), Scalar(1.5, -3, 3, 0.2)),
    (Ordinal(0, ("a", "b", "c", "d")), Ordinal(3, ("a", "b", "c", "d"))),
    (Class("rage", MOODS), Class("grief", MOODS)),
    (LabelSet(frozenset({"joy"}), MOODS), LabelSet(frozenset({"rage", "grief"}), MOODS)),
    (IndexSet(frozenset({0, 2}), 4), IndexSet(frozenset(), 4)),
    (Vector(("a", "b"), (1.0, None), 0, 5), Vector(("a", "b"), (2.0, 3.0), 0, 5)),
    (Text(("one reply",)), Text(("another", "or this"))),
    (
        Composite({"mood": Class("joy", MOODS), "x": Scalar(1, 0, 2)}),
        Composite({"mood": Class("rage", MOODS), "x": Scalar(2, 0, 2)}),
    ),
]


@pytest.mark.parametrize("one, other", PAIRS, ids=lambda t: t.kind)
def test_the_blank_of_a_target_does_not_depend_on_its_value(one, other):
    assert one != other and blank(one) == blank(other)


@pytest.mark.parametrize("one, other", PAIRS, ids=lambda t: t.kind)
def test_a_blank_still_reads_answers_of_the_space(one, other):
    assert blank(one).read(other.render()) == one.read(other.render())


def test_records_that_differ_in_label_and_annotation_give_one_case(remarks, remark, tmp_path):
    first = remark(uid="happy-7", x=2.0, meta={"cues": {"words": 1}}, raters=(("r1", "x", 2.0),))
    second = remark(uid="sad-8", x=-3.0, rationale="<answer>-3.0</answer>", meta={"gold": -3})
    assert blind(remarks, first, tmp_path) == blind(remarks, second, tmp_path)


def test_a_teacher_sees_no_view_that_the_student_does_not_see(remarks, remark, tmp_path):
    case = blind(remarks, remark(views={"text": "hello", "annotator note": "very negative"}), tmp_path)
    assert set(case.views) == {"text"} and "negative" not in str(case.messages)


def test_a_pointer_out_of_the_root_is_refused(remarks, remark, tmp_path):
    with pytest.raises(MediaError, match="leads outside the data root"):
        blind(remarks, remark(views={"audio": Media("audio", "../secret.wav")}), tmp_path)
