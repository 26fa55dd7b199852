"""What a language model is told when it teaches. Nothing here depends on a label: only on the space of the answer."""

from tasks.dc import Grammar
from tasks.target import Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Target, Text, Vector

TASK = """\
You judge affect in what you are shown, and explain your judgement. First decide the direction from all evidence together \
(words, voice, face, situation), then decide how much or which exactly. Name only what can be perceived, in short plain \
sentences. Do not quote a whole transcript. Where modalities contradict each other, say which one you trust and why.

Reply in exactly this form, without anything before or after it, and use the signs < and > for the tags only:

{form}

{rules}"""

BODIES = {
    "discriminate": "what the evidence says as a whole, modality by modality",
    "calibrate": "the cues that raise or lower it, in order of weight",
    "evidence": "the cues, modality by modality",
    "think": "your reasoning: first the direction, then how much or which exactly",
    "rationale": "your reasoning: first the direction, then how much or which exactly",
}


def instructions(like: Target, grammar: Grammar) -> str:
    """The system prompt of a teacher.

    Args:
        like: a target whose space (range, labels, names) says what an answer may be; its value is not looked at.
        grammar: the form of the reply.
    """
    content = {name: "ANSWER" if name == "answer" else BODIES[name] for name in grammar.blocks}
    rules = f"ANSWER is {answer_rule(like)}."
    if grammar.verdict:
        content[grammar.verdict] = f"VERDICT: {content[grammar.verdict]}"
        rules = f"VERDICT is {verdict_rule(like)}. {rules} The answer must agree with the verdict."
    form = "".join(f"<{name}>{content[name]}</{name}>" for name in grammar.blocks)
    return TASK.format(form=form, rules=rules)


def verdict_rule(like: Target) -> str:
    """In words, what a verdict may be."""
    names = ", ".join(like.coarse_space())
    match like:
        case Composite():
            return next(verdict_rule(part) for part in like.fields.values() if part.coarse() is not None)
        case LabelSet() | Vector():
            return f"a comma-separated list from: {names}; or none"
        case Scalar():
            zone = f"within {like.neutral:g} of" if like.neutral else "exactly"
            return f"one of: {names}; neutral means {zone} the middle of the scale, {(like.lo + like.hi) / 2:g}"
        case _:
            return f"one of: {names}"


def answer_rule(like: Target) -> str:
    """In words, what an answer may be."""
    match like:
        case Scalar():
            return f"a number from {like.lo:g} to {like.hi:g} with one decimal, for example {(like.lo + 3 * like.hi) / 4:.1f}"
        case Ordinal():
            return f"one of these levels, from lowest to highest: {', '.join(like.levels)}"
        case Class():
            return f"one of: {', '.join(like.space.labels)}"
        case LabelSet():
            source = "labels of your own" if like.space is None else f"labels from: {', '.join(like.space.labels)}"
            return f"a comma-separated list of {source}; or none"
        case IndexSet():
            return f"a comma-separated list of utterance numbers from 0 to {like.n - 1}; or none"
        case Vector():
            numbers = ", ".join(f"{name}=NUMBER" for name in like.names)
            return f"a list of the form {numbers}, each NUMBER from {like.lo:g} to {like.hi:g}"
        case Text():
            return "free text"
        case Composite():
            parts = "; ".join(f"{name}: {answer_rule(part)}" for name, part in like.fields.items())
            return f"a JSON object with these fields, the value of each written as a string ({parts})"
    raise TypeError(f"no wording for {type(like).__name__}; add one here")
