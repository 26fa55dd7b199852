"""Tables for trackers: what a model said beside the clip that it was shown, playable."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from evaluation.clips import browser_clip
from runtime.errors import MediaError
from runtime.trackers.base import Cell, Clip
from runtime.trackers.tracker import Tracker
from tasks.record import Media, Record

FIRST = ("step", "uid")
ENDINGS = {"video/mp4": "mp4", "video/webm": "webm", "audio/mpeg": "mp3", "audio/wav": "wav", "image/png": "png"}


@dataclass(frozen=True, slots=True)
class Show:
    """Makes the tables of one stage.

    A clip is encoded once, and lies in the run folder.
    """

    tracker: Tracker
    root: Path
    """Below which the media of the records lie."""
    folder: Path
    """Gets the clips."""
    rows: int
    """Most rows of a table; 0 for no tables."""
    _made: dict[str, dict[str, Cell]] = field(default_factory=dict)

    def table(self, step: int, name: str, rows: Iterable[tuple[Record, Mapping[str, Any]]]) -> None:
        """Show some rows, each with the views and the gold answer of its record; nothing is made where nobody lacks the step.

        Args:
            step: of the table.
            name: of the table.
            rows: record, and plain values by column.
        """
        if not self.tracker.wants(step):
            return
        made = [self._cells(step, record) | _plain(values) for record, values in islice(rows, self.rows)]
        columns = list(dict.fromkeys([*FIRST, *(column for row in made for column in row)]))
        self.tracker.table(step, name, [{column: row.get(column) for column in columns} for row in made])

    def _cells(self, step: int, record: Record) -> dict[str, Cell]:
        if record.uid not in self._made:
            self._made[record.uid] = self._views(record) | {"gold": record.target.render()}
        return {"step": step, "uid": record.uid} | self._made[record.uid]

    def _views(self, record: Record) -> dict[str, Cell]:
        cells: dict[str, Cell] = {}
        for name, view in record.views.items():
            match view:
                case str():
                    cells[name] = view
                case Media():
                    cells |= self._clips(record.uid, name, view)
                case turns:
                    cells[name] = "\n".join(f"{turn.speaker}: {turn.text}" for turn in turns)
        return cells

    def _clips(self, uid: str, name: str, view: Media) -> dict[str, Cell]:
        """Where no film can be encoded, its frames and its sound are two cells."""
        try:
            encoded = browser_clip(self.root / view.path, view.kind, view.span)
        except MediaError as error:
            return {name: str(error)}
        cells: dict[str, Cell] = {}
        for mime, data in encoded:
            kind: Any = mime.partition("/")[0]
            column = name if kind == view.kind else f"{name}_{kind}"
            letters = re.sub(r"[^\w.-]", "_", uid)
            path = self.folder / f"{letters}-{column}.{ENDINGS[mime]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            cells[column] = Clip(kind, path)
        return cells


def _plain(values: Mapping[str, Any]) -> dict[str, Cell]:
    """Mappings (parts) become columns; what is neither number nor text, text."""
    cells: dict[str, Cell] = {}
    for name, value in values.items():
        match value:
            case Mapping():
                cells |= {f"{name}/{key}": inner for key, inner in value.items()}
            case bool():
                cells[name] = str(value).lower()
            case None | str() | int() | float():
                cells[name] = value
            case _:
                cells[name] = str(value)
    return cells


def numbers(result: Mapping[str, Any], split: str) -> dict[str, float]:
    """What `evaluation.run.evaluate` returns as one row: metrics with their intervals, the trivial rule, silenced modalities."""
    row: dict[str, float] = {}
    for name, metric in result["metrics"].items():
        row |= {
            f"{split}/{name}": metric["value"],
            f"{split}/{name}_lo": metric["lo"],
            f"{split}/{name}_hi": metric["hi"],
        }
    row |= {f"trivial/{name}": value for name, value in result["baseline"].items()}
    for modality, metrics in result["silenced"].items():
        row |= {f"silent_{modality}/{name}": value for name, value in metrics.items()}
    return row


def chosen(
    records: Sequence[Record], rows: Iterable[Mapping[str, Any]], leave: Sequence[str]
) -> Iterable[tuple[Record, Any]]:
    """Rows of a file (rollouts, predictions) with their records, without the columns that the record gives."""
    of = {record.uid: record for record in records}
    for row in rows:
        yield of[row["uid"]], {name: value for name, value in row.items() if name not in ("uid", *leave)}
