"""What `conf/baseline/` may say; the yaml file is the home of the defaults and explains the keys."""

from dataclasses import dataclass

from runtime.errors import ConfigError

BACKBONES = ("trained", "frozen")


@dataclass
class ClassicalConfig:
    """The support vector machine."""

    folds: int
    C: list[float]
    gamma: list[float]

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"baseline.classical.folds: 2 or more; got {self.folds}; mend the config")
        for name, values in (("C", self.C), ("gamma", self.gamma)):
            if not values or min(values) <= 0:
                raise ConfigError(
                    f"baseline.classical.{name}: one number above 0, or several; got {list(values)}; mend the config"
                )


@dataclass
class RegressionConfig:
    """The regression head."""

    backbone: str
    max_steps: int
    batch: int
    lr: float
    warmup: float
    weight_decay: float
    max_grad_norm: float
    eval_every: int

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ConfigError(
                f"baseline.regression.backbone: one of {BACKBONES}; got {self.backbone!r}; mend the config"
            )
        if self.max_steps < 0 or self.batch < 1 or self.eval_every < 1:
            got = f"max_steps={self.max_steps} batch={self.batch} eval_every={self.eval_every}"
            raise ConfigError(
                f"baseline.regression: max_steps 0 or more, batch and eval_every 1 or more; got {got}; mend the config"
            )
        if self.lr <= 0 or not 0 <= self.warmup < 1 or self.weight_decay < 0 or self.max_grad_norm <= 0:
            got = (
                f"lr={self.lr} warmup={self.warmup} weight_decay={self.weight_decay} max_grad_norm={self.max_grad_norm}"
            )
            raise ConfigError(
                "baseline.regression: lr and max_grad_norm above 0, warmup in [0, 1), weight_decay 0 or more; "
                f"got {got}; mend the config"
            )


@dataclass
class LabelsConfig:
    """Chains from labels."""

    like: str | None


@dataclass
class BaselineConfig:
    """The section `baseline`."""

    classical: ClassicalConfig
    regression: RegressionConfig
    labels: LabelsConfig
