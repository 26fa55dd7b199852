"""The chains of a run as a dataset folder that `datasets.load_dataset(FOLDER)` reads, with a card.

    python -m data_synth.export run.name=NAME out=FOLDER [licence=cc-by-4.0]

    FOLDER/README.md                                 card: licence, teacher, settings, what the filter did
    FOLDER/data/train-00000-of-00001.parquet         a row for every accepted chain

`prompt` and `completion` are what TRL calls a conversational prompt-completion dataset. The content of a message is a string where
a task shows text alone, else a list of parts as chat templates take them; media are pointers relative to the root of the corpus,
and no media travel along.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, List, Value

from data_synth.card import card
from data_synth.output import Output, read_output, rows, run_folder
from runtime.errors import ConfigError, StageError, UndertoneError
from runtime.files import write_text
from tasks.base import PARTS, Message
from tasks.record import Media, Record, record_from_json

USAGE = "run.name=NAME out=FOLDER [licence=cc-by-4.0]"
PART = {"type": Value("string"), "text": Value("string"), "path": Value("string"), "span": List(Value("float64"))}


def features(text_only: bool) -> Features:
    """The columns.

    uid, group   of the record; a group (speaker, dialogue) must not be divided between splits
    prompt       messages; completion: one message of the assistant, the chain
    coarse       gold verdict, None for a target without one; target: the gold target as JSON
    step         write, or rewrite for a chain that was written with the label at hand
    pass_rate    share in [0, 1] of the label-free candidates that were accepted: how easy the record is for the teacher
    parts        of the score, in [0, 1]; None where nothing can be scored
    """
    messages = List({"role": Value("string"), "content": Value("string") if text_only else List(PART)})
    return Features(
        {name: Value("string") for name in ("uid", "group")}
        | {"prompt": messages, "completion": messages}
        | {name: Value("string") for name in ("coarse", "target", "step")}
        | {"pass_rate": Value("float64"), "parts": {name: Value("float64") for name in PARTS}}
    )


def export(out: Output, folder: Path, licence: str | None) -> int:
    """Write the dataset folder; it is whole or absent.

    Args:
        out: of a synthesis.
        folder: must not be there yet, or be empty.
        licence: of the source corpus, which that of the chains follows, as Hugging Face spells it (`cc-by-4.0`); None for unknown.

    Returns:
        How many chains it holds.

    Raises:
        ConfigError: when the folder holds something already.
        StageError: when no chain was accepted.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"out: {folder} holds something already; name another folder, or empty this one")
    chains = out.folder / "chains.jsonl"
    number = sum(1 for _ in rows(chains))
    if not number:
        raise StageError(
            f"{chains}: no chain was accepted, so there is nothing to export; see why in rejected.jsonl beside it"
        )
    text_only = not any(isinstance(r.views.get(v), Media) for r in _records(chains) for v in out.task.views)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        found = Dataset.from_generator(
            lambda: (row(out, record, text_only) for record in _records(chains)),
            features=features(text_only),
            cache_dir=scratch,
            split=datasets.Split.TRAIN,
        )
        assert isinstance(found, Dataset)
        beside = Path(scratch) / "folder"
        found.to_parquet(beside / "data" / "train-00000-of-00001.parquet")
        write_text(beside / "README.md", card(out, number, licence))
        beside.rename(folder)
    return number


def _records(chains: Path) -> Iterator[Record]:
    return map(record_from_json, rows(chains))


def row(out: Output, record: Record, text_only: bool) -> dict[str, Any]:
    """One line of the dataset; see `features`."""
    synth = record.meta["synth"]
    prompt = [_message(m["role"], m["content"], out.root, text_only) for m in out.task.prompt(record, out.root)]
    said: list[Mapping[str, Any]] = [{"type": "text", "text": record.rationale}]
    return {
        "uid": record.uid,
        "group": record.group,
        "prompt": prompt,
        "completion": [_message("assistant", said, out.root, text_only)],
        "coarse": record.target.coarse(),
        "target": json.dumps(record.target.to_json(), ensure_ascii=False),
        "step": synth["step"],
        "pass_rate": synth["pass_rate"],
        "parts": {name: synth["parts"].get(name) for name in PARTS},
    }


def _message(role: str, parts: Sequence[Mapping[str, Any]], root: Path, text_only: bool) -> Message:
    if text_only:
        return {"role": role, "content": "".join(part["text"] for part in parts)}
    return {"role": role, "content": [_part(part, root) for part in parts]}


def _part(part: Mapping[str, Any], root: Path) -> dict[str, Any]:
    path = Path(part["path"]).relative_to(root.resolve()).as_posix() if "path" in part else None
    span = list(part["span"]) if part.get("span") else None
    return {"type": part["type"], "text": part.get("text"), "path": path, "span": span}


def main(argv: Sequence[str]) -> None:
    """Read the settings, write the folder, and say how many chains it holds.

    Raises:
        UndertoneError: for a bad setting, or a run that has no chains.
    """
    ours = {key: value for key, _, value in (a.partition("=") for a in argv if a.startswith(("out=", "licence=")))}
    overrides = [a for a in argv if not a.startswith(("out=", "licence="))]
    if not ours.get("out"):
        raise ConfigError(f"out: required and not given; write {USAGE}")
    folder = Path(ours["out"])
    number = export(read_output(run_folder(overrides)), folder, ours.get("licence"))
    print(f"{number} chains in {folder}")


if __name__ == "__main__":
    datasets.disable_progress_bars()
    try:
        main(sys.argv[1:])
    except UndertoneError as error:
        sys.exit(f"error: {error}")
