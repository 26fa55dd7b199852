"""What an explanation claims to have perceived, in a small declared vocabulary, and whether it was there.

A claim is the name of a cue and a level in one clause: "the pitch rises", "voice up, face flat", "she speaks slowly", "no smile".
What is said in other words is no claim: it earns nothing and costs nothing. In a text view a quoted word and its side is a
claim, too: "'lovely' up".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MODALITY: Mapping[str, str] = {
    "words": "text",
    "voice": "audio",
    "pitch": "audio",
    "range": "audio",
    "tone": "audio",
    "pace": "audio",
    "energy": "audio",
    "pauses": "audio",
    "face": "video",
}
"""Cue -> the modality that it is perceived in. `voice` is the movement of the pitch, `pitch` its height."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "words": ("words", "wording", "transcript", "sentence"),
    "voice": ("voice", "intonation", "melody"),
    "pitch": ("pitch",),
    "range": ("range",),
    "tone": ("tone", "timbre"),
    "pace": ("pace", "tempo", "rate", "speech"),
    "energy": ("energy", "loudness", "volume"),
    "pauses": ("pauses", "pausing"),
    "face": ("face", "mouth", "expression"),
}

LEVELS: Mapping[int, tuple[str, ...]] = {
    1: (
        *("up", "rising", "rises", "raised", "high", "higher", "wide", "wider", "bright", "brighter", "fast", "faster"),
        *("quick", "loud", "louder", "strong", "many", "long", "positive"),
    ),
    0: ("flat", "middle", "even", "level", "steady", "moderate", "neutral"),
    -1: (
        *("down", "falling", "falls", "lowered", "low", "lower", "narrow", "narrower", "dull", "duller", "slow"),
        *("slower", "quiet", "quieter", "soft", "weak", "few", "short", "negative"),
    ),
}

ALONE: Mapping[str, tuple[str, int]] = {
    "smile": ("face", 1),
    "smiles": ("face", 1),
    "smiling": ("face", 1),
    "frown": ("face", -1),
    "frowns": ("face", -1),
    "frowning": ("face", -1),
    "shouts": ("energy", 1),
    "shouting": ("energy", 1),
    "loudly": ("energy", 1),
    "whispers": ("energy", -1),
    "whispering": ("energy", -1),
    "quietly": ("energy", -1),
    "softly": ("energy", -1),
    "quickly": ("pace", 1),
    "slowly": ("pace", -1),
}
"""Words that name cue and level at once."""

NEGATIONS = frozenset({"not", "no", "never", "without", "hardly", "neither", "nor"})

_CUE = {name: cue for cue, names in NAMES.items() for name in names}
_LEVEL = {word: level for level, words in LEVELS.items() for word in words}
_CLAUSE = re.compile(r"[,;.:!?\n]|\b(?:and|but|while|although|though|yet)\b")
_QUOTED = re.compile(r"'([^\s'][^']*)'")
_WORD = re.compile(r"[a-z']+")


@dataclass(frozen=True, slots=True)
class Claim:
    """One cue at one level."""

    cue: str
    """A key of MODALITY, or a word of the transcript in single quotes."""
    level: int
    """+1 up, 0 flat, -1 down."""
    negated: bool = False
    """Whether the explanation says that it is *not* so."""

    @property
    def modality(self) -> str:
        """Where it is perceived."""
        return MODALITY.get(self.cue, "text")


def claims(explanation: str) -> list[Claim]:
    """The claims of an explanation, in order, each once.

    A clause that names several cues or several levels pairs each cue with the level that follows it most nearly, or else with
    the last one before it.
    """
    found: dict[Claim, None] = {}
    for clause in _CLAUSE.split(explanation.lower()):
        quoted = _QUOTED.findall(clause)
        words = _WORD.findall(_QUOTED.sub(" ", clause))
        negated = any(w in NEGATIONS or w.endswith("n't") for w in words)
        levels = [(i, _LEVEL[w]) for i, w in enumerate(words) if w in _LEVEL]
        cues = [(i, _CUE[w]) for i, w in enumerate(words) if w in _CUE]
        if quoted and levels:
            found |= {Claim(f"'{q.strip()}'", levels[0][1], negated): None for q in quoted}
        elif levels:
            for at, cue in cues:
                level = next((level for i, level in levels if i > at), levels[-1][1])
                found[Claim(cue, level, negated)] = None
        found |= {Claim(*ALONE[w], negated): None for w in words if w in ALONE}
    return list(found)


@dataclass(frozen=True, slots=True)
class Evidence:
    """How the claims of one explanation compare with what was measured."""

    right: Mapping[str, bool]
    """Cue that it speaks of and that could be measured -> whether it has it right."""
    coverage: float | None
    """Share of the measured modalities of which it has a cue right; None when nothing was measured."""

    @property
    def precision(self) -> float | None:
        """Share of the cues it speaks of that it has right; None when it speaks of none that could be measured."""
        return precision(self.right)

    @property
    def score(self) -> float | None:
        """Precision times coverage: to say nothing earns nothing, to claim everything costs precision. None as coverage is."""
        return None if self.coverage is None else (self.precision or 0.0) * self.coverage


def check(said: Sequence[Claim], measured: Mapping[str, int | None]) -> Evidence:
    """Hold claims against the clip.

    Args:
        said: what is claimed. A cue that is claimed at two levels is wrong.
        measured: level of every cue of the clip (+1, 0, -1); None, or no entry, where it could not be measured, and then a
            claim about it is left out.
    """
    known = {cue: level for cue, level in measured.items() if level is not None}
    right: dict[str, bool] = {}
    for claim in said:
        if claim.cue in known:
            holds = (claim.level == known[claim.cue]) != claim.negated
            right[claim.cue] = right.get(claim.cue, True) and holds
    shown = {MODALITY.get(cue, "text") for cue in known}
    seen = {MODALITY.get(cue, "text") for cue, ok in right.items() if ok}
    return Evidence(right, len(seen) / len(shown) if shown else None)


def precision(right: Mapping[str, bool]) -> float | None:
    """Share of the cues that are right; None when there is none."""
    return sum(right.values()) / len(right) if right else None


def mentions(text: str) -> list[tuple[int, int, str]]:
    """Where a text names cues: start and end of each name, and the cue."""
    named = [(m.start(), m.end(), _CUE.get(word) or ALONE.get(word, ("",))[0]) for m, word in _words_of(text)]
    quoted = [(m.start(), m.end(), f"'{m[1].strip().lower()}'") for m in _QUOTED.finditer(text)]
    return sorted([(start, end, cue) for start, end, cue in named if cue] + quoted)


def _words_of(text: str) -> list[tuple[re.Match[str], str]]:
    return [(m, m[0].lower()) for m in re.finditer(r"[A-Za-z']+", text)]
