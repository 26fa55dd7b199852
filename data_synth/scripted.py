"""A teacher with known faults: the cue teacher, some of whose drafts are spoilt on purpose, at rates that are settings.

    wrong          the direction turned round, in evidence, verdict and answer alike
    leak           speaks of a label that it was never shown, in one of LEAKS
    copy           quotes the whole transcript
    foreign        explains itself in another language, in one of FOREIGN
    broken         not in the grammar, in one of five ways
    contradiction  an answer on another side than the verdict
    far            on the right side, and much too far away
    decoy          no defect at all: a harmless sentence that sounds like one, in one of DECOYS

So the filter can be measured (`python -m evidence e6`): the provenance of a draft names its defect and the wording, None where it
was left honest. A defect that cannot be had (no transcript to quote, no verdict to contradict) leaves a draft honest, too.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from data_synth.cue import CueTeacher
from data_synth.teacher import Case, Draft
from runtime.errors import ConfigError
from runtime.files import digest
from tasks.dc import Answer, parse, render
from tasks.target import Class, Scalar, Target

LEAKS = (
    "the label is {verdict}",
    "as the given label has it",
    "the ground truth is {answer}",
    "the annotators heard it as {verdict}",
    "since the annotation says {verdict}",
    "as given, it is {verdict}",
    "knowing that it was rated {answer}",
    "the reference is {verdict}",
    "we were told that it is {verdict}",
    "which fits the score provided",
)
"""Ways to speak of a label. The first four hold a phrase of `synth.leak_phrases` in conf/, the others do not."""

DECOYS = (
    "the answer is in the voice rather than in the words",
    "the label of a bottle could be read out in that tone",
    "as given by pitch and mouth",
    "with a touch of schadenfreude and a certain je ne sais quoi",
    "the correct answer to a compliment would sound otherwise",
    "spoken as instructed by a stage direction",
    "nothing here is rated higher than the mouth",
)
"""Sentences about a clip that hold words of a leak, or of another language, and are neither. Two hold a phrase of conf/'s list."""

FOREIGN = {
    "de, short": "Stimme und Gesicht gehen nach oben",
    "de, long": "Die Stimme hebt sich gegen Ende des Satzes deutlich, das Gesicht wirkt dabei offen und freundlich, "
    "und auch die Worte sprechen eher dafür als dagegen",
    "es, short": "la voz y la cara suben",
    "es, long": "La voz sube claramente hacia el final de la frase, la cara parece abierta y amable, "
    "y las palabras que dice también apuntan en la misma dirección",
    "fr, short": "la voix et le visage montent",
    "fr, long": "La voix monte nettement vers la fin de la phrase, le visage paraît ouvert et aimable, "
    "et les mots vont eux aussi plutôt dans cette direction",
    "zh, short": "声音上扬、表情愉快",
    "ru, short": "голос и лицо идут вверх",
}
"""Explanations in other languages, short and long, since short ones are the harder to tell."""

DECOY = "decoy"
LEAST_QUOTE = 4
"""Fewest words of a transcript that is worth a quote."""
DISTANCE = 0.25
"""Share of the scale by which an answer is too far away."""
OPPOSITE = {
    a: b
    for pair in (("up", "down"), ("low", "high"), ("narrow", "wide"), ("dull", "bright"), ("slow", "fast"))
    for a, b in (pair, pair[::-1])
}


class ScriptedTeacher(CueTeacher):
    """The cue teacher with defects. Candidates of one case differ: each draws by itself whether it is spoilt, and how.

    Args:
        edge: as of the cue teacher.
        seed: of the draws.
        rates: defect -> share of the drafts, in [0, 1]; together 1 at the most. What is left out does not occur.

    Raises:
        ConfigError: for an unknown defect, or rates that are no shares.
    """

    name = "scripted"

    def __init__(self, edge: float, seed: int, rates: Mapping[str, float]) -> None:
        super().__init__(edge)
        if unknown := sorted(set(rates) - set(DEFECTS)):
            raise ConfigError(f"teacher.rates: defects are {', '.join(DEFECTS)}; got {unknown}; mend the config")
        if min(rates.values(), default=0) < 0 or sum(rates.values()) > 1:
            raise ConfigError(f"teacher.rates: shares that add up to 1 at the most; got {rates}; mend the config")
        self.seed, self.rates = seed, dict(rates)

    def settings(self) -> dict[str, Any]:
        """Those of the cue teacher, the seed and the rates."""
        return super().settings() | {"seed": self.seed, "rates": self.rates}

    async def write(self, case: Case, indices: Sequence[int]) -> list[Draft]:
        """Write honestly, then spoil some."""
        honest = await super().write(case, indices)
        return [self._spoilt(case, draft, index) for draft, index in zip(honest, indices, strict=True)]

    def _spoilt(self, case: Case, draft: Draft, index: int) -> Draft:
        if draft.text is None:
            return draft
        answer = parse(draft.text, case.like, case.grammar)
        assert isinstance(answer, Answer)
        # what was measured stands for the clip: its path must decide nothing, and its bytes need not be read again
        content = digest([draft.text, draft.provenance])
        rng = np.random.default_rng([self.seed, index, int(content, 16)])
        shares = [*self.rates.values(), 1 - sum(self.rates.values())]
        defect = [*self.rates, None][int(np.searchsorted(np.cumsum(shares), rng.uniform(), side="right"))]
        found = DEFECTS[defect](answer, case, rng) if defect else None
        text, wording = found or (draft.text, None)
        drawn = {"defect": defect if found else None, "wording": wording}
        return Draft(text, None, {**draft.provenance, **drawn})


Spoilt = tuple[str, str | None] | None
"""A completion and the wording that was drawn for it; None where the defect cannot be had."""


def _wrong(answer: Answer, case: Case, rng: np.random.Generator) -> Spoilt:
    other = _other_side(answer.value, rng)
    if other is None:
        return None
    bodies = {name: _reversed(body) for name, body in answer.bodies.items()}
    return render(Answer(other, other.coarse() if answer.verdict else None, bodies), case.grammar), None


def _leak(answer: Answer, case: Case, rng: np.random.Generator) -> Spoilt:
    wording = LEAKS[rng.integers(len(LEAKS))]
    if not answer.bodies:
        return None
    said = wording.format(verdict=answer.value.coarse() or answer.value.render(), answer=answer.value.render())
    return _opened(answer, case, f"{said}, "), wording


def _decoy(answer: Answer, case: Case, rng: np.random.Generator) -> Spoilt:
    wording = DECOYS[rng.integers(len(DECOYS))]
    return (_opened(answer, case, f"{wording}, "), wording) if answer.bodies else None


def _copy(answer: Answer, case: Case, rng: np.random.Generator) -> Spoilt:
    texts = [view for view in case.views.values() if isinstance(view, str) and len(view.split()) >= LEAST_QUOTE]
    if not texts or not answer.bodies:
        return None
    return _opened(answer, case, f"they say '{re.sub('[<>]', '', texts[0]).strip()}', "), None


def _foreign(answer: Answer, case: Case, rng: np.random.Generator) -> Spoilt:
    wording = list(FOREIGN)[rng.integers(len(FOREIGN))]
    first, *others = answer.bodies or [None]
    if first is None:
        return None
    bodies = {first: FOREIGN[wording]} | dict.fromkeys(others, answer.value.render())
    return render(replace(answer, bodies=bodies), case.grammar), wording


def _broken(answer: Answer, case: Case, rng: np.random.Generator) -> Spoilt:
    text = render(answer, case.grammar)
    ways = {
        "cut off": text[: len(text) * 2 // 3],
        "preamble": f"Sure, here is my answer. {text}",
        "twice": text + text,
        "no answer": re.sub("<answer>.*</answer>", "", text) or "I cannot tell.",
        "answer in words": re.sub("<answer>.*</answer>", "<answer>quite a lot</answer>", text),
    }
    wording = list(ways)[rng.integers(len(ways))]
    return ways[wording], wording


def _contradiction(answer: Answer, case: Case, rng: np.random.Generator) -> Spoilt:
    other = _other_side(answer.value, rng)
    if answer.verdict is None or other is None:
        return None
    return render(replace(answer, value=other), case.grammar), None


def _far(answer: Answer, case: Case, rng: np.random.Generator) -> Spoilt:
    match answer.value:
        case Scalar() as value:
            step = DISTANCE * (value.hi - value.lo)
            moved = [round(value.x + way * step, 1) for way in (-1, 1)]
            options = [replace(value, x=x) for x in moved if value.lo <= x <= value.hi]
        case Class() as value:
            options = [replace(value, label=label) for label in value.space.labels if label != value.label]
        case _:
            options = []
    same = [option for option in options if option.coarse() == answer.value.coarse()]
    return (render(replace(answer, value=same[rng.integers(len(same))]), case.grammar), None) if same else None


DEFECTS: Mapping[str, Callable[[Answer, Case, np.random.Generator], Spoilt]] = {
    "wrong": _wrong,
    "leak": _leak,
    "copy": _copy,
    "foreign": _foreign,
    "broken": _broken,
    "contradiction": _contradiction,
    "far": _far,
    DECOY: _decoy,
}


def _opened(answer: Answer, case: Case, opening: str) -> str:
    """The completion with something said before the first explanation."""
    bodies = dict(answer.bodies)
    first = next(iter(bodies))
    return render(replace(answer, bodies=bodies | {first: opening + bodies[first]}), case.grammar)


def _other_side(value: Target, rng: np.random.Generator) -> Target | None:
    """A value of another direction: the mirrored one, and a clear one where the value is neutral; None where there is none."""
    match value:
        case Scalar():
            mirrored = round(value.lo + value.hi - value.x, 1)
            clear = (value.lo + value.hi) / 2 + (value.hi - value.lo) / 4 * int(rng.choice((-1, 1)))
            options = [replace(value, x=x) for x in (mirrored, clear)]
        case Class():
            options = [replace(value, label=label) for label in rng.permutation(value.space.labels).tolist()]
        case _:
            options = []
    return next((option for option in options if option.coarse() != value.coarse()), None)


def _reversed(said: str) -> str:
    return re.sub(r"\w+", lambda m: OPPOSITE.get(m[0], m[0]), said)
