"""What rerank chooses by. None of the scorers sees a gold answer: they are given the sample's own answer in its place.

logprob      mean log-probability of the tokens in the answer block, at the temperature of the draw
explanation  whether the explanation carries what the sample itself answers (ERV against the own answer, rewards/explanation.py):
             a sample that contradicts itself comes last. Consistency, which says nothing about being right
evidence     how far the cues that it claims were measured so in the clip: their precision, times the share of the modalities of
             which it has one right
"""

from collections.abc import Sequence
from dataclasses import replace

from evaluation.grading import ExplanationConfig
from evaluation.strategies.decide import Read
from runtime.errors import ConfigError
from tasks.base import Grade
from tasks.record import Record
from tasks.target import Target


def scorer_settings(scorer: str, explanation: ExplanationConfig) -> ExplanationConfig | None:
    """What has to be asked of an explanation for this scorer; None when nothing has to.

    Args:
        scorer: of SCORERS.
        explanation: the settings of the run.

    Raises:
        ConfigError: when nothing is there to read explanations.
    """
    if scorer == "logprob":
        return None
    if scorer == "evidence":
        return replace(explanation, evidence=True, verifier=None, judge=False)
    if explanation.verifier is None and not explanation.judge:
        raise ConfigError(
            "strategies.scorer: explanation needs what reads explanations; got explanation.verifier=null and "
            "explanation.judge=false; add explanation=own (after python -m evaluation.verifier), or choose scorer=logprob"
        )
    return replace(explanation, against="answer", gate=False, evidence=False)


def blind(record: Record, answer: Target) -> Record:
    """The record with the sample's own answer for a label: whatever reads it cannot see the gold one."""
    return replace(record, target=answer, raters=None, rationale=None, meta={})


def score_samples(
    scorer: str, grade: Grade, records: Sequence[Record], samples: Sequence[Sequence[Read]]
) -> list[list[float | None]]:
    """A score for every sample of every clip, by what reads explanations.

    Args:
        scorer: explanation or evidence, which is the part of the score that is taken.
        grade: with `scorer_settings`; all samples of all clips at once.
        records: [N].
        samples: [N] of n each.

    Returns:
        [N] of n scores in [0, 1]; None for what cannot be scored, or is no answer.
    """
    scores: list[list[float | None]] = [[None] * len(some) for some in samples]
    read = [
        (clip, i, text, answer.value)
        for clip, some in enumerate(samples)
        for i, (text, answer) in enumerate(some)
        if answer is not None
    ]
    graded = grade([blind(records[clip], value) for clip, _, _, value in read], [text for _, _, text, _ in read])
    for (clip, i, _, _), score in zip(read, graded, strict=True):
        scores[clip][i] = score.parts[scorer]
    return scores
