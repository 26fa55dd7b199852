"""A trained thinker as a folder of its own, or back inside of the full Omni checkpoint that it came from.

thinker    what `Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained` reads
omni       what `Qwen2_5OmniForConditionalGeneration.from_pretrained` and `vllm serve` read: the thinker below `thinker.`, and
           talker, token2wav and voices as they are in the base. Without a base, a full checkpoint that cannot speak.

An adapter is merged: the sum is taken in the wider type of weight and adapter, and rounded once, to that of the weight. Beside the
model itself, one shard and one tensor are in memory.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from models.engine.weights import policy_weights
from models.processor import Processor
from models.shards import Shards
from models.shared_prefix import thinker
from runtime.errors import ConfigError, StageError
from runtime.files import write_json

FORMS = ("omni", "thinker")
HEAD, EMBEDDING = "thinker.lm_head.weight", "thinker.model.embed_tokens.weight"
SPEAKERS = "spk_dict.pt"
SHOWN = 5
"""Names in a message; the rest is counted."""

Shapes = Mapping[str, tuple[int, ...]]


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
    shapes, file_of = _headers(folder)
    if not shapes:
        raise ConfigError(f"base={base}: holds no .safetensors file; download it whole")
    return Base(folder, config, file_of, shapes)


def _headers(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Path]]:
    """Shape and file of every tensor of a checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {}
    file_of: dict[str, Path] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                shapes[name], file_of[name] = tuple(file.get_slice(name).get_shape()), path
    return shapes, file_of


# ---- every tensor is accounted for


def check_cover(where: str, found: Shapes, wanted: Shapes, remedy: str) -> None:
    """Compare names and shapes of tensors.

    Raises:
        StageError: naming what is missing, unexpected, or of another shape.
    """
    said = []
    for what, names in (("missing", wanted.keys() - found.keys()), ("unexpected", found.keys() - wanted.keys())):
        if names:
            said.append(f"{len(names)} {what} ({_some(sorted(names))})")
    other = [
        f"{n} {list(found[n])} for {list(wanted[n])}" for n in sorted(wanted) if found.get(n, wanted[n]) != wanted[n]
    ]
    if other:
        said.append(f"{len(other)} of another shape ({_some(other)})")
    if said:
        raise StageError(f"{where}: tensors {', '.join(said)}; {remedy}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def check_whole(checkpoint: Path, model: torch.nn.Module) -> None:
    """That a checkpoint held every weight of the model that was loaded from it: transformers fills in random ones and warns.

    Raises:
        StageError: naming the tensors.
    """
    remedy = "the checkpoint was cut off or mixed with another; export one that is whole"
    if isinstance(model, PeftModel):
        wanted = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(model).items()}
        with safe_open(checkpoint / "adapter_model.safetensors", "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    else:
        wanted = _shapes(model)
        saved = {n if n.startswith("thinker.") else f"thinker.{n}": s for n, s in _headers(checkpoint)[0].items()}
        if HEAD not in wanted:
            saved.pop(HEAD, None)
        found = {n: s for n, s in saved.items() if not n.startswith(("thinker.talker.", "thinker.token2wav."))}
    check_cover(str(checkpoint), found, wanted, remedy)


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in policy_weights(model)}


# ---- writing


def export(
    model: torch.nn.Module,
    processor: Processor,
    folder: Path,
    form: str,
    base: Base | None,
    limit: int,
    add: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a checkpoint that needs no code of ours to be loaded, whole or not at all.

    Args:
        model: the policy, with or without adapter.
        processor: its processor; the sizes and rates that it was trained with are written into the video processor.
        folder: must not be there yet.
        form: one of FORMS.
        base: for form=omni: where the other parts come from; None for none.
        limit: bytes of a file of weights.
        add: writes what else belongs into the folder before it is complete.

    Raises:
        ConfigError: for a text model, a folder that is there, or too little space.
        StageError: when the tensors are not those of the base.
    """
    ours = thinker(model)
    if not isinstance(ours, Qwen2_5OmniThinkerForConditionalGeneration):
        raise ConfigError(f"checkpoint: a {type(ours).__name__}; what is exported is the thinker of a Qwen2.5-Omni")
    if folder.exists():
        raise ConfigError(f"out: {folder} is there already; name another folder, or remove this one")
    if base is not None:
        wanted = {name: shape for name, shape in base.shapes.items() if name.startswith("thinker.")}
        found = _shapes(model) | ({HEAD: wanted[HEAD]} if _tied(ours) and HEAD in wanted else {})
        check_cover(
            f"base={base.folder}", found, wanted, "name the checkpoint, of the same size, that training started from"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(value.nbytes for value in ours.parameters())
    needed += sum(path.stat().st_size for path in set(base.file_of.values())) if base is not None else 0
    if (free := shutil.disk_usage(folder.parent).free) < needed:
        raise ConfigError(f"out: {folder} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; make room")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        beside = Path(scratch) / "export"
        beside.mkdir()
        shards = Shards(beside, limit)
        for name, value in _thinker_weights(model, base):
            shards.add(name if form == "omni" else name.removeprefix("thinker."), value)
        for name, value in _kept_weights(base) if form == "omni" else ():
            shards.add(name, value)
        shards.close()
        _write_settings(ours, processor, beside, form, base)
        add(beside)
        beside.chmod(0o755)
        beside.rename(folder)


def _tied(model: Qwen2_5OmniThinkerForConditionalGeneration) -> bool:
    return model.lm_head.weight is model.model.language_model.embed_tokens.weight


def _thinker_weights(model: torch.nn.Module, base: Base | None) -> Iterator[tuple[str, torch.Tensor]]:
    """As `policy_weights`; a head that is the embedding is written out where the base has one."""
    for name, value in policy_weights(model):
        yield name, value
        if base is not None and name == EMBEDDING and HEAD in base.shapes and _tied(thinker(model)):  # type: ignore[arg-type]
            yield HEAD, value.clone()


def _kept_weights(base: Base | None) -> Iterator[tuple[str, torch.Tensor]]:
    for name in base.kept if base is not None else ():
        with safe_open(base.file_of[name], "pt") as file:  # type: ignore[union-attr]
            yield name, file.get_tensor(name)


def _write_settings(
    model: Qwen2_5OmniThinkerForConditionalGeneration, processor: Processor, folder: Path, form: str, base: Base | None
) -> None:
    """Config, generation config, voices, processor."""
    config = model.config.to_dict()
    for name in ("_name_or_path", "name_or_path"):
        config.pop(name, None)  # a place on this machine
    config["architectures"] = ["Qwen2_5OmniThinkerForConditionalGeneration"]
    assert model.generation_config is not None
    model.generation_config.save_pretrained(folder)
    if form == "omni":
        kept = base.config if base is not None else {"enable_audio_output": False}
        own = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "dtype": config.get("dtype")}
        config = (
            own
            | {k: v for k, v in kept.items() if k not in ("torch_dtype", "_name_or_path")}
            | {"thinker_config": config}
        )
        if base is not None and (base.folder / SPEAKERS).is_file():
            shutil.copyfile(base.folder / SPEAKERS, folder / SPEAKERS)
        else:  # generate() looks its default speaker up, also where nobody speaks
            torch.save({"Chelsie": {}}, folder / SPEAKERS)
    write_json(folder / "config.json", config)
    real = processor.processor
    assert isinstance(real, Qwen2_5OmniProcessor)
    real.save_pretrained(folder)
    path = folder / "processor_config.json"
    settings, seen = json.loads(path.read_text(encoding="utf-8")), processor.settings
    settings["video_processor"] |= {"size": dict(seen.video_size), "fps": seen.fps, "max_frames": seen.max_frames}
    write_json(path, settings)
    write_json(folder / "video_preprocessor_config.json", settings["video_processor"])  # where vLLM 0.30 looks for it
