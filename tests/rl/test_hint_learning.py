"""What hints do to rewards, advantages, masks and loss, by hand, on a prompt that is stuck, one that is mixed, and a solved one."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import together
from toys import (
    ArbitraryRemarks,
    ArbitraryStudio,
    Remarks,
    Told,
    brief,
    hint_config,
    remark,
    remarks,
    rl_config,
    row_logps,
    weights,
)
from transformers import TrainerCallback

from evaluation.run import EvalConfig, measure
from models.engine.hf import HFEngine
from models.load import ModelConfig, base_checkpoint, load_model, load_processor
from models.processor import Encoded, Processor
from rl.config import PREFIXES
from rl.rollout import Rollout
from rl.train import train
from rl.trainer import HintGRPOTrainer, make_trainer
from runtime.files import read_jsonl
from tasks.base import Score

POSITIVE, NEGATIVE = "<discriminate>positive:", "<discriminate>negative:"


def on(x: str) -> str:
    """What follows a verdict, up to the answer."""
    return f" words</discriminate><calibrate>some</calibrate><answer>{x}</answer>"


RIGHT, WRONG = POSITIVE + on("2.0"), NEGATIVE + on("-2.0")
CHAIN = "<discriminate>positive: so glad of it</discriminate><calibrate>some</calibrate><answer>2.0</answer>"

RECORDS = [
    remark("stuck", "what a lovely day"),
    remark("mixed", "this is terrible", -2.0),
    remark("solved", "I adore it"),
]
FOUR = [*RECORDS, remark("again", "it is a fine evening")]
"""With one that is as stuck as the first."""

PLAIN = {"stuck": [WRONG] * 4, "mixed": [WRONG, RIGHT, WRONG, "?"], "solved": [RIGHT] * 4}
HINTED = {"stuck": [on("2.0"), on("-2.0")], "mixed": [on("-2.0"), on("2.0")], "solved": [on("2.0"), on("2.0")]}
"""What hinted rows say after the verdict that they are given, wherever it stands."""

# Weights: format 0.5, discriminate 1, calibrate 1, agreement 0.25. An answer of -2 where 2 is right, on [-3, 3]:
#   without hint   (0.5 + 0 + 1/3 + 0.25) / 2.75 = 13/33         "?" earns 0, the right answer 1
#   behind a hint  (0.5 + 1 + 1/3 + 0) / 2.75    = 22/33         it contradicts the verdict that it was given
#   not counted    (0.5     + 1/3 + 0) / 1.75    = 10/21
MISS, TORN, UNCOUNTED = 13 / 33, 22 / 33, 10 / 21
MIXED = [1.0, MISS, 1.0, 0.0]
REFERENCES = {"stuck": CHAIN}


class Voices:
    """Says what the tables above tell, row by row."""

    def __init__(
        self, plain: Mapping[str, Sequence[str]] = PLAIN, hinted: Mapping[str, Sequence[str]] = HINTED
    ) -> None:
        self.plain = {uid: iter(said) for uid, said in plain.items()}
        self.hinted = {uid: iter(said) for uid, said in hinted.items()}
        self.uid_of = {record.views["text"]: record.uid for record in FOUR}

    def __call__(self, prompt: str, opening: str) -> str:
        uid = next(uid for text, uid in self.uid_of.items() if str(text) in prompt)
        if "Somebody reasoned" in prompt:
            return "hear the voice"
        if "Hint:" in prompt:
            verdict = NEGATIVE if uid == "mixed" else POSITIVE
            return verdict + next(self.hinted[uid])
        return next(self.hinted[uid] if opening else self.plain[uid])


Make = Callable[..., HintGRPOTrainer]


@pytest.fixture
def fresh(text_model: ModelConfig) -> torch.nn.Module:
    """The policy as it was before training."""
    return load_model(text_model, base_checkpoint(text_model), train=True)


@pytest.fixture
def learner(text_model: ModelConfig, words: Processor, tmp_path: Path) -> Make:
    """Makes a trainer over the three prompts, whose engine says what it is told."""

    def make(
        voices=None, records=RECORDS, callbacks=(), hint=None, folder=tmp_path / "rl", **settings
    ) -> HintGRPOTrainer:
        return make_trainer(
            "rl",
            load_model(text_model, base_checkpoint(text_model), train=True),
            words,
            Remarks(),
            records,
            tmp_path,
            rl_config(**{"prompts": 3, "max_steps": 1} | settings),
            hint_config(**hint or {}),
            weights(),
            REFERENCES,
            folder,
            0,
            list(callbacks),
            lambda model, processor: Told(model, processor, voices or Voices()),
        )

    return make


def prepared(trainer: HintGRPOTrainer) -> dict[str, Any]:
    """The first batch as TRL hands it to the loss."""
    trainer.policy.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))  # type: ignore[arg-type]


def by_uid(trainer: HintGRPOTrainer, inputs: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    return {uid: inputs[name][b] for b, uid in enumerate(inputs["uids"])}


def rows(trainer: HintGRPOTrainer, inputs: dict[str, Any]) -> list[tuple[float, Rollout, tuple[Encoded, ...]]]:
    """Advantage, rollout and contexts of every row that is learnt from."""
    group_of = {g.record.uid: g for g in trainer._groups}
    return [
        (inputs["advantages"][b, i].item(), rollout, inputs["contexts"][b])
        for b, uid in enumerate(inputs["uids"])
        for i, rollout in enumerate(group_of[uid].rollouts)
    ]


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def gradient(trainer: HintGRPOTrainer, inputs: dict[str, Any]) -> tuple[float, torch.Tensor]:
    trainer.policy.zero_grad()
    loss = trainer.compute_loss(trainer.policy, inputs)
    loss.backward()
    return loss.item(), flat(trainer.policy)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# Rewards, advantages and masks

STRATEGIES = {
    # forced opening of the stuck prompt's hinted rows, and the context that they are written in
    "polarity": (POSITIVE, 0),
    "adaptive": ("<discriminate>positive: so", 0),  # half of five words: two, rounding to even
    "query": ("", 1),
    "self": ("", 1),
}


@pytest.mark.parametrize(
    ("strategy", "prefix"),
    [
        *((strategy, prefix) for strategy in ("polarity", "adaptive") for prefix in PREFIXES),
        *((strategy, prefix) for strategy in ("query", "self") for prefix in ("masked", "weighted")),
    ],
)
def test_a_stuck_group_becomes_a_learning_group(learner, strategy, prefix):
    opening, context = STRATEGIES[strategy]
    trainer = learner(hint={"strategy": strategy, "prefix": prefix})
    inputs = prepared(trainer)
    groups = {g.record.uid: g for g in trainer._groups}
    assert [groups[uid].stuck for uid in ("stuck", "mixed", "solved")] == [True, False, False]
    assert [s.parts["discriminate"] for s in groups["stuck"].unhinted] == [0.0] * 4
    assert len({trainer._reward(r) for r in groups["stuck"].rollouts[:2]}) == 1  # nothing to learn before

    # mean of (13, 13, 33, 22) / 33 is 81/132; of (33, 13, 33, 0) / 33 it is 79/132
    found = by_uid(trainer, inputs, "advantages")
    assert found["stuck"].tolist() == pytest.approx([MISS - 81 / 132] * 2 + [1 - 81 / 132, TORN - 81 / 132])
    assert found["mixed"].tolist() == pytest.approx([r - 79 / 132 for r in MIXED])
    assert found["solved"].tolist() == [0.0] * 4

    ids = trainer.processor.text_ids(opening) if opening else []
    given, learnt = by_uid(trainer, inputs, "given"), by_uid(trainer, inputs, "tool_mask")
    where, real = by_uid(trainer, inputs, "context"), by_uid(trainer, inputs, "completion_mask")
    written = by_uid(trainer, inputs, "completion_ids")
    for uid, group in groups.items():
        for i, rollout in enumerate(group.rollouts):
            hinted = uid == "stuck" and i >= 2
            assert rollout.hint_ids == (tuple(ids) if hinted else ())
            assert given[uid][i].sum() == (len(ids) if hinted else 0)
            assert given[uid][i, : len(rollout.hint_ids)].all()
            mask = learnt[uid][i] * real[uid][i]
            forced = int(prefix in ("weighted", "learnt"))
            length = len(rollout.completion.token_ids)
            assert mask[: len(rollout.hint_ids)].tolist() == [forced] * len(rollout.hint_ids)
            assert mask.sum() == length + forced * len(rollout.hint_ids)
            assert written[uid][i, len(rollout.hint_ids) :][:length].tolist() == list(rollout.completion.token_ids)
            # weighted: scored without the hint in the question
            assert where[uid][i] == (context if hinted and prefix != "weighted" else 0)
    assert len(groups["stuck"].contexts) == 1 + context


def test_without_hints_a_stuck_group_teaches_nothing(learner):
    trainer = learner(hint={"strategy": "none"})
    inputs = prepared(trainer)
    assert {uid: a.any().item() for uid, a in by_uid(trainer, inputs, "advantages").items()} == {
        "stuck": False,
        "mixed": True,
        "solved": False,
    }
    assert not inputs["given"].any() and not inputs["context"].any()
    assert trainer.counted()["reward/groups_without_signal"] == pytest.approx(2 / 3)


def test_the_rung_that_helps_is_the_one_that_is_learnt_from(learner):
    """Not `neutral`, which nobody tried, in row 2, but `positive` in row 3: it earns 1, and the other what its verdict is worth."""
    trainer = learner(Voices(hinted={"stuck": [on("-2.0"), on("2.0")]}), hint={"strategy": "ladder"})
    inputs = prepared(trainer)
    group = next(g for g in trainer._groups if g.record.uid == "stuck")
    assert [r.hint for r in group.rollouts] == ["", "", "<discriminate>neutral:", POSITIVE]
    astray = (0.5 + 1 / 3) / 2.75  # neither direction nor agreement
    mean = (2 * MISS + astray + 1) / 4
    assert by_uid(trainer, inputs, "advantages")["stuck"].tolist() == pytest.approx(
        [MISS - mean] * 2 + [astray - mean, 1 - mean]
    )
    lengths = [len(trainer.processor.text_ids(hint)) for hint in ("<discriminate>neutral:", POSITIVE)]
    assert by_uid(trainer, inputs, "given")["stuck"].sum(1).tolist() == [0, 0, *lengths]


def test_hints_for_everybody(learner):
    trainer = learner(hint={"when": "always"})
    inputs = prepared(trainer)
    assert {g.record.uid: [r.hinted for r in g.rollouts] for g in trainer._groups} == {
        uid: [False, False, True, True] for uid in ("stuck", "mixed", "solved")
    }
    found = by_uid(trainer, inputs, "advantages")
    assert found["stuck"].tolist() == pytest.approx([MISS - 81 / 132] * 2 + [1 - 81 / 132, TORN - 81 / 132])
    # (33, 13) without, (33, 22) with a hint
    assert found["mixed"].tolist() == pytest.approx([(r - 101 / 4) / 33 for r in (33, 13, 33, 22)])
    assert found["solved"].tolist() == [0.0] * 4


@pytest.mark.parametrize("strategy", ["polarity", "query", "self"])
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("baseline", ["shared", "context"])
def test_what_was_given_away_is_counted_or_not(learner, strategy, counted, baseline):
    trainer = learner(hint={"strategy": strategy, "count_leaked": counted, "baseline": baseline})
    inputs = prepared(trainer)
    # the policy's own hint states no verdict, so that the row's own verdict counts in any case
    torn = TORN if counted or strategy == "self" else UNCOUNTED
    rewards = [MISS, MISS, 1.0, torn]
    means = [sum(rewards) / 4] * 4 if baseline == "shared" else [MISS] * 2 + [(1 + torn) / 2] * 2
    found = by_uid(trainer, inputs, "advantages")
    expected = [r - mean for r, mean in zip(rewards, means, strict=True)]
    assert found["stuck"].tolist() == pytest.approx(expected, abs=1e-7)
    assert found["mixed"].tolist() == pytest.approx([r - 79 / 132 for r in MIXED])  # one context: one mean


def test_a_hinted_row_that_is_no_answer_earns_nothing_in_any_case(learner):
    trainer = learner(Voices(hinted={"stuck": ["?", on("2.0")]}), hint={"count_leaked": False})
    prepared(trainer)
    group = next(g for g in trainer._groups if g.record.uid == "stuck")
    assert [trainer._reward(r) for r in group.rollouts] == pytest.approx([MISS, MISS, 0.0, 1.0])


# The loss

T = 1.3
"""Sampling temperature of these tests."""


def reference(
    trainer: HintGRPOTrainer, model: torch.nn.Module, inputs: dict[str, Any], kept: Sequence[str]
) -> torch.Tensor:
    """Dr. GRPO of the rows of the groups `kept`, row by row: L = -1 / (N * longest) * sum_i sum_t min(w A, clip(w, 0.8, 1.2) A)."""
    prefix, total, count, forced = trainer.hint.prefix, torch.zeros(()), 0, torch.zeros(())
    owner = {id(r): g.record.uid for g in trainer._groups for r in g.rollouts}
    for advantage, rollout, contexts in rows(trainer, inputs):
        if owner[id(rollout)] not in kept:
            continue
        n, completion = len(rollout.hint_ids), [*rollout.hint_ids, *rollout.completion.token_ids]
        context = contexts[0 if prefix == "weighted" else rollout.context]
        logps = row_logps(model, trainer.processor, context, completion, T)
        old = logps.detach()
        if prefix == "weighted":  # written with probability 1, or as the engine recorded, behind the hint
            old = torch.tensor([0.0] * n + list(rollout.completion.logprobs))
        ratio = (logps - old).exp()
        terms = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        total = total - terms[0 if prefix in ("weighted", "learnt") else n :].sum()
        count += 1
        if n and prefix == "likelihood":
            forced = forced - logps[:n].mean()
    return total / (count * trainer.settings.max_new_tokens) + trainer.hint.likelihood * forced / count


@pytest.mark.parametrize(
    ("strategy", "prefix"),
    [
        *(("polarity", prefix) for prefix in PREFIXES),
        *((strategy, prefix) for strategy in ("query", "self") for prefix in ("masked", "weighted")),
    ],
)
def test_loss_and_gradient_are_those_of_the_formula_row_by_row(learner, fresh, strategy, prefix):
    trainer = learner(hint={"strategy": strategy, "prefix": prefix, "likelihood": 0.5}, temperature=T)
    inputs = prepared(trainer)
    expected = reference(trainer, fresh, inputs, ("stuck", "mixed", "solved"))
    expected.backward()
    loss, found = gradient(trainer, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert distance(found, flat(fresh)) < 1e-4
    # scored where it should be: the other context gives another gradient
    if strategy != "polarity":
        trainer.hint = replace(trainer.hint, prefix="weighted" if prefix == "masked" else "masked")
        elsewhere = reference(trainer, fresh, inputs, ("stuck",))
        fresh.zero_grad()
        elsewhere.backward()
        assert distance(found, flat(fresh)) > 1e-2


@pytest.mark.parametrize("strategy", ["polarity", "query"])
def test_old_log_probabilities_are_those_that_each_token_was_written_with(learner, strategy):
    trainer = learner(hint={"strategy": strategy, "prefix": "weighted"})
    inputs = prepared(trainer)
    old, engine = by_uid(trainer, inputs, "old_per_token_logps"), by_uid(trainer, inputs, "sampling_per_token_logps")
    for group in trainer._groups:
        uid = group.record.uid
        for i, rollout in enumerate(group.rollouts):
            said = [0.0] * len(rollout.hint_ids) + list(rollout.completion.logprobs)
            assert old[uid][i, : len(said)].tolist() == pytest.approx(said)
            assert not old[uid][i, len(said) :].any()
            # the parity gate has nothing to compare where the trainer scores another context
            compared = ~engine[uid][i, len(rollout.hint_ids) : len(said)].isnan()
            assert compared.all() if rollout.context == 0 else not compared.any()


class Gradients(TrainerCallback):
    """The gradient of each step, as the optimizer gets it."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.found.append(flat(kwargs["model"]))


def twice(said: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same, and for the fourth record what the first is told."""
    return {uid: list(texts) for uid, texts in said.items()} | {"again": list(said["stuck"])}


def step_of_four(learner: Make, tmp_path: Path, **settings) -> torch.Tensor:
    """Gradient of one step on four prompts: two stuck ones, a mixed one, and a solved one."""
    voices, keep = Voices(twice(PLAIN), twice(HINTED)), Gradients()
    folder = tmp_path / json.dumps(settings).replace("/", "")
    trainer = learner(voices, FOUR, [keep], folder=folder, prompts=4, max_grad_norm=1e9, **settings)
    trainer.train()
    (found,) = keep.found
    return found


def test_the_likelihood_does_not_depend_on_micro_batches(learner, tmp_path):
    hint = {"prefix": "likelihood", "likelihood": 2.0}
    one, two = (step_of_four(learner, tmp_path, hint=hint, accumulation=n) for n in (1, 2))
    assert distance(two, one) < 1e-5
    assert distance(step_of_four(learner, tmp_path, accumulation=1), one) > 1e-2


# Groups without signal


def test_groups_without_signal_are_dropped_from_the_loss(learner, fresh):
    trainer = learner(no_signal="drop", temperature=T)
    inputs = prepared(trainer)
    assert sorted(inputs["uids"]) == ["mixed", "stuck"]
    assert all(len(value) == 2 for value in inputs.values() if not torch.is_tensor(value) or value.ndim)
    expected = reference(trainer, fresh, inputs, ("stuck", "mixed"))
    expected.backward()
    loss, found = gradient(trainer, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert distance(found, flat(fresh)) < 1e-4
    assert trainer.counted()["reward/groups_without_signal"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("no_signal", ["keep", "drop"])
def test_a_loss_over_tokens_counts_those_that_are_left(learner, no_signal):
    trainer = learner(no_signal=no_signal, loss="dapo")
    inputs = prepared(trainer)
    left = [r for g in trainer._groups for r in g.rollouts if no_signal == "keep" or g.record.uid != "solved"]
    assert inputs["num_items_in_batch"] == sum(len(r.completion.token_ids) for r in left)  # none of a hint


@pytest.mark.parametrize("accumulation", [1, 2])
def test_dropping_makes_steps_of_fewer_groups_whatever_the_accumulation(learner, tmp_path, accumulation):
    """Three of four are alive; with two micro-batches the dead one fills up, and nothing is left out."""
    kept = step_of_four(learner, tmp_path, accumulation=accumulation)
    left = step_of_four(learner, tmp_path, accumulation=accumulation, no_signal="drop")
    assert distance(left, kept * (4 / 3 if accumulation == 1 else 1)) < 1e-5


def test_where_nothing_is_alive_nothing_is_learnt(learner, tmp_path):
    keep = Gradients()
    dead = {uid: [RIGHT if uid != "mixed" else WRONG] * 4 for uid in PLAIN}
    trainer = learner(Voices(dead), callbacks=[keep], no_signal="drop")
    trainer.train()
    (found,) = keep.found
    assert not found.any()
    assert trainer.state.log_history[0]["reward/groups_without_signal"] == 1.0
    assert all(len(g.rollouts) == 4 for g in trainer._groups)


class Fixed(ArbitraryStudio):
    """Some records are graded alike whatever is said."""

    flat: frozenset[str] = frozenset()

    def score(self, record, completion) -> Score:
        found = super().score(record, completion)
        return replace(found, parts=dict.fromkeys(found.parts, 1.0)) if record.uid in self.flat else found


def test_other_prompts_take_the_place_of_those_without_signal(omni_trainer, arbitrary_studio):
    task = copy(arbitrary_studio)
    task.__class__ = Fixed
    trainer = omni_trainer(task=task, no_signal="resample", max_steps=1)
    first = list(dict.fromkeys(row["prompt"] for row in next(iter(trainer.get_train_dataloader()))))
    task.flat = frozenset(first)
    rolled = []
    sample = trainer._sample

    def spy(records):
        groups = sample(records)
        rolled.extend(trainer._visited)
        return groups

    trainer._sample = spy
    trainer.train()
    assert [g.record.uid for g in rolled[:2]] == first
    others = set(trainer.record_of) - set(first)
    assert {g.record.uid for g in trainer._groups} == {g.record.uid for g in rolled[2:]} == others
    assert trainer.memory.generated == sum(g.tokens for g in rolled)  # of those that were replaced, too
    # the gate compared the media of the groups that are learnt from with what the engine saw of them
    assert trainer.parity["logp_mean"] < 1e-4
    assert set(trainer.memory.solve.seen) == set(trainer.record_of)
    row = trainer.state.log_history[0]
    assert (row["groups/resampled"], row["reward/groups_without_signal"]) == (2.0, 0.0)


@pytest.mark.parametrize(("resamples", "visits"), [(0, 2), (1, 4), (3, 8)])
def test_resampling_ends_where_it_is_bounded(text_trainer, resamples, visits):
    trainer = text_trainer(no_signal="resample", resamples=resamples)
    trainer._advantages = lambda groups: torch.zeros(len(groups), 4)
    groups = trainer._sample([trainer.record_of[uid] for uid in ("r-0", "r-1")])
    assert len(groups) == 2
    assert len(trainer._visited) == visits
    seen = [g.record.uid for g in trainer._visited]
    for start in range(0, visits, 2):  # never two groups of one prompt, never one that was just found dead
        now, before = seen[start : start + 2], seen[max(0, start - 2) : start]
        assert len(set(now)) == 2 and not set(now) & set(before)
    assert trainer._generated == sum(g.tokens for g in trainer._visited)


def test_where_there_are_no_others_resampling_ends(learner):
    dead = {uid: [RIGHT if uid != "mixed" else WRONG] * 4 for uid in PLAIN}
    trainer = learner(Voices(dead), no_signal="resample")
    inputs = prepared(trainer)
    assert not inputs["advantages"].any() and len(inputs["uids"]) == 3


# What is remembered

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(text_model: ModelConfig, words: Processor, tmp_path: Path) -> Run:
    """Runs the stage over six remarks, three of them hard, into a folder; `at_step` is called after each step."""

    def run(folder: Path, hint: dict[str, Any] | None = None, at_step=lambda step: None, **settings) -> dict[str, Any]:
        torch.manual_seed(7)
        task = ArbitraryRemarks()
        task.hard = frozenset(["r-0", "r-1", "r-2"])

        def measured(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
            at_step(1 + len(read_jsonl(folder / "metrics.jsonl")))
            return {}

        model = load_model(text_model, base_checkpoint(text_model), train=True)
        references = {r.uid: CHAIN for r in remarks()}
        cfg = rl_config(**{"max_steps": 6, "save_every": 2, "eval_every": 1, "lr": 1e-2} | settings)
        return train(
            model,
            brief(words),
            task,
            remarks(),
            tmp_path,
            cfg,
            hint_config(**hint or {}),
            weights(),
            references,
            folder,
            7,
            measured,
        )

    return run


class Killed(BaseException):
    """As abrupt as a kill can be inside one process."""


def kill(step: int) -> None:
    if step == 5:
        raise Killed


def remembered(folder: Path, step: int) -> dict[str, Any]:
    state = json.loads((folder / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return state["stateful_callbacks"]["Memory"]["attributes"]


CONTROL = {"strategy": "adaptive", "schedule": "ema", "ema_decay": 0.7, "ema_off": 0.99, "gain": 0.3}


def test_what_hints_remember_survives_a_kill_bit_for_bit(run: Run, tmp_path):
    options = {"hint": CONTROL, "order": "hard_first"}
    run(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        run(tmp_path / "killed", at_step=kill, **options)
    assert remembered(tmp_path / "killed", 4) == remembered(tmp_path / "whole", 4)
    run(tmp_path / "killed", **options)
    whole = remembered(tmp_path / "whole", 6)
    assert remembered(tmp_path / "killed", 6) == whole != remembered(tmp_path / "whole", 4)
    rows = [read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    for name in ("hint/length", "hint/probability", "tokens/generated", "loss"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]], name
    lengths = [row["hint/length"] for row in rows[0]]
    assert lengths[0] == 0.5 and lengths[-1] != 0.5  # the controller moves
    assert whole["hints"]["solvable"] not in (0.0, 1.0)
    assert whole["generated"] == rows[0][-1]["tokens/generated"] > 0
    files = [(tmp_path / name / "difficulty.jsonl").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]


def test_a_run_that_was_killed_before_it_wrote_its_policy_still_knows_which_records_are_hard(run: Run, tmp_path):
    run(tmp_path / "rl", max_steps=2)
    written = (tmp_path / "rl" / "difficulty.jsonl").read_bytes()
    assert sum(row["visits"] for row in read_jsonl(tmp_path / "rl" / "difficulty.jsonl")) == 4
    os.remove(tmp_path / "rl" / "difficulty.jsonl")
    run(tmp_path / "rl", max_steps=2)
    assert (tmp_path / "rl" / "difficulty.jsonl").read_bytes() == written


def test_a_budget_of_tokens_ends_the_training_for_good(run: Run, tmp_path):
    run(tmp_path / "free", save_every=100)
    spent = [row["tokens/generated"] for row in read_jsonl(tmp_path / "free" / "metrics.jsonl")]
    assert spent == sorted(set(spent)) and len(spent) == 6
    said = [read_jsonl(path) for path in sorted((tmp_path / "free" / "rollouts").iterdir())]
    assert spent[0] >= sum(row["tokens"] for row in said[0])
    for budget, last in ((spent[2], 3), (spent[2] + 1, 4)):
        folder = tmp_path / str(budget)
        assert run(folder, budget=budget, save_every=100)["steps"] == last
        assert remembered(folder, last)["generated"] == spent[last - 1]
        for path in (folder / "final").iterdir():
            os.remove(path)
        (folder / "final").rmdir()
        assert run(folder, budget=budget, save_every=100)["steps"] == last  # and does not go on
        assert len(read_jsonl(folder / "metrics.jsonl")) == last
        assert (folder / "final").is_dir()


# Engine, trainer and evaluation

OPENINGS, QUESTIONS = ("polarity", "ladder", "adaptive"), ("self", "query")
ALLOWED = [
    *((strategy, prefix) for strategy in OPENINGS for prefix in PREFIXES),
    *((strategy, prefix) for strategy in QUESTIONS for prefix in ("masked", "weighted")),
]


@pytest.mark.parametrize(("strategy", "prefix"), ALLOWED)
def test_engine_and_trainer_agree_on_every_kind_of_hint(omni_trainer, strategy, prefix):
    trainer = omni_trainer(
        hint=hint_config(strategy=strategy, prefix=prefix, when="always"), max_steps=1, prompts=1, group=2
    )
    trainer.references = dict.fromkeys(trainer.record_of, "<discriminate>x: so it seems</discriminate>")
    trainer.train()
    assert trainer.parity["logp_mean"] < 1e-4
    hinted = [r for g in trainer._groups for r in g.rollouts if r.hinted]
    assert hinted or strategy == "self"  # a random model may say nothing
    assert {r.context for r in hinted} <= {int(strategy in ("self", "query"))}
    assert torch.tensor(trainer.state.log_history[0]["loss"]).isfinite()


@pytest.mark.parametrize("strategy", ["polarity", "query", "ladder"])
def test_nothing_of_a_hint_reaches_evaluation(text_model, words, tmp_path, monkeypatch, strategy):
    task, dev = Remarks(), [remark("d-0", "so sad today", -1.0), remark("d-1", "I adore it", 3.0)]
    cfg = EvalConfig("dev", None, 2, 6, 0.0, [], 1, None)
    trained, measured = [], []
    watching = [trained]
    prefill, sample = HFEngine.prefill, HFEngine.sample

    def see(self, prompts):
        watching[0] += [list(p.messages) for p in prompts]
        return prefill(self, prompts)

    def say(self, state, prompt_of, sampling, prefixes=None):
        watching[0] += [self.processor.decode(p) for p in prefixes or ()]
        return sample(self, state, prompt_of, sampling, prefixes)

    monkeypatch.setattr(HFEngine, "prefill", see)
    monkeypatch.setattr(HFEngine, "sample", say)

    def measure_dev(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
        watching[0] = measured
        found = measure(task, policy, processor, dev, tmp_path, cfg)
        watching[0] = trained
        return found

    processor = brief(words)
    model = load_model(text_model, base_checkpoint(text_model), train=True)
    settings, hint = rl_config(eval_every=1), hint_config(strategy=strategy, when="always")
    # the training records are the dev records: what was encoded for one must not be shown to the other
    train(model, processor, task, dev, tmp_path, settings, hint, weights(), {}, tmp_path / "rl", 0, measure_dev)
    assert measured == [list(task.prompt(record, tmp_path)) for record in dev] * 2
    assert any(("Hint:" if strategy == "query" else "<discriminate>") in str(seen) for seen in trained)


def state_of(model: ModelConfig, folder: Path) -> tuple[dict[str, Any], list[bool]]:
    """What a rank remembers after some steps, and whether its own groups were stuck."""
    task = ArbitraryRemarks()
    task.hard = frozenset(["r-0", "r-2", "r-4"])
    torch.manual_seed(7)
    policy, processor = (
        load_model(model, base_checkpoint(model), train=True),
        load_processor(model, base_checkpoint(model)),
    )
    stuck = []
    hint = hint_config(**CONTROL | {"ema_off": 0.4, "ema_decay": 0.3})
    trainer = make_trainer(
        "rl",
        policy,
        brief(processor),
        task,
        remarks(),
        folder,
        rl_config(prompts=1, max_steps=4),
        hint,
        weights(),
        {},
        folder,
        0,
        [],
    )
    learn = trainer._learn_of_hints

    def spy() -> None:
        stuck.extend(g.stuck for g in trainer._visited)
        learn()

    trainer._learn_of_hints = spy
    trainer.train()
    return trainer.memory.state(), stuck


def test_ranks_agree_on_what_hints_remember(text_model, tmp_path):
    (first, stuck), (second, other) = together(state_of, text_model, tmp_path)
    assert first == second
    assert stuck != other
    assert first["attributes"]["hints"]["off"]
    assert {step for *_, step in first["attributes"]["solve"]["seen"].values()} <= {0, 1, 2, 3}
    assert sum(visits for visits, *_ in first["attributes"]["solve"]["seen"].values()) == 8


def test_schedules_of_hints_run_by_the_budget_where_it_is_spent_faster_than_the_steps(text_trainer):
    trainer = text_trainer(hint=hint_config(schedule="cosine"), max_steps=11, budget=1000)
    trainer.state.global_step, trainer.memory.generated = 2, 500
    assert trainer._progress() == (5.0, 11)
    assert trainer.memory.hints.probability(trainer.hint, *trainer._progress()) == pytest.approx(0.5)
    trainer.state.global_step = 7
    assert trainer._progress() == (7, 11)
    trainer.memory.generated = 5000
    assert trainer.memory.hints.probability(trainer.hint, *trainer._progress()) == pytest.approx(0.0)
    assert text_trainer(max_steps=11)._progress() == (0, 11)
