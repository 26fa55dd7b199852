"""What each strategy tells a stuck prompt, rung by rung, whom, and at what price, with an engine that follows a script."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import Remarks, Script, hint_config, remark

from models.engine.hf import Sampling
from rl.hints.control import HintState
from rl.hints.forms import REQUEST, evidence_of, opening_of, own_words, request, rungs, with_hint
from rl.hints.lint import leak
from rl.rollout import Hinting, roll_out
from tasks.dc import GRAMMARS, Answer, parse, render
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Space, Text, Vector

DRAW = Sampling(32, 1.0)
PREFIX = {verdict: f"<discriminate>{verdict}:" for verdict in ("negative", "neutral", "positive")}


def answer(verdict, x, why="words"):
    return f"<discriminate>{verdict}: {why}</discriminate><calibrate>some</calibrate><answer>{x}</answer>"


WRONG, RIGHT, CHAIN = answer("negative", "-2.0"), answer("positive", "2.0"), answer("positive", "2.0", "so glad of it")
REST = RIGHT.removeprefix(PREFIX["positive"])
TORN = WRONG.removeprefix(PREFIX["negative"])
"""What a hinted row may go on with: an answer on the right side, and one on the wrong side, whatever the verdict."""


def roll(words, records, *rounds, references=None, probability=1.0, length=0.5, task=None, group=4, **hint):
    engine = Script(words, *rounds)
    hinting = Hinting(hint_config(**hint), HintState(length), probability, references or {})
    task = task or Remarks()
    groups = roll_out(task, task.grade, engine, Path("."), records, group, DRAW, hinting)  # type: ignore[arg-type]
    assert not engine.rounds
    return groups, engine


def tokens(words, *said):
    return sum(len(words.answer_ids(text)) for text in said)


# A ladder


def test_the_first_rung_deals_the_verdicts_that_were_not_tried(words):
    said = [WRONG, WRONG, "?", WRONG]
    (group,), engine = roll(words, [remark("r")], said, [TORN, REST], strategy="ladder", references={"r": CHAIN})
    ids = [tuple(words.text_ids(PREFIX[verdict])) for verdict in ("neutral", "positive")]
    assert engine.calls[1] == ([0, 0], ids)
    assert [(r.hint, r.level, r.tells, r.context) for r in group.rollouts] == [
        ("", 0, False, 0),
        ("", 0, False, 0),
        (PREFIX["neutral"], 1, True, 0),
        (PREFIX["positive"], 1, True, 0),
    ]
    # the weakest that helps stays, for the rows that it helped and for those that it did not
    assert [r.score.parts["discriminate"] for r in group.rollouts] == [0.0, 0.0, 0.0, 1.0]
    assert group.stuck and len(group.unhinted) == 4
    assert group.tokens == tokens(words, *said, TORN, REST)
    assert len(engine.prefilled) == 1


def test_a_ladder_is_climbed_until_a_row_is_on_the_right_side(words):
    """A verdict that is given away is no help by itself: the answer has to follow it."""
    rounds = [[WRONG] * 4, [TORN, TORN], [TORN, TORN], ["<calibrate>some</calibrate><answer>1.0</answer>", "?"]]
    (group,), engine = roll(words, [remark("r")], *rounds, strategy="ladder", references={"r": CHAIN})
    evidence = PREFIX["positive"] + " so glad of it</discriminate>"
    assert [tuple(words.text_ids(text)) for text in (PREFIX["positive"], evidence)] == [
        prefixes[0]
        for _, prefixes in engine.calls[2:]  # type: ignore[index]
    ]
    assert [r.level for r in group.rollouts] == [0, 0, 3, 3]
    assert group.rollouts[2].text == answer("positive", "1.0", "so glad of it")
    assert group.rollouts[2].score.fault is None
    assert group.tokens == tokens(words, *(text for said in rounds for text in said))


def test_the_second_rung_stays_where_it_helps(words):
    rounds = [[WRONG] * 4, ["?", "?"], ["?", REST]]
    (group,), _ = roll(words, [remark("r")], *rounds, strategy="ladder", references={"r": CHAIN})
    assert [r.level for r in group.rollouts] == [0, 0, 2, 2]
    assert [r.hint for r in group.rollouts[2:]] == [PREFIX["positive"]] * 2


def test_without_a_reference_a_ladder_ends_at_the_true_verdict(words):
    (group,), _ = roll(words, [remark("r")], [WRONG] * 4, ["?", "?"], ["?", "?"], strategy="ladder")
    assert [r.level for r in group.rollouts] == [0, 0, 2, 2]


def test_where_one_verdict_is_left_a_ladder_starts_with_the_truth(words):
    said = [WRONG, answer("neutral", "0.0"), WRONG, WRONG]
    rounds = [said, ["?", "?"], ["?", "?"]]
    (group,), engine = roll(words, [remark("r")], *rounds, strategy="ladder", references={"r": CHAIN})
    opening = tuple(words.text_ids(PREFIX["positive"]))
    assert engine.calls[1][1] == [opening] * 2
    assert [r.level for r in group.rollouts] == [0, 0, 2, 2]
    assert group.rollouts[3].hint == PREFIX["positive"] + " so glad of it</discriminate>"


def test_rows_that_are_no_answer_have_tried_nothing(words):
    (_,), engine = roll(words, [remark("r")], ["?"] * 8, [TORN, REST, TORN, TORN], strategy="ladder", group=8)
    # rows 4 to 7, and row i gets verdict i of three in turn
    dealt = ("neutral", "positive", "negative", "neutral")
    assert engine.calls[1][1] == [tuple(words.text_ids(PREFIX[verdict])) for verdict in dealt]


def test_groups_climb_by_themselves(words):
    records = [remark("a"), remark("b", x=-2.0), remark("c")]
    first = [*[WRONG] * 2, *[RIGHT] * 2, *[RIGHT] * 2]  # c is not stuck
    (a, b, c), engine = roll(words, records, first, [REST, TORN], [TORN], strategy="ladder", group=2)
    # one row each, given the second of the verdicts that were not tried: it happens to be the true one of a
    assert [call[0] for call in engine.calls[1:]] == [[0, 1], [1]]
    assert [[r.level for r in g.rollouts] for g in (a, b, c)] == [[0, 1], [0, 2], [0, 0]]
    assert [g.rollouts[1].hint for g in (a, b, c)] == [PREFIX["positive"], PREFIX["negative"], ""]


def test_evidence_that_says_the_answer_is_no_rung():
    cfg = hint_config(strategy="ladder")
    leaky = answer("positive", "2.0", "two of 2 words")
    for chain, levels in ((CHAIN, 3), (leaky, 2), (None, 2), ("no chain", 2)):
        found = rungs(Remarks(), remark(), cfg, ["negative"], chain, 0.5)
        assert [r.level for r in found] == list(range(1, levels + 1))


def test_the_evidence_of_a_chain():
    assert evidence_of(CHAIN, GRAMMARS["dc"]) == "so glad of it"
    assert evidence_of(answer("a, b", "a", "x: y"), GRAMMARS["dc"]) == "x: y"
    assert evidence_of("<discriminate>positive: </discriminate>", GRAMMARS["dc"]) is None
    assert evidence_of("<discriminate>positive</discriminate>", GRAMMARS["dc"]) is None
    assert evidence_of("<think>positive: x</think>", GRAMMARS["think"]) is None


# A reference, as much of it as the controller allows


@pytest.mark.parametrize(
    ("length", "opening"),
    [
        (0.2, "<discriminate>positive:"),  # of six words
        (0.5, "<discriminate>positive: so glad"),
        (0.83, "<discriminate>positive: so glad of it</discriminate><calibrate>a"),
        (1.0, "<discriminate>positive: so glad of it</discriminate><calibrate>a little</calibrate>"),
    ],
)
def test_the_controller_decides_how_many_words_are_given_away(words, length, opening):
    chain = CHAIN.replace("some", "a little")
    options = {"strategy": "adaptive", "length": length, "references": {"r": chain}}
    (group,), engine = roll(words, [remark("r")], [WRONG] * 4, ["?"] * 2, **options)
    assert [r.hint for r in group.rollouts] == ["", "", opening, opening]
    assert engine.calls[1][1] == [tuple(words.text_ids(opening))] * 2
    assert [(r.level, r.tells) for r in group.rollouts[2:]] == [(1, True)] * 2
    assert chain.startswith(opening)


def test_nothing_is_given_away_at_length_0(words):
    for references in ({"r": CHAIN}, {}):
        options = {"strategy": "adaptive", "length": 0.0, "references": references}
        (group,), engine = roll(words, [remark("r")], [WRONG] * 4, **options)
        assert group.stuck and len(engine.calls) == 1


def test_without_a_reference_the_controller_gives_the_verdict(words):
    (group,), _ = roll(words, [remark("r")], [WRONG] * 4, [REST, REST], strategy="adaptive", length=0.01)
    assert [r.hint for r in group.rollouts[2:]] == [PREFIX["positive"]] * 2


def test_an_opening_is_cut_before_it_says_the_answer():
    leaky = answer("positive", "2.0", "glad, a clear 2 of 3")
    assert opening_of(leaky, 1.0, remark()) == "<discriminate>positive: glad, a clear"
    assert opening_of(leaky, 0.2, remark()) == "<discriminate>positive:"
    assert opening_of("2 " + leaky, 1.0, remark()) == ""
    assert opening_of("<answer>2.0</answer>", 1.0, remark()) == ""
    assert opening_of(CHAIN, 0.0, remark()) == ""


def test_no_hint_is_left_of_a_chain_that_begins_with_the_answer(words):
    options = {"strategy": "adaptive", "length": 1.0, "references": {"r": "2.0 it is"}}
    (group,), engine = roll(words, [remark("r")], [WRONG] * 4, **options)
    assert group.stuck and len(engine.calls) == 1


# The policy's own words


def test_the_policy_is_asked_for_a_hint_that_then_stands_in_the_question(words):
    records = [remark("a", "fine, I guess"), remark("b")]
    said = "hear the voice"
    options = {"strategy": "self", "references": {"a": CHAIN, "b": CHAIN}}
    (a, b), engine = roll(words, records, [WRONG] * 4 + [RIGHT] * 4, [said], [RIGHT, WRONG], **options)
    question = "How does the speaker feel, from -3 to 3?"
    plain, asked, hinted = engine.prefilled
    assert [f"{question}" in text for text in plain] == [True] * 2
    (wish,) = asked
    assert wish == f"text: fine, I guess\n{REQUEST.format(reference=CHAIN)}\n> "  # the same views, another question
    assert hinted == [plain[0].replace(question, f"{question}\nHint: {said}")]
    assert engine.calls[1:] == [([0], None), ([0, 0], None)]
    assert [(r.hint, r.hint_ids, r.level, r.tells, r.context) for r in a.rollouts] == [
        *[("", (), 0, False, 0)] * 2,
        *[("", (), 1, False, 1)] * 2,
    ]
    assert [r.text for r in a.rollouts] == [WRONG, WRONG, RIGHT, WRONG]
    assert [words.tokenizer.decode(c.ids) for c in a.contexts] == [plain[0], hinted[0]]
    assert a.tokens == tokens(words, *[WRONG] * 4, said, RIGHT, WRONG)
    assert b.tokens == tokens(words, *[RIGHT] * 4)
    assert len(b.contexts) == 1
    assert not a.refused


@pytest.mark.parametrize("said", ["", "it is positive", "rated 2", "NEUTRAL, not negative", "<answer>", " \n "])
def test_own_words_that_say_too_much_or_nothing_are_refused(words, said):
    options = {"strategy": "self", "references": {"r": CHAIN}}
    (group,), engine = roll(words, [remark("r")], [WRONG] * 4, [said], **options)
    assert group.refused and group.stuck
    assert len(engine.calls) == 2
    assert [r.level for r in group.rollouts] == [0] * 4
    assert len(group.contexts) == 1
    assert group.tokens == tokens(words, *[WRONG] * 4, said)  # it has been paid for


def test_without_a_reference_the_policy_is_not_asked(words):
    options = {"strategy": "self", "references": {"other": CHAIN}}
    (group,), engine = roll(words, [remark("r")], [WRONG] * 4, **options)
    assert len(engine.calls) == 1
    assert not group.refused


def test_own_words_are_cut_and_stripped_of_tags():
    rung = own_words("<b>look  at</b>\nthe mouth", Remarks(), remark())
    assert rung is not None
    assert (rung.texts, rung.place, rung.tells) == (("Hint: look at the mouth",), "query", False)
    rung = own_words("word " * 40, Remarks(), remark())
    assert rung is not None and rung.texts == ("Hint: " + " ".join(["word"] * 30),)
    # a policy that answers as it always does: what its verdict block says behind the verdict
    rung = own_words(CHAIN, Remarks(), remark())
    assert rung is not None and rung.texts == ("Hint: so glad of it",)


def test_prompts_with_another_question_keep_their_views():
    prompt = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Well?"}]}]
    assert with_hint(prompt, "Hint: x.")[0]["content"] == [
        *prompt[0]["content"],
        {"type": "text", "text": "\nHint: x."},
    ]
    (asked,) = request(prompt, "because")
    assert asked["content"][0] == {"type": "audio"}
    assert asked["content"][1:] == [{"type": "text", "text": REQUEST.format(reference="because")}]
    assert len(prompt[0]["content"]) == 2  # neither touches the prompt


# In the question


def test_a_verdict_in_the_question_makes_a_prompt_of_its_own(words):
    records = [remark("a", "fine, I guess"), remark("b"), remark("c", x=-2.0)]
    first = [WRONG] * 4 + [RIGHT] * 8
    (a, b, c), engine = roll(words, records, first, [RIGHT, WRONG, WRONG, RIGHT], strategy="query")
    assert [len(texts) for texts in engine.prefilled] == [3, 2]  # once for all hinted rows
    plain, hinted = engine.prefilled
    for (text, verdict), before in zip(
        zip(hinted, ("positive", "negative"), strict=True), (plain[0], plain[2]), strict=True
    ):
        assert text == before.replace("to 3?", f"to 3?\nHint: the verdict is {verdict}.")
    assert engine.calls[1] == ([0, 0, 1, 1], None)  # places among the prompts with a hint
    assert [len(g.contexts) for g in (a, b, c)] == [2, 1, 2]
    for group in (a, c):
        assert [(r.hint, r.level, r.tells, r.context) for r in group.rollouts[2:]] == [("", 1, True, 1)] * 2
        assert [r.told for r in group.rollouts[2:]] == [f"Hint: the verdict is {group.record.target.coarse()}."] * 2
        assert [(r.context, r.told) for r in group.rollouts[:2]] == [(0, "")] * 2
    assert [r.text for r in c.rollouts[2:]] == [WRONG, RIGHT]


def test_a_grammar_without_a_verdict_can_be_hinted_in_the_question(words):
    said = ["<answer>-1.0</answer>"] * 4
    (group,), _ = roll(words, [remark()], said, ["<answer>1.0</answer>"] * 2, task=Remarks("answer"), strategy="query")
    assert [r.score.parts["discriminate"] for r in group.rollouts] == [0.0, 0.0, 1.0, 1.0]


# Who is hinted


@pytest.mark.parametrize(("rows", "hinted"), [("share", [2, 3]), ("one", [3]), ("all", [0, 1, 2, 3])])
def test_which_rows_of_a_stuck_group_are_rolled_out_again(words, rows, hinted):
    (group,), _ = roll(words, [remark()], [WRONG] * 4, [REST] * len(hinted), rows=rows)
    assert [i for i, r in enumerate(group.rollouts) if r.hinted] == hinted
    assert len(group.rollouts) == len(group.unhinted) == 4
    assert group.tokens == tokens(words, *[WRONG] * 4, *[REST] * len(hinted))


@pytest.mark.parametrize(("rows", "plain"), [("share", 2), ("one", 3), ("all", 0)])
def test_a_prompt_that_is_always_hinted_is_not_sampled_twice(words, rows, plain):
    records = [remark("easy"), remark("hard")]
    first = [RIGHT] * plain + [WRONG] * plain
    (easy, hard), engine = roll(words, records, first, [REST] * 2 * (4 - plain), when="always", rows=rows)
    assert [len(call[0]) for call in engine.calls] == [2 * plain, 2 * (4 - plain)]
    for group, said, stuck in ((easy, RIGHT, False), (hard, WRONG, plain > 0)):
        assert [r.hinted for r in group.rollouts] == [False] * plain + [True] * (4 - plain)
        assert len(group.unhinted) == plain
        assert group.stuck == stuck  # of the rows that were not hinted
        assert group.tokens == tokens(words, *[said] * plain, *[REST] * (4 - plain))


@pytest.mark.parametrize("strategy", ["self", "query"])
def test_hints_in_the_question_can_be_given_always(words, strategy):
    options = {"strategy": strategy, "when": "always", "references": {"r": CHAIN}}
    asked = [["listen"]] if strategy == "self" else []
    (group,), engine = roll(words, [remark("r")], *asked, [RIGHT] * 2, [RIGHT] * 2, **options)
    assert [r.context for r in group.rollouts] == [0, 0, 1, 1]
    assert [len(texts) for texts in engine.prefilled] == [1] * (2 + len(asked))


def test_a_prompt_whose_hint_was_refused_is_sampled_whole_and_asked_once(words):
    options = {"strategy": "self", "when": "always", "references": {"r": CHAIN}}
    (group,), engine = roll(words, [remark("r")], ["it is positive"], [WRONG] * 4, **options)
    assert group.refused and group.stuck and len(group.unhinted) == 4
    assert len(engine.calls) == 2


@pytest.mark.parametrize("when", ["stuck", "always"])
def test_nobody_is_hinted_with_probability_0(words, when):
    (group,), engine = roll(words, [remark()], [WRONG] * 4, when=when, probability=0.0)
    assert group.stuck and len(engine.calls) == 1


def test_each_prompt_is_hinted_with_the_probability(words):
    torch.manual_seed(3)
    chosen = [torch.rand(()).item() < 0.5 for _ in range(8)]
    torch.manual_seed(3)
    records = [remark(f"r-{i}") for i in range(8)]
    groups, _ = roll(words, records, [WRONG] * 16, [REST] * sum(chosen), probability=0.5, group=2)
    assert [g.rollouts[1].hinted for g in groups] == chosen
    assert 0 < sum(chosen) < 8


# Every kind of target

SPACE = Space(("joy", "calm", "anger"), ("pleasant", "pleasant", "unpleasant"))
KINDS = [
    Scalar(1.4, -3, 3, 0.2),
    Scalar(0.0, -3, 3, 0.2),
    Ordinal(0, ("very low", "low", "middle", "high", "very high")),
    Class("joy", SPACE),
    LabelSet(frozenset({"joy", "anger"}), SPACE),
    LabelSet(frozenset({"glee", "envy"}), None, {"glee": "happy", "rage": "angry"}),
    IndexSet(frozenset({0, 4}), 6),
    Vector(("joy", "anger", "fear"), (1.5, 0.5, None), 0, 3),
    Composite({"polarity": Scalar(1.4, -3, 3, 0.2), "cause": Text(("a prize",))}),
]


@pytest.mark.parametrize("gold", KINDS, ids=lambda t: f"{t.kind} {t.render()}")
@pytest.mark.parametrize("strategy", ["polarity", "ladder", "adaptive", "query"])
def test_every_hintable_kind_has_a_hint_that_leaks_nothing_and_opens_an_answer(gold, strategy):
    dc = GRAMMARS["dc"]
    assert gold.hintable
    full = render(Answer(gold, gold.coarse(), {"discriminate": "it shows", "calibrate": "clearly"}), dc)
    found = rungs(Remarks(), remark(target=gold), hint_config(strategy=strategy), [], full, 0.5)
    assert found
    assert [r.level for r in found] == list(range(1, len(found) + 1))
    for text in (text for rung in found for text in rung.texts):
        assert leak(text, gold) is None
        if strategy == "query":
            assert gold.coarse() in text
            continue
        # what is left to write makes it a whole answer, with the verdict that the hint states
        verdict = text.removeprefix("<discriminate>").partition(":")[0]
        rest = render(Answer(gold, verdict, {"discriminate": "it shows", "calibrate": "clearly"}), dc)
        assert rest.startswith(text)
        read = parse(rest, gold, dc)
        assert isinstance(read, Answer) and (read.verdict, read.value) == (verdict, gold)
    last = found[-1].texts[0]
    assert gold.coarse() in last  # the strongest hint states the truth


@pytest.mark.parametrize("strategy", ["polarity", "ladder", "adaptive", "query", "self"])
@pytest.mark.parametrize(
    "gold",
    [
        Text(("I see.",)),  # no coarser form
        Ordinal(1, ("low", "middle", "high")),  # its own coarser form
        Class("joy", Space(("joy", "anger"))),  # labels without parents
        Composite({"cause": Text(("a prize",))}),
    ],
    ids=lambda t: t.kind,
)
def test_a_target_without_a_coarser_form_is_never_told_anything(words, gold, strategy):
    options = {"strategy": strategy, "references": {"r": CHAIN}, "length": 1.0}
    for when in ("stuck", "always"):
        task, record = Remarks("answer"), replace(remark("r"), target=gold)
        (group,), engine = roll(words, [record], ["?"] * 4, task=task, when=when, **options)
        assert len(engine.calls) == 1
        assert not any(r.hinted for r in group.rollouts)


def test_no_strategy_says_nothing_at_any_time(words):
    for when in ("stuck", "always"):
        options = {"strategy": "none", "when": when, "references": {"r": CHAIN}}
        (group,), engine = roll(words, [remark("r")], [WRONG] * 4, **options)
        assert len(engine.calls) == 1 and not any(r.hinted for r in group.rollouts)
