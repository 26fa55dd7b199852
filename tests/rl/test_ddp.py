"""Two ranks learn what one process learns of the whole batch, end with the same weights, stop together, and hang nowhere."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from omegaconf import OmegaConf
from ranks import together
from safetensors.torch import load_file
from toys import ArbitraryRemarks, brief, hint_config, remarks, rl_config, weights
from transformers import TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from models import resume
from models.engine.base import Completion
from models.engine.hf import HFEngine
from models.load import ModelConfig, base_checkpoint, load_model, load_processor, save_model
from models.processor import Processor
from rl.train import train
from rl.trainer import HintGRPOTrainer, make_trainer
from runtime.errors import ConfigError, ParityError, StageError
from runtime.files import read_jsonl
from runtime.logs import MetricsCallback
from runtime.main import CONF
from sft.config import SFTConfig
from sft.train import Example
from sft.train import make_trainer as make_sft_trainer
from tasks.base import Task
from tasks.record import Record


@dataclass(frozen=True)
class Job:
    """What a rank needs to make a trainer of its own."""

    model: ModelConfig
    task: Task
    records: list[Record]
    root: Path
    folder: Path
    settings: dict[str, Any]

    def processor(self) -> Processor:
        return brief(load_processor(self.model, base_checkpoint(self.model)))

    def fresh(self) -> torch.nn.Module:
        torch.manual_seed(7)  # a new adapter is drawn
        return load_model(self.model, base_checkpoint(self.model), train=True)

    def trainer(self, *callbacks: TrainerCallback) -> HintGRPOTrainer:
        return make_trainer(
            "rl",
            self.fresh(),
            self.processor(),
            self.task,
            self.records,
            self.root,
            rl_config(**self.settings),
            hint_config(),
            weights(),
            {},
            self.folder / "rl",
            0,
            [MetricsCallback(self.folder / "rl" / "metrics.jsonl", "rl"), *callbacks],
        )


def say_the_same_everywhere() -> None:
    """Completions that follow from prompt, sibling and hint alone: as long, and as varied, as sampled ones."""
    prefill = HFEngine.prefill

    def note(self, prompts):
        self.prompts = prompts
        return prefill(self, prompts)

    def sample(self, state, prompt_of, sampling, prefixes=None):
        said = []
        for i, b in enumerate(prompt_of):
            sibling, hint = prompt_of[:i].count(b), tuple(prefixes[i]) if prefixes else ()
            number = crc32(repr((self.prompts[b].ids.tolist(), sibling, hint)).encode())
            draw = torch.Generator().manual_seed(number)
            ids = torch.randint(5, 300, (1 + number % sampling.max_new_tokens,), generator=draw).tolist()
            said.append(Completion(tuple(ids), (-5.0,) * len(ids), False))
        return said

    HFEngine.prefill, HFEngine.sample = note, sample


class Gradients(TrainerCallback):
    """Keeps the gradient of each step as the optimizer gets it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def learn(job: Job) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor], list[set[str]]]:
    """Gradients of each step, final weights, and the records that this rank saw in each step."""
    say_the_same_everywhere()
    gradients = Gradients()
    trainer = job.trainer(gradients)
    trainer.train()
    own = sorted((job.folder / "rl" / "rollouts").glob(f"*_rank{trainer.accelerator.process_index}.jsonl"))
    uids = [{row["uid"] for row in read_jsonl(path)} for path in own]
    return gradients.seen, {n: p.detach() for n, p in trainer.policy.named_parameters()}, uids


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative, over all parameters; none may be missing where the other side has something to say."""
    a, b = (
        torch.cat([g.get(n, torch.zeros_like(e)).flatten() for n, e in expected.items()]) for g in (found, expected)
    )
    assert all(not g.any() for n, g in found.items() if n not in expected)
    return ((a - b).norm() / b.norm()).item()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The log, without what is of the machine or of the start of a process."""
    rows = read_jsonl(folder / "rl" / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(("speed/", "step_time", "scoring/"))} for row in rows]


ROUNDING = 1e-5


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


@pytest.fixture
def text_job(text_model: ModelConfig, tmp_path: Path) -> Callable[..., Job]:
    def make(hard=(), **settings) -> Job:
        task = ArbitraryRemarks()
        task.hard = frozenset(hard)
        settings = {"prompts": 1, "max_steps": 2, "parity_tolerance": 100.0, "loss": "dapo"} | settings
        return Job(text_model, task, remarks()[:4], Path("."), tmp_path, settings)

    return make


def test_two_ranks_learn_what_one_learns_of_the_whole_batch(text_job, tmp_path):
    # one hard record: in one step of two, one rank of two has hints, and with them metrics that the other has not
    job = text_job(hard=["r-0"], accumulation=2, prompts=2, scoring="cache")
    seen = assert_like_one_process(job, tmp_path)
    for first, second in zip(*seen, strict=True):
        assert len(first) == len(second) == 2
        assert not first & second


@pytest.fixture
def omni_job(tiny, studio_data, arbitrary_studio, tmp_path: Path) -> Callable[..., Job]:
    """Words alone and a film with sound: whichever rank has the words has no gradient for the towers."""

    def make(**settings) -> Job:
        film, words = studio_data.split("train")[:2]
        records = [film, replace(words, views={"text": words.views["text"]})]
        settings = {"prompts": 1, "max_steps": 2, "parity_tolerance": 100.0, "parity_every": 1} | settings
        return Job(tiny[0], arbitrary_studio, records, studio_data.root, tmp_path, settings)

    return make


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
        {r["text"] for p in (job.folder / "rl" / "rollouts").glob(f"*rank{i}*") for r in read_jsonl(p)} for i in (0, 1)
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


def whole_stage(job: Job, stop_at: int | None) -> tuple[str, list[int]]:
    """The stage from start, or from where it was stopped, to the end; SIGTERM goes to rank 1 while it measures dev.

    Returns:
        The error, if any, and the number of each measurement, with a -1 when the policy was written.
    """
    steps = []

    def measure(policy: torch.nn.Module, said: Path | None) -> dict[str, float]:
        steps.append(len(steps))
        if len(steps) == stop_at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return {"norm": sum(p.norm().item() for p in policy.parameters())}

    resume.save_model = lambda *args: (steps.append(-1), save_model(*args))
    try:
        train(
            job.fresh(),
            job.processor(),
            job.task,
            job.records,
            job.root,
            rl_config(**job.settings),
            hint_config(),
            weights(),
            {},
            job.folder / "rl",
            0,
            measure,
        )
    except StageError as error:
        return str(error), steps
    return "", steps


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


def too_few(job: Job) -> str:
    error, _ = whole_stage(job, None)
    return error


def test_every_rank_needs_prompts_of_its_own(text_job):
    message = "rl: 4 training records, one step takes rl.prompts=3 on each of 2 ranks; lower it"
    assert together(too_few, text_job(prompts=3)) == [message] * 2


# DeepSpeed, whose first use compiles something for most of a minute

deepspeed = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("ninja")), reason="DeepSpeed on CPUs needs g++ and ninja"
)


def under_zero(stage: int, folder: Path, work: Callable[[Job], Any], job: Job) -> Any:
    """What `accelerate launch --use_deepspeed` sets, and then `work`."""
    config = {
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": "auto"},
        **dict.fromkeys(("gradient_accumulation_steps", "gradient_clipping"), "auto"),
        **dict.fromkeys(("train_micro_batch_size_per_gpu", "train_batch_size"), "auto"),
    }
    path = folder / f"zero{stage}_rank{os.environ['RANK']}.json"
    path.write_text(json.dumps(config))
    os.environ |= {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path),
        "DS_ACCELERATOR": "cpu",
    }
    return work(job)


def learn_without_gradients(job: Job) -> dict[str, torch.Tensor]:
    """Final weights; under ZeRO nobody has the gradients whole."""
    say_the_same_everywhere()
    trainer = job.trainer()
    trainer.train()
    return {n: p.detach() for n, p in trainer.policy.named_parameters()}


@pytest.mark.slow
@deepspeed
def test_zero_2_learns_what_ddp_learns(omni_job, tmp_path):
    job = omni_job(accumulation=2, prompts=2)
    model, extra = (
        replace(job.model, freeze_towers=True),
        job.records + [replace(r, uid=r.uid + "b") for r in job.records],
    )
    job = replace(job, model=model, records=extra)
    plain, zero = (replace(job, folder=tmp_path / name) for name in ("plain", "zero"))
    expected, _ = together(learn_without_gradients, plain)
    first, second = together(under_zero, 2, tmp_path, learn_without_gradients, zero)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    start = dict(job.fresh().named_parameters())
    assert distance(first, expected) < ROUNDING
    assert distance(first, {n: p.detach() for n, p in start.items()}) > 100 * ROUNDING
    rows = [rows_of(one.folder) for one in (plain, zero)]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], rel=1e-5)


@pytest.mark.slow
@deepspeed
def test_zero_2_stops_and_goes_on(text_job, tmp_path):
    job = text_job(max_steps=3, eval_every=1, save_every=100, parity_tolerance=1e-4)
    for name, stop_at, steps in (("whole", None, 3), ("broken", 2, 2), ("broken", None, 1)):
        found = together(
            under_zero, 2, tmp_path, partial(whole_stage, stop_at=stop_at), replace(job, folder=tmp_path / name)
        )
        assert [sum(number >= 0 for number in seen) for _, seen in found] == [steps] * 2
    whole, broken = (load_file(tmp_path / name / "rl" / "final" / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())


def refusal(job: Job) -> str:
    with pytest.raises(ConfigError) as caught:
        job.trainer()
    return str(caught.value)


@pytest.mark.slow
@deepspeed
@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            3,
            "DeepSpeed ZeRO-3: keeps pieces of the weights on each rank, where sampling, the parity gate and the final ",
        ),
        (
            2,
            "DeepSpeed with trained towers: a rank whose batch holds no sound or no picture has gradients in another order",
        ),
    ],
)
def test_what_would_hang_or_learn_nonsense_is_refused(omni_job, tmp_path, stage, message):
    first, second = together(under_zero, stage, tmp_path, refusal, omni_job())
    assert first == second
    assert first.startswith(message)


def test_fsdp_is_refused(text_job, monkeypatch):
    start = GRPOTrainer.__init__

    def sharded(self, *args, **kwargs):  # on CPUs there is none
        start(self, *args, **kwargs)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(GRPOTrainer, "__init__", sharded)
    assert refusal(text_job()).startswith("FSDP: keeps pieces of the weights on each rank")


# Supervised fine-tuning


def fine_tune(job: Job) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Gradients of each step and final weights."""
    gradients = Gradients()
    examples = [
        Example(job.task.prompt(r, job.root), f"<answer>{i}.0</answer>"[: 9 + 4 * i]) for i, r in enumerate(job.records)
    ]
    cfg = SFTConfig(**{**OmegaConf.load(Path(CONF) / "sft" / "default.yaml"), **job.settings})
    processor = load_processor(job.model, base_checkpoint(job.model))
    trainer = make_sft_trainer("sft", job.fresh(), processor, examples, [], cfg, job.folder / "sft", 0)
    trainer.add_callback(gradients)
    trainer.train()
    return gradients.seen, {n: p.detach() for n, p in trainer.policy.named_parameters()}


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
