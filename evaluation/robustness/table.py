"""What came out: one table, plots over the levels, and the same as JSON."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from evaluation.compare.contrast import Comparison
from evaluation.compare.tables import p_text, span
from evaluation.plot import INK, SERIES, plot
from evaluation.report import LOWER_IS_BETTER
from evaluation.robustness.conditions import Condition
from evaluation.score import align
from evaluation.stats import Interval, cell

CLEAN = "clean"
"""The arm that nothing was done to."""
AXES = {"snr": "signal-to-noise ratio (dB)", "dropped": "share of frames lost", "words": "word error rate"}
"""Kinds with levels, and what these are."""


def printed(found: Comparison) -> str:
    """A row for each metric and condition, for a terminal."""
    differences = {(c.metric, c.arm): c for c in found.contrasts}
    rows = []
    for metric in found.arms[0].metrics:
        title = f"{metric} {'↓' if metric in LOWER_IS_BETTER else '↑'}"
        for arm in found.arms:
            versus = ["", "", ""]
            if (c := differences.get((metric, arm.arm))) is not None:
                d = c.difference
                versus = [f"{d.value:+.3f} [{d.lo:+.3f}, {d.hi:+.3f}]", p_text(d.p), p_text(c.holm)]
            rows.append((title if arm.arm == CLEAN else "", arm.arm, span(arm.metrics[metric]), *versus))
    rows.insert(0, ("metric", "condition", "value", f"minus {CLEAN}", "p", "p (Holm)"))
    width = max(len(title) for title, *_ in rows)
    note = (
        f"{found.items} clips, {found.units} {found.unit}s; 95 % intervals over {found.unit}s; differences are paired; Holm over "
        f"{len(found.contrasts)}."
    )
    return align([[f"{title:<{width}}  {arm}", *cells] for title, arm, *cells in rows]) + f"\n\n{note}"


def outcome(found: Comparison) -> dict[str, Any]:
    """The same for programs: condition -> metric -> value, lo, hi; and under `differences` each one's test against clean."""
    return {
        "items": found.items,
        "unit": found.unit,
        "units": found.units,
        "conditions": {arm.arm: {name: cell(i) for name, i in arm.metrics.items()} for arm in found.arms},
        "differences": [
            {
                "condition": c.arm,
                "metric": c.metric,
                **cell(c.difference),
                "p": c.difference.p,
                "holm": c.holm,
            }
            for c in found.contrasts
        ],
    }


def plots(found: Comparison, conditions: Sequence[Condition]) -> str:
    """Every metric over the levels of every kind that has two or more, beside its clean value."""
    of = {arm.arm: arm.metrics for arm in found.arms}
    drawn = []
    for kind, axis in AXES.items():
        levels = [c for c in conditions if c.kind == kind]
        if len(levels) > 1:
            drawn += [plot(f"{metric}: {axis}", _draw(metric, axis, levels, of)) for metric in found.arms[0].metrics]
    return f'<div class="plots">{"".join(drawn)}</div>'


def _draw(
    metric: str, axis: str, levels: Sequence[Condition], of: Mapping[str, Mapping[str, Interval]]
) -> Callable[[Axes], str]:
    def draw(axes: Axes) -> str:
        some = sorted(levels, key=lambda c: float(c.level))
        x, cells = [float(c.level) for c in some], [of[c.name][metric] for c in some]
        clean = of[CLEAN][metric]
        axes.axhline(clean.value, color=INK, linestyle="--", label=CLEAN)
        axes.plot(x, [cell.value for cell in cells], color=SERIES[0], marker="o", label="worse")
        axes.fill_between(x, [c.lo for c in cells], [c.hi for c in cells], color=SERIES[0], alpha=0.15, linewidth=0)
        axes.set_xlabel(axis)
        if levels[0].kind == "snr":
            axes.invert_xaxis()  # worse to the right, as in the others
        axes.legend()
        told = "; ".join(f"{a:g}: {cell.value:.3f}" for a, cell in zip(x, cells, strict=True))
        return f"Clean {clean.value:.3f}; {told}. Band: 95 %."

    return draw
