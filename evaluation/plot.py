"""Plots of the pages: inline SVG in the page's own colours, light and dark, with a caption that can be read aloud."""

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Matplotlib draws in these colours; CSS variables take their places, so that plots follow light and dark.
INK, GRID, SERIES = "#010101", "#020202", [f"#03030{i}" for i in range(1, 7)]
COLOURS = {INK: "currentColor", GRID: "var(--line)"} | {c: f"var(--c{i})" for i, c in enumerate(SERIES, 1)}
STYLE_OF_PLOTS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "undertone",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.prop_cycle": cycler(color=SERIES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)


def plot(title: str, draw: Callable[[Axes], str], height: float = 3.2) -> str:
    """A figure as inline SVG; `draw` fills the axes and returns the caption."""
    with matplotlib.rc_context(STYLE_OF_PLOTS):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        caption = draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Type", "Format"))
        )
    svg = out.getvalue()
    slug = re.sub(r"\W+", "-", title.lower())  # several plots share one page, and so its ids
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{slug}-", svg[svg.index("<svg") :])
    for drawn, wanted in COLOURS.items():
        svg = svg.replace(drawn, wanted)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(f"{title}. {caption}")}" ', 1)
    return f"<figure><h3>{escape(title)}</h3>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
