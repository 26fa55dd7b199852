"""What runs inside vLLM's worker, in this process or in a server: it takes the policy's weights.

Importing this module also mends how vLLM 0.30 handles sound inside a video:

- It numbers the two tokens before the media one after the other, and likewise the two behind them; Qwen2.5-Omni was trained
  with one position for both. Log-probabilities are wrong by some tenths.
- It tells sound from frames by their order, unless they alternate in what one step computes. A step that begins in the middle
  of a clip (behind a cached prefix, or where a long prompt was cut) may hold a single run of each, in the other order.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniPreTrainedModelForConditionalGeneration
from vllm.model_executor.models import qwen2_5_omni_thinker as stock  # pyright: ignore[reportMissingImports]

from models.engine.weights import checksum


class Positions:
    """The position code of transformers, without its model."""

    get_rope_index: Any = Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_rope_index
    get_llm_pos_ids_for_vision = Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_llm_pos_ids_for_vision
    get_chunked_index = Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_chunked_index

    def __init__(self, config: Any) -> None:
        self.config = config
        self.spatial_merge_size = config.vision_config.spatial_merge_size


def positions_of(thinker: Any, input_tokens: list[int], mm_features: list[Any]) -> tuple[torch.Tensor, int]:
    """In place of vLLM's `get_mrope_input_positions`: what transformers computes.

    Returns:
        (3, P) positions, and what the next position is ahead of the number of tokens.
    """
    found = defaultdict(list)
    for feature in sorted(mm_features, key=lambda f: f.mm_position.offset):
        for name, field in feature.data.items():
            found[name].append(field.data)
    media = {name: torch.stack(values) for name, values in found.items() if name.endswith(("_thw", "_lengths", "_ts"))}
    positions_3BP, ahead_B = Positions(thinker.config).get_rope_index(
        torch.tensor([input_tokens]),
        media.get("image_grid_thw"),
        media.get("video_grid_thw"),
        torch.ones(1, len(input_tokens), dtype=torch.long),
        any(map(bool, found["use_audio_in_video"])),
        media.get("audio_feature_lengths"),
        media.get("second_per_grid_ts"),
    )
    return positions_3BP[:, 0], int(ahead_B)


stock.Qwen2_5OmniThinkerForConditionalGeneration.get_mrope_input_positions = positions_of  # type: ignore[method-assign]
stock.check_interleaved_audio_video = lambda is_video, is_audio, num_video, num_audio: num_video > 0 and num_audio > 0


class PolicyWorker:
    """Becomes a part of vLLM's worker class (`worker_extension_cls`)."""

    model_runner: Any
    parallel_config: Any

    def take_weights(self, source: str | Iterable[tuple[str, torch.Tensor]]) -> dict[str, Any]:
        """Load weights into the live model.

        Args:
            source: names of a full checkpoint and values, or a safetensors file of them.

        Returns:
            `read`: checksum of every tensor that the loader took; `other`: names of those which the model now holds
            otherwise. Tensors that a kernel keeps in a form of its own cannot be compared and are in neither: on a CPU
            the matrices of the language model; with tensor parallelism, all.
        """
        read: dict[str, int] = {}

        def noted() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in _tensors(Path(source)) if isinstance(source, str) else source:
                read[name] = checksum(tensor)
                yield name, tensor

        self.reload_weights(weights_iterator=noted(), is_checkpoint_format=True)  # type: ignore[attr-defined]
        whole = self.parallel_config.world_size == 1
        return {"read": read, "other": _held_otherwise(self.model_runner.get_model(), read) if whole else []}


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            yield name, file.get_tensor(name)


def _held_otherwise(model: Any, read: dict[str, int]) -> list[str]:
    """Which tensors are not what was read, of those that the model holds as they were read, alone or joined."""
    held = dict(model.named_parameters())
    expected: dict[str, int] = defaultdict(int)
    for name, value in read.items():
        (own,) = model.hf_to_vllm_mapper.apply_list([name])
        if own not in held:
            for joined, parts in model.packed_modules_mapping.items():
                for part in parts:
                    own = own.replace(f".{part}.", f".{joined}.")
        expected[own] += value
    wrapped = {name: (value + 2**63) % 2**64 - 2**63 for name, value in expected.items()}
    return [name for name, value in wrapped.items() if held[name].numel() and checksum(held[name]) != value]
