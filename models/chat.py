"""A client for any server with OpenAI's chat completions (the OpenAI API, vLLM, SGLang, transformers serve).

Media travel inside the request as data URLs, sound as `input_audio`; no path and no file name does, since some corpora spell
the label in them.
"""

import base64
import io
import json
import mimetypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import openai
import soundfile
from openai.types.chat import ChatCompletion

from models.media import RATE, read_audio
from runtime.errors import ConfigError, MediaError, StageError


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, or why this item was not."""

    text: str | None
    """Never empty."""
    reason: str | None = None
    """Why there is no text, beginning with "refused" or "wrote nothing"; None when there is."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model as the server calls it, finish reason and token counts, JSON-able."""


class ServerError(StageError):
    """The server cannot be reached, refuses the key, fails after all retries, or answers what is no chat completion."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind
        """Name of the failure, for example `InternalServerError`."""


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
        concurrency: requests that may be in flight, 1 or more; the caller keeps to it.
        retries: attempts after the first, 0 or more, for lost connections and the statuses 408, 409, 429 and 5xx.
        timeout: seconds for one request.

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
    ) -> None:
        check_chat(name, base_url, temperature, max_tokens, concurrency, retries, timeout)
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ConfigError(
                f"{name}.api_key_env: the environment variable {api_key_env!r} is not set; export the key in it, or set "
                "api_key_env=null for a server that asks for none"
            )
        self.name, self.base_url, self.model, self.concurrency = name, base_url, model, concurrency
        self.sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens} | (
            {} if seed is None else {"seed": seed}
        )
        self._api_key_env, self._retries, self._timeout = api_key_env, retries, timeout
        self._client: openai.AsyncOpenAI

    async def __aenter__(self) -> Self:
        key = "none" if self._api_key_env is None else os.environ[self._api_key_env]
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url, api_key=key, max_retries=self._retries, timeout=self._timeout
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    def settings(self) -> dict[str, Any]:
        """Server, model and sampling; never the key."""
        return {"base_url": self.base_url, "model": self.model, **self.sampling}

    async def ask(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> Reply:
        """Ask once.

        Args:
            messages: as OpenAI writes them; media parts come from `openai_part`.
            sampling: goes before the client's own.

        Returns:
            The answer, or the reason why this item has none (it was refused, or nothing was written).

        Raises:
            ServerError: when it is not this item's fault.
        """
        request: Any = {"model": self.model, "messages": list(messages), **self.sampling, **sampling}
        try:
            reply = await self._client.chat.completions.create(**request)
        except (
            openai.BadRequestError,
            openai.UnprocessableEntityError,
        ) as error:  # this item's fault, not the server's
            return Reply(None, f"refused: {error.message}")
        except openai.APIError as error:
            raise self._failed(type(error).__name__, error.message) from None
        except json.JSONDecodeError as error:  # the openai package lets it through
            raise self._failed("NotJSON", str(error)) from None
        # nor does it check what it was sent: text that is no JSON comes as a string, and a missing field as None
        if not isinstance(reply, ChatCompletion) or not isinstance(reply.choices, list):
            raise self._failed("NotAChatCompletion", repr(reply)[:80])
        if not reply.choices:
            return Reply(None, "wrote nothing: no choices")
        choice = reply.choices[0]
        provenance = {
            "model": reply.model,
            "finish_reason": choice.finish_reason,
            "usage": None
            if reply.usage is None
            else reply.usage.model_dump(include={"prompt_tokens", "completion_tokens"}),
        }
        if not choice.message.content:
            return Reply(None, f"wrote nothing: finish_reason {choice.finish_reason}", provenance)
        return Reply(choice.message.content, None, provenance)

    def _failed(self, kind: str, detail: str) -> ServerError:
        return ServerError(
            f"{self.name} {self.model!r} at {self.base_url}: {kind}: {detail}; mend {self.name}.base_url, "
            f"{self.name}.model or the key, or wait; what was written is kept, call again to continue",
            kind,
        )


def openai_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """One part of a prompt (`tasks.base.Message`) as OpenAI writes it.

    Raises:
        MediaError: when the file cannot be read or sent.
    """
    match part["type"]:
        case "text":
            return {"type": "text", "text": part["text"]}
        case "audio":
            wav = io.BytesIO()
            soundfile.write(wav, read_audio(part["path"], part["span"]), RATE, format="WAV", subtype="PCM_16")
            data = base64.b64encode(wav.getvalue()).decode()
            return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        case kind:  # image or video
            path = Path(part["path"])
            if part["span"] is not None:
                raise MediaError(
                    f"{path}: whole files alone are sent, got span {part['span']}; cut it into its own file"
                )
            return {"type": f"{kind}_url", f"{kind}_url": {"url": _data_url(path)}}


def _data_url(path: Path) -> str:
    mime = mimetypes.guess_type(path.name)[0]
    if mime is None:
        raise MediaError(f"{path}: unknown kind of file; give it the usual suffix (.mp4, .png)")
    try:
        return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); mend the record's path, or remove it") from None
