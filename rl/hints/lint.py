"""A hint may give away the direction and never the answer: `leak` finds the answer, or a verdict, in a text."""

import re

from tasks.target import LabelSet, Target, Vector, read_number

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")


def leak(text: str, gold: Target) -> str | None:
    """The first piece of the gold answer that `text` says, or None.

    A number is found in any notation and with any sign, because a hint may state the sign; a label wherever it is a word of its
    own. Any number of a vector and any label of a set counts. What the coarse form says, too, is no secret.

    Args:
        text: the hint.
        gold: what must stay unsaid.
    """
    allowed = _words(gold.coarse() or "")
    for piece in _pieces(gold):
        number = read_number(piece)
        if number is not None:
            found = (n for n in _NUMBER.findall(text) if abs(float(n.replace(",", "."))) == abs(number))
            if said := next(found, None):
                return said
        elif not _words(piece) <= allowed and _says(text, piece):
            return piece
    return None


def conclusion(text: str, gold: Target) -> str | None:
    """The first verdict of the target's space that `text` says, or None: hints without a conclusion must not say any."""
    return next((verdict for verdict in gold.coarse_space() if _says(text, verdict)), None)


def _pieces(gold: Target) -> list[str]:
    """The secrets in an answer; the names of a vector are none."""
    if isinstance(gold, Vector):
        return [entry.rpartition("=")[2] for entry in gold.render().split(", ")]
    if isinstance(gold, LabelSet):
        return sorted(gold.labels)
    return [gold.render()]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _says(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase.casefold())}(?!\w)", text.casefold()) is not None
