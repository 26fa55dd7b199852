"""What came out as tables: in Markdown, in LaTeX, and as page.py shows them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.compare.contrast import Comparison, Summary
from evaluation.compare.race import WINDOW, Race, Reach
from evaluation.compare.slices import Slice
from evaluation.compare.versus import Versus
from evaluation.report import LOWER_IS_BETTER
from evaluation.stats import Interval


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text, with what a reader has to know of them."""

    notes: Sequence[str]
    """Paragraphs in front."""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(tables: Sequence[Table]) -> str:
    """Notes and tables, one below the other."""
    return "\n\n".join(piece for t in tables for piece in (*t.notes, table(t.head, t.rows)))


def results(comparison: Comparison) -> list[Table]:
    """Two tables: what every arm scored, and its difference to the reference."""
    metrics = list(comparison.arms[0].metrics)
    titles = [f"{m} {'↓' if _lower(m) else '↑'}" for m in metrics]
    reference = comparison.arms[0].arm
    scored = [
        [
            arm.arm + (" (reference)" if arm.arm == reference else ""),
            str(len(arm.seeds)),
            _count(arm.tokens),
            *(span(i) for i in arm.metrics.values()),
        ]
        for arm in comparison.arms
    ]
    tested = [
        [
            c.arm,
            c.metric,
            f"{c.difference.value:+.3f} [{c.difference.lo:+.3f}, {c.difference.hi:+.3f}]",
            p_text(c.difference.p),
            p_text(c.holm),
            "paired" if c.paired else "independent",
        ]
        for c in comparison.contrasts
    ]
    notes = [
        f"{comparison.items} items{_of(comparison.where)}. Means over seeds, 95 % intervals over seeds and {comparison.units} "
        f"{comparison.unit}s ({comparison.resamples} bootstrap samples); Holm over a family of {len(tested)}."
    ]
    if lone := [arm.arm for arm in comparison.arms if len(arm.seeds) == 1]:
        notes.append(f"One seed: {', '.join(lone)}. What another seed would change there is not in the intervals.")
    head = ["arm", "seeds", "generated tokens", *titles]
    return [
        Table(notes, head, scored),
        Table([], ["arm", "metric", f"minus {reference}", "p", "p (Holm)", "seeds"], tested),
    ]


def race_table(found: Race) -> Table:
    """The tokens that every arm needed, and their share of the reference's budget."""
    budget = found.arms[0].budget

    def row(arm: Reach) -> list[str]:
        if arm.budget is None:
            return [arm.arm, "unknown", "unknown", "-", "-"]
        share = f"{arm.tokens / budget:.2f}" if arm.tokens is not None and budget else "-"
        needed = "not reached" if arm.tokens is None else _count(arm.tokens)
        return [arm.arm, _count(arm.budget), needed, share, f"{arm.reached} of {arm.seeds}"]

    reference = found.arms[0].arm
    note = (
        f"Generated tokens until {found.key}{_of(found.where)} reached {found.level:.3f}, where {reference} ended; mean over "
        f"seeds, trailing mean of {WINDOW} evaluations."
    )
    head = ["arm", "generated tokens", "until reached", f"share of {reference}", "seeds that reach it"]
    return Table([note], head, [row(arm) for arm in found.arms])


def versus_table(found: Sequence[Versus], reference: str) -> Table:
    """How often only one of two arms finds the side."""
    rows = [[v.arm, str(v.only_reference), str(v.only_arm), p_text(v.p)] for v in found]
    note = "Items on whose side a majority of one arm's seeds lies, and not of the other's; exact McNemar test, not corrected."
    return Table([note], ["arm", f"only {reference}", "only the arm", "p"], rows)


def slice_table(found: Slice) -> Table:
    """A row for each part and arm."""
    metrics = list(found.parts[0].arms[0].metrics) if found.parts else []
    rows = [
        [part.value, str(part.items), arm.arm, *(span(i) for i in arm.metrics.values())]
        for part in found.parts
        for arm in part.arms
    ]
    left = f" {found.left_out} more parts are smaller." if found.left_out else ""
    note = f"By {found.name}.{left} 95 % intervals; nothing is tested here."
    return Table([note], [found.name, "items", "arm", *metrics], rows)


def latex(comparison: Comparison) -> str:
    """The first table for a paper (needs booktabs): means with 95 % intervals, * where Holm's p of the difference is below .05."""
    metrics = list(comparison.arms[0].metrics)
    better = {(c.arm, c.metric): c.holm < 0.05 for c in comparison.contrasts}
    best = {m: (min if _lower(m) else max)(a.metrics[m].value for a in comparison.arms) for m in metrics}

    def cell(arm: Summary, metric: str) -> str:
        found, star = arm.metrics[metric], "^{*}" if better.get((arm.arm, metric)) else ""
        value = rf"\mathbf{{{found.value:.3f}}}" if found.value == best[metric] else f"{found.value:.3f}"
        return rf"${value}{star}$ {{\scriptsize [{found.lo:.3f}, {found.hi:.3f}]}}"

    arrow = {True: r"$\downarrow$", False: r"$\uparrow$"}
    head = " & ".join(["", *(f"{_tex(m)} {arrow[_lower(m)]}" for m in metrics)])
    body = [" & ".join([_tex(arm.arm), *(cell(arm, m) for m in metrics)]) for arm in comparison.arms]
    seeds = sorted({len(arm.seeds) for arm in comparison.arms})
    note = (
        f"% {comparison.items} items, {'/'.join(map(str, seeds))} seeds; *: differs from {_tex(comparison.arms[0].arm)}, "
        f"p < .05, Holm over {len(comparison.contrasts)} tests"
    )
    lines = [note, rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}", r"\toprule", head + r" \\", r"\midrule"]
    return "\n".join([*lines, *(line + r" \\" for line in body), r"\bottomrule", r"\end{tabular}"]) + "\n"


def _lower(metric: str) -> bool:
    return metric.rpartition("/")[2] in LOWER_IS_BETTER


def _tex(text: str) -> str:
    """With what LaTeX would take for commands escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def span(found: Interval) -> str:
    """A value with its interval; a dash where it is not defined on these items."""
    return "-" if math.isnan(found.value) else f"{found.value:.3f} [{found.lo:.3f}, {found.hi:.3f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _of(where: tuple[str, Any] | None) -> str:
    return "" if where is None else f" with {where[0]} = {json.dumps(where[1])}"


def _count(x: float | None) -> str:
    return "unknown" if x is None else f"{x:,.0f}"


def p_text(p: float) -> str:
    """With three digits, and never 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
