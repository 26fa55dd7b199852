"""Whether a judge of explanations can be trusted; no model is loaded, the judge is asked.

    python -m evaluation.judge task=T records=R.jsonl explanations=E.jsonl out=J.json base_url=... model=...

Every line of `explanations` has a `uid`, an `explanation`, and, where a person has read it, the `label` that it speaks for in
that person's view; elsewhere the record's gold stands for it, which is fair only for explanations that are known to be good.
Reported, with 95 % bootstrap intervals clustered by group:

    accuracy   share of opinions equal to the reference label; off-list ones are wrong
    kappa      Cohen's kappa of the two, off-list being a category of its own
    swap       the explanation of a record with another reference label, beside this record's clip: how often the opinion is
               the one that the text had at home (of pairs whose opinions at home differ). Near 1: the judge reads the text.
               Without media=true the text is all that it sees, and 1 says only that it repeats itself
    negation   cue words exchanged for their antonyms (`ANTONYMS`): how often the opinion changes. Well above `repeat`: it
               understands the cues
    repeat     asked again with the list of labels reversed, without the cache: how often the opinion changes. Should be 0

Missing opinions (the server failed) are left out and counted. Answers are kept in judge.jsonl beside `out`. Further settings:

    split=test       which records' explanations are judged; others are ignored
    root=FOLDER      below which the media lie; needed with media=true
    resamples=1000   bootstrap samples
    seed=0           of the bootstrap and the pairs of `swap`; also sent to the server

and every key of conf/judge/openai.yaml.
"""

import dataclasses
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from evaluation.judge import OFF_LIST, Item, Judge, JudgeConfig, item_of, labels_in
from evaluation.score import CONF, LEVEL, align, load_task
from evaluation.stats import RESAMPLES, bootstrap_interval, bootstrap_intervals, unit_of
from runtime.config import check_sections, section
from runtime.errors import ConfigError, RecordError, StageError, UndertoneError
from runtime.files import write_json
from tasks.base import Task
from tasks.record import SPLITS, Record, read_records

PATHS = ("records", "explanations", "out")
DEFAULTS = {"split": "test", "resamples": str(RESAMPLES), "seed": "0"}
OF_JUDGE = tuple(f.name for f in dataclasses.fields(JudgeConfig) if f.name != "seed")
USAGE = "task=T records=R.jsonl explanations=E.jsonl out=J.json base_url=... model=..."

PAIRS = (
    ("up", "down"),
    ("upward", "downward"),
    ("high", "low"),
    ("higher", "lower"),
    ("positive", "negative"),
    ("smile", "frown"),
    ("smiles", "frowns"),
    ("smiling", "frowning"),
    ("bright", "dull"),
    ("fast", "slow"),
    ("wide", "narrow"),
    ("rising", "falling"),
    ("rises", "falls"),
)
ANTONYMS = dict(PAIRS) | {b: a for a, b in PAIRS}
"""Cue words of explanations and what `negation` puts in their place."""

_CUE = re.compile(rf"\b({'|'.join(ANTONYMS)})\b", re.IGNORECASE)


def negated(explanation: str) -> str:
    """Every word of ANTONYMS exchanged for its antonym, a capital kept; the same text where there is none."""

    def exchange(match: re.Match[str]) -> str:
        word = match[0]
        other = ANTONYMS[word.lower()]
        return other.capitalize() if word[0].isupper() else other

    return _CUE.sub(exchange, explanation)


def cohen_kappa(a: Sequence[str | None], b: Sequence[str | None]) -> float:
    """Agreement beyond chance, (p_o - p_e) / (1 - p_e) (Cohen 1960); None is a category like any other.

    Args:
        a: [N] labels of one rater, N of 1 or more.
        b: [N] labels of the other.

    Returns:
        A number in [-1, 1]; 0 where both know one label alone, so that agreement says nothing.
    """
    code = {label: i for i, label in enumerate(dict.fromkeys([*a, *b]))}
    table = np.zeros((len(code), len(code)))
    np.add.at(table, ([code[x] for x in a], [code[x] for x in b]), 1 / len(a))
    chance = float(table.sum(0) @ table.sum(1))
    return (float(np.trace(table)) - chance) / (1 - chance) if chance < 1 - 1e-12 else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One explanation with its reference."""

    group: str
    item: Item
    reference: str


def report(judge: Judge, rows: Sequence[Row], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Agreement and probes.

    Args:
        judge: is asked up to four times about every row.
        rows: one or more.
        resamples: bootstrap samples.
        seed: of the bootstrap and the pairs of `swap`.

    Returns:
        A JSON-able dict:
        n, missing: rows, and how many of them have no opinion since the server failed;
        agreement: accuracy and kappa, each {value, lo, hi, n};
        probes: swap, negation and repeat, each {value, lo, hi, n}, or {n: 0} where there is nothing to compare;
        confusion: reference -> opinion -> count, "off_list" among the opinions;
        interval: {level, resamples, unit}; counts: of the judge; judge: its settings.

    Raises:
        StageError: when there is no opinion at all, or the judge gives up.
    """
    items = [row.item for row in rows]
    home = judge.opinions(items)
    heard = [i for i, opinion in enumerate(home) if not opinion.missing]
    if not heard:
        raise StageError(
            f"judge {judge.cfg.model!r} at {judge.cfg.base_url}: no opinion on any of {len(rows)} explanations; failures: "
            f"{judge.counts['failed']}; mend base_url, model or the key, or wait, and call again"
        )
    reference = [rows[i].reference for i in heard]
    said = [home[i].label for i in heard]
    groups = [rows[i].group for i in heard]

    def agreement(picked: np.ndarray) -> dict[str, float]:
        ours, theirs = [reference[k] for k in picked], [said[k] for k in picked]
        return {
            "accuracy": float(np.mean([a == b for a, b in zip(ours, theirs, strict=True)])),
            "kappa": cohen_kappa(ours, theirs),
        }

    def changed(now: dict[int, Item], fresh: bool = False) -> dict[int, bool]:
        """Row -> whether another item gets another opinion, where both are heard."""
        asked = {i: item for i, item in now.items() if not home[i].missing}
        said = zip(asked, judge.opinions(list(asked.values()), fresh), strict=True)
        return {i: opinion.label != home[i].label for i, opinion in said if not opinion.missing}

    partners = _partners(rows, np.random.default_rng(seed))
    partners = {i: j for i, j in partners.items() if not home[j].missing and home[i].label != home[j].label}
    swapped = {i: replace(rows[j].item, clip=rows[i].item.clip) for i, j in partners.items() if not home[i].missing}
    moved = zip(swapped, judge.opinions(list(swapped.values())), strict=True)
    probes = {
        "swap": {i: opinion.label == home[partners[i]].label for i, opinion in moved if not opinion.missing},
        "negation": changed(
            {
                i: replace(x, explanation=negated(x.explanation))
                for i, x in enumerate(items)
                if _CUE.search(x.explanation)
            }
        ),
        "repeat": changed({i: replace(x, labels=x.labels[::-1]) for i, x in enumerate(items)}, fresh=True),
    }

    def rate(flags: dict[int, bool]) -> dict[str, Any]:
        if not flags:
            return {"n": 0}
        hits = np.array(list(flags.values()), dtype=float)
        i = bootstrap_interval(lambda k: float(hits[k].mean()), [rows[i].group for i in flags], resamples, seed, LEVEL)
        return {"value": i.value, "lo": i.lo, "hi": i.hi, "n": len(flags)}

    intervals = bootstrap_intervals(agreement, groups, resamples, seed, LEVEL)
    confusion = Counter(zip(reference, [label or OFF_LIST for label in said], strict=True))
    return {
        "n": len(rows),
        "missing": len(rows) - len(heard),
        "agreement": {k: {"value": i.value, "lo": i.lo, "hi": i.hi, "n": len(heard)} for k, i in intervals.items()},
        "probes": {name: rate(flags) for name, flags in probes.items()},
        "confusion": {a: {b: n for (x, b), n in sorted(confusion.items()) if x == a} for a in sorted(set(reference))},
        "interval": {"level": LEVEL, "resamples": resamples, "unit": unit_of(groups)},
        "counts": judge.counts,
        "judge": judge.settings(),
    }


def _partners(rows: Sequence[Row], rng: np.random.Generator) -> dict[int, int]:
    """For every row one with the same list of labels and another reference, where there is any."""
    found = {}
    for i, row in enumerate(rows):
        other = [j for j, r in enumerate(rows) if r.reference != row.reference and r.item.labels == row.item.labels]
        if other:
            found[i] = int(rng.choice(other))
    return found


def read_explanations(path: Path, uids: set[str]) -> dict[str, tuple[str, str | None]]:
    """Read an explanation file.

    Args:
        path: JSONL, each line {"uid", "explanation", "label"?}; other fields are not looked at.
        uids: of the records that an explanation may be about.

    Returns:
        uid -> explanation and label.

    Raises:
        RecordError: with `file:line`, what it held and what to do.
    """
    if not path.is_file():
        raise RecordError(f"{path}: there is no such file of explanations; mend the path")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    found: dict[str, tuple[str, str | None]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        at = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RecordError(
                f"{at}: not JSON ({error.msg} at column {error.colno}); mend or remove the line"
            ) from None
        fields = [row.get(name) for name in ("uid", "explanation", "label")] if isinstance(row, dict) else [None] * 3
        uid, explanation, label = fields
        if not (isinstance(uid, str) and isinstance(explanation, str) and isinstance(label, str | None)):
            raise RecordError(
                f"{at}: an object with the strings uid and explanation, and label or none, is required; got "
                f"{line.strip()[:80]!r}; mend the line"
            )
        if uid not in uids:
            raise RecordError(f"{at}: no record has the uid {uid!r}; remove the line, or name the records it is about")
        if uid in found:
            raise RecordError(f"{at}: uid {uid!r} occurs twice; keep one explanation a record")
        found[uid] = explanation, label
    return found


def make_rows(
    task: Task, records: Sequence[Record], explanations: dict[str, tuple[str, str | None]], root: Path | None
) -> list[Row]:
    """Items and references of the records that have an explanation and one reference label.

    Raises:
        RecordError: for a label that is none of the task's.
        ConfigError: for a task without labels.
    """
    rows = []
    for record in records:
        if record.uid not in explanations:
            continue
        explanation, label = explanations[record.uid]
        item, gold = item_of(task, record, explanation, root), labels_in(record.target)
        if label is not None and label not in item.labels:
            raise RecordError(
                f"explanation of {record.uid!r}: label is one of {', '.join(item.labels)}; got {label!r}; mend the line"
            )
        if label is not None or len(gold) == 1:
            rows.append(Row(record.group, item, label or next(iter(gold))))
    return rows


def _settings(argv: Sequence[str]) -> tuple[dict[str, str], list[str], JudgeConfig]:
    """Our own settings as text, the overrides that describe the task, and the judge."""
    if bad := [a for a in argv if "=" not in a]:
        raise ConfigError(f"{' '.join(bad)}: settings are key=value; write {USAGE}")
    of_task = [a for a in argv if a.startswith(("task=", "task."))]
    given = {key: value for key, _, value in (a.partition("=") for a in argv if a not in of_task)}
    check_sections(OmegaConf.create(given), ["task", *PATHS, "root", *DEFAULTS, *OF_JUDGE])
    absent = [k for k in PATHS if k not in given] + ["task"] * (not any(a.startswith("task=") for a in of_task))
    if absent:
        raise ConfigError(f"{', '.join(absent)}: required and not given; write {USAGE}")
    settings = {**DEFAULTS, **given}
    if settings["split"] not in SPLITS:
        raise ConfigError(f"split: one of {', '.join(SPLITS)}; got {settings['split']!r}; mend the command")
    for key, least in (("resamples", 1), ("seed", 0)):
        if not settings[key].isdecimal() or int(settings[key]) < least:
            raise ConfigError(f"{key}: a whole number from {least} on; got {settings[key]!r}; mend the command")
    changes = OmegaConf.from_dotlist([f"{key}={value}" for key, value in given.items() if key in OF_JUDGE])
    known = OmegaConf.load(CONF / "judge" / "openai.yaml")
    cfg = OmegaConf.create({"seed": int(settings["seed"]), "judge": OmegaConf.merge(known, changes)})
    judge = section(cfg, "judge", JudgeConfig)
    if judge.media and "root" not in given:
        raise ConfigError("root: required with media=true, the folder below which the media lie; add root=FOLDER")
    return settings, of_task, judge


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Put a judge to the test, write `out`, and print a table.

    Raises:
        UndertoneError: for a bad setting, record or explanation, or a judge that cannot be heard.
    """
    settings, of_task, cfg = _settings(argv)
    task, split, out = load_task(of_task), settings["split"], Path(settings["out"])
    every = read_records(Path(settings["records"]))
    explanations = read_explanations(Path(settings["explanations"]), {r.uid for r in every})
    records = [r for r in every if r.split == split]
    rows = make_rows(task, records, explanations, Path(settings["root"]) if cfg.media else None)
    if not rows:
        raise RecordError(
            f"{settings['explanations']}: none of {len(explanations)} explanations is about one of {len(records)} records of "
            f"split={split} and has one reference label; choose another split, or add labels"
        )
    by_person = sum(explanations[r.uid][1] is not None for r in records if r.uid in explanations)
    result: dict[str, Any] = {
        "task": task.name,
        "split": split,
        "reference": {"person": by_person, "gold": len(rows) - by_person},
    } | report(Judge(cfg, out.parent), rows, int(settings["resamples"]), int(settings["seed"]))
    write_json(out, result)
    table = [["", "value", "95 % interval", "n"]]
    for name, m in (result["agreement"] | result["probes"]).items():
        seen = [f"{m['value']:.3f}", f"[{m['lo']:.3f}, {m['hi']:.3f}]"] if m["n"] else ["-", "-"]
        table.append([name, *seen, str(m["n"])])
    print(align(table))
    counts = result["counts"]
    failures = ", ".join(f"{reason} {n}" for reason, n in counts["failed"].items()) or "none"
    told = ", ".join(f"{name} {counts[name]}" for name in ("asked", "cached", "off_list", "skipped"))
    print(f"{result['n']} explanations, {result['missing']} without an opinion; {told}; failures: {failures}")
    return result


def command() -> None:
    """Entry point."""
    try:
        main(sys.argv[1:])
    except UndertoneError as error:
        sys.exit(f"error: {error}")
