"""RAVDESS, speech and song of professional actors (Livingstone and Russo, PLoS ONE 2018), audio files.

A file name says everything: `03-01-06-01-02-01-12.wav` is modality, channel, emotion, intensity, sentence, repetition, actor.
"""

from collections.abc import Mapping
from pathlib import Path

from runtime.errors import RecordError
from tasks.readers.table import error
from tasks.record import Media, Record
from tasks.target import Class, Space

VALENCE = {
    "neutral": "neutral",
    "calm": "neutral",
    "happy": "positive",
    "sad": "negative",
    "angry": "negative",
    "fearful": "negative",
    "disgust": "negative",
    "surprised": "positive",
}
"""Every emotion, in the order of its code 01..08, and its valence; surprise has none of its own and is put with happy."""

CODES: Mapping[str, tuple[str, ...]] = {
    "modality": ("audio-video", "video", "audio"),
    "channel": ("speech", "song"),
    "emotion": tuple(VALENCE),
    "intensity": ("normal", "strong"),
    "sentence": ("Kids are talking by the door.", "Dogs are sitting by the door."),
    "repetition": ("1", "2"),
    "actor": tuple(f"{n:02d}" for n in range(1, 25)),
}
"""The fields of a file name in order; code 01 is the first value."""


def decode(path: Path) -> dict[str, str]:
    """The seven fields of a file name, as values of `CODES`.

    Raises:
        RecordError: naming the field that the code does not allow.
    """
    codes = path.stem.split("-")
    if len(codes) != len(CODES):
        raise error(path, "file name", f"{'-'.join(CODES)}, two digits each", path.name, "rename or remove the file")
    found = {}
    for code, (field, values) in zip(codes, CODES.items(), strict=True):
        allowed = {f"{i:02d}": value for i, value in enumerate(values, 1)}
        if code not in allowed:
            raise error(path, field, f"one of {sorted(allowed)}", code, "rename or remove the file")
        found[field] = allowed[code]
    return found


def read(root: Path, *, task: str, space: Space, split_of: Mapping[str, str]) -> list[Record]:
    """Every *.wav and *.flac below `root`.

    Args:
        root: folder of the corpus.
        task: name for the records.
        space: emotions to use; clips of other emotions are left out.
        split_of: split of each actor ("01").

    Raises:
        RecordError: when there is no clip, a file name does not follow the code, or an actor has no split.
    """
    paths = sorted(p for p in root.rglob("*") if p.suffix in (".wav", ".flac"))
    if not paths:
        raise RecordError(
            f"{root}: no *.wav or *.flac below it; set UNDERTONE_DATA or task.data to the folder of RAVDESS"
        )
    records = []
    for path in paths:
        code = decode(path)
        actor = code["actor"]
        if actor not in split_of:
            raise error(path, "actor", f"one of {sorted(split_of)}", actor, "list the actor in task.train, dev or test")
        if code["emotion"] not in space.labels:
            continue
        records.append(
            Record(
                uid=f"{task}-{path.stem}",
                task=task,
                split=split_of[actor],
                group=f"actor-{actor}",
                views={"audio": Media("audio", path.relative_to(root).as_posix()), "text": code["sentence"]},
                target=Class(code["emotion"], space),
                meta={
                    "gender": "male" if int(actor) % 2 else "female",
                    "channel": code["channel"],
                    "intensity": code["intensity"],
                },
            )
        )
    return records
