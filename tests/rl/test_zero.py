"""DeepSpeed's ZeRO learns what DDP learns, whatever media, lengths and hints the ranks have. First use compiles for minutes."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from jobs import ROUNDING, Job, distance, fine_tune, rows_of, say_the_same_everywhere, whole_stage
from omegaconf import OmegaConf
from ranks import together
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from models.load import load_model
from models.zero import TOWERS
from runtime.cluster import ClusterConfig, deepspeed_settings
from runtime.config import section
from runtime.errors import ConfigError
from runtime.main import CONF

compiled = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("ninja")), reason="DeepSpeed on CPUs needs g++ and ninja"
)
pytestmark = pytest.mark.slow
STAGES = ("zero2", "zero3")


def cluster(name: str) -> ClusterConfig:
    """A shipped one, which splits whatever it can: by default the small weights of a tiny model stay whole."""
    with initialize_config_dir(CONF, version_base=None):
        found = section(compose("rl", overrides=[f"cluster={name}", "run.dir=x"]), "cluster", ClusterConfig)
    if found.deepspeed:
        found.deepspeed["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return found


@pytest.fixture
def mixed_job(omni_job) -> Job:
    """Two groups on each of two ranks: film with sound, words alone, sound alone, silent film; two of the four are stuck."""
    film, words = (job := omni_job(accumulation=2, prompts=2)).records
    views: Sequence[dict[str, Any]] = [
        film.views,
        words.views,
        {"audio": film.views["audio"]},
        {"video": film.views["video"]},
    ]
    records = [replace(film, uid=f"studio-0000{i}", views=v) for i, v in enumerate(views)]
    job.task.hard = frozenset({records[0].uid, records[1].uid})
    return replace(job, model=replace(job.model, freeze_towers=True), records=records)


def learn(job: Job) -> tuple[dict[str, torch.Tensor], set[str], int]:
    """Final weights, what is split of them, and how often this rank gave hints."""
    say_the_same_everywhere()
    trainer = job.trainer()
    trainer.train()
    split = {n for n, p in trainer.policy.named_parameters() if p.numel() == 0}
    with trainer.whole() as policy:
        weights = {n: p.detach().clone() for n, p in policy.named_parameters()}
    own = (job.folder / "rl" / "rollouts").glob(f"*_rank{trainer.accelerator.process_index}.jsonl")
    hinted = sum(path.read_text().count('"level": 1') for path in own)
    return weights, split, hinted


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> str:
    """A stage whose optimizer is compiled: that takes minutes, longer than a rank may be silent."""
    if request.param == "zero3_offload":
        build = "from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load(verbose=False)"
        subprocess.run([sys.executable, "-c", build], check=True)
    return request.param


@compiled
@pytest.mark.parametrize("stage", (*STAGES, "zero3_offload"), indirect=True)
def test_ranks_with_different_media_lengths_and_hints_learn_what_ddp_learns(mixed_job, tmp_path, stage):
    plain, zero = (replace(mixed_job, folder=tmp_path / name) for name in ("ddp", stage))
    (expected, whole, hints), (_, _, others) = together(learn, plain)
    (first, split, _), (second, _, _) = together(learn, replace(zero, cluster=cluster(stage)))
    assert not whole
    assert hints != others  # one rank hints more often than the other
    assert set(first) == set(expected)  # with the towers
    assert (split == {n for n in first if not any(f".{t}." in n for t in TOWERS)}) == (stage != "zero2")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    start = {n: p.detach() for n, p in mixed_job.fresh().named_parameters()}
    assert distance(first, expected) < ROUNDING
    assert distance(first, start) > 100 * ROUNDING
    rows = [rows_of(one.folder) for one in (plain, zero)]
    for name in ("loss", "reward", "tokens/generated", "parity/audio_drop", "parity/video_drop", "hint/rate"):
        assert [r[name] for r in rows[0]] == pytest.approx([r[name] for r in rows[1]], rel=1e-4, abs=1e-6), name


@compiled
def test_four_ranks_of_zero_3_learn_what_four_of_ddp_learn(text_job, tmp_path):
    job = text_job(hard=["r-0"])
    (expected, *_), *_ = together(learn, replace(job, folder=tmp_path / "ddp"), ranks=4)
    found = together(learn, replace(job, folder=tmp_path / "zero3", cluster=cluster("zero3")), ranks=4)
    for weights, _, _ in found:
        assert distance(weights, expected) < ROUNDING


@compiled
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_stops_goes_on_and_writes_what_plain_transformers_reads(mixed_job, text_job, tmp_path, stage):
    job = text_job(max_steps=3, eval_every=1, save_every=100, parity_tolerance=1e-4)
    job = replace(job, cluster=cluster(stage))
    for name, stop_at, steps in (("whole", None, 3), ("broken", 2, 2), ("broken", None, 1)):
        found = together(whole_stage, replace(job, folder=tmp_path / name), stop_at)
        assert [sum(number >= 0 for number in seen) for _, seen in found] == [steps] * 2
    whole, broken = (load_file(tmp_path / name / "rl" / "final" / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "broken" / "rl" / "final", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]

    # killed after the last checkpoint, before the final weights are written
    shutil.rmtree(tmp_path / "broken" / "rl" / "final")
    assert together(whole_stage, replace(job, folder=tmp_path / "broken"), None) == [("", [-1]), ("", [])]
    again = load_file(tmp_path / "broken" / "rl" / "final" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def written(job: Job) -> dict[str, torch.Tensor]:
    """What a rank says that it holds when it has written the final weights, of which the first rank's count."""
    trainer = job.trainer()
    trainer.go_on(job.folder / "rl" / "checkpoints")
    trainer.write(job.processor(), job.folder / "final")
    with trainer.whole() as policy:
        return {n: p.detach().clone() for n, p in policy.named_parameters()}


@compiled
def test_the_final_weights_have_the_towers_that_were_never_split(mixed_job, tmp_path):
    job = replace(mixed_job, cluster=cluster("zero3"))
    for steps in (1, 2):  # the second goes on from the checkpoint of the first
        more = {"max_steps": steps, "save_every": 1}
        held, _ = together(written, replace(job, settings=job.settings | more))
        read = dict(load_model(job.model, job.folder / "final", train=False).named_parameters())
        assert set(read) == set(held)
        assert all(torch.equal(tensor, held[name]) for name, tensor in read.items())


@compiled
def test_an_adapter_on_a_model_in_bfloat16_is_learnt_under_zero_3(mixed_job, tmp_path, lora):
    model = replace(
        mixed_job.model, lora=replace(lora, targets=r".*language_model.*\.(q_proj|v_proj)"), dtype="bfloat16"
    )
    job = replace(mixed_job, model=model, cluster=cluster("zero3"))
    (first, split, _), (second, _, _) = together(learn, job)
    assert split
    start = {n: p.detach() for n, p in job.fresh().named_parameters()}
    moved = {n for n, tensor in first.items() if not torch.equal(tensor.float(), start[n].float())}
    assert moved
    assert all("lora" in name for name in moved)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def other_number(job: Job) -> str:
    trainer = job.trainer()
    with pytest.raises(ConfigError) as caught:
        trainer.go_on(job.folder / "rl" / "checkpoints")
    return str(caught.value)


def test_optimizer_states_of_another_number_of_ranks_are_refused(text_job, tmp_path):
    checkpoint = tmp_path / "rl" / "checkpoints" / "checkpoint-1"
    (checkpoint / "global_step1").mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    for rank in range(2):
        (checkpoint / "global_step1" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_text("")
    said = other_number(text_job())
    assert said.startswith(
        f"{checkpoint}: DeepSpeed split its optimizer state over 2 ranks, and there are 1 now; go on with 2"
    )


def tuned(job: Job) -> dict[str, torch.Tensor]:
    return fine_tune(job)[1]


@compiled
@pytest.mark.parametrize("stage", STAGES)
def test_fine_tuning_on_mixed_media_is_that_of_ddp(mixed_job, tmp_path, stage):
    job = replace(mixed_job, settings={"batch": 1, "max_steps": 2, "log_every": 1, "accumulation": 2})
    (expected, _), (first, second) = (
        together(tuned, replace(job, folder=tmp_path / name, cluster=cluster(name))) for name in ("ddp", stage)
    )
    assert distance(first, expected) < ROUNDING
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def refusal(job: Job) -> str:
    with pytest.raises(ConfigError) as caught:
        job.trainer()
    return str(caught.value)


@compiled
@pytest.mark.parametrize("stage", STAGES)
def test_trained_towers_are_refused(omni_job, stage):
    first, second = together(refusal, replace(omni_job(), cluster=cluster(stage)))
    assert first == second
    assert first.startswith(
        "DeepSpeed with trained towers: a rank whose batch holds no sound or no picture has gradients in"
    )


def test_deepspeed_wants_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    said = "cluster.deepspeed: wants the environment of torchrun, also for a single rank; start the verb as `torchrun"
    with pytest.raises(ConfigError, match=re.escape(said)):
        deepspeed_settings(cluster("zero2"))


def test_a_config_without_a_stage_is_refused():
    said = "cluster.deepspeed.zero_optimization.stage: 1, 2 or 3; got None; take cluster=zero2"
    with pytest.raises(ConfigError, match=re.escape(said)):
        ClusterConfig(deepspeed={"bf16": {}})


def test_offload_is_zero_3_with_two_devices_more():
    whole, offloaded = (
        OmegaConf.to_container(OmegaConf.create(cluster(n).deepspeed)) for n in ("zero3", "zero3_offload")
    )
    assert isinstance(whole, dict) and isinstance(offloaded, dict)
    more = {name: offloaded["zero_optimization"].pop(name)["device"] for name in ("offload_optimizer", "offload_param")}
    assert more == {"offload_optimizer": "cpu", "offload_param": "cpu"}
    assert offloaded.pop("optimizer")["params"]["lr"] == "auto"
    assert offloaded == whole
