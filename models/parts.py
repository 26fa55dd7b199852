"""Parts of a prompt as OpenAI writes them.

Media travel inside the request as data URLs, sound as `input_audio`; no path and no file name does, since some corpora spell
the label in them. Only below a folder that a server may read itself (`files`) do whole files travel as file URLs: then the
server reads the name, and the model still does not.
"""

import base64
import io
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from models.media import RATE, read_audio
from runtime.errors import MediaError


def openai_part(part: Mapping[str, Any], files: Path | None = None) -> dict[str, Any]:
    """One part of a prompt (`tasks.base.Message`).

    Args:
        part: text, or a medium by its path.
        files: absolute folder that the server can read, too; None for none.

    Raises:
        MediaError: when the file cannot be read or sent.
    """
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    kind, path, span = part["type"], Path(part["path"]), part["span"]
    if files is not None and span is None and path.resolve().is_relative_to(files):
        if not path.is_file():
            raise MediaError(f"{path}: there is no such file; mend the record's path, or remove the record")
        return url_part(kind, path.resolve().as_uri())
    if kind == "audio":
        return sound_part(read_audio(path, span))
    if span is not None:
        raise MediaError(f"{path}: whole files alone are sent, got span {span}; cut it into its own file")
    return url_part(kind, _data_url(path))


def sound_part(samples: np.ndarray) -> dict[str, Any]:
    """(T,) float samples in [-1, 1] at `RATE`."""
    wav = io.BytesIO()
    soundfile.write(wav, samples, RATE, format="WAV", subtype="PCM_16")
    data = base64.b64encode(wav.getvalue()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def url_part(kind: str, url: str) -> dict[str, Any]:
    """A part of kind audio, image or video behind a URL."""
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def data_url(mime: str, content: bytes) -> str:
    """Content inside a URL."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _data_url(path: Path) -> str:
    mime = mimetypes.guess_type(path.name)[0]
    if mime is None:
        raise MediaError(f"{path}: unknown kind of file; give it the usual suffix (.mp4, .png)")
    try:
        return data_url(mime, path.read_bytes())
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); mend the record's path, or remove it") from None
