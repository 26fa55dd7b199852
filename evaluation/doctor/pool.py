"""Looks at all records in parallel processes, with progress. A file that brings a decoder down costs one process, not the scan."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch
from tqdm import tqdm

from evaluation.doctor.findings import Finding
from evaluation.doctor.media import Look
from tasks.record import Record

CHUNK = 8
"""Records that a process looks at before it answers."""

Looker = Callable[[Record], Look]
"""Reads the media of one record; has to be picklable."""


def look_at_all(records: Sequence[Record], looker: Looker, workers: int) -> dict[str, Look]:
    """What there is to know of each record, by uid, in their order.

    Args:
        records: whose media are read.
        looker: does it.
        workers: processes; 1 reads in this one.
    """
    found: dict[str, Look] = {}
    with tqdm(total=len(records), desc="media", unit="clip", leave=False, disable=None) as bar:
        for looks in _some(records, looker, workers):
            found |= {one.uid: one for one in looks}
            bar.update(len(looks))
    return {record.uid: found[record.uid] for record in records}


def _some(records: Sequence[Record], looker: Looker, workers: int) -> Iterator[list[Look]]:
    if workers == 1:
        yield from ([looker(record)] for record in records)
        return
    chunks = [records[i : i + CHUNK] for i in range(0, len(records), CHUNK)]
    lost: list[Record] = []
    with _pool(workers) as pool:
        of = {pool.submit(_look_at, looker, chunk): chunk for chunk in chunks}
        for future in as_completed(of):
            try:
                yield future.result()
            except BrokenProcessPool:  # all that are waiting get it when one process dies
                lost += of[future]
    yield from _one_by_one(lost, looker)


def _one_by_one(records: Sequence[Record], looker: Looker) -> Iterator[list[Look]]:
    """In a process that is replaced whenever it dies, which shows who is to blame."""
    left = list(records)
    while left:
        with _pool(1) as pool:
            while left:
                record = left.pop(0)
                try:
                    yield pool.submit(_look_at, looker, [record]).result()
                except BrokenProcessPool:
                    reason = (
                        "its media bring the decoder down (the process died); replace the files, or remove the record"
                    )
                    yield [Look(record.uid, {}, (Finding("unreadable", record.uid, reason),), 0.0)]
                    break


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")  # imports once; fork would copy torch's threads half alive
    context.set_forkserver_preload(["evaluation.doctor.media"])
    return ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,))


def _look_at(looker: Looker, records: Sequence[Record]) -> list[Look]:
    return [looker(record) for record in records]
