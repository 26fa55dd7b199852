"""The disk cache of clips: whole entries or none, made once by whoever comes first, the oldest dropped when space is short."""

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models import media_cache
from models.media_cache import MediaCache, Tensors, content

MADE = {"content": "c", "span": [0.0, 1.5], "format": 1}


def tensors(value: int = 7, size: int = 100) -> Tensors:
    return {"pixels": torch.full((size,), value, dtype=torch.uint8), "fps": torch.tensor(2.5, dtype=torch.float64)}


def never() -> Tensors:
    raise AssertionError("made again")


def entries(cache: MediaCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*.safetensors"))


@pytest.fixture
def cache(tmp_path: Path) -> MediaCache:
    return MediaCache(tmp_path / "media", 1_000_000)


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_an_entry_is_made_once_and_comes_back_as_it_was(cache: MediaCache) -> None:
    assert MADE not in cache
    assert same(cache.fetch(MADE, tensors), tensors())
    assert MADE in cache and same(cache.fetch(MADE, never), tensors())
    assert same(MediaCache(cache.folder, cache.limit).fetch(MADE, never), tensors())
    assert same(cache.fetch(dict(reversed(MADE.items())), never), tensors())  # the order of the keys says nothing


def test_whatever_it_was_made_from_tells_entries_apart(cache: MediaCache) -> None:
    cache.fetch(MADE, tensors)
    for key, value in {"content": "d", "span": None, "format": 2, "more": 0}.items():
        assert cache.fetch(MADE | {key: value}, lambda: tensors(9))["pixels"][0] == 9
    assert len(entries(cache)) == 5


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * 500)


def of_somebody(path: Path) -> None:
    save_file(tensors(9), path)


@pytest.mark.parametrize("spoil", [tear, empty, garble, of_somebody])
def test_a_torn_or_foreign_entry_is_made_again(cache: MediaCache, spoil: Callable[[Path], None]) -> None:
    cache.fetch(MADE, tensors)
    (path,) = entries(cache)
    spoil(path)
    assert same(cache.fetch(MADE, lambda: tensors(8)), tensors(8))
    assert same(cache.fetch(MADE, never), tensors(8))


def test_an_entry_of_another_clip_under_this_name_is_foreign(cache: MediaCache) -> None:
    other = MADE | {"content": "d"}
    for made_from in (MADE, other):
        cache.fetch(made_from, tensors)
    shutil.copy(cache._path(other), cache._path(MADE))
    assert same(cache.fetch(MADE, lambda: tensors(8)), tensors(8))


def test_what_cannot_be_made_leaves_nothing_behind(cache: MediaCache) -> None:
    for ask in (cache.fetch, cache.warm):
        with pytest.raises(AssertionError, match="made again"):
            ask(MADE, never)
    assert MADE not in cache and same(cache.fetch(MADE, tensors), tensors())


def test_an_entry_is_renamed_into_place_only_when_it_is_whole(cache: MediaCache, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        media_cache.os, "fsync", lambda _: seen.append((MADE in cache, len(list(cache.folder.glob("*/*")))))
    )
    cache.fetch(MADE, tensors)
    assert seen == [(False, 1)] and [p.suffix for p in cache.folder.glob("*/*")] == [".safetensors"]


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "media", 5_000)
    names = [MADE | {"content": str(i)} for i in range(5)]
    for age, name in enumerate(names[:4]):
        cache.fetch(name, lambda: tensors(size=1000))
        os.utime(cache._path(name), (age, age))
    cache.fetch(names[0], never)  # used just now
    cache.fetch(names[4], lambda: tensors(size=1000))  # the fifth of about 1,200 bytes does not fit
    held = [name in cache for name in names]
    assert held == [True, False, False, True, True]  # a tenth of the limit is left free
    assert sum(path.stat().st_size for path in entries(cache)) <= 0.9 * cache.limit


def test_what_other_processes_wrote_and_left_behind_counts_too(tmp_path: Path) -> None:
    one, two = (MediaCache(tmp_path / "media", 5_000) for _ in range(2))
    first, last = MADE, MADE | {"content": "z"}
    one.fetch(first, lambda: tensors(size=1000))
    left_over = one._path(first).with_name(".of-a-killed-process.tmp")
    left_over.write_bytes(bytes(2_000))
    two.fetch(MADE | {"content": "d"}, lambda: tensors(size=1000))
    for i, path in enumerate((left_over, one._path(first))):
        os.utime(path, (i, i))
    one.fetch(last, lambda: tensors(size=1000))  # 2,000 + 3 x 1,200 and more
    assert not left_over.exists() and first in one and last in one
    half_written = one._path(first).with_name(".of-a-running-process.tmp")
    half_written.write_bytes(bytes(5_000))
    one.fetch(MADE | {"content": "e"}, lambda: tensors(size=1000))
    two.fetch(MADE | {"content": "f"}, lambda: tensors(size=1000))
    assert half_written.exists() and last in one


def test_warming_makes_what_is_missing_and_keeps_what_is_there_young(cache: MediaCache) -> None:
    size = cache.warm(MADE, tensors)
    (path,) = entries(cache)
    assert size == path.stat().st_size > 100
    os.utime(path, (1, 1))
    assert cache.warm(MADE, never) == size and path.stat().st_mtime > 1
    os.utime(path, (1, 1))
    cache.fetch(MADE, never)
    assert path.stat().st_mtime > 1


def test_one_thread_makes_an_entry_while_another_waits_for_it_and_a_third_goes_on(cache: MediaCache) -> None:
    begun, go_on, made, got = threading.Event(), threading.Event(), [], []

    def slow() -> Tensors:
        made.append(threading.current_thread().name)
        begun.set()
        go_on.wait(10)
        return tensors()

    first = threading.Thread(target=lambda: got.append(cache.fetch(MADE, slow)), name="first")
    first.start()
    assert begun.wait(10)
    assert cache.warm(MADE, never) == 0  # does not wait
    second = threading.Thread(target=lambda: got.append(cache.fetch(MADE, slow)), name="second")
    second.start()
    assert not got
    go_on.set()
    first.join(10)
    second.join(10)
    assert made == ["first"] and len(got) == 2 and same(*got)


def _ask(folder: Path, diary: Path, barrier) -> None:
    cache = MediaCache(folder, 1_000_000)

    def make(number: int) -> Tensors:
        with diary.open("a") as out:
            out.write(f"{number}\n")
        return tensors(number)

    barrier.wait()
    for number in range(20):
        assert cache.fetch(MADE | {"content": str(number)}, lambda number=number: make(number))["pixels"][0] == number


def test_processes_share_the_work(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(3)
    asking = [fork.Process(target=_ask, args=(tmp_path / "media", tmp_path / "diary", barrier)) for _ in range(3)]
    for process in asking:
        process.start()
    for process in asking:
        process.join(60)
    assert [process.exitcode for process in asking] == [0, 0, 0]
    assert sorted(map(int, (tmp_path / "diary").read_text().split())) == list(range(20))


def test_a_file_is_hashed_once_while_it_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hashed, original = tmp_path / "a.wav", [], media_cache.sha256
    path.write_bytes(b"one")
    monkeypatch.setattr(media_cache, "sha256", lambda p: hashed.append(p) or original(p))
    first = content(path)
    assert content(path) == first and hashed == [path]
    copy = tmp_path / "b.wav"
    shutil.copy(path, copy)
    assert content(copy) == first and len(hashed) == 2  # another file of the same bytes
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))  # a file system may not tell two quick writes apart
    assert content(path) != first and len(hashed) == 3


def test_an_entry_says_what_it_was_made_from(cache: MediaCache) -> None:
    cache.fetch(MADE, tensors)
    data = entries(cache)[0].read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["made_from"]) == MADE
