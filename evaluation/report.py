"""The page about a run: one HTML file that opens offline, with clips that play, in light and dark.

    python -m evaluation.report RUN     # the pipeline does this at its end

Only `summary.json` must lie in the run folder; for every other piece that is missing the page has a sentence that says so.
It asks nobody for anything: its content policy forbids requests, and any script but that of the browser of examples
(evaluation/browser.py). Everything that a model or a record says is escaped.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from evaluation.browser import CSS as BROWSER_CSS
from evaluation.browser import MEDIA_BYTES, POLICY, Example, Said, browser
from evaluation.page import CSS, fact_list, media_root, missing, plain, shown_of, table
from evaluation.plot import INK, SERIES, plot
from evaluation.score import align
from runtime.errors import StageError, UndertoneError
from runtime.files import read_jsonl, write_text
from tasks.base import PARTS
from tasks.record import read_records
from tasks.target import read_number

STAGES = {"base": "Before SFT", "sft": "SFT", "rl": "Hint-GRPO"}
"""Folder below `eval/` and key of the summary -> what the page calls it."""
LOWER_IS_BETTER = {"mae", "unparseable", "inconsistent"}
HINT_PLOTS: dict[str, tuple[dict[str, str], float | None]] = {
    "stuck and hinted": (
        {
            "hint/stuck_rate": "stuck prompts",
            "hint/rate": "hinted rows",
            "hint/probability": "schedule",
            "reward/groups_without_signal": "groups without signal",
        },
        0,
    ),
    "solved": (
        {
            "solve/unhinted": "without a hint",
            "solve/hinted": "with a hint",
            "solve/verdict_unhinted": "verdict, without a hint",
        },
        0,
    ),
    "size of hints": ({"hint/level": "level", "hint/length": "length (controller)"}, 0),
    "reliance on hints": ({"hint/reliance": "mean log p with the hint's tokens minus without"}, None),
}
"""Title -> keys of `rl/metrics.jsonl` with their labels, and where the axis begins (None: where the values do)."""
MOST_EXAMPLES, MOST_GROUPS = 5000, 40
"""Records with their answers, and groups of training rollouts, in the browser of examples."""
MOST_CLASSES = 24
"""A larger confusion matrix is left out."""

Cell = tuple[float, float | None, float | None]
"""Value, and both ends of its interval where there is one."""


def write_report(run: Path) -> Path:
    """Write `run/report.html`.

    Reads `summary.json`, and where they exist `manifest.json`, `data/dataset.json` ({"root"}), `sft/metrics.jsonl`,
    `rl/metrics.jsonl` and `eval/<stage>/predictions.jsonl` for the stages base, sft and rl. A prediction row has `uid`,
    `gold` and `answer` (answer text, null when unparseable), `fault`, `parts`, `completion`, `text`, `media` (list of
    {"kind", "path", "span"?}, absolute or relative to the data root) and `meta`.

    Args:
        run: the run folder.

    Returns:
        The path of the page.

    Raises:
        StageError: when there is no `summary.json`.
    """
    if not (run / "summary.json").is_file():
        raise StageError(f"{run}: there is no summary.json; finish the run first, or name another run folder")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    rows = {stage: _rows(run / "eval" / stage / "predictions.jsonl") for stage in STAGES}
    sections = {
        "Results": _results(summary),
        "Training": _curves(run),
        "Predicted against gold": _agreement(rows),
        "What each modality contributes": _ablations(summary),
        "Examples": _examples(run, rows),
        "Details": _details(summary),
    }
    ids = {title: title.lower().replace(" ", "-") for title in sections}
    links = "".join(f'<li><a href="#{ids[t]}">{t}</a></li>' for t in sections)
    body = "".join(f'<section id="{ids[t]}"><h2>{t}</h2>{content}</section>' for t, content in sections.items())
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Undertone: {escape(f"{summary.get('task')}, {summary.get('model')}")}</title><style>{CSS}{BROWSER_CSS}</style></head>
<body><a class="skip" href="#results">Skip to the results</a>
<header>{_header(run, summary)}<nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main></body></html>
"""
    write_text(run / "report.html", page)
    return run / "report.html"


def print_table(summary: Mapping[str, Any]) -> str:
    """The main metrics of trivial rule, teacher, and each stage, with intervals, as aligned plain text."""
    columns = {name: cells for name, cells in _columns(summary).items() if not name.startswith("Oracle")}
    rows = [["", *columns]]
    for metric in _metric_names(summary):
        rows.append([_arrow(metric), *(_plain_cell(cells.get(metric)) for cells in columns.values())])
    return align(rows)


# ---- what the files hold


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path) if path.is_file() else []


def _cells(entry: Mapping[str, Any]) -> dict[str, Cell]:
    """Numbers of a summary entry: scores with intervals below "metrics", or plain name -> value."""
    found: dict[str, Cell] = {}
    for name, m in (entry.get("metrics", entry) | entry.get("explanations", {})).items():
        if isinstance(m, Mapping) and "value" in m:
            found[name] = (m["value"], m.get("lo"), m.get("hi"))
        elif isinstance(m, int | float):
            found[name] = (m, None, None)
    return found


def _columns(summary: Mapping[str, Any]) -> dict[str, dict[str, Cell]]:
    """Title -> metric -> cell, in the order of showing; what has no metric in common with the stages is left out."""
    titles = {
        "Trivial rule": summary.get("baseline", {}),
        "Teacher": summary.get("teacher", {}),
        **{title: summary.get(stage, {}) for stage, title in STAGES.items()},
        "Checkpoint": summary.get("init", {}),  # from elsewhere: `python -m evaluation eval.init=...`
        **{f"Oracle: {name}": metrics for name, metrics in summary.get("oracles", {}).items()},
    }
    columns = {title: _cells(entry or {}) for title, entry in titles.items()}
    names = _metric_names(summary)
    return {title: cells for title, cells in columns.items() if any(name in cells for name in names)}


def _metric_names(summary: Mapping[str, Any]) -> list[str]:
    return next((list(_cells(summary[k])) for k in ("rl", "sft", "base", "baseline") if summary.get(k)), [])


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}{key} / ").items()}
    return {prefix.removesuffix(" / "): value}


# ---- small pieces of HTML


def _arrow(metric: str) -> str:
    return f"{metric} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def _plain_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    value, lo, hi = cell
    return f"{value:.3f}" + ("" if lo is None or hi is None else f" [{lo:.3f}, {hi:.3f}]")


def _cell(cell: Cell | None) -> str:
    value, _, interval = _plain_cell(cell).partition(" ")
    return f"<td>{value}{f'<small>{interval}</small>' if interval else ''}</td>"


# ---- sections


def _header(run: Path, summary: Mapping[str, Any]) -> str:
    facts = {k: summary[k] for k in ("task", "model", "seed") if k in summary}
    if (run / "manifest.json").is_file():
        attempts = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["attempts"]
        git = attempts[-1]["git"]
        facts["run at"] = attempts[-1]["at"]
        facts["revision"] = (
            git["revision"][:12] + (" with changes" if git["dirty"] else "") if git else "no git checkout"
        )
    facts["written at"] = datetime.now(UTC).isoformat(timespec="seconds")
    why = "" if "revision" in facts else missing("Date and revision of the run are unknown: there is no manifest.json.")
    return f"<h1>Undertone: {escape(run.resolve().name)}</h1>{fact_list(facts)}{why}"


def _results(summary: Mapping[str, Any]) -> str:
    columns, names = _columns(summary), _metric_names(summary)
    if not names:
        return missing("No results: summary.json holds no metrics.")
    parts = [
        table("Results", ["metric", *columns], {_arrow(m): [_cell(c.get(m)) for c in columns.values()] for m in names})
    ]
    stages = {title: summary[stage] for stage, title in STAGES.items() if summary.get(stage)}
    sizes = ", ".join(f"{title} {entry['n']}" for title, entry in stages.items() if "n" in entry)
    drawn = {f"{i['units']} {i['unit']}s" for entry in stages.values() if (i := entry.get("interval"))}
    note = "Brackets hold 95 % bootstrap intervals" + (f" over {', '.join(sorted(drawn))}" if drawn else "")
    parts.append(
        f'<p class="soft">{escape(note)}. Records scored: {escape(sizes or "not recorded")}. ↑ higher is better.</p>'
    )
    if absent := [title for stage, title in STAGES.items() if not summary.get(stage)]:
        parts.append(missing(f"Not in this run: {', '.join(absent)}."))
    graded = {title: entry["parts"] for title, entry in stages.items() if entry.get("parts")}
    if graded:
        names = list(dict.fromkeys(name for p in graded.values() for name in p))
        body = {
            name: [f"<td>{plain(p.get(name, {}).get('mean')) or '-'}</td>" for p in graded.values()] for name in names
        }
        parts.append("<h3>Parts of the score, means</h3>" + table("Parts of the score", ["part", *graded], body))
        faults = list(dict.fromkeys(f for entry in stages.values() for f in entry.get("faults", {})))
        body = {f: [f"<td>{stages[t].get('faults', {}).get(f, 0)}</td>" for t in graded] for f in faults}
        title = "<h3>Faults, counts</h3>"
        parts.append(
            title + (table("Faults", ["fault", *graded], body) if faults else missing("None: every answer parsed."))
        )
    return "".join(parts)


def _curve(title: str, rows: Sequence[Mapping[str, Any]], series: Mapping[str, str], bottom: float | None) -> str:
    """Lines over steps; `series` maps a key of the rows to its label. Nothing when no row has any of the keys."""
    found = {
        label: [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
        for key, label in series.items()
    }
    found = {label: points for label, points in found.items() if points}
    if not found:
        return ""

    def draw(axes: Axes) -> str:
        captions = []
        for i, (label, points) in enumerate(found.items()):
            steps, values = np.array(points, float).T
            window = max(1, len(values) // 20)
            smooth = np.convolve(values, np.ones(window) / window, "valid")
            colour, dashes = SERIES[i % len(SERIES)], ("-", "--", "-.", ":")[i % 4]
            if window > 1:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            marker = "o" if len(values) < 3 else None
            axes.plot(steps[window - 1 :], smooth, color=colour, linestyle=dashes, label=label, marker=marker)
            captions.append(f"{label} from {plain(float(smooth[0]))} to {plain(float(smooth[-1]))}")
        axes.set_xlabel("step")
        axes.set_ylim(bottom=bottom)
        if len(found) > 1:
            axes.legend(ncols=2)
        widest = max(1, max(map(len, found.values())) // 20)
        return "; ".join(captions) + ("." if widest == 1 else f". Bold: running mean of {widest} values.")

    return plot(title, draw)


def _curves(run: Path) -> str:
    rl, sft = _rows(run / "rl" / "metrics.jsonl"), _rows(run / "sft" / "metrics.jsonl")
    of_parts = {f"parts/{name}": name for name in PARTS}
    plots = [
        _curve("SFT: loss", sft, {"loss": "training", "eval_loss": "held out"}, None),
        _curve("Hint-GRPO: reward", rl, {"reward": "reward (weighted mean)"} | of_parts, None),
        _curve(
            "Hint-GRPO: unhinted on dev", rl, {"dev/polarity": "polarity", "dev/corr": "Corr", "dev/uar": "UAR"}, None
        ),
        *(_curve(f"Hint-GRPO: {title}", rl, series, bottom) for title, (series, bottom) in HINT_PLOTS.items()),
        _curve("Hint-GRPO: length", rl, {"completions/mean_length": "tokens per completion"}, 0),
        _curve("Hint-GRPO: tokens", rl, {"tokens/generated": "generated so far"}, 0),
    ]
    notes = [
        missing(f"No {title} curves: {stage}/metrics.jsonl is not there, or has none of their numbers.")
        for stage, title in STAGES.items()
        if stage != "base" and not any(p for p in plots if p.startswith(f"<figure><h3>{title}"))
    ]
    return f'<div class="plots">{"".join(plots)}</div>{"".join(notes)}'


def _as_number(x: Any) -> float | None:
    return read_number(x) if isinstance(x, str) else float(x) if isinstance(x, int | float) else None


def _agreement(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    shown = {STAGES[stage]: found for stage, found in rows.items() if found}
    if not shown:
        return missing("No predictions: eval/<stage>/predictions.jsonl is not there for any stage.")
    if all(_as_number(row["gold"]) is not None for found in shown.values() for row in found):
        return _scatter(shown)
    labels = list(dict.fromkeys(str(row["gold"]) for found in shown.values() for row in found))
    if len(labels) > MOST_CLASSES:
        return missing(f"No confusion matrix: gold holds {len(labels)} different answers, more than {MOST_CLASSES}.")
    return "".join(_confusion(title, found, sorted(labels)) for title, found in shown.items())


def _scatter(shown: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    pairs = {t: [(_as_number(r["gold"]), _as_number(r["answer"])) for r in found] for t, found in shown.items()}
    ends = [x for found in pairs.values() for pair in found for x in pair if x is not None]
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low or 1)
    limits = (low - margin, high + margin)

    def figure(title: str, found: Sequence[tuple[float | None, float | None]]) -> str:
        points = np.array([pair for pair in found if None not in pair], float).reshape(-1, 2)

        def draw(axes: Axes) -> str:
            axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
            axes.scatter(points[:, 0], points[:, 1], s=22, color=SERIES[0], alpha=0.5, linewidths=0)
            axes.set(xlabel="gold", ylabel="predicted", aspect="equal", xlim=limits, ylim=limits)
            return f"{len(points)} of {len(found)} answers could be read. Dashed: perfect agreement."

        return plot(f"{title}: one point a record", draw, height=4.6)

    return f'<div class="plots">{"".join(figure(title, found) for title, found in pairs.items())}</div>'


def _confusion(title: str, found: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    ends = [*labels, "other or none"]
    counts = {gold: dict.fromkeys(ends, 0) for gold in labels}
    for row in found:
        answer = str(row["answer"])
        counts[str(row["gold"])][answer if answer in labels else ends[-1]] += 1
    body = {}
    for gold, line in counts.items():
        total = max(1, sum(line.values()))
        body[gold] = [f'<td class="share" style="--share:{n / total:.2f}">{n}</td>' for n in line.values()]
    return f"<h3>{escape(title)}: gold in rows, answers in columns</h3>" + table(
        f"{title} confusion", ["gold", *ends], body
    )


def _ablations(summary: Mapping[str, Any]) -> str:
    conditions = {name: _cells(entry) for name, entry in summary.get("ablations", {}).items()}
    if not conditions:
        return missing("Not measured: summary.json holds no ablations.")
    names = _metric_names(summary)
    whole = next((STAGES[s] for s in ("rl", "sft", "base") if summary.get(s)), None)
    full = {f"nothing removed ({whole})": _columns(summary)[whole]} if whole else {}
    body = {title: [_cell(cells.get(m)) for m in names] for title, cells in (full | conditions).items()}
    return table("Ablations", ["removed", *map(_arrow, names)], body)


# ---- examples


def _examples(run: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    stages = [stage for stage in ("sft", "rl") if rows[stage]] or [stage for stage in STAGES if rows[stage]]
    if not stages:
        return missing("No examples: eval/<stage>/predictions.jsonl is not there for any stage.")
    by_uid = {stage: {row["uid"]: row for row in rows[stage]} for stage in stages}
    last = by_uid[stages[-1]]
    before = {uid: _total(row) for uid, row in by_uid[stages[0]].items()} if len(stages) > 1 else {}
    order = sorted(last, key=lambda uid: (before.get(uid, 0.0) - _total(last[uid]), uid))[:MOST_EXAMPLES]
    found = [
        Example(
            uid,
            plain(last[uid]["gold"]),
            last[uid].get("text"),
            last[uid].get("media") or [],
            last[uid].get("meta") or {},
            [Said(STAGES[stage], by_uid[stage][uid]) for stage in stages if uid in by_uid[stage]],
        )
        for uid in order
    ]
    how = "from what Hint-GRPO improved most to what it harmed most" if len(stages) == 2 else "from best to worst"
    groups = _hinted_groups(run)
    more = f" Then {len(groups)} groups of training that were stuck or hinted, the latest first." if groups else ""
    note = f'<p class="soft">{len(found)} of {len(last)} records, {how}.{more}</p>'
    return note + browser([*found, *groups], media_root(run), MEDIA_BYTES)


def _hinted_groups(run: Path) -> list[Example]:
    """The latest rollout groups that were stuck or hinted, with all siblings."""
    path = run / "data" / "records.jsonl"
    if not path.is_file():
        return []
    records, found = {record.uid: record for record in read_records(path)}, []
    for file in sorted((run / "rl" / "rollouts").glob("step_*.jsonl"), reverse=True):
        step, groups = int(file.stem[5:11]), {}
        for row in read_jsonl(file):
            groups.setdefault(row["uid"], []).append(row)
        for uid, siblings in groups.items():
            if not any(row["stuck"] or row["level"] for row in siblings) or uid not in records:
                continue
            record, said = records[uid], [Said(f"sibling {row['sibling']}", row) for row in siblings]
            text, media = shown_of(record)
            found.append(Example(f"{uid}, step {step}", record.target.render(), text, media, record.meta, said))
            if len(found) == MOST_GROUPS:
                return found
    return found


def _total(row: Mapping[str, Any]) -> float:
    known = [p for p in (row.get("parts") or {}).values() if p is not None]
    return sum(known) / max(len(known), 1)


def _details(summary: Mapping[str, Any]) -> str:
    pieces = []
    for name in ("teacher", "hint", "parity", "seconds"):
        facts = {k: v for k, v in _flat(summary.get(name) or {}).items() if v is not None}
        pieces.append(
            f"<h3>{name.capitalize()}</h3>" + (fact_list(facts) if facts else missing("Not recorded in summary.json."))
        )
    return "".join(pieces)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the report of a run anew.")
    parser.add_argument("run", type=Path, help="the run folder")
    try:
        print(write_report(parser.parse_args().run))
    except UndertoneError as error:
        sys.exit(f"error: {error}")
