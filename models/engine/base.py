"""What the rest of the project knows of an engine: prompts in, sampled completions with their log-probabilities out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from models.fingerprint import Fingerprint
from models.processor import Encoded, Processor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    max_new_tokens: int
    temperature: float
    """0 takes the most likely token."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy wrote after the prompt and the hint."""

    token_ids: tuple[int, ...]
    """[T] sampled tokens only: no prompt, no hint; ends with the end token unless it was cut off."""
    logprobs: tuple[float, ...]
    """[T] natural log under the policy at the sampling temperature, before forbidden tokens are taken out (so that they
    agree with a scoring pass, which knows no ban)."""
    finished: bool
    """False when `max_new_tokens` cut it off."""


class Engine(Protocol):
    """Samples from the policy."""

    processor: Processor
    fingerprints: list[Fingerprint]
    """[B] what the model was given of each prompt of the latest `prefill`."""

    def follow(self, model: torch.nn.Module, step: int) -> None:
        """Sample from these weights from now on.

        Args:
            model: the policy, with or without PEFT wrapper, all of its weights at hand.
            step: optimizer steps that it has made; the same number stands for the same weights.

        Raises:
            ParityError: when the weights did not arrive.
        """
        ...

    def prefill(self, prompts: Sequence[Encoded]) -> Any:
        """Make prompts ready; `sample` may be called on the result any number of times, until the weights change."""
        ...

    def sample(
        self,
        state: Any,
        prompt_of: Sequence[int],
        sampling: Sampling,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[Completion]:
        """One completion for each entry of `prompt_of`.

        Args:
            state: what `prefill` gave.
            prompt_of: [N] index of the prompt of each completion.
            sampling: how to draw.
            prefixes: [N] token ids forced before sampling starts (hints), each possibly empty; None for none at all.
        """
        ...

    def generate(self, prompts: Sequence[Encoded], sampling: Sampling, n: int, batch: int) -> list[list[Completion]]:
        """`n` completions for each prompt, `batch` prompts at a time.

        Returns:
            One list of `n` completions per prompt, in order.
        """
        ...


MakeEngine = Callable[[torch.nn.Module, Processor], Engine]
"""Of a policy and its processor."""
