"""What `conf/rl/`, `conf/hint/` and `conf/reward/` may say. The yaml files are the home of the defaults."""

from dataclasses import dataclass

from runtime.errors import ConfigError
from tasks.base import Task

STRATEGIES = ("none", "polarity", "ladder", "adaptive", "self", "query")
WHENS = ("stuck", "always")
ROWS = ("share", "one", "all")
BASELINES = ("shared", "context")
PREFIXES = ("masked", "likelihood", "weighted", "learnt")
HINT_SCHEDULES = ("constant", "cosine", "ema")
ORDERS = ("none", "hard_first", "balanced")
NO_SIGNAL = ("keep", "drop", "resample")
SCALES = ("none", "group")
SCHEDULES = ("constant", "linear", "cosine")
SCORINGS = ("auto", "packed", "cache", "rows")
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")


@dataclass
class HintConfig:
    """Who is hinted, with what, and how hinted rows count."""

    strategy: str
    when: str
    rows: str
    share: float
    baseline: str
    count_leaked: bool
    prefix: str
    likelihood: float
    warmup: float
    schedule: str
    ema_decay: float
    ema_off: float
    start: float
    target: float
    gain: float

    def __post_init__(self) -> None:
        for name, allowed in (
            ("strategy", STRATEGIES),
            ("when", WHENS),
            ("rows", ROWS),
            ("baseline", BASELINES),
            ("prefix", PREFIXES),
            ("schedule", HINT_SCHEDULES),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"hint.{name}: one of {allowed}; got {getattr(self, name)!r}; mend the config")
        if not 0 < self.share < 1:
            raise ConfigError(
                f"hint.share: in (0, 1), so that at least one row stays unhinted; got {self.share}; mend the config, or set "
                "hint.rows=all"
            )
        for name, low, high in (
            ("warmup", 0, 1),
            ("ema_decay", 0, 1),
            ("ema_off", 0, 1),
            ("start", 0, 1),
            ("target", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"hint.{name}: in [{low}, {high}]; got {getattr(self, name)}; mend the config")
        for name in ("likelihood", "gain"):
            if getattr(self, name) < 0:
                raise ConfigError(f"hint.{name}: 0 or more; got {getattr(self, name)}; mend the config")
        if self.strategy in ("self", "query") and self.prefix in ("likelihood", "learnt"):
            raise ConfigError(
                f"hint.prefix={self.prefix}: learns the opening that a hint forces, and hint.strategy={self.strategy} forces none, "
                "it speaks in the question; use hint.prefix=masked or weighted"
            )
        if self.strategy in ("self", "query") and self.prefix == "weighted" and self.rows == "all":
            raise ConfigError(
                "hint.prefix=weighted: rows whose hint is in the question are scored without it, where the parity gate cannot hold "
                "them against the engine, and hint.rows=all leaves no others; use hint.rows=share or one"
            )
        if self.rows == "one" and self.baseline == "context":
            raise ConfigError(
                "hint.baseline=context: compares hinted rows among themselves, and hint.rows=one leaves one, whose advantage would "
                "always be 0; use hint.baseline=shared, or hint.rows=share"
            )
        if self.rows == "all" and self.when == "always" and (self.schedule == "ema" or self.baseline == "context"):
            knob = "schedule=ema" if self.schedule == "ema" else "baseline=context"
            raise ConfigError(
                f"hint.{knob}: looks at unhinted rows, and hint.rows=all with hint.when=always leaves none; use hint.rows=share"
            )

    def check_task(self, task: Task) -> None:
        """Refuse a hint that this task's grammar cannot carry.

        Raises:
            ConfigError: when the hint is an opening of the answer, and answers do not open with a verdict.
        """
        opening = self.strategy not in ("none", "self", "query")
        if opening and task.grammar.blocks[0] != task.grammar.verdict:
            raise ConfigError(
                f"hint.strategy={self.strategy}: a hint is a prefix that states the verdict, and answers of grammar "
                f"{task.grammar.name!r} do not open with one; use task.grammar=dc, or hint=query, or hint=none"
            )


@dataclass
class RLConfig:
    """Settings of the reinforcement stage."""

    init: str | None
    chains: str | None
    max_steps: int
    budget: int | None
    prompts: int
    group: int
    accumulation: int
    iterations: int
    lr: float
    schedule: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    loss: str
    beta: float
    scale: str
    temperature: float
    max_new_tokens: int
    scoring: str
    gradient_checkpointing: bool
    no_signal: str
    resamples: int
    order: str
    hard_below: float
    parity_every: int
    parity_tolerance: float
    eval_every: int
    save_every: int
    log_every: int

    def __post_init__(self) -> None:
        counts = ("max_steps", "prompts", "accumulation", "iterations", "max_new_tokens")
        for name in (*counts, "parity_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rl.{name}: 1 or more; got {getattr(self, name)}; mend the config")
        if not 0 < self.hard_below <= 1:
            raise ConfigError(f"rl.hard_below: in (0, 1]; got {self.hard_below}; mend the config")
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"rl.budget: null, or 1 or more tokens; got {self.budget}; mend the config")
        for name in ("eval_every", "resamples"):
            if getattr(self, name) < 0:
                raise ConfigError(f"rl.{name}: 0 or more; got {getattr(self, name)}; mend the config")
        if self.group < 2:
            raise ConfigError(f"rl.group: 2 or more, advantages compare siblings; got {self.group}; mend the config")
        if self.prompts % self.accumulation:
            raise ConfigError(
                f"rl.prompts: a multiple of rl.accumulation={self.accumulation}; got {self.prompts}; mend the config"
            )
        if self.save_every % self.iterations:
            raise ConfigError(
                f"rl.save_every: a multiple of rl.iterations={self.iterations}, because a checkpoint does not hold the rollouts "
                f"that further iterations would use; got {self.save_every}; mend the config"
            )
        for name, allowed in (
            ("scale", SCALES),
            ("loss", LOSSES),
            ("schedule", SCHEDULES),
            ("scoring", SCORINGS),
            ("no_signal", NO_SIGNAL),
            ("order", ORDERS),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"rl.{name}: one of {allowed}; got {getattr(self, name)!r}; mend the config")
        if self.lr <= 0 or self.temperature <= 0 or self.beta < 0 or not 0 <= self.warmup < 1:
            got = f"lr={self.lr} temperature={self.temperature} beta={self.beta} warmup={self.warmup}"
            raise ConfigError(f"rl: lr > 0, temperature > 0, beta >= 0, warmup in [0, 1); got {got}; mend the config")
        if self.gradient_checkpointing and self.scoring == "cache":
            raise ConfigError(
                "rl.scoring=cache: does not go with rl.gradient_checkpointing=true, because checkpointed layers drop the key/value "
                "cache that completions of one prompt share; set rl.scoring=auto"
            )
