"""`python -m data_synth.merge run.name=NAME ...`: make one run of its shards, with the settings that they were made with.

Near duplicates, balance and limit are chosen among the chains of all shards, in the order of asking of the whole set. The files
are those of a run that was not divided.
"""

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_synth.config import SynthConfig
from data_synth.files import write_files
from data_synth.outcomes import Outcome, Outcomes
from data_synth.sheet import write_sheet
from data_synth.stage import made_from
from data_synth.teacher import Teacher
from models.session import Session, open_session
from runtime.config import make
from runtime.errors import StageError
from runtime.main import verb
from runtime.run import finished, run_stage


def run(session: Session) -> dict[str, Any]:
    """Write `synth/` as a run in one piece would have.

    Raises:
        StageError: when shards are missing, not finished, or made with other settings or records than these.
    """
    settings = session.section("synth", SynthConfig)
    teacher: Teacher = make(session.cfg, "teacher")
    folder, asked, inputs = (
        session.folder / "synth",
        made_from(session, settings, teacher),
        {"records": session.records},
    )
    shards = find_shards(folder)
    done = [run_stage(shard, asked, inputs, dict) for shard in shards]  # compares; all are finished, so none is begun

    def work() -> dict[str, Any]:
        result = merge(shards, done, settings, folder)
        write_sheet(folder, session.records, session.data.root, session.task, result, settings.seed)
        return result

    return run_stage(folder, asked, inputs, work, anew=True)


def find_shards(folder: Path) -> list[Path]:
    """The folders of all shards, by number.

    Raises:
        StageError: when there are none, of two divisions, or not all, or when one is not finished.
    """
    found = {path: re.fullmatch(r"shard-(\d+)-of-(\d+)", path.name) for path in sorted(folder.glob("shard-*-of-*"))}
    numbers = {(int(m[2]), int(m[1])): path for path, m in found.items() if m}
    if len({parts for parts, _ in numbers}) != 1:
        raise StageError(
            f"{folder}: shards of one division are merged; got {[p.name for p in found]}; run `python -m data_synth "
            "synth.shard=i/n` for every i, and delete those of another division"
        )
    (parts,) = {parts for parts, _ in numbers}
    for part in range(parts):
        if (parts, part) not in numbers or not finished(numbers[parts, part]):
            raise StageError(
                f"{folder}: shard {part} of {parts} is not finished; run `python -m data_synth synth.shard={part}/{parts}` "
                "with the same settings to its end, then merge again"
            )
    return [numbers[parts, part] for part in range(parts)]


class InOrder:
    """The outcomes of several shards in the order of asking, as often as they are gone through."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = shards

    def __iter__(self) -> Iterator[Outcome]:
        stored = [Outcomes(shard / "outcomes.db", fresh=False) for shard in self._shards]
        yield from heapq.merge(*stored, key=lambda outcome: outcome.place)


def merge(
    shards: Sequence[Path], results: Sequence[Mapping[str, Any]], settings: SynthConfig, folder: Path
) -> dict[str, Any]:
    """Choose among the chains of all shards and write the files of the whole; what was spent is added up."""
    costs = [result["cost"] for result in results if result["cost"] is not None]
    spent: dict[str, Any] = {key: sum(result[key] for result in results) for key in ("requests", "tokens")}
    spent["cost"] = sum(costs) if costs else None
    return write_files(InOrder(shards), settings, folder) | spent | {"stopped": None}


@verb("synth")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    print(run(open_session(cfg, stream=True)))


if __name__ == "__main__":
    main()
