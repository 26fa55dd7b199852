"""Completions for a batch of prompts: sample a group, and where it is stuck, sample some rows again behind a hint.

A hint that opens the answer uses the same prefilled prompt, and only its tokens are new; one that stands in the question
makes a prompt of its own. A ladder goes on to its next rung where the last one helped no row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.engine.base import Completion, Engine, Sampling
from models.fingerprint import Fingerprint
from models.processor import Encoded
from rl.config import HintConfig
from rl.hints.control import HintState
from rl.hints.forms import Rung, hinted_rows, is_stuck, own_words, request, rungs, with_hint
from tasks.base import Grade, Message, Score, Task
from tasks.record import Record


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sibling."""

    hint: str
    """Forced opening; empty without one."""
    hint_ids: tuple[int, ...]
    completion: Completion
    text: str
    """Opening and completion: what is graded."""
    score: Score
    level: int = 0
    """Rung of the hint, 0 without one."""
    tells: bool = False
    """Whether a hint states a verdict, so that `discriminate` says nothing about this row."""
    context: int = 0
    """Which of the group's contexts it was written in."""
    told: str = ""
    """A hint that stands in the question; empty without one."""

    @property
    def hinted(self) -> bool:
        """Whether it was given a hint of any kind."""
        return self.level > 0


def solved(score: Score) -> bool | None:
    """Whether verdict and *answer* lie on the right side (a hint gives away the first alone); None without a gold side."""
    side = score.parts["discriminate"]
    return None if side is None else side == 1.0 and score.parts["agreement"] in (1.0, None)


@dataclass(frozen=True, slots=True)
class Group:
    """All siblings of one prompt."""

    record: Record
    contexts: tuple[Encoded, ...]
    """The prompt, and the prompt with a hint in its question where there is one."""
    seen: Fingerprint
    """What the engine was given of its media."""
    rollouts: tuple[Rollout, ...]
    unhinted: tuple[Score, ...]
    """Scores of the rollouts that no hint was given to, those that hinted ones have replaced included."""
    stuck: bool
    tokens: int
    """Generated for it, replaced rollouts and the policy's own hints included."""
    refused: bool = False
    """Whether its hint said too much and was not given."""


@dataclass(frozen=True, slots=True)
class Hinting:
    """How hints are given in one step."""

    cfg: HintConfig
    state: HintState
    probability: float
    """That a stuck prompt is hinted."""
    references: Mapping[str, str]
    """Verified chains by uid; may lack any."""


@dataclass
class _Draft:
    """A group in the making."""

    record: Record
    messages: list[Message]
    contexts: list[Encoded]
    seen: Fingerprint
    ahead: bool
    """Hinted whatever the unhinted rows say, so that the others need not be written without a hint first."""
    rungs: list[Rung]
    rows: list[Rollout]
    unhinted: tuple[Score, ...] = ()
    stuck: bool = False
    tokens: int = 0
    refused: bool = False


def roll_out(
    task: Task,
    grade: Grade,
    engine: Engine,
    root: Path,
    records: Sequence[Record],
    group: int,
    sampling: Sampling,
    hinting: Hinting,
) -> list[Group]:
    """Sample `group` completions for each record, some of them behind a hint.

    Args:
        task: makes the prompts and the hints.
        grade: scores all completions of a round together.
        engine: samples.
        root: data root of the records.
        records: [B] one prompt each.
        group: siblings per prompt.
        sampling: how to draw.
        hinting: whom to hint, and how.

    Returns:
        [B] groups, in order.
    """
    cfg, processor = hinting.cfg, engine.processor
    messages = [task.prompt(record, root) for record in records]
    prompts = [processor.encode(m) for m in messages]
    state = engine.prefill(prompts)
    p = (
        hinting.probability
    )  # without chance nothing is drawn, so that a run without hints samples as any other trainer does
    chosen = [p > 0 and (p >= 1 or torch.rand(()).item() < p) for _ in records]
    drafts = [
        _Draft(record, m, [prompt], seen, c and cfg.when == "always", [], [])
        for record, m, prompt, seen, c in zip(records, messages, prompts, engine.fingerprints, chosen, strict=True)
    ]
    hinted = hinted_rows(group, cfg)

    _prepare([d for d in drafts if d.ahead], task, engine, sampling, hinting)
    counts = [hinted.start if d.rungs else group for d in drafts]
    owners = [b for b, count in enumerate(counts) for _ in range(count)]
    said = engine.sample(state, owners, sampling)
    texts = [processor.decode(c.token_ids) for c in said]
    scores = grade([drafts[b].record for b in owners], texts)
    for b, completion, text, score in zip(owners, said, texts, scores, strict=True):
        drafts[b].rows.append(Rollout("", (), completion, text, score))
    for draft in drafts:
        draft.unhinted = tuple(row.score for row in draft.rows)
        draft.stuck = is_stuck(draft.unhinted)
        draft.tokens += sum(len(row.completion.token_ids) for row in draft.rows)
    _prepare(
        [d for d, c in zip(drafts, chosen, strict=True) if c and d.stuck and not d.ahead],
        task,
        engine,
        sampling,
        hinting,
    )

    while climbing := [b for b, d in enumerate(drafts) if d.rungs]:
        place = drafts[climbing[0]].rungs[0].place
        now = [b for b in climbing if drafts[b].rungs[0].place == place]
        _round(grade, engine, state, drafts, now, hinted, sampling)
    return [
        Group(d.record, tuple(d.contexts), d.seen, tuple(d.rows), d.unhinted, d.stuck, d.tokens, d.refused)
        for d in drafts
    ]


def _prepare(drafts: Sequence[_Draft], task: Task, engine: Engine, sampling: Sampling, hinting: Hinting) -> None:
    """Give each draft the rungs that its strategy has for it."""
    cfg, processor = hinting.cfg, engine.processor
    if cfg.strategy != "self":
        for d in drafts:
            tried = [s.answer.verdict for s in d.unhinted if s.answer is not None and s.answer.verdict is not None]
            d.rungs = rungs(task, d.record, cfg, tried, hinting.references.get(d.record.uid), hinting.state.length)
        return
    known = [d for d in drafts if d.record.target.hintable and d.record.uid in hinting.references]
    if not known:
        return
    asked = [request(d.messages, hinting.references[d.record.uid]) for d in known]
    state = engine.prefill([processor.encode(m) for m in asked])
    for d, said in zip(known, engine.sample(state, range(len(known)), sampling), strict=True):
        rung = own_words(processor.decode(said.token_ids), task, d.record)
        d.tokens += len(said.token_ids)
        d.rungs, d.refused = ([], True) if rung is None else ([rung], False)


def _round(
    grade: Grade,
    engine: Engine,
    state: Any,
    drafts: Sequence[_Draft],
    now: Sequence[int],
    hinted: range,
    sampling: Sampling,
) -> None:
    """Roll out the hinted rows of some groups on their next rung, all of one place; a group that it helped climbs no further."""
    processor, taken = engine.processor, [drafts[b].rungs.pop(0) for b in now]
    query = taken[0].place == "query"
    if query:
        for b, rung in zip(now, taken, strict=True):
            drafts[b].contexts.append(processor.encode(with_hint(drafts[b].messages, rung.texts[0])))
        state = engine.prefill([drafts[b].contexts[-1] for b in now])
    jobs = [(at, b, rung, i) for at, (b, rung) in enumerate(zip(now, taken, strict=True)) for i in hinted]
    openings = ["" if query else rung.texts[i % len(rung.texts)] for _, _, rung, i in jobs]
    prefixes = None if query else [processor.text_ids(text) for text in openings]
    said = engine.sample(state, [at if query else b for at, b, _, _ in jobs], sampling, prefixes)
    texts = [opening + processor.decode(c.token_ids) for opening, c in zip(openings, said, strict=True)]
    scores = grade([drafts[b].record for _, b, _, _ in jobs], texts)
    for (_, b, rung, i), opening, completion, text, score in zip(jobs, openings, said, texts, scores, strict=True):
        draft = drafts[b]
        ids = tuple(processor.text_ids(opening)) if opening else ()
        told = rung.texts[0] if query else ""
        row = Rollout(opening, ids, completion, text, score, rung.level, rung.tells, int(query), told)
        draft.rows[i : i + 1] = [row]  # in place of the sibling, or behind the last one
        draft.tokens += len(completion.token_ids)
    for b in now:
        if any(solved(drafts[b].rows[i].score) for i in hinted):  # a verdict that was given away is not enough
            drafts[b].rungs = []
