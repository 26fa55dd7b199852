"""The record: one annotated clip (or text, or dialogue) as one strict JSONL line. Media are pointers, opened elsewhere.

A worked line:

    {"uid": "s-0007", "task": "studio", "split": "train", "group": "speaker-3",
     "views": {"text": "what a lovely day", "audio": {"kind": "audio", "path": "clips/s-0007.wav"}},
     "target": {"kind": "scalar", "x": 1.4, "lo": -3, "hi": 3, "neutral": 0.2},
     "raters": [["r1", "x", 1.0], ["r2", "x", 1.8]], "rationale": null, "meta": {"conflict": false}}
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runtime.errors import MediaError, RecordError
from runtime.files import whole_file
from tasks.target import Target, target_from_json

SPLITS = ("train", "dev", "test")
MEDIA_KINDS = ("audio", "image", "video")


@dataclass(frozen=True, slots=True)
class Media:
    """A pointer to an audio, image or video file; nothing is opened here."""

    kind: Literal["audio", "image", "video"]
    path: str
    """Relative to the root of the data set."""
    span: tuple[float, float] | None = None
    """Start and end in seconds; None is the whole file."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of a dialogue."""

    speaker: str
    text: str


View = str | Media | tuple[Turn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One annotated item. Two views may be two versions of one input (human and machine transcript)."""

    uid: str
    task: str
    split: str
    group: str
    """The leakage unit: speaker, dialogue, participant, text. No group crosses splits."""
    views: Mapping[str, View]
    target: Target
    raters: tuple[tuple[str, str, float | str], ...] | None = None
    """(rater, field, value) as given; a consensus is computed and never stored in their place."""
    rationale: str | None = None
    """A verified chain of thought: the completion that SFT trains on."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object that `record_from_json` reads back."""
        return {
            "uid": self.uid,
            "task": self.task,
            "split": self.split,
            "group": self.group,
            "views": {name: _view_json(view) for name, view in self.views.items()},
            "target": self.target.to_json(),
            "raters": None if self.raters is None else [list(r) for r in self.raters],
            "rationale": self.rationale,
            "meta": dict(self.meta),
        }


def _view_json(view: View) -> Any:
    match view:
        case str():
            return view
        case Media():
            span = {} if view.span is None else {"span": list(view.span)}
            return {"kind": view.kind, "path": view.path} | span
        case _:
            return [{"speaker": turn.speaker, "text": turn.text} for turn in view]


def _fail(what: str, got: object, remedy: str) -> RecordError:
    return RecordError(f"{what}; got {got!r}; {remedy}")


def _string(obj: Mapping[str, Any], name: str) -> str:
    if not isinstance(obj.get(name), str) or not obj[name].strip():
        raise _fail(f"{name}: a non-empty string is required", obj.get(name), "mend the row")
    return obj[name]


def _view(name: str, obj: Any) -> View:
    if isinstance(obj, str):
        return obj
    if isinstance(obj, list) and obj and all(isinstance(t, dict) and set(t) == {"speaker", "text"} for t in obj):
        return tuple(Turn(_string(t, "speaker"), _string(t, "text")) for t in obj)
    if isinstance(obj, dict) and obj.get("kind") in MEDIA_KINDS and set(obj) <= {"kind", "path", "span"}:
        span = obj.get("span")
        numbers = isinstance(span, list) and len(span) == 2 and all(isinstance(t, int | float) for t in span)
        if span is not None and not (numbers and 0 <= span[0] < span[1]):
            raise _fail(f"views.{name}.span: [start, end] in seconds with 0 <= start < end", span, "mend the row")
        return Media(obj["kind"], _string(obj, "path"), None if span is None else (float(span[0]), float(span[1])))
    allowed = f"a string, a list of {{speaker, text}}, or {{kind: one of {MEDIA_KINDS}, path, span?}}"
    raise _fail(f"views.{name}: must be {allowed}", obj, "mend the row")


def record_from_json(obj: Any) -> Record:
    """Read what `Record.to_json` wrote.

    Raises:
        RecordError: naming the field, what it held, and what to do.
    """
    fields = set(Record.__dataclass_fields__)
    if not isinstance(obj, dict):
        raise _fail("a record is a JSON object", obj, "write one object a line")
    if unknown := sorted(set(obj) - fields):
        raise _fail(f"unknown field; allowed {sorted(fields)}", unknown, "remove it, or move it into meta")
    if obj.get("split") not in SPLITS:
        raise _fail(f"split: one of {SPLITS}", obj.get("split"), "mend the row")
    views, raters, rationale = obj.get("views"), obj.get("raters"), obj.get("rationale")
    if not isinstance(views, dict) or not views:
        raise _fail("views: an object with at least one view", views, "mend the row")
    if raters is not None and not (
        isinstance(raters, list)
        and all(isinstance(r, list) and len(r) == 3 and isinstance(r[2], str | int | float) for r in raters)
    ):
        raise _fail("raters: null or a list of [rater, field, number or word]", raters, "mend the row")
    if rationale is not None and not isinstance(rationale, str):
        raise _fail("rationale: null or a string", rationale, "mend the row")
    if not isinstance(obj.get("meta", {}), dict):
        raise _fail("meta: an object", obj["meta"], "mend the row")
    return Record(
        uid=_string(obj, "uid"),
        task=_string(obj, "task"),
        split=obj["split"],
        group=_string(obj, "group"),
        views={name: _view(name, view) for name, view in views.items()},
        target=target_from_json(obj.get("target")),
        raters=None if raters is None else tuple((str(a), str(b), c) for a, b, c in raters),
        rationale=rationale,
        meta=obj.get("meta", {}),
    )


def _no_constant(name: str) -> Any:
    raise _fail("JSON numbers must be finite", name, "remove the row or mend its label")


def record_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """The lines of a record file that are not blank: place in bytes, number from 1, text.

    Raises:
        RecordError: when there is no such file, or it is not UTF-8.
    """
    if not path.is_file():
        raise RecordError(f"{path}: there is no such record file; run the verb that writes it, or mend the path")
    place = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise RecordError(f"{path}: byte {place + error.start} is not UTF-8; save the file as UTF-8") from None
            if line.strip():
                yield place, number, line
            place += len(raw)


def record_from_line(path: Path, number: int | str, line: str) -> Record:
    """Read one line of a record file.

    Raises:
        RecordError: with `file:line`, the field, what it held and what to do.
    """
    try:
        return record_from_json(json.loads(line, parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{path}:{number}: not JSON ({error.msg} at column {error.colno}); mend or remove the line"
        ) from None
    except (RecordError, TypeError) as error:
        raise RecordError(f"{path}:{number}: {error}") from None


def read_records(path: Path) -> list[Record]:
    """Read a whole record file and check what only the whole file shows.

    Raises:
        RecordError: with `file:line`, the field, what it held and what to do, for a malformed line, a uid that occurs
            twice, or a group that occurs in two splits.
    """
    records, line_of, first_of = [], {}, {}
    for _, number, line in record_lines(path):
        record = record_from_line(path, number, line)
        if record.uid in line_of:
            first = line_of[record.uid]
            raise RecordError(
                f"{path}:{number}: uid {record.uid!r} occurs twice, first in line {first}; give every row its own uid"
            )
        line_of[record.uid] = number
        try:
            _check_group(record, first_of)
        except RecordError as error:
            raise RecordError(f"{path}:{number}: {error}") from None
        records.append(record)
    return records


def check_groups(records: Iterable[Record]) -> None:
    """Refuse a group (speaker, dialogue) that occurs in more than one split."""
    first_of: dict[str, Record] = {}
    for record in records:
        _check_group(record, first_of)


def _check_group(record: Record, first_of: dict[str, Record]) -> None:
    """Compare a record with the first one of its group, and remember it where it is that one itself."""
    first = first_of.setdefault(record.group, record)
    if first.split != record.split:
        raise RecordError(
            f"group {record.group!r} occurs in split {first.split!r} (uid {first.uid!r}) and in split {record.split!r} "
            f"(uid {record.uid!r}); keep every speaker, dialogue or text in one split"
        )


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a record file atomically: it is whole or absent."""
    with whole_file(path) as out:
        out.writelines(json.dumps(r.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for r in records)


def resolve(root: Path, path: str) -> Path:
    """Where a media pointer leads, which is always below `root`.

    Raises:
        MediaError: for a URL, an absolute path, or a path (or link) that leaves the root.
    """
    if "://" in path or path.startswith("data:"):
        raise MediaError(
            f"media path {path!r} is a URL; only files below {root} are read; fetch it first and store a relative path"
        )
    full = (root / path).resolve()
    if Path(path).is_absolute() or not full.is_relative_to(root.resolve()):
        raise MediaError(f"media path {path!r} leads outside the data root {root}; store a path relative to the root")
    return full
