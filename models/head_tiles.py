"""The tile size of TRL's fused LM head, on a CPU.

The head folds its logits tile by tile, 4,096 tokens by 32,768 words of the vocabulary, each a matrix of up to 512 MB that a
CPU writes and reads back several times. With tiles that stay in its caches forward and backward take about half as long
(LOG.md), and the numbers are the same to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import trl.trainer.utils as trl_utils

WORDS = 256


@contextmanager
def small_tiles(device: torch.device) -> Iterator[None]:
    """Inside, the head of a forward on a CPU, and of its backward later on, has tiles of `WORDS` words."""
    stock = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE  # no argument leads there; tests/models/test_head_tiles.py
    if device.type == "cpu":
        trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = WORDS
    try:
        yield
    finally:
        trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = stock
