"""A full Omni checkpoint on disk, looked at without reading its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import safe_open

from runtime.errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]
"""By names of tensors."""


@dataclass(frozen=True, slots=True)
class Base:
    """A full Omni checkpoint on disk."""

    folder: Path
    config: Mapping[str, Any]
    file_of: Mapping[str, Path]
    """Of each tensor."""
    shapes: Shapes

    @property
    def kept(self) -> list[str]:
        """Tensors that are not the thinker's, in the order of files and names."""
        names = [name for name in self.shapes if not name.startswith("thinker.")]
        return sorted(names, key=lambda name: (self.file_of[name], name))


def open_base(base: str) -> Base:
    """Look at a full checkpoint without reading its weights.

    Args:
        base: a folder, or a hub name, which is downloaded.

    Raises:
        ConfigError: for one that is not there, or is no full Qwen2.5-Omni.
    """
    try:
        folder = Path(base) if Path(base).is_dir() else Path(snapshot_download(base))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ValueError) as error:
        raise ConfigError(
            f"base={base}: no such folder, and not to be had from the hub ({type(error).__name__}); name a folder, or download it"
        ) from None
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if config.get("model_type") != "qwen2_5_omni":
        raise ConfigError(
            f"base={base}: a full Qwen2.5-Omni says model_type qwen2_5_omni in its config.json, this one says "
            f"{config.get('model_type')!r}; name the checkpoint that the thinker was taken from, such as Qwen/Qwen2.5-Omni-7B"
        )
    shapes, file_of = headers(folder)
    if not shapes:
        raise ConfigError(f"base={base}: holds no .safetensors file; download it whole")
    return Base(folder, config, file_of, shapes)


def headers(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Path]]:
    """Shape and file of every tensor of a checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {}
    file_of: dict[str, Path] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                shapes[name], file_of[name] = tuple(file.get_slice(name).get_shape()), path
    return shapes, file_of
