"""EmoDB, the Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005).

A file name says everything: `03a01Fa.wav` is speaker 03, sentence a01, emotion F (Freude), version a. The ten sentences are
spoken in every emotion, so the words carry no label.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import RecordError
from tasks.readers.table import error
from tasks.record import Media, Record
from tasks.target import Class, Space

VALENCE = {
    "neutral": "neutral",
    "happiness": "positive",
    "sadness": "negative",
    "anger": "negative",
    "fear": "negative",
    "disgust": "negative",
    "boredom": "negative",
}
"""Every emotion of the corpus and its valence."""

LETTERS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
"""Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral."""

SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
MALE = ("03", "10", "11", "12", "15")
NAME = re.compile(r"(?P<speaker>[0-9]{2})(?P<sentence>[ab][0-9]{2})(?P<letter>[A-Z])(?P<version>[a-z])")


def read(root: Path, *, task: str, space: Space, split_of: Mapping[str, str]) -> list[Record]:
    """Clips in `root/wav/*.wav`, or in `root/*.wav`.

    Args:
        root: folder of the corpus.
        task: name for the records.
        space: emotions to use; clips of other emotions are left out.
        split_of: split of each speaker ("03").

    Raises:
        RecordError: when there is no clip, a file name does not follow the code, or a speaker has no split.
    """
    paths = sorted(root.glob("wav/*.wav")) or sorted(root.glob("*.wav"))
    if not paths:
        raise RecordError(f"{root}: no *.wav in it or in wav/; set UNDERTONE_DATA or task.data to the folder of EmoDB")
    records = []
    for path in paths:
        code = NAME.fullmatch(path.stem)
        if not code or code["letter"] not in LETTERS or code["sentence"] not in SENTENCES:
            form = f"speaker (2 digits), one of {'/'.join(SENTENCES)}, one of {''.join(LETTERS)}, version letter"
            raise error(path, "file name", form, path.name, "rename or remove the file")
        speaker, emotion = code["speaker"], LETTERS[code["letter"]]
        if speaker not in split_of:
            raise error(
                path, "speaker", f"one of {sorted(split_of)}", speaker, "list the speaker in task.train, dev or test"
            )
        if emotion not in space.labels:
            continue
        records.append(
            Record(
                uid=f"{task}-{path.stem}",
                task=task,
                split=split_of[speaker],
                group=f"speaker-{speaker}",
                views={
                    "audio": Media("audio", path.relative_to(root).as_posix()),
                    "text": SENTENCES[code["sentence"]],
                },
                target=Class(emotion, space),
                meta={"gender": "male" if speaker in MALE else "female", "sentence": code["sentence"]},
            )
        )
    return records
