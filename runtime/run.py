"""The run folder: stages that are done are skipped, stages that were cut off continue, stages that changed are refused.

outputs/<run>/config.yaml manifest.json summary.json report.html
outputs/<run>/<stage>/stage.json    settings and inputs that made it, and once it is finished its result and seconds
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runtime.cluster import first_rank
from runtime.config import flatten
from runtime.errors import StageError
from runtime.files import sha256, write_json


def contents(name: str, path: Path) -> dict[str, str]:
    """First 16 digits of the SHA-256 of a file; for a checkpoint folder, of each of its weight and config files. By file name.

    Raises:
        StageError: when nothing is there; `name` says what was looked for.
    """
    files = [path] if path.is_file() else sorted(p for p in path.glob("*.*") if p.suffix in (".safetensors", ".json"))
    if not files:
        raise StageError(f"input {name!r}: nothing at {path}; run the stage that writes it, or mend the path")
    return {file.name: sha256(file)[:16] for file in files}


def _describe(inputs: Mapping[str, Path]) -> dict[str, str]:
    return {name: "+".join(contents(name, path).values()) for name, path in inputs.items()}


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, by its name with dots: (was, is)."""
    one, other = flatten(old), flatten(new)
    return {k: (one.get(k), other.get(k)) for k in sorted(one | other) if one.get(k) != other.get(k)}


def _announce(folder: Path, what: str) -> None:
    """One line for people, from the first rank alone."""
    if first_rank():
        here = Path.cwd()
        print(f"== {folder.relative_to(here) if folder.is_relative_to(here) else folder}{what}", flush=True)


def finished(folder: Path) -> bool:
    """Whether the stage of this folder has its whole result; one that was begun and cut off has a `stage.json`, too."""
    path = folder / "stage.json"
    return path.is_file() and _whole(json.loads(path.read_text()))


def _whole(state: Mapping[str, Any]) -> bool:
    """Whether the work of a `stage.json` was done, and not stopped before its time with what there was."""
    return "result" in state and not state["result"].get("stopped")


def run_stage(
    folder: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    work: Callable[[], dict[str, Any]],
    anew: bool = False,
) -> dict[str, Any]:
    """Do `work` once for these settings and inputs, and remember its result in `folder/stage.json`.

    Args:
        folder: belongs to this stage alone.
        settings: everything that decides the result, JSON-able.
        inputs: files or checkpoint folders it reads; their contents count, their places do not.
        work: does the stage; when a former call was cut off, it finds what that call left in `folder`. A result whose
            `stopped` says why it ended before its time counts as cut off: the next call goes on.
        anew: whether the work is done again with other settings or inputs, instead of refused: for a stage that keeps what is
            dear by itself.

    Returns:
        The result of `work`, with the `seconds` that it took in the call that finished it.

    Raises:
        StageError: when the folder was begun with other settings or inputs; the text names what differs.
    """
    path = folder / "stage.json"
    made_from = {"settings": json.loads(json.dumps(settings)), "inputs": _describe(inputs)}
    state: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    changed = _changes(state["made_from"], made_from) if state else {}
    if changed and not anew:
        lines = "".join(f"\n  {k}: was {was!r}, now {now!r}" for k, (was, now) in list(changed.items())[:12])
        raise StageError(
            f"{folder} was made with other settings:{lines}\nchoose another run.name, go back to the old settings, "
            f"or delete {folder} (and the stages after it) to make it anew"
        )
    if not changed and _whole(state):
        _announce(folder, ": done before, skipped")
        return state["result"]
    how = f": was made with other settings ({', '.join(changed)}), done anew" if changed else ": was cut off, goes on"
    _announce(folder, how if state else "")
    if first_rank():
        write_json(path, {"made_from": made_from})
    start = time.monotonic()
    result = work()
    result = {**result, "seconds": round(time.monotonic() - start, 1)}
    if first_rank():
        write_json(path, {"made_from": made_from, "result": result})
    return result
