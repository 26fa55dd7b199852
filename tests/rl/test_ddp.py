"""Two ranks learn what one process learns of the whole batch, end with the same weights, stop together, and hang nowhere."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import (
    ROUNDING,
    Gradients,
    Job,
    distance,
    fine_tune,
    rows_of,
    say_the_same_everywhere,
    whole_stage,
)
from ranks import together
from safetensors.torch import load_file
from trl.trainer.grpo_trainer import GRPOTrainer

from models.processor import Processor
from runtime.errors import ConfigError, ParityError
from runtime.files import read_jsonl


def learn(job: Job) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor], list[set[str]]]:
    """Gradients of each step, final weights, and the records that this rank saw in each step."""
    say_the_same_everywhere()
    gradients = Gradients()
    trainer = job.trainer(gradients)
    trainer.train()
    own = sorted((job.folder / "rl" / "rollouts").glob(f"*_rank{trainer.accelerator.process_index}.jsonl"))
    uids = [{row["uid"] for row in read_jsonl(path)} for path in own]
    return gradients.seen, {n: p.detach() for n, p in trainer.policy.named_parameters()}, uids


def assert_like_one_process(job: Job, tmp_path: Path) -> list[list[set[str]]]:
    """Trains one process on the whole batch and two on half of it each; returns which records each rank saw in each step."""
    prompts = job.settings["prompts"]
    one_folder, two_folder = tmp_path / "one", tmp_path / "two"
    ((gradients, _, _),) = together(
        learn, replace(job, folder=one_folder, settings=job.settings | {"prompts": 2 * prompts}), ranks=1
    )
    (first, first_ends, first_uids), (second, second_ends, second_uids) = together(
        learn, replace(job, folder=two_folder)
    )
    for name, tensor in first_ends.items():
        assert torch.equal(tensor, second_ends[name]), name
    assert len(gradients) == len(first) == job.settings["max_steps"]
    for expected, a, b in zip(gradients, first, second, strict=True):
        assert distance(a, expected) < ROUNDING
        assert distance(b, expected) < ROUNDING
    assert any(not torch.equal(first_ends[name], tensor) for name, tensor in job.fresh().named_parameters())
    for one, two in zip(rows_of(one_folder), rows_of(two_folder), strict=True):
        gate = [name for name in one if name.startswith("parity/")]  # it looks at a few prompts of each rank
        assert {k: v for k, v in one.items() if k not in gate} == pytest.approx(
            {k: v for k, v in two.items() if k not in gate}, rel=1e-4, abs=1e-5
        )
    return [first_uids, second_uids]


def test_two_ranks_learn_what_one_learns_of_the_whole_batch(text_job, tmp_path):
    # one hard record: in one step of two, one rank of two has hints, and with them metrics that the other has not
    job = text_job(hard=["r-0"], accumulation=2, prompts=2, scoring="cache")
    seen = assert_like_one_process(job, tmp_path)
    for first, second in zip(*seen, strict=True):
        assert len(first) == len(second) == 2
        assert not first & second


@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True, "beta": 0.1}])
def test_a_rank_without_media_neither_hangs_nor_changes_what_is_learnt(omni_job, tmp_path, more):
    job = omni_job(**more)
    for first, second in zip(*assert_like_one_process(job, tmp_path), strict=True):
        assert sorted([*first, *second]) == [r.uid for r in job.records]  # one on each rank


def learn_adapter(job: Job) -> dict[str, torch.Tensor]:
    trainer = job.trainer()
    trainer.train()
    return {n: p.detach() for n, p in trainer.policy.named_parameters() if p.requires_grad}


def test_ranks_that_sample_by_themselves_end_with_the_same_adapter(text_job, lora):
    job = text_job(hard=["r-0", "r-1"], max_steps=3, iterations=2, parity_tolerance=1e-4)
    first, second = together(learn_adapter, replace(job, model=replace(job.model, lora=lora)))
    assert first
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    said = [
        {r["completion"] for p in (job.folder / "rl" / "rollouts").glob(f"*rank{i}*") for r in read_jsonl(p)}
        for i in (0, 1)
    ]
    assert len(said[0] & said[1]) < len(said[0])  # the ranks do not draw the same numbers


class Deaf(Processor):
    """On rank 1 the batches that are scored have lost their sound."""

    def collate(self, prompts, device="cpu"):
        batch = super().collate(prompts, device)
        if torch.is_grad_enabled() and os.environ["RANK"] == "1":
            del batch["input_features"]
        return batch


def fail(job: Job) -> tuple[str, int]:
    trainer = job.trainer()
    trainer.processor.__class__ = Deaf
    with pytest.raises(ParityError) as caught:
        trainer.train()
    return str(caught.value), trainer.state.global_step


def test_a_rank_that_is_deaf_stops_all_of_them(omni_job, studio_data):
    job = replace(omni_job(), records=studio_data.split("train")[:2])
    first, second = together(fail, job)
    assert first == second
    message, step = first
    assert message.startswith("rank 1: step 0: engine and loss saw different audio: the engine 1 clips of ")
    assert step == 0


def test_a_stage_on_two_ranks_stops_together_and_goes_on_to_the_same_weights(text_job, tmp_path):
    job = text_job(hard=["r-0"], max_steps=3, eval_every=1, save_every=100, parity_tolerance=1e-4)
    whole, broken = replace(job, folder=tmp_path / "whole"), replace(job, folder=tmp_path / "broken")
    assert together(whole_stage, whole, None) == [("", [0, 1, 2, -1]), ("", [0, 1, 2])]
    stopped = "rl: stopped by a signal at step 2; call the same command to go on"
    assert together(whole_stage, broken, 2) == [(stopped, [0, 1])] * 2
    assert not (broken.folder / "rl" / "final").exists()
    assert together(whole_stage, broken, None) == [("", [0, -1]), ("", [0])]
    ends = []
    for one in (whole, broken):
        (file,) = (one.folder / "rl" / "final").glob("*.safetensors")
        ends.append(load_file(file))
        assert len(list((one.folder / "rl" / "rollouts").iterdir())) == 3 * 2
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    rows = rows_of(whole.folder)
    assert rows == rows_of(broken.folder)
    assert [row["dev/norm"] > 0 for row in rows] == [True] * 3


def test_a_stage_of_two_ranks_goes_on_with_one(text_job, tmp_path):
    # the sampler counts global batches: with as many prompts in each, nothing is shown twice and nothing is left out
    job = text_job(max_steps=4, save_every=2, prompts=1)
    job = replace(job, settings=job.settings | {"eval_every": 1})
    stopped = "rl: stopped by a signal at step 2; call the same command to go on"
    assert together(whole_stage, job, 2) == [(stopped, [0, 1])] * 2
    ((error, seen),) = together(whole_stage, replace(job, settings=job.settings | {"prompts": 2}), None, ranks=1)
    assert (error, seen) == ("", [0, 1, -1])
    assert [row["step"] for row in rows_of(job.folder)] == [1, 2, 3, 4]
    visits = [
        [
            row["uid"]
            for path in sorted((job.folder / "rl" / "rollouts").glob(f"step_{step:06}_*"))
            for row in read_jsonl(path)
        ]
        for step in range(4)
    ]
    for epoch in (visits[0] + visits[1], visits[2] + visits[3]):
        assert sorted(set(epoch)) == [r.uid for r in job.records]
    memory = json.loads((job.folder / "rl" / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text())
    solved = memory["stateful_callbacks"]["Memory"]["attributes"]["solve"]
    assert set(solved["seen"]) == {r.uid for r in job.records}


def too_few(job: Job) -> str:
    error, _ = whole_stage(job, None)
    return error


def test_every_rank_needs_prompts_of_its_own(text_job):
    message = "rl: 4 training records, one step takes rl.prompts=3 on each of 2 ranks; lower it"
    assert together(too_few, text_job(prompts=3)) == [message] * 2


def refusal(job: Job) -> str:
    with pytest.raises(ConfigError) as caught:
        job.trainer()
    return str(caught.value)


def test_fsdp_is_refused(text_job, monkeypatch):
    start = GRPOTrainer.__init__

    def sharded(self, *args, **kwargs):  # on CPUs there is none
        start(self, *args, **kwargs)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(GRPOTrainer, "__init__", sharded)
    assert refusal(text_job()).startswith("FSDP: keeps pieces of the weights on each rank")


# Supervised fine-tuning


def test_fine_tuning_on_two_ranks_is_that_of_one_with_the_whole_batch(omni_job, tmp_path):
    settings = {"batch": 1, "max_steps": 2, "log_every": 1, "accumulation": 2}
    film, words = (job := omni_job()).records
    job = replace(job, settings=settings, records=[film, words, replace(film, uid="b"), replace(words, uid="c")])
    whole = replace(job, folder=tmp_path / "one", settings=settings | {"batch": 2})
    ((gradients, _),) = together(fine_tune, whole, ranks=1)
    (first, first_ends), (second, second_ends) = together(fine_tune, replace(job, folder=tmp_path / "two"))
    assert len(gradients) == len(first) == 2
    for expected, a, b in zip(gradients, first, second, strict=True):
        assert distance(a, expected) < ROUNDING
        assert distance(b, expected) < ROUNDING
    assert all(torch.equal(tensor, second_ends[name]) for name, tensor in first_ends.items())
