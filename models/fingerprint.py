"""What a model was really given: a fingerprint of every clip that entered its backbone.

`watch` looks where media enter the omni thinker, below everything that pads, caches, copies or forgets them:
`get_audio_features`, `get_image_features` and `get_video_features`, through which every clip goes to a tower, and
`get_rope_index`, which lays out sound and frames. It does not matter how often and in what formulation they are passed.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers import Qwen2_5OmniThinkerModel

from models.processor import Encoded
from models.shared_prefix import backbone_of

ONE_EACH = {"audio": "feature_attention_mask", "image": "image_grid_thw", "video": "video_grid_thw"}
"""For each kind of media, the model input that has one row for each clip."""

WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an element."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip, as the model was given it."""

    size: int
    """Mel frames of a sound, patches of an image or a video."""
    checksum: int
    """Of the bits of its values, and of their places."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a video was placed in its prompt."""

    use_audio_in_video: bool
    seconds: float
    """Per pair of frames."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a model was given of the media of one prompt, or of several; in the order in which it was given."""

    clips: dict[str, tuple[Clip, ...]]
    """Of each of ONE_EACH."""
    layout: tuple[Layout, ...]
    """Of the videos."""


def _clips(parts: Sequence[torch.Tensor]) -> list[Clip]:
    """Clips of (R, W) values each.

    The checksum is the sum of row number times the row's bits, read as whole numbers, modulo 2**64: whole numbers add up to
    the same in any order, and rows that change places are noticed.
    """
    sums = []
    for values_RW in parts:
        bits_RW = values_RW.detach().contiguous().view(WHOLE_NUMBERS[values_RW.element_size()])
        numbers_R = torch.arange(1, len(bits_RW) + 1, device=bits_RW.device)
        sums.append((bits_RW.sum(1, dtype=torch.int64) * numbers_R).sum())
    checksums = torch.stack(sums).tolist() if sums else []  # one wait for the device
    return [Clip(len(values), checksum) for values, checksum in zip(parts, checksums, strict=True)]


def _sounds(features_BMT: torch.Tensor, mask_BT: torch.Tensor) -> list[Clip]:
    return _clips([features.T[mask.bool()] for features, mask in zip(features_BMT, mask_BT, strict=True)])


def _pictures(patches: torch.Tensor, grid_B3: torch.Tensor) -> list[Clip]:
    return _clips(patches.split(grid_B3.prod(1).tolist()))


def of_tensors(batch: dict[str, Any]) -> Fingerprint:
    """The fingerprint of a model input, as `Processor.collate` makes it.

    What an engine of another process states, where nobody can look: the fingerprint of what it handed over.
    """
    sight = Sight()
    if "input_features" in batch:
        sight.get_audio_features(batch["input_features"], batch["feature_attention_mask"])
    if "pixel_values" in batch:
        sight.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
    if "pixel_values_videos" in batch:
        grid = batch["video_grid_thw"]
        sight.get_video_features(batch["pixel_values_videos"], grid)
        sight.get_rope_index(grid, batch["use_audio_in_video"], batch["video_second_per_grid"])
    return sight.whole()


class Sight:
    """Everything that a watched model was given, in the order in which it was given."""

    def __init__(self) -> None:
        self.clips: dict[str, list[Clip]] = {kind: [] for kind in ONE_EACH}
        self.layout: list[Layout] = []

    def whole(self) -> Fingerprint:
        """All of it as one."""
        return Fingerprint({kind: tuple(seen) for kind, seen in self.clips.items()}, tuple(self.layout))

    def dealt(self, prompts: Sequence[Encoded]) -> list[Fingerprint]:
        """All of it, dealt to the prompts, which were run once and in this order; what was not given is missing at the end."""
        clips, layout = {kind: iter(seen) for kind, seen in self.clips.items()}, iter(self.layout)
        out = []
        for prompt in prompts:
            count = {kind: len(prompt.media.get(name, ())) for kind, name in ONE_EACH.items()}
            dealt = {kind: tuple(islice(clips[kind], n)) for kind, n in count.items()}
            out.append(Fingerprint(dealt, tuple(islice(layout, count["video"]))))
        return out

    # Called with the arguments of the backbone's methods of these names.

    def get_audio_features(self, input_features: torch.Tensor, feature_attention_mask: torch.Tensor, **_: Any) -> None:
        self.clips["audio"] += _sounds(input_features, feature_attention_mask)

    def get_image_features(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **_: Any) -> None:
        self.clips["image"] += _pictures(pixel_values, image_grid_thw)

    def get_video_features(self, pixel_values_videos: torch.Tensor, video_grid_thw: torch.Tensor, **_: Any) -> None:
        self.clips["video"] += _pictures(pixel_values_videos, video_grid_thw)

    def get_rope_index(
        self,
        video_grid_thw: torch.Tensor | None = None,
        use_audio_in_video: bool = False,
        second_per_grids: torch.Tensor | None = None,
        **_: Any,
    ) -> None:
        if video_grid_thw is not None:
            seconds = torch.ones(len(video_grid_thw)) if second_per_grids is None else second_per_grids
            self.layout += [Layout(use_audio_in_video, s) for s in torch.as_tensor(seconds).tolist()]


@contextmanager
def watch(model: torch.nn.Module, *, learning: bool = False) -> Iterator[Sight]:
    """Note all media that enter the backbone of `model` inside the block; a text model has no such entrance.

    Args:
        model: the model, with or without PEFT wrapper.
        learning: whether to look only where gradients are recorded: what else is scored beside a loss teaches nothing.
    """
    backbone, sight = backbone_of(model), Sight()
    notes: list[Callable[..., None]] = [
        sight.get_audio_features,
        sight.get_image_features,
        sight.get_video_features,
        sight.get_rope_index,
    ]
    if not isinstance(backbone, Qwen2_5OmniThinkerModel):
        notes = []
    own = vars(backbone)
    before = {note.__name__: own[note.__name__] for note in notes if note.__name__ in own}  # of a watch around this one
    for note in notes:
        own[note.__name__] = _noted(getattr(backbone, note.__name__), note, learning)
    try:
        yield sight
    finally:
        for note in notes:
            del own[note.__name__]
        own.update(before)


def _noted(method: Callable[..., Any], note: Callable[..., None], learning: bool) -> Callable[..., Any]:
    names = inspect.signature(method)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or not learning:
            arguments = names.bind(*args, **kwargs).arguments
            arguments |= arguments.pop("kwargs", {})
            note(**arguments)
        return method(*args, **kwargs)

    return call
