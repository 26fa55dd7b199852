"""Records that are in two splits at once: the same text, the same file, or the same clip after another encoding.

Sound is compared by the cross-correlation of what lies between 100 Hz and 1 kHz in its first ten seconds, at every shift. It is 1
for the same recording at another level and stays above SAME_SOUND through mp3, aac, opus, another sample rate, some noise, or a
short cut; not through another speed or pitch, a long cut, or strong reverberation. By the inequality of Cauchy and Schwarz it is
never above the cosine of the two magnitude spectra, nor above that of the roots of their energies in bands; so one matrix product
rules out nearly all pairs and loses none.

Pictures are compared by small grey thumbnails of a few frames, in mean grey levels: that survives another coder, rate or size, but
no cropping, mirroring or grading. Where both clips have both, both have to agree: two films of one speaker look alike, and one song
may lie under two films.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from evaluation.doctor.findings import Finding
from evaluation.doctor.media import PRINT_RATE, PRINT_SECONDS, PRINT_SIDE, Look
from evaluation.doctor.texts import words_of
from tasks.readers.table import text_group
from tasks.record import SPLITS, Media, Record

SAME_SOUND = 0.92
"""Correlation; docs/doctor.md says what was measured on both sides of it."""
SAME_PICTURE = 3.0
"""Grey levels (root mean square)."""
SAME_SPAN = 0.5
"""Share of the shorter of two spans of one file that may lie in the other."""
BANDS = 4096
"""So narrow that two noises of one colour differ in them; 10,000 clips take 160 MB."""
BLOCK = 1024
"""Rows of a matrix product."""
POINTS = 1 << (2 * PRINT_RATE * PRINT_SECONDS - 1).bit_length()
"""Of the Fourier transform: twice the longest print, so that shifts do not wrap around."""


class Prints(NamedTuple):
    """How a record is known again; None for what it does not have, or cannot be told by."""

    sound: np.ndarray | None
    """(T,) int8."""
    picture: np.ndarray | None
    """(frames, side, side) uint8."""


def duplicates(records: Sequence[Record], looks: dict[str, Look], views: Sequence[str] | None) -> list[Finding]:
    """One finding for each record that is in a later split, too (train, then dev, then test), where its copy stays.

    Args:
        records: all of them.
        looks: uid -> what was read.
        views: names of the views that count; None is all of them.
    """
    found: dict[str, Finding] = {}
    pairs = [*_same_texts(records, views), *_same_files(records, looks)]
    known = {(a.uid, b.uid) for a, b, _ in pairs}
    pairs += [(a, b, what) for a, b, what in _same_clips(records, looks) if (a.uid, b.uid) not in known]
    for early, late, what in pairs:
        reason = (
            f"{what} {late.uid!r} in split {late.split}; leave it out of {early.split}, or that one out of {late.split}"
        )
        found.setdefault(early.uid, Finding("duplicate", early.uid, reason))
    return list(found.values())


Pair = tuple[Record, Record, str]
"""The record of the earlier split, that of the later one, and what they share."""


def _across(members: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """Pairs of different splits, the earlier split first."""
    for a, b in combinations(sorted(members, key=lambda record: SPLITS.index(record.split)), 2):
        if a.split != b.split:
            yield a, b


def _same_texts(records: Sequence[Record], views: Sequence[str] | None) -> Iterator[Pair]:
    """Records that are text alone. Beside a clip a text may occur again: many corpora let everybody say the same."""
    by_text: dict[str, list[Record]] = {}
    for record in records:
        shown = [view for name, view in record.views.items() if views is None or name in views]
        text = " ".join(words for view in shown if (words := words_of(view)))
        if text.strip() and not any(isinstance(view, Media) for view in shown):
            by_text.setdefault(text_group(text), []).append(record)
    for members in by_text.values():
        yield from ((a, b, "case and punctuation aside it has the text of") for a, b in _across(members))


def _same_files(records: Sequence[Record], looks: dict[str, Look]) -> Iterator[Pair]:
    by_content: dict[str, dict[str, tuple[Record, list[Media]]]] = {}
    for record in records:
        for clip in looks[record.uid].clips.values():
            by_content.setdefault(clip.content, {}).setdefault(record.uid, (record, []))[1].append(clip.media)
    for members in by_content.values():
        for a, b in _across([record for record, _ in members.values()]):
            if any(_overlap(m.span, n.span) > SAME_SPAN for m in members[a.uid][1] for n in members[b.uid][1]):
                yield a, b, f"shows {members[a.uid][1][0].path}, which is byte for byte a clip of"


def _overlap(a: tuple[float, float] | None, b: tuple[float, float] | None) -> float:
    """Share of the shorter span that lies in the other; a whole file holds every span."""
    if a is None or b is None:
        return 1.0
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / min(a[1] - a[0], b[1] - b[0])


def _same_clips(records: Sequence[Record], looks: dict[str, Look]) -> Iterator[Pair]:
    prints = {record.uid: _prints(looks[record.uid]) for record in records}
    for one, other in combinations(SPLITS, 2):
        early, late = ([r for r in records if r.split == split] for split in (one, other))
        yield from _same_sounds(early, late, prints)
        yield from _same_pictures(early, late, prints)


def _prints(look: Look) -> Prints:
    """Of the first sound and the first pictures of a record."""
    sound = next((c.sound.print for c in look.clips.values() if c.sound is not None), b"")
    picture = next((c.picture.print for c in look.clips.values() if c.picture is not None), b"")
    return Prints(
        np.frombuffer(sound, np.int8) if sound else None,
        np.frombuffer(picture, np.uint8).reshape(-1, PRINT_SIDE, PRINT_SIDE) if picture else None,
    )


def _same_sounds(early: Sequence[Record], late: Sequence[Record], prints: dict[str, Prints]) -> Iterator[Pair]:
    early, late = ([r for r in some if prints[r.uid].sound is not None] for some in (early, late))
    bands_late = _all_bands(late, prints)
    for start in range(0, len(early), BLOCK):
        some = early[start : start + BLOCK]
        likely = np.argwhere(_all_bands(some, prints) @ bands_late.T >= SAME_SOUND)
        for a, b in ((some[i], late[j]) for i, j in likely):
            one, other = prints[a.uid], prints[b.uid]
            assert one.sound is not None and other.sound is not None
            if correlation(one.sound, other.sound) >= SAME_SOUND and _may_look_alike(one, other):
                yield a, b, "sounds and looks like" if one.picture is not None else "sounds like"


def _same_pictures(early: Sequence[Record], late: Sequence[Record], prints: dict[str, Prints]) -> Iterator[Pair]:
    """Of records that nothing is heard of."""
    by_frames: dict[int, list[Record]] = {}
    for record in late:
        if (film := prints[record.uid]).picture is not None and film.sound is None:
            by_frames.setdefault(len(film.picture), []).append(record)
    rows = {n: np.stack([_row(prints[r.uid]) for r in some]) for n, some in by_frames.items()}
    for record in early:
        film = prints[record.uid]
        if film.picture is None or film.sound is not None or len(film.picture) not in rows:
            continue
        far = np.sqrt(np.square(rows[len(film.picture)] - _row(film)).mean(1))
        for j in np.flatnonzero(far <= SAME_PICTURE):
            yield record, by_frames[len(film.picture)][j], "looks like"


def _row(film: Prints) -> np.ndarray:
    assert film.picture is not None
    return film.picture.astype(np.float32).ravel()


def _may_look_alike(a: Prints, b: Prints) -> bool:
    if a.picture is None or b.picture is None or len(a.picture) != len(b.picture):
        return True
    return float(np.sqrt(np.square(_row(a) - _row(b)).mean())) <= SAME_PICTURE


def _all_bands(records: Sequence[Record], prints: dict[str, Prints]) -> np.ndarray:
    """(N, BANDS) roots of the energies in bands, each row of length 1."""
    rows = np.zeros((len(records), BANDS), np.float32)
    for row, record in zip(rows, records, strict=True):
        wave = prints[record.uid].sound
        assert wave is not None
        power = np.square(np.abs(np.fft.rfft(wave.astype(np.float32), POINTS)))
        power[[0, -1]] /= 2  # every other frequency stands for its negative, too
        row[:] = np.sqrt(np.add.reduceat(power, np.linspace(0, len(power), BANDS, endpoint=False).astype(int)))
        row /= np.linalg.norm(row)
    return rows


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The largest cross-correlation of two prints over all shifts, in [0, 1]; the sign does not count."""
    points = 1 << (len(a) + len(b) - 1).bit_length()
    one, other = (np.fft.rfft(wave.astype(np.float32), points) for wave in (a, b))
    energy = float(np.sum(np.square(a, dtype=np.float64)) * np.sum(np.square(b, dtype=np.float64)))
    return float(np.abs(np.fft.irfft(one * other.conj(), points)).max()) / energy**0.5
