"""Who is rolled out again, how that is graded, and what stays, with an engine that follows a script."""

from pathlib import Path

import pytest
from toys import Remarks, Script, hint_config, remark

from models.engine.hf import Sampling
from rl.hints.control import HintState
from rl.rollout import Hinting, roll_out, solved
from tasks.dc import Fault
from tasks.target import Ordinal

DRAW = Sampling(32, 1.0)
HINT = "<discriminate>positive:"


def answer(verdict, x):
    return f"<discriminate>{verdict}: words</discriminate><calibrate>some</calibrate><answer>{x}</answer>"


WRONG, RIGHT = answer("negative", "-2.0"), answer("positive", "2.0")
REST = RIGHT.removeprefix(HINT)  # what a hinted policy still has to write
TORN = " words</discriminate><calibrate>some</calibrate><answer>-2.0</answer>"  # contradicts its hint


def roll(words, records, *rounds, task=None, group=4, references=None, probability=1.0, length=0.5, **hint):
    engine = Script(words, *rounds)
    hinting = Hinting(hint_config(**hint), HintState(length), probability, references or {})
    task = task or Remarks()
    groups = roll_out(task, task.grade, engine, Path("."), records, group, DRAW, hinting)  # type: ignore[arg-type]
    assert not engine.rounds
    return groups, engine


def test_the_last_half_of_a_stuck_group_is_rolled_out_again_behind_the_hint(words):
    easy, hard = remark("easy"), remark("hard")
    first = [WRONG, RIGHT, "?", WRONG, *[WRONG] * 4]
    (a, b), engine = roll(words, [easy, hard], first, [REST, TORN])
    assert len(engine.prefilled) == 1  # the second round uses the same prefilled prompts
    ids = tuple(words.text_ids(HINT))
    assert engine.calls == [([0, 0, 0, 0, 1, 1, 1, 1], None), ([1, 1], [ids, ids])]
    assert (a.record, a.stuck, b.record, b.stuck) == (easy, False, hard, True)
    assert [r.hint for r in a.rollouts] == [""] * 4
    assert [r.text for r in a.rollouts] == [WRONG, RIGHT, "?", WRONG]
    assert [r.hint for r in b.rollouts] == ["", "", HINT, HINT]
    assert [r.hint_ids for r in b.rollouts] == [(), (), ids, ids]


def test_a_hinted_rollout_is_graded_with_its_hint_and_trained_without(words):
    (group,), _ = roll(words, [remark()], [WRONG] * 4, [REST, TORN])
    whole, torn = group.rollouts[2:]
    assert whole.text == RIGHT
    assert whole.score.parts == {
        **dict.fromkeys(("format", "discriminate", "calibrate", "agreement"), 1.0),
        "explanation": None,
        "evidence": None,
    }
    assert whole.completion.token_ids == tuple(words.answer_ids(REST))  # no token of the hint
    assert torn.score.parts["discriminate"] == 1.0
    assert torn.score.parts["agreement"] == 0.0


def test_scores_of_the_first_round_are_kept(words):
    (group,), _ = roll(words, [remark()], [WRONG, WRONG, "?", WRONG], [REST, REST])
    assert [s.parts["discriminate"] for s in group.unhinted] == [0.0] * 4
    assert [s.fault for s in group.unhinted] == [None, None, Fault.MISSING_BLOCK, None]
    assert [r.score.parts["discriminate"] for r in group.rollouts] == [0.0, 0.0, 1.0, 1.0]


def test_perfect_form_does_not_hide_a_stuck_group(words):
    (group,), _ = roll(words, [remark()], [WRONG] * 4, [REST, REST])
    assert all(s.parts["format"] == 1.0 for s in group.unhinted)
    assert group.stuck
    assert any(r.hint for r in group.rollouts)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_at_least_one_row_of_a_stuck_group_stays_unhinted(words, share):
    again = {0.01: 1, 0.5: 2, 0.99: 3}[share]
    (group,), _ = roll(words, [remark()], [WRONG] * 4, [REST] * again, share=share)
    assert sum(not r.hint for r in group.rollouts) == 4 - again >= 1


def test_groups_keep_the_order_of_their_records(words):
    records = [remark("a", x=2.0), remark("b", x=-2.0), remark("c", x=2.0), remark("d", x=0.0)]
    first = [*[WRONG] * 2, *[WRONG] * 2, *[WRONG] * 2, *[RIGHT] * 2]  # all stuck but b
    groups, engine = roll(words, records, first, [REST, REST, " x"], group=2)
    assert [g.record.uid for g in groups] == ["a", "b", "c", "d"]
    assert [g.stuck for g in groups] == [True, False, True, True]
    assert engine.calls[1][0] == [0, 2, 3]
    assert [g.rollouts[1].hint for g in groups] == [HINT, "", HINT, "<discriminate>neutral:"]


def test_without_a_strategy_no_second_round_is_sampled(words):
    (group,), engine = roll(words, [remark()], [WRONG] * 4, strategy="none")
    assert group.stuck
    assert len(engine.calls) == 1
    assert [r.text for r in group.rollouts] == [WRONG] * 4


def test_a_target_without_a_coarser_form_is_not_rolled_out_again(words):
    levels = Ordinal(2, ("low", "middle", "high"))
    (group,), engine = roll(words, [remark(target=levels)], ["?"] * 4)
    assert group.stuck
    assert len(engine.calls) == 1


def test_an_easy_batch_is_sampled_once(words):
    groups, engine = roll(words, [remark("a"), remark("b")], [WRONG, RIGHT, RIGHT, RIGHT], group=2)
    assert not any(g.stuck for g in groups)
    assert len(engine.calls) == 1


def test_solved_means_that_the_answer_agrees_with_a_true_verdict():
    task = Remarks()
    assert solved(task.score(remark(), RIGHT)) is True
    assert solved(task.score(remark(), WRONG)) is False
    assert solved(task.score(remark(), HINT + TORN)) is False  # the verdict alone, which a hint gives away
    assert solved(task.score(remark(), "?")) is False
    plain = Remarks("answer")  # states no verdict
    assert solved(plain.score(remark(), "<answer>1.0</answer>")) is True
