"""What the doctor says: lines for the terminal, doctor.json, and a page that opens offline."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from evaluation.doctor.examine import Examination
from evaluation.doctor.findings import KINDS, Finding

WIDTH = 160
"""Letters of a line; longer examples are cut off, doctor.json has them whole."""
GIGA = 1e9

CSS = """
:root { color-scheme: light dark; --soft: #6b7680; --line: #8884; --error: #c0392b; --warning: #b9770e; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; font: 1rem/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; } .n { text-align: right; font-variant-numeric: tabular-nums; } p.soft { color: var(--soft); }
.error { color: var(--error); } .warning { color: var(--warning); }
"""


def to_json(found: Examination, about: dict[str, Any]) -> dict[str, Any]:
    """Everything that was found, JSON-able; `about` says of what."""
    return {
        **about,
        "records": len(found.records),
        "clips": found.clips,
        "counts": {kind: n for kind, _, n, _ in _by_kind(found.findings)},
        "findings": [finding.to_json() for finding in found.findings],
        "quarantined": len(found.quarantine()),
        "forecast": found.forecast,
        "seconds": round(found.seconds, 2),
        "cpu_seconds": round(found.cpu_seconds, 2),
    }


def lines(found: Examination, about: dict[str, Any]) -> list[str]:
    """For the terminal."""
    said = [f"{about['file']}: {len(found.records)} records, {found.clips} clips", ""]
    for kind, severity, n, first in _by_kind(found.findings):
        line = f"  {severity:<8} {kind:<12} {n:>5}  {first.uid or 'the file'}: {first.reason}"
        said.append(line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}...")
    return [*said, *([""] if found.findings else []), summary(found), *forecast_lines(found), speed(found, about)]


def summary(found: Examination) -> str:
    """How many findings, in how many records."""
    if not found.findings:
        return "nothing found"
    counts = Counter(finding.severity for finding in found.findings)
    concerned = len({finding.uid for finding in found.findings})
    out = len(found.quarantine())
    share = f" ({out / len(found.records):.1%})" if out else ""
    return (
        f"{counts['error']} errors and {counts['warning']} warnings in {concerned} of {len(found.records)} records; {out} to "
        f"leave out{share}"
    )


def forecast_lines(found: Examination) -> list[str]:
    """Tokens and memory of the named model."""
    ahead = found.forecast
    if ahead is None:
        return ["no forecast: name task=T model=M for the model's limits, tokens and memory"]
    tokens, memory, load = ahead["tokens"], ahead["memory"], ahead["load"]
    parts = ", ".join(f"{name} {_gb(size)}" for name, size in memory.items() if name != "peak" and size)
    said = [
        f"{ahead['model']}: prompts of {tokens['least']} to {tokens['most']} tokens, median {tokens['median']:g}, 95 % up to "
        f"{tokens['p95']:.0f}; the longest is {tokens['longest']}",
        f"  peak {_gb(memory['peak'])} with it and {load['group']} answers of {load['answer']} tokens (arithmetic, not measured): "
        f"{parts}",
    ]
    best, limit = ahead["suggestion"], f"{load['context']} tokens and {_gb(load['memory'])}"
    if ahead["fits"]:
        return [*said, f"  fits {limit} as it is"]
    if best is None:
        return [*said, f"  no frame rate and size that was tried fits {limit}; cut clips, or lower group and answer"]
    how = f"model.fps={best['fps']:g} model.max_frames={best['max_frames']} model.video_size.longest_edge={best['longest_edge']}"
    return [*said, f"  does not fit {limit}; this does, with {best['tokens']} tokens and {_gb(best['peak'])}: {how}"]


def speed(found: Examination, about: dict[str, Any]) -> str:
    """Clips a second, in all and of processor time."""
    if not found.clips:
        return "no media to scan"
    took, work = max(found.seconds, 0.01), max(found.cpu_seconds, 0.01)
    return (
        f"{found.clips} clips scanned in {took:.1f} s by {about['workers']} processes: {found.clips / took:.0f} a second, "
        f"{found.clips / work:.0f} a CPU-second"
    )


def page(found: Examination, about: dict[str, Any]) -> str:
    """One HTML file without script or request."""
    kinds = "".join(
        f"<tr><td class={severity}>{severity}<td>{kind}<td class=n>{n}<td>{escape(KINDS[kind][1])}"
        for kind, severity, n, _ in _by_kind(found.findings)
    )
    rows = "".join(
        f"<tr><td class={f.severity}>{f.kind}<td>{escape(f.uid or '')}<td>{escape(f.view or '')}<td>{escape(f.reason)}"
        for f in found.findings
    )
    tables = (
        f"<table><tr><th>severity<th>kind<th class=n>findings<th>meaning{kinds}</table>"
        f"<h2>Findings</h2><table><tr><th>kind<th>record<th>view<th>reason{rows}</table>"
    )
    ahead = "".join(f"<p>{escape(line)}" for line in forecast_lines(found))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Doctor: {escape(about["file"])}</title><style>{CSS}</style>'
        f"<h1>Doctor</h1><p>{escape(about['file'])}: {len(found.records)} records, {found.clips} clips<p><strong>"
        f"{escape(summary(found))}</strong>{tables if found.findings else ''}<h2>Forecast</h2>{ahead}"
        f'<p class="soft">{escape(speed(found, about))}</html>\n'
    )


def _by_kind(findings: Sequence[Finding]) -> list[tuple[str, str, int, Finding]]:
    """Kind, severity, number and first finding, in the order of KINDS."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    return [(kind, KINDS[kind][0], len(by_kind[kind]), by_kind[kind][0]) for kind in KINDS if kind in by_kind]


def _gb(size: float) -> str:
    return f"{size / GIGA:.2f} GB" if size < GIGA else f"{size / GIGA:.1f} GB"
