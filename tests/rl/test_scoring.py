"""The trainer's scoring: whatever the formulation, the loss and the gradient of plain rows; and what happens if not."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from peft.tuners.lora import LoraConfig
from toys import hint_config
from transformers import TrainerCallback

from models import shared_prefix
from models.block_attention import BlockBias
from models.engine.hf import HFEngine, Sampling
from models.load import base_checkpoint, load_model
from models.shared_prefix import thinker
from rl import scoring
from rl.config import LOSSES
from rl.scoring import CHECKED, LARGEST, MEAN
from rl.trainer import HintGRPOTrainer
from runtime.errors import ConfigError

HARD = ["r-0", "r-1", "r-2"]
Grad = torch.Tensor


def first_batch(trainer: HintGRPOTrainer) -> dict:
    """As TRL hands it to the loss."""
    trainer.policy.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def learnt(trainer: HintGRPOTrainer) -> tuple[float, Grad]:
    """The loss of the first batch, and its gradient over all trained parameters."""
    loss = trainer.compute_loss(trainer.policy, first_batch(trainer))
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.policy.parameters() if p.grad is not None])


def assert_same(found: tuple[float, Grad], plain: tuple[float, Grad]) -> None:
    assert found[0] == pytest.approx(plain[0], rel=1e-4, abs=1e-6)
    assert plain[1].norm() > 0
    assert (found[1] - plain[1]).norm() < 1e-4 * plain[1].norm()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple]:
    """Counts (formulation, whether with gradient, prompts) of everything that is scored."""
    seen = Counter()
    real = scoring.score

    def spy(model, shared):
        seen[shared.formulation, torch.is_grad_enabled(), len(shared.prompt["input_ids"])] += 1
        return real(model, shared)

    monkeypatch.setattr(scoring, "score", spy)
    return seen


@pytest.mark.parametrize("loss", LOSSES)
def test_the_first_loss_is_that_of_plain_rows(text_trainer, loss):
    plain = learnt(text_trainer(hard=HARD, loss=loss, prompts=6, scoring="rows"))
    for formulation in ("packed", "cache"):
        assert_same(learnt(text_trainer(hard=HARD, loss=loss, prompts=6, scoring=formulation)), plain)


@pytest.mark.parametrize("loss", ["dapo", "sapo"])
def test_the_first_loss_is_that_of_plain_rows_with_media_and_hints(omni_trainer, loss):
    def found(formulation: str) -> tuple[float, Grad]:
        trainer = omni_trainer(hint=hint_config(baseline="context"), loss=loss, beta=0.1, scoring=formulation)
        out = learnt(trainer)
        assert {bool(r.hint) for g in trainer._groups for r in g.rollouts} == {True, False}
        return out

    plain = found("rows")
    for formulation in ("packed", "cache"):
        assert_same(found(formulation), plain)


def trained(trainer: HintGRPOTrainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.policy.named_parameters()}


def assert_alike(found: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> None:
    for name, weights in plain.items():
        # a step moves a weight by about 1e-3; Adam magnifies rounding where a gradient is all but zero
        torch.testing.assert_close(found[name], weights, rtol=0, atol=5e-5, msg=name)


@pytest.mark.parametrize("settings", [{"iterations": 2}, {"accumulation": 2, "prompts": 4}, {"beta": 0.1}], ids=str)
def test_several_steps_end_where_plain_rows_do(text_trainer, settings):
    def after(formulation: str) -> dict[str, torch.Tensor]:
        return trained(text_trainer(hard=HARD, max_steps=4, scoring=formulation, **settings))

    plain = after("rows")
    for formulation in ("packed", "cache"):
        assert_alike(after(formulation), plain)


def test_old_and_reference_log_probabilities_share_the_prompt_too(omni_trainer, scored):
    trainer = omni_trainer(beta=0.1, iterations=2, accumulation=2, prompts=4)
    trainer.train()
    checked = {("rows", False, CHECKED * 4): 1}  # once; its other half is one of the packed ones
    # sampled once for two steps of two micro-batches; old and reference are scored in chunks of a micro-batch
    no_gradient = 1 + 2 + 2  # the check, then old, then reference
    modalities = 1 + 3  # of step 0: the prompts as they are, and with each modality silenced
    assert scored == checked | {("packed", False, 2): no_gradient + modalities, ("packed", True, 2): 4}
    assert trainer.state.global_step == 2
    assert [file.name for file in trainer.rollouts.iterdir()] == ["step_000000_rank0.jsonl"]


@pytest.mark.parametrize(
    ("attn", "settings", "chosen"),
    [
        ("sdpa", {}, "packed"),
        ("sdpa", {"gradient_checkpointing": True}, "packed"),
        ("sdpa", {"scoring": "cache"}, "cache"),
        ("eager", {}, "cache"),
        ("eager", {"gradient_checkpointing": True}, "rows"),
        ("eager", {"scoring": "rows"}, "rows"),
    ],
)
def test_the_formulation_is_one_that_the_model_and_the_memory_allow(text_trainer, text_model, attn, settings, chosen):
    model = load_model(replace(text_model, attn=attn), base_checkpoint(text_model), train=True)
    trainer = text_trainer(model=model, **settings)
    assert trainer.scorer.formulation == chosen
    trainer.train()
    assert trainer.scorer.formulation == chosen


def test_packing_without_its_kernel_is_refused(text_trainer, text_model):
    model = load_model(replace(text_model, attn="eager"), base_checkpoint(text_model), train=True)
    said = (
        "rl.scoring=packed: needs the attention kernel sdpa, without a sliding window; got model.attn=eager; set model.attn="
        "sdpa, or rl.scoring=auto"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        text_trainer(model=model, scoring="packed")


@pytest.mark.parametrize("formulation", ["packed", "cache"])
def test_the_first_batch_is_held_against_rows_once(omni_trainer, scored, capsys, formulation):
    trainer = omni_trainer(scoring=formulation, prompts=4)
    trainer._silenced_drops = lambda *_: {}  # the gate scores, too
    learnt(trainer)
    once = {(formulation, False, CHECKED): 1, ("rows", False, CHECKED * 4): 1}
    assert scored == once | {(formulation, True, 4): 1}
    metrics = trainer.counted()
    assert metrics["scoring/verified"] == 1
    assert 0 <= metrics["scoring/difference"] < 1e-5
    assert trainer.policy.training  # as before
    assert "rl.scoring" not in capsys.readouterr().out
    trainer.meter.clear()
    learnt(trainer)
    assert scored == once | {(formulation, True, 4): 2}
    assert "scoring/verified" not in trainer.counted()


def siblings_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real = BlockBias.of

    def leaky(lengths, contexts):
        # every completion but the first sees the one before it in place of its prompt
        return real(lengths, [None if c is None else i - 1 for i, c in enumerate(contexts)])

    monkeypatch.setattr(BlockBias, "of", leaky)


def positions_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions follow at the number of tokens, as in a text, and not where the media end."""
    real = shared_prefix.positions_of
    monkeypatch.setattr(
        shared_prefix,
        "positions_of",
        lambda backbone, prompt: (real(backbone, prompt)[0], prompt["attention_mask"].sum(1)),
    )


def positions_of_tokens_in_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shared_prefix.run_prompt

    def shifted(backbone, prompt, run=None):
        state = real(backbone, prompt, run)
        return replace(state, next_position_B=state.mask_BP.sum(1))

    monkeypatch.setattr(shared_prefix, "run_prompt", shifted)


BREAK = {
    "mask": ("packed", siblings_see_each_other),
    "positions": ("packed", positions_of_tokens),
    "positions in a cache": ("cache", positions_of_tokens_in_a_cache),
}


@pytest.mark.parametrize("what", BREAK)
def test_a_formulation_that_is_wrong_is_noticed_and_given_up(omni_trainer, scored, monkeypatch, capsys, what):
    formulation, damage = BREAK[what]
    plain = learnt(omni_trainer(scoring="rows", prompts=4))
    damage(monkeypatch)
    scored.clear()
    trainer = omni_trainer(scoring=formulation, prompts=4)
    assert_same(learnt(trainer), plain)  # and neither gate trips
    metrics = trainer.counted()
    assert metrics["scoring/verified"] == 0
    assert metrics["scoring/difference"] > LARGEST
    said = re.findall(r"^rl\.scoring=.*$", capsys.readouterr().out, re.MULTILINE)
    figure = f"{metrics['scoring/difference']:.1e}"
    assert said == [
        f"rl.scoring={formulation}: log-probabilities differ by {figure} at most from those of the plain forward, one row for "
        "each completion, on the first 2 groups; allowed is 1e-04. From now on every row is scored with its own copy of the "
        "prompt, which is right and slower. Likely cause: an attention or position scheme that models/shared_prefix.py does not "
        "know; rl.scoring=rows skips this check"
    ]
    assert {key[0] for key in scored if key[1]} == {"rows"}


def test_a_wrong_formulation_does_not_spoil_the_training(text_trainer, monkeypatch):
    plain = trained(text_trainer(hard=HARD, max_steps=3, scoring="rows"))
    siblings_see_each_other(monkeypatch)
    trainer = text_trainer(hard=HARD, max_steps=3)
    assert_alike(trained(trainer), plain)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row.get("scoring/verified") for row in rows] == [0, None, None]


def test_what_cannot_be_compared_is_given_up(text_trainer, monkeypatch):
    trainer = text_trainer()
    real = scoring.score

    def broken(model, shared):
        logps, entropy = real(model, shared)
        return logps * (torch.nan if shared.formulation == "packed" else 1), entropy

    monkeypatch.setattr(scoring, "score", broken)
    assert learnt(trainer)[1].isfinite().all()
    assert trainer.scorer.formulation == "rows"


class Gradient(TrainerCallback):
    """Keeps the gradient that the optimizer is about to use."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        assert model is not None
        self.found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("formulation", ["packed", "rows"])
def test_gradient_checkpointing_is_on_in_the_loss_and_changes_nothing(omni_trainer, formulation):
    def found(checkpointing: bool) -> tuple[tuple[float, Grad], int]:
        keep = Gradient()
        trainer = omni_trainer(
            scoring=formulation,
            gradient_checkpointing=checkpointing,
            max_steps=1,
            max_grad_norm=1e9,
            callbacks=[keep],
        )
        runs = []
        layer = thinker(trainer.policy).get_submodule("model.language_model.layers.0.mlp")
        layer.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
        trainer.train()
        return (trainer.state.log_history[0]["loss"], keep.found), sum(runs)

    (plain, once), (checkpointed, twice) = found(False), found(True)
    assert (once, twice) == (1, 2)  # once more in the backward pass
    assert_same(checkpointed, plain)


def test_an_adapter_trains_under_gradient_checkpointing(omni_trainer, tiny, scored):
    cfg, _, _ = tiny

    def after(**settings) -> dict[str, torch.Tensor]:
        base = load_model(replace(cfg, freeze_towers=True), base_checkpoint(cfg), train=True)
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)", task_type="CAUSAL_LM")
        trainer = omni_trainer(model=get_peft_model(base, config), beta=0.1, lr=1e-2, parity_every=1, **settings)
        out = trained(trainer)
        assert all(row["grad_norm"] > 0 for row in trainer.state.log_history if "grad_norm" in row)
        return out

    assert_alike(after(gradient_checkpointing=True), after(scoring="rows"))
    assert scored["packed", True, 2] == scored["rows", True, 8] == 2


def test_parameters_in_bfloat16_pass_the_check(omni_trainer, tiny, scored):
    cfg, _, _ = tiny
    model = load_model(replace(cfg, dtype="bfloat16"), base_checkpoint(cfg), train=True)
    trainer = omni_trainer(model=model, parity_tolerance=5e-2)
    trainer.train()
    metrics = trainer.state.log_history[0]
    assert metrics["scoring/verified"] == 1
    assert 0 < metrics["scoring/difference"] < MEAN
    assert scored["packed", True, 2] == 2


@pytest.mark.parametrize("formulation", ["packed", "cache"])
def test_an_evaluation_between_sampling_and_loss_changes_nothing(omni_trainer, brief, formulation):
    def found(between: Callable[[HintGRPOTrainer, dict], None]) -> tuple[float, Grad]:
        trainer = omni_trainer(scoring=formulation)
        inputs = first_batch(trainer)
        between(trainer, inputs)
        loss = trainer.compute_loss(trainer.policy, inputs)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in trainer.policy.parameters() if p.grad is not None])

    def evaluate(trainer: HintGRPOTrainer, inputs: dict) -> None:
        HFEngine(trainer.policy, brief).generate(inputs["contexts"][0], Sampling(3, 0.0), n=1, batch=1)

    (loss, grad), (evaluated, same) = found(lambda *_: None), found(evaluate)
    assert evaluated == loss
    assert torch.equal(same, grad)
