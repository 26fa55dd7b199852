"""Settings of the strategies, checked."""

from dataclasses import dataclass

from runtime.errors import ConfigError

REFERENCE = "greedy"
NAMES = (REFERENCE, "vote", "rerank", "refine")
SCORERS = ("logprob", "explanation", "evidence")
SAMPLED = ("vote", "rerank")
"""Strategies that look at the samples."""


@dataclass
class StrategiesConfig:
    """What `conf/strategies/` may say; the keys are explained there."""

    names: list[str]
    metrics: list[str] | None
    samples: int
    temperature: float
    batch: int
    scorer: str
    request: str

    def __post_init__(self) -> None:
        known = set(self.names) <= set(NAMES) and len(set(self.names)) == len(self.names)
        if not known or REFERENCE not in self.names or len(self.names) < 2:
            raise ConfigError(
                f"strategies.names: {REFERENCE} and some of {NAMES[1:]}, each once; got {self.names}; mend the config"
            )
        if self.samples < 1 or self.batch < 1 or self.temperature <= 0:
            got = f"samples={self.samples} batch={self.batch} temperature={self.temperature}"
            raise ConfigError(
                f"strategies: samples and batch 1 or more, temperature above 0; got {got}; mend the config"
            )
        if self.scorer not in SCORERS:
            raise ConfigError(f"strategies.scorer: one of {SCORERS}; got {self.scorer!r}; mend the config")
        if not self.request.strip():
            raise ConfigError(
                f"strategies.request: what the second turn asks, in the language of the task; got {self.request!r}; state it"
            )

    @property
    def drawn(self) -> int:
        """How many samples the strategies need."""
        return self.samples if set(self.names) & set(SAMPLED) else 0
