"""What the readers share: strict tables, strict numbers, groups of equal texts."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import RecordError
from runtime.files import digest
from tasks.target import read_number


def error(where: str | Path, field: str, what: str, got: object, remedy: str) -> RecordError:
    """The one form of a reader's complaint; `where` is a file or `file:line`."""
    return RecordError(f"{where}: {field}: {what}; got {got!r}; {remedy}")


def read_text(path: Path) -> str:
    """The text of a file, line ends untouched.

    Raises:
        RecordError: when there is no such file, or it is not UTF-8 (with or without a byte-order mark).
    """
    if not path.is_file():
        raise RecordError(f"{path}: there is no such file; set UNDERTONE_DATA or task.data to the folder of the corpus")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def csv_header(path: Path) -> list[str]:
    """Column names of a csv file."""
    return next(csv.reader(io.StringIO(read_text(path), newline="")), [])


def csv_rows(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Rows of a csv file with a header, each with its `file:line`.

    Raises:
        RecordError: when a column of `columns` is missing, or a row has more or fewer cells than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    header = next(reader, [])
    if missing := [c for c in columns if c not in header]:
        raise error(
            f"{path}:1", "header", f"column {missing} is required", header, "mend the file or choose another corpus"
        )
    rows = []
    for cells in reader:
        where = f"{path}:{reader.line_num}"
        if len(cells) != len(header):
            raise error(where, "row", f"{len(header)} cells are required", len(cells), "mend the quotes of the row")
        rows.append((where, dict(zip(header, cells, strict=True))))
    return rows


def tab_rows(path: Path, cells: int) -> list[tuple[str, list[str]]]:
    """Rows of a tab-separated file without header or quotes, each with its `file:line`.

    Raises:
        RecordError: when a row has not exactly `cells` cells.
    """
    rows = []
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), 1):
        found = line.removesuffix("\r").split("\t")
        if len(found) != cells:
            raise error(f"{path}:{number}", "row", f"{cells} tab-separated cells are required", len(found), "mend it")
        rows.append((f"{path}:{number}", found))
    return rows


def number(where: str, field: str, text: str, lo: float, hi: float) -> float:
    """`text` as a number in [lo, hi].

    Raises:
        RecordError: when it is not one.
    """
    x = read_number(text)
    if x is None or not lo <= x <= hi:
        raise error(where, field, f"a number in [{lo:g}, {hi:g}] is required", text, "mend or remove the row")
    return x


def words(where: str, field: str, text: str) -> str:
    """`text` without outer blanks.

    Raises:
        RecordError: when nothing is left.
    """
    if not text.strip():
        raise error(where, field, "a non-empty text is required", text, "mend or remove the row")
    return text.strip()


def text_group(text: str) -> str:
    """The leakage unit of texts: equal but for case, blanks and punctuation."""
    return "text-" + digest(re.sub(r"\W+", " ", text.casefold()).strip())
