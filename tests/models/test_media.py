"""Reading media: what comes out, which frames are taken, and what a broken file is answered with."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
from av.container import InputContainer
from mediafiles import LEVEL, RATE, numbers, tone, write_mp4, write_sound
from qwen_omni_utils.v2_5.vision_process import calculate_video_frame_range, smart_nframes

from models import media
from models.media import has_sound, read_audio, read_image, read_video
from runtime.errors import MediaError


def refused(path: Path, said: str) -> pytest.RaisesExc:
    return pytest.raises(MediaError, match="^" + re.escape(f"{path}: ") + said + "$")


# --- sound ---


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_sound_comes_back_sample_by_sample(tmp_path: Path, ending: str) -> None:
    samples = (tone(1.5) * 32767).astype(np.int16)
    wave = read_audio(write_sound(tmp_path / f"a.{ending}", samples))
    assert wave.dtype == np.float32 and wave.shape == (24_000,)  # 1.5 s * 16,000
    assert np.array_equal(wave, samples.astype(np.float32) / 32768)


def test_another_rate_and_two_channels_become_16_khz_mono(tmp_path: Path) -> None:
    both = np.stack([tone(2, rate=44_100)] * 2, axis=1)
    wave = read_audio(write_sound(tmp_path / "stereo.wav", both, rate=44_100))
    assert wave.shape == (32_000,)
    shape = np.corrcoef(wave[100:-100], tone(2)[100:-100])[0, 1]
    assert shape > 0.999 and np.abs(wave).max() == pytest.approx(0.3 * 0.9, abs=0.01)  # as loud as either channel


def test_the_track_of_a_video_is_read(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", sound=tone(2))
    wave = read_audio(path)
    assert has_sound(path) and len(wave) == pytest.approx(32_000, abs=1024)  # aac comes in blocks of 1024 samples
    assert np.corrcoef(wave[:32_000], tone(2))[0, 1] > 0.98


def test_a_span_is_that_part_of_the_sound(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(2))
    assert np.array_equal(read_audio(path, (0.5, 1.25)), read_audio(path)[8_000:20_000])
    assert len(read_audio(path, (1.5, 9.0))) == 8_000  # what there is of it


def test_a_span_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(1))
    with refused(path, r"no sound in span \(2\.0, 3\.0\); mend the span, or remove the record"):
        read_audio(path, (2.0, 3.0))


# --- broken files ---


@pytest.mark.parametrize("read", [read_audio, lambda path: read_video(path, 2.0), read_image, has_sound])
def test_a_missing_file_is_named(tmp_path: Path, read) -> None:
    for path in (tmp_path / "no.wav", tmp_path):  # a folder is no file, either
        with refused(path, "there is no such media file; mend the record's path, or remove the record"):
            read(path)


@pytest.mark.parametrize("read", [read_audio, lambda path: read_video(path, 2.0), read_image])
def test_garbage_is_no_media_file(tmp_path: Path, read) -> None:
    path = tmp_path / "garbage.wav"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with refused(path, r"not a readable media file \(.*\); replace the file, or remove the record"):
        read(path)


def test_a_wav_file_that_was_cut_off_is_not_read_as_a_shorter_sound(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(2))
    whole = path.read_bytes()
    assert len(whole) == 64_044  # a header of 44 bytes, 32,000 samples of 2
    path.write_bytes(whole[:1044])
    with refused(path, "holds 1000 of the 64000 bytes of sound that its header states, so it was cut off; .*"):
        read_audio(path)
    path.write_bytes(whole[:20])
    with refused(path, "not a readable media file .*"):
        read_audio(path)


@pytest.mark.parametrize("stated", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_file_that_came_through_a_pipe_does_not_know_its_length_and_is_read(tmp_path: Path, stated: int) -> None:
    path = write_sound(tmp_path / "a.wav", tone(2))
    content = path.read_bytes()
    path.write_bytes(content[:40] + stated.to_bytes(4, "little") + content[44:])
    assert len(read_audio(path)) == 32_000


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_sound_that_is_no_number_does_not_poison_a_run(tmp_path: Path, bad: float) -> None:
    """A file of floats may hold any."""
    path, samples = tmp_path / "a.wav", tone(2)
    samples[8_000] = bad
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    with refused(path, "holds sound that is not a finite number; replace the file, or remove the record"):
        read_audio(path)
    assert len(read_audio(path, (1.0, 2.0))) == 16_000, "the part that is asked for is sound"


def test_a_flac_file_that_was_cut_off_breaks_off(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.flac", tone(2))
    path.write_bytes(path.read_bytes()[:5000])
    with refused(path, r"breaks off while decoding sound \(.*\); replace the file"):
        read_audio(path)


def test_a_video_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", sound=tone(2))
    path.write_bytes(path.read_bytes()[:3000])  # its index stood at the end
    for read in (read_audio, lambda p: read_video(p, 2.0)):
        with refused(path, r"not a readable media file \(.*\); replace the file, or remove the record"):
            read(path)


def test_sound_is_not_asked_of_a_silent_video_nor_frames_of_a_sound(tmp_path: Path) -> None:
    silent, sound = write_mp4(tmp_path / "a.mp4"), write_sound(tmp_path / "a.wav", tone(1))
    assert not has_sound(silent)
    with refused(silent, "holds no audio stream; drop the audio view, or replace the file"):
        read_audio(silent)
    with refused(sound, "holds no video stream; drop the video view, or replace the file"):
        read_video(sound, 2.0)
    with refused(sound, r"not a readable image \(.*\); replace the file"):
        read_image(sound)


# --- frames ---


def test_frames_are_evenly_spaced_from_the_first_to_the_last(tmp_path: Path) -> None:
    frames, fps = read_video(write_mp4(tmp_path / "a.mp4", frames=24, fps=12), fps=4.0)
    assert frames.dtype == torch.uint8 and frames.shape == (8, 3, 64, 64)  # 2 s at 4 frames a second
    # 23 / 7 = 3.29 from one to the next: 0, 3.29, 6.57, 9.86, 13.14, 16.43, 19.71, 23
    assert numbers(frames) == [0, 3, 7, 10, 13, 16, 20, 23] and fps == 4.0


def test_height_and_width_are_not_exchanged(tmp_path: Path) -> None:
    frames, _ = read_video(write_mp4(tmp_path / "a.mp4", frames=4, size=(32, 96)), fps=12.0)
    assert frames.shape[-2:] == (32, 96)


@pytest.mark.parametrize("total", [2, 3, 4, 7, 13, 24])
@pytest.mark.parametrize(("source", "wanted", "most"), [(12, 2.0, 768), (12, 4.0, 4), (4, 12.0, 768), (25, 1.0, 2)])
def test_as_many_frames_are_taken_as_the_reference_takes(
    tmp_path: Path, total: int, source: int, wanted: float, most: int
) -> None:
    frames, fps = read_video(write_mp4(tmp_path / "a.mp4", frames=total, fps=source), wanted, max_frames=most)
    count = smart_nframes({"fps": wanted, "max_frames": min(most, total)}, total, source)
    assert len(frames) == count and count % 2 == 0
    assert numbers(frames) == torch.linspace(0, total - 1, count).round().tolist()
    assert fps == pytest.approx(count * source / total)  # what the reference calls sample_fps


def test_a_span_of_a_video_is_counted_in_its_own_frames(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", frames=24, fps=12)
    frames, fps = read_video(path, 4.0, span=(1.0, 2.0))
    assert numbers(frames) == [12, 16, 19, 23] and fps == 4.0  # 12 frames, four of them: steps of 11 / 3
    assert numbers(read_video(path, 4.0, span=(0.5, 0.5))[0]) == [6, 7]  # two frames are the least
    with refused(path, r"0 frames in span \(5\.0, 6\.0\), at least 2 are needed; mend or remove it"):
        read_video(path, 4.0, span=(5.0, 6.0))


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.3, 1.7), (0.55, 0.95), (1.0, 9.0), (0.0, 2.0)])
def test_a_span_holds_the_frames_that_the_reference_takes(tmp_path: Path, span: tuple[float, float]) -> None:
    path = write_mp4(tmp_path / "a.mp4", frames=24, fps=12)
    first, last, held = calculate_video_frame_range({"video_start": span[0], "video_end": span[1]}, 24, 12.0)
    count = smart_nframes({"fps": 4.0}, held, 12.0)
    frames, fps = read_video(path, 4.0, span)
    assert numbers(frames) == torch.linspace(first, last, count).round().tolist() and fps == count / held * 12


def test_a_video_of_one_frame_is_refused(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", frames=1)
    with refused(path, "1 frames in span None, at least 2 are needed; mend or remove it"):
        read_video(path, 4.0)


class Counted:
    """A container whose frames note that they are decoded and turned into pixels; it may hold packets that show nothing."""

    def __init__(self, box: InputContainer, decoded: list[int], converted: list[int], unseen: int) -> None:
        self.box, self.decoded, self.converted, self.unseen = box, decoded, converted, unseen
        self.streams = box.streams

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *error: object) -> None:
        self.box.close()

    def demux(self, video: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(size=p.size) for p in self.box.demux(video=video)] + self.unseen * [
            SimpleNamespace(size=100)
        ]

    def decode(self, video: int) -> Iterator[SimpleNamespace]:
        for number, frame in enumerate(self.box.decode(video=video)):
            self.decoded.append(number)

            def to_ndarray(format: str, number: int = number, frame: av.VideoFrame = frame) -> np.ndarray:
                self.converted.append(number)
                return frame.to_ndarray(format=format)

            yield SimpleNamespace(to_ndarray=to_ndarray)


def test_a_video_is_decoded_once_and_only_frames_that_are_taken_become_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, decoded, converted = write_mp4(tmp_path / "long.mp4", frames=25, fps=5), [], []
    original = media._open
    monkeypatch.setattr(media, "_open", lambda path: Counted(original(path), decoded, converted, 0))
    frames, _ = read_video(path, 1.0)
    assert decoded == list(range(25))
    assert len(frames) == 4 and converted == numbers(frames) == [0, 8, 16, 24]  # minutes of video fit into memory


def test_packets_that_show_no_frame_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, decoded, original = write_mp4(tmp_path / "a.mp4", frames=13, fps=5), [], media._open
    expected = read_video(path, 2.0)
    monkeypatch.setattr(media, "_open", lambda path: Counted(original(path), decoded, [], 12))
    frames, fps = read_video(path, 2.0)
    assert torch.equal(frames, expected[0]) and fps == expected[1]
    assert decoded == 2 * list(range(13))  # the first time with the wrong frames in mind


def test_an_image_is_read_in_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as box:
        film = box.add_stream("png", rate=1)
        film.width, film.height, film.pix_fmt = 48, 32, "rgb24"
        colour = np.broadcast_to(np.array([200, 100, 50], np.uint8), (32, 48, 3)).copy()
        box.mux(film.encode(av.VideoFrame.from_ndarray(colour, format="rgb24")))
        box.mux(film.encode(None))
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.shape == (3, 32, 48)
    assert image.flatten(1).unique(dim=1).tolist() == [[200], [100], [50]]


def test_the_grey_levels_of_the_test_videos_tell_frames_apart() -> None:
    assert LEVEL * 25 <= 255 and RATE == 16_000
