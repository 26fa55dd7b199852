"""What a server really does with a request, found out by asking it a few small ones.

Many servers accept what they do not know and say nothing: transformers serve passes over `n` and schemas, and over media that
its model does not take. So nothing is believed that does not show: several texts come back, a text is of the schema, the same
seed gives the same text, and every medium raises the number of prompt tokens over that of the same question without it.
"""

import asyncio
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from PIL import Image

from models.chat import Chat, Reply, ServerError
from models.media import RATE
from models.parts import data_url, sound_part, url_part
from runtime.errors import StageError

QUESTION = "Say which way it goes, up or down."
"""The text of every request of a probe."""
SCHEMA = {
    "type": "object",
    "properties": {"way": {"type": "string", "enum": ["up", "down"]}},
    "required": ["way"],
    "additionalProperties": False,
}
SHORT, LONG = 4, 96
"""Most tokens of an answer: enough to differ, and enough for the schema."""
SOUND_IN_VIDEO = {"extra_body": {"mm_processor_kwargs": {"use_audio_in_video": True}}}
"""How vLLM is asked to hear a video's own track."""
SIDE, FRAMES, FPS = 112, 8, 8


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found."""

    n: bool
    """Several texts for one prompt come back when they are asked for."""
    schema: bool
    """A JSON schema is kept to."""
    seed: bool
    """The same seed gave the same text. A busy server may break this even though it looks at the seed."""
    max_tokens: bool
    media: Mapping[str, int | str]
    """For audio, image, video, and for a video that is sent with its track: prompt tokens that it adds, or why none."""

    def to_json(self) -> dict[str, Any]:
        """As it is written into a run's folder."""
        return asdict(self)

    def lacks(self, kind: str) -> str | None:
        """Why media of this kind do not reach the model; None when they do."""
        found = self.media[kind]
        return found if isinstance(found, str) else None


async def probe(chat: Chat, files: Path | None = None) -> Capabilities:
    """Ask a server, ten short requests.

    Args:
        chat: an open client.
        files: folder that the server can read, too; then clips are sent as files, which are written there and deleted again.

    Raises:
        ServerError: when it cannot be reached, or does not answer a plain question.
        StageError: when it refuses one.
    """
    first, second = await _say(chat, seed=1), await _say(chat, seed=1)
    if first.reason is not None and first.reason.startswith("refused"):
        raise StageError(
            f"{chat.name} {chat.model!r} at {chat.base_url}: {first.reason}, and all that was asked was {QUESTION!r}; mend "
            f"{chat.name}.model or the server"
        )
    plain = _tokens(first, "prompt_tokens")
    several, shaped, media = await asyncio.gather(_several(chat), _shaped(chat), _media(chat, plain, files))
    written = _tokens(first, "completion_tokens")
    return Capabilities(
        n=several,
        schema=shaped,
        seed=first.text == second.text,
        max_tokens=written is not None and written <= SHORT,
        media=media,
    )


async def _say(chat: Chat, *parts: Mapping[str, Any], **more: Any) -> Reply:
    content = [*parts, {"type": "text", "text": QUESTION}]
    return await chat.ask([{"role": "user", "content": content}], **{"max_tokens": SHORT, "temperature": 1.0, **more})


def _tokens(reply: Reply, kind: str) -> int | None:
    return (reply.provenance.get("usage") or {}).get(kind)


async def _several(chat: Chat) -> bool:
    """At the client's own temperature: vLLM refuses several greedy texts, which would all be the same."""
    try:
        replies = await chat.ask_for([{"role": "user", "content": QUESTION}], n=2, max_tokens=SHORT)
    except ServerError:
        return False
    return len(replies) == 2


async def _shaped(chat: Chat) -> bool:
    shape = {"type": "json_schema", "json_schema": {"name": "probe", "schema": SCHEMA, "strict": True}}
    try:
        reply = await _say(chat, max_tokens=LONG, response_format=shape)
        said = json.loads(reply.text or "")
    except (ServerError, ValueError):
        return False
    return isinstance(said, dict) and said.keys() == {"way"} and said["way"] in ("up", "down")


async def _media(chat: Chat, plain: int | None, files: Path | None) -> dict[str, int | str]:
    if plain is None:
        return dict.fromkeys(("audio", "image", "video", "sound of a video"), "the server reports no prompt_tokens")
    with TemporaryDirectory(prefix=".probe-", dir=files) as folder:
        parts = _clips(None if files is None else Path(folder))
        video = parts.pop("sound of a video")
        added = await asyncio.gather(*(_added(chat, part, plain) for part in parts.values()))
        found = dict(zip(parts, added, strict=True))
        frames = found["video"] if isinstance(found["video"], int) else 0
        return found | {"sound of a video": await _added(chat, video, plain + frames, **SOUND_IN_VIDEO)}


async def _added(chat: Chat, part: Mapping[str, Any], plain: int, **more: Any) -> int | str:
    """Prompt tokens beyond `plain`, or why there are none."""
    try:
        reply = await _say(chat, part, **more)
    except ServerError as error:
        return f"the server failed on it ({error.kind})"
    if reply.reason is not None and reply.reason.startswith("refused"):
        return reply.reason
    tokens = _tokens(reply, "prompt_tokens")
    if tokens is None or tokens <= plain:
        return f"the server dropped it and said nothing ({tokens} prompt tokens, as without it)"
    return tokens - plain


def _clips(folder: Path | None) -> dict[str, dict[str, Any]]:
    """A part of every kind, one second long: inside data URLs, or as files in `folder`."""
    wave = 0.3 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)
    levels = np.linspace(0, 255, FRAMES * SIDE * SIDE * 3).astype(np.uint8).reshape(FRAMES, SIDE, SIDE, 3)
    picture = io.BytesIO()
    Image.fromarray(levels[0]).save(picture, "PNG")
    made = {
        "image": ("image/png", picture.getvalue()),
        "video": ("video/mp4", film(levels, None)),
        "sound of a video": ("video/mp4", film(levels, wave)),
    }
    parts = {"audio": sound_part(wave)}
    for name, (mime, content) in made.items():
        url = data_url(mime, content)
        if folder is not None:
            file = folder / f"{name.replace(' ', '-')}.{mime.rpartition('/')[2]}"
            file.write_bytes(content)
            url = file.as_uri()
        parts[name] = url_part(mime.partition("/")[0], url)
    return parts


def film(frames: np.ndarray, wave: np.ndarray | None) -> bytes:
    """An mp4.

    Args:
        frames: [T, H, W, 3] uint8, shown at FPS.
        wave: (N,) samples in [-1, 1] at `RATE` for its track; None for none.
    """
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as box:
        video = box.add_stream("mpeg4", rate=FPS)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        track = None if wave is None else box.add_stream("aac", rate=RATE, layout="mono")
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            box.mux(video.encode(frame))
        box.mux(video.encode(None))
        if track is not None and wave is not None:
            samples = av.AudioFrame.from_ndarray((wave[None] * 32767).astype("<i2"), format="s16", layout="mono")
            samples.sample_rate, samples.pts = RATE, 0
            box.mux(track.encode(samples))
            box.mux(track.encode(None))
    return out.getvalue()
