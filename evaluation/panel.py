"""One answer as a panel of plain text, readable in any terminal, in a log, and without colour."""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

WIDEST, NARROWEST = 88, 56
"""Letters of a panel; in between it is as wide as the terminal."""
BAR = 20
"""Letters of a full bar."""
MOST_BARS = 5
EIGHTHS = " ▏▎▍▌▋▊▉"
COLOURS = {"negative": "31", "positive": "32", "neutral": "33"}
"""Side -> code of a terminal; other answers are bold."""


def panel(
    title: str,
    headline: str,
    side: str | None,
    scale: tuple[float, float, float] | None,
    facts: Sequence[tuple[str, str]],
    votes: Mapping[str, int],
) -> str:
    """A box with an answer, where it lies, why, and what was said besides.

    Args:
        title: of the box.
        headline: the answer.
        side: decides the colour, where the output has one.
        scale: value, lower and upper end, drawn as a line; None for what is no number.
        facts: name and text, wrapped below each other.
        votes: what was said -> how often, drawn as bars; empty for none.
    """
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))
    inner = width - 6
    lines: list[tuple[str, str]] = [("", ""), (headline, COLOURS.get(side or "", "") or "1")]
    if scale is not None:
        lines += [("", ""), (_line(*scale, inner), "")]
    lines.append(("", ""))
    margin = max(map(len, [name for name, _ in facts] + ["says"])) + 3
    for name, text in facts:
        wrapped = textwrap.wrap(text, inner - margin) or [""]
        lines += [(f"{name if i == 0 else '':<{margin}}{part}", "") for i, part in enumerate(wrapped)]
    if votes:
        lines += [("", ""), *((row, "") for row in _bars(votes, inner))]
    top = f"╭─ {_fit(title, width - 6)} "
    box = [top + "─" * (width - len(top) - 1) + "╮"]
    box += [f"│  {_painted(text, paint)}{' ' * (inner - len(text))}  │" for text, paint in [*lines, ("", "")]]
    return "\n".join([*box, "╰" + "─" * (width - 2) + "╯"])


def _line(x: float, lo: float, hi: float, width: int) -> str:
    """A scale from `lo` to `hi` with its middle and `x` on it."""
    ends = f"{lo:+g} ", f" {hi:+g}"
    room = width - len(ends[0]) - len(ends[1])
    at, middle = round((x - lo) / (hi - lo) * (room - 1)), (room - 1) // 2
    marks = "".join("●" if i == at else "┼" if i == middle else "─" for i in range(room))
    return ends[0] + marks + ends[1]


def _bars(votes: Mapping[str, int], width: int) -> list[str]:
    """A bar for each of the most frequent votes, as long as its share."""
    total = sum(votes.values())
    shown = sorted(votes.items(), key=lambda item: -item[1])[:MOST_BARS]
    label = min(max(len(name) for name, _ in shown), width - BAR - 14)
    rows = [f"{_fit(name, label):<{label}}  {_bar(n / total)}  {n} of {total}" for name, n in shown]
    rest = len(votes) - len(shown)
    return [*rows, *([f"and {rest} more"] if rest else [])]


def _bar(share: float) -> str:
    eighths = round(share * BAR * 8)
    return ("█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")).ljust(BAR, "·")


def _fit(text: str, most: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _painted(text: str, paint: str) -> str:
    """In colour where a person sees it and has not asked for none (no-color.org)."""
    plain = not paint or not text or not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[{paint}m{text}\033[0m"
