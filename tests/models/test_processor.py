"""Messages to tensors: features, layouts, silence, the cache, and what is refused."""

import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from mediafiles import RATE, tone, write_mp4, write_sound
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniProcessor

from models.media import read_audio, read_image, read_video
from models.media_cache import MediaCache
from models.processor import Encoded, MediaSettings, Processor
from models.tiny import CORPUS, build_tokenizer
from runtime.errors import ConfigError, MediaError
from tasks.base import Message

SIZE = {"shortest_edge": 3136, "longest_edge": 200704}
CHUNK = 50
"""Positions of two seconds, after which the processor changes from video to audio tokens."""


@pytest.fixture(scope="module")
def real(tiny) -> Qwen2_5OmniProcessor:
    return tiny[2].processor


@pytest.fixture
def omni(real: Qwen2_5OmniProcessor) -> Callable[..., Processor]:
    """Makes processors without anything in their cache."""

    def make(audio_in_video: bool = True, **options: Any) -> Processor:
        return Processor(real, MediaSettings(audio_in_video, 4.0, 8, SIZE), **options)

    return make


@pytest.fixture
def text_only() -> Processor:
    tokenizer = build_tokenizer(CORPUS)
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    return Processor(tokenizer, MediaSettings(False, 4.0, 8, {}))


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "a.wav", tone(1.3))


@pytest.fixture
def mp4(tmp_path: Path) -> Path:
    return write_mp4(tmp_path / "a.mp4", sound=tone(2, hz=330))


@pytest.fixture
def silent_mp4(tmp_path: Path) -> Path:
    return write_mp4(tmp_path / "silent.mp4")


def media(kind: str, path: Path, span: tuple[float, float] | None = None) -> dict:
    return {"type": kind, "path": str(path), "span": span}


def transcript(text: str) -> dict:
    return {"type": "text", "text": f"text: {text}\n", "view": "text"}


def ask(*parts: dict, question: str = "How does the speaker feel?") -> list[Message]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def count(encoded: Encoded, token: str, processor: Processor) -> int:
    return encoded.ids.tolist().count(processor.tokenizer.get_vocab()[token])


def same(a: Encoded, b: Encoded) -> bool:
    return torch.equal(a.ids, b.ids) and a.media.keys() == b.media.keys() and same_media(a, b)


def same_media(a: Encoded, b: Encoded) -> bool:
    return all(torch.equal(a.media[name], b.media[name]) for name in a.media)


# --- sound ---


@pytest.mark.parametrize("samples", [800, 801, 16_000, 20_800, 20_801, 20_959, 20_960, 479_000, 479_999, 480_000])
def test_features_are_the_valid_frames_of_the_stock_padded_call(omni, real, tmp_path, samples: int) -> None:
    wave = (tone(30)[:samples] * 32767).astype(np.int16)
    path = write_sound(tmp_path / "a.wav", wave)
    plain = wave.astype(np.float32) / 32768
    stock = dict(real.feature_extractor(plain, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt"))
    valid = int(torch.as_tensor(stock["attention_mask"]).sum())
    assert stock["input_features"].shape[-1] == 3000 and valid == -(-samples // 160)  # 10 ms a frame
    got = omni().encode(ask(media("audio", path))).media
    assert got["input_features"].shape == (1, 128, valid) and got["feature_attention_mask"].shape == (1, valid)
    assert torch.equal(got["input_features"], torch.as_tensor(stock["input_features"])[..., :valid])
    assert got["feature_attention_mask"].all()


def test_a_sound_takes_as_many_placeholders_as_the_tower_gives_it_tokens(omni, wav: Path) -> None:
    processor = omni()
    encoded = processor.encode(ask(media("audio", wav)))
    # 1.3 s = 130 frames of 10 ms; the convolution halves them: 65; pooling by two gives 32
    assert encoded.media["input_features"].shape[-1] == 130
    assert count(encoded, "<|AUDIO|>", processor) == 32
    assert not encoded.sounding


def test_a_sound_of_exactly_the_window_is_heard_and_one_sample_more_is_refused(omni, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(30))
    assert omni().encode(ask(media("audio", path))).media["input_features"].shape[-1] == 3000
    write_sound(path, tone(30.1))
    said = r"a\.wav: 30\.1 s of sound, the model hears at most 30 s; cut the clip, or give the record a span"
    with pytest.raises(MediaError, match=said):
        omni().encode(ask(media("audio", path)))
    assert omni().encode(ask(media("audio", path, (0.1, 30.1)))).media["input_features"].shape[-1] == 3000


def test_a_sound_too_short_for_one_token_is_refused(omni, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(1)[:799])
    with pytest.raises(MediaError, match=r"a\.wav: 799 samples of sound, at least 800 are needed; remove it"):
        omni().encode(ask(media("audio", path)))


# --- layouts ---


def test_with_audio_in_video_the_sound_is_interleaved_with_the_frames(omni, mp4: Path) -> None:
    processor = omni(audio_in_video=True)
    encoded = processor.encode(ask(media("video", mp4)))
    grid = encoded.media["video_grid_thw"]
    assert encoded.sounding and grid.tolist() == [[4, 4, 4]]  # 8 frames by two; 64 pixels become 56 = 4 x 14
    assert count(encoded, "<|VIDEO|>", processor) == int(grid.prod()) // 4 == 16  # patches merge two by two
    # aac rounds 2 s up to 32 blocks of 1024 samples: 204.8 frames of 10 ms, 103 after the convolution, 51 tokens
    assert encoded.media["input_features"].shape[-1] == 205
    assert count(encoded, "<|AUDIO|>", processor) == 51
    text = processor.tokenizer.decode(encoded.ids)
    # all frames lie in the first two seconds, and so do the first 50 tokens of sound
    layout = "<|vision_bos|><|audio_bos|>" + "<|VIDEO|>" * 16 + "<|AUDIO|>" * 51 + "<|audio_eos|><|vision_eos|>"
    assert layout in text.replace(" ", "")


def test_chunks_of_frames_and_sound_take_turns(omni, tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", frames=24, fps=6, sound=tone(4))
    processor = omni()
    encoded = processor.encode(ask(media("video", path)))
    marks = {processor.tokenizer.convert_tokens_to_ids(f"<|{name}|>"): name for name in ("VIDEO", "AUDIO")}
    order = [marks[i] for i in encoded.ids.tolist() if i in marks]
    turns = [name for i, name in enumerate(order) if i == 0 or name != order[i - 1]]
    # 4 s: frames of the first two seconds, their sound, the next two; aac's padding is a little more than 4 s of sound
    assert turns == ["VIDEO", "AUDIO", "VIDEO", "AUDIO"]
    assert order[:8] == ["VIDEO"] * 8 and order[8 : 8 + CHUNK] == ["AUDIO"] * CHUNK  # 4 frames are 2 x 4 x 4 / 4 tokens


def test_without_audio_in_video_the_track_is_not_heard_and_a_separate_sound_is(omni, mp4: Path, wav: Path) -> None:
    processor = omni(audio_in_video=False)
    silent = processor.encode(ask(media("video", mp4)))
    assert not silent.sounding and "input_features" not in silent.media
    assert count(silent, "<|VIDEO|>", processor) == 16 and count(silent, "<|AUDIO|>", processor) == 0
    both = processor.encode(ask(media("video", mp4), media("audio", wav)))
    assert not both.sounding and both.media["input_features"].shape[-1] == 130
    assert count(both, "<|VIDEO|>", processor) == 16 and count(both, "<|AUDIO|>", processor) == 32


def test_a_separate_sound_beside_a_video_that_carries_it_is_left_out(omni, mp4: Path, wav: Path) -> None:
    with_both, video_alone = (
        omni().encode(ask(*parts)) for parts in ((media("video", mp4), media("audio", wav)), (media("video", mp4),))
    )
    assert same(with_both, video_alone)


def test_a_video_without_a_track_gets_silence_of_its_own_length(omni, silent_mp4: Path) -> None:
    encoded = omni().encode(ask(media("video", silent_mp4)))
    features = encoded.media["input_features"]
    assert encoded.sounding and features.shape[-1] == 200  # 24 frames at 12 a second
    assert features.unique().tolist() == [-1.5]  # (log10(1e-10) + 4) / 4: no energy at all


def test_the_span_of_a_video_holds_for_its_sound_too(omni, mp4: Path) -> None:
    encoded = omni().encode(ask(media("video", mp4, (0.5, 1.5))))
    assert encoded.media["input_features"].shape[-1] == 100 and encoded.media["video_grid_thw"][0, 0] == 2


def test_the_time_between_frames_reaches_the_model(omni, tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", frames=20, fps=1, size=(32, 32))
    encoded = omni(audio_in_video=False).encode(ask(media("video", path)))
    assert encoded.media["video_grid_thw"][0, 0] == 4  # max_frames = 8, two by two
    # 8 frames of 20 s are 0.4 a second, and two of them make one step of the grid
    assert encoded.media["video_second_per_grid"].tolist() == [5.0]


def test_the_size_of_a_video_is_the_one_that_was_asked_for(real, mp4: Path) -> None:
    sizes = ({"shortest_edge": 784, "longest_edge": pixels} for pixels in (56 * 56, 28 * 28))  # of one frame
    large, small = (
        Processor(real, MediaSettings(False, 4.0, 8, size)).encode(ask(media("video", mp4))).media["video_grid_thw"]
        for size in sizes
    )
    # a class attribute of the stock processor would make both of them 128 x 28 x 28 pixels at least: (4, 24, 24)
    assert large.tolist() == [[4, 4, 4]] and small.tolist() == [[4, 2, 2]]


def test_videos_of_different_rates_cannot_share_a_prompt(omni, tmp_path: Path) -> None:
    paths = [write_mp4(tmp_path / f"{n}.mp4", frames=n, fps=2) for n in (4, 20)]
    said = r"videos of one prompt were sampled at different rates \[2\.0, 0\.8\]; give them one length"
    with pytest.raises(MediaError, match=said):
        omni().encode(ask(*(media("video", path) for path in paths)))


def test_an_image_is_shown(omni, tmp_path: Path, mp4: Path) -> None:
    processor = omni()
    encoded = processor.encode(ask(media("image", mp4)))  # its first frame
    assert count(encoded, "<|IMAGE|>", processor) == int(encoded.media["image_grid_thw"].prod()) // 4 > 0


def test_an_unknown_kind_of_part_is_refused(omni, wav: Path) -> None:
    with pytest.raises(MediaError, match="part of unknown type 'smell'; allowed: text, image, audio, video"):
        omni().encode(ask(media("smell", wav)))


def test_a_missing_file_is_refused_before_anything_is_read(omni, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=re.escape(f"{tmp_path / 'no.wav'}: there is no such media file")):
        omni().encode(ask(media("audio", tmp_path / "no.wav")))


# --- the stock processor ---


def of_stock(processor: Processor, messages: list[Message]) -> dict[str, torch.Tensor]:
    """What the stock processor makes of a prompt by itself, from clips as they were decoded."""
    real, settings = processor.processor, processor.settings
    assert isinstance(real, Qwen2_5OmniProcessor)
    (turn,) = messages
    read: dict[str, list] = {"image": [], "audio": [], "video": []}
    sources: list[int | None] = []
    rates = [0.0]
    for part in turn["content"]:
        if part["type"] == "video":
            frames, rate = read_video(part["path"], settings.fps, part["span"], settings.max_frames)
            if settings.audio_in_video:
                read["audio"].append(read_audio(part["path"], part["span"]))
                sources.append(len(read["video"]))
            read["video"].append(frames)
            rates.append(rate)
        elif part["type"] == "audio":
            read["audio"].append(read_audio(part["path"], part["span"]))
            sources.append(None)
        elif part["type"] == "image":
            read["image"].append(read_image(part["path"]))
    options: dict[str, Any] = {"return_tensors": "pt"}
    if read["video"]:
        options |= {"videos_kwargs": {"size": settings.video_size, "do_sample_frames": False}, "fps": rates[-1]}
        if settings.audio_in_video:
            options |= {"load_audio_from_video": True, "audio_from_video_indices": sources}
    turns = [
        {"role": turn["role"], "content": [{"type": p["type"], "text": p.get("text", "")} for p in turn["content"]]}
    ]
    text = real.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    images, sounds, videos = (read[kind] or None for kind in ("image", "audio", "video"))
    return dict(real(text=[text], images=images, audio=sounds, videos=videos, **options))


@pytest.fixture(scope="module")
def shown_clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two of each kind, of sizes that are not the model's: some are made smaller, one is made larger."""
    folder = tmp_path_factory.mktemp("shown")
    sizes = {"image": [(90, 132), (150, 70)], "video": [(100, 150), (30, 80)]}
    return {
        kind: [
            write_mp4(folder / f"{kind}{i}.mp4", sound=tone(2, hz=300 + i), size=size) for i, size in enumerate(of_kind)
        ]
        for kind, of_kind in sizes.items()
    } | {"audio": [write_sound(folder / f"{i}.wav", tone(1.3 - i / 2)) for i in range(2)]}


@pytest.mark.parametrize("audio_in_video", [True, False])
@pytest.mark.parametrize(
    "shown",
    ["", "image", "audio", "video", "image image", "audio audio", "video video", "image video", "image audio"],
)
def test_the_model_is_given_what_the_stock_processor_gives_it(omni, shown_clips, audio_in_video, shown: str) -> None:
    kinds = shown.split()
    parts = [media(kind, shown_clips[kind][kinds[:i].count(kind)]) for i, kind in enumerate(kinds)]
    processor, messages = omni(audio_in_video), ask(*parts)
    ours, stock = processor.collate([processor.encode(messages)]), of_stock(processor, messages)
    assert ours.pop("use_audio_in_video") is (audio_in_video and "video" in shown)
    if "input_features" in stock:
        valid = ours["input_features"].shape[-1]
        assert valid == stock["feature_attention_mask"].sum(1).max() < 300
        for name in ("input_features", "feature_attention_mask"):
            stock[name] = stock[name][..., :valid]
        silent = stock["feature_attention_mask"][:, None] == 0  # padding is masked, and differs
        for batch in (ours, stock):
            batch["input_features"] = batch["input_features"].masked_fill(silent, 0)
    assert ours.keys() == stock.keys()
    for name, tensor in stock.items():
        assert torch.equal(ours[name], torch.as_tensor(tensor)), name
        assert ours[name].dtype == torch.as_tensor(tensor).dtype, name


def test_pictures_stay_bytes_until_they_are_collated(omni, mp4: Path, tmp_path: Path) -> None:
    processor = omni(audio_in_video=False)
    encoded = processor.encode(ask(media("video", mp4), media("image", mp4)))
    batch = processor.collate([encoded])
    for name in ("pixel_values_videos", "pixel_values"):
        assert encoded.media[name].dtype == torch.uint8 and batch[name].dtype == torch.float32
        assert batch[name].nbytes == 4 * encoded.media[name].nbytes
    # 8 frames of 56 x 56 pixels in 3 colours; an image of 56 x 56 is shown to the tower as two like frames; 3 numbers per
    # grid, and the seconds of a grid row
    pixels, grids = (8 + 2) * 3 * 56 * 56, 2 * 3 * 8 + 4
    assert encoded.nbytes == 8 * len(encoded.ids) + pixels + grids


def test_pictures_go_to_the_device_as_bytes(omni, mp4: Path) -> None:
    processor = omni(audio_in_video=False)
    encoded = processor.encode(ask(media("video", mp4)))
    sent = []

    class Sent(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is torch.Tensor.to:
                sent.append(args[0].dtype)
            return super().__torch_function__(func, types, args, kwargs or {})

    pixels = encoded.media["pixel_values_videos"].as_subclass(Sent)
    shown = replace(encoded, media=encoded.media | {"pixel_values_videos": pixels})
    assert processor.collate([shown], "cpu")["pixel_values_videos"].dtype == torch.float32
    assert sent[0] == torch.uint8


# --- silence ---


@pytest.mark.parametrize(("modality", "changed"), [("audio", "input_features"), ("video", "pixel_values_videos")])
def test_a_silenced_modality_keeps_every_token_and_loses_its_content(omni, mp4: Path, modality, changed) -> None:
    messages = ask(media("video", mp4), transcript("I love this"))
    processor = omni()
    full, silenced = processor.encode(messages), processor.encode(messages, frozenset({modality}))
    assert torch.equal(full.ids, silenced.ids) and full.media.keys() == silenced.media.keys()
    assert {name for name in full.media if not torch.equal(full.media[name], silenced.media[name])} == {changed}
    assert full.media[changed].shape == silenced.media[changed].shape


def test_silence_is_what_the_stock_processor_makes_of_zero_samples_and_grey_frames(omni, real, mp4: Path) -> None:
    processor = omni()
    encoded = processor.encode(ask(media("video", mp4)), frozenset({"audio", "video"}))
    zeros = real.feature_extractor(np.zeros(16_000, np.float32), sampling_rate=RATE, return_tensors="pt")
    assert (
        encoded.media["input_features"].unique().tolist() == torch.as_tensor(zeros["input_features"]).unique().tolist()
    )
    grey = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    stock = real.video_processor([grey], size=SIZE, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(processor.collate([encoded])["pixel_values_videos"], stock)


def test_silence_of_text_empties_the_transcript_and_keeps_the_question(omni, wav: Path) -> None:
    messages = ask(media("audio", wav), transcript("I love this"), question="How strong?")
    processor = omni()
    text = processor.tokenizer.decode(processor.encode(messages, frozenset({"text"})).ids)
    assert "love" not in text and "How strong?" in text
    assert (
        processor.encode(messages, frozenset({"text"})).ids.tolist()
        == processor.encode(ask(media("audio", wav), transcript(""), question="How strong?")).ids.tolist()
    )


def test_an_image_is_silenced_with_video(omni, mp4: Path) -> None:
    full, silenced = (omni().encode(ask(media("image", mp4)), frozenset(s)) for s in ([], ["video"]))
    assert torch.equal(full.ids, silenced.ids) and not same_media(full, silenced)


def test_only_modalities_can_be_silenced(omni) -> None:
    said = r"silence: members of \('audio', 'video', 'text'\); got \['smell'\]; mend the config"
    with pytest.raises(ConfigError, match=said):
        omni().encode(ask(), frozenset({"smell", "audio"}))


# --- text ---


def test_keys_that_a_data_set_filled_with_none_change_nothing(omni, text_only, mp4: Path, wav: Path) -> None:
    messages = ask(media("video", mp4), transcript("I love this"))
    blank = dict.fromkeys(("text", "view", "path", "span", "audio", "video", "image", "image_url"))
    filled = [{"role": m["role"], "content": [blank | part for part in m["content"]]} for m in messages]
    processor = omni()
    for silence in (frozenset(), frozenset({"text"}), frozenset({"audio", "video"})):
        assert same(processor.encode(messages, silence), processor.encode(filled, silence))
    words = [{"role": "user", "content": messages[0]["content"][1:]}]
    filled = [{"role": "user", "content": [blank | part for part in words[0]["content"]]}]
    assert same(text_only.encode(words), text_only.encode(filled))


def test_a_media_token_in_a_text_is_refused(omni, wav: Path) -> None:
    said = r"text holds '<\|AUDIO\|>', which stands for media; remove it from the record"
    with pytest.raises(MediaError, match=said):
        omni().encode(ask(media("audio", wav), transcript("he said <|AUDIO|> twice")))
    with pytest.raises(MediaError, match=said):
        omni().answer_ids("<answer><|AUDIO|></answer>")


def test_a_text_only_model_refuses_media(text_only: Processor, wav: Path, mp4: Path) -> None:
    said = r"a text-only model was given \['audio', 'video'\]; set task\.views to text views, or use an omni model"
    with pytest.raises(MediaError, match=said):
        text_only.encode(ask(media("audio", wav), media("video", mp4)))


def test_a_text_only_prompt_is_the_chat_template_of_its_text(text_only: Processor) -> None:
    encoded = text_only.encode(ask(transcript("good"), question="How?"))
    assert text_only.tokenizer.decode(encoded.ids) == "<|im_start|>user\ntext: good\nHow?<|im_end|>\n"
    assert encoded.media == {} and not encoded.sounding and text_only.forbidden_ids == []


def test_an_answer_ends_with_the_end_token_and_decodes_to_itself(omni) -> None:
    processor = omni()
    text = "<answer>-1.4</answer> naïve 😀 日本"
    ids = processor.answer_ids(text)
    assert ids[-1:] == processor.eos_ids and processor.eos_ids[0] not in ids[:-1]
    assert processor.decode(ids) == text and ids[:-1] == processor.text_ids(text)


def test_a_tokenizer_without_a_pad_token_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(["a"])._tokenizer, eos_token="<|im_end|>")
    said = (
        r"model: its tokenizer needs an eos and a pad token, and has '<\|im_end\|>' and None; set them \(pad may be eos\) "
        "and save the checkpoint again"
    )
    with pytest.raises(ConfigError, match=said):
        Processor(tokenizer, MediaSettings(False, 4.0, 8, {}))


# --- cache ---


def test_a_prompt_is_encoded_once(omni, mp4: Path, wav: Path) -> None:
    processor = omni()
    first, other = ask(media("video", mp4)), ask(media("audio", wav))
    encoded = processor.encode(first)
    assert processor.encode(ask(media("video", mp4))) is encoded and processor.encodings == 1
    processor.encode(other)
    processor.encode(first, frozenset({"audio"}))
    processor.encode(ask(media("video", mp4, (0.0, 1.0))))
    assert processor.encodings == 4
    assert processor.encode(first) is encoded and processor.encodings == 4


def test_a_file_that_changed_is_encoded_anew(omni, wav: Path) -> None:
    processor = omni()
    before = processor.encode(ask(media("audio", wav)))
    write_sound(wav, tone(1.3, hz=440))
    os.utime(wav, ns=(1, 1))  # a file system may not tell two quick writes apart
    after = processor.encode(ask(media("audio", wav)))
    assert processor.encodings == 2 and not same(before, after)


def test_the_prompt_that_was_not_used_for_longest_is_forgotten(omni) -> None:
    size = omni().encode(ask(question="a")).nbytes
    processor = omni(memory=2 * size)
    for question in ("a", "b", "a", "c", "a", "b"):  # b goes when c comes, and c when b comes again
        assert processor.encode(ask(question=question)).nbytes == size
    assert processor.encodings == 4


def test_a_prompt_larger_than_the_memory_is_encoded_and_not_kept(omni, wav: Path) -> None:
    processor = omni(memory=100)
    for _ in range(2):
        assert processor.encode(ask(media("audio", wav))).nbytes > 100
    assert processor.encodings == 2 and processor._held == 0 and not processor._encoded


def test_processors_that_share_a_cache_decode_and_featurise_a_clip_once(
    omni, real, mp4: Path, wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, featurised, original, extract = [], [], av.open, type(real.feature_extractor).__call__
    prompts = [
        ask(media("video", mp4)),
        ask(media("video", mp4), transcript("I love this")),
        ask(media("audio", wav)),
        ask(media("image", mp4)),
    ]
    before = [omni().encode(prompt) for prompt in prompts]
    monkeypatch.setattr("models.media.av.open", lambda path: opened.append(Path(path).name) or original(path))
    monkeypatch.setattr(
        type(real.feature_extractor), "__call__", lambda *a, **k: featurised.append(1) or extract(*a, **k)
    )
    cache = MediaCache(tmp_path / "media", 10_000_000)
    for _ in range(3):
        processor = omni(cache=cache)
        for prompt, expected in zip(prompts, before, strict=True):
            assert same(processor.encode(prompt), expected)
        for silence in ("audio", "video"):
            processor.encode(prompts[0], frozenset({silence}))
    # the video: its packets are counted, its frames decoded, its track found and decoded; the sound; the image
    assert sorted(opened) == ["a.mp4"] * 5 + ["a.wav"] and len(featurised) == 2


def test_what_a_prompt_leaves_out_is_not_prefetched(omni, mp4: Path, wav: Path, tmp_path: Path) -> None:
    prompt = ask(media("video", mp4), media("audio", wav))
    for audio_in_video, missing in ((True, 1), (False, 2)):
        processor = omni(audio_in_video, cache=MediaCache(tmp_path / str(audio_in_video), 10_000_000))
        assert processor.uncached([prompt]) == missing
        processor.prefetch([prompt])
        for thread in threading.enumerate():
            if thread.name == "prefetch":
                thread.join(30)
        assert processor.uncached([prompt]) == 0
        assert len(list((tmp_path / str(audio_in_video)).glob("*/*"))) == missing


def test_a_model_without_media_prefetches_nothing(text_only: Processor) -> None:
    text_only.prefetch([ask(transcript("good"))])
    assert text_only.uncached([ask(transcript("good"))]) == 0


# --- batches ---


def test_prompts_are_padded_on_the_left_and_media_follow_their_order(
    omni, mp4: Path, wav: Path, tmp_path: Path
) -> None:
    processor = omni()
    longer = write_sound(tmp_path / "b.wav", tone(1.6))
    prompts = [
        processor.encode(ask(media("audio", longer))),
        processor.encode(ask()),
        processor.encode(ask(media("video", mp4), media("audio", wav))),
        processor.encode(ask(media("audio", wav))),
    ]
    batch = processor.collate(prompts)
    longest = max(len(p.ids) for p in prompts)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (4, longest)
    for row, mask, prompt in zip(batch["input_ids"], batch["attention_mask"], prompts, strict=True):
        blank = longest - len(prompt.ids)
        assert row.tolist() == [processor.pad_id] * blank + prompt.ids.tolist()
        assert mask.tolist() == [0] * blank + [1] * len(prompt.ids)
    assert batch["feature_attention_mask"].sum(1).tolist() == [160, 205, 130]
    for row, prompt in enumerate([prompts[0], prompts[2], prompts[3]]):
        features = prompt.media["input_features"]
        assert torch.equal(batch["input_features"][row, :, : features.shape[-1]], features[0])
        assert not batch["input_features"][row, :, features.shape[-1] :].any()
    assert batch["video_grid_thw"].tolist() == [[4, 4, 4]] and batch["use_audio_in_video"] is True


def test_the_flag_follows_the_videos_of_the_batch(omni, text_only, mp4: Path, wav: Path) -> None:
    for audio_in_video in (True, False):
        processor = omni(audio_in_video)
        video = processor.encode(ask(media("video", mp4)))
        assert processor.collate([video])["use_audio_in_video"] is audio_in_video
        assert processor.collate([processor.encode(ask(media("audio", wav)))])["use_audio_in_video"] is False
    assert "use_audio_in_video" not in text_only.collate([text_only.encode(ask())])  # a text model has no such argument


def test_silent_and_sounding_videos_do_not_share_a_batch(omni, mp4: Path) -> None:
    prompts = [omni(flag).encode(ask(media("video", mp4))) for flag in (True, False)]
    with pytest.raises(AssertionError, match="silent and sounding videos in one batch"):
        omni().collate(prompts)
