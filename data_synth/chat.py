"""A teacher behind any server with OpenAI's chat completions (the OpenAI API, vLLM, SGLang, transformers serve).

Media travel inside the request as data URLs, sound as `input_audio`; no path and no file name does, since some corpora spell
the label in them.
"""

import base64
import io
import mimetypes
import os
from pathlib import Path
from typing import Any, Self

import openai
import soundfile

from data_synth.prompts import instructions
from data_synth.teacher import Case, Draft, Teacher
from models.media import RATE, read_audio
from runtime.errors import ConfigError, MediaError, StageError


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
        for key, ok, rule, got in (
            ("base_url", base_url.startswith(("http://", "https://")), "begins with http:// or https://", base_url),
            ("temperature", 0 <= temperature <= 2, "in [0, 2]", temperature),
            ("max_tokens", max_tokens >= 1, "1 or more", max_tokens),
            ("concurrency", concurrency >= 1, "1 or more", concurrency),
            ("retries", retries >= 0, "0 or more", retries),
            ("timeout", timeout > 0, "more than 0 seconds", timeout),
        ):
            if not ok:
                raise ConfigError(f"teacher.{key}: {rule}; got {got!r}; mend the config")
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ConfigError(
                f"teacher.api_key_env: the environment variable {api_key_env!r} is not set; export the key in it, or set "
                "api_key_env=null for a server that asks for none"
            )
        self.base_url, self.model, self.concurrency = base_url, model, concurrency
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

    def instructions(self, case: Case) -> str:
        """The system prompt."""
        return instructions(case.like, case.grammar)

    async def write(self, case: Case) -> Draft:
        """Ask for one chain.

        Raises:
            MediaError: when a view cannot be read.
            StageError: when the server cannot be reached, refuses the key, or fails after all retries.
        """
        messages: Any = [{"role": "system", "content": self.instructions(case)}]
        messages += [{"role": m["role"], "content": [_part(p) for p in m["content"]]} for m in case.messages]
        try:
            reply = await self._client.chat.completions.create(model=self.model, messages=messages, **self.sampling)
        except (
            openai.BadRequestError,
            openai.UnprocessableEntityError,
        ) as error:  # this item's fault, not the server's
            return Draft(None, f"teacher refused: {error.message}")
        except openai.APIError as error:
            raise StageError(
                f"teacher {self.model!r} at {self.base_url}: {type(error).__name__}: {error.message}; mend teacher.base_url, "
                "teacher.model or the key, or wait; what was written is kept, call again to continue"
            ) from None
        if not reply.choices:
            return Draft(None, "teacher wrote nothing: no choices")
        choice = reply.choices[0]
        provenance = {
            "model": reply.model,
            "finish_reason": choice.finish_reason,
            "usage": None
            if reply.usage is None
            else reply.usage.model_dump(include={"prompt_tokens", "completion_tokens"}),
        }
        if not choice.message.content:
            return Draft(None, f"teacher wrote nothing: finish_reason {choice.finish_reason}", provenance)
        return Draft(choice.message.content, None, provenance)


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """One part of a prompt as OpenAI writes it."""
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
