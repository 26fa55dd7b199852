"""`strategies.html`: table, curves over samples, reliability and risk; one file that opens offline."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes

from evaluation.browser import POLICY
from evaluation.page import CSS, missing, table
from evaluation.plot import INK, SERIES, plot
from evaluation.report import LOWER_IS_BETTER
from evaluation.strategies.config import SAMPLED
from evaluation.strategies.outcome import BINS
from evaluation.strategies.table import calibration_rows, notes, rows


def strategies_page(title: str, result: Mapping[str, Any]) -> str:
    """The page.

    Args:
        title: of the page.
        result: what `strategies.json` holds.
    """
    sections = {
        "Gain and cost": _tables(result) + "".join(map(_soft, notes(result))),
        "Over samples": _curves(result),
        "Does the share of the vote mean anything?": _calibration(result),
    }
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>" for name, content in sections.items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Undertone: {escape(title)}</title><style>{CSS}</style></head>
<body><header><h1>{escape(title)}</h1></header><main>{body}</main></body></html>
"""


def _tables(result: Mapping[str, Any]) -> str:
    """One table a metric: a row for each strategy."""
    (_, *head), *body = rows(result)
    pieces, n = [], len(result["strategies"])
    for start in range(0, len(body), n):
        metric = body[start][0]
        cells = {name: [f"<td>{escape(cell)}</td>" for cell in line] for _, name, *line in body[start : start + n]}
        pieces.append(f"<h3>{escape(metric)}</h3>{table(metric, head, cells)}")
    return "".join(pieces)


def _soft(sentence: str) -> str:
    return f'<p class="soft">{escape(sentence)}</p>'


def _curves(result: Mapping[str, Any]) -> str:
    if not result["curves"]:
        return missing("Neither vote nor rerank was asked for.")
    metrics = next(iter(result["strategies"].values()))["metrics"]
    return f'<div class="plots">{"".join(_curve(metric, result) for metric in metrics)}</div>'


def _curve(metric: str, result: Mapping[str, Any]) -> str:
    """One metric over the tokens of a clip: a line with its band for what looks at samples, a point for what does not."""

    def draw(axes: Axes) -> str:
        for i, (name, points) in enumerate(result["curves"].items()):
            tokens, cells = [p["tokens"] for p in points], [p["metrics"][metric] for p in points]
            axes.plot(tokens, [c["value"] for c in cells], color=SERIES[i], marker="o", label=name)
            axes.fill_between(tokens, [c["lo"] for c in cells], [c["hi"] for c in cells], color=SERIES[i], alpha=0.15)
        singles = [name for name in result["strategies"] if name not in SAMPLED]
        for i, name in enumerate(singles, len(result["curves"])):
            found = result["strategies"][name]
            cell = found["metrics"][metric]
            axes.plot([found["tokens"]], [cell["value"]], color=SERIES[i], marker="s", linestyle="none", label=name)
            axes.vlines(found["tokens"], cell["lo"], cell["hi"], color=SERIES[i])  # percentiles need not hold the value
        axes.set_xscale("log", base=2)
        ticks = [p["tokens"] for p in next(iter(result["curves"].values()))]
        axes.set_xticks(ticks, [f"{t:.0f}" for t in ticks], minor=False)
        axes.set(xlabel="generated tokens a clip", ylabel=metric)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)  # no corner is free for certain
        sizes = ", ".join(str(p["samples"]) for p in next(iter(result["curves"].values())))
        better = "lower" if metric in LOWER_IS_BETTER else "higher"
        return f"The first {sizes} of the same samples; {better} is better. Bands and bars: 95 % intervals."

    return plot(metric, draw)


def _calibration(result: Mapping[str, Any]) -> str:
    if result["calibration"] is None:
        return missing("Neither vote nor rerank was asked for, so no samples were drawn.")
    found = result["calibration"]
    head, *body = calibration_rows(result)
    cells = {words: [f"<td>{escape(value)}</td>"] for words, value in body}
    plots = _reliability(found["bins"]) + _risk(found["risk"])
    return f'{table("Calibration", head, cells)}<div class="plots">{plots}</div>'


def _reliability(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    def draw(axes: Axes) -> str:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
        for how, colour, words in (("width", SERIES[0], "equal width"), ("mass", SERIES[1], "equal mass")):
            points = bins[how]
            total = sum(b["n"] for b in points)
            x, y = [b["confidence"] for b in points], [b["accuracy"] for b in points]
            axes.plot(x, y, color=colour, linewidth=1, alpha=0.6)
            axes.scatter(x, y, s=[12 + 400 * b["n"] / total for b in points], color=colour, alpha=0.7, label=words)
        axes.set(
            xlabel="share of the samples", ylabel="share of the votes that are right", xlim=(0, 1.02), ylim=(0, 1.02)
        )
        axes.legend(loc="upper left")
        return f"Dashed: a share that means what it says. At most {BINS} bins; the larger a point, the more clips."

    return plot("Reliability", draw, height=4.2)


def _risk(risk: Mapping[str, Sequence[float]]) -> str:
    def draw(axes: Axes) -> str:
        n = len(risk["shares"])
        coverage = [k / n for k in range(1, n + 1)]
        blind = risk["best"][-1]
        axes.plot(coverage, risk["shares"], color=SERIES[0], label="share of the vote")
        axes.plot(coverage, risk["best"], color=SERIES[2], linestyle="--", label="best possible")
        axes.axhline(blind, color=INK, linewidth=0.8, linestyle=":", label="knowing nothing")
        axes.set(xlabel="coverage: clips answered, the surest first", ylabel="risk: share of them wrong")
        axes.set_ylim(bottom=0)
        axes.legend()
        at = {share: risk["shares"][max(0, round(share * n) - 1)] for share in (0.5, 0.8)}
        words = ", ".join(f"{r:.3f} of the surest {share:.0%}" for share, r in at.items())
        return f"Wrong are {words}, and {blind:.3f} of all."

    return plot("Risk and coverage", draw, height=4.2)
