"""Settings of the robustness evaluation, checked."""

import math
from dataclasses import dataclass

from models.processor import MODALITIES
from runtime.errors import ConfigError

NOISES = ("white", "babble")


@dataclass
class RobustnessConfig:
    """What `conf/robustness/` may say; the keys are explained there."""

    metrics: list[str] | None
    missing: list[str]
    noise: str
    snr: list[float]
    dropped: list[float]
    word_errors: list[float]
    transcripts: dict[str, str]

    def __post_init__(self) -> None:
        levels = (self.missing, self.snr, self.dropped, self.word_errors)
        rules = (
            ("missing", set(self.missing) <= set(MODALITIES), f"members of {MODALITIES}", self.missing),
            ("noise", self.noise in NOISES, f"one of {NOISES}", self.noise),
            ("snr", all(map(math.isfinite, self.snr)), "numbers, in dB", self.snr),
            ("dropped", all(0 < x <= 1 for x in self.dropped), "shares in (0, 1]", self.dropped),
            ("word_errors", all(0 < x <= 1 for x in self.word_errors), "rates in (0, 1]", self.word_errors),
        )
        for key, ok, rule, got in rules:
            if not ok:
                raise ConfigError(f"robustness.{key}: {rule}; got {got!r}; mend the config")
        if any(len(set(some)) < len(some) for some in levels):
            raise ConfigError(f"robustness: each level once; got {[list(some) for some in levels]}; mend the config")
        if not any((*levels, self.transcripts)):
            raise ConfigError(
                "robustness: nothing gets worse; got empty lists; name a level of missing, snr, dropped ..."
            )
