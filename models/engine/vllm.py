"""Sampling with vLLM, inside the training process or in a server of its own (`models/engine/serve.py`).

vLLM is handed the very tensors that the trainer scores, so nothing is decoded, resized or counted a second time, and nothing that
its own media processing does can come between. Siblings, and a hint, which is a longer prompt, share through its prefix cache.

Log-probabilities are taken as vLLM's sampler uses them: at the sampling temperature T, with media tokens banned. The ban is a
finite penalty b on their logits, and vLLM reports what is left of them, log q_f. So its effect is undone exactly: the normaliser
without the ban is 1 + sum_f q_f (exp(b/T) - 1) times the one with it.
"""

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from safetensors.torch import save, save_file
from vllm.engine.arg_utils import EngineArgs  # pyright: ignore[reportMissingImports]
from vllm.inputs.engine import mm_input, tokens_input  # pyright: ignore[reportMissingImports]
from vllm.model_executor.models import qwen2_5_omni_thinker as stock  # pyright: ignore[reportMissingImports]
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange  # pyright: ignore[reportMissingImports]
from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]
from vllm.sampling_params import RequestOutputKind, SamplingParams  # pyright: ignore[reportMissingImports]
from vllm.v1.engine.llm_engine import LLMEngine  # pyright: ignore[reportMissingImports]

from models.engine.base import Completion, Sampling
from models.engine.config import VLLMSettings
from models.engine.weights import checksum, policy_weights
from models.fingerprint import Fingerprint, of_tensors
from models.load import save_for_engine
from models.processor import Encoded, Processor
from runtime.errors import ConfigError, MediaError, ParityError, StageError

REQUIRED: dict[str, Any] = {
    "worker_extension_cls": "models.engine.vllm_worker.PolicyWorker",
    "load_format": "dummy",  # weights come from the policy
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",  # no sampling defaults out of the checkpoint
    "mm_processor_cache_gb": 0,  # its processor is not used
    "enable_prefix_caching": True,
}
"""What this engine wants of any vLLM, here or in a server."""

WAIT = 3600
"""Seconds until a server that does not answer is given up."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One completion to be sampled."""

    prompt: int
    prefix: Sequence[int]
    seed: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    """As `Completion.logprobs`."""
    prompt_tokens: int
    """Of prompt and prefix."""
    cached_tokens: int
    """How many of them had been computed before."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How all completions of a call are drawn."""

    max_new_tokens: int
    temperature: float
    forbidden: Sequence[int]
    ends: Sequence[int]

    @property
    def penalty(self) -> float:
        """On the logits of forbidden tokens: at least 100 at the sampling temperature, e^-100 of a probability."""
        return 100.0 * max(1.0, self.temperature)

    def params(self, seed: int) -> SamplingParams:
        """The same in vLLM's words."""
        return SamplingParams(
            temperature=self.temperature,
            max_tokens=self.max_new_tokens,
            # On a CPU, torch's own generator draws. vLLM 0.30 wants to take back what a request's generator drew behind a piece of
            # a prompt, and a generator of the CPU cannot.
            seed=None if current_platform.is_cpu() else seed,
            logit_bias=dict.fromkeys(self.forbidden, -self.penalty),
            logprobs=None if self.forbidden else 0,  # of the sampled token come with those of the next line
            logprob_token_ids=list(self.forbidden) or None,
            flat_logprobs=True,
            stop_token_ids=list(self.ends),
            ignore_eos=True,  # the ends above, and no others
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def read(self, output: Any) -> Drawn:
        """An answer, with the ban undone in its log-probabilities (see the top of this file)."""
        (said,) = output.outputs
        logps_TF = torch.tensor(said.logprobs.logprobs, dtype=torch.float64).view(len(said.token_ids), -1)
        own_T, banned_TF = logps_TF[:, 0], logps_TF[:, 1 : 1 + len(self.forbidden)]
        unbanned_TF = banned_TF + self.penalty / (self.temperature or 1.0)
        logprobs_T = own_T - (unbanned_TF.exp() - banned_TF.exp()).sum(1).log1p()
        return Drawn(said.token_ids, logprobs_T.tolist(), len(output.prompt_token_ids), output.num_cached_tokens)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as vLLM's engine takes it from its own renderer."""

    ids: list[int]
    items: MultiModalKwargsItems
    hashes: dict[str, list[str]]
    places: dict[str, list[PlaceholderRange]]

    def before(self, prefix: Sequence[int]) -> Any:
        """The prompt that ends in `prefix`."""
        ids = [*self.ids, *prefix]
        return mm_input(ids, self.items, self.hashes, self.places) if self.places else tokens_input(ids)


def as_prompt(batch: dict[str, Any], vllm_config: Any) -> Prompt:
    """One prompt, collated for the model, as vLLM's engine takes it.

    Args:
        batch: model input of one prompt, placeholders expanded.
        vllm_config: of the engine.

    Raises:
        MediaError: when the placeholders are not as many as the media have tokens.
        ConfigError: when vLLM would wait for ever for a step that is long enough for a clip.
    """
    ids = batch["input_ids"][0]
    media = {k: torch.as_tensor(v) for k, v in batch.items() if k not in ("input_ids", "attention_mask")}
    if not any(tensor.ndim for tensor in media.values()):
        return Prompt(ids.tolist(), MultiModalKwargsItems({}), {}, {})
    config = vllm_config.model_config.hf_config.thinker_config
    merged = config.vision_config.spatial_merge_size**2
    counts: dict[str, list[int]] = {}  # tokens of each clip
    if "input_features" in media:
        mask = media["feature_attention_mask"]
        frames = media["audio_feature_lengths"] = mask.sum(1)
        media["input_audio_features"] = media.pop("input_features").permute(1, 0, 2)[:, mask.bool()]
        counts["audio"] = (((frames - 1) // 2 - 1) // 2 + 1).tolist()
    if "image_grid_thw" in media:
        counts["image"] = (media["image_grid_thw"].prod(1) // merged).tolist()
    if "video_grid_thw" in media:
        counts["video"] = (media["video_grid_thw"].prod(1) // merged).tolist()
        media["second_per_grid_ts"] = media.pop("video_second_per_grid")
    token_of = {"audio": config.audio_token_index, "image": config.image_token_index, "video": config.video_token_index}
    together = [("audio", "video"), ("image",)] if batch["use_audio_in_video"] else [("audio",), ("image",), ("video",)]
    places: dict[str, list[PlaceholderRange]] = {}
    longest = 0
    for kinds in together:
        for start, end in _runs(torch.isin(ids, torch.tensor([token_of[kind] for kind in kinds]))):
            longest = max(longest, end - start)
            for kind in kinds:
                own = ids[start:end] == token_of[kind]
                places.setdefault(kind, []).append(PlaceholderRange(start, end - start, None if own.all() else own))
    found = {kind: [place.get_num_embeds() for place in where] for kind, where in places.items()}
    if found != counts:
        raise MediaError(
            f"a prompt has placeholders for {found} tokens, its media make {counts}: the processor does not belong to this "
            "checkpoint; take both from one folder"
        )
    if longest > (budget := vllm_config.scheduler_config.max_num_batched_tokens):
        raise ConfigError(
            f"engine.vllm.max_num_batched_tokens={budget}: a clip of {longest} tokens, with its sound, is computed in one step; "
            "raise it (of a server: --max-num-batched-tokens)"
        )
    # One hash for all clips of a prompt. vLLM would otherwise take two prompts for the same whose videos differ in sound alone:
    # its prefix cache looks at one clip of a block of tokens, and a video and its sound share theirs.
    digest = hashlib.sha256()
    for name in sorted(media):
        digest.update(name.encode() + media[name].contiguous().numpy().tobytes())
    hashes = {kind: [f"{digest.hexdigest()}-{kind}-{i}" for i in range(len(where))] for kind, where in places.items()}
    fields = stock.create_qwen2_5_omni_thinker_field_factory(config.vision_config.spatial_merge_size)(media)
    return Prompt(ids.tolist(), MultiModalKwargsItems.from_hf_inputs(media, fields), hashes, places)


def _runs(mask_P: torch.Tensor) -> list[tuple[int, int]]:
    """Start and end of every unbroken run of True."""
    edges = torch.nn.functional.pad(mask_P.int(), (1, 1)).diff()
    return list(zip(*((edges == way).nonzero()[:, 0].tolist() for way in (1, -1)), strict=True))


class Host(Protocol):
    """Where vLLM runs."""

    max_model_len: int

    def prepare(self, batch: dict[str, Any]) -> Any:
        """A collated prompt in the form that `draw` takes."""
        ...

    def draw(self, prompts: Sequence[Any], draws: Sequence[Draw], rules: Rules) -> list[Drawn]:
        """Sample all completions together."""
        ...

    def load(self, weights: Iterator[tuple[str, torch.Tensor]]) -> list[dict[str, Any]]:
        """Hand over weights and forget what was computed with the old ones.

        Returns:
            What `PolicyWorker.take_weights` says, for each worker.
        """
        ...


class InProcess:
    """vLLM in the training process. It shares the device: leave room by `kv_cache_gib` or `gpu_memory_utilization`."""

    def __init__(self, settings: VLLMSettings, checkpoint: Path, dtype: str, seed: int) -> None:
        set_num_threads = torch.set_num_threads
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        with TemporaryDirectory() as folder:
            save_for_engine(checkpoint, Path(folder) / "model")
            self.engine = LLMEngine.from_engine_args(
                EngineArgs(
                    model=f"{folder}/model",
                    dtype=dtype,  # type: ignore[arg-type]
                    seed=seed,
                    max_model_len=settings.max_model_len,
                    max_num_seqs=settings.max_num_seqs,
                    max_num_batched_tokens=settings.max_num_batched_tokens,
                    block_size=settings.block_size,
                    kv_cache_memory_bytes=round(settings.kv_cache_gib * 2**30) if settings.kv_cache_gib else None,
                    gpu_memory_utilization=settings.gpu_memory_utilization,
                    enforce_eager=settings.eager,
                    # of several ranks, each has an engine of its own
                    distributed_executor_backend="external_launcher" if ranks > 1 else "uni",
                    disable_log_stats=True,
                    **REQUIRED,
                )
            )
        torch.set_num_threads = set_num_threads  # on a CPU, vLLM puts a function there that does nothing
        self.max_model_len = settings.max_model_len

    def prepare(self, batch: dict[str, Any]) -> Prompt:
        """See `Host.prepare`."""
        return as_prompt(batch, self.engine.vllm_config)

    def draw(self, prompts: Sequence[Prompt], draws: Sequence[Draw], rules: Rules) -> list[Drawn]:
        """See `Host.draw`."""
        names = [str(i) for i in range(len(draws))]
        done: dict[str, Any] = {}
        try:
            for name, draw in zip(names, draws, strict=True):
                self.engine.add_request(name, prompts[draw.prompt].before(draw.prefix), rules.params(draw.seed))
            while self.engine.has_unfinished_requests():
                done |= {output.request_id: output for output in self.engine.step()}
        finally:  # the next call would wait for what an error leaves behind
            self.engine.abort_request([name for name in names if name not in done])
        return [rules.read(done[name]) for name in names]

    def load(self, weights: Iterator[tuple[str, torch.Tensor]]) -> list[dict[str, Any]]:
        """See `Host.load`."""
        replies = self.engine.collective_rpc("take_weights", args=(weights,))
        self.engine.reset_encoder_cache()
        self.engine.reset_mm_cache()
        self.engine.reset_prefix_cache()
        return replies


class Remote:
    """vLLM in a server that `python -m models.engine.serve` started.

    Args:
        url: of the server.
        folder: gets the policy's weights for the server to read.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url.rstrip("/"), folder.resolve()
        self.max_model_len = self._ask("limits", None)["max_model_len"]

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """See `Host.prepare`; the server does the rest."""
        return batch

    def draw(self, prompts: Sequence[dict[str, Any]], draws: Sequence[Draw], rules: Rules) -> list[Drawn]:
        """See `Host.draw`."""
        wanted = {draw.prompt for draw in draws}
        tensors = {f"{b}.{name}": torch.as_tensor(value) for b in wanted for name, value in prompts[b].items()}
        request = {"draws": [asdict(draw) for draw in draws], "rules": asdict(rules)}
        tensors["request"] = torch.frombuffer(bytearray(json.dumps(request).encode()), dtype=torch.uint8)
        body = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        return [Drawn(**drawn) for drawn in self._ask("draw", body)]

    def load(self, weights: Iterator[tuple[str, torch.Tensor]]) -> list[dict[str, Any]]:
        """See `Host.load`. With several ranks the first one speaks, and all wait for it."""
        distributed = torch.distributed.is_initialized()
        replies: list[dict[str, Any]] = []
        if not distributed or torch.distributed.get_rank() == 0:
            path, beside = self.folder / "policy.safetensors", self.folder / ".policy.safetensors"
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({name: value.cpu().contiguous() for name, value in weights}, beside)
            os.replace(beside, path)
            replies = self._ask("load", json.dumps({"path": str(path)}).encode())
        if distributed:
            torch.distributed.barrier()
        return replies

    def _ask(self, what: str, body: bytes | None) -> Any:
        """POST a body, or GET without one.

        Raises:
            StageError: when nobody answers, or the server could not do it.
        """
        try:
            with urllib.request.urlopen(f"{self.url}/undertone/{what}", body, timeout=WAIT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise StageError(
                f"engine.vllm.url={self.url}: the server could not {what}: {error.read().decode()[:500] or error}; was it started "
                "with `python -m models.engine.serve`, for this model?"
            ) from None
        except OSError as error:
            raise StageError(
                f"engine.vllm.url={self.url}: no answer ({error}); start it first: python -m models.engine.serve CHECKPOINT FOLDER"
            ) from None


class VLLMEngine:
    """Samples with vLLM; see `models.engine.base.Engine`.

    Args:
        host: where vLLM runs.
        processor: encodes for the policy.
    """

    def __init__(self, host: Host, processor: Processor) -> None:
        self.host, self.processor = host, processor
        self.fingerprints: list[Fingerprint] = []
        self.prompt_tokens = self.cached_tokens = 0
        """Of all completions so far: tokens of prompt and prefix, and how many of them were found computed."""
        self._step: int | None = None

    def follow(self, model: torch.nn.Module, step: int) -> None:
        """See `Engine.follow`. Nothing is sent twice for the same step."""
        if step == self._step:
            return
        sent: dict[str, int] = {}

        def noted() -> Iterator[tuple[str, torch.Tensor]]:
            for name, value in policy_weights(model):
                sent[name] = checksum(value)
                yield name, value

        self._step = None  # until they have arrived
        for reply in self.host.load(noted()):
            lost = [name for name, value in sent.items() if reply["read"].get(name) != value]
            if lost or reply["other"]:
                raise ParityError(
                    f"step {step}: the policy's weights did not reach vLLM: {len(lost)} of {len(sent)} tensors were not taken as "
                    f"they were sent, {len(reply['other'])} are held otherwise, first {(lost or reply['other'])[0]!r}; check that "
                    "vLLM runs this checkpoint's model with model.dtype, and is the version that pyproject.toml names"
                )
        self._step = step

    def prefill(self, prompts: Sequence[Encoded]) -> tuple[list[Any], list[int]]:
        """See `Engine.prefill`. vLLM computes prompts with their first completion and keeps them."""
        batches = [self.processor.collate([prompt]) for prompt in prompts]
        self.fingerprints = [of_tensors(batch) for batch in batches]
        return [self.host.prepare(batch) for batch in batches], [len(prompt.ids) for prompt in prompts]

    def sample(
        self,
        state: tuple[list[Any], list[int]],
        prompt_of: Sequence[int],
        sampling: Sampling,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[Completion]:
        """See `Engine.sample`. Torch's generator seeds every completion, so a resumed run goes on as it would have."""
        prompts, lengths = state
        prefixes = prefixes or [()] * len(prompt_of)
        count = len(prompt_of)
        seeds = torch.randint(2**31, (count,)).tolist() if sampling.temperature else [0] * count
        draws = [Draw(b, tuple(p), seed) for b, p, seed in zip(prompt_of, prefixes, seeds, strict=True)]
        longest = max(lengths[draw.prompt] + len(draw.prefix) for draw in draws)
        if longest + sampling.max_new_tokens > self.host.max_model_len:
            raise ConfigError(
                f"engine.vllm.max_model_len={self.host.max_model_len}: a prompt of {longest} tokens (with its hint) and "
                f"{sampling.max_new_tokens} new ones do not fit; raise it, or lower rl.max_new_tokens"
            )
        ends = self.processor.eos_ids
        rules = Rules(sampling.max_new_tokens, sampling.temperature, self.processor.forbidden_ids, ends)  # type: ignore[arg-type]
        drawn = self.host.draw(prompts, draws, rules)
        self.prompt_tokens += sum(d.prompt_tokens for d in drawn)
        self.cached_tokens += sum(d.cached_tokens for d in drawn)
        return [Completion(tuple(d.token_ids), tuple(d.logprobs), d.token_ids[-1] in ends) for d in drawn]

    def generate(self, prompts: Sequence[Encoded], sampling: Sampling, n: int, batch: int) -> list[list[Completion]]:
        """See `Engine.generate`."""
        out: list[list[Completion]] = []
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            flat = self.sample(self.prefill(part), [i for i in range(len(part)) for _ in range(n)], sampling)
            out += [flat[i * n : (i + 1) * n] for i in range(len(part))]
        return out
