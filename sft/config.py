"""What `conf/sft/` and `conf/optim/` may say. The yaml files are the home of the defaults and explain every key."""

from dataclasses import dataclass

from runtime.errors import ConfigError


@dataclass
class SFTConfig:
    """Settings of one supervised stage."""

    init: str | None
    chains: str | None
    max_steps: int
    batch: int
    accumulation: int
    lr: float
    warmup: float
    weight_decay: float
    max_grad_norm: float
    gradient_checkpointing: bool
    packing: bool
    holdout: float
    eval_every: int
    save_every: int
    log_every: int

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch", "accumulation", "eval_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sft.{name}: 1 or more; got {getattr(self, name)}; mend the config")
        if self.lr <= 0 or not 0 <= self.warmup < 1 or not 0 <= self.holdout < 1:
            got = f"lr={self.lr} warmup={self.warmup} holdout={self.holdout}"
            raise ConfigError(f"sft: lr > 0, warmup and holdout in [0, 1); got {got}; mend the config")
