"""Scores -> rewards -> advantages.

    A_i = r_i - mean(r)                  over the siblings i of one prompt (Dr. GRPO, arXiv 2503.20783)
    A_i = (r_i - mean(r)) / (std(r) + e) with scale="group" (GRPO, arXiv 2402.03300)

With baseline="context", hinted and unhinted siblings each have a mean and deviation of their own (ADHint, arXiv 2512.13095):
a hint makes the answer easier, and a shared mean would punish whoever had to do without.

Axes: B prompts, G siblings.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from rewards.missing import fill_missing
from rewards.total import reward
from rl.rollout import Rollout

EPSILON = 1e-4
"""Added to the deviation, as in TRL."""


def reward_of(
    rollout: Rollout,
    weights: Mapping[str, float],
    count_leaked: bool,
    estimates: Mapping[str, float | None] = MappingProxyType({}),
) -> float | None:
    """Weighted mean of the parts of one rollout, in [0, 1]; None where nothing can be scored.

    Args:
        weights: of the parts.
        count_leaked: whether the verdict counts where a hint has given it away.
        estimates: parts that go before the rollout's own.
    """
    parts = {**rollout.score.parts, **estimates}
    if rollout.tells and not count_leaked and rollout.score.fault is None:
        parts["discriminate"] = None
    return reward(parts, weights)


def rewards_to_compare(rows: Sequence[Rollout], weights: Mapping[str, float], count_leaked: bool) -> list[float | None]:
    """Rewards of the siblings of one group. Where a judge was not heard on some, with estimates of its part for all of them.

    Their expectation is the reward that there would have been (`rewards/missing.py`); some may lie outside [0, 1].
    """
    scores = [r.score for r in rows]
    if not any(s.unheard for s in scores):
        return [reward_of(r, weights, count_leaked) for r in rows]
    asked = [s.unheard or (s.fault is None and s.parts["explanation"] is not None) for s in scores]
    filled = fill_missing([s.parts["explanation"] for s in scores], asked)
    return [reward_of(r, weights, count_leaked, {"explanation": e}) for r, e in zip(rows, filled, strict=True)]


def advantages(
    rewards_BG: Sequence[Sequence[float | None]],
    hinted_BG: Sequence[Sequence[bool]],
    *,
    baseline: str,
    scale: str,
) -> torch.Tensor:
    """Advantage of every rollout.

    Args:
        rewards_BG: total rewards, None where nothing could be scored.
        hinted_BG: which rollouts were written behind a hint.
        baseline: "shared" (one mean per prompt) or "context" (one for hinted, one for unhinted siblings).
        scale: "none" or "group" (divide by the standard deviation of the same siblings, n - 1 in the denominator).

    Returns:
        (B, G) float32; 0 for an unscorable rollout, and for one that has no sibling to be compared with.
    """
    r_BG = torch.tensor([[float("nan") if r is None else r for r in row] for row in rewards_BG])
    hinted = torch.tensor(hinted_BG)
    out_BG = torch.zeros_like(r_BG)
    contexts = [torch.ones_like(hinted)] if baseline == "shared" else [hinted, ~hinted]
    for context in contexts:
        for b in range(len(r_BG)):
            of = context[b] & ~r_BG[b].isnan()
            if of.sum() < 2:
                continue
            r = r_BG[b, of]
            if (r == r[0]).all():  # exactly 0, which `r - r.mean()` misses by rounding
                continue
            centred = r - r.mean()
            out_BG[b, of] = centred / (r.std() + EPSILON) if scale == "group" else centred
    return out_BG
