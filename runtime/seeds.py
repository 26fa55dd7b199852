"""One seed for everything that draws, and a fixed number of threads."""

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (its GPUs included). Call it where a stage begins: stages stay independent."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_threads(threads: int) -> None:
    """Threads of one torch operation; 0 leaves torch's own choice.

    On cores that are shared with other jobs one thread is best: two that wait for each other can be ten times slower. The
    number also belongs to what makes a run repeatable, since sums are split by thread.
    """
    if threads:
        torch.set_num_threads(threads)
