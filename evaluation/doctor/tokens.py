"""How many tokens a prompt has, by the rules of the processor (models/processor.py), without decoding anything again.

Any frame rate and size costs a little arithmetic. The counts are exact, but for a token in some 600 clips whose sound is resampled,
and for videos of which an edit list hides frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qwen_omni_utils.v2_5.vision_process import smart_nframes
from transformers import Qwen2_5OmniProcessor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import _get_feat_extract_output_lengths
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from evaluation.doctor.media import Clip, Picture
from models.load import ModelConfig
from models.media import RATE
from models.processor import Processor
from tasks.base import Message


@dataclass(frozen=True, slots=True)
class Sampling:
    """What decides how many tokens a video becomes."""

    fps: float
    max_frames: int
    shortest_edge: int
    """Fewest pixels of a frame."""
    longest_edge: int
    """Most."""

    def coarser(self, slower: int, smaller: int) -> "Sampling":
        """The frame rate and the most frames divided by one number, the most pixels by another."""
        frames = max(2, self.max_frames // slower // 2 * 2)
        edge = max(self.longest_edge // smaller, self.shortest_edge)
        return replace(self, fps=self.fps / slower, max_frames=frames, longest_edge=edge)


def sampling_of(cfg: ModelConfig) -> Sampling:
    """The frame rate and size of a model config."""
    size = cfg.video_size
    return Sampling(cfg.fps, cfg.max_frames, size.get("shortest_edge", 0), size.get("longest_edge", 0))


@dataclass(frozen=True, slots=True)
class Prompt:
    """One record's prompt, as far as its length depends on it."""

    uid: str
    text: int
    """Tokens of everything but media."""
    clips: tuple[Clip, ...]
    """What the model is given of its media."""


def frames_of(picture: Picture, sampling: Sampling) -> tuple[int, float]:
    """How many frames of a video are taken, and their rate; as `models.media.read_video` takes them."""
    wanted = {"fps": min(sampling.fps, picture.fps), "max_frames": min(sampling.max_frames, picture.frames)}
    count = smart_nframes(wanted, picture.frames, picture.fps)
    return count, count / picture.frames * picture.fps


class Counter:
    """Counts tokens as one model's processor makes them.

    Args:
        processor: of the model.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.in_video = processor.settings.audio_in_video

    @property
    def _real(self) -> Qwen2_5OmniProcessor:
        assert isinstance(self.processor.processor, Qwen2_5OmniProcessor), "a text model is given no media"
        return self.processor.processor

    @property
    def pixels(self) -> int:
        """Numbers in a patch; 0 for a text model."""
        if not isinstance(self.processor.processor, Qwen2_5OmniProcessor):
            return 0
        stock = self._real.video_processor
        return 3 * stock.temporal_patch_size * stock.patch_size**2

    def prompt(self, uid: str, messages: Sequence[Message], clips: Sequence[Clip]) -> Prompt:
        """What decides the length of a prompt.

        Args:
            uid: of the record.
            messages: as `Task.prompt` makes them.
            clips: of their media parts, in that order.

        Raises:
            MediaError: for a text with a media token, or media for a text model.
        """
        if not isinstance(self.processor.processor, Qwen2_5OmniProcessor):
            return Prompt(uid, len(self.processor.encode(messages).ids), ())
        film = self.in_video and any(clip.media.kind == "video" for clip in clips)  # its track stands for all sound
        turns = []
        for message in messages:
            content = []
            for part in message["content"]:
                if part["type"] == "text":
                    self.processor.text_ids(part["text"])  # refuses media tokens
                    content.append({"type": "text", "text": part["text"]})
                elif not (film and part["type"] == "audio"):
                    content.append({"type": part["type"]})
            turns.append({"role": message["role"], "content": content})
        shown = tuple(clip for clip in clips if not (film and clip.media.kind == "audio"))
        whole = self._real.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return Prompt(uid, len(self.processor.tokenizer(whole)["input_ids"]) - len(shown), shown)

    def tokens(self, prompt: Prompt, sampling: Sampling) -> int:
        """Length of a prompt."""
        return prompt.text + sum(self._of_clip(clip, sampling) for clip in prompt.clips)

    def patches(self, prompt: Prompt, sampling: Sampling) -> int:
        """Patches of all pictures of a prompt."""
        return sum(self._patches(clip.picture, sampling) for clip in prompt.clips if clip.picture is not None)

    def frame_size(self, picture: Picture, sampling: Sampling) -> tuple[int, int]:
        """Height and width of a frame as the model sees it."""
        if picture.fps:
            stock, least, most = self._real.video_processor, sampling.shortest_edge, self._largest(picture, sampling)
        else:
            stock = self._real.image_processor
            least, most = stock.size["shortest_edge"], stock.size["longest_edge"]
        return smart_resize(picture.height, picture.width, stock.patch_size * stock.merge_size, least, most)

    def _of_clip(self, clip: Clip, sampling: Sampling) -> int:
        if clip.media.kind == "audio":
            assert clip.sound is not None
            return self._of_sound(clip.sound.samples)
        assert clip.picture is not None
        seen = self._patches(clip.picture, sampling) // self._real.video_processor.merge_size**2
        if clip.media.kind == "image" or not self.in_video:
            return seen
        frames, rate = frames_of(clip.picture, sampling)
        samples = clip.sound.samples if clip.sound else round(frames / rate * RATE)  # silence where there is no track
        return seen + self._of_sound(samples) + 2  # between a begin and an end of sound

    def _of_sound(self, samples: int) -> int:
        frames = -(-samples // self._real.feature_extractor.hop_length)
        return int(_get_feat_extract_output_lengths(frames))

    def _patches(self, picture: Picture, sampling: Sampling) -> int:
        stock = self._real.video_processor if picture.fps else self._real.image_processor
        rows = frames_of(picture, sampling)[0] // stock.temporal_patch_size if picture.fps else 1
        height, width = self.frame_size(picture, sampling)
        return rows * (height // stock.patch_size) * (width // stock.patch_size)

    def _largest(self, picture: Picture, sampling: Sampling) -> int:
        """Most pixels of a frame: the setting, or an even share of what a video may have in all, as the stock resize does."""
        stock = self._real.video_processor
        every = int(stock.max_video_tokens * (stock.patch_size * stock.merge_size) ** 2 * 0.9)
        share = every * stock.temporal_patch_size // frames_of(picture, sampling)[0]
        return max(min(sampling.longest_edge, share), int(sampling.shortest_edge * 1.05))
