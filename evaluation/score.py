"""Score predictions, whoever made them; no model is loaded.

    python -m evaluation.score task=T records=R.jsonl predictions=P.jsonl out=S.json

`task` names a file of `conf/task/`; its settings can be overridden as usual (`task.grammar=think`). Every line of
`predictions` has a `uid` and either `completion`, raw text that is graded through the task's grammar, or `answer`, the
content of the answer block alone (text, or a number): then format and agreement do not apply. Where both are there, as in a
run's own predictions.jsonl, the completion is graded. Further settings:

    split=test       which records are scored; predictions for the other splits are ignored
    missing=error    what a record without a prediction means: error, or wrong (counted as unparseable, fault "missing")
    resamples=1000   bootstrap samples of the confidence intervals
    seed=0           of the bootstrap

When `records` holds training records too, the task's trivial rule is scored beside the predictions.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evaluation.stats import RESAMPLES, bootstrap_intervals, cell, unit_of
from runtime.config import check_sections
from runtime.errors import ConfigError, RecordError, UndertoneError
from runtime.files import write_json
from tasks.base import PARTS, WRONG, Score, Task
from tasks.dc import Answer, Fault
from tasks.metrics.explanation import evidence_precision, explanation_metrics, side_of
from tasks.record import SPLITS, Record, read_records
from tasks.target import Target, number_text

CONF = Path(__file__).parents[1] / "conf"
DEFAULTS = {"split": "test", "missing": "error", "resamples": str(RESAMPLES), "seed": "0"}
PATHS = ("records", "predictions", "out")
USAGE = "task=T records=R.jsonl predictions=P.jsonl out=S.json"
LEVEL = 0.95
"""Coverage of every interval."""


Graded = tuple[str | None, Score]
"""Name of the fault, and the score; "missing" is a fault here, too."""


def score_predictions(
    task: Task,
    records: Sequence[Record],
    completions: Mapping[str, str | None],
    *,
    answers: Mapping[str, str] | None = None,
    train: Sequence[Record] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Grade one prediction per record and summarise.

    Args:
        task: grades, and chooses the corpus metrics.
        records: the records to score, at least one.
        completions: uid -> raw text; a record without one, or with None, is wrong with the fault "missing".
        answers: uid -> text of the answer block alone; goes before `completions`.
        train: training records, from which the task's trivial rule is made; without them `baseline` is empty.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        A JSON-able dict:
        n: number of records;
        metrics: name -> {value, lo, hi}, a 95 % bootstrap interval clustered by group;
        explanations: the same of what `tasks/metrics/explanation.py` counts; empty where nothing read the explanations;
        interval: {level, resamples, unit, units}, where unit is what was drawn, "group" (or "item" where there is one
            group only), and units says how many there are;
        faults: fault -> count, most frequent first;
        parts: part -> {mean, n, unscored}, where unscored are left out of the mean, which is null when nothing is left;
        baseline: name -> value of the trivial rule on the same records.

    Raises:
        RecordError: when there is no record to score.
    """
    if not records:
        raise RecordError("score: no records to score; got 0; choose another split, or mend the record file")
    graded = [_grade(task, record, completions.get(record.uid), (answers or {}).get(record.uid)) for record in records]
    return summarize(task, records, graded, train=train, resamples=resamples, seed=seed)


def summarize(
    task: Task,
    records: Sequence[Record],
    graded: Sequence[Graded],
    *,
    train: Sequence[Record] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What `score_predictions` returns, for predictions that are graded already."""
    if not records:
        raise RecordError("score: no records to score; got 0; choose another split, or mend the record file")
    faults = Counter(fault for fault, _ in graded if fault is not None)
    scores = [score for _, score in graded]
    gold = [record.target for record in records]
    said = [None if score.answer is None else score.answer.value for score in scores]
    groups = [record.group for record in records]
    read = [(score.speaks_for, score.precision) for score in scores]
    which = read_in(read)

    def corpus(items: np.ndarray) -> dict[str, float]:
        return task.metrics([gold[i] for i in items], [said[i] for i in items])

    def explained(items: np.ndarray) -> dict[str, float]:
        return explanation_rates([gold[i] for i in items], [said[i] for i in items], [read[i] for i in items], which)

    def intervals(metrics: Callable[[np.ndarray], dict[str, float]]) -> dict[str, dict[str, float]]:
        found = bootstrap_intervals(metrics, groups, resamples, seed, LEVEL)
        return {name: cell(i) for name, i in found.items()}

    unit = unit_of(groups)
    return {
        "n": len(records),
        "metrics": intervals(corpus),
        "explanations": intervals(explained),
        "interval": {
            "level": LEVEL,
            "resamples": resamples,
            "unit": unit,
            "units": len(set(groups)) if unit == "group" else len(groups),
        },
        "faults": dict(faults.most_common()),
        "parts": {name: _mean([score.parts[name] for score in scores]) for name in PARTS},
        "baseline": task.metrics(gold, task.baseline(train, records)) if train else {},
    }


Read = tuple[str | None, float | None]
"""What an explanation speaks for, and the precision of its claims; None for what nothing has read."""


def read_in(read: Sequence[Read]) -> tuple[bool, bool]:
    """Whether anything read what the explanations speak for, and whether anything checked their claims."""
    return any(label is not None for label, _ in read), any(precision is not None for _, precision in read)


def explanation_rates(
    gold: Sequence[Target], answers: Sequence[Target | None], read: Sequence[Read], which: tuple[bool, bool]
) -> dict[str, float]:
    """What `tasks/metrics/explanation.py` counts, as far as `which` says that it was read."""
    labels, claims = which
    found: dict[str, float] = {}
    if labels:
        found |= explanation_metrics(list(map(side_of, gold)), list(map(side_of, answers)), [j for j, _ in read])
    return found | {"evidence_precision": evidence_precision([p for _, p in read])} if claims else found


def _grade(task: Task, record: Record, completion: str | None, answer: str | None) -> Graded:
    if answer is None:
        if completion is None:
            return "missing", Score(WRONG, None, None)
        score = task.score(record, completion)
        return score.fault, score
    value, coarse = record.target.read(answer), record.target.coarse()
    closeness = 0.0 if value is None else value.score(record.target)
    right = None if coarse is None else float(value is not None and value.coarse() == coarse)
    parts = dict.fromkeys(PARTS) | {"discriminate": right, "calibrate": closeness}
    fault = Fault.BAD_ANSWER if value is None else None
    return fault, Score(parts, fault, None if value is None else Answer(value))


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    return {"mean": mean, "n": len(known), "unscored": len(values) - len(known)}


def read_predictions(path: Path, uids: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Read a prediction file.

    Args:
        path: JSONL, each line {"uid", "completion"} or {"uid", "answer"}; other fields are not looked at.
        uids: of the records that a prediction may be about.

    Returns:
        uid -> completion, and uid -> answer text.

    Raises:
        RecordError: with `file:line`, what it held and what to do.
    """
    if not path.is_file():
        raise RecordError(f"{path}: there is no such prediction file; mend the path")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    completions: dict[str, str] = {}
    answers: dict[str, str] = {}
    line_of: dict[str, int] = {}
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
        if not isinstance(row, dict) or not isinstance(row.get("uid"), str):
            raise RecordError(
                f"{at}: an object with the string uid is required; got {line.strip()[:80]!r}; mend the line"
            )
        uid, completion, answer = row["uid"], row.get("completion"), row.get("answer")
        if uid not in uids:
            raise RecordError(f"{at}: no record has the uid {uid!r}; remove the line, or score the records it is about")
        if uid in line_of:
            raise RecordError(
                f"{at}: uid {uid!r} occurs twice, first in line {line_of[uid]}; keep one prediction a record"
            )
        if completion is None and answer is None:
            raise RecordError(f"{at}: completion or answer is required; got neither; mend the line")
        if completion is not None:
            answer = None  # what a completion says is read from it
        if isinstance(answer, int | float) and not isinstance(answer, bool) and np.isfinite(answer):
            answer = number_text(float(answer))
        said = completion if answer is None else answer
        if not isinstance(said, str):
            raise RecordError(f"{at}: completion is a string, answer a string or a number; got {said!r}; mend the line")
        line_of[uid] = number
        (completions if answer is None else answers)[uid] = said
    return completions, answers


def load_task(overrides: Sequence[str], conf: Path = CONF) -> Task:
    """Make the task that `task=NAME` (and further `task.key=value`) describe.

    Args:
        overrides: Hydra overrides; one of them is `task=NAME`, a file of `conf/task/`.
        conf: the folder of the configs.

    Raises:
        ConfigError: for an unknown task or key.
    """
    named = [f"+{o}" if o.startswith("task=") else o for o in overrides]
    try:
        with initialize_config_dir(str(conf.resolve()), version_base=None):
            cfg = compose(overrides=named)
        return instantiate(cfg.task, _convert_="all")
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, UndertoneError):
            raise error.__cause__ from None
        known = sorted(path.stem for path in (conf / "task").glob("*.yaml"))
        raise ConfigError(
            f"{' '.join(overrides)}: {str(error).splitlines()[0]}; tasks: {', '.join(known)}; mend the command"
        ) from None


def _settings(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Our own settings as text, and the overrides that describe the task."""
    if bad := [a for a in argv if "=" not in a]:
        raise ConfigError(f"{' '.join(bad)}: settings are key=value; write {USAGE}")
    of_task = [a for a in argv if a.startswith(("task=", "task."))]
    given = {key: value for key, _, value in (a.partition("=") for a in argv if a not in of_task)}
    check_sections(OmegaConf.create(given), ["task", *PATHS, *DEFAULTS])
    absent = [k for k in PATHS if k not in given] + ["task"] * (not any(a.startswith("task=") for a in of_task))
    if absent:
        raise ConfigError(f"{', '.join(absent)}: required and not given; write {USAGE}")
    settings = {**DEFAULTS, **given}
    for key, allowed in (("split", SPLITS), ("missing", ("error", "wrong"))):
        if settings[key] not in allowed:
            raise ConfigError(f"{key}: one of {', '.join(allowed)}; got {settings[key]!r}; mend the command")
    for key, least in (("resamples", 1), ("seed", 0)):
        if not settings[key].isdecimal() or int(settings[key]) < least:
            raise ConfigError(f"{key}: a whole number from {least} on; got {settings[key]!r}; mend the command")
    return settings, of_task


def align(rows: Sequence[Sequence[str]]) -> str:
    """Lines of aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Score a file of predictions, write `out`, and print a table.

    Raises:
        UndertoneError: for a bad setting, record or prediction.
    """
    settings, of_task = _settings(argv)
    task, split, source = load_task(of_task), settings["split"], settings["predictions"]
    every = read_records(Path(settings["records"]))
    records = [r for r in every if r.split == split]
    if not records:
        found = dict(Counter(r.split for r in every))
        raise RecordError(f"{settings['records']}: no record has split={split}; got {found}; choose another split")
    completions, answers = read_predictions(Path(source), {r.uid for r in every})
    unanswered = [r.uid for r in records if r.uid not in completions and r.uid not in answers]
    if unanswered and settings["missing"] == "error":
        raise RecordError(
            f"{source}: {len(unanswered)} of {len(records)} records of split={split} have no prediction, for example "
            f"{', '.join(map(repr, unanswered[:3]))}; add them, or count them as wrong with missing=wrong"
        )
    result: dict[str, Any] = {"task": task.name, "split": split} | score_predictions(
        task,
        records,
        completions,
        answers=answers,
        train=[r for r in every if r.split == "train"],
        resamples=int(settings["resamples"]),
        seed=int(settings["seed"]),
    )
    write_json(Path(settings["out"]), result)
    rows = [["metric", "value", "95 % interval", "trivial rule"]]
    for name, m in result["metrics"].items():
        rule = f"{result['baseline'][name]:.3f}" if result["baseline"] else "-"
        rows.append([name, f"{m['value']:.3f}", f"[{m['lo']:.3f}, {m['hi']:.3f}]", rule])
    print(align(rows))
    print(f"{result['n']} records; faults: {', '.join(f'{k} {v}' for k, v in result['faults'].items()) or 'none'}")
    return result


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UndertoneError as error:
        sys.exit(f"error: {error}")
