"""Compare methods ("arms") of several seeds each on the same test items: means, paired differences, tokens spent.

    python -m evaluation.compare plain='outputs/plain-*' hinted='outputs/hinted-*' --metrics polarity,corr,mae
        --where conflict=true     only the items whose `meta` says so: a table of its own, and a family of its own
        --curve dev/polarity      and the generated tokens at which each arm reaches the first one's final level (on these items)
        --resamples 1000          bootstrap samples of the items
        --seed 0                  of the bootstrap

An arm is `NAME=GLOB`; the first one is the reference. The glob (in quotes, so that the shell leaves it alone) names run
folders, of which the evaluation of `rl` is read, or else that of `sft`; or evaluation folders, `'outputs/*/eval/sft'` or
`'outputs/*/eval/regression'`. The seed of a run is the one that its evaluation was made with.

Name the metrics before you look: all tests of one table, arms x metrics, are one family for Holm's correction.
Which test, and why: evaluation/stats.py.
"""

import argparse
import glob
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from evaluation.report import LOWER_IS_BETTER
from evaluation.score import Read, explanation_rates, read_in
from evaluation.stats import (
    RESAMPLES,
    Difference,
    Interval,
    holm,
    mean_difference,
    mean_interval,
    measure_arm,
    paired,
)
from runtime.config import make
from runtime.errors import ConfigError, RecordError, StageError, UndertoneError
from runtime.files import read_jsonl
from tasks.base import Task
from tasks.record import Record, read_records
from tasks.target import Target

TOKENS = "tokens/generated"
"""Key of the rows in `rl/metrics.jsonl`: tokens that were generated since training began."""
WINDOW = 3
"""A curve is its trailing mean over so many evaluations, so that one lucky evaluation does not reach a level."""


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation of one run."""

    folder: Path
    seed: int
    task: Task
    records: Mapping[str, Record]
    """uid -> record, of the items that were evaluated, in file order."""
    answers: Mapping[str, Target | None]
    read: Mapping[str, Read]
    """uid -> what a verifier or a judge, and the cues, say of the explanation."""
    log: Sequence[Mapping[str, Any]]
    """Rows of the `metrics.jsonl` of the stage that was evaluated; none for a baseline without one."""
    looks: Mapping[int, Sequence[tuple[Record, Target | None]]]
    """Step -> what was answered to the dev records there; none for a stage that keeps no such files."""

    @property
    def tokens(self) -> float | None:
        """Tokens generated while training; None where the log does not say."""
        return next((row[TOKENS] for row in reversed(self.log) if _number(row.get(TOKENS))), None)


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs of one method, with different seeds."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What one arm scored."""

    arm: str
    seeds: tuple[int, ...]
    tokens: float | None
    """Generated while training, mean over seeds; None where a run does not say."""
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Contrast:
    """One arm minus the reference in one metric."""

    arm: str
    metric: str
    difference: Difference
    holm: float
    """P-value corrected over all contrasts of the comparison."""
    paired: bool
    """Whether seeds were compared one by one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All arms on the same items, and every one against the first."""

    where: tuple[str, Any] | None
    items: int
    unit: str
    units: int
    resamples: int
    arms: tuple[Summary, ...]
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """The tokens that one arm needed for a level."""

    arm: str
    budget: float | None
    """Tokens at the last evaluation, mean over seeds; None where the log has no curve."""
    tokens: float | None
    """Tokens at the first evaluation that reaches the level; None where none does."""
    reached: int
    """Number of seeds whose own curve reaches the level."""
    seeds: int


@dataclass(frozen=True, slots=True)
class Race:
    """How many generated tokens each arm needed for what the reference had reached at its end."""

    key: str
    where: tuple[str, Any] | None
    level: float
    arms: tuple[Reach, ...]


# ---- reading


def read_arm(name: str, pattern: str) -> Arm:
    """The runs of an arm.

    Args:
        name: of the arm.
        pattern: glob of run folders or evaluation folders.

    Raises:
        StageError: when nothing matches, a match is no such folder, a file is missing, or a seed occurs twice.
    """
    found = sorted(map(Path, glob.glob(pattern)))
    if not found:
        raise StageError(f"{name}: no folder matches {pattern!r}; mend the pattern, or finish a run of this arm")
    runs = tuple(map(read_run, found))
    first: dict[int, Run] = {}
    for run in runs:
        if first.setdefault(run.seed, run) is not run:
            raise StageError(
                f"{name}: {run.folder} and {first[run.seed].folder} both have seed {run.seed}; an arm takes one run of "
                "each seed; narrow the pattern, or run one of them with another seed"
            )
    return Arm(name, runs)


def read_run(folder: Path) -> Run:
    """One evaluation, with its items as the run's own records hold them.

    Args:
        folder: an evaluation folder (`RUN/eval/<stage>`), or a run folder with `eval/rl` or else `eval/sft`.

    Raises:
        StageError: for another folder, a missing file, or an evaluation that was cut off.
        RecordError: when a prediction is about no record of the run.
    """
    folder = _evaluation(folder)
    run = folder.absolute().parent.parent
    about, said, records = folder / "stage.json", folder / "predictions.jsonl", run / "data" / "records.jsonl"
    for path in (about, said, records, run / "config.yaml"):
        if not path.is_file():
            raise StageError(f"{path}: there is no such file; evaluate the run anew, or leave it out of the pattern")
    stage = json.loads(about.read_text(encoding="utf-8"))
    if "result" not in stage:
        raise StageError(f"{about}: this evaluation was cut off; run it again, or leave it out of the pattern")
    by_uid = {record.uid: record for record in read_records(records)}

    def answered(path: Path) -> list[tuple[Record, Target | None]]:
        rows = read_jsonl(path)
        if odd := next((row["uid"] for row in rows if row["uid"] not in by_uid), None):
            raise RecordError(f"{path}: no record of {records} has the uid {odd!r}; run the stage anew")
        found = [(by_uid[row["uid"]], row["answer"]) for row in rows]
        return [(record, None if text is None else record.target.read(text)) for record, text in found]

    answers = {record.uid: answer for record, answer in answered(said)}
    config, log = OmegaConf.load(run / "config.yaml"), run / folder.name / "metrics.jsonl"
    assert isinstance(config, DictConfig)
    return Run(
        folder,
        stage["made_from"]["settings"]["seed"],
        make(config, "task"),
        {uid: record for uid, record in by_uid.items() if uid in answers},
        answers,
        {row["uid"]: (row.get("speaks_for"), row.get("evidence_precision")) for row in read_jsonl(said)},
        read_jsonl(log) if log.is_file() else (),
        {int(path.stem[-6:]): answered(path) for path in sorted(log.parent.glob("dev/step_*.jsonl"))},
    )


def _evaluation(folder: Path) -> Path:
    """The evaluation that a match of the pattern stands for."""
    if folder.absolute().parent.name == "eval":
        return folder
    for name in ("rl", "sft"):
        if (folder / "eval" / name).is_dir():
            return folder / "eval" / name
    inside = sorted(path.name for path in folder.glob("eval/*"))
    raise StageError(
        f"{folder}: neither an evaluation nor a run folder with eval/rl or eval/sft; below eval/ it has "
        f"{', '.join(inside) or 'nothing'}; run `python -m evaluation` there, or name one of these"
    )


def _number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def check_same_items(arms: Sequence[Arm]) -> None:
    """Refuse runs that were not evaluated on the same items with the same gold and the same groups.

    Raises:
        RecordError: naming both folders and the first item that differs.
    """
    first = arms[0].runs[0]
    for arm in arms:
        for run in arm.runs:
            if odd := sorted(set(run.answers) ^ set(first.answers)):
                raise RecordError(
                    f"{run.folder} ({arm.name}) and {first.folder} were evaluated on different items: {len(run.answers)} "
                    f"and {len(first.answers)} of them, and {odd[0]!r} is in one only; evaluate both on one split of the "
                    "same records"
                )
            for uid, record in run.records.items():
                ours, theirs = ((r.target.to_json(), r.group) for r in (record, first.records[uid]))
                if ours != theirs:
                    raise RecordError(
                        f"{run.folder} ({arm.name}) and {first.folder} have different gold or groups: {uid!r} is {ours} "
                        f"and {theirs}; evaluate both on the same records"
                    )


# ---- comparing


def compare(
    arms: Sequence[Arm],
    metrics: Sequence[str],
    *,
    where: tuple[str, Any] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Every arm against the first one.

    Args:
        arms: two or more, with different names.
        metrics: names of the task's corpus metrics to test, and of those of explanations where all runs have them; with the
            arms they are the family of Holm's correction.
        where: only the items whose record has this value of this key in its `meta`.
        resamples: bootstrap samples of the items.
        seed: of the bootstrap.

    Raises:
        ConfigError: for fewer than two arms, a name that occurs twice, or a metric or key that does not exist.
        RecordError: for arms on different items, or fewer than two items.
    """
    names = [arm.name for arm in arms]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"arms: two or more with different names; got {', '.join(names) or 'none'}; name another arm")
    check_same_items(arms)
    first = arms[0].runs[0]
    records = _chosen(list(first.records.values()), where)
    gold, groups = [r.target for r in records], [r.group for r in records]
    each = [read_in(list(run.read.values())) for arm in arms for run in arm.runs]
    which = all(labels for labels, _ in each), all(claims for _, claims in each)
    known = first.task.metrics(gold, gold) | explanation_rates(gold, gold, [(None, None)] * len(gold), which)
    if not metrics or (unknown := [name for name in metrics if name not in known]):
        got = ", ".join(unknown) if metrics else "none"
        raise ConfigError(f"metrics: of {first.task.name}: {', '.join(known)}; got {got}; mend the command")

    def corpus(run: Run) -> Callable[[np.ndarray], dict[str, float]]:
        said = [run.answers[record.uid] for record in records]
        read = [run.read[record.uid] for record in records]

        def metrics(items: np.ndarray) -> dict[str, float]:
            ours, theirs = [gold[i] for i in items], [said[i] for i in items]
            found = first.task.metrics(ours, theirs)
            return found | explanation_rates(ours, theirs, [read[i] for i in items], which)

        return metrics

    measured = [measure_arm({run.seed: corpus(run) for run in arm.runs}, groups, resamples, seed) for arm in arms]
    pairs = [(k, metric) for k in range(1, len(arms)) for metric in metrics]
    differences = [mean_difference(measured[k][metric], measured[0][metric]) for k, metric in pairs]
    corrected = holm([d.p for d in differences])
    one = measured[0][metrics[0]]
    return Comparison(
        where,
        len(records),
        one.unit,
        one.units,
        resamples,
        tuple(
            Summary(arm.name, found[metrics[0]].seeds, _tokens(arm), {m: mean_interval(found[m]) for m in metrics})
            for arm, found in zip(arms, measured, strict=True)
        ),
        tuple(
            Contrast(names[k], metric, difference, p, paired(measured[k][metric], measured[0][metric]))
            for (k, metric), difference, p in zip(pairs, differences, corrected, strict=True)
        ),
    )


def _chosen(records: list[Record], where: tuple[str, Any] | None) -> list[Record]:
    if where is not None:
        key, wanted = where
        if not any(key in record.meta for record in records):
            known = sorted({key for record in records for key in record.meta})
            raise ConfigError(
                f"where: no item has {key!r} in its meta; it has {', '.join(known) or 'nothing'}; mend it"
            )
        values = sorted({json.dumps(record.meta.get(key)) for record in records})
        records = [record for record in records if record.meta.get(key) == wanted]
        if len(records) < 2:
            raise RecordError(
                f"where: {len(records)} items have {key}={json.dumps(wanted)}, 2 or more are needed; "
                f"values are {', '.join(values[:12])}; choose another"
            )
    if len(records) < 2:
        raise RecordError(
            f"compare: {len(records)} items were evaluated, 2 or more are needed; evaluate a larger split"
        )
    return records


def _tokens(arm: Arm) -> float | None:
    spent = [run.tokens for run in arm.runs]
    known = [n for n in spent if n is not None]
    return float(np.mean(known)) if len(known) == len(spent) else None


def race(arms: Sequence[Arm], key: str, where: tuple[str, Any] | None = None) -> Race:
    """The generated tokens at which each arm first reaches the final level of the first one.

    The curve of an arm holds, for every step at which all its seeds logged `key`, the means over seeds of tokens and value;
    then values are averaged over the last WINDOW evaluations (all of them where there are fewer). The level is the end of
    the reference's curve; a point counts from it on, nothing is interpolated between evaluations.

    Args:
        arms: the reference first.
        key: of the rows in `rl/metrics.jsonl`, such as `dev/polarity`; lower is better for those of LOWER_IS_BETTER.
        where: only the dev records with this value of this key in their `meta`, by the answers in `rl/dev/`.

    Raises:
        ConfigError: for a slice of what is not measured on dev.
        StageError: when the reference has no such curve.
    """
    if where is not None and not key.startswith("dev/"):
        raise ConfigError(f"--curve {key} --where {where[0]}=...: only curves dev/METRIC can be sliced; leave one out")
    sign = -1 if key.rpartition("/")[2] in LOWER_IS_BETTER else 1
    reference = _curve(arms[0].runs, key, where)
    if not reference:
        raise StageError(
            f"{arms[0].name}: no step of {arms[0].runs[0].folder} has both {key} and {TOKENS} in its metrics.jsonl"
            f"{' and answers of such records in dev/' if where else ''} for every seed; name a key that was logged, or train "
            "the reference anew"
        )
    level = reference[-1][1]

    def needed(runs: Sequence[Run]) -> float | None:
        return next((tokens for tokens, value in _curve(runs, key, where) if sign * value >= sign * level), None)

    def reach(arm: Arm) -> Reach:
        curve = _curve(arm.runs, key, where)
        reached = sum(needed([run]) is not None for run in arm.runs)
        return Reach(arm.name, curve[-1][0] if curve else None, needed(arm.runs), reached, len(arm.runs))

    return Race(key, where, level, tuple(map(reach, arms)))


def _points(run: Run, key: str, where: tuple[str, Any] | None) -> dict[int, tuple[float, float]]:
    """Step -> tokens and value, where both are known."""
    tokens = {row["step"]: row[TOKENS] for row in run.log if _number(row.get(TOKENS))}
    values = {row["step"]: row[key] for row in run.log if _number(row.get(key))}
    if where is not None:
        name, values = key.removeprefix("dev/"), {}
        for step, said in run.looks.items():
            chosen = [(r.target, answer) for r, answer in said if r.meta.get(where[0]) == where[1]]
            measured = run.task.metrics(*map(list, zip(*chosen, strict=True))) if chosen else {}
            if name in measured:
                values[step] = measured[name]
    return {step: (tokens[step], values[step]) for step in sorted(tokens.keys() & values.keys())}


def _curve(runs: Sequence[Run], key: str, where: tuple[str, Any] | None = None) -> list[tuple[float, float]]:
    """(tokens, smoothed value) at the steps that all runs have."""
    points = [_points(run, key, where) for run in runs]
    steps = sorted(set.intersection(*(set(of_run) for of_run in points)))
    if not steps:
        return []
    tokens, values = np.array([[of_run[step] for step in steps] for of_run in points], float).mean(0).T
    window = min(WINDOW, len(values))
    smooth = [float(values[i - window : i].mean()) for i in range(window, len(values) + 1)]
    return list(zip(tokens[window - 1 :].tolist(), smooth, strict=True))


# ---- showing


def markdown(comparison: Comparison) -> str:
    """Two tables: what every arm scored, and its difference to the reference."""
    metrics = list(comparison.arms[0].metrics)
    titles = [f"{m} {'↓' if m.rpartition('/')[2] in LOWER_IS_BETTER else '↑'}" for m in metrics]
    reference = comparison.arms[0].arm
    scored = [
        [
            arm.arm + (" (reference)" if arm.arm == reference else ""),
            str(len(arm.seeds)),
            _count(arm.tokens),
            *(f"{i.value:.3f} [{i.lo:.3f}, {i.hi:.3f}]" for i in arm.metrics.values()),
        ]
        for arm in comparison.arms
    ]
    tested = [
        [
            c.arm,
            c.metric,
            f"{c.difference.value:+.3f} [{c.difference.lo:+.3f}, {c.difference.hi:+.3f}]",
            _p(c.difference.p),
            _p(c.holm),
            "paired" if c.paired else "independent",
        ]
        for c in comparison.contrasts
    ]
    notes = [
        f"{comparison.items} items{_of(comparison.where)}. Means over seeds, 95 % intervals over seeds and {comparison.units} "
        f"{comparison.unit}s ({comparison.resamples} bootstrap samples); Holm over a family of {len(tested)}."
    ]
    if lone := [arm.arm for arm in comparison.arms if len(arm.seeds) == 1]:
        notes.append(f"One seed: {', '.join(lone)}. What another seed would change there is not in the intervals.")
    head = ["arm", "seeds", "generated tokens", *titles]
    return "\n\n".join(
        [
            *notes,
            table(head, scored),
            table(["arm", "metric", f"minus {reference}", "p", "p (Holm)", "seeds"], tested),
        ]
    )


def race_markdown(found: Race) -> str:
    """The tokens that every arm needed, and their share of the reference's budget."""
    budget = found.arms[0].budget

    def row(arm: Reach) -> list[str]:
        if arm.budget is None:
            return [arm.arm, "unknown", "unknown", "-", "-"]
        share = f"{arm.tokens / budget:.2f}" if arm.tokens is not None and budget else "-"
        needed = "not reached" if arm.tokens is None else _count(arm.tokens)
        return [arm.arm, _count(arm.budget), needed, share, f"{arm.reached} of {arm.seeds}"]

    reference = found.arms[0].arm
    note = (
        f"Generated tokens until {found.key}{_of(found.where)} reached {found.level:.3f}, where {reference} ended; mean over "
        f"seeds, trailing mean of {WINDOW} evaluations."
    )
    head = ["arm", "generated tokens", "until reached", f"share of {reference}", "seeds that reach it"]
    return f"{note}\n\n{table(head, [row(arm) for arm in found.arms])}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _of(where: tuple[str, Any] | None) -> str:
    return "" if where is None else f" with {where[0]} = {json.dumps(where[1])}"


def _count(x: float | None) -> str:
    return "unknown" if x is None else f"{x:,.0f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# ---- the command


def main(argv: Sequence[str]) -> str:
    """The Markdown that the command prints.

    Raises:
        UndertoneError: for a bad argument, and whatever the runs lack.
    """
    parser = argparse.ArgumentParser(prog="python -m evaluation.compare", description="Compare arms over seeds.")
    parser.add_argument("arms", nargs="+", metavar="ARM=GLOB", help="a name and its run or evaluation folders")
    parser.add_argument("--metrics", required=True, help="corpus metrics to test, with commas")
    parser.add_argument("--where", metavar="KEY=VALUE", help="only items whose meta has this value")
    parser.add_argument("--curve", metavar="KEY", help="of rl/metrics.jsonl: tokens until the reference's final level")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="bootstrap samples of the items")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_intermixed_args(argv)
    if args.resamples < 2 or args.seed < 0:
        got = f"--resamples {args.resamples} --seed {args.seed}"
        raise ConfigError(f"resamples 2 or more, seed 0 or more; got {got}; mend the command")
    arms = [read_arm(*_split(arm, "ARM=GLOB")) for arm in args.arms]
    where = None
    if args.where is not None:
        key, text = _split(args.where, "--where KEY=VALUE")
        where = key, _value(text)
    found = compare(arms, args.metrics.split(","), where=where, resamples=args.resamples, seed=args.seed)
    return "\n\n".join([markdown(found), *([race_markdown(race(arms, args.curve, where))] if args.curve else [])])


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
