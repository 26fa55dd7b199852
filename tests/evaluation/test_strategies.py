"""Strategies on answers written by hand: what each says, what it costs, and that none of them sees a gold answer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import needs_chromium, opened
from hypothesis import given
from hypothesis import strategies as st
from test_grading import Words, config

from evaluation.compare.contrast import Comparison, Contrast, Summary
from evaluation.grading import Grader
from evaluation.stats import Difference, Interval
from evaluation.strategies.config import StrategiesConfig
from evaluation.strategies.decide import Clip, Cost, Read, Vote, best, decide, sizes, vote
from evaluation.strategies.draw import Drawn, Reply
from evaluation.strategies.outcome import calibration, curve, gain, outcome
from evaluation.strategies.page import strategies_page
from evaluation.strategies.scorers import blind, score_samples, scorer_settings
from evaluation.strategies.table import calibration_rows, notes, printed, rows
from runtime.errors import ConfigError
from tasks.base import Dataset
from tasks.dc import GRAMMARS, Answer, parse
from tasks.record import Record
from tasks.studio.task import Studio
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Space, Target, Text, Vector

DC, PLAIN = GRAMMARS["dc"], GRAMMARS["answer"]
SCALE = Scalar(0.0, -3.0, 3.0, 0.2)
CFG = StrategiesConfig(
    names=["greedy", "vote", "rerank", "refine"],
    metrics=None,
    samples=4,
    temperature=0.8,
    batch=2,
    scorer="logprob",
    request="again",
)


def text(x: float | str, side: str | None = None, why: str = "so") -> str:
    side = side or ("neutral" if abs(float(x)) <= 0.2 else "positive" if float(x) > 0 else "negative")
    return f"<discriminate>{side}: {why}</discriminate><calibrate>so</calibrate><answer>{x}</answer>"


def read(said: str, like: Target = SCALE, grammar=DC) -> Read:
    parsed = parse(said, like, grammar)
    return said, parsed if isinstance(parsed, Answer) else None


def plain(*answers: str, like: Target) -> list[Read]:
    return [read(f"<answer>{a}</answer>", like, PLAIN) for a in answers]


def clip(first: str, said: Sequence[str], refined: str | None = None, logprobs: Sequence[float | None] = ()) -> Clip:
    samples = tuple(
        Reply(s, 10 + i, lp) for i, (s, lp) in enumerate(zip(said, logprobs or [None] * len(said), strict=True))
    )
    second = None if refined is None else Reply(refined, 7, None)
    drawn = Drawn("a", 50, Reply(first, 20, -0.1), samples, second, 0 if refined is None else 30)
    answer = None if refined is None else read(refined)[1]
    return Clip(drawn, tuple(map(read, said)), tuple(logprobs or [None] * len(said)), answer)


# vote


def test_numbers_vote_by_their_median_and_what_cannot_be_read_has_no_vote():
    found = vote([read(text(s)) for s in ("1.0", "2.0", "-1.0")] + [read("no idea"), read(text("9"))], DC)
    assert found.value == replace(SCALE, x=1.0)
    assert found.share == 2 / 5  # two of five samples are positive: those that cannot be read count against it
    assert found.completion == text("1.0")


def test_an_even_number_of_samples_votes_between_them_and_the_chain_says_the_vote():
    found = vote([read(text("1.0", why="first")), read(text("2.0", why="second"))], DC)
    assert found.value == replace(SCALE, x=1.5)
    assert found.completion == text("1.5", why="first")  # both are as near; the first drawn is taken


def test_the_chain_is_one_that_states_the_side_of_the_vote():
    # the median is .1, neutral; the nearest answer, .1, contradicts itself, the next one does not
    samples = [read(text("0.1", "negative")), read(text("-0.1", why="mine")), read(text("0.3"))]
    assert vote(samples, DC).completion == text("0.1", why="mine")
    # where none states it, the nearest answer it is
    assert vote([read(text("1.0", "negative"))], DC).completion == text("1.0", "negative")


def test_classes_vote_by_their_mode_and_agree_by_the_words():
    space = Space(("anger", "fear", "joy"), ("negative", "negative", "positive"))
    found = vote(plain("fear", "anger", "fear", "joy", like=Class("joy", space)), PLAIN)
    assert found.value == Class("fear", space) and found.share == 2 / 4  # anger has its side, and is no agreement


def test_sets_vote_member_by_member():
    like = LabelSet(frozenset(), None, {})
    found = vote(plain("awe, joy", "joy", "fear, joy", "awe", like=like), PLAIN)
    assert found.value == replace(like, labels=frozenset({"awe", "joy"}))
    assert found.share == 1 / 4 and found.completion == "<answer>awe, joy</answer>"


PAIR = {"mood": SCALE, "emotion": Class("joy", Space(("fear", "joy")))}


@pytest.mark.parametrize(
    ("like", "answers", "voted"),
    [
        (Ordinal(0, ("low", "middle", "high")), ("high", "middle", "high"), "high"),
        (IndexSet(frozenset(), 5), ("1, 3", "3, 4", "3"), "3"),
        (IndexSet(frozenset(), 5), ("none", "none", "2"), "none"),
        (Vector(("awe", "joy"), (None, None), 0, 4), ("awe=1, joy=2", "awe=3", "awe=2, joy=4"), "awe=2.0, joy=3.0"),
        (Vector(("awe", "joy"), (None, None), 0, 4), ("awe=1.0", "joy=2.0"), "none"),  # nothing that most of them rate
        (Text(("a",)), ("so very sad", "how sad it is", "so sad"), "so sad"),
        (
            Composite(PAIR),
            ('{"mood": "1.0", "emotion": "joy"}', '{"mood": "2.0", "emotion": "joy"}'),
            '{"mood": "1.5", "emotion": "joy"}',
        ),
    ],
)
def test_every_kind_votes_and_what_is_shown_says_the_vote(like, answers, voted):
    found = vote(plain(*answers, like=like), PLAIN)
    assert found.value is not None and found.value.render() == voted
    _, answer = read(found.completion, like, PLAIN)
    assert answer is not None and answer.value == found.value


def test_without_a_readable_sample_the_first_one_is_the_fault():
    assert vote([read("no idea"), read("none")], DC) == Vote(None, 0.0, "no idea")


@given(st.lists(st.sampled_from(["-2.0", "-0.1", "0.3", "1.0", "x"]), min_size=1, max_size=9), st.randoms())
def test_the_order_of_the_samples_changes_neither_vote_nor_share(answers, random):
    samples = [read(text(a, "neutral")) for a in answers]
    ours, theirs = vote(samples, DC), vote(random.sample(samples, len(samples)), DC)
    assert (ours.value, ours.share) == (theirs.value, theirs.share)
    for found in (ours, theirs):  # what is shown says the vote
        _, answer = read(found.completion)
        assert (answer and answer.value) == found.value


# rerank


@pytest.mark.parametrize(
    ("scores", "logprobs", "chosen"),
    [
        ([0.1, 0.9, 0.5], [-1.0, -3.0, -2.0], 1),  # the score decides
        ([0.5, 0.5, 0.5], [-3.0, -1.0, -2.0], 1),  # among equals the log-probability
        ([0.5, 0.5, 0.5], [-1.0, -1.0, -1.0], 0),  # then the first drawn
        ([None, 0.0, None], [-0.1, -9.0, -0.1], 1),  # a score before none
        ([None, None, None], [-3.0, -2.0, -1.0], 2),
        ([-2.0, -0.5, -1.0], [-2.0, -0.5, -1.0], 1),  # log-probabilities as scores are below 0
    ],
)
def test_the_best_sample(scores, logprobs, chosen):
    samples = [read(text("1.0"))] * 3
    assert best(samples, scores, logprobs) == chosen


def test_a_sample_that_cannot_be_read_is_not_chosen_unless_none_can():
    assert best([read("x"), read(text("1.0"))], [None, -9.0], [None, -9.0]) == 1
    assert best([read("x"), read("y")], [None, None], [None, None]) == 0


# decisions and what they cost


def test_costs_are_those_that_a_strategy_would_have_alone():
    said = clip(text("1.0"), [text("1.0"), "no idea", text("2.0")], text("2.5"), [-2.0, None, -1.0])
    found = {name: decide(name, said, 3, DC) for name in CFG.names}
    assert found["greedy"].cost == Cost(tokens=20, calls=1, prompt=50)
    assert found["vote"].cost == found["rerank"].cost == Cost(tokens=10 + 11 + 12, calls=3, prompt=50)
    assert found["refine"].cost == Cost(tokens=20 + 7, calls=2, prompt=50 + 30)
    assert [found[name].unread for name in CFG.names] == [0, 1, 1, 0]
    assert [found[name].completion for name in CFG.names] == [text("1.0"), text("1.5"), text("2.0"), text("2.5")]


def test_the_first_samples_alone_decide_and_are_paid():
    said = clip(text("1.0"), [text("-1.0"), text("1.0"), text("2.0")], None, [-2.0, -1.0, -0.1])
    assert decide("vote", said, 1, DC).completion == text("-1.0") and decide("vote", said, 1, DC).cost.tokens == 10
    assert decide("rerank", said, 2, DC).completion == text("1.0") and decide("rerank", said, 2, DC).cost.calls == 2


def test_where_the_second_answer_cannot_be_read_the_first_stands_and_both_are_paid():
    found = decide("refine", clip(text("1.0"), [], "hm"), 0, DC)
    assert found.completion == text("1.0") and found.unread == 1
    assert found.cost == Cost(tokens=27, calls=2, prompt=80)
    never_asked = decide("refine", clip(text("1.0"), []), 0, DC)
    assert never_asked.completion == text("1.0") and never_asked.unread == 1
    assert never_asked.cost == Cost(tokens=20, calls=1, prompt=50)


def test_a_curve_has_the_powers_of_two_and_all_samples():
    assert [sizes(n) for n in (1, 2, 5, 16)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8, 16]]


# no gold


def studio(data: Path, **changes) -> Grader:
    task = Studio(name="studio", views=["text"], grammar="dc", train=0, dev=0, test=0, conflict=None, seed=0)

    cfg = config(valence={"anger": -1, "joy": 1, "neutral": 0}, **changes)
    return Grader(task, Dataset((record(0.0),), data), cfg, None if cfg.verifier is None else Words())


def record(x: float, **more) -> Record:
    views = {"text": "a happy day"}
    return Record(uid="a", task="studio", split="test", group="g", views=views, target=replace(SCALE, x=x), **more)


SAMPLES = [
    read(text("-1.0", why="there is joy")),  # contradicts itself
    read(text("2.0", why="there is joy")),
    read(text("-2.0", why="there is anger")),
    read("no idea"),
]


@pytest.mark.parametrize("part", ["explanation", "evidence"])
def test_another_gold_answer_changes_no_score_and_so_no_choice(part, tmp_path):
    # a grader that holds explanations against gold, and pays nothing behind a wrong verdict
    grader = studio(tmp_path, against="gold", gate=True, evidence=True)
    direct = [grader.grade([record(x)] * 3, [said for said, _ in SAMPLES[:3]]) for x in (-2.0, 2.0)]
    assert [s.parts["explanation"] for s in direct[0]] != [s.parts["explanation"] for s in direct[1]], "proves nothing"
    seen, chosen = [], []
    for x in (-2.0, 0.0, 2.0):
        (found,) = score_samples(part, grader.grade, [record(x, rationale=text(x), meta={"cues": x})], [SAMPLES])
        seen.append(found)
        chosen.append(best(SAMPLES, found, [-1.0, -3.0, -2.0, None]))
    assert seen[0] == seen[1] == seen[2] and len(set(chosen)) == 1


def test_a_scorer_is_shown_the_own_answer_where_gold_was():
    shown = blind(
        record(2.5, raters=(("r", "x", 2.5),), rationale="gold", meta={"cues": "gold"}), replace(SCALE, x=-1.0)
    )
    assert shown == replace(record(-1.0), uid="a")


def test_explanations_are_held_against_the_own_answer_even_where_the_run_wants_gold_and_a_gate(tmp_path):
    settings = scorer_settings("explanation", config(against="gold", gate=True, evidence=True))
    assert settings is not None and (settings.against, settings.gate, settings.evidence) == ("answer", False, False)
    grader = studio(tmp_path, against="answer")
    (scores,) = score_samples("explanation", grader.grade, [record(2.0)], [SAMPLES])
    # -1 of 3 explained by joy is worth nothing; two thirds explained by a valence of 1 is 1 - 1/3; "so" is neutral
    assert scores == [pytest.approx(0.0), pytest.approx(2 / 3), pytest.approx(2 / 3), None]


def test_evidence_counts_the_claims_that_the_clip_bears_out(tmp_path):
    settings = scorer_settings("evidence", config())
    assert settings is not None and settings.verifier is None and settings.evidence
    grader = studio(tmp_path, verifier=None, evidence=True)
    said = [read(text("1.0", why="words up")), read(text("1.0", why="words down")), read(text("1.0", why="who knows"))]
    assert score_samples("evidence", grader.grade, [record(1.0)], [said]) == [
        [1.0, 0.0, 0.0]
    ]  # to claim nothing earns nothing


def test_a_scorer_without_what_it_needs_is_refused():
    assert scorer_settings("logprob", config(verifier=None)) is None
    with pytest.raises(ConfigError, match=r"strategies\.scorer: explanation needs what reads .* add explanation=own"):
        scorer_settings("explanation", config(verifier=None))


# numbers and words


def test_a_gain_is_what_got_better_for_every_hundred_tokens():
    assert gain("polarity", 0.03, 300) == pytest.approx(0.01)
    assert gain("mae", -0.03, 300) == pytest.approx(0.01)  # lower is better
    assert gain("polarity", 0.03, 0) is None and gain("polarity", 0.03, -5) is None
    assert str(gain("mae", 0.0, 10)) == "0.0"


def scores(n: int = 4) -> tuple[list[Record], list[Clip]]:
    """Four clips of two speakers; greedy is right on the first three, the vote of three samples on all."""
    records = [
        replace(record(x), uid=f"clip-{i}", group=f"speaker-{i % 2}") for i, x in enumerate((1.0, -1.0, 2.0, -2.0)[:n])
    ]
    clips = []
    for r in records:
        assert isinstance(r.target, Scalar)
        x = f"{r.target.x}"
        first = text(x) if r.uid != "clip-3" else text("2.0")
        clips.append(clip(first, [text(x), text("0.0"), text(x)], "hm", [-2.0, -1.0, -3.0]))
    return records, clips


def result() -> dict:
    records, clips = scores()
    task = studio(Path(".")).task
    decided = {name: [decide(name, c, 3, DC) for c in clips] for name in CFG.names}
    cells = {"polarity": {"value": 0.75, "lo": 0.5, "hi": 1.0}}
    scored = {name: {"metrics": cells} for name in CFG.names}
    arms = tuple(Summary(name, (0,), None, {"polarity": Interval(0.75, 0.5, 1.0, "group")}) for name in CFG.names)
    contrasts = tuple(
        Contrast(name, "polarity", Difference(0.25, -0.1, 0.6, 0.04, "group"), 0.12, True) for name in CFG.names[1:]
    )
    found = outcome(Comparison(None, 4, "group", 2, 20, arms, contrasts), scored, decided)
    curves = {
        "vote": curve(
            task, records, {n: [decide("vote", c, n, DC) for c in clips] for n in sizes(3)}, ["polarity"], 20, 0
        )
    }
    votes = [vote(c.samples, DC) for c in clips]
    more = {"samples": 3, "temperature": 0.8, "scorer": "logprob", "curves": curves}
    return found | more | {"calibration": calibration(records, votes, 20, 0)}


def test_a_curve_reads_the_first_samples_alone():
    points = result()["curves"]["vote"]
    assert [(p["samples"], p["tokens"]) for p in points] == [(1, 10), (2, 21), (3, 33)]
    # one sample is right; with the neutral second one the median is half of it, on the same side
    assert [p["metrics"]["polarity"]["value"] for p in points] == [1.0, 1.0, 1.0]


def test_shares_and_rightness_have_the_same_gist():
    found = result()["calibration"]
    cells = {name: cell["value"] for name, cell in found["metrics"].items()}
    # two of three samples agree with each vote, and every vote is right
    assert cells == pytest.approx(
        {"ece": 1 / 3, "ece_mass": 1 / 3, "brier": 1 / 9, "aurc": 0, "aurc_best": 0, "risk": 0, "confidence": 2 / 3}
    )
    assert found["bins"]["width"] == [{"n": 4, "confidence": pytest.approx(2 / 3), "accuracy": 1.0}]
    assert found["risk"] == {"shares": [0, 0, 0, 0], "best": [0, 0, 0, 0]}


def test_a_clip_without_a_vote_is_wrong_with_a_share_of_nothing():
    records, _ = scores(2)
    found = calibration(records, [Vote(None, 0.0, "hm"), vote([read(text("-1.0"))], DC)], 5, 0)
    assert found["bins"]["width"] == [
        {"n": 1, "confidence": 0.0, "accuracy": 0.0},
        {"n": 1, "confidence": 1.0, "accuracy": 1.0},
    ]


def test_gain_and_cost_stand_in_one_row():
    table = rows(result())
    assert table[0] == [
        "metric",
        "strategy",
        "value",
        "minus greedy",
        "p",
        "p (Holm)",
        "tokens",
        "calls",
        "gain / 100 tokens",
    ]
    assert table[1] == ["polarity ↑", "greedy", "0.750 [0.500, 1.000]", "", "", "", "20.0", "1", ""]
    # 13 tokens more than greedy's 20 for .25: 1.9231 for a hundred
    assert table[2][1:] == [
        "vote of 3",
        "0.750 [0.500, 1.000]",
        "+0.250 [-0.100, +0.600]",
        "0.040",
        "0.120",
        "33.0",
        "3",
        "+1.9231",
    ]
    assert [row[1] for row in table[2:]] == ["vote of 3", "rerank of 3 by logprob", "refine"]
    assert printed(result()).split("\n")[1].startswith("polarity ↑  greedy")
    assert printed(result()).split("\n")[2].startswith("            vote of 3")


def test_notes_say_what_is_counted_and_what_could_not_be_read():
    said = "\n".join(notes(result()))
    assert "4 clips, 2 groups; 95 % intervals over groups (20 bootstrap samples)" in said and "Holm over 3." in said
    assert "A prompt (50 tokens) is read once, whatever comes behind it (with refine's second turn 80)" in said
    assert "vote: 0 of 12 samples cannot be read" in said
    assert "refine: the first answer stands in 4 of 4 clips, whose second cannot be read." in said


def test_the_page_shows_table_curve_and_both_diagrams():
    page = strategies_page("a run: strategies of rl", result())
    for piece in ("rerank of 3 by logprob", "+1.9231", "Reliability", "Risk and coverage", "generated tokens a clip"):
        assert piece in page, piece
    assert page.count("<svg") == 3 and "http-equiv" in page
    assert calibration_rows(result())[1] == ["ECE (equal width)", "0.333 [0.333, 0.333]"]
    bare = strategies_page("a run", result() | {"curves": {}, "calibration": None})
    assert bare.count("<svg") == 0 and "no samples were drawn" in bare


def test_a_value_outside_of_its_percentiles_is_drawn():
    found = result()
    found["strategies"]["greedy"]["metrics"] = {"polarity": {"value": 0.4, "lo": 0.5, "hi": 0.6}}
    assert strategies_page("a run", found).count("<svg") == 3


@needs_chromium
def test_a_browser_has_nothing_to_complain_of(tmp_path):
    (tmp_path / "strategies.html").write_text(strategies_page("a <run>", result()))
    with opened(tmp_path / "strategies.html") as page:
        assert page.locator("h1").inner_text() == "a <run>"
        assert page.locator("tbody tr").count() == 4 + 7 and page.locator("svg").count() == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["vote"]}, r"strategies\.names: greedy and some of \('vote', .*\), each once; got \['vote'\]; mend"),
        ({"names": ["greedy"]}, r"strategies\.names: .*; got \['greedy'\]"),
        ({"names": ["greedy", "vote", "vote"]}, r"strategies\.names: .* each once"),
        ({"names": ["greedy", "voet"]}, r"strategies\.names: .*; got \['greedy', 'voet'\]"),
        ({"samples": 0}, r"strategies: samples and batch 1 or more, .*; got samples=0 batch=2 temperature=0\.8; mend"),
        ({"batch": 0}, r"got samples=4 batch=0"),
        ({"temperature": 0.0}, r"temperature above 0; got samples=4 batch=2 temperature=0\.0"),
        ({"scorer": "luck"}, r"strategies\.scorer: one of \('logprob', 'explanation', 'evidence'\); got 'luck'; mend"),
        ({"request": " "}, r"strategies\.request: what the second turn asks, .*; got ' '; state it"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(CFG, **change)


def test_samples_are_drawn_where_something_looks_at_them():
    assert CFG.drawn == 4 and replace(CFG, names=["greedy", "refine"]).drawn == 0
