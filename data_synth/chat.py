"""A teacher behind any server with OpenAI's chat completions; the client is `models/chat.py`.

It is shown the student's prompt, media included. A video is never shown deaf: where the prompt has no sound of its own, the
video's track is heard too, taken out of it by a server that can (vLLM, `use_audio_in_video`), or sent beside it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from data_synth.prompts import CONCLUSION, CORRECTION, FORMS, correction, from_json, instructions, schema
from data_synth.teacher import Case, Draft, Teacher
from models.budget import Budget, read_limits
from models.chat import Chat, Reply
from models.media import has_sound, read_audio
from models.parts import openai_part, sound_part
from models.probe import SOUND_IN_VIDEO, Capabilities, probe
from runtime.errors import ConfigError, StageError
from runtime.files import digest
from tasks.target import Target


class ChatTeacher(Teacher):
    """Asks a language model for each chain.

    Args:
        base_url: of the API, ending in /v1.
        model: name of the model there.
        api_key_env: environment variable that holds the key; None for a server that asks for none.
        temperature: in [0, 2].
        max_tokens: of one answer, 1 or more.
        seed: passed on to the server, which may ignore it; None sends none. Candidate i is asked for with seed + i.
        concurrency: most requests in flight, 1 or more; how many there are is found out.
        retries: attempts after the first, 0 or more, when the server fails.
        timeout: seconds for one attempt.
        form: `tags`, or `json` for a server that keeps to a JSON schema.
        files: folder that the server can read, too, so that clips below it need not be sent; None for none.
        budget: `models.budget.Limits` as a mapping.

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
        form: str,
        files: str | None,
        budget: Mapping[str, float | None],
    ) -> None:
        if form not in FORMS:
            raise ConfigError(f"teacher.form: one of {', '.join(FORMS)}; got {form!r}; mend the config")
        if files is not None and not Path(files).is_dir():
            raise ConfigError(f"teacher.files: a folder that is there, or null; got {files!r}; mend the config")
        self.budget = Budget("teacher.budget", read_limits("teacher.budget", budget))
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
            budget=self.budget,
        )
        self.concurrency, self.form = concurrency, form
        self._files = None if files is None else Path(files).resolve()
        self.server: Capabilities | None = None
        """What the server was found to do; None until the teacher is entered."""

    async def __aenter__(self) -> Self:
        await self._chat.__aenter__()
        try:
            self.server = await probe(self._chat, self._files)
            if self.form == "json" and not self.server.schema:
                raise StageError(
                    f"teacher {self._chat.model!r} at {self._chat.base_url}: teacher.form=json asks for a JSON schema, and "
                    "the server does not keep to one; set teacher.form=tags, or serve the model with vLLM"
                )
        except BaseException:
            await self._chat.__aexit__()
            raise
        self.many = self.server.n
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._chat.__aexit__(*error)

    def settings(self) -> dict[str, Any]:
        """Model, sampling and wording; never the key, and not where the server is: it may move while a run goes on."""
        wording = digest([CORRECTION, CONCLUSION])
        return {"model": self._chat.model, **self._chat.sampling, "form": self.form, "wording": wording}

    def found(self) -> dict[str, Any]:
        """Where the server is, what it was found to do, and how many requests in flight it took best."""
        if self.server is None:
            return {}
        return {"base_url": self._chat.base_url, "in_flight": self._chat.throttle.limit, **self.server.to_json()}

    def instructions(self, case: Case) -> str:
        """The system prompt."""
        return instructions(case.like, case.grammar, self.form)

    async def write(self, case: Case, indices: Sequence[int]) -> list[Draft]:
        """See `Teacher.write`.

        Raises:
            MediaError: when a view cannot be read.
            StageError: when the server cannot be reached, refuses the key, fails after all retries, or is blind or deaf.
            BudgetSpent: when the budget does not allow it.
        """
        seeded = {key: seed + indices[0] for key, seed in self._chat.sampling.items() if key == "seed"}
        several = {"n": len(indices)} if len(indices) > 1 else {}
        drafts = await self._ask(case, [], **several, **seeded)
        missing = Draft(None, f"teacher wrote nothing: {len(drafts)} of {len(indices)} choices came")
        return (drafts + [missing] * len(indices))[: len(indices)]

    async def rewrite(self, case: Case, failed: Draft, gold: Target) -> Draft:
        """See `Teacher.rewrite`; errors as in `write`."""
        said = [{"role": "assistant", "content": failed.text}] if failed.text else []
        told = {"role": "user", "content": correction(gold, case.grammar)}
        return (await self._ask(case, [*said, told]))[0]

    async def conclude(self, case: Case, reasoning: str) -> Draft:
        """See `Teacher.conclude`; errors as in `write`."""
        return (await self._ask(case, [{"role": "user", "content": CONCLUSION.format(reasoning=reasoning)}]))[0]

    async def _ask(self, case: Case, after: Sequence[Mapping[str, Any]], **more: Any) -> list[Draft]:
        messages, extra = await self._prompt(case)
        if self.form == "json":
            shape = {"name": "chain", "schema": schema(case.like, case.grammar), "strict": True}
            extra = extra | {"response_format": {"type": "json_schema", "json_schema": shape}}
        replies = await self._chat.ask_for([*messages, *after], **extra, **more)
        return [self._draft(case, reply) for reply in replies]

    def _draft(self, case: Case, reply: Reply) -> Draft:
        text = reply.text
        if text is not None and self.form == "json":
            text = from_json(text, case.grammar)
        return Draft(text, None if reply.reason is None else f"teacher {reply.reason}", reply.provenance)

    async def _prompt(self, case: Case) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """System prompt and the student's, and what has to be asked of the server beside them."""
        shown = [part for message in case.messages for part in message["content"]]
        kinds = {part["type"] for part in shown} - {"text"}
        tracks = {part["path"] for part in shown if part["type"] == "video"} if "audio" not in kinds else set()
        tracks = {path for path in tracks if await asyncio.to_thread(has_sound, Path(path))}
        inside = bool(tracks) and self._found("sound of a video") is None
        for kind in sorted(kinds | ({"audio"} if tracks and not inside else set())):
            self._require(kind)
        beside = set() if inside else tracks
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.instructions(case)}]
        for message in case.messages:
            parts = [await asyncio.to_thread(self._parts, part, beside) for part in message["content"]]
            messages.append({"role": message["role"], "content": [one for some in parts for one in some]})
        return messages, SOUND_IN_VIDEO if inside else {}

    def _parts(self, part: Mapping[str, Any], beside: set[str]) -> list[dict[str, Any]]:
        """A part, with its track behind it where that has to be sent beside."""
        sent = [openai_part(part, self._files)]
        if part["type"] == "video" and part["path"] in beside:
            sent.append(sound_part(read_audio(part["path"], part["span"])))
        return sent

    def _found(self, kind: str) -> str | None:
        assert self.server is not None, "the teacher is not entered"
        return self.server.lacks(kind)

    def _require(self, kind: str) -> None:
        if (why := self._found(kind)) is not None:
            raise StageError(
                f"teacher {self._chat.model!r} at {self._chat.base_url}: the task shows {kind}, and it does not reach the "
                f"model: {why}; serve a model that takes {kind}, or leave the view out (task.views)"
            )
