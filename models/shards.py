"""Weights in files of bounded size, written one after the other."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from runtime.files import write_json


class Shards:
    """Takes tensors one at a time and writes a file whenever it is full.

    Args:
        folder: is there, and holds no weights.
        limit: bytes of a file; a larger tensor has one for itself.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._names: list[list[str]] = []
        self._held: dict[str, torch.Tensor] = {}
        self._bytes = self._total = 0

    def add(self, name: str, value: torch.Tensor) -> None:
        """Take a tensor."""
        if self._held and self._bytes + value.nbytes > self.limit:
            self._flush()
        self._held[name] = value.detach().cpu().contiguous()
        self._bytes += value.nbytes
        self._total += value.nbytes

    def _flush(self) -> None:
        self._names.append(list(self._held))
        save_file(self._held, self._part(len(self._names)), {"format": "pt"})
        self._held, self._bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self.folder / f".part-{number}"

    def close(self) -> None:
        """Write the last file and name all as transformers does: one alone, or many with an index."""
        self._flush()
        number = len(self._names)
        if number == 1:
            self._part(1).rename(self.folder / "model.safetensors")
            return
        weight_map = {}
        for i, names in enumerate(self._names, 1):
            file = f"model-{i:05}-of-{number:05}.safetensors"
            self._part(i).rename(self.folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
        write_json(self.folder / "model.safetensors.index.json", index)
