"""Reads back what trackers have written: W&B's offline files, and trackio's database."""

import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record as WandBRecord

BLOCK = 1 << 15


def wandb_files(folder: Path) -> list[Path]:
    """The files of a stage's attempts, in their order. `latest-run` is a link to one of them."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name)


def wandb_records(path: Path) -> Iterator[WandBRecord]:
    """LevelDB's log format: blocks of 32 KiB, pieces with a header of 7 bytes; a kill may have cut off the last one."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        piece = data[at + 7 : at + 7 + length]
        if not kind or len(piece) < length:
            return
        at += 7 + length
        whole += piece
        if kind in (1, 4):  # all of it, or the last piece
            record = WandBRecord()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_run(path: Path) -> dict[str, Any]:
    """`run` (the record), `config`, `rows`, artifacts `used` and `made` as (type, name, [(path, ref)]), and `exit` code or None."""
    found: dict[str, Any] = {"run": None, "config": {}, "rows": [], "used": [], "made": [], "exit": None}
    for record in wandb_records(path):
        match record.WhichOneof("record_type"):
            case "run":
                found["run"] = record.run
                found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            case "history":
                items = record.history.item
                found["rows"].append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
            case "artifact" if record.artifact.type != "run_table":
                artifact = record.artifact
                entries = [(entry.path, entry.ref) for entry in artifact.manifest.contents]
                where = "used" if artifact.use_after_commit else "made"
                found[where].append((artifact.type, artifact.name, entries))
            case "exit":
                found["exit"] = record.exit.exit_code
    return found


def trackio_run(folder: Path, project: str, name: str) -> dict[str, Any]:
    """`ids`, `config`, `rows` in the order of writing, and artifacts `used` and `made` by name; of runs whose name begins so."""
    with sqlite3.connect(folder / f"{project}.db") as db:
        like = (f"{name}%",)
        rows = db.execute("SELECT run_id, metrics FROM metrics WHERE run_name LIKE ? ORDER BY id", like).fetchall()
        config = db.execute("SELECT config FROM configs WHERE run_name LIKE ?", like).fetchall()
        query = (
            "SELECT l.direction, a.name FROM run_artifact_links l JOIN artifact_versions v ON v.id = l.artifact_version_id "
            "JOIN artifacts a ON a.id = v.artifact_id WHERE l.run_name LIKE ? ORDER BY l.id"
        )
        links = db.execute(query, like).fetchall()
    return {
        "ids": {run_id for run_id, _ in rows},
        "config": json.loads(config[0][0]),
        "rows": [json.loads(metrics) for _, metrics in rows],
        "used": [artifact for direction, artifact in links if direction == "input"],
        "made": [artifact for direction, artifact in links if direction == "output"],
    }
