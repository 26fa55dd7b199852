"""Degraded media: what is changed is changed by the stated amount, and everything else is read back bit for bit."""

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.degrade import freeze_frames, mixed, replace_sound, write_sound
from models.media import read_audio, read_video
from tasks.studio import render

FPS = 4.0


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    speaker = render.make_speaker(1, 3)
    sound = render.sound(speaker, 1, rng)
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    render.write_bytes(path, render.mp4_bytes(render.frames(speaker, 1, rng), sound))
    return path


@given(st.floats(-20, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_ratio_is_the_one_asked_for(snr: float, seed: int):
    rng = np.random.default_rng(seed)
    clean, noise = rng.normal(0, 0.1, 4000).astype(np.float32), rng.normal(0, 3, 4000)
    added = mixed(clean, noise, snr).astype(np.float64) - clean
    found = 10 * math.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(added**2))
    assert found == pytest.approx(snr, abs=0.05)
    assert np.corrcoef(added, noise)[0, 1] > 0.99


def test_noise_by_hand():
    clean, noise = np.array([0.5, -0.5], np.float32), np.array([1.0, 1.0])
    assert mixed(clean, noise, 0).tolist() == [1.0, 0.0]  # as loud as the sound
    assert mixed(clean, noise, 20).tolist() == pytest.approx([0.55, -0.45])  # a tenth of its amplitude


def test_without_a_ratio_nothing_is_added():
    silence, loud = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert mixed(silence, loud, 0).tolist() == [0, 0, 0]
    assert mixed(loud, silence, 0).tolist() == [1, 1, 1]


def test_a_sound_comes_back_as_it_was_written(film: Path, tmp_path: Path):
    wave = read_audio(film)
    write_sound(tmp_path / "a.wav", wave * 3)  # beyond [-1, 1]
    assert np.array_equal(read_audio(tmp_path / "a.wav"), wave * 3)


def test_a_film_keeps_its_pictures_when_its_sound_is_replaced(film: Path, tmp_path: Path):
    wave, other = read_audio(film), np.random.default_rng(1).normal(0, 1, 40_000).astype(np.float32)
    for name, given_wave in (("same", wave), ("other", other)):
        path = tmp_path / f"{name}.mkv"
        replace_sound(film, path, given_wave)
        assert np.array_equal(read_audio(path), given_wave)
        (ours, our_fps), (theirs, their_fps) = read_video(path, FPS), read_video(film, FPS)
        assert torch.equal(ours, theirs) and our_fps == pytest.approx(their_fps)


def test_nothing_lost_is_nothing_changed(film: Path, tmp_path: Path):
    path = tmp_path / "whole.mkv"
    freeze_frames(film, path, 0.0, FPS, np.random.default_rng(0))
    (ours, our_fps), (theirs, their_fps) = read_video(path, 100), read_video(film, 100)
    assert torch.equal(ours, theirs) and our_fps == pytest.approx(their_fps)
    assert np.array_equal(read_audio(path), read_audio(film))


def test_everything_lost_is_the_first_stretch_for_ever(film: Path, tmp_path: Path):
    path = tmp_path / "frozen.mkv"
    freeze_frames(film, path, 1.0, render.FPS / 2, np.random.default_rng(0))
    every, source = read_video(path, 100)[0], read_video(film, 100)[0]
    assert torch.equal(every[:2], source[:2]) and not torch.equal(source[1], source[2])
    assert all(torch.equal(frame, source[1]) for frame in every[2:])
    assert np.array_equal(read_audio(path), read_audio(film))


def test_a_lost_stretch_shows_the_last_frame_that_arrived(film: Path, tmp_path: Path):
    path = tmp_path / "half.mkv"
    freeze_frames(film, path, 0.5, render.FPS, np.random.default_rng(3))
    every, source = read_video(path, 100)[0], read_video(film, 100)[0]
    drawn = np.random.default_rng(3)
    last, lost = 0, 0
    for number, frame in enumerate(every):
        if number and drawn.random() < 0.5:
            lost += 1
        else:
            last = number
        assert torch.equal(frame, source[last])
    assert 0 < lost < len(every) - 1


def test_a_silent_film_stays_silent(tmp_path: Path):

    source, path = tmp_path / "silent.mp4", tmp_path / "out.mkv"
    with av.open(str(source), "w") as box:
        stream = box.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for n in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * n, np.uint8), format="rgb24")
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    freeze_frames(source, path, 1.0, 8.0, np.random.default_rng(0))
    frames, _ = read_video(path, 8)
    assert all(torch.equal(frame, frames[0]) for frame in frames)
