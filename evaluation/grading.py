"""Grading with what reads explanations: a verifier of their emotion or a judge, and the cues that were measured in the clip.

`Task.score` judges the form and the answer. Here two parts are added to it, for a whole batch at once, so that a verifier sees
all sentences of a step together. What was not asked for in `conf/explanation/` stays None, and a text that is no answer has 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import numpy as np

from evaluation.judge import Judge, JudgeConfig, item_of, labels_in
from evaluation.verifier.base import Cached, Verifier, load_verifier
from models.cues import (
    ClipCues,
    VoiceCues,
    VoiceNorms,
    clip_cues,
    emotion_share,
    fit_norms,
    sound,
    voice_cues,
    word_signs,
)
from models.media import read_audio
from models.session import Session
from rewards.claims import MODALITY, Claim, Evidence, check, claims
from rewards.explanation import NEUTRAL, distinct, erv, intensity, label_set, sentences, valence, within
from runtime.errors import ConfigError
from tasks.base import PARTS, Dataset, Score, Task
from tasks.dc import Answer
from tasks.record import Media, Record, View, resolve
from tasks.target import Class, Scalar, Target

VOICES = 200
"""How many training clips the voice norms are fitted on, at the most."""

AGAINST = ("gold", "answer", "both")


@dataclass
class ExplanationConfig:
    """What `conf/explanation/` may say."""

    verifier: str | None
    judge: bool
    against: str
    gate: bool
    threshold: float
    most: int
    zone: float
    names: dict[str, list[str]]
    valence: dict[str, int]
    coverage: bool
    words: list[int] | None
    emotion_words: float | None
    repeats: bool
    evidence: bool
    edge: float

    def __post_init__(self) -> None:
        rules = (
            ("against", self.against in AGAINST, f"one of {AGAINST}", self.against),
            ("threshold", 0 <= self.threshold < 1, "in [0, 1)", self.threshold),
            ("most", self.most >= 1, "1 or more", self.most),
            ("zone", 0 <= self.zone < 1, "in [0, 1)", self.zone),
            ("valence", set(self.valence.values()) <= {-1, 0, 1}, "-1, 0 or 1 for each label", self.valence),
            (
                "words",
                self.words is None or (len(self.words) == 2 and 1 <= self.words[0] <= self.words[1]),
                "null, or the least and the most, 1 or more",
                self.words,
            ),
            (
                "emotion_words",
                self.emotion_words is None or 0 < self.emotion_words <= 1,
                "null, or a share in (0, 1]",
                self.emotion_words,
            ),
            ("edge", self.edge >= 0, "0 or more deviations", self.edge),
        )
        for key, ok, rule, got in rules:
            if not ok:
                raise ConfigError(f"explanation.{key}: {rule}; got {got!r}; mend the config")
        if self.judge and self.verifier is not None:
            raise ConfigError(
                f"explanation.judge: true, and explanation.verifier={self.verifier}: one of them reads the explanations; set the "
                "other to false or null"
            )

    @property
    def asks(self) -> bool:
        """Whether anything reads the explanations at all."""
        return self.verifier is not None or self.judge or self.evidence


@dataclass
class RewardConfig:
    """Weights of the parts of a score; a weight of 0 switches a part off."""

    weights: dict[str, float]

    def __post_init__(self) -> None:
        if set(self.weights) != set(PARTS):
            raise ConfigError(
                f"reward.weights: must name exactly the parts {sorted(PARTS)}; got {sorted(self.weights)}; edit conf/reward"
            )
        if min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise ConfigError(f"reward.weights: 0 or more, at least one above 0; got {self.weights}; edit conf/reward")


class Grader:
    """Scores completions, explanations included.

    Args:
        task: judges form and answer.
        data: where the clips are, and the training voices that a norm is fitted on.
        cfg: what is asked of an explanation.
        verifier: reads emotions out of sentences, or
        judge: says which label a whole explanation speaks for; without either the part `explanation` is unscored.

    Raises:
        ConfigError: when the verifier's labels and the task's do not meet.
    """

    def __init__(
        self,
        task: Task,
        data: Dataset,
        cfg: ExplanationConfig,
        verifier: Verifier | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.task, self.data, self.cfg, self.verifier, self.judge = task, data, cfg, verifier, judge
        self._cues: dict[str, ClipCues] = {}
        self._norms: VoiceNorms | None = None
        self._fitted = False
        if verifier is not None:
            _check_labels(task, data.records[0].target, cfg, verifier)

    def grade(self, records: Sequence[Record], completions: Sequence[str]) -> list[Score]:
        """[N] scores of [N] completions; verifier and judge are called once.

        Raises:
            StageError: when the judge cannot be heard too often.
        """
        scores = self.task.grade(records, completions)
        asked = {"explanation": self.verifier is not None or self.judge is not None, "evidence": self.cfg.evidence}
        for i, score in enumerate(scores):
            if score.answer is None:  # no answer explains nothing
                scores[i] = replace(score, parts={**score.parts, **{part: 0.0 for part, on in asked.items() if on}})
        read = [i for i, s in enumerate(scores) if s.answer is not None and s.answer.bodies]
        if self.cfg.evidence:
            for i in read:
                found, answer = self.evidence(records[i], scores[i]), _answer(scores[i])
                value = None if found.score is None else found.score * self._manner(answer)
                scores[i] = replace(scores[i], parts={**scores[i].parts, "evidence": value}, checked=found.right)
        if self.verifier is not None and read:
            pieces = [_sentences(scores[i]) for i in read]
            said = self.verifier.probabilities([s for of_one in pieces for s in of_one])
            ends = np.cumsum([len(of_one) for of_one in pieces])
            for i, probabilities_SL in zip(read, np.split(said, ends[:-1]), strict=True):
                spoken = self._speaks_for(records[i].target, probabilities_SL)
                carries = partial(self._carries, probabilities_SL=probabilities_SL)
                scores[i] = self._explained(records[i], scores[i], carries, spoken)
        if self.judge is not None and read:
            root = self.data.root if self.judge.cfg.media else None
            items = [item_of(self.task, records[i], _answer(scores[i]).explanation, root) for i in read]
            for i, opinion in zip(read, self.judge.opinions(items), strict=True):
                if opinion.missing:
                    scores[i] = replace(scores[i], unheard=True)
                    continue
                # an answer off the list is not missing: what cannot be read must not be a way around the reward
                carries = partial(_speaks_of, label=opinion.label)
                scores[i] = self._explained(records[i], scores[i], carries, opinion.label)
        return scores

    def evidence(self, record: Record, score: Score) -> Evidence:
        """How the claims of one explanation compare with the clip."""
        said = claims(_answer(score).explanation)
        return check(said, self.measured(record) | self._quoted(record, said))

    def measured(self, record: Record) -> dict[str, int | None]:
        """Level of every cue of a record's clip, among the views that the prompt shows; measured once."""
        if not self._fitted:
            self._norms, self._fitted = fit_norms(list(self._voices())), True
        if record.uid not in self._cues:
            self._cues[record.uid] = clip_cues(self._views(record))
        return self._cues[record.uid].levels(self._norms, self.cfg.edge)

    def _views(self, record: Record) -> dict[str, View]:
        shown = {name: record.views[name] for name in self.task.views if name in record.views}
        root = self.data.root
        return {n: replace(v, path=str(resolve(root, v.path))) if isinstance(v, Media) else v for n, v in shown.items()}

    def _voices(self) -> Iterator[VoiceCues]:
        for record in self.data.split("train")[:VOICES]:
            if (heard := sound(self._views(record))) is not None:
                yield voice_cues(read_audio(heard.path, heard.span))

    def _quoted(self, record: Record, said: Sequence[Claim]) -> dict[str, int | None]:
        """The side of each quoted word in the record's text, 0 for one that is not there."""
        text = next((v for v in self._views(record).values() if isinstance(v, str)), None)
        quoted = [c.cue for c in said if c.cue not in MODALITY]
        if text is None or not quoted:
            return {}
        signs = word_signs(text)
        return {cue: signs.get(cue.strip("'"), 0) for cue in quoted}

    def _explained(
        self, record: Record, score: Score, carries: Callable[[Target], float], speaks_for: str | None
    ) -> Score:
        """The score with what the explanation is worth."""
        cfg, answer = self.cfg, _answer(score)
        against = {"gold": [record.target], "answer": [answer.value], "both": [record.target, answer.value]}
        value = fmean(map(carries, against[cfg.against])) * self._manner(answer) * self._coverage(record, answer)
        if cfg.gate and score.parts["discriminate"] == 0:
            value = 0.0
        return replace(score, parts={**score.parts, "explanation": value}, speaks_for=speaks_for)

    def _carries(self, target: Target, probabilities_SL: np.ndarray) -> float:
        """How far the sentences carry what `target` says, in [0, 1]."""
        assert self.verifier is not None
        labels, cfg = self.verifier.labels, self.cfg
        if isinstance(target, Scalar):
            share = (target.x - (target.lo + target.hi) / 2) / ((target.hi - target.lo) / 2)
            return intensity(self._valences(probabilities_SL), share, cfg.zone)
        emotion = target.render()
        names = cfg.names.get(emotion, [emotion])
        sets = [
            frozenset(emotion if label in names else label for label in label_set(p, labels, cfg.threshold, cfg.most))
            for p in probabilities_SL
        ]
        return erv(sets, emotion)

    def _speaks_for(self, like: Target, probabilities_SL: np.ndarray) -> str:
        """The task's label (the side, for intensities) that all sentences together speak for most."""
        assert self.verifier is not None
        if isinstance(like, Scalar):
            mean = float(np.mean(self._valences(probabilities_SL)))
            return NEUTRAL if abs(mean) <= self.cfg.zone else "positive" if mean > 0 else "negative"
        assert isinstance(like, Class)
        mean_L = dict(zip(self.verifier.labels, probabilities_SL.mean(0), strict=True))
        return max(like.space.labels, key=lambda label: max(mean_L[n] for n in self.cfg.names.get(label, [label])))

    def _valences(self, probabilities_SL: np.ndarray) -> list[float]:
        assert self.verifier is not None
        signs = [self.cfg.valence[label] for label in self.verifier.labels]
        return [valence(p, signs) for p in probabilities_SL]

    def _manner(self, answer: Answer) -> float:
        """What length, density of emotion words and repetition leave of the reward, in [0, 1]."""
        cfg, text = self.cfg, answer.explanation
        share = 1.0
        if cfg.words is not None:
            share *= within(len(text.split()), *cfg.words)
        if cfg.emotion_words is not None:
            share *= within(emotion_share(text), 0.0, cfg.emotion_words)
        return share if cfg.repeats else share * distinct(list(answer.bodies.values()))

    def _coverage(self, record: Record, answer: Answer) -> float:
        """Share of the modalities shown that the explanation speaks of, where that is asked."""
        views = self._views(record).values()
        shown = {"text" if isinstance(v, str) else v.kind for v in views if isinstance(v, str | Media)}
        shown -= {"image"}  # no claim is about one
        if not self.cfg.coverage or not shown:
            return 1.0
        return len({claim.modality for claim in claims(answer.explanation)} & shown) / len(shown)


def _sentences(score: Score) -> list[str]:
    """Of every block by itself; in a grammar with one block of reasoning, as ERV has it."""
    return [s for body in _answer(score).bodies.values() for s in sentences(body)]


def _answer(score: Score) -> Answer:
    assert score.answer is not None
    return score.answer


def _speaks_of(target: Target, label: str | None) -> float:
    return float(label in labels_in(target))


def _check_labels(task: Task, like: Target, cfg: ExplanationConfig, verifier: Verifier) -> None:
    known = set(verifier.labels)
    match like:
        case Scalar():
            wanting = sorted(known - set(cfg.valence))
            if wanting:
                raise ConfigError(
                    f"explanation.valence: no sign (-1, 0, 1) for the verifier's labels {wanting}; add them in conf/explanation"
                )
        case Class():
            named = {name for label in like.space.labels for name in cfg.names.get(label, [label])}
            if unknown := sorted(named - known):
                raise ConfigError(
                    f"explanation.names: the verifier has no label {unknown} (it has {sorted(known)}); say for each label of "
                    f"{task.name} which of them stand for it"
                )
        case other:
            raise ConfigError(
                f"explanation.verifier: reads intensities and classes; {task.name} has {other.kind} targets; set "
                "explanation.verifier=null"
            )


def make_grader(session: Session) -> Grader:
    """The grader that `explanation=...` asks for; see `grader_for`."""
    return grader_for(session, session.section("explanation", ExplanationConfig))


def grader_for(session: Session, cfg: ExplanationConfig) -> Grader:
    """The grader that these settings ask for.

    Raises:
        ConfigError: for a bad setting, or where there is no such verifier.
    """
    verifier = None if cfg.verifier is None else Cached(load_verifier(cfg.verifier))
    judge = Judge(session.section("judge", JudgeConfig), session.folder / "judge") if cfg.judge else None
    return Grader(session.task, session.data, cfg, verifier, judge)
