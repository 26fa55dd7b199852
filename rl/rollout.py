"""Completions for a batch of prompts: sample a group, and where it is stuck, sample some rows again behind a hint.

The hint re-roll uses the same prefilled prompt; only the hint's tokens are new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.engine.base import Completion, Engine, Sampling
from models.processor import Encoded
from rl.config import HintConfig
from rl.hints import hint_for, hinted_rows, is_stuck
from tasks.base import Score, Task
from tasks.record import Record


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sibling."""

    hint: str
    """Forced opening; empty without a hint."""
    hint_ids: tuple[int, ...]
    completion: Completion
    text: str
    """Hint and completion: what is graded."""
    score: Score


def solved(score: Score) -> bool | None:
    """Whether verdict and *answer* lie on the right side (a hint gives away the first alone); None without a gold side."""
    side = score.parts["discriminate"]
    return None if side is None else side == 1.0 and score.parts["agreement"] in (1.0, None)


@dataclass(frozen=True, slots=True)
class Group:
    """All siblings of one prompt."""

    record: Record
    prompt: Encoded
    rollouts: tuple[Rollout, ...]
    unhinted: tuple[Score, ...]
    """Scores of the first, unhinted round: what stuck and solve rates are computed from."""
    stuck: bool


def roll_out(
    task: Task,
    engine: Engine,
    root: Path,
    records: Sequence[Record],
    group: int,
    sampling: Sampling,
    hint: HintConfig,
) -> list[Group]:
    """Sample `group` completions for each record, hinting stuck groups.

    Args:
        task: makes the prompts and grades.
        engine: samples.
        root: data root of the records.
        records: [B] one prompt each.
        group: siblings per prompt.
        sampling: how to draw.
        hint: whom to hint.

    Returns:
        [B] groups, in order.
    """
    processor = engine.processor
    prompts = [processor.encode(task.prompt(record, root)) for record in records]
    state = engine.prefill(prompts)
    sampled = engine.sample(state, [b for b in range(len(records)) for _ in range(group)], sampling)

    def graded(record: Record, hint_text: str, hint_ids: tuple[int, ...], completion: Completion) -> Rollout:
        text = hint_text + processor.decode(completion.token_ids)
        return Rollout(hint_text, hint_ids, completion, text, task.score(record, text))

    rows = [graded(records[i // group], "", (), completion) for i, completion in enumerate(sampled)]
    groups = [rows[b * group : (b + 1) * group] for b in range(len(records))]
    first = [tuple(r.score for r in g) for g in groups]
    stuck = [is_stuck(scores) for scores in first]
    hints = [hint_for(task, record, hint) if s else None for record, s in zip(records, stuck, strict=True)]
    again = [(b, i) for b, text in enumerate(hints) if text for i in hinted_rows(group, hint.share)]
    if again:
        ids = {b: tuple(processor.text_ids(text)) for b, text in enumerate(hints) if text}
        redone = engine.sample(state, [b for b, _ in again], sampling, prefixes=[ids[b] for b, _ in again])
        for (b, i), completion in zip(again, redone, strict=True):
            groups[b][i] = graded(records[b], hints[b] or "", ids[b], completion)
    return [
        Group(record, prompt, tuple(g), scores, s)
        for record, prompt, g, scores, s in zip(records, prompts, groups, first, stuck, strict=True)
    ]
