"""How the ranks of a training stage share its memory: each holds everything (DDP), or DeepSpeed's ZeRO splits it over them."""

import os
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from runtime.errors import ConfigError


@dataclass
class ClusterConfig:
    """The section `cluster`, from `conf/cluster/`. How many ranks there are is for torchrun to say."""

    deepspeed: dict[str, Any] | None

    def __post_init__(self) -> None:
        if self.deepspeed is None:
            return
        stage = self.deepspeed.get("zero_optimization", {}).get("stage")
        if stage not in (1, 2, 3):
            raise ConfigError(
                f"cluster.deepspeed.zero_optimization.stage: 1, 2 or 3; got {stage!r}; take cluster=zero2, zero3 or "
                "zero3_offload, or cluster=ddp for none"
            )


def first_rank() -> bool:
    """Whether this process is the one that writes what is written once; a process by itself is."""
    return int(os.environ.get("RANK", "0")) == 0


PLAIN = ClusterConfig(deepspeed=None)
"""One process, or DDP where torchrun has started several."""


def deepspeed_settings(cluster: ClusterConfig) -> dict[str, Any] | None:
    """What `TrainingArguments` takes as `deepspeed`, after the ranks have met where they are CPUs.

    On CPUs accelerate does not initialise `deepspeed.comm`, and ZeRO-3 would take every rank for the only one.

    Raises:
        ConfigError: when DeepSpeed is asked for outside of torchrun.
    """
    if cluster.deepspeed is None:
        return None
    if "RANK" not in os.environ:
        raise ConfigError(
            "cluster.deepspeed: wants the environment of torchrun, also for a single rank; start the verb as "
            "`torchrun --nproc-per-node=N -m VERB ...`, or set cluster=ddp"
        )
    if not torch.cuda.is_available():
        import deepspeed  # takes seconds

        deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return deepcopy(cluster.deepspeed)  # transformers fills in what is "auto"
