"""The answer grammar: render, parse and prefix in one file, for the main form and its ablations.

    dc              <discriminate>COARSE: what the evidence says</discriminate><calibrate>cues</calibrate><answer>FINE</answer>
    evidence_first  <evidence>cues</evidence><discriminate>COARSE: why</discriminate><answer>FINE</answer>
    think           <think>reasoning</think><answer>FINE</answer>
    answer_first    <answer>FINE</answer><rationale>reasoning</rationale>
    answer          <answer>FINE</answer>

In `dc` the verdict comes first, so that a polarity hint is a short, truthful prefix of the model's own answer. Exactly one
block of each kind, in order, no empty block, nothing but blanks around them: what the format does not allow earns no reward.

`parse` never raises; `parse(render(a)) == a` for every answer that `render` accepts, and `render` refuses what the grammar
cannot carry (angle brackets, empty blocks, outer blanks).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from tasks.target import Target


class Fault(StrEnum):
    """Why a text is not an answer: the first rule that it breaks, in the order of this list."""

    EMPTY = "empty"
    MISSING_BLOCK = "missing_block"
    UNCLOSED_BLOCK = "unclosed_block"
    REPEATED_BLOCK = "repeated_block"
    WRONG_ORDER = "wrong_order"
    TEXT_BEFORE = "text_before"
    TEXT_BETWEEN = "text_between"
    TEXT_AFTER = "text_after"
    STRAY_TAG = "stray_tag"
    EMPTY_BLOCK = "empty_block"
    NO_VERDICT = "no_verdict"
    BAD_ANSWER = "bad_answer"


@dataclass(frozen=True, slots=True)
class Grammar:
    """An order of blocks. `verdict` names the block that opens with `COARSE:`, None where the form states no verdict."""

    name: str
    blocks: tuple[str, ...]
    verdict: str | None = None


GRAMMARS: Mapping[str, Grammar] = {
    g.name: g
    for g in (
        Grammar("dc", ("discriminate", "calibrate", "answer"), verdict="discriminate"),
        Grammar("evidence_first", ("evidence", "discriminate", "answer"), verdict="discriminate"),
        Grammar("think", ("think", "answer")),
        Grammar("answer_first", ("answer", "rationale")),
        Grammar("answer", ("answer",)),
    )
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a well-formed completion says."""

    value: Target
    """The typed content of the answer block."""
    verdict: str | None = None
    """The stated coarse verdict, None in a grammar without one."""
    bodies: Mapping[str, str] = field(default_factory=dict)
    """Text of every other block; that of the verdict block without its `COARSE:`."""

    @property
    def explanation(self) -> str:
        """All reasoning in the order of the blocks."""
        return " ".join(self.bodies.values())


def render(answer: Answer, grammar: Grammar) -> str:
    """The canonical completion for `answer`.

    Raises:
        ValueError: when a body is missing or empty, has outer blanks or angle brackets, or the verdict does not fit.
    """
    if (answer.verdict is None) != (grammar.verdict is None):
        raise ValueError(f"grammar {grammar.name} and verdict {answer.verdict!r} do not go together")
    if answer.verdict is not None and answer.value.read_coarse(answer.verdict) != answer.verdict:
        raise ValueError(f"verdict {answer.verdict!r} is none of {answer.value.coarse_space()}")
    if set(answer.bodies) != set(grammar.blocks) - {"answer"}:
        raise ValueError(f"grammar {grammar.name} wants bodies {grammar.blocks}, got {sorted(answer.bodies)}")
    for name, body in answer.bodies.items():
        if not body or body != body.strip() or "<" in body or ">" in body:
            raise ValueError(f"block {name!r} must be non-empty, without outer blanks or angle brackets, got {body!r}")
    content = dict(answer.bodies) | {"answer": answer.value.render()}
    if grammar.verdict:
        content[grammar.verdict] = f"{answer.verdict}: {content[grammar.verdict]}"
    return "".join(f"<{name}>{content[name]}</{name}>" for name in grammar.blocks)


def prefix(coarse: str, grammar: Grammar) -> str:
    """The opening of an answer that states `coarse`: what a polarity hint forces.

    Raises:
        ValueError: when the grammar does not open with a verdict, so that no prefix could state it.
    """
    if grammar.blocks[0] != grammar.verdict:
        raise ValueError(f"grammar {grammar.name!r} does not open with a verdict; use grammar=dc, or hint=none")
    return f"<{grammar.verdict}>{coarse}:"


def parse(text: str, like: Target, grammar: Grammar) -> Answer | Fault:
    """Read a completion.

    Args:
        text: what the model wrote, hint included. Any string at all.
        like: a target whose space (range, labels, names) says what an answer may be; its value is not looked at.
        grammar: the expected form; another form is a fault, never a silent success.

    Returns:
        The answer, or the first rule that the text breaks.
    """
    text = text.strip()
    if not text:
        return Fault.EMPTY
    spans: list[tuple[int, int, int, int]] = []  # start of tag, start of body, end of body, end of tag
    for name in grammar.blocks:
        opened = [m.span() for m in re.finditer(f"<{name}>", text)]
        closed = [m.span() for m in re.finditer(f"</{name}>", text)]
        if not opened:
            return Fault.MISSING_BLOCK
        if len(opened) > 1 or len(closed) > 1:
            return Fault.REPEATED_BLOCK
        if not closed or closed[0][0] < opened[0][1]:
            return Fault.UNCLOSED_BLOCK
        spans.append((*opened[0], *closed[0]))
    if any(a[3] > b[0] for a, b in pairwise(spans)):
        return Fault.WRONG_ORDER
    if spans[0][0] > 0:
        return Fault.TEXT_BEFORE
    if any(text[a[3] : b[0]].strip() for a, b in pairwise(spans)):
        return Fault.TEXT_BETWEEN
    if spans[-1][3] < len(text):
        return Fault.TEXT_AFTER
    bodies = {name: text[s[1] : s[2]].strip() for name, s in zip(grammar.blocks, spans, strict=True)}
    if any("<" in body or ">" in body for body in bodies.values()):
        return Fault.STRAY_TAG
    if not all(bodies.values()):
        return Fault.EMPTY_BLOCK
    verdict = None
    if grammar.verdict:
        stated, colon, rest = bodies[grammar.verdict].partition(":")
        verdict = like.read_coarse(stated) if colon else None
        if verdict is None:
            return Fault.NO_VERDICT
        if not rest.strip():
            return Fault.EMPTY_BLOCK
        bodies[grammar.verdict] = rest.strip()
    value = like.read(bodies.pop("answer"))
    if value is None:
        return Fault.BAD_ANSWER
    return Answer(value, verdict, bodies)
