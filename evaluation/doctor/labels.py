"""Labels that no rater gave, and labels far away from all others."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evaluation.doctor.findings import Finding
from tasks.record import Record
from tasks.target import RATER_STEP, Class, Composite, Ordinal, Scalar, Target, Vector

FAR = 5.0
"""Robust z-score beyond which a label is far away: of normally distributed labels one in 1.7 million is."""
FEWEST = 20
"""Fewer labels than this have no usual distance from their median."""


def numbers(target: Target) -> dict[str, tuple[float, float]]:
    """What a target says in numbers: name -> value and width of its scale."""
    match target:
        case Scalar(x=x, lo=lo, hi=hi):
            return {"x": (x, hi - lo)}
        case Ordinal(level=level, levels=levels):
            return {"level": (float(level), len(levels) - 1.0)}
        case Vector(names=names, x=xs, lo=lo, hi=hi):
            return {name: (x, hi - lo) for name, x in zip(names, xs, strict=True) if x is not None}
        case Composite(fields=fields):
            return {f"{k}.{name}" if name != "x" else k: v for k, f in fields.items() for name, v in numbers(f).items()}
    return {}


def bad_labels(records: Sequence[Record]) -> Iterator[Finding]:
    """Findings of the kinds `label` (against the raters) and `outlier` (against the corpus)."""
    for record in records:
        if reason := _against_raters(record):
            yield Finding("label", record.uid, reason)
    usual = _usual([numbers(record.target) for record in records])
    for record in records:
        for name, (x, _) in numbers(record.target).items():
            if name in usual and abs(z := (x - usual[name][0]) / usual[name][1]) > FAR:
                reason = (
                    f"target.{name}: {x:g} lies {abs(z):.1f} robust deviations from the corpus' median {usual[name][0]:g}; look "
                    "at it, and mend or remove the row"
                )
                yield Finding("outlier", record.uid, reason)


def _against_raters(record: Record) -> str | None:
    """Why a label cannot be a consensus of its raters, with a step of one rater to spare."""
    given: dict[str, list[float | str]] = {}
    for _, name, value in record.raters or ():
        given.setdefault(name, []).append(value)
    for name, (x, width) in numbers(record.target).items():
        rated = [float(v) for v in given.get(name, ()) if isinstance(v, int | float)]
        if rated and not min(rated) - RATER_STEP * width <= x <= max(rated) + RATER_STEP * width:
            said = f"its {len(rated)} raters said {min(rated):g} to {max(rated):g}"
            return f"target.{name}: {x:g}, and {said}; mend the label, or the ratings"
    if isinstance(record.target, Class):
        named = [v for v in given.get("label", ()) if isinstance(v, str)]
        if named and record.target.label not in named:
            said = ", ".join(sorted(set(named)))
            return f"target.label: {record.target.label!r}, and its raters said {said}; mend the label, or the ratings"
    return None


def _usual(rows: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Name -> median and robust deviation (median absolute deviation x 1.4826) of the labels.

    Where more than half of the labels are equal that deviation is 0, and the mean absolute deviation x 1.2533 takes its place
    (Iglewicz and Hoaglin 1993).
    """
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, (x, _) in row.items():
            columns.setdefault(name, []).append(x)
    found = {}
    for name, column in columns.items():
        off = np.abs(np.array(column) - np.median(column))
        deviation = 1.4826 * float(np.median(off)) or 1.2533 * float(off.mean())
        if len(column) >= FEWEST and deviation:
            found[name] = float(np.median(column)), deviation
    return found
