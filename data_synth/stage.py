"""The synthesis stage of a run: `synth/chains.jsonl` from `data/records.jsonl`.

With `synth.shard=i/n` it works for one of n workers, in `synth/shard-i-of-n`; `python -m data_synth.merge` brings them together.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_synth.config import SynthConfig
from data_synth.run import synthesize
from data_synth.sheet import write_sheet
from data_synth.teacher import Teacher
from evaluation.show import Show
from evaluation.sweep import objective
from models.session import Session, open_session
from runtime.config import make
from runtime.main import verb
from runtime.run import run_stage
from runtime.trackers.tracker import Tracker
from tasks.record import Record, record_from_line, record_lines


def run(session: Session) -> dict[str, Any]:
    """Synthesise once for these settings; see `data_synth.run.synthesize` for the result.

    Other settings are followed in the same folder, where the journal keeps every draft: what still fits is not paid for again.
    Budgets, prices and concurrency are no such settings; a run whose budget was spent goes on with a larger one.
    """
    settings = session.section("synth", SynthConfig)
    teacher: Teacher = make(session.cfg, "teacher")
    folder = shard_folder(session, settings)

    inputs = {"records": session.records}

    def work() -> dict[str, Any]:
        with session.tracker(str(folder.relative_to(session.folder)), inputs) as tracker:
            result = synthesize(session.task, session.data, teacher, settings, folder)
            if settings.shard is None:
                write_sheet(folder, session.records, session.data.root, session.task, result, settings.seed)
            _tell(session, folder / "chains.jsonl", tracker, result)
            return result

    result = run_stage(folder, made_from(session, settings, teacher), inputs, work, anew=True)
    if result["stopped"]:
        print(
            f"the budget is spent: {result['accepted']} chains of {result['asked']} records so far; "
            "raise teacher.budget and call again to go on"
        )
    return result


def _tell(session: Session, chains: Path, tracker: Tracker, result: dict[str, Any]) -> None:
    """Counts, and the first chains beside their clips."""
    rejected = {f"synth/rejected/{reason}": count for reason, count in result["rejected"].items()}
    counts = {f"synth/{name}": result[name] for name in ("asked", "accepted", "requests", "tokens", "cost")}
    tracker.row(tracker.next, counts | rejected)
    show = Show(tracker, session.data.root, chains.parent / "shown", session.run.table_rows)
    show.table(tracker.next, "chains", first_chains(chains))
    tracker.made("dataset", chains)


def first_chains(path: Path) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Records with their chains, read when they are asked for."""
    for _, number, line in record_lines(path):
        record = record_from_line(path, number, line)
        yield record, {"chain": record.rationale}


def shard_folder(session: Session, settings: SynthConfig) -> Path:
    """Where a run, or one shard of it, has its files."""
    folder, (part, parts) = session.folder / "synth", settings.part
    return folder if settings.shard is None else folder / f"shard-{part}-of-{parts}"


def made_from(session: Session, settings: SynthConfig, teacher: Teacher) -> dict[str, Any]:
    """What decides the result. Which shard it is does not: all of them together are one run."""
    asked = session.settings(synth=replace(settings, shard=None))
    return asked | {"teacher": {"name": teacher.name, **teacher.settings()}}


@verb("synth")
def main(cfg: DictConfig) -> float | None:
    """Entry point; what it returns is what a sweeper looks at."""
    session = open_session(cfg, stream=True)
    print(run(session))
    return objective(session.folder, "data_synth")
