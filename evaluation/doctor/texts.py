"""Texts without words, and texts that were decoded with the wrong character set."""

import re
from collections.abc import Iterator, Sequence

from evaluation.doctor.findings import Finding
from tasks.record import Media, Record, View

ABOVE_ASCII = bytes(range(0x80, 0x100)).decode("cp1252", "ignore") + "".join(map(chr, range(0x80, 0xA0)))
FOREIGN = re.compile(f"[{ABOVE_ASCII}]{{2,}}")
"""Two or more characters in a row that Windows-1252 or Latin-1 has above ASCII: what UTF-8 becomes when it is read with these."""
PLAIN = re.compile("[\u00a0-\u00ff\u2010-\u22ff\U00010000-\U0010ffff]")
LOST = re.compile("[\ufffd\u0080-\u0084\u0086-\u009f]")
"""The mark of a character that could not be decoded, and control characters that no text holds (U+0085 ends lines in some)."""


def words_of(view: View) -> str | None:
    """The text of a view; None for media."""
    if isinstance(view, Media):
        return None
    return view if isinstance(view, str) else " ".join(turn.text for turn in view)


def bad_texts(records: Sequence[Record], views: Sequence[str] | None) -> Iterator[Finding]:
    """Findings of the kinds `empty_text` and `mojibake`.

    Args:
        records: any.
        views: names of the views to look at; None is all of them.
    """
    for record in records:
        for name, view in record.views.items():
            text = words_of(view) if views is None or name in views else None
            if text is None:
                continue
            if not re.search(r"\S", text):
                reason = (
                    f"views.{name}: a text without a word; got {text!r}; leave the view out, or transcribe the clip"
                )
                yield Finding("empty_text", record.uid, reason, name)
            elif garbled := mojibake(text):
                reason = f"views.{name}: {garbled!r} was decoded with the wrong character set; read the source as UTF-8"
                yield Finding("mojibake", record.uid, reason, name)


def mojibake(text: str) -> str | None:
    """The first piece of a text that was UTF-8 and was read as Windows-1252 or Latin-1, or that was lost; None for a clean one.

    A piece counts when its bytes are valid UTF-8 for a Latin-1 letter or sign, for punctuation or a symbol, for an emoji, or for
    two letters in a row. One letter of another script does not count: so look accents before quotes in French and German.
    """
    for piece in FOREIGN.findall(text):
        meant = _meant(piece)
        if meant is not None and (len(meant) > 1 or PLAIN.match(meant)):
            return piece
    lost = LOST.search(text)
    return lost.group() if lost else None


def _meant(piece: str) -> str | None:
    """The text whose UTF-8 bytes were read as `piece`."""
    raw = bytearray()
    for letter in piece:  # five bytes have no letter in Windows-1252 and come through as control characters
        raw += letter.encode("latin-1") if letter <= "\u00ff" else letter.encode("cp1252")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
