"""From outcomes, in the order of asking, to the files of a run; records are read and written one by one.

folder/chains.jsonl     accepted: the records with `rationale` and `meta.synth`
folder/rejected.jsonl   every draft that was not taken, with the step of the protocol and the reason
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_synth.balance import cell, quotas
from data_synth.config import SynthConfig
from data_synth.duplicates import Duplicates
from data_synth.outcomes import Outcome
from runtime.files import whole_file


def write_files(outcomes: Iterable[Outcome], settings: SynthConfig, folder: Path) -> dict[str, Any]:
    """Choose among the accepted chains and write both files, each whole or not at all.

    Args:
        outcomes: in the order of asking; gone through twice when there is a balance.
        settings: `near_duplicate`, `balance` and `limit`.
        folder: of the run.

    Returns:
        `asked`, `accepted`, `rejected` {kind of reason: count of drafts}, `by_coarse` {coarse gold: {asked, accepted}}.
    """
    asked: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with whole_file(folder / "chains.jsonl") as chains, whole_file(folder / "rejected.jsonl") as rejected:
        for outcome in _chosen(outcomes, settings):
            asked[outcome.coarse] += 1
            if outcome.chain is not None:
                accepted[outcome.coarse] += 1
                chains.write(_line(outcome.chain))
            for row in outcome.rejected:
                reasons[row["reason"].partition(":")[0]] += 1
                rejected.write(_line(row))
    return {
        "asked": asked.total(),
        "accepted": accepted.total(),
        "rejected": dict(reasons.most_common()),
        "by_coarse": {c: {"asked": asked[c], "accepted": accepted[c]} for c in sorted(asked)},
    }


def _chosen(outcomes: Iterable[Outcome], settings: SynthConfig) -> Iterator[Outcome]:
    """Outcomes with chains that are not chosen among the rejected ones."""
    if settings.balance is None:
        yield from _up_to(_distinct(outcomes, settings.near_duplicate), settings.limit)
        return
    assert settings.limit is not None, "the config was checked"
    found = _distinct(outcomes, settings.near_duplicate)
    counts = Counter(cell(o, settings.balance) for o in found if o.chain is not None)
    left = quotas(counts, settings.limit)
    for outcome in _distinct(outcomes, settings.near_duplicate):
        if outcome.chain is not None:
            kind = cell(outcome, settings.balance)
            left[kind] -= 1
            if left[kind] < 0:
                outcome = outcome.unselected(f"balance: enough of {kind}")
        yield outcome


def _distinct(outcomes: Iterable[Outcome], least: float | None) -> Iterator[Outcome]:
    """Outcomes whose chain repeats none that came before."""
    if least is None:
        yield from outcomes
        return
    seen = Duplicates(least)
    for outcome in outcomes:
        twin = None if outcome.chain is None else seen.find(outcome.uid, outcome.explanation)
        yield outcome if twin is None else outcome.unselected(f"near duplicate: of {twin}")


def _up_to(outcomes: Iterable[Outcome], limit: int | None) -> Iterator[Outcome]:
    """Up to the record that gives the last chain wanted."""
    kept = 0
    for outcome in outcomes:
        yield outcome
        kept += outcome.chain is not None
        if kept == limit:
            return


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
