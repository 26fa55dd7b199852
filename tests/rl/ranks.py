"""Functions run by several processes that train together over gloo, as torchrun would start them."""

import faulthandler
import io
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

LIMIT = 400
"""Seconds after which a process that hangs says where, and ends."""

# A server that has imported everything once forks the ranks: each would otherwise import for as long as it then works. A fork
# of the tests' own process would not do: autograd does not survive one.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["rl.trainer", "sft.train"])


def _rank(work: Callable[..., Any], args: tuple, rank: int, ranks: int, port: int, answer: Connection) -> None:
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    if ranks > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
        }
    torch.set_num_threads(1)
    try:
        found = io.BytesIO()  # a tensor that is sent as it is stays behind in the process that ends
        torch.save(work(*args), found)
        answer.send((found.getvalue(), None))
    except Exception:
        answer.send((None, traceback.format_exc()))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def together(work: Callable[..., Any], *args: Any, ranks: int = 2) -> list[Any]:
    """What `work(*args)` returns on each rank; `work` is a function of a module, and all of it can be pickled.

    Raises:
        AssertionError: with the traceback of the rank that failed first.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(ranks):
        here, there = _context.Pipe(duplex=False)
        process = _context.Process(target=_rank, args=(work, args, rank, ranks, port, there), daemon=True)
        process.start()
        there.close()
        started.append((process, here))
    answers: dict[int, bytes] = {}
    errors: dict[int, str] = {}
    while len(answers) < ranks and not errors:  # when one has failed, the others wait for it
        for here in wait([here for rank, (_, here) in enumerate(started) if rank not in answers], LIMIT + 30):
            rank = next(i for i, (_, own) in enumerate(started) if own is here)
            try:
                found, error = here.recv()
            except EOFError:
                found, error = b"", "died or hung; where is in the output"
            answers[rank] = found
            errors |= {rank: error} if error else {}
    for process, _ in started:
        process.kill() if errors else process.join(30)
    assert not errors, "\n".join(f"rank {rank}: {error}" for rank, error in errors.items())
    return [torch.load(io.BytesIO(answers[rank]), weights_only=False) for rank in range(ranks)]
