"""What a hint must not say is found wherever and however it is said, and the direction alone is never taken for the answer."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.hints.lint import conclusion, leak
from tasks.target import (
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
)

FAMILY = Space(("joy", "calm", "very angry", "sad"), ("pleasant", "pleasant", "unpleasant", "unpleasant"))
LEVELS = ("very low", "low", "middle", "high", "very high")
WHEEL = {"glee": "happy", "mirth": "happy", "rage": "angry"}
NAMES = ("joy", "anger", "fear")

numbers = st.integers(-30, 30).map(lambda i: i / 10)
scalars = st.builds(lambda x: Scalar(x, -3, 3, 0.2), numbers)
ordinals = st.builds(lambda level: Ordinal(level, LEVELS), st.integers(0, 4))
classes = st.builds(lambda label: Class(label, FAMILY), st.sampled_from(FAMILY.labels))
closed_sets = st.builds(lambda labels: LabelSet(labels, FAMILY), st.frozensets(st.sampled_from(FAMILY.labels)))
open_sets = st.builds(
    lambda labels: LabelSet(labels, None, WHEEL), st.frozensets(st.sampled_from(["glee", "mirth", "rage", "envy"]))
)
index_sets = st.builds(lambda indices: IndexSet(indices, 9), st.frozensets(st.integers(0, 8)))
vectors = st.builds(lambda x: Vector(NAMES, x, -3, 3, 0.0), st.tuples(*[st.one_of(st.none(), numbers)] * 3).filter(any))
composites = st.builds(
    lambda x, label, text: Composite({"polarity": x, "emotion": label, "cause": Text((text,))}),
    scalars,
    classes,
    st.sampled_from(["the dog died", "a prize"]),
)
targets = st.one_of(scalars, ordinals, classes, closed_sets, open_sets, index_sets, vectors, composites)
surroundings = st.text("abc XYZ,.;:!?\n<>/()", max_size=12)


def secrets(gold: Target) -> list[str]:
    """Everything of an answer that may not be said."""
    known = set((gold.coarse() or "").split(", "))
    match gold:
        case Composite():
            return [s for part in gold.fields.values() for s in secrets(part)]
        case Vector():
            return [number_text(x) for x in gold.x if x is not None]
        case LabelSet():
            return sorted(gold.labels - known)
        case IndexSet():
            return sorted(map(str, gold.indices))
        case _:
            return [gold.render()] if gold.render() not in known else []


def apart(before: str, secret: str, after: str) -> str:
    """A text that says the secret as a word of its own."""
    return f"{before} {secret} {after}"


@given(targets, surroundings, surroundings, st.data())
def test_an_answer_is_found_wherever_it_stands(gold, before, after, data):
    if found := secrets(gold):
        secret = data.draw(st.sampled_from(found))
        assert leak(apart(before, secret, after), gold)
        assert leak(f"({secret})", gold)
        assert leak(f"it is {secret}.", gold)
        assert leak(f"{secret}, I think", gold)


@given(targets)
def test_a_whole_answer_is_found(gold):
    assert (leak(gold.render(), gold) is not None) == bool(secrets(gold))


NOTATIONS: list[Callable[[float], str]] = [
    lambda x: f"{abs(x):.1f}",
    lambda x: f"{abs(x):.2f}",
    lambda x: f"+{abs(x)}",
    lambda x: f"-{abs(x)}",
    lambda x: f"\N{MINUS SIGN}{abs(x)}",
    lambda x: f"{x}".replace(".", ","),
    lambda x: f"0{abs(x)}",
    lambda x: f"{x:g}".replace("0.", "."),
    lambda x: f"x={x}",
    lambda x: f"3,{x}",
    lambda x: f"so.{abs(x)}",
    lambda x: f"{x}/3",
]


@given(numbers, st.sampled_from(NOTATIONS), surroundings, surroundings)
def test_a_number_is_found_in_any_notation_and_with_any_sign(x, notation, before, after):
    assert leak(apart(before, notation(x), after), Scalar(x, -3, 3, 0.2))
    assert leak(apart(before, notation(x), after), Vector(("a", "b"), (None, x), -3, 3))


@given(numbers, numbers)
def test_another_number_is_none(x, other):
    gold = Scalar(x, -3, 3, 0.2)
    assert (leak(f"about {other} of it", gold) is None) == (abs(x) != abs(other))


@given(st.one_of(classes, closed_sets, open_sets, ordinals), st.sampled_from([str.upper, str.title, str.swapcase]))
def test_a_label_is_found_in_any_case(gold, case):
    for secret in secrets(gold):
        assert leak(f"so {case(secret)}!", gold)
        assert leak(f"so {case(secret)}!".replace(" ", "\n "), gold)
        assert leak(f"so{secret} {secret}ish", gold) is None  # inside other words


@given(targets)
def test_the_verdict_of_a_hintable_target_is_no_leak(gold):
    if gold.hintable:
        assert leak(f"Hint: the verdict is {gold.coarse()}.", gold) is None
        assert leak(f"<discriminate>{gold.coarse()}:", gold) is None


@given(targets)
def test_every_verdict_is_a_conclusion_and_its_space_alone(gold):
    for verdict in gold.coarse_space():
        assert conclusion(f"It was {verdict.upper()}, no doubt", gold)
        assert conclusion(f"x{verdict}x", gold) is None
    assert conclusion("look at the mouth", gold) is None


NEUTRAL = Scalar(0.0, -3, 3, 0.2)


@pytest.mark.parametrize(
    ("gold", "text", "said"),
    [
        (NEUTRAL, "neutral", None),
        (NEUTRAL, "<discriminate>neutral:", None),
        (NEUTRAL, "neutral, 0.0", "0.0"),
        (NEUTRAL, "a 0 of 10", "0"),
        (NEUTRAL, "10 cues", None),
        (Scalar(2.0, -3, 3), "12.0 or 20 or 2.5", None),
        (Scalar(2.0, -3, 3), "two smiles and 2 nods", "2"),
        (Scalar(0.5, -3, 3), "about -.5", ".5"),
        (Scalar(1.4, -3, 3), "rated 1,4 by all", "1.4"),
        (Class("joy", FAMILY), "an enjoyable joyride", None),
        (Class("joy", FAMILY), "pleasant", None),
        (Class("joy", FAMILY), "JOY!", "joy"),
        (Class("joy", FAMILY), "sad", None),  # another label is false, not a leak
        (Class("very angry", FAMILY), "very calm, not angry", None),
        (Class("very angry", FAMILY), "Very\nangry", "very angry"),
        (
            Class("anger", Space(("anger", "joy", "fear"), ("anger", "bright", "bright"))),
            "anger",
            None,
        ),  # its own parent
        (LabelSet(frozenset({"joy", "sad"}), FAMILY), "some sad words", "sad"),
        (LabelSet(frozenset({"joy", "sad"}), FAMILY), "pleasant, unpleasant", None),
        (LabelSet(frozenset(), FAMILY), "none", None),
        (LabelSet(frozenset({"glee"}), None, WHEEL), "happy", None),
        (LabelSet(frozenset({"glee"}), None, WHEEL), "happy glee", "glee"),
        (Ordinal(0, LEVELS), "low", None),
        (Ordinal(0, LEVELS), "very low", "very low"),
        (Ordinal(1, LEVELS), "low", None),  # what its verdict says, too
        (IndexSet(frozenset({0, 4}), 6), "previous", None),
        (IndexSet(frozenset({0, 4}), 6), "turns 0 and 4", "0"),
        (IndexSet(frozenset({0, 4}), 6), "turns 1,4", "4"),
        (IndexSet(frozenset(), 6), "none", None),
        (Vector(NAMES, (1.5, 0.0, None), 0, 3), "joy", None),
        (Vector(NAMES, (1.5, 0.0, None), 0, 3), "joy, anger and fear", None),  # names are no secret
        (Vector(NAMES, (1.5, 0.0, None), 0, 3), "joy=1.5", "1.5"),
        (Composite({"polarity": Scalar(2.0, -3, 3), "emotion": Class("joy", FAMILY)}), "positive", None),
        (Composite({"polarity": Scalar(2.0, -3, 3), "emotion": Class("joy", FAMILY)}), "such joy", "joy"),
        (Composite({"polarity": Scalar(2.0, -3, 3), "cause": Text(("a", "b prize"))}), "B  prize", "b prize"),
        (Text(("I see.", "Right.")), "right.", "Right."),
    ],
)
def test_what_is_a_leak(gold, text, said):
    assert leak(text, gold) == said


def test_what_is_a_conclusion():
    assert conclusion("a Neutral voice", NEUTRAL) == "neutral"
    assert conclusion("a positively neutralised voice", NEUTRAL) is None
    assert conclusion("high hopes", replace(Ordinal(0, LEVELS), level=4)) == "high"
    assert conclusion("positive", Text(("positive",))) is None  # has no verdicts
