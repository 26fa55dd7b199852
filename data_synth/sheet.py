"""Fifty drafts on one page, for a person to judge the filter by: `synth/sheet.html`.

    python -m data_synth.sheet run.name=NAME     # the synthesis itself does this at its end

The page opens offline and asks nobody for anything. Half of the drafts were accepted, half were not, and every kind of rejection
has its share; j and k go on and back, the space bar plays, y and n say whether the filter was right, and the tally is JSON.
"""

import base64
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from data_synth.output import read_output, rows, run_folder
from data_synth.sheet_page import SCRIPT, STYLE
from evaluation.page import CSS, blocks, fact_list, missing, plain, players, table
from runtime.errors import UndertoneError
from runtime.files import digest, write_text
from tasks.base import Task
from tasks.dc import Answer
from tasks.record import Media, Record, record_from_line, record_lines

DRAFTS = 50
MEDIA_BYTES = 40_000_000
"""Clips are left out beyond this many bytes, before base64 adds a third."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A draft and what became of it."""

    uid: str
    step: str
    """write, or rewrite for what was written with the label at hand."""
    index: int
    text: str
    reason: str | None
    """Why it was rejected; None for an accepted one."""
    synth: Mapping[str, Any]

    @property
    def stratum(self) -> str:
        """What it was drawn as: accepted or a kind of rejection, each apart for rewritten ones."""
        kind = "accepted" if self.reason is None else self.reason.partition(":")[0]
        return kind if self.step == "write" else f"{kind} ({self.step})"


def sample(folder: Path, count: int, seed: int) -> tuple[list[Shown], Counter[tuple[str, bool]]]:
    """Draw drafts for a person to look at, reading both files once and keeping no more than is drawn from.

    Half are accepted ones and half are rejected ones, as far as there are so many; every stratum among them has the same share,
    as far as it has so many. Left out are drafts without a text, and those that lost to a sibling or a duplicate (step
    "select"), which nobody can judge by themselves. Same files and seed, same drafts.

    Args:
        folder: holds `chains.jsonl` and `rejected.jsonl`.
        count: how many.
        seed: of the draw.

    Returns:
        The drafts, in random order, and how many drafts there are of each (step, whether accepted).
    """
    kept: dict[str, list[tuple[str, Shown]]] = {}
    steps: Counter[tuple[str, bool]] = Counter()
    sizes: Counter[str] = Counter()
    for path, read in ((folder / "chains.jsonl", _accepted), (folder / "rejected.jsonl", _rejected)):
        for shown in map(read, rows(path)):
            steps[shown.step, shown.reason is None] += 1
            if not shown.text or shown.step == "select":
                continue
            sizes[shown.stratum] += 1
            drawn = kept.setdefault(shown.stratum, [])
            drawn.append((digest([seed, shown.uid, shown.step, shown.index]), shown))
            if len(drawn) > 2 * count:
                _trim(drawn, count)
    accepted = {name: n for name, n in sizes.items() if name.startswith("accepted")}
    others = {name: n for name, n in sizes.items() if name not in accepted}
    half = min(sum(accepted.values()), max(count // 2, count - sum(others.values())))
    quota = share_out(accepted, half) | share_out(others, count - half)
    chosen = []
    for name, drawn in kept.items():
        _trim(drawn, quota[name])
        chosen += drawn
    return [shown for _, shown in sorted(chosen, key=lambda item: item[0])], steps


def _trim(drawn: list[tuple[str, Shown]], count: int) -> None:
    drawn.sort(key=lambda item: item[0])
    del drawn[count:]


def share_out(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Give everybody the same, as far as they can take it, until `count` are given: the smallest are served first.

    Args:
        sizes: name -> how many it can take at the most.
        count: how many are given, or all there are room for.
    """
    given, left = {}, count
    for place, name in enumerate(sorted(sizes, key=lambda n: sizes[n])):
        given[name] = min(sizes[name], left // (len(sizes) - place))
        left -= given[name]
    return given


def _accepted(row: Mapping[str, Any]) -> Shown:
    synth = row["meta"]["synth"]
    return Shown(row["uid"], synth["step"], synth["index"], row["rationale"], None, synth)


def _rejected(row: Mapping[str, Any]) -> Shown:
    return Shown(row["uid"], row["step"], row["index"], row["text"], row["reason"], row["synth"])


def write_sheet(folder: Path, records: Path, root: Path, task: Task, result: Mapping[str, Any], seed: int) -> Path:
    """Write `folder/sheet.html`.

    Args:
        folder: holds `chains.jsonl` and `rejected.jsonl`.
        records: the record file that was asked about; read line by line.
        root: below which the media of the records lie.
        task: reads verdict and answer.
        result: of the synthesis.
        seed: of the draw.

    Returns:
        The path of the page.
    """
    drafts, steps = sample(folder, DRAFTS, seed)
    wanted = {draft.uid for draft in drafts}
    found: dict[str, Record] = {}
    for _, number, line in record_lines(records):
        if json.loads(line)["uid"] in wanted:
            record = record_from_line(records, number, line)
            found[record.uid] = record
    cards, spent = [], 0
    for draft in drafts:
        card, spent = _card(draft, found[draft.uid], root, task, spent)
        cards.append(card)
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
    )
    name = folder.resolve().parent.name
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Undertone: chains of {escape(name)}</title><style>{CSS}{STYLE}</style></head>
<body data-run="{escape(name)}" data-seed="{seed}">
<header><h1>Chains of {escape(name)}</h1>{_summary(drafts, result, steps)}</header>
{TALLY}<main>{"".join(cards) or missing("There is no draft to judge.")}</main><script>{SCRIPT}</script></body></html>
"""
    write_text(folder / "sheet.html", page)
    return folder / "sheet.html"


TALLY = """<aside aria-label="Tally"><p><kbd>j</kbd> <kbd>k</kbd> next, previous <kbd>space</kbd> play
<kbd>y</kbd> the filter is right <kbd>n</kbd> it is wrong <kbd>u</kbd> undo</p>
<p><output id="tally" aria-live="polite">nothing judged yet</output> <button id="copy" type="button">Copy as JSON</button></p>
<textarea id="json" readonly rows="1" aria-label="Tally as JSON"></textarea></aside>"""


def _summary(drafts: list[Shown], result: Mapping[str, Any], steps: Mapping[tuple[str, bool], int]) -> str:
    asked, accepted = result["asked"], result["accepted"]
    facts = {"asked": asked, "accepted": f"{accepted} ({_share(accepted, asked)})"}
    facts |= {key: result[key] for key in ("requests", "tokens", "cost", "stopped") if result.get(key) is not None}
    if drafts:
        synth = drafts[0].synth
        facts |= {"teacher": synth["teacher"]} | {k: v for k, v in synth["settings"].items() if v is not None}
    coarse = {
        name: [_cell(n["asked"]), _cell(n["accepted"]), _cell(_share(n["accepted"], n["asked"]))]
        for name, n in result["by_coarse"].items()
    }
    names = list(dict.fromkeys(step for step, _ in steps))
    by_step = {name: [_cell(steps.get((name, True), 0)), _cell(steps.get((name, False), 0))] for name in names}
    reasons = {name: [_cell(n)] for name, n in result["rejected"].items()}
    return (
        fact_list(facts)
        + '<div class="tables">'
        + table("By direction", ["direction", "asked", "accepted", "share"], coarse)
        + table("By step", ["step", "accepted", "rejected"], by_step)
        + (table("Rejected", ["rejected because", "drafts"], reasons) if reasons else missing("Nothing was rejected."))
        + "</div>"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _cell(value: Any) -> str:
    return f"<td>{escape(plain(value))}</td>"


def _card(draft: Shown, record: Record, root: Path, task: Task, spent: int) -> tuple[str, int]:
    views = {name: record.views[name] for name in task.views if name in record.views}
    media = [{"kind": v.kind, "path": v.path, "span": v.span} for v in views.values() if isinstance(v, Media)]
    clips, spent = players(root, media, spent, MEDIA_BYTES)
    quotes = []
    for view in views.values():
        if isinstance(view, str):
            quotes.append(view)
        elif not isinstance(view, Media):
            quotes.append("\n".join(f"{turn.speaker}: {turn.text}" for turn in view))
    words = "".join(f"<blockquote>{escape(quote)}</blockquote>" for quote in quotes)
    answer = task.parse(record, draft.text)
    said = _named(answer.verdict, answer.value.render()) if isinstance(answer, Answer) else f"no answer ({answer})"
    gold = _named(record.target.coarse(), record.target.render())
    outcome = "accepted" if draft.reason is None else "rejected"
    parts = {k: f"{v:.2f}".rstrip("0").rstrip(".") for k, v in draft.synth["parts"].items() if v is not None}
    step = "" if draft.step == "write" else f" ({draft.step})"
    why = "" if draft.reason is None else f' <span class="why">{escape(draft.reason)}</span>'
    return (
        f'<article class="card {outcome}" tabindex="0" data-uid="{escape(draft.uid)}" data-step="{escape(draft.step)}" '
        f'data-index="{draft.index}" data-stratum="{escape(draft.stratum)}">'
        f"<div>{clips}{words}</div><div>"
        f"<p><b>{outcome}{escape(step)}</b>{why}</p>"
        f'<p class="said">gold <b>{escape(gold)}</b> said <b>{escape(said)}</b></p>'
        f'<div class="chain">{blocks(draft.text)}</div>'
        f'<p class="soft">{escape(draft.uid)} {escape(", ".join(f"{k} {v}" for k, v in parts.items()))}</p></div>'
        '<div class="marks"><button type="button" value="y">right</button>'
        '<button type="button" value="n">wrong</button></div></article>'
    ), spent


def _named(coarse: str | None, value: str) -> str:
    return value if coarse is None else f"{coarse}, {value}"


if __name__ == "__main__":
    try:
        out = read_output(run_folder(sys.argv[1:]))
        print(write_sheet(out.folder, out.records, out.root, out.task, out.result, out.config.synth.seed))
    except UndertoneError as error:
        sys.exit(f"error: {error}")
