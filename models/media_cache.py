"""Tensors made from clips, on disk, shared by every run and process of a machine: each clip is decoded and featurised once.

An entry is named by what it was made from: the content of the file (so that the same clip in another folder is the same
entry), its span, and the settings that decide the tensors. It is a safetensors file that repeats all this in its header: an
entry that is torn, or says something else, is made again. What was not used for longest goes first when space is short; the
time of the last use is the file's own modification time.

    <folder>/3f/3f0c...safetensors    one entry
    <folder>/3f.lock                  held while an entry whose name begins like this is made

The content of a file is hashed once per process (`content`), and again only if the file changes. An index on disk would
save that one reading, which takes no longer than reading the entry itself, and would have to be kept right.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save

from runtime.files import digest, sha256

Tensors = dict[str, torch.Tensor]

SLACK = 0.9
"""Share of the limit that is left filled when space is made, so that it is not made at every entry."""

LEFT_BEHIND = 3600
"""Seconds after which nobody is writing a file any more."""


@cache
def _content(path: str, mtime_ns: int, size: int) -> str:
    return sha256(Path(path))


def content(path: Path) -> str:
    """Hash of a file's bytes; a file that has kept its size and time of change is not read again by this process."""
    stat = path.stat()
    return _content(str(path), stat.st_mtime_ns, stat.st_size)


class MediaCache:
    """Tensors on disk by what they were made from; safe to share between threads and processes.

    Args:
        folder: where the entries are.
        limit: of their sizes together, in bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._held: int | None = None
        """Bytes of all entries: measured now and then, because other processes add to them, and counted on in between."""
        self._written = 0
        """Bytes written since they were measured."""
        self._counting = threading.Lock()

    def __contains__(self, made_from: dict[str, Any]) -> bool:
        return self._path(made_from).is_file()

    def fetch(self, made_from: dict[str, Any], make: Callable[[], Tensors]) -> Tensors:
        """The entry, made by `make` if need be: by one caller, while others that ask for it wait."""
        found = self._read(made_from)
        if found is None:
            with self._lock(made_from):
                found = self._read(made_from)
                if found is None:
                    found = make()
                    self._write(made_from, found)
        return found

    def warm(self, made_from: dict[str, Any], make: Callable[[], Tensors]) -> int:
        """Make the entry, unless it is there or somebody is at it; its size in bytes, 0 while somebody is."""
        path = self._path(made_from)
        with suppress(Timeout, FileNotFoundError):  # the latter: space was made at this very moment
            if not path.is_file():
                with self._lock(made_from).acquire(blocking=False):
                    if not path.is_file():
                        self._write(made_from, make())
            os.utime(path)
            return path.stat().st_size
        return 0

    def _path(self, made_from: dict[str, Any]) -> Path:
        name = digest(made_from)
        return self.folder / name[:2] / f"{name}.safetensors"

    def _lock(self, made_from: dict[str, Any]) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{digest(made_from)[:2]}.lock", poll_interval=0.01)

    def _read(self, made_from: dict[str, Any]) -> Tensors | None:
        path = self._path(made_from)
        try:
            os.utime(path)
            data = path.read_bytes()
            tensors = load(data)
        except (OSError, SafetensorError):  # not there, gone just now, or torn
            return None
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors if header.get("__metadata__") == _label(made_from) else None

    def _write(self, made_from: dict[str, Any], tensors: Tensors) -> None:
        path = self._path(made_from)
        path.parent.mkdir(exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, _label(made_from))
        with beside.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
        with self._counting:
            self._written += len(data)
            if self._measured() > self.limit:
                self._make_space()

    def _measured(self) -> int:
        if self._held is None or self._written > 0.01 * self.limit:
            self._held, self._written = sum(size for _, size, _ in self._entries()), 0
        return self._held + self._written

    def _make_space(self) -> None:
        """Delete what was not used for longest."""
        with FileLock(self.folder / "space.lock"):
            entries = sorted(self._entries(), reverse=True)
            left = sum(size for _, size, _ in entries)
            while left > SLACK * self.limit:
                _, size, path = entries.pop()
                path.unlink(missing_ok=True)
                left -= size
        self._held, self._written = left, 0

    def _entries(self) -> list[tuple[int, int, Path]]:
        """Time of last use, size and path of every entry, and of what killed processes left half written."""
        found = []
        for path in self.folder.glob("??/*"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process made space
                continue
            if path.suffix != ".tmp" or time.time() - stat.st_mtime > LEFT_BEHIND:
                found.append((stat.st_mtime_ns, stat.st_size, path))
        return found


def _label(made_from: dict[str, Any]) -> dict[str, str]:
    return {"made_from": json.dumps(made_from, sort_keys=True)}
