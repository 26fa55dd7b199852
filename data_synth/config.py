"""Settings of the synthesis; every default is in conf/synth/default.yaml."""

import re
from dataclasses import dataclass

from runtime.errors import ConfigError

BALANCES = ("coarse", "difficulty")


@dataclass(frozen=True)
class SynthConfig:
    """What is asked for, what a chain must fulfil, and which are chosen. Meanings and units: conf/synth/default.yaml.

    Raises:
        ConfigError: for a value out of range, or values that contradict each other.
    """

    seed: int
    limit: int | None
    candidates: int
    rewrite: bool
    min_calibrate: float
    min_words: int
    max_words: int
    copy_words: int | None
    copy_share: float | None
    leak_phrases: list[str]
    language: str | None
    near_duplicate: float | None
    balance: str | None
    shard: str | None

    def __post_init__(self) -> None:
        def check(ok: bool, key: str, rule: str, got: object) -> None:
            if not ok:
                raise ConfigError(f"synth.{key}: {rule}; got {got!r}; mend the config")

        check(self.seed >= 0, "seed", "0 or more", self.seed)
        check(self.limit is None or self.limit >= 1, "limit", "1 or more, or null for all", self.limit)
        check(self.candidates >= 1, "candidates", "1 or more", self.candidates)
        check(0 <= self.min_calibrate <= 1, "min_calibrate", "a closeness in [0, 1]", self.min_calibrate)
        check(self.min_words >= 0, "min_words", "0 or more", self.min_words)
        check(self.max_words >= self.min_words, "max_words", "not below min_words", self.max_words)
        check(self.copy_words is None or self.copy_words >= 1, "copy_words", "1 or more, or null", self.copy_words)
        share, twins = self.copy_share, self.near_duplicate
        check(share is None or 0 <= share <= 1, "copy_share", "a share in [0, 1], or null", share)
        check(all(p.strip() for p in self.leak_phrases), "leak_phrases", "non-empty phrases", self.leak_phrases)
        check(
            self.language is None or re.fullmatch("[a-z]{2}", self.language) is not None,
            "language",
            "two letters as in 'en', or null",
            self.language,
        )
        check(twins is None or 0.7 <= twins <= 1, "near_duplicate", "a similarity in [0.7, 1], or null", twins)
        check(self.balance in (None, *BALANCES), "balance", f"one of {BALANCES}, or null", self.balance)
        check(
            self.balance is None or self.limit is not None, "limit", "a balance needs the number to choose", self.limit
        )
        if self.shard is not None:
            self._check_shard()

    def _check_shard(self) -> None:
        part, parts = self.part
        if not 0 <= part < parts:
            raise ConfigError(
                f"synth.shard: 'i/n' with 0 <= i < n, for example '0/4'; got {self.shard!r}; mend the config"
            )
        if self.limit is not None and self.balance is None:
            raise ConfigError(
                f"synth.limit: {self.limit} with synth.shard={self.shard}: no shard can know when all of them together have "
                "enough; set synth.limit=null and bound the cost by a budget of the teacher"
            )

    @property
    def part(self) -> tuple[int, int]:
        """Number of this shard from 0, and how many there are; (0, 1) for a run in one piece."""
        found = re.fullmatch(r"(\d+)/(\d+)", self.shard or "0/1")
        return (int(found[1]), int(found[2])) if found else (0, 0)
