"""Train a verifier of the emotions in a sentence, and measure it on texts that it has not seen.

    python -m evaluation.verifier data=goemotions out=outputs/verifier

`data` is goemotions, looked for below UNDERTONE_DATA or ../shared/data, or a JSONL corpus of your own (corpus.py): the
verifier should know the language and the labels of a task's own explanations. `out` then holds verifier.json,
verifier.safetensors and report.json. Further settings:

    seed=0           of the folds of cross-validation, of the held-out part where the corpus has none, of the bootstrap
    resamples=1000   bootstrap samples of the confidence intervals

The held-out part decides nothing. Beside the verifier the report has two rules that read no text: name the most frequent
label, and name every label, which is the best that can be done so for the F1 of one label.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from evaluation.score import LEVEL, align
from evaluation.stats import RESAMPLES, bootstrap_intervals, unit_of
from evaluation.verifier import goemotions
from evaluation.verifier.corpus import Corpus, indicators, read_corpus
from evaluation.verifier.f1 import f1_of
from evaluation.verifier.linear import Fit, fit
from runtime.config import check_sections
from runtime.errors import ConfigError, UndertoneError
from runtime.files import write_json

DEFAULTS = {"seed": "0", "resamples": str(RESAMPLES)}
USAGE = "data=goemotions|FILE.jsonl out=FOLDER"


def report(data: Corpus, found: Fit, seed: int, resamples: int) -> dict[str, Any]:
    """Measure on the held-out part.

    Returns:
        A JSON-able dict:
        train, test, dropped: numbers of texts; dropped ones were in both parts, and are left out of train;
        cost, cv_macro_f1: inverse strength of the penalty, and why it was chosen;
        metrics: name -> {value, lo, hi}, 95 % bootstrap intervals clustered by group, at the thresholds of the verifier;
        interval: {level, resamples, unit, units};
        support: label -> number of held-out texts;
        most_frequent, every_label: name -> value of the two trivial rules.
    """
    labels, gold_NL = data.labels, indicators(data.test, data.labels)
    groups, every = [e.group for e in data.test], np.arange(len(data.test))
    said_NL = found.verifier.probabilities([e.text for e in data.test]) >= found.verifier.thresholds_L
    intervals = bootstrap_intervals(f1_of(gold_NL, said_NL, labels), groups, resamples, seed, LEVEL)
    frequent_L = np.arange(len(labels)) == indicators(data.train, labels).sum(0).argmax()
    rules = {"most_frequent": frequent_L, "every_label": np.ones(len(labels), bool)}
    unit = unit_of(groups)
    return {
        "train": len(data.train),
        "test": len(data.test),
        "dropped": data.dropped,
        "cost": found.cost,
        "cv_macro_f1": {f"{cost:g}": value for cost, value in found.cv_macro_f1.items()},
        "metrics": {name: {"value": i.value, "lo": i.lo, "hi": i.hi} for name, i in intervals.items()},
        "interval": {
            "level": LEVEL,
            "resamples": resamples,
            "unit": unit,
            "units": len(set(groups)) if unit == "group" else len(groups),
        },
        "support": dict(zip(labels, map(int, gold_NL.sum(0)), strict=True)),
        **{
            name: f1_of(gold_NL, np.broadcast_to(rule_L, gold_NL.shape), labels)(every)
            for name, rule_L in rules.items()
        },
    }


def _settings(argv: Sequence[str]) -> dict[str, str]:
    if bad := [a for a in argv if "=" not in a]:
        raise ConfigError(f"{' '.join(bad)}: settings are key=value; write {USAGE}")
    given = {key: value for key, _, value in (a.partition("=") for a in argv)}
    check_sections(OmegaConf.create(given), ["data", "out", *DEFAULTS])
    if absent := [key for key in ("data", "out") if not given.get(key)]:
        raise ConfigError(f"{', '.join(absent)}: required and not given; write {USAGE}")
    settings = {**DEFAULTS, **given}
    for key, least in (("resamples", 1), ("seed", 0)):
        if not settings[key].isdecimal() or int(settings[key]) < least:
            raise ConfigError(f"{key}: a whole number from {least} on; got {settings[key]!r}; mend the command")
    return settings


def _read(data: str, seed: int) -> Corpus:
    if data == "goemotions":
        return goemotions.read(Path(os.environ.get("UNDERTONE_DATA", "../shared/data")) / "goemotions")
    if not data.endswith(".jsonl"):
        raise ConfigError(f"data: goemotions, or a corpus whose name ends in .jsonl; got {data!r}; mend the command")
    return read_corpus(Path(data), seed)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Train, save to `out` with report.json, and print a table.

    Raises:
        UndertoneError: for a bad setting or a malformed corpus.
    """
    settings = _settings(argv)
    seed, out = int(settings["seed"]), Path(settings["out"])
    data = _read(settings["data"], seed)
    found = fit(data.train, data.labels, seed)
    found.verifier.save(out)
    result = {"data": settings["data"], "seed": seed, **report(data, found, seed, int(settings["resamples"]))}
    write_json(out / "report.json", result)
    rows = [["metric", "value", "95 % interval", "most frequent", "every label", "texts"]]
    for name, m in result["metrics"].items():
        trivial = [f"{result[rule][name]:.3f}" for rule in ("most_frequent", "every_label")]
        texts = str(result["support"].get(name.removeprefix("f1/"), result["test"]))
        rows.append([name, f"{m['value']:.3f}", f"[{m['lo']:.3f}, {m['hi']:.3f}]", *trivial, texts])
    print(align(rows))
    print(f"{result['train']} texts trained on ({result['dropped']} dropped, which are held out too), C={found.cost:g}")
    return result


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UndertoneError as error:
        sys.exit(f"error: {error}")
