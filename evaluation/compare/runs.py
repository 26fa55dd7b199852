"""Runs that are compared: what their folders hold, and whether they were evaluated on the same items."""

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evaluation.score import Read
from runtime.config import flatten, make
from runtime.errors import RecordError, StageError
from runtime.files import read_jsonl
from tasks.base import Task
from tasks.record import Record, read_records
from tasks.target import Target

TOKENS = "tokens/generated"
"""Key of the rows in `rl/metrics.jsonl`: tokens that were generated since training began."""


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
    def run(self) -> Path:
        """The run folder."""
        return self.folder.absolute().parent.parent

    @property
    def tokens(self) -> float | None:
        """Tokens generated while training; None where the log does not say."""
        return next((row[TOKENS] for row in reversed(self.log) if number(row.get(TOKENS))), None)


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs of one method, with different seeds."""

    name: str
    runs: tuple[Run, ...]


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
    return _arm(name, found)


def _arm(name: str, folders: Sequence[Path]) -> Arm:
    runs = tuple(map(read_run, folders))
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
        folder: an evaluation folder (`RUN/eval/<stage>`), a run folder with `eval/rl` or else `eval/sft`, or the folder of an
            offline run of W&B inside of one.

    Raises:
        StageError: for another folder, a missing file, or an evaluation that was cut off.
        RecordError: when a prediction is about no record of the run.
    """
    folder = _evaluation(_of_tracker(folder))
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


def _of_tracker(folder: Path) -> Path:
    """The run folder that W&B's files of a stage lie in (`RUN/<stage>/wandb/offline-run-*`); any other folder as it is."""
    inside = folder.absolute().parts
    return Path(*inside[: inside.index("wandb") - 1]) if "wandb" in inside else folder


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


def number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def arms_of_sweep(folder: Path) -> list[Arm]:
    """The arms of a sweep: its runs with an evaluation, those with the same settings (but for the seed) together.

    Args:
        folder: with run folders at any depth.

    Returns:
        Arms in alphabetical order, named by the settings in which they differ.

    Raises:
        StageError: where fewer than two settings were evaluated, and what `read_arm` raises.
    """
    found = sorted(p.parent for p in folder.glob("**/config.yaml") if (p.parent / "eval").is_dir())
    settings = {run: _settings(run / "config.yaml") for run in found}
    differing = [
        k for k in sorted({k for s in settings.values() for k in s}) if len({s.get(k) for s in settings.values()}) > 1
    ]
    arms: dict[str, list[Path]] = {}
    for run in found:
        arms.setdefault(", ".join(f"{k}={settings[run].get(k)}" for k in differing), []).append(run)
    if len(arms) < 2:
        raise StageError(
            f"{folder}: {len(found)} evaluated runs below it, of {len(arms)} different settings, and 2 or more are needed; wait "
            "for the sweep, or name arms as NAME=GLOB"
        )
    return [_arm(name, runs) for name, runs in sorted(arms.items())]


def _settings(config: Path) -> dict[str, str]:
    """The resolved config as dotted names and values, without what differs between any two runs."""
    flat = flatten(OmegaConf.to_container(OmegaConf.load(config)))
    return {key: str(value) for key, value in flat.items() if key.partition(".")[0] not in ("seed", "run")}


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
