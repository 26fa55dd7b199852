"""A client for any server with OpenAI's chat completions (the OpenAI API, vLLM, SGLang, transformers serve).

The package `openai` sends and receives; what happens around a request is here, where it can be counted: each attempt takes a
place (models/throttle.py), reserves what it may cost (models/budget.py), has one deadline for the whole exchange, and is
repeated after a pause when its failure is the server's.
"""

import asyncio
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz
from time import time
from typing import Any, Self

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from models.budget import NO_LIMITS, Budget, Spent
from models.throttle import Place, Throttle
from runtime.errors import ConfigError, StageError
from runtime.secrets import check_variable, redact_text

PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second attempt, doubled for each one after it, and its bound; the half of it is left to chance."""
LONGEST_WISH = 300.0
"""Seconds of Retry-After that are honoured."""
LONGEST_REASON = 200
"""Letters of a refusal that are kept: vLLM repeats the media in it."""
CHARACTERS = 4
"""Of a text, at least, in one token: a floor for what a prompt may cost before one like it was answered."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, or why this item was not."""

    text: str | None
    """Never empty."""
    reason: str | None = None
    """Why there is no text, beginning with "refused" or "wrote nothing"; None when there is."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model as the server calls it, finish reason and token counts, JSON-able. Of several replies to one request the first
    carries the `usage` of all, and the others None.
    """


class ServerError(StageError):
    """The server cannot be reached, refuses the key, fails after all retries, or answers what is no chat completion."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind
        """Name of the failure, for example `InternalServerError`."""


class _Failure(Exception):
    """One attempt went wrong, and it was not the item's fault. What a server says of it may repeat the key."""

    def __init__(self, kind: str, detail: str, again: bool = True, wish: float | None = None) -> None:
        self.kind, self.detail, self.again, self.wish = kind, redact_text(detail), again, wish


def check_chat(
    name: str,
    base_url: str,
    temperature: float,
    max_tokens: int,
    concurrency: int,
    retries: int,
    timeout: float,
) -> None:
    """Refuse settings of a `Chat` that are out of range.

    Raises:
        ConfigError: naming the first one.
    """
    for key, ok, rule, got in (
        ("base_url", base_url.startswith(("http://", "https://")), "begins with http:// or https://", base_url),
        ("temperature", 0 <= temperature <= 2, "in [0, 2]", temperature),
        ("max_tokens", max_tokens >= 1, "1 or more", max_tokens),
        ("concurrency", concurrency >= 1, "1 or more", concurrency),
        ("retries", retries >= 0, "0 or more", retries),
        ("timeout", timeout > 0, "more than 0 seconds", timeout),
    ):
        if not ok:
            raise ConfigError(f"{name}.{key}: {rule}; got {got!r}; mend the config")


class Chat:
    """Connections to one model; used as an async context manager, so that they live as long as the work and no longer.

    Args:
        name: of the section of the config that describes it (teacher, judge); begins every error.
        base_url: of the API, ending in /v1.
        model: name of the model there.
        api_key_env: environment variable that holds the key; None for a server that asks for none.
        temperature: in [0, 2].
        max_tokens: of one answer, 1 or more.
        seed: passed on to the server, which may ignore it; None sends none.
        concurrency: most requests in flight, 1 or more; how many there are is found out (`models.throttle`).
        retries: attempts after the first, 0 or more, for lost connections, answers that are cut off or no chat completion,
            and the statuses 408, 409, 429 and 5xx.
        timeout: seconds for one attempt, from its first byte to its last.
        budget: what may be spent; None for anything.

    Raises:
        ConfigError: for a value out of range, or a key that is not in the environment.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        model: str,
        api_key_env: str | None,
        temperature: float,
        max_tokens: int,
        seed: int | None,
        concurrency: int,
        retries: int,
        timeout: float,
        budget: Budget | None = None,
    ) -> None:
        check_chat(name, base_url, temperature, max_tokens, concurrency, retries, timeout)
        if api_key_env is not None:
            check_variable(f"{name}.api_key_env", api_key_env)
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ConfigError(
                f"{name}.api_key_env: the environment variable {api_key_env!r} is not set; export the key in it, or set "
                "api_key_env=null for a server that asks for none"
            )
        self.name, self.base_url, self.model = name, base_url, model
        self.sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens} | (
            {} if seed is None else {"seed": seed}
        )
        self.throttle = Throttle(concurrency)
        self.budget = Budget(name, NO_LIMITS) if budget is None else budget
        self._api_key_env, self._retries, self._timeout = api_key_env, retries, timeout
        self._longest_prompt = 0
        self._client: openai.AsyncOpenAI

    async def __aenter__(self) -> Self:
        key = "none" if self._api_key_env is None else os.environ[self._api_key_env]
        self._client = openai.AsyncOpenAI(base_url=self.base_url, api_key=key, max_retries=0, timeout=None)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    def settings(self) -> dict[str, Any]:
        """Server, model and sampling; never the key."""
        return {"base_url": self.base_url, "model": self.model, **self.sampling}

    async def ask(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> Reply:
        """Ask once; of several replies, the first. Arguments and errors as those of `ask_for`."""
        return (await self.ask_for(messages, **more))[0]

    async def ask_for(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> list[Reply]:
        """Ask once, for `n` replies where `more` says so.

        Args:
            messages: as OpenAI writes them; media parts come from `models.parts`.
            more: further fields of the request; go before the client's own sampling.

        Returns:
            The answers, one or more, or the reason why this item has none (it was refused, or nothing was written).

        Raises:
            ServerError: when it is not this item's fault.
            BudgetSpent: when the budget does not allow it; nothing was asked.
        """
        request: dict[str, Any] = {"model": self.model, "messages": list(messages), **self.sampling, **more}
        for attempt in range(self._retries + 1):
            try:
                async with self.throttle.place() as place:
                    return await self._attempt(request, place)
            except _Failure as failure:
                if not failure.again or attempt == self._retries:
                    raise ServerError(
                        f"{self.name} {self.model!r} at {self.base_url}: {failure.kind}: {failure.detail}; mend "
                        f"{self.name}.base_url, {self.name}.model or the key, or wait; what was written is kept, call again "
                        "to continue",
                        failure.kind,
                    ) from None
                await asyncio.sleep(pause(attempt, failure.wish))
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, request: dict[str, Any], place: Place) -> list[Reply]:
        letters = sum(len(part["text"]) for part in _texts(request["messages"]))
        prompt = max(self._longest_prompt, letters // CHARACTERS)
        most = Spent(1, prompt, request["max_tokens"] * request.get("n", 1))
        await self.budget.reserve(most)
        used = Spent(1)
        try:
            completion = await self._exchange(request, place)
            used = _spent(completion.usage)
            self._longest_prompt = max(self._longest_prompt, used.prompt_tokens)
            place.work = used.completion_tokens or 1  # servers without `usage`: the request counts
            return _read(completion)
        except (
            openai.BadRequestError,
            openai.UnprocessableEntityError,
        ) as error:  # this item's fault, not the server's
            return [Reply(None, f"refused: {redact_text(error.message)[:LONGEST_REASON]}")]
        finally:
            self.budget.settle(most, used)

    async def _exchange(self, request: dict[str, Any], place: Place) -> ChatCompletion:
        """Send and receive, before the deadline."""
        try:
            async with asyncio.timeout(self._timeout):  # httpx has a timeout for each read, which a slow drip evades
                reply: object = await self._client.chat.completions.create(**request)
        except TimeoutError:
            raise _Failure("Timeout", f"no whole answer in {self._timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            raise _Failure(type(error).__name__, error.message) from None
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            raise
        except openai.APIStatusError as error:
            status = error.status_code
            place.refused = status in (429, 503)
            again = status in (408, 409, 429) or status >= 500
            raise _Failure(type(error).__name__, error.message, again, wish(error.response.headers)) from None
        except json.JSONDecodeError as error:  # the openai package lets it through
            raise _Failure("NotJSON", str(error)) from None
        # nor does it check what it was sent: text that is no JSON comes as a string, and a missing field as None
        if not isinstance(reply, ChatCompletion) or not _whole(reply):
            raise _Failure("NotAChatCompletion", repr(reply)[:80])
        return reply


def _whole(completion: ChatCompletion) -> bool:
    choices: object = completion.choices
    return isinstance(choices, list) and all(isinstance(c.message, ChatCompletionMessage) for c in choices)


def _texts(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    contents = [[{"text": m["content"]}] if isinstance(m["content"], str) else m["content"] for m in messages]
    return [part for content in contents for part in content if "text" in part]


def _spent(usage: CompletionUsage | None) -> Spent:
    return Spent(1) if usage is None else Spent(1, usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _read(completion: ChatCompletion) -> list[Reply]:
    usage = completion.usage
    replies = []
    for i, choice in enumerate(completion.choices):
        counted = None if usage is None or i else usage.model_dump(include={"prompt_tokens", "completion_tokens"})
        provenance = {"model": completion.model, "finish_reason": choice.finish_reason, "usage": counted}
        text = choice.message.content or None
        reason = None if text else f"wrote nothing: finish_reason {choice.finish_reason}"
        replies.append(Reply(text, reason, provenance))
    return replies or [Reply(None, "wrote nothing: no choices")]


def pause(attempt: int, wished: float | None) -> float:
    """Seconds to wait after failed attempt number `attempt` (0, 1, ...), with jitter, so that clients do not come in step.

    Args:
        attempt: how many failed before it.
        wished: what the server asked for; never undercut.
    """
    if wished is not None:
        return min(wished, LONGEST_WISH) * random.uniform(1, 1.25)
    return min(PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1)


def wish(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: `retry-after-ms`, or `retry-after` as seconds or a date; None when it does not."""
    for name, seconds in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * seconds)
        except (KeyError, ValueError):
            continue
    date = parsedate_tz(headers.get("retry-after", ""))
    return None if date is None else max(0.0, mktime_tz(date) - time())
