"""A hint may give away the direction and never the answer: `leak` finds the answer, or a verdict, in a text."""

import re

from tasks.target import Composite, IndexSet, LabelSet, Target, Text, Vector, read_number

_NUMBER = re.compile(r"(?=((?<!\d)\d+(?:\.\d+)?|(?<!\d)\.\d+))")
"""Without its sign. Numbers may overlap: behind a full stop, `.5` is both 5 and a half."""


def leak(text: str, gold: Target) -> str | None:
    """The first piece of the gold answer that `text` says, or None.

    A number is found in any notation and with any sign, because a hint may state the sign; a label wherever it is a word of its
    own. Any number of a vector, any member of a set, any reference of a text and any field of a composite counts. What the
    coarse form says, too, is no secret.

    Args:
        text: the hint.
        gold: what must stay unsaid.
    """
    allowed = _words(gold.coarse() or "")
    for piece in _pieces(gold):
        number = read_number(piece)
        if number is not None:
            # a comma parts numbers, or the digits of one
            found = (n for way in (text, text.replace(",", ".")) for n in _NUMBER.findall(way))
            if said := next((n for n in found if float(n) == abs(number)), None):
                return said
        elif not _words(piece) <= allowed and _says(text, piece):
            return piece
    return None


def conclusion(text: str, gold: Target) -> str | None:
    """The first verdict of the target's space that `text` says, or None: hints without a conclusion must not say any."""
    return next((verdict for verdict in gold.coarse_space() if _says(text, verdict)), None)


def _pieces(gold: Target) -> list[str]:
    """The secrets in an answer; the names of a vector are none."""
    match gold:
        case Composite():
            return [piece for part in gold.fields.values() for piece in _pieces(part)]
        case Vector():
            return [entry.rpartition("=")[2] for entry in gold.render().split(", ")]
        case LabelSet():
            return sorted(gold.labels)
        case IndexSet():
            return [str(index) for index in sorted(gold.indices)]
        case Text():
            return list(gold.refs)
        case _:
            return [gold.render()]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _says(text: str, phrase: str) -> bool:
    """Whether `phrase` stands in `text` as words of its own, in any case and with any blanks."""
    text, phrase = (" ".join(t.casefold().split()) for t in (text, phrase))
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None
