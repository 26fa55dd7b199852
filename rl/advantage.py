"""Parts and weights -> rewards -> advantages.

    reward     r = sum_k w_k p_k / sum_k w_k        over the parts k that could be scored
    advantage  A_i = r_i - mean(r)                  over the siblings i of one prompt (Dr. GRPO, arXiv 2503.20783)
               A_i = (r_i - mean(r)) / (std(r) + e) with scale="group" (GRPO, arXiv 2402.03300)

With baseline="context", hinted and unhinted siblings each have a mean and deviation of their own (ADHint, arXiv 2512.13095):
a hint makes the answer easier, and a shared mean would punish whoever had to do without.

Axes: B prompts, G siblings, K parts.
"""

from collections.abc import Mapping, Sequence

import torch

EPSILON = 1e-4
"""Added to the deviation, as in TRL."""


def reward(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Weighted mean of the parts that could be scored, in [0, 1]; None when none with a weight could."""
    known = [(weights[name], value) for name, value in parts.items() if value is not None and weights[name] > 0]
    total = sum(weight for weight, _ in known)
    return sum(weight * value for weight, value in known) / total if known else None


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
