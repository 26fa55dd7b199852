"""`compare.html`: everything that a comparison found, in one file that opens offline, with the examples that arms disagree on."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import t as student

from evaluation.browser import CSS as BROWSER_CSS
from evaluation.browser import MEDIA_BYTES, POLICY, Example, Said, browser
from evaluation.compare.contrast import Comparison
from evaluation.compare.race import Race
from evaluation.compare.runs import TOKENS, Arm, number
from evaluation.compare.slices import Slice
from evaluation.compare.tables import Table, race_table, results, slice_table, versus_table
from evaluation.compare.versus import Versus
from evaluation.page import CSS, media_root, missing, shown_of, table
from evaluation.plot import INK, SERIES, plot
from runtime.files import read_jsonl

CURVES = ("dev/", "hint/stuck_rate", "solve/unhinted", "reward", "eval_loss")
"""Beginnings of the keys of `metrics.jsonl` that are drawn."""
MOST_CURVES = 12


def compare_page(
    arms: Sequence[Arm],
    comparison: Comparison,
    items: Sequence[Versus],
    slices: Sequence[Slice],
    race: Race | None,
    curves: str | None = None,
) -> str:
    """The page.

    Args:
        arms: what was compared.
        comparison: means and differences.
        items: McNemar's counts.
        slices: parts of the items.
        race: for tokens, where it was asked for.
        curves: HTML that stands in the place of the curves of training.
    """
    sections = {
        "Results": _tables(results(comparison)),
        "Item by item": _tables([versus_table(items, comparison.arms[0].arm)]),
        **({"Tokens": _tables([race_table(race)])} if race else {}),
        "Parts of the items": "".join(f"<h3>{escape(s.name)}</h3>{_tables([slice_table(s)])}" for s in slices)
        or missing("No slice has two parts."),
        "Curves": _curves(arms) if curves is None else curves,
        "Examples": _examples(arms),
        "Runs": _runs(arms),
    }
    ids = {title: title.lower().replace(" ", "-") for title in sections}
    links = "".join(f'<li><a href="#{ids[t]}">{t}</a></li>' for t in sections)
    body = "".join(f'<section id="{ids[t]}"><h2>{t}</h2>{content}</section>' for t, content in sections.items())
    names = " / ".join(arm.name for arm in arms)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Undertone: {escape(names)}</title><style>{CSS}{BROWSER_CSS}</style></head>
<body><a class="skip" href="#results">Skip to the results</a>
<header><h1>{escape(names)}</h1><nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main></body></html>
"""


def _tables(tables: Sequence[Table]) -> str:
    pieces = []
    for t in tables:
        pieces += [f'<p class="soft">{escape(note)}</p>' for note in t.notes]
        titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in t.head)
        body = "".join(
            f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
            for first, *rest in t.rows
        )
        pieces.append(
            f'<div class="wide" role="region" tabindex="0" aria-label="{escape(t.head[0])}"><table><thead><tr>{titles}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    return "".join(pieces)


def _curves(arms: Sequence[Arm]) -> str:
    keys = sorted({k for arm in arms for run in arm.runs for row in run.log for k in row if k.startswith(CURVES)})
    plots = [drawn for key in keys if (drawn := _curve(key, arms))][:MOST_CURVES]
    return f'<div class="plots">{"".join(plots)}</div>' if plots else missing("No run keeps a log with curves.")


def _curve(key: str, arms: Sequence[Arm]) -> str:
    """Means over seeds with 95 % bands of Student's t; over generated tokens where all logs have them, else over steps."""
    by_tokens = all(any(number(row.get(TOKENS)) for row in run.log) for arm in arms for run in arm.runs)
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for arm in arms:
        logs = [{row["step"]: row for row in run.log if number(row.get(key))} for run in arm.runs]
        steps = sorted(set.intersection(*map(set, logs)))
        if by_tokens:
            steps = [s for s in steps if all(number(log[s].get(TOKENS)) for log in logs)]
        if len(steps) > 1:
            x = [np.mean([log[s][TOKENS] for log in logs]) if by_tokens else s for s in steps]
            lines[arm.name] = np.array(x, float), np.array([[log[s][key] for log in logs] for s in steps], float)
    if not lines:
        return ""

    def draw(axes: Axes) -> str:
        captions = []
        for i, (name, (x, values_TS)) in enumerate(lines.items()):
            colour, dashes = (INK, *SERIES)[i % (len(SERIES) + 1)], ("-", "--", "-.", ":")[i % 4]
            mean, seeds = values_TS.mean(1), values_TS.shape[1]
            axes.plot(x, mean, color=colour, linestyle=dashes, label=name)
            if seeds > 1:
                half = float(student.ppf(0.975, seeds - 1)) * values_TS.std(1, ddof=1) / seeds**0.5
                axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
            captions.append(f"{name} from {mean[0]:.3f} to {mean[-1]:.3f}")
        axes.set_xlabel("generated tokens" if by_tokens else "step")
        axes.legend(ncols=2)
        return "; ".join(captions) + ". Bands: 95 % over seeds."

    return plot(key, draw)


def _examples(arms: Sequence[Arm]) -> str:
    """The answers of each arm's lowest seed to every item, those on which arms disagree first."""
    runs = {f"{arm.name}, seed {run.seed}": run for arm in arms for run in [min(arm.runs, key=lambda r: r.seed)]}
    rows: dict[str, Mapping[str, Mapping[str, Any]]] = {
        name: {row["uid"]: row for row in read_jsonl(run.folder / "predictions.jsonl")} for name, run in runs.items()
    }
    first = arms[0].runs[0]
    found = []
    for uid, record in first.records.items():
        text, media = shown_of(record)
        said = [Said(name, rows[name][uid]) for name in rows]
        found.append(Example(uid, record.target.render(), text, media, record.meta, said))
    found.sort(key=lambda e: "changed" not in e.flags())
    return browser(found, media_root(first.run), MEDIA_BYTES)


def _runs(arms: Sequence[Arm]) -> str:
    body = {
        f"{arm.name}, seed {run.seed}": [f"<td>{escape(str(run.run.name))}/eval/{escape(run.folder.name)}</td>"]
        for arm in arms
        for run in arm.runs
    }
    return table("Runs", ["arm", "folder"], body)
