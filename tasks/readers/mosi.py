"""Opinion videos with sentiment intensity: CMU-MOSI, CMU-MOSEI, CH-SIMS.

Two layouts of `label.csv`, told apart by the header:

    id,text_en,text_zh,label,split                                    transcripts of MOSI; id = video id, "_", segment number
    video_id,clip_id,text,label,[label_T,label_A,label_V,]annotation,mode     MMSA (github.com/thuiar/MMSA), one folder a corpus

In the second, clips lie at `Raw/<video_id>/<clip_id>.mp4`. Without the folder `Raw` the records have text alone.
"""

from pathlib import Path

from runtime.errors import ConfigError
from tasks.readers.table import csv_header, csv_rows, error, number, words
from tasks.record import Media, Record, View
from tasks.target import Scalar

RANGE = {"mosi": (-3.0, 3.0), "mosei": (-3.0, 3.0), "sims": (-1.0, 1.0)}
LANGUAGE = {"mosi": "en", "mosei": "en", "sims": "zh"}
"""What the speakers say; MOSI transcripts in the first layout also come in Chinese, translated by a machine."""

SPLIT = {"train": "train", "valid": "dev", "test": "test"}
UNIMODAL = ("label_T", "label_A", "label_V")


def read(root: Path, corpus: str, *, task: str, neutral: float, language: str, group: str) -> list[Record]:
    """One record a clip, with the shipped split.

    Args:
        root: folder with `label.csv` (and `Raw`).
        corpus: a key of `RANGE`.
        task: name for the records.
        neutral: half width of the neutral zone around 0.
        language: "en" or "zh".
        group: leakage unit, "video" or "clip".

    Raises:
        RecordError: for a malformed row, or a clip that `Raw` lacks.
        ConfigError: for a language that the files do not have.
    """
    lo, hi = RANGE[corpus]
    table = root / "label.csv"
    mmsa = "video_id" in csv_header(table)
    languages = (LANGUAGE[corpus],) if mmsa else ("en", "zh")
    if language not in languages:
        raise ConfigError(f"task.language: {table} has {languages}; got {language!r}; mend the config")
    text_column = "text" if mmsa else f"text_{language}"
    split_column = "mode" if mmsa else "split"
    ids = ["video_id", "clip_id"] if mmsa else ["id"]
    records = []
    for where, row in csv_rows(table, [*ids, text_column, "label", split_column]):
        # a video id may contain underscores, a segment number does not
        video, clip = (row["video_id"], row["clip_id"]) if mmsa else row["id"].rpartition("_")[::2]
        if not (video and clip):
            raise error(where, "id", "a video and a segment are required", f"{video}_{clip}", "mend or remove the row")
        if row[split_column] not in SPLIT:
            raise error(where, split_column, f"one of {tuple(SPLIT)}", row[split_column], "mend or remove the row")
        # rounded, which undoes the noise of numbers stored in 32 bits
        labels = {
            c: round(number(where, c, row[c], lo, hi), 4) for c in ("label", *UNIMODAL) if row.get(c) or c == "label"
        }
        views: dict[str, View] = {"text": words(where, text_column, row[text_column])}
        if mmsa and (root / "Raw").is_dir():
            path = f"Raw/{video}/{clip}.mp4"
            if not (root / path).is_file():
                raise error(
                    where, "clip_id", "there is no such clip", path, "restore it, or move Raw away for text alone"
                )
            views |= {"video": Media("video", path), "audio": Media("audio", path)}
        records.append(
            Record(
                uid=f"{task}-{video}-{clip}",
                task=task,
                split=SPLIT[row[split_column]],
                group=f"video-{video}" if group == "video" else f"clip-{video}-{clip}",
                views=views,
                target=Scalar(labels.pop("label"), lo, hi, neutral),
                meta={"video": video} | labels,
            )
        )
    return records
