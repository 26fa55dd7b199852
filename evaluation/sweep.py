"""A sweep as one table: a row for each member, with what it was given, how far it is, and its main metrics.

    python -m evaluation.sweep outputs/sweeps/NAME
        --metrics polarity,mae    only these
        --csv                     for a spreadsheet

It reads what the run folders hold, so it can be called at any time. Which difference is one, and which is luck, is said by
`python -m evaluation.compare`.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from evaluation.score import align
from runtime.errors import ConfigError, StageError, UndertoneError
from runtime.files import read_jsonl
from runtime.run import finished

STAGES = {"data_synth": "synth", "sft": "sft", "rl": "rl"}
"""Folder of the stage of a verb; that of `evaluation` is one of those below eval/."""
EVALUATED = ("init", "rl", "sft")
"""Below eval/, the first that is there: a checkpoint from elsewhere, else the newest of the run."""


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep."""

    folder: Path
    overrides: Mapping[str, str]
    state: str
    """Of the last stage that was begun: `rl done`, `rl 12 of 40`, `sft begun`, or `not begun`."""
    metrics: Mapping[str, float]
    """Of the last stage that has some."""


def objective(folder: Path, verb: str) -> float | None:
    """What a sweeper looks at; None where there is nothing.

    To minimise: the loss of `sft` on what it holds out. To maximise: mean closeness of the answers of `rl` (on dev, at its last
    look), `evaluation` and `pipeline`, and the share of accepted chains of `data_synth`.
    """
    match verb:
        case "sft":
            return _result(folder / "sft").get("eval_loss")
        case "rl":
            return _last_row(folder / "rl").get("dev/calibrate")
        case "data_synth":
            result = _result(folder / "synth")
            return result["accepted"] / result["asked"] if result.get("asked") else None
        case _:
            return (_evaluated(folder).get("parts") or {}).get("calibrate")


def read_sweep(folder: Path) -> list[Member]:
    """Its members, by name.

    Raises:
        StageError: when there is none.
    """
    runs = sorted({path.parent for name in ("config.yaml", "frozen-*.yaml") for path in folder.glob(f"*/{name}")})
    if not runs:
        raise StageError(
            f"{folder}: no member of a sweep in here; name the folder that `python -m VERB -m ...` made, such as "
            "outputs/sweeps/NAME"
        )
    given = [dict(_overrides(run.name)) for run in runs]
    common = set.intersection(*(set(one.items()) for one in given)) if len(runs) > 1 else set()
    return [
        Member(run, {k: v for k, v in own.items() if (k, v) not in common}, _state(run), _metrics(run))
        for run, own in zip(runs, given, strict=True)
    ]


def table(members: Sequence[Member], metrics: Sequence[str] = ()) -> list[list[str]]:
    """A head and a row for each member.

    Args:
        members: of one sweep.
        metrics: to show; none: all that some member has.

    Raises:
        ConfigError: for a metric that no member has.
    """
    keys = list(dict.fromkeys(key for member in members for key in member.overrides))
    known = list(dict.fromkeys(name for member in members for name in member.metrics))
    if unknown := sorted(set(metrics) - set(known)):
        raise ConfigError(f"--metrics: no member has {unknown}; there are {known}; mend the command")
    shown = list(metrics) or known
    rows = [[*keys, "state", *shown]]
    for member in members:
        values = [member.metrics.get(name) for name in shown]
        rows.append(
            [
                *(member.overrides.get(key, "") for key in keys),
                member.state,
                *("-" if value is None else f"{value:.4g}" for value in values),
            ]
        )
    return rows


def _overrides(name: str) -> Iterator[tuple[str, str]]:
    """`a=1,b=[x,y]` apart; a comma inside brackets or quotes belongs to the value."""
    depth, start, quoted = 0, 0, ""
    for i, sign in enumerate(name + ","):
        if quoted:
            quoted = "" if sign == quoted else quoted
        elif sign in "'\"":
            quoted = sign
        elif sign in "[{(":
            depth += 1
        elif sign in "]})":
            depth -= 1
        elif sign == "," and depth == 0:
            key, _, value = name[start:i].partition("=")
            yield key, value
            start = i + 1


def _stage_file(folder: Path) -> dict[str, Any]:
    path = folder / "stage.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _result(folder: Path) -> dict[str, Any]:
    return _stage_file(folder).get("result", {})


def _last_row(folder: Path) -> dict[str, float]:
    """The last value of everything that was logged."""
    path = folder / "metrics.jsonl"
    found: dict[str, float] = {}
    for row in read_jsonl(path) if path.is_file() else []:
        found |= {k: v for k, v in row.items() if v is not None}
    return found


def _evaluated(run: Path) -> dict[str, Any]:
    return next((found for name in EVALUATED if (found := _result(run / "eval" / name))), {})


def _state(run: Path) -> str:
    if any(finished(run / "eval" / name) for name in EVALUATED):
        return "evaluation done"
    for verb, stage in reversed(STAGES.items()):
        folder = run / stage
        if finished(folder):
            return f"{verb} done"
        if _stage_file(folder):
            step, last = _last_row(folder).get("step"), _max_steps(run, stage)
            return f"{verb} {int(step)} of {last}" if step is not None and last else f"{verb} begun"
    return "not begun"


def _max_steps(run: Path, stage: str) -> int | None:
    path = run / "config.yaml"
    return OmegaConf.select(OmegaConf.load(path), f"{stage}.max_steps") if path.is_file() else None


def _metrics(run: Path) -> dict[str, float]:
    if scored := _evaluated(run):
        return {name: cell["value"] for name, cell in scored["metrics"].items()}
    for stage in ("rl", "sft"):
        row = _last_row(run / stage)
        if chosen := {k: v for k, v in row.items() if k in ("reward", "loss", "eval_loss") or k.startswith("dev/")}:
            return {k: v for k, v in chosen.items() if not k.startswith("dev/canary")}
    result = _result(run / "synth")
    return {"accepted": result["accepted"] / result["asked"]} if result.get("asked") else {}


def main(argv: Sequence[str]) -> str:
    """What the command prints."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.sweep", description="A sweep as one table.")
    parser.add_argument("folder", type=Path, help="of the sweep, such as outputs/sweeps/NAME")
    parser.add_argument("--metrics", default="", help="only these, with commas")
    parser.add_argument("--csv", action="store_true", help="comma-separated values")
    args = parser.parse_args(argv)
    rows = table(read_sweep(args.folder), [name for name in args.metrics.split(",") if name])
    if args.csv:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(rows)
        return out.getvalue().rstrip("\n")
    return align(rows)


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UndertoneError as error:
        sys.exit(f"error: {error}")
