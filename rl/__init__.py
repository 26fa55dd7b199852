"""Hint-GRPO: where a whole group of rollouts gets the direction wrong, the direction is given as a hint."""

import os

# `rollout_func` is marked experimental in TRL 1.16, which pyproject pins; its warning would come at every start.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
