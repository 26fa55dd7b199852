"""A teacher behind any server with OpenAI's chat completions; the client is `models/chat.py`."""

from typing import Any, Self

from data_synth.prompts import instructions
from data_synth.teacher import Case, Draft, Teacher
from models.chat import Chat, openai_part


class ChatTeacher(Teacher):
    """Asks a language model for each chain.

    Args:
        base_url: of the API, ending in /v1.
        model: name of the model there.
        api_key_env: environment variable that holds the key; None for a server that asks for none.
        temperature: in [0, 2].
        max_tokens: of one answer, 1 or more.
        seed: passed on to the server, which may ignore it; None sends none.
        concurrency: requests in flight, 1 or more.
        retries: attempts after the first, 0 or more, for lost connections and the statuses 408, 409, 429 and 5xx.
        timeout: seconds for one request.

    Raises:
        ConfigError: for a value out of range, or a key that is not in the environment.
    """

    name = "chat"

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None,
        temperature: float,
        max_tokens: int,
        seed: int | None,
        concurrency: int,
        retries: int,
        timeout: float,
    ) -> None:
        self._chat = Chat(
            "teacher",
            base_url=base_url,
            model=model,
            api_key_env=api_key_env,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            concurrency=concurrency,
            retries=retries,
            timeout=timeout,
        )
        self.concurrency = concurrency

    async def __aenter__(self) -> Self:
        await self._chat.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._chat.__aexit__(*error)

    def settings(self) -> dict[str, Any]:
        """Server, model and sampling; never the key."""
        return self._chat.settings()

    def instructions(self, case: Case) -> str:
        """The system prompt."""
        return instructions(case.like, case.grammar)

    async def write(self, case: Case) -> Draft:
        """Ask for one chain.

        Raises:
            MediaError: when a view cannot be read.
            StageError: when the server cannot be reached, refuses the key, or fails after all retries.
        """
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.instructions(case)}]
        messages += [{"role": m["role"], "content": [openai_part(p) for p in m["content"]]} for m in case.messages]
        reply = await self._chat.ask(messages)
        reason = None if reply.reason is None else f"teacher {reply.reason}"
        return Draft(reply.text, reason, reply.provenance)
