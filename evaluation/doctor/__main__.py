"""Scan a data set before it costs GPU hours: what is broken, silent, too long, doubled or leaked, and whether it will fit.

    python -m evaluation.doctor records=R.jsonl
    python -m evaluation.doctor records=R.jsonl task=mosei model=qwen2_5_omni_7b
    python -m evaluation.doctor task=mosei model=qwen2_5_omni_7b out=outputs/NAME/data    # the task writes the records there

`task` and `model` name files of `conf/task/` and `conf/model/`; their settings can be overridden as usual (`task.data=FOLDER`,
`model.fps=1`). With a task the views that its prompt shows are looked at, else all; with a model its limits count, and tokens and
memory are forecast. Further settings:

    root=FOLDER      below which media pointers lead; else what `dataset.json` beside the records says (every run writes one), else
                     the folder of the records
    out=FOLDER       for doctor.json, doctor.html and quarantine.jsonl; else the folder `doctor` beside the records
    workers=N        processes; else one for every core
    answer=256       tokens of the longest answer, for the forecast
    group=8          answers to a prompt that are trained on together
    context=4096     most tokens of prompt and answer, as in conf/engine/vllm.yaml; never more than the model's positions
    memory=80        GB of the device

`quarantine.jsonl` lists the records with errors of their own in the form that runs honour: written to (or copied into) the folder
`data` of a run that has not begun, it makes the run leave them out and look at nothing again. Exit code: 0 when nothing is an error
(there may be warnings), 1 for errors in the data, 2 for a mistake in the command.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evaluation.doctor.examine import examine
from evaluation.doctor.forecast import Load
from evaluation.doctor.report import lines, page, to_json
from models.load import ModelConfig
from runtime.config import check_sections, make, section
from runtime.errors import ConfigError, StageError, UndertoneError
from runtime.files import write_json, write_jsonl, write_text
from runtime.main import CONF, quiet
from tasks.base import Task

NUMBERS = {"workers": "0", "answer": "256", "group": "8", "context": "4096", "memory": "80"}
PATHS = ("records", "root", "out")
USAGE = "records=R.jsonl [task=T] [model=M] [root=FOLDER] [out=FOLDER] [workers=N]"


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for."""

    records: Path
    root: Path
    out: Path
    task: Task | None
    model: ModelConfig | None
    load: Load
    workers: int


def read_settings(argv: Sequence[str]) -> Settings:
    """The command line, checked; with a task and without records, the task writes them to `out` first.

    Raises:
        UndertoneError: for anything that cannot be done.
    """
    if bad := [a for a in argv if "=" not in a]:
        raise ConfigError(f"{' '.join(bad)}: settings are key=value; write {USAGE}")
    of_conf = [a for a in argv if a.startswith(("task=", "task.", "model=", "model."))]
    given = {key: value for key, _, value in (a.partition("=") for a in argv if a not in of_conf)}
    check_sections(OmegaConf.create(given), ["task", "model", *PATHS, *NUMBERS])
    numbers = {key: _number(key, given.get(key, default)) for key, default in NUMBERS.items()}
    task, model = _task_and_model(of_conf)
    if model is not None and task is None:
        raise ConfigError("model: the forecast needs the prompt of a task; got no task; add task=T")
    records, root, out = _places(given, task)
    if model is None and (out / "records.jsonl").is_file():
        raise ConfigError(
            f"out: {out} is the data folder of a run, which scans nothing again when a quarantine.jsonl is there; name task and "
            "model, so that their limits are checked, or choose another out"
        )
    load = Load(numbers["group"], numbers["answer"], numbers["context"], numbers["memory"] * 1e9)
    return Settings(records, root, out, task, model, load, numbers["workers"] or os.cpu_count() or 1)


def _number(key: str, text: str) -> int:
    least = 0 if NUMBERS[key] == "0" else 1
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{key}: a whole number from {least} on; got {text!r}; mend the command")
    return int(text)


def _task_and_model(overrides: Sequence[str]) -> tuple[Task | None, ModelConfig | None]:
    named = [f"+{o}" if o.startswith(("task=", "model=")) else o for o in overrides]
    try:
        with initialize_config_dir(CONF, version_base=None):
            cfg: DictConfig = compose(overrides=named)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}; mend the command") from None
    return make(cfg, "task") if "task" in cfg else None, section(cfg, "model", ModelConfig) if "model" in cfg else None


def _places(given: dict[str, str], task: Task | None) -> tuple[Path, Path, Path]:
    """Record file, root of the media, and where the report goes."""
    if "records" in given:
        records = Path(given["records"])
        out = Path(given.get("out", records.parent / "doctor"))
        _refuse_begun(out)
        return records, Path(given["root"]) if "root" in given else _root(records), out
    if task is None or "out" not in given:
        absent = "records" if task is None else "records, or out for those that the task writes"
        raise ConfigError(f"{absent}: required and not given; write {USAGE}")
    out = Path(given["out"])
    _refuse_begun(out)
    root = task.prepare(out)
    return out / "records.jsonl", Path(given.get("root", root)), out


def _root(records: Path) -> Path:
    about = records.parent / "dataset.json"
    return Path(json.loads(about.read_text(encoding="utf-8"))["root"]) if about.is_file() else records.parent


def _refuse_begun(out: Path) -> None:
    """A run whose stages have begun has chosen its records."""
    begun = sorted(path.parent.name for path in out.absolute().parent.glob("*/stage.json"))
    if (out / "records.jsonl").is_file() and begun:
        raise StageError(
            f"out: {out} belongs to a run that has begun ({', '.join(begun)}), and a new quarantine.jsonl would change its "
            "records; choose another out"
        )


def main(argv: Sequence[str]) -> int:
    """Scan, write doctor.json, doctor.html and quarantine.jsonl, and print what was found.

    Returns:
        0, or 1 when something is an error.

    Raises:
        UndertoneError: for a bad setting, or a file without records.
    """
    asked = read_settings(argv)
    found = examine(asked.records, asked.root, asked.task, asked.model, asked.load, asked.workers)
    about: dict[str, Any] = {
        "file": str(asked.records),
        "root": str(asked.root),
        "task": asked.task and asked.task.name,
        "model": asked.model and asked.model.name,
        "workers": asked.workers,
    }
    write_json(asked.out / "doctor.json", to_json(found, about))
    write_text(asked.out / "doctor.html", page(found, about))
    write_jsonl(asked.out / "quarantine.jsonl", found.quarantine())
    print("\n".join(lines(found, about)))
    print(f"{asked.out}: doctor.json, doctor.html, quarantine.jsonl")
    return int(any(finding.severity == "error" for finding in found.findings))


if __name__ == "__main__":
    quiet()
    try:
        code = main(sys.argv[1:])
    except UndertoneError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
