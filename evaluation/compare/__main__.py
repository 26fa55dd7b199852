"""Compare methods ("arms") of several seeds each on the same test items: means, paired differences, tokens spent.

    python -m evaluation.compare plain='outputs/plain-*' hinted='outputs/hinted-*' --metrics polarity,corr,mae
        --where conflict=true     only the items whose `meta` says so: a table of its own, and a family of its own
        --curve dev/polarity      and the generated tokens at which each arm reaches the first one's final level (on these items)
        --slices conflict,group   what every arm scores on parts of the items (evaluation/compare/slices.py)
        --out FOLDER              compare.html with everything and the examples, compare.md, and compare.tex for a paper
        --resamples 1000          bootstrap samples of the items
        --seed 0                  of the bootstrap

An arm is `NAME=GLOB`; the first one is the reference. The glob (in quotes, so that the shell leaves it alone) names run
folders, of which the evaluation of `rl` is read, or else that of `sft`; or evaluation folders, `'outputs/*/eval/sft'` or
`'outputs/*/eval/regression'`. One folder alone is that of a sweep: its runs become arms by their settings, the first in
alphabetical order is the reference unless `--reference ARM` names another. The seed of a run is the one that its evaluation
was made with.

Name the metrics before you look: all tests of one table, arms x metrics, are one family for Holm's correction.
Which test, and why: evaluation/stats.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.compare.contrast import compare
from evaluation.compare.page import compare_page
from evaluation.compare.race import race
from evaluation.compare.runs import Arm, arms_of_sweep, read_arm
from evaluation.compare.slices import applicable, slice_by
from evaluation.compare.tables import latex, markdown, race_table, results, slice_table, versus_table
from evaluation.compare.versus import versus
from evaluation.stats import RESAMPLES
from runtime.errors import ConfigError, UndertoneError
from runtime.files import write_text


def main(argv: Sequence[str]) -> str:
    """The Markdown that the command prints.

    Raises:
        UndertoneError: for a bad argument, and whatever the runs lack.
    """
    parser = argparse.ArgumentParser(prog="python -m evaluation.compare", description="Compare arms over seeds.")
    parser.add_argument(
        "arms", nargs="+", metavar="ARM=GLOB", help="a name and its run or evaluation folders; or one sweep folder"
    )
    parser.add_argument("--metrics", required=True, help="corpus metrics to test, with commas")
    parser.add_argument(
        "--reference", metavar="ARM", help="name of the arm that the others are compared with; the first one"
    )
    parser.add_argument("--where", metavar="KEY=VALUE", help="only items whose meta has this value")
    parser.add_argument("--curve", metavar="KEY", help="of rl/metrics.jsonl: tokens until the reference's final level")
    parser.add_argument(
        "--slices", metavar="NAME,...", help="parts of the items: missing, group, bin, difficulty, keys of meta"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="gets compare.html, compare.md and compare.tex")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="bootstrap samples of the items")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_intermixed_args(argv)
    if args.resamples < 2 or args.seed < 0:
        got = f"--resamples {args.resamples} --seed {args.seed}"
        raise ConfigError(f"resamples 2 or more, seed 0 or more; got {got}; mend the command")
    arms = _first(_arms(args.arms), args.reference)
    where = None
    if args.where is not None:
        key, text = _split(args.where, "--where KEY=VALUE")
        where = key, _value(text)
    metrics = args.metrics.split(",")
    found = compare(arms, metrics, where=where, resamples=args.resamples, seed=args.seed)
    raced = race(arms, args.curve, where) if args.curve else None
    names = args.slices.split(",") if args.slices else applicable(arms) if args.out else []
    slices = [slice_by(name, arms, metrics, args.seed) for name in names]
    items = versus(arms)
    printed = markdown(
        [
            *results(found),
            *([race_table(raced)] if raced else []),
            *([versus_table(items, arms[0].name)] if args.out or args.slices else []),
            *map(slice_table, slices),
        ]
    )
    if args.out:
        write_text(args.out / "compare.html", compare_page(arms, found, items, slices, raced))
        write_text(args.out / "compare.md", printed + "\n")
        write_text(args.out / "compare.tex", latex(found))
        printed += f"\n\n{args.out / 'compare.html'}"
    return printed


def _arms(given: Sequence[str]) -> list[Arm]:
    if len(given) == 1 and "=" not in Path(given[0]).name and Path(given[0]).is_dir():
        return arms_of_sweep(Path(given[0]))
    return [read_arm(*_split(arm, "ARM=GLOB")) for arm in given]


def _first(arms: Sequence[Arm], name: str | None) -> list[Arm]:
    """The arms, that of this name in front."""
    if name is not None and name not in (names := [arm.name for arm in arms]):
        raise ConfigError(f"--reference: one of {'; '.join(names)}; got {name!r}; mend the command")
    return sorted(arms, key=lambda arm: name is not None and arm.name != name)


def _split(text: str, form: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        raise ConfigError(f"{text!r}: write {form}")
    return name, rest


def _value(text: str) -> Any:
    """A number, true, false or null as JSON has them; anything else is a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UndertoneError as error:
        sys.exit(f"error: {error}")
