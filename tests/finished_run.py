"""Run folders as a finished synthesis leaves them, written by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runtime.files import write_json, write_jsonl
from runtime.main import CONF
from tasks.base import PARTS
from tasks.record import Record, write_records

SETTINGS = {"model": "a-model", "base_url": "http://127.0.0.1:8901/v1", "temperature": 0.7}


def synth(step: str = "write", index: int = 0, pass_rate: float = 1.0, **more: Any) -> dict[str, Any]:
    """Provenance of a draft."""
    parts = dict.fromkeys(PARTS, 1.0) | {"explanation": None, "evidence": None}
    common = {"teacher": "chat", "settings": SETTINGS, "prompt_hash": "p", "record_hash": "r"}
    return common | {"step": step, "index": index, "pass_rate": pass_rate, "draft": {}, "parts": parts} | more


def rejection(uid: str, reason: str, text: str | None, step: str = "write", index: int = 0) -> dict[str, Any]:
    """A line of rejected.jsonl."""
    row = {"uid": uid, "step": step, "index": index, "reason": reason, "text": text}
    return row | {"synth": synth(step, index, 0.0)}


def write_run(
    run: Path,
    records: Sequence[Record],
    chains: Sequence[Record],
    rejected: Sequence[dict[str, Any]],
    *,
    task: str = "task=studio",
    **result: Any,
) -> Path:
    """A run folder with these files; `result` goes over the counts that the files have."""
    (run / "data").mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(CONF, version_base=None):
        OmegaConf.save(compose("pipeline", overrides=["run.dir=x", task]), run / "config.yaml", resolve=True)
    (run / "data" / "dataset.json").write_text(json.dumps({"root": str((run / "data").resolve())}))
    write_records(run / "data" / "records.jsonl", records)
    write_records(run / "synth" / "chains.jsonl", chains)
    write_jsonl(run / "synth" / "rejected.jsonl", rejected)
    kinds = [row["reason"].partition(":")[0] for row in rejected]
    counted = {
        "asked": len(chains) + len(rejected),
        "accepted": len(chains),
        "rejected": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "by_coarse": {"positive": {"asked": len(chains) + len(rejected), "accepted": len(chains)}},
        "requests": 9,
        "tokens": 1234,
        "cost": None,
        "stopped": None,
    }
    write_json(run / "synth" / "stage.json", {"made_from": {}, "result": counted | result})
    return run
