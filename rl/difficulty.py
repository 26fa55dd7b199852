"""How hard each record is: solve rates over the epochs, the hard ones among the records, and the order that an epoch shows them in.

Only unhinted rollouts count, with `rl.rollout.solved` as their outcome. A record whose label is borderline (`Target.borderline`)
is never called hard: failing on it may be the label's fault.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from trl.trainer.utils import RepeatSampler

from rl.config import ORDERS
from runtime.errors import ConfigError
from runtime.files import write_jsonl
from tasks.record import Record

NEWEST = 0.5
"""Weight of the newest visit in a record's solve rate: the policy moves on, and a visit of G rollouts is read to 1/G only."""

UNSEEN = 0.5
"""Rate that stands for records never visited: after those that mostly fail, before those that mostly succeed. Nothing is known
of them, and rewards vary most there."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of one record."""

    visits: int
    rollouts: int
    """Unhinted and scored, over all visits."""
    rate: float
    """Mean of the visits' solve rates, in [0, 1], each weighted `NEWEST` and its past the rest."""
    step: int
    """Of the last visit."""


class SolveMemory:
    """Solve rates by record, and as they were when the running epoch began: what a resumed run rebuilds its order from."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self.epoch: int | None = None
        self._at_start: dict[str, float] = {}

    def note(self, uid: str, solved: Sequence[bool | None], step: int) -> None:
        """Take in the unhinted rollouts of one visit; those that could not be scored (None) do not count.

        Every rank notes the visits of all ranks: they must agree on the order of the next epoch.
        """
        known = [s for s in solved if s is not None]
        if known:
            rate, past = sum(known) / len(known), self.seen.get(uid)
            if past is None:
                self.seen[uid] = Seen(1, len(known), rate, step)
            else:
                rate = NEWEST * rate + (1 - NEWEST) * past.rate
                self.seen[uid] = Seen(past.visits + 1, past.rollouts + len(known), rate, step)

    def rate(self, uid: str) -> float | None:
        """Solve rate in [0, 1]; None for a record that was never visited."""
        return self.seen[uid].rate if uid in self.seen else None

    def begin(self, epoch: int) -> Mapping[str, float]:
        """Rates by uid at the start of `epoch`: as they are now, or as they were where the epoch is running already."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._at_start = {uid: seen.rate for uid, seen in self.seen.items()}
        return self._at_start

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        seen = {uid: list(astuple(seen)) for uid, seen in self.seen.items()}
        return {"seen": seen, "epoch": self.epoch, "at_start": dict(self._at_start)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Become what `state` tells of; a sampler that holds this memory goes on from there."""
        self.seen = {uid: Seen(*seen) for uid, seen in state["seen"].items()}
        self.epoch = state["epoch"]
        self._at_start = dict(state["at_start"])

    def hard(self, records: Sequence[Record], below: float) -> list[str]:
        """Uids of the visited records whose rate is below `below`, in (0, 1], and whose label is not borderline."""
        return [
            record.uid
            for record in records
            if (rate := self.rate(record.uid)) is not None and rate < below and not record.target.borderline
        ]

    def export(self, path: Path, records: Sequence[Record], below: float) -> None:
        """Write one line a record, so that the hard ones can be named; see `hard` for `below`."""
        hard = set(self.hard(records, below))
        write_jsonl(
            path,
            (
                {
                    "uid": r.uid,
                    "group": r.group,
                    "coarse": r.target.coarse(),
                    "visits": self.seen[r.uid].visits if r.uid in self.seen else 0,
                    "rollouts": self.seen[r.uid].rollouts if r.uid in self.seen else 0,
                    "solve_rate": self.rate(r.uid),
                    "borderline": r.target.borderline,
                    "hard": r.uid in hard,
                }
                for r in records
            ),
        )


def order(records: Sequence[Record], rates: Mapping[str, float], how: str, generator: torch.Generator) -> list[int]:
    """In which order an epoch shows the records.

    none        uniform
    hard_first  the least solved first, so the always solved last; equals in random order
    balanced    every stretch mixes the seldom (rate below 1/3), sometimes and mostly (2/3 and above) solved as the whole epoch
                does: of each sort, the first L hold its share of L to within 1

    Borderline records count as solved half the time at least, which is never hard.

    Args:
        records: [R].
        rates: solve rates by uid, as `SolveMemory.begin` gives them; records without one count as `UNSEEN`.
        how: one of `ORDERS`.
        generator: what equals are shuffled with; `none` gives the order of TRL's sampler.

    Returns:
        [R] indices into `records`, each once.

    Raises:
        ConfigError: for an unknown `how`.
    """

    def rate(index: int) -> float:
        known = rates.get(records[index].uid, UNSEEN)
        return max(known, UNSEEN) if records[index].target.borderline else known

    shuffled = torch.randperm(len(records), generator=generator).tolist()
    match how:
        case "none":
            return shuffled
        case "hard_first":
            return sorted(shuffled, key=rate)
        case "balanced":
            sorts: list[list[int]] = [[], [], []]
            for index in shuffled:
                sorts[min(int(3 * rate(index)), 2)].append(index)
            # each sort is spread evenly over [0, 1]; equals stay shuffled, because sorting is stable
            place = {index: (i + 0.5) / len(sort) for sort in sorts for i, index in enumerate(sort)}
            return sorted(shuffled, key=place.__getitem__)
        case _:
            raise ConfigError(f"rl.order: one of {ORDERS}; got {how!r}; mend the config")


class DifficultySampler(RepeatSampler):
    """TRL's sampler, with each epoch's order drawn from seed + epoch and from the solve rates as the epoch began.

    The stock one draws every epoch's order from one generator, which a resumed run starts anew: it would see the prompts of
    the first epoch again. The Trainer calls `set_epoch` where a sampler has it, except when several ranks go on in the middle
    of an epoch (accelerate does not look through its SkipBatchSampler into its BatchSamplerShard): then it is the memory's.

    Args:
        records: [R] in the order of the data set.
        memory: solve rates, noted on all ranks alike; from the checkpoint in a resumed run, before the first batch.
        how: one of `ORDERS`.
        mini_repeat_count, batch_size, repeat_count: as in `RepeatSampler`.
        seed: of the orders.
    """

    def __init__(
        self,
        records: Sequence[Record],
        memory: SolveMemory,
        how: str,
        *,
        mini_repeat_count: int,
        batch_size: int,
        repeat_count: int,
        seed: int,
    ) -> None:
        super().__init__(records, mini_repeat_count, batch_size, repeat_count, shuffle=False)
        self.records, self.memory, self.how, self.first_seed = records, memory, how, seed
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the one that is iterated over next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        epoch = (self.memory.epoch or 0) if self.epoch is None else self.epoch
        generator = torch.Generator().manual_seed(self.first_seed + epoch)
        indices = order(self.records, self.memory.begin(epoch), self.how, generator)
        return (indices[place] for place in super().__iter__())
