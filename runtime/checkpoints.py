"""Trainer checkpoints: the newest whole one."""

import json
import shutil
from pathlib import Path

from runtime.cluster import first_rank


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole `checkpoint-N` below `folder`, or None. The first rank removes torn ones (a kill while saving).

    The Trainer writes `trainer_state.json` last, so a checkpoint without a readable one is torn.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    for path in reversed(found):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            if first_rank():
                shutil.rmtree(path)
        else:
            return path
    return None
