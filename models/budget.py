"""What a run may spend on a server: a hard stop that requests in flight cannot overshoot.

Before a request is sent its most expensive outcome is reserved (`reserve`), and when it has ended what it really took is
counted instead (`settle`). Where a reservation no longer fits, the request waits for those in flight to settle for less; when
none is left in flight and it still does not fit, the budget is spent. What a prompt with media costs is known only once one
like it has been answered, so the first requests of a run may overshoot by their prompts.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.errors import ConfigError, StageError

LIMITS = ("max_requests", "max_tokens", "max_cost")
PRICES = ("prompt_price", "completion_price")


class BudgetSpent(StageError):
    """The next request would go over the budget."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Requests, retries included, and tokens as the server counts them."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Of both kinds."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """The section `budget` of a teacher; every value may be None, which sets no limit or states no price."""

    max_requests: int | None
    max_tokens: int | None
    """Prompt and completion together."""
    max_cost: float | None
    """In the currency of the prices."""
    prompt_price: float | None
    """Of a million prompt tokens."""
    completion_price: float | None
    """Of a million completion tokens."""


NO_LIMITS = Limits(None, None, None, None, None)


def read_limits(name: str, values: Mapping[str, float | None]) -> Limits:
    """A section of the config as `Limits`.

    Raises:
        ConfigError: for a key that is unknown or missing, a negative value, or a cost without prices.
    """
    if set(values) != {*LIMITS, *PRICES}:
        raise ConfigError(
            f"{name}: its keys are {', '.join((*LIMITS, *PRICES))}; got {sorted(values)}; mend the config"
        )
    for key, value in values.items():
        if value is not None and value < 0:
            raise ConfigError(f"{name}.{key}: 0 or more, or null; got {value!r}; mend the config")
    if values["max_cost"] is not None and None in (values["prompt_price"], values["completion_price"]):
        raise ConfigError(f"{name}.max_cost: a cost needs {name}.prompt_price and completion_price; state them")
    requests, tokens = (None if values[key] is None else int(values[key] or 0) for key in LIMITS[:2])
    return Limits(requests, tokens, values["max_cost"], values["prompt_price"], values["completion_price"])


class Budget:
    """What may be spent, what is, and what is reserved.

    Args:
        name: of the section of the config, for the message.
        limits: what may be spent.
        spent: by earlier calls of the same run.
    """

    def __init__(self, name: str, limits: Limits, spent: Spent = Spent()) -> None:
        self.name, self.limits, self.spent = name, limits, spent
        self._reserved = Spent()
        self._waiting: list[asyncio.Future[None]] = []

    async def reserve(self, most: Spent) -> None:
        """Set `most` aside for a request; wait for others to settle where it does not fit beside theirs.

        Raises:
            BudgetSpent: when it does not fit although nothing else is in flight.
        """
        while over := self._over(self.spent + self._reserved + most):
            if not self._reserved.requests:
                raise BudgetSpent(
                    f"{self.name}: the next request could go over {over}; spent are {self.spent.requests} requests and "
                    f"{self.spent.tokens} tokens; what was written is kept, call again with a larger budget to continue"
                )
            settled = asyncio.get_running_loop().create_future()
            self._waiting.append(settled)
            await settled
        self._reserved += most

    def settle(self, most: Spent, used: Spent) -> None:
        """Count what a request really took, instead of the `most` that was reserved for it."""
        self._reserved += Spent(-most.requests, -most.prompt_tokens, -most.completion_tokens)
        self.spent += used
        for settled in self._waiting:
            if not settled.done():  # its request was given up
                settled.set_result(None)
        self._waiting.clear()

    def cost(self, spent: Spent | None = None) -> float | None:
        """Price of `spent`, by default of all that was; None without prices."""
        spent = self.spent if spent is None else spent
        prompt, completion = self.limits.prompt_price, self.limits.completion_price
        if prompt is None or completion is None:
            return None
        return (spent.prompt_tokens * prompt + spent.completion_tokens * completion) / 1e6

    def _over(self, total: Spent) -> str | None:
        """The limit that `total` exceeds."""
        for key, value in zip(LIMITS, (total.requests, total.tokens, self.cost(total)), strict=True):
            limit = getattr(self.limits, key)
            if limit is not None and value is not None and value > limit:
                return f"{key}={limit:g}"
        return None
