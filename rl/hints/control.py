"""When hints are given, and what is remembered of them from step to step.

    warm-up   no hints in the first `hint.warmup` of the steps: the policy is to meet its own mistakes first
    constant  then every stuck prompt is hinted
    cosine    with probability (1 + cos(pi t)) / 2, t from 0 after the warm-up to 1 at the last step
    ema       until a running mean of the share of prompts that some unhinted rollout solves passes `hint.ema_off`; then never again
              (cosine and the switch: LANG, arXiv 2605.22567, whose switch looks at each group's advantages)

The adaptive strategy holds the success of hinted rows near `hint.target` by the length of what it gives away:
length <- clip(length + gain * (target - success), 0, 1); at 0 nothing is left to give, and hints have withdrawn by themselves.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from rl.config import HintConfig


@dataclass(slots=True)
class HintState:
    """What hints remember; part of every checkpoint, and the same on all ranks."""

    length: float
    """Adaptive: the share of a reference chain that is given away."""
    solvable: float = 0.0
    """Running mean of the share of prompts that some unhinted rollout solved; from 0: one batch cannot end hints for good."""
    off: bool = False
    """Switched off for good, by `schedule=ema`."""

    @classmethod
    def start(cls, cfg: HintConfig) -> "HintState":
        """Before the first step."""
        return cls(cfg.start)

    def to_json(self) -> dict[str, Any]:
        """For `HintState(**...)`."""
        return asdict(self)

    def probability(self, cfg: HintConfig, step: float, steps: int) -> float:
        """That a stuck prompt is hinted in optimizer step `step` of `steps`, counted from 0."""
        first = cfg.warmup * steps
        if cfg.strategy == "none" or step < first or self.off:
            return 0.0
        if cfg.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1.0, steps - 1 - first)))
        return 1.0

    def learn(self, cfg: HintConfig, solvable: tuple[int, int], hinted: tuple[int, int]) -> None:
        """Take in a step.

        Args:
            cfg: the settings.
            solvable: prompts that an unhinted rollout solved, of all that had one.
            hinted: hinted rollouts that were solved, of all.
        """
        if solvable[1]:
            self.solvable = cfg.ema_decay * self.solvable + (1 - cfg.ema_decay) * solvable[0] / solvable[1]
            if cfg.schedule == "ema" and self.solvable > cfg.ema_off:
                self.off = True
        if cfg.strategy == "adaptive" and hinted[1]:
            error = cfg.target - hinted[0] / hinted[1]
            self.length = min(1.0, max(0.0, self.length + cfg.gain * error))

    def likelihood(self, cfg: HintConfig, step: float, steps: int) -> float:
        """Weight of the likelihood of forced openings: from `hint.likelihood` to 0 along a half cosine (UFT, arXiv 2505.16984)."""
        return cfg.likelihood * 0.5 * (1 + math.cos(math.pi * step / max(1, steps - 1)))
