"""Typed targets: the laws of every kind as properties, and scores by hand."""

import itertools
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import anchored, ordinals, scalars, targets, vectors

from runtime.errors import RecordError
from tasks.target import (
    RATER_STEP,
    Class,
    Composite,
    IndexSet,
    LabelSet,
    Ordinal,
    Scalar,
    Space,
    Target,
    Text,
    Vector,
    number_text,
    target_from_json,
)

EMOTIONS = Space(("joy", "love", "anger", "fear"), ("positive", "positive", "negative", "negative"))
LEVELS = ("none at all", "low", "moderate", "high")


@given(targets)
def test_a_rendered_target_reads_back(target: Target) -> None:
    assert target.read(target.render()) == target
    assert "<" not in target.render() and ">" not in target.render()


@given(targets)
def test_a_target_survives_json(target: Target) -> None:
    assert target_from_json(json.loads(json.dumps(target.to_json(), allow_nan=False))) == target


@given(targets, st.text())
def test_reading_never_raises(target: Target, text: str) -> None:
    value = target.read(text)
    assert value is None or value.read(value.render()) == value
    assert target.read_coarse(text) in (None, *target.coarse_space()) or "," in text


def rates_something(target: Target) -> bool:
    match target:
        case Vector(x=x):
            return any(v is not None for v in x)
        case Composite(fields=fields):
            return any(map(rates_something, fields.values()))
    return True


@given(targets)
def test_gold_scores_one_against_itself(target: Target) -> None:
    assert target.score(target) == (1.0 if rates_something(target) else None)


@given(targets, st.integers(1, 5))
def test_a_vote_of_equals_is_the_one(target: Target, n: int) -> None:
    assert target.vote([target] * n) == target


@given(targets, st.data())
def test_a_vote_does_not_depend_on_the_order(target: Target, data: st.DataObject) -> None:
    values = [
        target,
        *(v for t in data.draw(st.lists(targets, max_size=4)) if (v := target.read(t.render())) is not None),
    ]
    shuffled = data.draw(st.permutations(values))
    assert target.vote(values) == target.vote(shuffled) == shuffled[-1].vote(values)


@given(anchored)
def test_a_verdict_reads_back_and_is_one_of_the_listed(target: Target) -> None:
    coarse = target.coarse()
    assert coarse is not None and target.read_coarse(coarse) == coarse
    assert target.read_coarse(f" {coarse.upper()}\n") in (coarse, None)  # None where lower(upper(x)) is not x
    assert set(coarse.split(", ")) - {"none"} <= set(target.coarse_space())


def whole_space(target: Target) -> list[Target]:
    """Values enough to show that an anchor stands for more than one of them."""

    def subsets(items):
        return itertools.chain.from_iterable(itertools.combinations(items, k) for k in range(len(items) + 1))

    match target:
        case Scalar():
            return [replace(target, x=target.lo + k * (target.hi - target.lo) / 100) for k in range(101)]
        case Ordinal():
            return [replace(target, level=k) for k in range(len(target.levels))]
        case Class():
            return [replace(target, label=x) for x in target.space.labels]
        case LabelSet(space=None):
            return [replace(target, labels=frozenset(s)) for s in ((), ("one-of",), ("other-of",))]
        case LabelSet(space=Space() as space):
            return [replace(target, labels=frozenset(s)) for s in subsets(space.labels)]
        case IndexSet():
            return [replace(target, indices=frozenset(s)) for s in subsets(range(min(target.n, 4)))]
        case Vector():
            grid = (target.lo, (target.lo + target.hi) / 2, target.hi)
            return [replace(target, x=x) for x in itertools.product(grid, repeat=len(target.names))]
    raise AssertionError(target)


@given(anchored.filter(lambda t: not isinstance(t, Composite)))
def test_a_hint_leaves_something_to_answer(target: Target) -> None:
    values = whole_space(target)
    if target.hintable:
        assert len({v.coarse() for v in values}) < len({v.render() for v in values})
    else:
        assert isinstance(target, Ordinal | Class | LabelSet | IndexSet | Vector)


@given(targets)
def test_what_a_mask_hides_changes_nothing(target: Target) -> None:
    shown = Scalar(1, 0, 2)
    one, other = (Composite({"hidden": x, "shown": shown}, frozenset({"hidden"})) for x in (target, Scalar(0, 0, 2)))
    assert one == other and one.score(other) == 1.0 and one.render() == '{"shown": "1.0"}'


@given(targets)
def test_only_graded_kinds_with_an_anchor_are_borderline(target: Target) -> None:
    if target.borderline:
        anchor = target._anchor() if isinstance(target, Composite) else target
        assert isinstance(anchor, Scalar | Ordinal | Vector) and target.coarse() is not None


@given(scalars(), st.floats(-0.999, 0.999))
def test_no_rater_moves_a_number_that_is_not_borderline(target: Scalar, part: float) -> None:
    x = target.x + part * RATER_STEP * (target.hi - target.lo)
    moved = replace(target, x=min(max(x, target.lo), target.hi))
    if not target.borderline and target.lo < target.x < target.hi:
        assert moved.coarse() == target.coarse()


@given(scalars())
def test_some_rater_moves_a_borderline_number(target: Scalar) -> None:
    step = RATER_STEP * (target.hi - target.lo)
    if target.borderline:
        moved = [replace(target, x=min(max(target.x + d, target.lo), target.hi)) for d in (-step - 2e-9, step + 2e-9)]
        assert {m.coarse() for m in moved} != {target.coarse()}


@given(vectors())
def test_a_vector_is_borderline_where_one_of_its_numbers_alone_is(target: Vector) -> None:
    alone = [replace(target, names=(n,), x=(v,)) for n, v in zip(target.names, target.x, strict=True)]
    assert target.borderline == any(one.borderline for one in alone)


@given(ordinals(), st.sampled_from([-1, 1]))
def test_no_rater_moves_a_level_that_is_not_borderline(target: Ordinal, step: int) -> None:
    moved = target.level + step
    if target.hintable and not target.borderline and 0 <= moved < len(target.levels):
        assert replace(target, level=moved).coarse() == target.coarse()


@pytest.mark.parametrize(
    ("neutral", "near"),
    [
        (0.2, {0.1, 0.2, 0.3, 0.4}),  # a step is 0.2: from 0 it ends on the edge of the zone, which belongs to the zone
        (0.0, {0.0, 0.1, 0.2}),
        (0.1, {0.0, 0.1, 0.2, 0.3}),  # all of a zone narrower than the step
        (2.9, {2.8, 2.9}),  # 3 is an end of the scale: there all raters agree
    ],
)
def test_numbers_one_step_from_an_edge_are_borderline(neutral: float, near: set[float]) -> None:
    grid = [k / 10 for k in range(31)]
    assert {x for x in grid if Scalar(x, -3, 3, neutral).borderline} == near
    assert {x for x in grid if Scalar(3 - x, 0, 6, neutral).borderline} == near  # mirrored, around 3


def test_levels_next_to_another_coarse_class_are_borderline() -> None:
    def near(n: int) -> list[int]:
        return [k for k in range(n) if Ordinal(k, tuple("abcdef"[:n])).borderline]

    assert [near(n) for n in (2, 3, 4, 5, 6)] == [[], [], [1, 2], [1, 2, 3], [2, 3]]


def test_a_number_hardly_present_makes_a_vector_borderline() -> None:
    def vector(*x: float | None, present: float | None = None) -> Vector:
        return Vector(("joy", "fear"), x, 0, 3, present)  # a step is 0.1

    assert [vector(2.0, v).borderline for v in (0.0, 0.1, 0.2, None)] == [False, True, False, False]
    assert [vector(2.0, v, present=1.0).borderline for v in (0.9, 1.1, 1.2, 3.0)] == [False, True, False, False]
    assert vector(2.0, 0.28, present=0.18).borderline  # 0.28 - 0.1 is 0.18000000000000002


def test_a_composite_is_borderline_where_its_anchor_is() -> None:
    edge, clear, word = Scalar(0.1, -3, 3), Scalar(2, -3, 3), Class("a", Space(("a", "b")))
    assert Composite({"word": word, "edge": edge, "clear": clear}).borderline
    assert not Composite({"clear": clear, "edge": edge}).borderline
    assert not Composite({"word": word}).borderline


def test_numbers_are_written_as_people_write_them() -> None:
    assert [number_text(x) for x in (1.0, -0.4, 1e-7, 2.5e6)] == ["1.0", "-0.4", "0.0000001", "2500000.0"]
    assert Scalar(-0.0, -1, 1).render() == "0.0"


def test_scalar_scores_by_distance_over_the_range() -> None:
    gold = Scalar(-1.0, -3, 3)
    assert Scalar(0.5, -3, 3).score(gold) == 0.75  # 1 - 1.5 / 6
    assert Scalar(3, -3, 3).score(Scalar(-3, -3, 3)) == 0.0


@pytest.mark.parametrize(
    ("x", "side"), [(-0.3, "negative"), (-0.2, "neutral"), (0, "neutral"), (0.2, "neutral"), (0.21, "positive")]
)
def test_the_edge_of_the_neutral_zone_is_neutral(x: float, side: str) -> None:
    assert Scalar(x, -3, 3, 0.2).coarse() == side
    assert Scalar(x + 3, 1, 5, 0.2).coarse() == side  # around the middle of the scale, 3


def test_without_a_zone_the_exact_middle_alone_is_neutral() -> None:
    assert [Scalar(x, -1, 1).coarse() for x in (-0.01, 0, 0.01)] == ["negative", "neutral", "positive"]


@pytest.mark.parametrize("text", ["4", "-3.1", "1e0", "nan", "inf", "1,5", "", "1 2", "9" * 5000, "+", "٣", "0x1"])
def test_a_scalar_reads_plain_numbers_of_its_range_only(text: str) -> None:
    assert Scalar(0, -3, 3).read(text) is None


def test_a_scalar_reads_signs_and_blanks() -> None:
    assert Scalar(0, -3, 3).read(" +1.50\n") == Scalar(1.5, -3, 3)


def test_scalar_votes_the_median() -> None:
    values = [Scalar(x, -3, 3) for x in (-1, 2, 3, 0)]
    assert values[0].vote(values) == Scalar(1, -3, 3)  # middle two are 0 and 2


def test_ordinal_scores_by_levels_apart() -> None:
    assert Ordinal(0, LEVELS).score(Ordinal(2, LEVELS)) == pytest.approx(1 / 3)  # 1 - 2 / 3
    assert [Ordinal(k, LEVELS).coarse() for k in range(4)] == ["low", "low", "high", "high"]
    assert [Ordinal(k, LEVELS[:3]).coarse() for k in range(3)] == ["low", "middle", "high"]
    assert Ordinal(0, LEVELS).hintable and not Ordinal(0, LEVELS[:3]).hintable
    assert Ordinal(0, LEVELS).vote([Ordinal(k, LEVELS) for k in (0, 1, 2, 3)]).level == 1  # the lower median


def test_class_scores_a_match_and_knows_its_parent() -> None:
    joy, love = Class("joy", EMOTIONS), Class("love", EMOTIONS)
    assert (joy.score(joy), joy.score(love)) == (1.0, 0.0)
    assert joy.coarse() == "positive" and joy.hintable
    assert joy.vote([love, joy, Class("fear", EMOTIONS)]) == joy  # a tie goes to the first label of the space
    assert joy.read("Joy") is None and joy.read(" joy ") == joy


def test_a_space_without_parents_or_with_renamed_labels_gives_no_hint() -> None:
    assert Class("a", Space(("a", "b"))).coarse() is None and not Class("a", Space(("a", "b"))).hintable
    assert not Class("a", Space(("a", "b"), ("x", "y"))).hintable
    assert not LabelSet(frozenset({"a"}), Space(("a", "b"), ("x", "y"))).hintable


def test_closed_label_sets_score_by_jaccard() -> None:
    gold = LabelSet(frozenset({"joy", "love"}), EMOTIONS)
    assert replace(gold, labels=frozenset({"joy", "anger"})).score(gold) == pytest.approx(1 / 3)  # 1 shared of 3
    assert gold.render() == "joy, love" and gold.coarse() == "positive"
    assert replace(gold, labels=frozenset()).coarse() == "none"
    assert gold.read("love, joy") == gold and gold.read("joy, joy") is None and gold.read("joy, hope") is None


def test_open_label_sets_score_by_their_clusters() -> None:
    clusters = {"glad": "joy", "cheerful": "joy", "furious": "anger"}
    gold = LabelSet(frozenset({"glad", "furious"}), None, clusters)
    said = replace(gold, labels=frozenset({"cheerful", "puzzled"}))
    assert said.score(gold) == 0.5  # clusters {joy, other} against {joy, anger}: 2 * 1 / (2 + 2)
    assert said.coarse() == "joy, other" and gold.coarse_space() == ("anger", "joy", "other")


def test_label_sets_vote_for_what_half_of_them_say() -> None:
    a, b, c = (LabelSet(frozenset(s), EMOTIONS) for s in ({"joy"}, {"joy", "love"}, {"fear"}))
    assert a.vote([a, b, c]).labels == {"joy"}  # 2 of 3; love and fear 1 of 3
    d = replace(a, labels=frozenset({"anger"}))
    assert a.vote([a, c, d]).labels == {"anger"}  # none reaches half: the most frequent, first in the alphabet


def test_index_sets_score_by_f1_and_tell_how_far_back() -> None:
    gold = IndexSet(frozenset({2, 4}), 6)
    assert replace(gold, indices=frozenset({4})).score(gold) == pytest.approx(2 / 3)  # 2 * 1 / (1 + 2)
    places = {5: "last", 4: "previous", 3: "earlier", 0: "earlier"}
    assert all(IndexSet(frozenset({i}), 6).coarse() == place for i, place in places.items())
    assert IndexSet(frozenset(), 6).coarse() == "none" == IndexSet(frozenset(), 6).render()
    assert not IndexSet(frozenset(), 6).hintable and gold.hintable  # the verdict would be the whole answer


@pytest.mark.parametrize("text", ["6", "-1", "1.0", "a", "1,", "none, 1", "9" * 5000])
def test_an_index_outside_the_list_is_no_answer(text: str) -> None:
    assert IndexSet(frozenset({1}), 6).read(text) is None


def test_vectors_score_the_rated_entries_alone() -> None:
    gold = Vector(("joy", "fear", "awe"), (4.0, None, 1.0), 0, 4)
    said = gold.read("joy=3, fear=4")
    assert said is not None and said.score(gold) == 0.375  # joy 1 - 1/4, fear is not rated, awe is missing: 0.75 / 2
    assert replace(gold, x=(4.0, 2.0, 1.0)).score(gold) == replace(gold, x=(4.0, 0.0, 1.0)).score(gold) == 1.0
    assert gold.coarse() == "joy, awe" and replace(gold, present=1.0).coarse() == "joy"
    assert replace(gold, x=(None, None, None)).render() == "none"
    assert gold.score(replace(gold, x=(None, None, None))) is None


def test_vectors_vote_by_medians_of_what_most_of_them_rate() -> None:
    a, b, c = (Vector(("joy", "fear"), x, 0, 4) for x in ((1.0, None), (4.0, 2.0), (2.0, None)))
    assert a.vote([a, b, c]).x == (2.0, None)


def test_texts_score_by_overlap_with_the_best_reference() -> None:
    gold = Text(("that is hard", "I am sorry to hear it"))
    assert Text(("I hear that",)).score(gold) == pytest.approx(4 / 9)  # i, hear: 2 * 2 / (3 + 6); first one 2 / 6
    assert gold.coarse() is None and not gold.hintable


def test_composites_score_the_mean_of_their_fields() -> None:
    gold = Composite({"emotion": Class("joy", EMOTIONS), "strength": Scalar(1, 0, 4)})
    said = gold.read('{"emotion": "love", "strength": "2"}')
    assert said is not None and said.score(gold) == 0.375  # (0 + 0.75) / 2
    assert gold.coarse() == "positive" and gold.hintable
    assert gold.coarse_space() == ("positive", "negative")


@pytest.mark.parametrize("text", ["[]", '{"emotion": "joy"}', '{"emotion": 1, "strength": "1"}', "[" * 100_000, "joy"])
def test_a_composite_wants_every_field_as_text(text: str) -> None:
    assert Composite({"emotion": Class("joy", EMOTIONS), "strength": Scalar(1, 0, 4)}).read(text) is None


BROKEN = [
    ({"kind": "scale"}, "kind must be one of"),
    ({"kind": ["scalar"]}, "kind must be one of"),
    (7, "kind must be one of"),
    ({"kind": "scalar", "x": 1, "lo": 0, "hi": 2, "mean": 1}, "no field"),
    ({"kind": "scalar", "lo": 0, "hi": 2}, "missing 1 required"),
    ({"kind": "scalar", "x": "1", "lo": 0, "hi": 2}, "x must be a finite number"),
    ({"kind": "scalar", "x": True, "lo": 0, "hi": 2}, "x must be a finite number"),
    ({"kind": "scalar", "x": float("nan"), "lo": 0, "hi": 2}, "x must be a finite number"),
    ({"kind": "scalar", "x": 10**400, "lo": 0, "hi": 2}, "x must lie in [0, 2]"),
    ({"kind": "scalar", "x": 3, "lo": 0, "hi": 2}, "x must lie in [0, 2]"),
    ({"kind": "scalar", "x": 1, "lo": 2, "hi": 2}, "lo < hi"),
    ({"kind": "scalar", "x": 1, "lo": 0, "hi": 2, "neutral": -1}, "neutral must lie in"),
    ({"kind": "ordinal", "level": 2, "levels": ["low", "high"]}, "level must be an integer in 0..1"),
    ({"kind": "ordinal", "level": 0, "levels": "low"}, "levels must be a list"),
    ({"kind": "ordinal", "level": 0, "levels": ["low", "low"]}, "distinct levels"),
    ({"kind": "ordinal", "level": 0, "levels": [" low", "high"]}, "plain words"),
    ({"kind": "class", "label": "joy"}, "missing 1 required"),
    ({"kind": "class", "label": "joy", "space": ["joy"]}, "space must be an object"),
    ({"kind": "class", "label": "joy", "space": {"labels": "joy"}}, "labels must be a list"),
    ({"kind": "class", "label": "joy", "space": {"labels": ["joy"]}}, "two or more distinct labels"),
    ({"kind": "class", "label": "joy", "space": {"labels": ["joy", "a<b"]}}, "plain words"),
    ({"kind": "class", "label": "joy", "space": {"labels": ["joy", "fear"], "parents": ["up"]}}, "one parent"),
    ({"kind": "class", "label": "joy", "space": {"labels": ["joy", "fear"], "parents": ["Up", "a"]}}, "lower case"),
    ({"kind": "class", "label": "awe", "space": {"labels": ["joy", "fear"]}}, "label must be one of"),
    ({"kind": "label_set", "labels": "joy"}, "labels must be a list"),
    ({"kind": "label_set", "labels": ["none"]}, "plain words"),
    ({"kind": "label_set", "labels": ["joy"], "clusters": {"joy": "Joy"}}, "clusters are lower-case"),
    ({"kind": "label_set", "labels": ["joy"], "clusters": None}, "clusters must be an object"),
    ({"kind": "label_set", "labels": ["awe"], "space": {"labels": ["joy", "fear"]}}, "labels must come from"),
    ({"kind": "index_set", "indices": [3], "n": 3}, "indices must lie in 0..2"),
    ({"kind": "index_set", "indices": [], "n": "3"}, "n must be a positive integer"),
    ({"kind": "vector", "names": ["joy"], "x": [1, 2], "lo": 0, "hi": 4}, "one number"),
    ({"kind": "vector", "names": ["Joy"], "x": [1], "lo": 0, "hi": 4}, "lower case"),
    ({"kind": "vector", "names": ["joy"], "x": [5], "lo": 0, "hi": 4}, "x must lie in [0, 4]"),
    ({"kind": "text", "refs": "so it is"}, "refs must be a list"),
    ({"kind": "text", "refs": ["a <b> c"]}, "without angle brackets"),
    ({"kind": "text", "refs": []}, "one or more non-empty references"),
    ({"kind": "composite", "fields": {}}, "at least one field"),
    ({"kind": "composite"}, "missing 1 required"),
    ({"kind": "composite", "fields": [1]}, "fields must be an object"),
    ({"kind": "composite", "fields": {"a": {"kind": "scalar", "x": 9, "lo": 0, "hi": 2}}}, "x must lie in [0, 2]"),
]


@pytest.mark.parametrize(("obj", "message"), BROKEN)
def test_a_target_that_cannot_be_is_refused_with_its_reason(obj: object, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        target_from_json(obj)
    text = str(caught.value)
    assert message in text and text.startswith("target: ")
    assert "mend" in text or "remove" in text or "drop" in text


def test_a_shuffled_vote_of_many_texts_is_stable() -> None:
    values = [
        Text((f"it is {a} and {b} to me",)) for a, b in itertools.product(("so sad", "odd", "hard"), ("new", "old"))
    ]
    shuffled = random.Random(1).sample(values, len(values))
    assert values[0].vote(values) == values[0].vote(shuffled)
