"""What two answers have in common, and how sure a model was of one: for everything that draws several."""

from models.engine.base import Completion
from models.processor import Processor
from tasks.target import Ordinal, Scalar, Target, Vector


def gist(value: Target) -> str:
    """What two answers have to share to count as the same: the side of a number, the words of anything else."""
    coarse = value.coarse() if isinstance(value, Scalar | Ordinal | Vector) else None
    return coarse or value.render()


def answer_logprob(processor: Processor, said: Completion) -> float:
    """Mean log-probability of the tokens of which any letter lies between <answer> and </answer>.

    Args:
        processor: that the completion is decoded with.
        said: a completion that has an answer block.
    """
    texts = [processor.decode(said.token_ids[:n]) for n in range(len(said.token_ids) + 1)]
    start, end = (texts[-1].index(tag) + length for tag, length in (("<answer>", len("<answer>")), ("</answer>", 0)))
    inside = [
        logprob
        for logprob, before, after in zip(said.logprobs, texts[:-1], texts[1:], strict=True)
        if len(before) < end and len(after) > start
    ]
    return sum(inside) / len(inside)
