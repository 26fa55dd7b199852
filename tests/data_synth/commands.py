"""`python -m data_synth` as a user calls it, on a corpus of short texts, against a real server that breaks down at a known rate."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from verbs import Outcome, call

TEXT = "a lovely day number"


def corpus(folder: Path, count: int) -> Path:
    """A folder in the layout of CMU-MOSI, with `count` training texts that are all +2.0."""
    folder.mkdir()
    rows = [f"v{i}_1,{TEXT} {i},x,2.0,train" for i in range(count)]
    rows += ["dev_1,bad work,x,-1.5,valid", "test_1,great fun,x,3.0,test"]
    (folder / "label.csv").write_text("\n".join(["id,text_en,text_zh,label,split", *rows]) + "\n")
    return folder


class Proxy:
    """`fault_proxy.py` in a process of its own."""

    def __init__(self, log: Path, *options: str) -> None:
        self.log = log
        program = [sys.executable, str(Path(__file__).with_name("fault_proxy.py")), str(log), *options]
        self.process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def requests(self) -> list[dict[str, Any]]:
        """What was asked about records of the corpus, in the order of coming; not what the probe asked."""
        rows = [json.loads(line) for line in self.log.read_text().split("\n")[:-1]]
        return [row for row in rows if TEXT in row["words"]]

    def count(self) -> int:
        """How many requests have come, those of the probe included."""
        return self.log.read_bytes().count(b"\n") if self.log.is_file() else 0

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def proxy(log: Path, *options: str) -> Iterator[Proxy]:
    server = Proxy(log, *options)
    try:
        yield server
    finally:
        server.close()


def arguments(run: Path, data: Path, url: str, *overrides: str) -> list[str]:
    """Of `python -m data_synth`: all records of the corpus, quick retries."""
    return [
        "task=mosi",
        f"task.data={data}",
        "synth.limit=null",
        "teacher=local",
        f"teacher.base_url={url}",
        f"hydra.run.dir={run}",
        *overrides,
    ]


def synthesis(module: str, args: Sequence[str], folder: Path) -> Outcome:
    """Run a command that has to succeed."""
    outcome = call(module, args, folder / "log", {})
    assert outcome.code == 0, outcome.text
    return outcome


def journaled(run: Path) -> Counter[tuple[str, str]]:
    """(uid, step) of all drafts in the journal of a run, read as any other program would read an SQLite file."""
    with sqlite3.connect(run / "journal.db") as db:
        rows = db.execute("SELECT uid, step FROM drafts").fetchall()
    db.close()
    return Counter(rows)


def chains_and_rejected(run: Path) -> tuple[bytes, bytes]:
    """The files that must not depend on what happened on the way."""
    return (run / "synth" / "chains.jsonl").read_bytes(), (run / "synth" / "rejected.jsonl").read_bytes()
