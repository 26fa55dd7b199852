"""What each strategy says, and what it would have cost alone. Nothing here knows a gold answer.

greedy  the likeliest answer, token by token
vote    the vote of the samples that can be read, as their kind of target votes: median of numbers, mode of classes, members of at
        least half of the sets. The chain beside it is that of one sample, with the vote in its answer block: among the samples
        whose verdict is the vote's side (all, if none is) the nearest answer, among equals the first drawn
rerank  the sample that a scorer puts first: those with a score before those without, then by the log-probability of the
        answer, then the first drawn; a sample that cannot be read is not chosen
refine  the answer to a second turn, in which the model is shown its first one; the first one stands where the second one cannot
        be read

Where no sample can be read, vote and rerank say what the first one says, and that is a fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluation.answers import gist
from evaluation.strategies.draw import Drawn
from tasks.dc import Answer, Grammar, render
from tasks.target import Target

Read = tuple[str, Answer | None]
"""A sample, and what it answers; None where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Clip:
    """What was said about one clip, read."""

    drawn: Drawn
    samples: tuple[Read, ...]
    scores: tuple[float | None, ...]
    """Of the samples, by the scorer of rerank: the higher the better; None where nothing could be scored."""
    second: Answer | None
    """What the second turn of refine answers; None where it cannot be read, or was not asked."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a strategy takes for one clip."""

    tokens: int
    """Generated."""
    calls: int
    """Completions."""
    prompt: int
    """Tokens that are read once: the prompt with its media, and the second turn's. Samples share them."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a strategy says about one clip."""

    completion: str
    cost: Cost
    unread: int = 0
    """Samples without a vote; for refine 1 where the first answer stands."""


@dataclass(frozen=True, slots=True)
class Vote:
    """The consensus of the samples of one clip."""

    value: Target | None
    """None where none can be read."""
    share: float
    """Of all samples, those with the same gist as the vote; those that cannot be read count against it. In [0, 1]."""
    completion: str


def vote(samples: Sequence[Read], grammar: Grammar) -> Vote:
    """The vote of one or more samples."""
    read = [(text, answer) for text, answer in samples if answer is not None]
    if not read:
        return Vote(None, 0.0, samples[0][0])
    value = read[0][1].value.vote([answer.value for _, answer in read])
    share = sum(gist(answer.value) == gist(value) for _, answer in read) / len(samples)
    agreeing = [one for one in read if one[1].verdict in (None, value.coarse())]
    text, answer = max(agreeing or read, key=lambda one: one[1].value.score(value) or 0.0)  # the first of equals
    return Vote(value, share, text if answer.value == value else render(replace(answer, value=value), grammar))


def best(samples: Sequence[Read], scores: Sequence[float | None], logprobs: Sequence[float | None]) -> int:
    """Index of the sample that comes first.

    Args:
        samples: [n], one or more.
        scores: [n or more] the higher the better; None where nothing could be scored.
        logprobs: [n or more] of the answers; None where there is none.
    """

    def rank(i: int) -> tuple[bool, bool, float, float]:
        score = scores[i]
        return samples[i][1] is not None, score is not None, score or 0.0, logprobs[i] or 0.0

    return max(range(len(samples)), key=rank)


def decide(strategy: str, clip: Clip, n: int, grammar: Grammar) -> Decision:
    """What one strategy says about a clip.

    Args:
        strategy: of NAMES.
        clip: what was said about it.
        n: how many of the samples vote and rerank look at: the first ones.
        grammar: of the answers.
    """
    drawn, samples = clip.drawn, clip.samples[:n]
    first, refined = drawn.greedy, drawn.refined
    sampled = Cost(sum(one.tokens for one in drawn.samples[:n]), n, drawn.prompt)
    unread = sum(answer is None for _, answer in samples)
    match strategy:
        case "greedy":
            return Decision(first.text, Cost(first.tokens, 1, drawn.prompt))
        case "vote":
            return Decision(vote(samples, grammar).completion, sampled, unread)
        case "rerank":
            chosen = best(samples, clip.scores, [one.logprob for one in drawn.samples])
            return Decision(samples[chosen][0], sampled, unread)
    if refined is None:
        return Decision(first.text, Cost(first.tokens, 1, drawn.prompt), 1)
    both = Cost(first.tokens + refined.tokens, 2, drawn.prompt + drawn.turn)
    return Decision(first.text, both, 1) if clip.second is None else Decision(refined.text, both)


def sizes(samples: int) -> list[int]:
    """Numbers of samples of a curve: the powers of two up to all, and all."""
    return sorted({2**k for k in range(samples.bit_length())} | {samples})
