"""Whether a text is in another language than it should be: by its words where there are enough of them, else by its script."""

import re
import unicodedata
from collections import Counter
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

ENOUGH = 20
"""Words from which on a text is told by its words; a quotation or a name decides a shorter one."""
SURE = 0.9
"""Least probability of the other language."""

SCRIPTS = {
    "ar": {"ARABIC"},
    "el": {"GREEK"},
    "fa": {"ARABIC"},
    "he": {"HEBREW"},
    "hi": {"DEVANAGARI"},
    "ja": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
    "ko": {"HANGUL", "CJK"},
    "ru": {"CYRILLIC"},
    "th": {"THAI"},
    "uk": {"CYRILLIC"},
    "zh": {"CJK"},
}
"""How Unicode calls the letters of languages that are not written in Latin ones."""


@cache
def _identifier() -> LanguageIdentifier:
    """Takes 100 MB, and is made only where a text is long enough."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def foreign(text: str, language: str) -> str | None:
    """What else than `language` a text is in: the code of a language, or the name of a script; None where nothing else is sure.

    Args:
        text: any.
        language: two-letter code (ISO 639-1).
    """
    own = SCRIPTS.get(language, {"LATIN"})
    letters = Counter(unicodedata.name(c, "UNKNOWN").split()[0] for c in text if c.isalpha())
    if letters and sum(n for script, n in letters.items() if script not in own) > letters.total() / 2:
        return max((s for s in letters if s not in own), key=lambda s: letters[s]).lower()
    if len(re.findall(r"\w+", text)) < ENOUGH:
        return None
    found, probability = _identifier().classify(text)
    return found if found != language and probability >= SURE else None
