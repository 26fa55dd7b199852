"""The evidence browser of a page: examples to filter, to play and to read, offline, by mouse or keyboard.

Examples travel as JSON inside the page, and `browser.js` shows fifty at a time, so that a page of thousands stays quick. The
script makes text of whatever a model or a record says, never markup, and the page's content policy names it by its hash, so
that no other script could run.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.page import BLOCK, embedded
from rewards.claims import mentions

SCRIPT = (Path(__file__).parent / "browser.js").read_text(encoding="utf-8")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)
MEDIA_BYTES = 8_000_000
"""Clips of a page beyond this many bytes, before base64 adds a third, are left out."""
FLAGS: Mapping[str, str] = {
    "wrong": "the last answer is on the wrong side, or is none",
    "inconsistent": "an answer contradicts its own verdict",
    "fault": "an answer could not be read",
    "contradicted": "an explanation claims a cue that was measured otherwise",
    "changed": "one answer is right and another one wrong",
    "stuck": "no rollout of its group found the side",
    "hinted": "a rollout was given a hint",
    "conflict": "words, voice and face disagree",
}
"""Flag -> what it means, in the order of showing."""

CSS = """
.browser { display: grid; grid-template-columns: minmax(14rem, 22rem) 1fr; gap: 1rem; align-items: start; }
@media (max-width: 46rem) { .browser { grid-template-columns: 1fr; } }
.filters { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; }
.filters button, .pages button { font: inherit; font-size: .9rem; color: inherit; background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 1rem; padding: .15rem .8rem; }
.filters button[aria-pressed=true] { background: var(--c1); border-color: var(--c1); color: var(--bg); }
.filters button:disabled, .pages button:disabled { opacity: .45; cursor: default; }
.filters input { font: inherit; font-size: .9rem; color: inherit; background: var(--bg); border: 1px solid var(--line);
  border-radius: .4rem; padding: .15rem .5rem; min-width: 12rem; }
.list ul { list-style: none; margin: .4rem 0; padding: 0; max-height: 34rem; overflow-y: auto; border: 1px solid var(--line);
  border-radius: .5rem; }
.list li { padding: .35rem .7rem; border-bottom: 1px solid var(--line); cursor: pointer; overflow-wrap: anywhere; }
.list li[aria-selected=true] { background: var(--card); box-shadow: inset 4px 0 var(--c1); }
.list li small { display: block; color: var(--soft); }
.pages { display: flex; gap: .5rem; align-items: center; }
.one { min-width: 0; } .one h3 { margin-top: 0; overflow-wrap: anywhere; }
.flag { display: inline-block; font-size: .8rem; border: 1px solid var(--line); border-radius: 1rem; padding: 0 .6rem;
  margin-right: .3rem; }
mark { background: none; color: inherit; border-bottom: 2px solid var(--c3); }
mark.no { border-bottom: 2px dashed var(--c5); }
mark::after { content: " ✓"; color: var(--c3); font-size: .75em; } mark.no::after { content: " ✗"; color: var(--c5); }
kbd { border: 1px solid var(--line); border-radius: .25rem; padding: 0 .3rem; font-size: .85em; }
"""


@dataclass(frozen=True, slots=True)
class Said:
    """One completion about a record."""

    by: str
    """The stage, the arm and its seed, or the step of training that it comes from."""
    row: Mapping[str, Any]
    """Of `predictions.jsonl` or `rollouts/`: "completion", "answer", "fault", "parts", "checked", "hint", ..."""

    @property
    def text(self) -> str:
        """What was said."""
        return self.row.get("completion") or ""

    @property
    def right(self) -> bool | None:
        """Whether it found the side (for what has none, came close); None where nothing was scored."""
        parts = self.row.get("parts") or {}
        if self.row.get("fault"):
            return False
        side, close = parts.get("discriminate"), parts.get("calibrate")
        return side == 1.0 if side is not None else None if close is None else close >= 0.5


@dataclass(frozen=True, slots=True)
class Example:
    """A record with what was said about it."""

    uid: str
    gold: str
    text: str | None
    media: Sequence[Mapping[str, Any]]
    """{"kind", "path", "span"?} each."""
    meta: Mapping[str, Any]
    said: Sequence[Said]

    def flags(self) -> list[str]:
        """Those of FLAGS that are true of it."""
        rows, outcomes = [s.row for s in self.said], [s.right for s in self.said]
        found = {
            "wrong": outcomes[-1] is False,
            "inconsistent": any((row.get("parts") or {}).get("agreement") == 0 for row in rows),
            "fault": any(row.get("fault") for row in rows),
            "contradicted": any(not ok for row in rows for ok in (row.get("checked") or {}).values()),
            "changed": {True, False} <= set(outcomes),
            "stuck": any(row.get("stuck") for row in rows),
            "hinted": any(row.get("level") for row in rows),
            "conflict": self.meta.get("conflict") is True,
        }
        return [name for name in FLAGS if found[name]]


def browser(examples: Sequence[Example], root: Path, limit: int) -> str:
    """The browser as a piece of a page whose policy is POLICY and whose style has CSS.

    Args:
        examples: in the order of showing.
        root: below which their media lie.
        limit: bytes of clips that the page may hold. Those of examples with most flags are taken first, because they are looked
            at first; the others say why they have none.
    """
    flags = [example.flags() for example in examples]
    clips: list[tuple[str, str]] = []
    places: dict[int, list[int]] = {}
    lacks: dict[int, list[str]] = {}
    spent = 0
    for i in sorted(range(len(examples)), key=lambda i: -len(flags[i])):
        found, spent = embedded(root, examples[i].media, spent, limit)
        own = [clip for clip in found if not isinstance(clip, str)]
        places[i] = list(range(len(clips), len(clips) + len(own)))
        lacks[i] = [sentence for sentence in found if isinstance(sentence, str)]
        clips += own
    data = {
        "flags": FLAGS,
        "clips": clips,
        "examples": [
            {
                "uid": e.uid,
                "gold": e.gold,
                "text": e.text,
                "meta": e.meta,
                "flags": flags[i],
                "clips": places[i],
                "lacks": lacks[i],
                "said": [_said(s) for s in e.said],
            }
            for i, e in enumerate(examples)
        ],
    }
    # `<` could end the element; as an escape it is the same JSON
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<p class="soft">Keys: <kbd>j</kbd> <kbd>k</kbd> next and previous, <kbd>p</kbd> play, <kbd>/</kbd> search, <kbd>f</kbd> '
        'filters. Underlined: cues that were measured so (✓), or otherwise (✗).</p><div class="browser" id="browser">'
        "<noscript>The examples need the script of this page, which this reader does not run.</noscript></div>"
        f'<script type="application/json" id="examples-data">{packed}</script><script>{SCRIPT}</script>'
    )


def _said(said: Said) -> dict[str, Any]:
    row = said.row
    facts = {k: row[k] for k in ("reward", "level", "hint", "told") if row.get(k) is not None and row[k] != ""}
    return {
        "by": said.by,
        "answer": row.get("answer"),
        "right": said.right,
        "fault": row.get("fault"),
        "parts": row.get("parts") or {},
        "facts": facts,
        "pieces": list(_pieces(said.text, row.get("checked") or {})),
    }


def _pieces(text: str, checked: Mapping[str, bool]) -> Iterator[tuple[str | None, list[tuple[str, bool | None]]]]:
    """Blocks of the grammar by name, and what lies outside of them under None; each as runs of text with their checks."""
    at = 0
    for block in BLOCK.finditer(text):
        if outside := text[at : block.start()].strip():
            yield None, _runs(outside, checked)
        yield block[1], _runs(block[2].strip(), checked)
        at = block.end()
    if outside := text[at:].strip():
        yield None, _runs(outside, checked)


def _runs(text: str, checked: Mapping[str, bool]) -> list[tuple[str, bool | None]]:
    """The text in pieces: names of cues that were checked with the outcome, all else with None."""
    runs, at = [], 0
    for start, end, cue in mentions(text):
        if cue in checked and start >= at:
            runs += [(text[at:start], None), (text[start:end], checked[cue])]
            at = end
    return [run for run in [*runs, (text[at:], None)] if run[0]]
