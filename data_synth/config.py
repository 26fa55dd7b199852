"""Settings of the synthesis; every default is in conf/synth/default.yaml."""

from dataclasses import dataclass

from runtime.errors import ConfigError


@dataclass(frozen=True)
class SynthConfig:
    """What is asked for, and what a chain must fulfil. Meanings and units: conf/synth/default.yaml.

    Raises:
        ConfigError: for a value out of range.
    """

    seed: int
    limit: int | None
    min_calibrate: float
    min_words: int
    max_words: int
    copy_words: int | None
    leak_phrases: list[str]

    def __post_init__(self) -> None:
        def check(ok: bool, key: str, rule: str, got: object) -> None:
            if not ok:
                raise ConfigError(f"synth.{key}: {rule}; got {got!r}; mend the config")

        check(self.seed >= 0, "seed", "0 or more", self.seed)
        check(self.limit is None or self.limit >= 1, "limit", "1 or more, or null for all", self.limit)
        check(0 <= self.min_calibrate <= 1, "min_calibrate", "a closeness in [0, 1]", self.min_calibrate)
        check(self.min_words >= 0, "min_words", "0 or more", self.min_words)
        check(self.max_words >= self.min_words, "max_words", "not below min_words", self.max_words)
        check(self.copy_words is None or self.copy_words >= 1, "copy_words", "1 or more, or null", self.copy_words)
        check(all(p.strip() for p in self.leak_phrases), "leak_phrases", "non-empty phrases", self.leak_phrases)
