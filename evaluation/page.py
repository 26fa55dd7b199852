"""Pieces of the HTML pages: style, tables, facts, chains with their blocks set off, and players of a record's clips.

Pages open offline, in light and dark, and everything that a model or a record says is escaped.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from evaluation.clips import browser_clip
from runtime.errors import MediaError
from tasks.dc import GRAMMARS
from tasks.record import Media, Record

BLOCKS = sorted({name for grammar in GRAMMARS.values() for name in grammar.blocks})
BLOCK = re.compile(rf"<({'|'.join(BLOCKS)})>(.*?)</\1>", re.S)

CSS = """
:root { color-scheme: light dark; --bg: #fdfdfc; --ink: #1c2126; --soft: #59636e; --line: #d9dde1; --card: #f4f5f6;
  --c1: #1f6fb2; --c2: #c2570c; --c3: #14804a; --c4: #8b3fb0; --c5: #a8323e; --c6: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --ink: #e4e7ea; --soft: #9da7b1; --line: #343b42; --card: #1d2226;
  --c1: #6cb2f0; --c2: #f0a35e; --c3: #5fd39a; --c4: #cf9bea; --c5: #f08a92; --c6: #a3acb5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: var(--bg); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3, h4 { font-size: 1rem; margin: .75rem 0 .25rem; }
a { color: var(--c1); }
:focus-visible { outline: 3px solid var(--c1); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; background: var(--bg); padding: .5rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; margin: 1rem 0 0; }
.soft, .missing, figcaption { color: var(--soft); font-size: .9rem; } .missing { font-style: italic; }
.facts { display: flex; flex-wrap: wrap; gap: .25rem 2rem; margin: .75rem 0; }
.facts div { display: flex; gap: .5rem; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; } thead th { vertical-align: bottom; border-bottom: 2px solid var(--line); }
td small { color: var(--soft); margin-left: .35rem; }
td.share { background: color-mix(in srgb, var(--c1) calc(var(--share) * 60%), transparent); text-align: center; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; } svg { max-width: 100%; height: auto; display: block; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; padding: 0 1rem; }
details[open] { padding-bottom: 1rem; } summary { cursor: pointer; padding: .6rem 0; }
.clips { display: flex; flex-wrap: wrap; gap: 1rem; align-items: end; margin: .5rem 0; }
video, .clips img { height: 12rem; max-width: 100%; border-radius: .4rem; background: #000; }
blockquote { margin: .5rem 0; padding-left: .8rem; border-left: 3px solid var(--line); white-space: pre-wrap; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.sides section { background: var(--card); border-radius: .5rem; padding: .25rem 1rem 1rem; min-width: 0; }
.block, .stray { border-left: 4px solid var(--c6); padding: .1rem .7rem; margin: .4rem 0; white-space: pre-wrap;
  overflow-wrap: anywhere; } .stray { border-left-style: dotted; }
.block b { display: block; font-size: .8rem; color: var(--soft); font-weight: 600; }
.discriminate { border-color: var(--c1); } .calibrate, .evidence { border-color: var(--c2); } .answer { border-color: var(--c3); }
.fault { color: var(--c5); font-weight: 600; }
"""


def plain(x: Any) -> str:
    """A value for people: numbers to three digits, None as nothing, other things as JSON."""
    if isinstance(x, bool) or not isinstance(x, int | float):
        return "" if x is None else x if isinstance(x, str) else json.dumps(x, ensure_ascii=False)
    return str(x) if isinstance(x, int) else f"{x:.3f}" if 1e-3 <= abs(x) < 1e4 or x == 0 else f"{x:.3g}"


def missing(sentence: str) -> str:
    """A sentence in the place of something that is not there."""
    return f'<p class="missing">{escape(sentence)}</p>'


def table(caption: str, head: Sequence[str], body: Mapping[str, Sequence[str]]) -> str:
    """A table that scrolls by itself; `head` and the keys of `body` are text, its values are finished cells."""
    titles = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>' for name, cells in body.items())
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def fact_list(facts: Mapping[str, Any]) -> str:
    """Names with their values, in lines that wrap."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(plain(v))}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{items}</dl>'


def blocks(completion: str) -> str:
    """The completion with each block of a known grammar set off, and whatever lies outside of them marked."""
    pieces, at = [], 0
    for block in BLOCK.finditer(completion):
        pieces.append(_stray(completion[at : block.start()]))
        name, body = block[1], escape(block[2].strip())
        pieces.append(f'<div class="block {name}"><b>{name}</b>{body}</div>')
        at = block.end()
    pieces.append(_stray(completion[at:]))
    return "".join(pieces) or missing("The completion is empty.")


def _stray(text: str) -> str:
    return f'<div class="stray">{escape(text.strip())}</div>' if text.strip() else ""


def embedded(
    root: Path, media: Sequence[Mapping[str, Any]], spent: int, limit: int
) -> tuple[list[tuple[str, str] | str], int]:
    """The media of one record, as they go into a page.

    Args:
        root: below which they lie.
        media: {"kind", "path", "span"?} each.
        spent: bytes of the clips that the page has already.
        limit: of the page; what would exceed it is left out.

    Returns:
        MIME type and content in base64 of each clip, or a sentence on why there is none; and the bytes of the page's clips with
        these.
    """
    found: list[tuple[str, str] | str] = []
    for item in media:
        span = item.get("span")
        full = f"No {item['kind']}: the clips of this page would exceed {limit // 10**6} MB."
        if spent >= limit:
            found.append(full)  # encoding it takes a while
            continue
        try:
            encoded = browser_clip(root / item["path"], item["kind"], (span[0], span[1]) if span else None)
        except MediaError as error:
            found.append(f"No {item['kind']}: {error}")
            continue
        for mime, data in encoded:
            if spent + len(data) > limit:
                found.append(full)
                continue
            spent += len(data)
            found.append((mime, base64.b64encode(data).decode()))
    return found, spent


def players(root: Path, media: Sequence[Mapping[str, Any]], spent: int, limit: int) -> tuple[str, int]:
    """Players for the media of one record, and the bytes of the page's clips with these; see `embedded`."""
    found, spent = embedded(root, media, spent, limit)
    pieces = []
    for one in found:
        if isinstance(one, str):
            pieces.append(missing(one))
            continue
        mime, content = one
        source, tag = f'src="data:{mime};base64,{content}"', mime.partition("/")[0]
        if tag == "image":
            pieces.append(f'<img {source} alt="image of the record">')
        else:
            pieces.append(f'<{tag} controls preload="metadata" {source} aria-label="{tag} of the record"></{tag}>')
    return (f'<div class="clips">{"".join(pieces)}</div>' if pieces else ""), spent


def media_root(run: Path) -> Path:
    """The folder below which the media of a run's records lie; the run itself where it does not say."""
    about = run / "data" / "dataset.json"
    return run / json.loads(about.read_text(encoding="utf-8"))["root"] if about.is_file() else run


def shown_of(record: Record) -> tuple[str | None, list[dict[str, Any]]]:
    """What a page shows of a record: its first text, and {"kind", "path", "span"} of each clip."""
    views = record.views.values()
    text = next((v for v in views if isinstance(v, str)), None)
    return text, [{"kind": v.kind, "path": v.path, "span": v.span} for v in views if isinstance(v, Media)]
