"""Does an explanation carry the emotion that it should? Arithmetic on what a verifier says of each of its sentences.

ERV, the Emotional Rationale Verifier (arXiv 2510.23506; its code, Rhatanii/ERV at 19cb9a7), with S the sentences, L(s) the label
set of a sentence, g the emotion and N = {s : L(s) = {neutral}}:

    |{s in S : g in L(s)}| / |S - N|     for g other than neutral; 0 when every sentence is neutral
    |{s in S : neutral in L(s)}| / |S|   for g = neutral
    0                                    without a sentence

ERV takes the gold label for g, whatever the answer is, and lets neutral sentences pass for nothing. Here g may be the answer,
too; what else can be asked of an explanation are factors beside it (`evaluation/grading.py`).
"""

import re
from collections.abc import Sequence, Set

NEUTRAL = "neutral"

CLAUSE = re.compile(r"[,;:.!?\n]")


def sentences(text: str) -> list[str]:
    """Split after `.`, `!` or `?` before blanks, except inside double quotes: where the number of quotes that follow is odd.

    As ERV's code splits; empty pieces are left out. In a text with a quote that is never closed nothing before it is split.

    Returns:
        The sentences in order, without outer blanks.
    """
    found, start, after = [], 0, text.count('"')
    for i, letter in enumerate(text):
        after -= letter == '"'
        if letter in ".!?" and after % 2 == 0 and text[i + 1 : i + 2].isspace():
            found.append(text[start : i + 1])
            start = i + 1
    found.append(text[start:])
    return [piece for f in found if (piece := f.strip())]


def label_set(probabilities: Sequence[float], labels: Sequence[str], threshold: float, most: int) -> frozenset[str]:
    """The labels that a sentence carries: those above the threshold, the likeliest `most` of them; without any, the likeliest.

    Args:
        probabilities: [L] in [0, 1] each; they need not sum to 1.
        labels: [L] their names.
        threshold: 0.1 in ERV.
        most: 2 in ERV.
    """
    ranked = sorted(zip(probabilities, labels, strict=True), key=lambda pair: -pair[0])
    return frozenset(label for p, label in ranked[:most] if p > threshold) or frozenset({ranked[0][1]})


def erv(sets: Sequence[Set[str]], emotion: str) -> float:
    """ERV's R_exp: the share of the coloured sentences that carry `emotion`; see above.

    Args:
        sets: [S] the labels of each sentence.
        emotion: the label that they are held against.
    """
    counted = list(sets) if emotion == NEUTRAL else [s for s in sets if s != {NEUTRAL}]
    return sum(emotion in s for s in counted) / len(counted) if counted else 0.0


def valence(probabilities: Sequence[float], signs: Sequence[int]) -> float:
    """How positive a sentence is, in [-1, 1]: what the positive labels have more than the negative ones, of all that has a sign.

    Args:
        probabilities: [L] in [0, 1] each.
        signs: [L] +1, 0 or -1 of each label; what is 0 (neutral, or of either side) draws the valence towards 0.
    """
    total = sum(probabilities)
    return sum(p * s for p, s in zip(probabilities, signs, strict=True)) / total if total else 0.0


def intensity(valences: Sequence[float], share: float, zone: float) -> float:
    """ERV for an intensity: sentences of the right side count by how near their valence is to it.

    Args:
        valences: [S] of each sentence, in [-1, 1].
        share: the intensity as a share of the scale's half width, in [-1, 1].
        zone: sentences (and intensities) no further from 0 than this are neutral.

    Returns:
        For an intensity off neutral, the mean over the coloured sentences of 1 - |valence - share| on the right side and of 0
        on the other; 0 without one. For a neutral one, the share of neutral sentences. In [0, 1].
    """
    if abs(share) <= zone:
        return sum(abs(v) <= zone for v in valences) / len(valences) if valences else 0.0
    coloured = [v for v in valences if abs(v) > zone]
    near = [max(0.0, 1 - abs(v - share)) if v * share > 0 else 0.0 for v in coloured]
    return sum(near) / len(near) if near else 0.0


def distinct(texts: Sequence[str]) -> float:
    """Share of the clauses that were not said before in the same text, in [0, 1]; 1 for texts without any.

    Args:
        texts: blocks of an explanation; a block may take up what another one said.
    """
    clauses = [[c for part in CLAUSE.split(text.lower()) if (c := " ".join(part.split()))] for text in texts]
    said = sum(map(len, clauses))
    return sum(len(set(of)) for of in clauses) / said if said else 1.0


def within(amount: float, least: float, most: float) -> float:
    """1 between `least` and `most`, falling in proportion outside: amount / least below, most / amount above."""
    if amount < least:
        return amount / least
    return most / amount if amount > most else 1.0
