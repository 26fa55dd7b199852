"""The cue teacher: no network, no label; it measures a clip (`models/cues.py`) and says in a few words what was measured.

    Scalar   every measured cue (words, voice, face) is read as up (+1), flat (0) or down (-1); the answer is their mean on
             the scale, as if all weighed the same. A text alone is read by its lexicon score.
    Class    an emotion of a speech clip, by a rule of thumb from the literature (`emotion_of`) on voice cues relative to
             the other voices of the run. Emotions outside the rule (disgust, surprise, calm) are never answered.

It abstains, with the reason, where it can measure nothing or does not know the kind of answer. Where cues disagree it may be
wrong, as any teacher; the verification rejects such chains, so a cold start from the rest has seen none of these clips.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from data_synth.teacher import Case, Draft, Teacher
from models.cues import MIN_VOICES, VoiceCues, VoiceNorms, clip_cues, fit_norms, sound, voice_cues
from models.media import read_audio
from runtime.errors import ConfigError, MediaError
from tasks.dc import Answer, Grammar, render
from tasks.record import Media
from tasks.target import Class, Scalar, Target, number_text

DIRECTION = {-1: "down", 0: "flat", 1: "up"}

LEVELS: Mapping[str, tuple[str, str, str]] = {
    "pitch": ("low", "middle", "high"),
    "range": ("narrow", "middle", "wide"),
    "tone": ("dull", "even", "bright"),
    "pace": ("slow", "middle", "fast"),
}
"""The four voice cues of the speech rule and what they are called below, near and above the norm."""

AROUSED = 2
"""How many more voice cues must be up than down (or down than up) for high (or low) arousal."""

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "anger": ("anger", "angry"),
    "happiness": ("happiness", "happy", "joy"),
    "fear": ("fear", "fearful"),
    "sadness": ("sadness", "sad"),
    "neutral": ("neutral",),
}
"""The emotions that the speech rule knows, as corpora call them."""


def emotion_of(pitch: int, range_: int, tone: int, pace: int, fear: bool) -> str:
    """A rule of thumb from voice levels (-1, 0, +1) to an emotion of `SPELLINGS`.

    High arousal (high pitch, wide range, bright tone, fast) is anger when the tone is bright, that is rich in high
    frequencies, and happiness when it is not; low arousal is sadness; a high voice of narrow range is fear; the rest is
    neutral. Our simplification of the summary table of Juslin and Laukka (2003), Psychological Bulletin 129, 770-814;
    compare Scherer (2003), Speech Communication 40, 227-256. Loudness is left out: it needs recordings of one gain, and
    the tone rises with it.

    Args:
        pitch: below, near or above the norm.
        range_: of the pitch, as above.
        tone: as above.
        pace: as above.
        fear: whether fear is among the labels.
    """
    arousal = pitch + range_ + tone + pace
    if fear and pitch > 0 and range_ < 0:
        return "fear"
    if arousal >= AROUSED:
        return "anger" if tone > 0 else "happiness"
    return "sadness" if arousal <= -AROUSED else "neutral"


class CueTeacher(Teacher):
    """Writes chains from measured cues.

    Args:
        edge: how many deviations from the median make a voice cue of the speech rule high or low, 0 or more.

    Raises:
        ConfigError: for a negative edge.
    """

    name = "cue"

    def __init__(self, edge: float) -> None:
        if edge < 0:
            raise ConfigError(f"teacher.edge: 0 or more deviations; got {edge!r}; mend the config")
        self.edge = edge
        self.norms: VoiceNorms | None = None
        self._voices: dict[Media, VoiceCues] = {}  # fitting the norms and writing need the same measurement

    def settings(self) -> dict[str, Any]:
        """The edge and the fitted norms."""
        return {"edge": self.edge, "norms": None if self.norms is None else asdict(self.norms)}

    def fit(self, cases: Iterable[Case]) -> None:
        """Measure every voice once, when emotions of speech are asked for."""
        voices = []
        for case in cases:
            if isinstance(case.like, Class) and (media := sound(case.views)) is not None:
                with suppress(MediaError):  # `write` meets it again and the record is rejected with this reason
                    voices.append(self._voice(media))
        self.norms = fit_norms(voices)

    async def write(self, case: Case, indices: Sequence[int]) -> list[Draft]:
        """Measure, then compose. It draws nothing, so every candidate is the same."""
        match case.like:
            case Scalar():
                draft = self._scalar(case, case.like)
            case Class():
                draft = self._class(case, case.like)
            case other:
                draft = Draft(None, f"no cue rule: for {other.kind} targets")
        return [draft] * len(indices)

    def _voice(self, media: Media) -> VoiceCues:
        if media not in self._voices:
            self._voices[media] = voice_cues(read_audio(media.path, media.span))
        return self._voices[media]

    def _scalar(self, case: Case, like: Scalar) -> Draft:
        found = clip_cues(case.views)
        words, voice, face = found.words, found.voice, found.face
        cues = {"words": words.direction, "voice": voice.direction, "face": face.direction}
        measured = {name: sign for name, sign in cues.items() if sign is not None}
        provenance = {
            "cues": {"valence": words.valence, "pitch_slope": voice.pitch_slope, "mouth_curve": face.mouth_curve}
        }
        taken = {name: DIRECTION[sign] for name, sign in measured.items() if sign}
        middle, half = (like.lo + like.hi) / 2, (like.hi - like.lo) / 2
        if not measured:
            return Draft(None, "no cue could be measured", provenance)
        if set(measured) == {"words"}:
            assert words.valence is not None
            share = words.valence if words.direction else 0.0
            sides = [f"'{w}' {DIRECTION[1 if s > 0 else -1]}" for w, s in words.strongest if not set(w) & set("<>")]
            evidence = ", ".join(sides) if taken and sides else "no strong words"
            strength = f"strength {_amount(abs(share))}"
        else:
            share = sum(measured.values()) / len(measured)
            evidence = ", ".join(f"{name} {DIRECTION[sign]}" for name, sign in measured.items())
            strength = f"strength {number_text(round(half * abs(share), 1))}"
        value = replace(like, x=min(max(round(middle + half * share, 1), like.lo), like.hi))
        return Draft(compose(value, evidence, strength, case.grammar), None, provenance)

    def _class(self, case: Case, like: Class) -> Draft:
        media = sound(case.views)
        labels = {
            name: label for name, ways in SPELLINGS.items() for label in like.space.labels if label.lower() in ways
        }
        if media is None:
            return Draft(None, "no cue rule: for classes without sound")
        if len(labels) < 2:
            return Draft(None, "no cue rule: for these labels")
        voice = self._voice(media)
        provenance = {"cues": asdict(voice)}
        if self.norms is None:
            return Draft(None, f"no norm: fewer than {MIN_VOICES} voices could be measured", provenance)
        levels = self.norms.levels(voice, self.edge)
        if levels is None:
            return Draft(None, "no cue could be measured", provenance)
        emotion = emotion_of(*levels, fear="fear" in labels)
        if emotion not in labels:
            return Draft(None, f"not among the labels: {emotion}", provenance)
        said = {name: LEVELS[name][level + 1] for name, level in zip(LEVELS, levels, strict=True)}
        evidence = ", ".join(f"{name} {level}" for name, level in said.items())
        arousal = "high" if sum(levels) >= AROUSED else "low" if sum(levels) <= -AROUSED else "middle"
        value = replace(like, label=labels[emotion])
        return Draft(
            compose(value, evidence, f"arousal {arousal}, tone {said['tone']}", case.grammar), None, provenance
        )


def _amount(share: float) -> str:
    """A share of the scale in [0, 1] as a word."""
    return next(
        word for least, word in ((0.7, "great"), (0.4, "clear"), (0.05, "slight"), (0, "none")) if share >= least
    )


def compose(value: Target, evidence: str, strength: str, grammar: Grammar) -> str:
    """A completion in `grammar` that answers `value`.

    Args:
        value: the answer; its coarse form becomes the verdict.
        evidence: what was perceived; goes where the grammar argues for the verdict.
        strength: how much, or which exactly.
        grammar: any of `tasks.dc.GRAMMARS`.
    """
    bodies = {
        "dc": {"discriminate": evidence, "calibrate": strength},
        "evidence_first": {"evidence": evidence, "discriminate": strength},
        "think": {"think": f"{evidence}; {strength}"},
        "answer_first": {"rationale": f"{evidence}; {strength}"},
        "answer": {},
    }[grammar.name]
    return render(Answer(value, value.coarse() if grammar.verdict else None, bodies), grammar)
