"""When a group is stuck, and what it is then told.

A prompt is *stuck* when no rollout of its group has the `discriminate` part right: that part and no other, because a summed
reward would hide a wrong direction behind format credit. The polarity hint forces the opening of the model's own answer,
`<discriminate>TRUE_VERDICT:`, after which the model goes on by itself (C2F-Thinker, arXiv 2604.00013: the true polarity is
placed into the judgement phase; that it is a prefix is our reading).
"""

from collections.abc import Sequence

from rl.config import HintConfig
from tasks.base import Score, Task
from tasks.dc import prefix
from tasks.record import Record


def is_stuck(scores: Sequence[Score]) -> bool:
    """Whether no rollout of the group states the right direction; a part that could not be scored settles nothing."""
    verdicts = [s.parts["discriminate"] for s in scores]
    return None not in verdicts and not any(verdicts)


def hint_for(task: Task, record: Record, cfg: HintConfig) -> str | None:
    """The forced opening for a stuck prompt, or None where no hint may be given."""
    if cfg.strategy == "none" or not record.target.hintable:
        return None
    coarse = record.target.coarse()
    assert coarse is not None  # hintable targets have a coarse form
    return prefix(coarse, task.grammar)


def hinted_rows(group: int, share: float) -> range:
    """Which siblings are rolled out again: the last ones, at least one, and never all."""
    return range(group - min(group - 1, max(1, round(group * share))), group)
