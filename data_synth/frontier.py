"""When to stop asking: how many chains are sure, counted in the order of asking, whatever order records are done in."""

from collections.abc import Sequence

from data_synth.config import SynthConfig
from data_synth.duplicates import Duplicates
from data_synth.outcomes import Outcomes

UNKNOWN, EMPTY, CHAIN = range(3)


class Frontier:
    """The place up to which every record is done.

    A limit cuts at the same record whoever answers first, and nobody waits for the slowest request: records after it are asked
    and done meanwhile. A byte a record is all that is kept in memory.

    Args:
        places: of the records, in the order of asking.
        outcomes: what is known of those done.
        settings: `limit` and `near_duplicate`; with a `balance`, which chooses among all, there is no stop.
    """

    def __init__(self, places: Sequence[int], outcomes: Outcomes, settings: SynthConfig) -> None:
        self._places, self._outcomes = places, outcomes
        self._limit = settings.limit if settings.balance is None else None
        duplicates = self._limit is not None and settings.near_duplicate is not None
        self._duplicates = Duplicates(settings.near_duplicate or 0) if duplicates else None
        self._done = bytearray(len(places))
        self._at = 0
        self._ahead = 0
        self.kept = 0
        """Chains before the frontier; those that repeat an earlier one do not count."""

    def take(self, index: int, chain: bool) -> None:
        """Record number `index` (into `places`) is done, with or without a chain."""
        self._done[index] = CHAIN if chain else EMPTY
        self._ahead += chain
        while not self.full and self._at < len(self._done) and self._done[self._at] != UNKNOWN:
            if self._done[self._at] == CHAIN:
                self._ahead -= 1
                self.kept += self._is_new(self._places[self._at])
            self._at += 1

    @property
    def enough(self) -> bool:
        """Whether the limit is reached by what is done, if nothing of it repeats another: no need to ask for more now."""
        return self._limit is not None and self.kept + self._ahead >= self._limit

    @property
    def full(self) -> bool:
        """Whether the limit is reached for sure."""
        return self.kept == self._limit

    def _is_new(self, place: int) -> bool:
        if self._duplicates is None:
            return True
        outcome = self._outcomes.at(place)
        return self._duplicates.find(outcome.uid, outcome.explanation) is None
