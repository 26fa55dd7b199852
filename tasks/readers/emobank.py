"""EmoBank (Buechel and Hahn, EACL 2017): valence, arousal and dominance of sentences on [1, 5].

`emobank.csv` has the columns id, split, V, A, D, text; 3 is neutral, and the scale is used narrowly.
"""

from pathlib import Path

from tasks.readers.table import csv_rows, error, number, text_group, words
from tasks.record import SPLITS, Record
from tasks.target import Scalar, Vector

LO, HI = 1.0, 5.0
AXES = {"valence": "V", "arousal": "A", "dominance": "D"}


def read(root: Path, *, task: str, neutral: float, vector: bool = False) -> list[Record]:
    """One record a sentence, with the shipped split; equal texts share a group and may lie in two splits.

    Args:
        root: folder with `emobank.csv`.
        task: name for the records.
        neutral: half width of the neutral zone around 3.
        vector: all three axes as a Vector (present means above 3), instead of valence as a Scalar.

    Raises:
        RecordError: for a malformed row.
    """
    records = []
    for where, row in csv_rows(root / "emobank.csv", ["id", "split", "V", "A", "D", "text"]):
        if row["split"] not in SPLITS:
            raise error(where, "split", f"one of {SPLITS}", row["split"], "mend or remove the row")
        v, a, d = (number(where, column, row[column], LO, HI) for column in AXES.values())
        text = words(where, "text", row["text"])
        records.append(
            Record(
                uid=f"{task}-{row['id']}",
                task=task,
                split=row["split"],
                group=text_group(text),
                views={"text": text},
                target=Vector(tuple(AXES), (v, a, d), LO, HI, 3.0) if vector else Scalar(v, LO, HI, neutral),
            )
        )
    return records
