"""Other people's sweepers and launchers on a real SLURM: Optuna over our launcher, and submitit."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from slurm_cases import RESOURCES, SMALL, Cluster
from verbs import call

from runtime.frozen import is_done

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chains(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    made = call("data_synth", [*SMALL, f"hydra.run.dir={folder}/run"], folder / "log", cluster.environment)
    assert made.code == 0, made.text
    return folder / "run" / "synth" / "chains.jsonl"


def test_optuna_searches_with_members_that_are_jobs(cluster: Cluster, chains: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "search"
    searched = call(
        "sft",
        [
            *("-m", "hydra/sweeper=optuna", "hydra/launcher=slurm"),
            f"hydra.launcher.options='{' '.join(RESOURCES)} --no-requeue'",
            "hydra.launcher.poll_s=0.5",
            *("hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"),
            "hydra.sweeper.sampler.seed=0",
            f"hydra.sweep.dir={sweep}",
            *(s for s in SMALL if not s.startswith("sft.holdout")),
            *(f"sft.chains={chains}", "sft.holdout=0.25", "sft.max_steps=2", "sft.log_every=1"),
            "sft.lr=tag(log,interval(1e-4,1e-2))",
        ],
        tmp_path / "log",
        cluster.environment,
    )
    assert searched.code == 0, searched.text
    assert searched.text.count("2 members, 2 to submit, 0 in the queue") == 2  # two arrays of two trials
    members = [path.parent for path in sorted(sweep.glob("*/frozen-sft.yaml"))]
    assert len(members) == 4 and all(is_done(member, "sft") for member in members)
    rates = {OmegaConf.load(member / "frozen-sft.yaml").sft.lr for member in members}
    assert len(rates) == 4 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    found = OmegaConf.load(sweep / "optimization_results.yaml")
    assert found.best_params["sft.lr"] in rates and found.best_value > 0


def test_submitit_launches_members_of_one_process(cluster: Cluster, chains: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    launched = call(
        "sft",
        [
            *("-m", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30"),
            *("hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1"),
            *(f"hydra.sweep.dir={sweep}", "hydra.sweep.subdir=seed${seed}"),
            *(*SMALL, f"sft.chains={chains}", "sft.max_steps=1", "seed=1,2"),
        ],
        tmp_path / "log",
        cluster.environment,
    )
    assert launched.code == 0, launched.text
    for seed in (1, 2):
        assert (sweep / f"seed{seed}" / "sft" / "final" / "model.safetensors").is_file()
        assert OmegaConf.load(sweep / f"seed{seed}" / "config.yaml").seed == seed
