"""One clip to tensors: sizes as the reference has them, made once, and ahead of need."""

import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from mediafiles import RATE, numbers, tone, write_mp4, write_sound
from PIL import Image
from qwen_omni_utils.v2_5 import vision_process
from transformers import Qwen2_5OmniProcessor

from models import clips as clips_module
from models.clips import ClipReader, MediaSettings
from models.media_cache import MediaCache
from runtime.errors import MediaError

SIZE = {"shortest_edge": 3136, "longest_edge": 20_000}


@pytest.fixture(scope="module")
def real(tiny) -> Qwen2_5OmniProcessor:
    return tiny[2].processor


@pytest.fixture
def reader(real: Qwen2_5OmniProcessor, tmp_path: Path) -> Callable[..., ClipReader]:
    """Makes readers that share a cache."""

    def make(cached: bool = True, audio_in_video: bool = True, fps: float = 4.0, size: dict = SIZE) -> ClipReader:
        cache = MediaCache(tmp_path / "media", 10_000_000) if cached else None
        return ClipReader(real, MediaSettings(audio_in_video, fps, 8, size), cache)

    return make


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Counts which reader of models/media.py was given which file."""
    counts: Counter[tuple[str, str]] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(clips_module, name)

        def read(path: str, *args: Any) -> Any:
            counts[name, Path(path).name] += 1
            return original(path, *args)

        return read

    for name in ("read_audio", "read_image", "read_video"):
        monkeypatch.setattr(clips_module, name, counted(name))
    return counts


def part(kind: str, path: Path, span: tuple[float, float] | None = None) -> dict[str, Any]:
    return {"type": kind, "path": str(path), "span": span}


def write_film(path: Path, size: tuple[int, int], frames: int = 13, fps: int = 6) -> Path:
    """Frames (H, W) of coloured noise, coarse enough to survive compression and fine enough to tell filters apart."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as box:
        film = box.add_stream("mpeg4", rate=fps, options={"qmin": "1", "qmax": "2"})
        film.height, film.width = size
        film.pix_fmt = "yuv420p"
        for _ in range(frames):
            coarse = noise.integers(0, 256, (-(-size[0] // 4), -(-size[1] // 4), 3), np.uint8)
            image = np.ascontiguousarray(coarse.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]])
            box.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        box.mux(film.encode(None))
    return path


def whole_film(path: str) -> np.ndarray:
    """(T, H, W, 3) every frame."""
    with av.open(path) as box:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)])


# --- as the reference does it ---


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[torch.Tensor, float]]:
    """`fetch_video` of qwen_omni_utils whole, but for the decoder: torchvision's, which it falls back to, is no more."""

    def read_video(path: str, **_: Any) -> tuple[torch.Tensor, None, dict[str, float]]:
        with av.open(path) as box:
            rate = float(box.streams.video[0].average_rate)
        return torch.from_numpy(whole_film(path)).permute(0, 3, 1, 2), None, {"video_fps": rate}

    monkeypatch.setattr(vision_process.io, "read_video", read_video, raising=False)
    monkeypatch.setattr(vision_process, "get_video_reader_backend", lambda: "torchvision")

    def fetch(path: Path, fps: float, max_frames: int, size: dict[str, int]) -> tuple[torch.Tensor, float]:
        asked = {"video": str(path), "fps": fps, "max_frames": max_frames}
        bounds = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        video, rate = vision_process.fetch_video(asked | bounds, return_video_sample_fps=True)
        assert isinstance(video, torch.Tensor)
        return video, rate

    return fetch


@pytest.mark.parametrize("size", [(56, 84), (64, 64), (100, 70), (150, 250), (30, 40), (96, 500)])
def test_frames_and_their_size_are_those_of_the_reference(reader, reference, tmp_path: Path, size) -> None:
    path = write_film(tmp_path / "a.mp4", size)
    ours = reader().read(part("video", path))
    theirs, rate = reference(path, 4.0, 8, SIZE)
    assert ours["pixels"].dtype == torch.uint8 and ours["pixels"].shape == theirs.shape
    assert ours["fps"].item() == rate
    off = (ours["pixels"].float() - theirs).abs().mean().item()
    # It resizes as floats and rounds once, the stock processor (and so do we) as bytes, which rounds and clamps between its two
    # passes. Of noise, a fifth of the values differ; another frame would be 85 levels away.
    assert off == 0 if size == (56, 84) else 0 < off < 0.25


def test_many_large_frames_share_a_budget_of_pixels_as_in_the_reference(reader, reference, tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", frames=24, fps=12, size=(112, 224))
    settings = {"shortest_edge": 784, "longest_edge": 200_704}
    long = reader(size=settings)
    long.processor.video_processor.max_video_tokens, kept = 40, long.processor.video_processor.max_video_tokens
    try:
        ours = long.read(part("video", path))["pixels"]
    finally:
        long.processor.video_processor.max_video_tokens = kept
    total = 40 * 784 * 0.9  # what MODEL_SEQ_LEN is in the reference
    height, width = vision_process.smart_resize(112, 224, 28, 784, max(total / 8 * 2, int(784 * 1.05)))
    assert ours.shape == (8, 3, height, width) and (height, width) != (112, 224)


def test_resizing_once_more_changes_nothing(reader, real, tmp_path: Path) -> None:
    pixels = reader().read(part("video", write_film(tmp_path / "a.mp4", (150, 250))))["pixels"]
    raw = whole_film(str(tmp_path / "a.mp4"))[torch.linspace(0, 12, 8).round().long().numpy()]
    options = {"size": SIZE, "do_sample_frames": False, "return_tensors": "pt"}
    once, again = (
        real.video_processor([video], **options) for video in (torch.from_numpy(raw).permute(0, 3, 1, 2), pixels)
    )
    assert torch.equal(once["pixel_values_videos"], again["pixel_values_videos"])


def test_an_image_is_resized_like_the_stock_one(reader, real, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (90, 131, 3), np.uint8)
    Image.fromarray(raw).save(tmp_path / "a.png")
    pixels = reader().read(part("image", tmp_path / "a.png"))["pixels"]
    once, again = (
        real.image_processor([image], return_tensors="pt") for image in (torch.from_numpy(raw).permute(2, 0, 1), pixels)
    )
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 84, 140)
    assert torch.equal(once["pixel_values"], again["pixel_values"])


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_picture_too_narrow_to_be_resized_is_refused(reader, tmp_path: Path, kind: str) -> None:
    path = write_film(tmp_path / "a.mp4", (2, 402), frames=4)
    said = f"{path}: 402 x 2 pixels, one side may be 200 times the other at most; crop it, or remove the record"
    with pytest.raises(MediaError, match="^" + re.escape(said) + "$"):
        reader().read(part(kind, path))


# --- once ---


def test_a_clip_is_decoded_once_for_all_readers_of_a_cache(reader, decoded, tmp_path: Path) -> None:
    film = part("video", write_mp4(tmp_path / "a.mp4", sound=tone(2)))
    sound = part("audio", write_sound(tmp_path / "a.wav", tone(1.3)))
    image = part("image", tmp_path / "a.mp4")
    first = [reader().read(p) for p in (film, sound, image)]
    second = [reader().read(p) for p in (film, sound, image)]
    assert decoded == {
        ("read_video", "a.mp4"): 1,
        ("read_audio", "a.mp4"): 1,
        ("read_audio", "a.wav"): 1,
        ("read_image", "a.mp4"): 1,
    }
    for a, b, fresh in zip(first, second, (reader(cached=False).read(p) for p in (film, sound, image)), strict=True):
        for other in (b, fresh):
            assert a.keys() == other.keys() and all(torch.equal(a[k], other[k]) for k in a)
    assert first[1]["wave"].shape == (20_800,) and first[1]["mel"].shape == (128, 130)


def test_another_span_setting_or_content_is_another_clip(reader, decoded, tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", sound=tone(2))
    reader().read(part("video", path))
    reader().read(part("video", path, (0.0, 1.0)))
    reader(audio_in_video=False).read(part("video", path))
    reader(fps=2.0).read(part("video", path))
    reader(size=SIZE | {"longest_edge": 3200}).read(part("video", path))
    assert decoded["read_video", "a.mp4"] == 5
    write_mp4(path, frames=12, sound=tone(1))
    assert numbers(reader().read(part("video", path))["pixels"]) == [0, 4, 7, 11]
    assert decoded["read_video", "a.mp4"] == 6


def test_a_sound_refused_by_a_short_window_is_not_taken_from_the_cache_of_a_long_one(
    reader, real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = part("audio", write_sound(tmp_path / "a.wav", tone(1.3)))
    reader().read(sound)
    monkeypatch.setattr(real.feature_extractor, "n_samples", RATE)
    with pytest.raises(MediaError, match=r"1\.3 s of sound, the model hears at most 1 s"):
        reader().read(sound)


def test_the_same_clip_in_another_folder_is_the_same_clip(reader, decoded, tmp_path: Path) -> None:
    one = write_sound(tmp_path / "one.wav", tone(1.3))
    two = tmp_path / "two.wav"
    two.write_bytes(one.read_bytes())
    assert torch.equal(*(reader().read(part("audio", path))["mel"] for path in (one, two)))
    assert decoded == {("read_audio", "one.wav"): 1}


# --- ahead of need ---


def wait_for_prefetch() -> None:
    for thread in threading.enumerate():
        if thread.name == "prefetch":
            thread.join(30)


def test_clips_are_decoded_in_the_background_while_the_caller_goes_on(
    reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = [part("audio", write_sound(tmp_path / f"{i}.wav", tone(1 + i / 10))) for i in range(6)]
    computing, by, original = threading.Event(), [], clips_module.read_audio

    def slow(path: str, span: Any) -> np.ndarray:
        assert computing.wait(30)  # decoding ends after the caller's computation has begun
        by.append(threading.current_thread().name)
        return original(path, span)

    monkeypatch.setattr(clips_module, "read_audio", slow)
    ours = reader()
    ours.prefetch(sounds)
    assert not by
    computing.set()
    lengths = [ours.read(sound)["mel"].shape[1] for sound in sounds]
    wait_for_prefetch()
    assert lengths == [100, 110, 120, 130, 140, 150]
    assert len(by) == 6 and "prefetch" in by  # each by whoever came first


def test_what_was_prefetched_is_not_decoded_again(reader, decoded, tmp_path: Path) -> None:
    sounds = [part("audio", write_sound(tmp_path / f"{i}.wav", tone(1 + i / 10))) for i in range(6)]
    broken = part("audio", tmp_path / "broken.wav")
    Path(broken["path"]).write_bytes(b"no sound")
    ours = reader()
    assert all(ours.missing(sound) for sound in sounds)
    ours.prefetch([*sounds[:3], broken, part("audio", tmp_path / "gone.wav"), *sounds[3:]])
    wait_for_prefetch()
    assert not any(ours.missing(sound) for sound in sounds) and ours.missing(broken)
    before = dict(decoded)
    for sound in sounds:
        ours.read(sound)
    assert decoded == before and sum(decoded.values()) == 7  # the broken one was tried
    with pytest.raises(MediaError, match=r"broken\.wav: not a readable media file"):
        ours.read(broken)


def test_prefetching_stops_when_its_clips_fill_the_cache(real, decoded, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(clips_module, "WORKERS", 1)
    sounds = [part("audio", write_sound(tmp_path / f"{i}.wav", tone(1 + i / 10))) for i in range(6)]
    # one of about a second takes 64 kB as samples and 51 kB as features
    ours = ClipReader(real, MediaSettings(True, 4.0, 8, SIZE), MediaCache(tmp_path / "media", 300_000))
    ours.prefetch(sounds)
    wait_for_prefetch()
    assert [decoded["read_audio", f"{i}.wav"] for i in range(6)] == [1, 1, 1, 0, 0, 0]


def test_without_a_cache_nothing_is_prefetched(reader, decoded, tmp_path: Path) -> None:
    sound = part("audio", write_sound(tmp_path / "a.wav", tone(1)))
    ours = reader(cached=False)
    ours.prefetch([sound])
    wait_for_prefetch()
    assert not decoded and not ours.missing(sound)
