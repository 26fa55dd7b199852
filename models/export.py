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
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from models.engine.weights import policy_weights
from models.omni_base import Base, Shapes, headers
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
        saved = {n if n.startswith("thinker.") else f"thinker.{n}": s for n, s in headers(checkpoint)[0].items()}
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
