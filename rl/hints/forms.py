"""When a group is stuck, and what its hinted rows are then told, strategy by strategy.

A prompt is *stuck* when no rollout of its group has the `discriminate` part right: that part and no other, because a summed
reward would hide a wrong direction behind format credit.

    polarity  the opening of the model's own answer, `<discriminate>VERDICT:`, after which it goes on by itself (C2F-Thinker,
              arXiv 2604.00013: the true polarity is placed into the judgement phase; that it is a prefix is our reading)
    ladder    the weakest that helps: an opening with a verdict that the group has not tried (it was not X); then the true one; then
              the true one with the evidence of a reference chain (Scaf-GRPO: increments, the first that succeeds stays)
    adaptive  the opening words of a reference chain, as many as a controller allows (rl/hints/control.py)
    self      in the question: what the policy itself says of a reference chain, without any conclusion (SAGE)
    query     in the question: the true verdict

Where no reference chain is known, ladder and adaptive stop at the true verdict, and self gives no hint.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rl.config import HintConfig
from rl.hints.lint import conclusion, leak
from tasks.base import Message, Score, Task
from tasks.dc import Grammar, prefix
from tasks.record import Record

Place = Literal["prefix", "query"]

QUOTING = ("ladder", "adaptive", "self")
"""Strategies that take hints from reference chains."""

REQUEST = (
    "Somebody reasoned about this:\n{reference}\n"
    "In one sentence, tell a student what to look at and listen to. Do not say the verdict, and do not say the answer."
)
LONGEST = 30
"""Words of a hint in the policy's own words."""


@dataclass(frozen=True, slots=True)
class Rung:
    """What the hinted rows of a prompt are told in one round, dealt out in turn."""

    texts: tuple[str, ...]
    level: int
    """1 is the weakest of its strategy."""
    place: Place = "prefix"
    tells: bool = True
    """Whether a verdict is stated, so that `discriminate` says nothing about the row."""


def is_stuck(scores: Sequence[Score]) -> bool:
    """Whether no rollout of the group states the right direction; a part that could not be scored settles nothing."""
    verdicts = [s.parts["discriminate"] for s in scores]
    return bool(verdicts) and None not in verdicts and not any(verdicts)


def hinted_rows(group: int, cfg: HintConfig) -> range:
    """Which siblings are rolled out again: the last ones, at least one; never all unless `hint.rows` says so."""
    match cfg.rows:
        case "all":
            count = group
        case "one":
            count = 1
        case _:
            count = min(group - 1, max(1, round(group * cfg.share)))
    return range(group - count, group)


def rungs(
    task: Task, record: Record, cfg: HintConfig, tried: Sequence[str], reference: str | None, length: float
) -> list[Rung]:
    """The hints for a prompt, weakest first; none where nothing may be said.

    Args:
        task: whose grammar opens an answer.
        record: carries the gold target.
        cfg: names the strategy, any but `self`.
        tried: verdicts that the group has stated.
        reference: a verified chain for the record, if there is one.
        length: share of it that the controller allows, in [0, 1].
    """
    gold = record.target
    coarse = gold.coarse()
    if coarse is None or not gold.hintable:
        return []
    match cfg.strategy:
        case "polarity":
            return [Rung((prefix(coarse, task.grammar),), 1)]
        case "query":
            return [Rung((f"Hint: the verdict is {coarse}.",), 1, "query")]
        case "ladder":
            opening = prefix(coarse, task.grammar)
            space = gold.coarse_space()
            untried = [v for v in space if v not in tried] if coarse in space else []
            texts = [tuple(prefix(v, task.grammar) for v in untried), (opening,)]
            evidence = None if reference is None else evidence_of(reference, task.grammar)
            if evidence is not None and leak(evidence, gold) is None:
                texts.append((f"{opening} {evidence}</{task.grammar.verdict}>",))
            # where one verdict is left, "not X" and the truth are the same
            steps = texts[1:] if texts[0] in ((), (opening,)) else texts
            return [Rung(said, level) for level, said in enumerate(steps, 1)]
        case "adaptive":
            opening = opening_of(reference, length, record) if reference else prefix(coarse, task.grammar)
            return [Rung((opening,), 1)] if opening and length > 0 else []
        case _:
            return []


def evidence_of(chain: str, grammar: Grammar) -> str | None:
    """What the verdict block of a chain says after its verdict; None where there is no such block."""
    name = grammar.verdict
    found = re.search(rf"<{name}>[^:<]*:([^<]*)</{name}>", chain) if name else None
    return found[1].strip() or None if found else None


def opening_of(chain: str, length: float, record: Record) -> str:
    """The first words of a chain, `length` of those that come before its answer, cut where they would give it away."""
    words = re.findall(r"\s*\S+", chain.partition("<answer>")[0])
    count = round(length * len(words))
    while count and leak("".join(words[:count]), record.target):
        count -= 1
    return "".join(words[:count])


def request(prompt: Sequence[Message], reference: str) -> list[Message]:
    """The prompt that asks the policy for a hint in its own words: the views of `prompt`, and another question."""
    views = prompt[-1]["content"][:-1]
    return [*prompt[:-1], prompt[-1] | {"content": [*views, _text(REQUEST.format(reference=reference))]}]


def own_words(said: str, task: Task, record: Record) -> Rung | None:
    """The policy's answer to `request` as a hint; None when it is empty, or gives away a verdict or the answer."""
    evidence = evidence_of(said, task.grammar)
    words = re.sub(r"<[^>]*>|[<>]", " ", said if evidence is None else evidence).split()[:LONGEST]
    text = " ".join(words)
    if not text or leak(text, record.target) or conclusion(text, record.target):
        return None
    return Rung((f"Hint: {text}",), 1, "query", tells=False)


def with_hint(prompt: Sequence[Message], hint: str) -> list[Message]:
    """A prompt with a hint behind its question."""
    return [*prompt[:-1], prompt[-1] | {"content": [*prompt[-1]["content"], _text(f"\n{hint}")]}]


def _text(text: str) -> Message:
    return {"type": "text", "text": text}
