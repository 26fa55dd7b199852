"""Where the time and the memory of a 7B thinker go, phase by phase, in one step of Hint-GRPO and one of SFT, on a GPU.

The weights are random; the sizes are those of Qwen2.5-Omni-7B, in bfloat16, towers frozen, the language model trained in
full. Operations are those of linear layers, 2 a weight and token forwards and 4 backwards; attention, a few hundredths of
them at such lengths, is left out. MFU is their rate against the device's peak. Not run on a GPU yet.

encode     towers over the clips              score      forward of the loss, without the towers
prefill    language model over the prompts    backward   of the loss
decode     sampling on top of that            optimizer  AdamW
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
    Qwen2_5OmniTextConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniVisionEncoderConfig,
)
from trl.trainer.utils import add_fused_lm_head

from benchmarks import sft
from benchmarks.scene import FULL, Scene, scene_of
from models import packing, shared_prefix, tiny
from models.engine.hf import HFEngine, Sampling
from models.shared_prefix import SharedPrefix
from runtime.errors import ConfigError

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 operations per second that the makers state, by what occurs in a device's name (SXM boards)."""


def seven_b(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5OmniThinkerConfig:
    """The thinker of Qwen2.5-Omni-7B; ids of special tokens are those of `tokenizer`."""
    ids = {name: tokenizer.get_vocab()[token] for name, token in tiny.TOKENS.items()}
    config = Qwen2_5OmniThinkerConfig(
        text_config=Qwen2_5OmniTextConfig(
            vocab_size=152_064,
            hidden_size=3584,
            intermediate_size=18_944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=32_768,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            pad_token_id=tokenizer.get_vocab()[tiny.PAD],
            eos_token_id=tokenizer.get_vocab()[tiny.EOS],
            tie_word_embeddings=False,
        ),
        audio_config=Qwen2_5OmniAudioEncoderConfig(
            num_mel_bins=128,
            encoder_layers=32,
            encoder_attention_heads=20,
            encoder_ffn_dim=5120,
            d_model=1280,
            output_dim=3584,
        ),
        vision_config=Qwen2_5OmniVisionEncoderConfig(
            depth=32,
            hidden_size=1280,
            intermediate_size=3420,
            num_heads=16,
            out_hidden_size=3584,
            fullatt_block_indexes=[7, 15, 23, 31],
        ),
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
    )
    config.vision_start_token_id = ids["vision_bos_token"]
    config.vision_end_token_id = ids["vision_eos_token"]
    return config


def big_scene(folder: Path, device: str) -> Scene:
    """The scene of the other benchmarks with a random 7B thinker, made on the device.

    Raises:
        ConfigError: without a CUDA device.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            f"--device {device}: torch {torch.__version__} finds no CUDA device here; run it on a machine with one of about "
            "140 GB, or leave the option out to time the tiny model on the CPU"
        )
    tokenizer = tiny.build_tokenizer(tiny.CORPUS)
    with torch.device(device):
        model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(seven_b(tokenizer), dtype=torch.bfloat16)
    return scene_of(model, tokenizer, FULL, folder)


@dataclass(frozen=True, slots=True)
class Use:
    """What one phase took."""

    seconds: float
    flops: int
    peak_bytes: int
    """The most memory that torch held on the device; 0 on a CPU."""


@dataclass(slots=True)
class Meter:
    """Charges time, operations and memory to the innermost phase that is open."""

    device: torch.device
    found: dict[str, Use] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what happens in here, except where another phase is opened in it, to `name`."""
        self._enter(name)
        yield
        self._leave()

    def count(self, flops: int) -> None:
        """Charge operations to the open phase."""
        name = self._open[-1]
        old = self.found.get(name, Use(0.0, 0, 0))
        self.found[name] = replace(old, flops=old.flops + flops)

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Charge every call of a tower to `encode`, and count what linear layers do."""
        backbone = shared_prefix.backbone_of(model)
        hooks = []
        for tower in (backbone.get_submodule("audio_tower"), backbone.get_submodule("visual")):
            hooks.append(tower.register_forward_pre_hook(lambda *_: self._enter("encode")))
            hooks.append(tower.register_forward_hook(lambda *_: self._leave()))
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                hooks.append(module.register_forward_hook(self._linear))
        yield
        for hook in hooks:
            hook.remove()

    def _linear(self, layer: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        assert isinstance(layer, torch.nn.Linear)
        self.count(2 * layer.in_features * out.numel())

    def _enter(self, name: str) -> None:
        self._charge()
        self._open.append(name)

    def _leave(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            old = self.found.get(name, Use(0.0, 0, 0))
            peak = torch.cuda.max_memory_allocated(self.device) if cuda else 0
            self.found[name] = Use(old.seconds + now - self._since, old.flops, max(old.peak_bytes, peak))
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        self._since = now


def learn(meter: Meter, model: PreTrainedModel, forward: Callable[[], torch.Tensor], tokens: int) -> torch.Tensor:
    """Loss and gradient as phases.

    Args:
        meter: charged.
        model: with TRL's fused head, which projects `tokens` positions and is not called as a layer.
        forward: gives the loss.
        tokens: that the loss is over.
    """
    head = model.get_output_embeddings()
    assert head is not None
    with meter.phase("score"):
        before = meter.found.get("score", Use(0.0, 0, 0)).flops
        loss = forward()
        meter.count(2 * head.weight.numel() * tokens)
        forwards = meter.found["score"].flops - before
    with meter.phase("backward"):
        loss.backward()
        meter.count(2 * forwards)
    return loss


Work = Callable[[Meter], dict[str, int]]
"""Runs one step under a meter; returns the tokens of each phase, where a phase has tokens."""


def grpo(scene: Scene) -> Work:
    """One step: B prompts are sampled G times each, and all completions are learnt from."""
    size, model = scene.size, scene.model
    shared_prefix.attach(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    prompts = [scene.prompt(size.seconds[1], i) for i in range(size.prompts)]
    engine, optimizer = HFEngine(model, scene.processor), adamw(model)
    prompt_of = [b for b in range(size.prompts) for _ in range(size.group)]
    media = sum(int(torch.isin(p.ids, torch.tensor(media_ids(scene))).sum()) for p in prompts)
    text = sum(len(p.ids) for p in prompts)
    written = len(prompt_of) * size.completion

    def work(meter: Meter) -> dict[str, int]:
        model.eval()
        with meter.phase("prefill"):
            state = engine.prefill(prompts)
        with meter.phase("decode"):
            said = engine.sample(state, prompt_of, Sampling(size.completion, 1.0))
        model.train()
        ids_NC = torch.tensor([c.token_ids for c in said], device=model.device)
        batch = scene.processor.collate(prompts, model.device)
        owners_N = torch.tensor(prompt_of, device=model.device)
        shared = SharedPrefix(batch, ids_NC, torch.ones_like(ids_NC), owners_N)
        learn(meter, model, lambda: shared_prefix.score(model, shared)[0].mean(), written)
        with meter.phase("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
        return {
            "encode": 2 * media,
            "prefill": text,
            "decode": written,
            "score": text + written,
            "backward": text + written,
        }

    return work


def supervised(scene: Scene) -> Work:
    """One step on a packed batch with clips of three lengths."""
    model = scene.model
    packing.attach(model)
    add_fused_lm_head(model)
    batch, optimizer = sft.batch(scene), adamw(model)
    ids = batch["input_ids"]
    tokens, answers = int(batch["attention_mask"].sum()), int((batch["labels"] != -100).sum())
    media = int(torch.isin(ids, torch.tensor(media_ids(scene), device=ids.device)).sum())

    def work(meter: Meter) -> dict[str, int]:
        learn(meter, model, lambda: model(**packing.pack(batch), fused_lm_head=True).loss, answers)
        with meter.phase("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
        return {"encode": media, "score": tokens, "backward": tokens}

    return work


def media_ids(scene: Scene) -> list[int]:
    """Tokens that stand for what a tower makes."""
    config = scene.model.config
    return [config.audio_token_index, config.image_token_index, config.video_token_index]


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Over everything that is trained."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)


def table(name: str, found: dict[str, Use], tokens: dict[str, int], steps: int) -> list[str]:
    """Rows of the report: seconds a step, tokens a second, peak memory, operations a step, share of the device's peak."""
    peak = peak_rate()
    lines = []
    for phase, use in found.items():
        seconds = use.seconds / steps
        speed = f"{tokens[phase] / seconds:,.0f}" if phase in tokens else ""
        work = f"{use.flops / steps / 1e12:.3g}" if use.flops else ""
        mfu = f"{use.flops / use.seconds / peak:.0%}" if use.flops and peak else ""
        memory = f"{use.peak_bytes / 2**30:.1f}" if use.peak_bytes else ""
        lines.append(f"| {name} | {phase} | {seconds:.3f} | {speed} | {memory} | {work} | {mfu} |")
    return lines


def peak_rate() -> float | None:
    """Of the current CUDA device; None for one that PEAKS does not know, and without one."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((rate for part, rate in PEAKS.items() if part in name), None)


def measure(scene: Scene, make: Callable[[Scene], Work]) -> tuple[Meter, dict[str, int]]:
    """Run a step to warm up, then `repeats` more under a meter; also the tokens of a step, by phase."""
    work, meter, warm = make(scene), Meter(scene.model.device), Meter(scene.model.device)
    with warm.watching(scene.model):
        tokens = work(warm)
    with meter.watching(scene.model):
        for _ in range(scene.size.repeats):
            work(meter)
    return meter, tokens


def report(scene: Scene) -> list[str]:
    """Both stages, as rows of a markdown table."""
    lines = ["| stage | phase | seconds | tokens/s | peak GiB | TFLOP | MFU |", "|---|---|---|---|---|---|---|"]
    for name, make in (("GRPO", grpo), ("SFT", supervised)):
        meter, tokens = measure(scene, make)
        lines += table(name, meter.found, tokens, scene.size.repeats)
    return lines
