"""The same seed draws the same numbers."""

import random

import numpy as np
import torch

from runtime.seeds import seed_everything, set_threads


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_one_seed_fixes_python_numpy_and_torch():
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_threads_are_set_and_zero_leaves_them():
    before = torch.get_num_threads()
    try:
        set_threads(1)
        set_threads(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
