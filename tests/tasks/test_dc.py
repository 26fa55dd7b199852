"""The answer grammar: what is rendered reads back, nothing makes the parser raise, every fault has its text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kinds import targets

from tasks.dc import GRAMMARS, Answer, Fault, Grammar, parse, prefix, render
from tasks.target import Class, IndexSet, Scalar, Space, Target, Text

DC = GRAMMARS["dc"]
GOLD = Scalar(-1.4, -3, 3, 0.2)
GOOD = "<discriminate>negative: a flat voice</discriminate><calibrate>no smile</calibrate><answer>-1.4</answer>"

bodies = st.text(st.characters(codec="utf-8", exclude_characters="<>"), min_size=1).map(str.strip).filter(bool)


@given(targets, st.sampled_from(list(GRAMMARS.values())), st.data())
def test_what_is_rendered_reads_back(target: Target, grammar: Grammar, data: st.DataObject) -> None:
    verdict = target.coarse() if grammar.verdict else None
    if grammar.verdict and verdict is None:
        return
    answer = Answer(target, verdict, {b: data.draw(bodies) for b in grammar.blocks if b != "answer"})
    text = render(answer, grammar)
    assert parse(text, target, grammar) == answer
    assert parse(f"\n {text}\n", target, grammar) == answer
    if grammar.blocks[0] == grammar.verdict:
        assert text.startswith(prefix(str(verdict), grammar))


pieces = st.sampled_from(
    [f"<{slash}{b}>" for b in ("discriminate", "calibrate", "answer", "think") for slash in ("", "/")]
    + ["negative: ", "1.0", "so", "<", ">", "\n", "none", "{", "9" * 5000, "[" * 5000]
)


@given(targets, st.sampled_from(list(GRAMMARS.values())), st.text() | st.lists(pieces, max_size=12).map("".join))
@example(IndexSet(frozenset(), 3), GRAMMARS["answer"], f"<answer>{'9' * 5000}</answer>")
def test_no_text_makes_the_parser_raise(target: Target, grammar: Grammar, text: str) -> None:
    found = parse(text, target, grammar)
    assert isinstance(found, Answer | Fault)
    if isinstance(found, Answer):
        assert parse(render(found, grammar), target, grammar) == found


BROKEN = {
    Fault.EMPTY: " \n ",
    Fault.MISSING_BLOCK: "<discriminate>negative: so</discriminate><answer>-1.4</answer>",
    Fault.UNCLOSED_BLOCK: GOOD.removesuffix("</answer>"),
    Fault.REPEATED_BLOCK: GOOD + "<answer>-1.4</answer>",
    Fault.WRONG_ORDER: "<calibrate>so</calibrate><discriminate>negative: so</discriminate><answer>-1.4</answer>",
    Fault.TEXT_BEFORE: "Well: " + GOOD,
    Fault.TEXT_BETWEEN: GOOD.replace("<answer>", "so <answer>"),
    Fault.TEXT_AFTER: GOOD + " or so",
    Fault.STRAY_TAG: GOOD.replace("no smile", "<b>no</b> smile"),
    Fault.EMPTY_BLOCK: GOOD.replace("no smile", " "),
    Fault.NO_VERDICT: GOOD.replace("negative:", "gloomy:"),
    Fault.BAD_ANSWER: GOOD.replace("-1.4", "-14"),
}


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_is_named(fault: Fault) -> None:
    assert parse(BROKEN[fault], GOLD, DC) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD.replace("<answer>", "</answer><answer>"), Fault.REPEATED_BLOCK),
        (GOOD.replace("<calibrate>", "</calibrate>").replace("e</c", "e<c"), Fault.UNCLOSED_BLOCK),
        (GOOD.replace(": a flat voice", ""), Fault.NO_VERDICT),
        (GOOD.replace(" a flat voice", " "), Fault.EMPTY_BLOCK),
        (GOOD.replace("-1.4", "<answer>"), Fault.REPEATED_BLOCK),
        (GOOD.replace("-1.4", "1 < 2"), Fault.STRAY_TAG),
        (GOOD.replace("</discriminate><calibrate>", "<calibrate></discriminate>"), Fault.WRONG_ORDER),
    ],
)
def test_near_misses_are_faults_too(text: str, fault: Fault) -> None:
    assert parse(text, GOLD, DC) == fault


def test_a_good_answer_is_taken_apart() -> None:
    answer = parse(GOOD, GOLD, DC)
    assert answer == Answer(GOLD, "negative", {"discriminate": "a flat voice", "calibrate": "no smile"})
    assert isinstance(answer, Answer) and answer.explanation == "a flat voice no smile"


def test_verdicts_are_read_whatever_their_case_and_blanks() -> None:
    answer = parse(GOOD.replace("negative", " Negative "), GOLD, DC)
    assert isinstance(answer, Answer) and answer.verdict == "negative"


def test_another_form_is_a_fault_and_no_silent_success() -> None:
    forms = {name: g for name, g in GRAMMARS.items() if name != "dc"}
    assert all(isinstance(parse(GOOD, GOLD, g), Fault) for g in forms.values())
    assert isinstance(parse("<answer>1</answer><rationale>so</rationale>", GOLD, GRAMMARS["answer_first"]), Answer)
    assert parse("<rationale>so</rationale><answer>1</answer>", GOLD, GRAMMARS["answer_first"]) == Fault.WRONG_ORDER


def test_a_hint_opens_the_answer() -> None:
    assert prefix("negative", DC) == "<discriminate>negative:" and GOOD.startswith(prefix("negative", DC))


@pytest.mark.parametrize("name", ["evidence_first", "think", "answer_first", "answer"])
def test_a_form_that_does_not_open_with_a_verdict_takes_no_hint(name: str) -> None:
    with pytest.raises(ValueError, match="does not open with a verdict; use grammar=dc, or hint=none"):
        prefix("negative", GRAMMARS[name])


COMPLETE = {"discriminate": "so", "calibrate": "so"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(GOLD, None, COMPLETE), "do not go together"),
        (Answer(GOLD, "gloomy", COMPLETE), "verdict 'gloomy' is none of"),
        (Answer(GOLD, "Negative", COMPLETE), "verdict 'Negative' is none of"),
        (Answer(GOLD, "negative", {"discriminate": "so"}), "wants bodies"),
        (Answer(GOLD, "negative", COMPLETE | {"calibrate": ""}), "must be non-empty"),
        (Answer(GOLD, "negative", COMPLETE | {"calibrate": " so"}), "without outer blanks"),
        (Answer(GOLD, "negative", COMPLETE | {"calibrate": "a > b"}), "angle brackets"),
        (Answer(Text(("so",)), "negative", COMPLETE), "verdict 'negative' is none of ()"),
        (Answer(Class("a", Space(("a", "b"))), "a", COMPLETE), "verdict 'a' is none of ()"),
    ],
)
def test_what_the_grammar_cannot_carry_is_not_rendered(answer: Answer, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        render(answer, DC)
    assert message in str(caught.value)
