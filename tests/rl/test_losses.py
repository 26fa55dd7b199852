"""Every loss with and without a reference model, on whole weights and on adapters, text alone and with media."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import TEXTS, hint_config

from models.load import base_checkpoint, load_model, save_model
from rl.config import LOSSES
from rl.trainer import HintGRPOTrainer

HARD = ["r-0", "r-1", "r-2"]


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def steps(trainer: HintGRPOTrainer) -> list[dict]:
    """Train to the end; the logged rows."""
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == trainer.args.max_steps
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows)
    return rows


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(text_trainer, loss, beta):
    trainer = text_trainer(hard=HARD, loss=loss, beta=beta, parity_every=1, lr=1e-2)
    before = weights_of(trainer.policy)
    rows = steps(trainer)
    after = weights_of(trainer.policy)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    if beta:
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # the reference is the policy before training
        assert rows[1]["kl"] > 1e-5
    else:
        assert trainer.ref_model is None


def test_cispo_weighs_an_unmoved_policy_as_dapo_does(text_trainer):
    # the ratio is 1 on fresh rollouts, and both losses are sum A log p over the tokens of the batch: equal gradients, unless
    # cispo's upper bound of the ratio were TRL's general 0.2
    found = []
    for loss in ("cispo", "dapo"):
        trainer = text_trainer(hard=HARD, loss=loss)
        trainer.policy.train()
        trainer.current_gradient_accumulation_steps = 1
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        trainer.compute_loss(trainer.policy, inputs).backward()
        found.append(torch.cat([p.grad.flatten() for p in trainer.policy.parameters()]))
    assert (found[0] - found[1]).norm() < 1e-5 * found[1].norm()


def test_the_reference_scores_the_same_context_media_and_hints_included(omni_trainer, tiny):
    cfg, _, _ = tiny
    trainer = omni_trainer(beta=0.1, hint=hint_config(share=0.25))
    trainer.policy.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    plain = load_model(cfg, base_checkpoint(cfg), train=False)
    groups = {g.record.uid: g for g in trainer._groups}
    assert any(r.hint for g in trainer._groups for r in g.rollouts)
    for b, uid in enumerate(inputs["uids"]):
        for i, rollout in enumerate(groups[uid].rollouts):
            completion = torch.tensor([*rollout.hint_ids, *rollout.completion.token_ids])
            batch = trainer.processor.collate([groups[uid].contexts[0]])
            ids = torch.cat([batch["input_ids"], completion[None]], 1)
            with torch.no_grad():
                logits = plain(**batch | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
            logps = logits[-len(completion) - 1 : -1].log_softmax(-1).gather(1, completion[:, None])[:, 0]
            assert torch.allclose(inputs["ref_per_token_logps"][b, i, : len(completion)], logps, atol=1e-5)


def test_a_reference_model_trains_along_with_media(omni_trainer):
    rows = steps(omni_trainer(beta=0.1, lr=1e-2, parity_every=1))
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["kl"] > 1e-6


@pytest.fixture
def adapter(text_model, lora):
    """A config that adds a fresh adapter to the text model, and the model."""
    cfg = replace(text_model, lora=lora)
    return cfg, load_model(cfg, base_checkpoint(cfg), train=True)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_text_model_with_an_adapter_learns_with_hints(text_trainer, adapter, beta):
    _, model = adapter
    before = weights_of(model)
    trainer = text_trainer(hard=HARD, model=model, beta=beta, parity_every=1, lr=1e-2, prompts=6)
    rows = steps(trainer)
    assert all(row["hint/rate"] == 0.25 for row in rows)
    moved = {name for name, p in weights_of(model).items() if name in before and not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)  # the base stays as it was
    if beta:
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert rows[1]["kl"] > 1e-6


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_an_adapter_from_a_cold_start_is_its_own_reference(text_trainer, adapter, words, beta, tmp_path: Path):
    cfg, model = adapter
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p += 0.1 * torch.randn_like(p)
    save_model(model, words, tmp_path / "sft")
    policy = load_model(cfg, tmp_path / "sft", train=True)
    rows = steps(text_trainer(model=policy, beta=beta, parity_every=1, lr=1e-2))
    if beta:  # measured from the cold start, not from the base model
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert rows[1]["kl"] > 1e-6
    save_model(policy, words, tmp_path / "final")
    again = load_model(cfg, tmp_path / "final", train=False)
    ids = torch.tensor([words.text_ids(TEXTS[0])])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, policy(ids).logits)
        assert not torch.equal(again(ids).logits, load_model(cfg, tmp_path / "sft", train=False)(ids).logits)


def test_an_omni_model_with_an_adapter_hears_and_sees(omni_trainer, tiny, lora):
    cfg, _, _ = tiny
    cfg = replace(cfg, lora=replace(lora, targets=r".*language_model.*\.(q_proj|v_proj)"))
    model = load_model(cfg, base_checkpoint(cfg), train=True)
    trainer = omni_trainer(model=model, parity_every=1, lr=1e-2, beta=0.1)
    rows = steps(trainer)
    assert all(row["parity/logp_mean"] < 1e-5 for row in rows)
    assert min(trainer.parity[f"{m}_change"] for m in ("audio", "video", "text")) > 0
