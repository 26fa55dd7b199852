"""What came out as text: one table in which every gain stands beside its cost, and the notes that belong to it."""

from collections.abc import Mapping
from typing import Any

from evaluation.compare.tables import p_text
from evaluation.report import LOWER_IS_BETTER
from evaluation.score import align
from evaluation.strategies.config import REFERENCE, SAMPLED
from evaluation.strategies.outcome import PER

HEAD = ("metric", "strategy", "value", f"minus {REFERENCE}", "p", "p (Holm)", "tokens", "calls", f"gain / {PER} tokens")
CALIBRATION = {
    "ece": "ECE (equal width)",
    "ece_mass": "ECE (equal mass)",
    "brier": "Brier",
    "aurc": "AURC",
    "aurc_best": "AURC, best possible",
    "risk": "AURC, knowing nothing (share of wrong votes)",
    "confidence": "mean share",
}
"""Keys of `calibration_metrics` in words."""


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The head, then a row for each metric and strategy."""
    differences = {(d["metric"], d["strategy"]): d for d in result["differences"]}
    found = [list(HEAD)]
    for metric in result["strategies"][REFERENCE]["metrics"]:
        for name, of in result["strategies"].items():
            first = name == REFERENCE
            title = f"{metric} {'↓' if metric in LOWER_IS_BETTER else '↑'}" if first else ""
            versus = ["", "", "", ""] if first else _versus(differences[metric, name])
            cost = [f"{of['tokens']:.1f}", f"{of['calls']:.2g}"]
            found.append([title, label(name, result), _span(of["metrics"][metric]), *versus[:3], *cost, versus[3]])
    return found


def printed(result: Mapping[str, Any]) -> str:
    """`rows` for a terminal, metric and strategy in the first column."""
    found = rows(result)
    width = max(len(metric) for metric, *_ in found)
    return align([[f"{metric:<{width}}  {name}", *cells] for metric, name, *cells in found])


def label(name: str, result: Mapping[str, Any]) -> str:
    """A strategy with what distinguishes it: "vote of 16", "rerank of 16 by logprob"."""
    if name not in SAMPLED:
        return name
    return f"{name} of {result['samples']}" + (f" by {result['scorer']}" if name == "rerank" else "")


def notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of the table."""
    n, found = result["items"], result["strategies"]
    lines = [
        f"{n} clips, {result['units']} {result['unit']}s; 95 % intervals over {result['unit']}s ({result['resamples']} bootstrap "
        f"samples); differences are paired, by Student's t as evaluation.compare has them, Holm over {len(result['differences'])}.",
        f"Tokens (generated) and calls (completions) are for a clip: what the strategy alone would take, though samples are "
        f"drawn once for all. A prompt ({found[REFERENCE]['prompt']:.0f} tokens) is read once, whatever comes behind it"
        + (f" (with refine's second turn {found['refine']['prompt']:.0f})" if "refine" in found else "")
        + ". Gain: what got better, over the tokens more than greedy's.",
    ]
    for name in (name for name in SAMPLED if name in found):
        drawn = n * result["samples"]
        lines.append(f"{name}: {found[name]['unread']} of {drawn} samples cannot be read and count for nothing.")
    if "refine" in found:
        lines.append(
            f"refine: the first answer stands in {found['refine']['unread']} of {n} clips, whose second cannot be read."
        )
    return lines


def calibration_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The shares of the vote: a row for each number, with its interval."""
    cells = result["calibration"]["metrics"]
    return [
        [f"share of {result['samples']}", "value"],
        *([words, _span(cells[key])] for key, words in CALIBRATION.items()),
    ]


def _versus(d: Mapping[str, Any]) -> list[str]:
    difference = f"{d['value']:+.3f} [{d['lo']:+.3f}, {d['hi']:+.3f}]"
    return [difference, p_text(d["p"]), p_text(d["holm"]), "-" if d["gain"] is None else f"{d['gain']:+.4f}"]


def _span(cell: Mapping[str, float]) -> str:
    return f"{cell['value']:.3f} [{cell['lo']:.3f}, {cell['hi']:.3f}]"
