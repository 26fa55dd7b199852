"""Score-only SFT: completions that are the bare label, without a teacher and without reasoning.

    python -m evaluation.baselines labels task=studio task.grammar=answer run.name=score-only
    python -m sft task=studio task.grammar=answer run.name=score-only sft.chains=outputs/score-only/labels/chains.jsonl

With `python -m data_synth task.grammar=answer` a teacher's guesses would be learnt in place of the labels, and only those
that come near to the labels. Here every training record has its label; `baseline.labels.like` narrows that down to the
records of a file of chains, so that an SFT on those chains has seen the same clips.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.baselines.answers import said
from evaluation.baselines.config import BaselineConfig
from models.session import Session
from runtime.errors import ConfigError, StageError
from runtime.run import run_stage
from tasks.record import read_records, write_records


def run(session: Session) -> dict[str, Any]:
    """Write `labels/chains.jsonl` once for these settings.

    Returns:
        How many chains there are, and where.

    Raises:
        ConfigError: when the task asks for more than the answer.
        StageError: when no training record is left.
    """
    settings = session.section("baseline", BaselineConfig).labels
    task, folder = session.task, session.folder / "labels"
    if task.grammar.blocks != ("answer",):
        raise ConfigError(
            f"task.grammar: labels hold no reasoning, which the grammar {task.grammar.name!r} asks for; use task.grammar=answer"
        )
    like = Path(settings.like) if settings.like else None

    def work() -> dict[str, Any]:
        records = session.data.split("train")
        if like is not None:
            shown = {record.uid for record in read_records(like)}
            records = [record for record in records if record.uid in shown]
        random.Random(session.seed).shuffle(records)  # sft holds the last ones out, and some corpora are sorted
        if not records:
            raise StageError(f"labels: no training record is in {like or session.records}; name another file")
        chains = folder / "chains.jsonl"
        write_records(chains, [replace(r, rationale=said(task, r.target)) for r in records])
        return {"chains": len(records), "file": str(chains)}

    inputs = {"records": session.records} | ({"like": like} if like else {})
    return run_stage(folder, session.settings(), inputs, work)
