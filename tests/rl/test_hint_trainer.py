"""The trainer on the tiny omni model: what carries loss, on which context, compared with row-by-row arithmetic."""

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toys import hint_config, row_logps
from transformers import TrainerCallback

from models.load import base_checkpoint, load_model, load_processor
from rl.advantage import advantages
from rl.trainer import HintGRPOTrainer
from runtime.errors import ParityError
from runtime.files import read_jsonl
from runtime.logs import MetricsCallback
from tasks.base import PARTS, UNREAD
from tasks.dc import Fault


def prepared(trainer: HintGRPOTrainer) -> dict:
    """The first batch as TRL hands it to the loss: tensors (B, G, ...), and the groups' prompts."""
    trainer.policy.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def gradient(trainer: HintGRPOTrainer, inputs: dict) -> tuple[float, torch.Tensor]:
    """Loss, and its gradient over all parameters."""
    trainer.policy.zero_grad()
    loss = trainer.compute_loss(trainer.policy, inputs)
    loss.backward()
    return loss.item(), flat_gradient(trainer.policy)


def flat_gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def rows(trainer: HintGRPOTrainer, inputs: dict):
    """Index, rollout and prompt of every row, in the order of `inputs`."""
    group_of = {g.record.uid: g for g in trainer._groups}
    for b, uid in enumerate(inputs["uids"]):
        for g, rollout in enumerate(group_of[uid].rollouts):
            yield (b, g), rollout, group_of[uid].contexts[0]


@pytest.fixture
def fresh(tiny):
    """The policy as it was before training, without TRL's and our patches."""
    cfg, _, _ = tiny
    return load_model(cfg, base_checkpoint(cfg), train=True)


@pytest.mark.parametrize(("prefix", "value"), [("masked", 0), ("learnt", 1)])
def test_the_mask_is_zero_on_hint_tokens_alone_unless_they_are_learnt(omni_trainer, prefix, value):
    trainer = omni_trainer(hint=hint_config(prefix=prefix), prompts=4)
    inputs = prepared(trainer)
    hinted = 0
    for at, rollout, _ in rows(trainer, inputs):
        n, t = len(rollout.hint_ids), len(rollout.completion.token_ids)
        hinted += n > 0
        assert inputs["completion_ids"][at][: n + t].tolist() == [*rollout.hint_ids, *rollout.completion.token_ids]
        assert inputs["completion_mask"][at].tolist() == [1] * (n + t) + [0] * (
            inputs["completion_mask"].shape[2] - n - t
        )
        assert inputs["tool_mask"][at][: n + t].tolist() == [value] * n + [1] * t
        engine = inputs["sampling_per_token_logps"][at][: n + t]
        assert engine.isnan().tolist() == [True] * n + [False] * t
        assert engine[n:].tolist() == pytest.approx(list(rollout.completion.logprobs))
    assert hinted == 4  # two of the four clips are hard, and half of four siblings are hinted


@pytest.mark.parametrize("prefix", ["masked", "learnt"])
def test_loss_and_gradient_are_those_of_dr_grpo_row_by_row(omni_trainer, fresh, prefix):
    trainer = omni_trainer(hint=hint_config(prefix=prefix, baseline="context"), temperature=1.3)
    torch.manual_seed(1)  # completions of several lengths
    inputs = prepared(trainer)
    loss, found = gradient(trainer, inputs)
    # L = -1 / (N * longest completion) * sum_i A_i * sum_t ratio_it, over tokens that are not of a hint; ratio_it = 1
    expected, count, by_hint, lengths = torch.zeros(()), 0, {True: 0.0, False: 0.0}, set()
    for at, rollout, prompt in rows(trainer, inputs):
        completion = torch.tensor([*rollout.hint_ids, *rollout.completion.token_ids])
        logps = row_logps(fresh, trainer.processor, prompt, completion, 1.3)
        counted = logps if prefix == "learnt" else logps[len(rollout.hint_ids) :]
        weight = inputs["advantages"][at]
        by_hint[bool(rollout.hint)] += weight.abs().item()
        expected = expected - weight * (counted - counted.detach() + 1).sum()
        count += 1
        lengths.add(len(rollout.completion.token_ids))
    assert len(lengths) > 2
    assert min(by_hint.values()) > 0  # hinted and unhinted rows both have something to say
    expected = expected / (count * trainer.settings.max_new_tokens)
    expected.backward()
    assert count == 8
    assert loss == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert distance(found, flat_gradient(fresh)) < 1e-4


def test_engine_old_and_new_log_probabilities_are_of_the_same_context(omni_trainer, fresh):
    trainer = omni_trainer()
    trainer.num_iterations = 2  # two updates on one batch of rollouts: TRL then keeps the old log-probabilities
    inputs = prepared(trainer)
    seen = []
    score = trainer._get_per_token_logps_and_entropies

    def spy(*args, **kwargs):
        out = score(*args, **kwargs)
        seen.append(out[0].detach())
        return out

    trainer._get_per_token_logps_and_entropies = spy
    trainer.compute_loss(trainer.policy, inputs)
    new = seen[0].view_as(inputs["old_per_token_logps"])
    with torch.no_grad():
        for at, rollout, prompt in rows(trainer, inputs):
            n, t = len(rollout.hint_ids), len(rollout.completion.token_ids)
            completion = torch.tensor([*rollout.hint_ids, *rollout.completion.token_ids])
            by_hand = row_logps(fresh, trainer.processor, prompt, completion, 1.0)
            assert torch.allclose(inputs["old_per_token_logps"][at][: n + t], by_hand, atol=1e-5)
            assert torch.allclose(new[at][: n + t], by_hand, atol=1e-5)
            assert torch.allclose(inputs["sampling_per_token_logps"][at][n : n + t], by_hand[n:], atol=1e-5)


@pytest.mark.parametrize("baseline", ["shared", "context"])
@pytest.mark.parametrize("scale", ["none", "group"])
def test_our_advantages_take_the_place_of_trls(text_trainer, baseline, scale):
    trainer = text_trainer(hard=["r-0", "r-1", "r-2"], hint=hint_config(baseline=baseline), scale=scale, prompts=6)
    inputs = prepared(trainer)
    by_uid = {g.record.uid: g for g in trainer._groups}
    groups = [by_uid[uid] for uid in inputs["uids"]]
    expected = advantages(
        [[trainer._reward(r) for r in g.rollouts] for g in groups],
        [[bool(r.hint) for r in g.rollouts] for g in groups],
        baseline=baseline,
        scale=scale,
    )
    assert torch.equal(inputs["advantages"], expected)
    assert expected.abs().sum() > 0


def test_a_leaked_verdict_counts_or_not(text_trainer):
    kept = text_trainer(hard=["r-0"])
    dropped = text_trainer(hard=["r-0"], hint=hint_config(count_leaked=False))
    for trainer in (kept, dropped):
        trainer.roll_out(["r-0"] * 4)
    for trainer, counts in ((kept, True), (dropped, False)):
        for rollout in trainer._groups[0].rollouts:
            p = rollout.score.parts
            credit = 0.5 * p["format"] + p["calibrate"] + 0.25 * p["agreement"]
            if rollout.hint and not counts:
                assert trainer._reward(rollout) == pytest.approx(credit / 1.75)
            else:
                assert trainer._reward(rollout) == pytest.approx((credit + p["discriminate"]) / 2.75)
        assert [bool(r.hint) for r in trainer._groups[0].rollouts] == [False, False, True, True]


def test_permuting_groups_changes_nothing_and_parting_them_from_their_prompts_does(omni_trainer):
    trainer = omni_trainer(prompts=4)
    inputs = prepared(trainer)
    order = [2, 0, 3, 1]
    moved = {}
    for name, value in inputs.items():
        if isinstance(value, list):
            moved[name] = [value[i] for i in order]
        else:
            moved[name] = value[order] if value.ndim else value
    (loss, plain), (moved_loss, permuted) = gradient(trainer, inputs), gradient(trainer, moved)
    assert moved_loss == pytest.approx(loss, abs=1e-7)
    assert distance(permuted, plain) < 1e-5
    with pytest.raises(ParityError):
        gradient(trainer, moved | {"contexts": inputs["contexts"]})


def test_trls_shuffle_keeps_groups_with_their_prompts(omni_trainer):
    trainer = omni_trainer(prompts=4, group=2)
    orders = set()
    for _ in range(4):
        trainer._buffered_inputs = None
        inputs = prepared(trainer)
        by_uid = {g.record.uid: g for g in trainer._groups}
        orders.add(tuple(inputs["uids"]) == tuple(by_uid))
        for b, uid in enumerate(inputs["uids"]):
            group = by_uid[uid]
            assert inputs["contexts"][b] is group.contexts
            ids = [[*r.hint_ids, *r.completion.token_ids] for r in group.rollouts]
            assert [row[: len(i)].tolist() for row, i in zip(inputs["completion_ids"][b], ids, strict=True)] == ids
    assert False in orders  # at least once the order was another one


class Gradient(TrainerCallback):
    """Keeps the gradient that the optimizer is about to use."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = flat_gradient(model)


def test_accumulating_two_micro_batches_gives_the_gradient_of_one(omni_trainer):
    found = []
    for accumulation in (1, 2):
        keep = Gradient()
        trainer = omni_trainer(
            accumulation=accumulation, prompts=4, group=2, max_steps=1, max_grad_norm=1e9, callbacks=[keep]
        )
        trainer.train()
        found.append((keep.found, sorted(r.text for g in trainer._groups for r in g.rollouts)))
    (one, texts), (two, same_texts) = found
    assert texts == same_texts
    assert distance(two, one) < 1e-5


def test_media_reach_the_loss(omni_trainer):
    trainer = omni_trainer()
    inputs = prepared(trainer)
    backbone = trainer.model.base_model
    seen = []
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: seen.append((name, torch.is_grad_enabled(), args, kwargs)),
            with_kwargs=True,
        )
        for name, module in (("audio", backbone.audio_tower), ("video", backbone.visual))
    ]
    gradient(trainer, inputs)
    for hook in hooks:
        hook.remove()
    with_gradient = {name: (args, kwargs) for name, grad, args, kwargs in seen if grad}
    assert set(with_gradient) == {"audio", "video"}
    batch = trainer.processor.collate([of[0] for of in inputs["contexts"]])
    args, kwargs = with_gradient["video"]
    pixels = args[0] if args else kwargs["hidden_states"]
    assert torch.equal(pixels, batch["pixel_values_videos"])
    args, kwargs = with_gradient["audio"]
    features = args[0] if args else kwargs["input_features"]
    frames = batch["feature_attention_mask"].sum().item()
    assert features.shape == (128, frames)  # the valid frames of both clips, side by side
    for tower in (backbone.audio_tower, backbone.visual):
        assert sum(p.grad.abs().sum().item() for p in tower.parameters() if p.grad is not None) > 0
    # one call for both prompts; whatever the parity check of step 0 runs is without gradient
    assert sorted(name for name, grad, _, _ in seen if grad) == ["audio", "video"]


def test_media_are_encoded_once_per_prompt(omni_trainer, tiny):
    cfg, _, _ = tiny
    processor = load_processor(cfg, base_checkpoint(cfg))  # its cache is empty
    trainer = omni_trainer(processor=processor, max_steps=4, group=2)  # four clips, two epochs, one parity check
    trainer.train()
    assert trainer.state.epoch == 2
    assert processor.encodings == 4 + 2 * 3  # and two clips with sound, picture or words silenced


class Rows(MetricsCallback):
    """Metrics where the tests look for them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "rl" / "metrics.jsonl", "rl")


def test_everything_that_was_said_is_kept(text_trainer, tmp_path):
    trainer = text_trainer(hard=["r-0", "r-1", "r-2"], max_steps=2, callbacks=[Rows(tmp_path)])
    trainer.train()
    files = sorted((tmp_path / "rl" / "rollouts").iterdir())
    assert [f.name for f in files] == ["step_000000_rank0.jsonl", "step_000001_rank0.jsonl"]
    said = [row for file in files for row in read_jsonl(file)]
    assert len(said) == 2 * 2 * 4
    assert len({row["uid"] for row in said}) == 4
    for row in said:
        assert set(row) == {
            *(
                "uid",
                "sibling",
                "hint",
                "told",
                "level",
                "completion",
                "checked",
                "fault",
                "parts",
                "reward",
                "tokens",
                "finished",
                "stuck",
            )
        }
        assert set(row["parts"]) == set(PARTS)
        assert row["stuck"] == (row["uid"] in ("r-0", "r-1", "r-2"))
        assert bool(row["hint"]) == (row["stuck"] and row["sibling"] >= 2)
        assert row["completion"].startswith(row["hint"])
        assert 1 <= row["tokens"] <= 6
    last = read_jsonl(files[-1])
    assert [r.text for g in trainer._groups for r in g.rollouts] == [row["completion"] for row in last]
    reward = read_jsonl(tmp_path / "rl" / "metrics.jsonl")[-1]["reward"]
    assert reward == pytest.approx(sum(row["reward"] for row in last) / len(last))


LOGGED = {
    "hint/stuck_rate",
    "hint/rate",
    "hint/level",
    "hint/reliance",
    "hint/prefix_logp",
    "solve/unhinted",
    "solve/verdict_unhinted",
    "solve/hinted",
    "reward",
    "reward/groups_without_signal",
    "completions/mean_length",
    "completions/clipped_ratio",
    "speed/rollout_tokens_per_s",
    "speed/grading_share",
    "speed/loss_tokens_per_s",
    "parity/logp_mean",
    "parity/text_drop",
    *(f"parts/{part}" for part in PARTS if part not in UNREAD),
    *(f"parts/{part}_unscored" for part in PARTS),
    *(f"fault/{fault}" for fault in Fault),
}


def test_the_metrics_of_the_design_are_logged(text_trainer, tmp_path):
    hard = [f"r-{i}" for i in range(3)]
    trainer = text_trainer(hard=hard, max_steps=1, prompts=6, callbacks=[Rows(tmp_path)])
    trainer.train()
    (row,) = read_jsonl(tmp_path / "rl" / "metrics.jsonl")
    assert set(row) >= LOGGED
    assert row["hint/stuck_rate"] == 0.5
    assert row["hint/rate"] == 0.25  # half of the rows of half of the groups
    assert row["solve/verdict_unhinted"] == 0.5
    assert row["parts/discriminate"] == 0.5  # of the first round, before anyone was hinted
    first = [s for g in trainer._groups for s in g.unhinted]
    agreeing = [s.parts["discriminate"] == s.parts["agreement"] == 1.0 for s in first]
    assert row["solve/unhinted"] == pytest.approx(sum(agreeing) / 24)
    hinted = [r.score.parts["agreement"] for g in trainer._groups for r in g.rollouts if r.hint]
    assert row["solve/hinted"] == pytest.approx(sum(hinted) / 6)


def test_the_time_that_grading_takes_is_told_apart(text_trainer, tmp_path, monkeypatch):
    clock = count()
    monkeypatch.setattr("rl.trainer.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    text_trainer(hard=["r-0"], max_steps=1, prompts=6, callbacks=[Rows(tmp_path)]).train()
    (row,) = read_jsonl(tmp_path / "rl" / "metrics.jsonl")
    # every look at the clock is a second later: from the first to the last six are 5 s, and two rounds are graded in 1 s each
    assert row["speed/grading_share"] == pytest.approx(2 / 5)
    assert row["speed/rollout_tokens_per_s"] == pytest.approx(row["tokens/generated"] / 5)


def test_hint_reliance_is_what_the_hint_tokens_cost_the_mean(omni_trainer, fresh):
    trainer = omni_trainer(prompts=4)
    inputs = prepared(trainer)
    trainer.compute_loss(trainer.policy, inputs)
    reliance, prefix = [], []
    with torch.no_grad():
        for _, rollout, prompt in rows(trainer, inputs):
            if rollout.hint:
                n = len(rollout.hint_ids)
                completion = torch.tensor([*rollout.hint_ids, *rollout.completion.token_ids])
                logps = row_logps(fresh, trainer.processor, prompt, completion, 1.0)
                reliance.append((logps.mean() - logps[n:].mean()).item())
                prefix.append(logps[:n].sum().item())
    metrics = trainer.counted()
    assert metrics["hint/reliance"] == pytest.approx(sum(reliance) / len(reliance), rel=1e-4)
    assert metrics["hint/prefix_logp"] == pytest.approx(sum(prefix) / len(prefix), rel=1e-4)


def test_metrics_are_means_over_all_that_was_counted(text_trainer):
    trainer = text_trainer()
    trainer.meter.add("a", 1.0, 3)
    trainer.meter.add("a", 0.0, 1)
    trainer.meter.add_mean("b", [1.0, None, 0.0])
    trainer.meter.add_mean("b", [1.0])
    trainer.meter.add_mean("c", [None])
    assert trainer.counted() == {"a": 0.75, "b": pytest.approx(2 / 3)}


def test_metrics_without_hints_have_no_hinted_ones(text_trainer, tmp_path):
    trainer = text_trainer(max_steps=1, callbacks=[Rows(tmp_path)])
    trainer.train()
    (row,) = read_jsonl(tmp_path / "rl" / "metrics.jsonl")
    assert row["hint/stuck_rate"] == row["hint/rate"] == 0.0
    assert not {"solve/hinted", "hint/reliance"} & set(row)


def test_warmup_holds_for_a_constant_schedule(text_trainer):
    trainer = text_trainer(max_steps=4, warmup=0.5, schedule="constant", lr=1e-3)
    rates = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            rates.append(trainer.optimizer.param_groups[0]["lr"])

    trainer.add_callback(Watch())
    trainer.train()
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 1e-3])  # two of four steps warm up
