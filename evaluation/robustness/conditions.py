"""Records whose input got worse: the conditions, and how each changes what the prompt shows.

missing      a modality is left out of the prompt, as for a camera that was off. (`eval.silence` blanks it instead: grey frames.)
snr          noise is added to the sound, at this ratio to the sound of the whole file
dropped      so many of the shown frames never arrive; the one before stays on the screen
words        simulated errors of a transcript: each word is, at this rate, replaced by another word of the split, left out, or
             followed by one, equally often
transcript   another transcript, such as a speech recogniser's, stands in the place of a text view

A draw depends on the seed and the file (or the record) alone: at 0 dB the noise is the same as at 20 dB, only louder, and frames
that are lost at .25 are lost at .5, too. So levels differ in nothing but the level.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaluation.robustness.config import RobustnessConfig
from models.clips import WORKERS
from models.degrade import freeze_frames, mixed, replace_sound, write_sound
from models.media import has_sound, read_audio
from runtime.errors import ConfigError, RecordError
from runtime.files import digest, read_jsonl
from tasks.record import Media, Record, Turn, View, resolve

VOICES = 5
"""That speak at once in babble."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One way in which the input is worse."""

    kind: str
    """missing, snr, dropped, words, transcript."""
    level: str | float
    """A modality, dB, a share, a rate, or a view."""

    @property
    def name(self) -> str:
        """In tables, and of its folder: `missing-audio`, `snr-10`, `dropped-0.5`."""
        return f"{self.kind}-{self.level if isinstance(self.level, str) else f'{self.level:g}'}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where media come from and go to, and what decides how they are changed."""

    root: Path
    """Of the records' media."""
    folder: Path
    """Gets the changed files."""
    views: Sequence[str]
    """Of the task: no other view is touched."""
    fps: float
    """Frames per second that the model is shown."""
    audio_in_video: bool
    """Whether the model hears a film's own sound, which then gets worse, too."""
    seed: int


def wanted(
    cfg: RobustnessConfig, records: Sequence[Record], views: Sequence[str], audio_in_video: bool
) -> list[Condition]:
    """The conditions that change anything of what a model is shown of these views; see `Place` for the last argument."""
    kinds = {_modality(view) for r in records for name in views if (view := r.views.get(name)) is not None}
    films = any(isinstance(v := r.views.get(name), Media) and v.kind == "video" for r in records for name in views)
    if films and audio_in_video:
        kinds.add("audio")
    return [
        *(Condition("missing", modality) for modality in cfg.missing if modality in kinds),
        *(Condition("snr", float(level)) for level in cfg.snr if "audio" in kinds),
        *(Condition("dropped", float(share)) for share in cfg.dropped if films),
        *(Condition("words", float(rate)) for rate in cfg.word_errors if "text" in kinds),
        *(Condition("transcript", view) for view in cfg.transcripts),
    ]


def worsened(condition: Condition, cfg: RobustnessConfig, records: Sequence[Record], place: Place) -> list[Record]:
    """The records under a condition. Their media are absolute paths without the leading slash: their root is `/`.

    Raises:
        ConfigError: for babble without other speakers, or a transcript that stands for no text view.
        RecordError: for records without another transcript.
    """
    match condition.kind:
        case "missing":
            kept = [_without(record, str(condition.level), place.views) for record in records]
            if condition.level == "audio" and place.audio_in_video:
                kept = _remade(kept, place, ("video",), lambda source, out, rng: replace_sound(source, out, None))
        case "snr":
            add = _noise(cfg.noise, float(condition.level), records, place)
            kept = _remade(records, place, ("audio", "video") if place.audio_in_video else ("audio",), add)
        case "dropped":
            share = float(condition.level)
            kept = _remade(
                records, place, ("video",), lambda source, out, rng: freeze_frames(source, out, share, place.fps, rng)
            )
        case "words":
            kept = _misheard(records, float(condition.level), place)
        case _:
            kept = _rewritten(records, str(condition.level), cfg.transcripts[str(condition.level)], place.views)
    return [_absolute(record, place.root) for record in kept]


# ---- media


def _modality(view: View) -> str:
    if not isinstance(view, Media):
        return "text"
    return "audio" if view.kind == "audio" else "video"


def _without(record: Record, modality: str, views: Sequence[str]) -> Record:
    kept = {name: v for name, v in record.views.items() if name not in views or _modality(v) != modality}
    return replace(record, views=kept)


def _absolute(record: Record, root: Path) -> Record:
    """Media below `/`, wherever they lie."""

    def at(view: View) -> View:
        if not isinstance(view, Media):
            return view
        path = Path(view.path) if Path(view.path).is_absolute() else resolve(root, view.path).absolute()
        return replace(view, path=str(path.relative_to(path.anchor)))

    return replace(record, views={name: at(view) for name, view in record.views.items()})


Make = Callable[[Path, Path, np.random.Generator], None]
"""Source, file to write, and what draws for this source."""


def _remade(records: Sequence[Record], place: Place, kinds: Sequence[str], make: Make) -> list[Record]:
    """The records with every file of these kinds made anew, once, however many records point into it."""
    found = {
        (view.kind, view.path)
        for record in records
        for name in place.views
        if isinstance(view := record.views.get(name), Media) and view.kind in kinds
    }

    def one(key: tuple[str, str]) -> str:
        kind, path = key
        out = place.folder / f"{digest(key)}.{'wav' if kind == 'audio' else 'mkv'}"
        make(resolve(place.root, path), out, _draws(place.seed, path))
        return str(out.absolute())

    keys = sorted(found)
    place.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        made = dict(zip(keys, pool.map(one, keys), strict=True))

    def now(name: str, view: View) -> View:
        if name not in place.views or not isinstance(view, Media) or (view.kind, view.path) not in made:
            return view
        return replace(view, path=made[view.kind, view.path])

    return [replace(r, views={name: now(name, view) for name, view in r.views.items()}) for r in records]


def _draws(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, int(digest(name), 16)])


def _noise(kind: str, snr: float, records: Sequence[Record], place: Place) -> Make:
    sounds = _sounds(records, place) if kind == "babble" else {}
    if kind == "babble" and len(set(sounds.values())) < 2:
        raise ConfigError(
            f"robustness.noise: babble needs clips of two speakers (groups) or more; got {len(set(sounds.values()))}; choose "
            "noise=white"
        )

    def make(source: Path, out: Path, rng: np.random.Generator) -> None:
        if not has_sound(source):  # a silent film, which stays as it is
            replace_sound(source, out, None)
            return
        clean = read_audio(source)
        if kind == "white":
            noise = rng.standard_normal(len(clean))
        else:
            others = [path for path, group in sounds.items() if group != sounds[source]]
            chosen = [others[i] for i in rng.choice(len(others), VOICES, replace=len(others) < VOICES)]
            noise = np.sum([_looped(read_audio(path), len(clean), rng) for path in chosen], axis=0)
        wave = mixed(clean, noise, snr)
        if out.suffix == ".wav":
            write_sound(out, wave)
        else:
            replace_sound(source, out, wave)

    return make


def _sounds(records: Sequence[Record], place: Place) -> dict[Path, str]:
    """File with sound -> who is heard in it."""
    kinds = ("audio", "video") if place.audio_in_video else ("audio",)
    return {
        path: record.group
        for record in records
        for name in place.views
        if isinstance(view := record.views.get(name), Media) and view.kind in kinds
        if has_sound(path := resolve(place.root, view.path))
    }


def _looped(wave_T: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """As long as asked, from a random start, and as loud as any other."""
    start = int(rng.integers(len(wave_T)))
    turned = np.resize(np.roll(wave_T, -start), length).astype(np.float64)
    power = float(np.mean(turned**2))
    return turned / np.sqrt(power) if power > 0 else turned


# ---- text


def _misheard(records: Sequence[Record], rate: float, place: Place) -> list[Record]:
    words = sorted(
        {word for r in records for name in place.views for text in _texts(r.views.get(name)) for word in text.split()}
    )

    def at(record: Record, name: str, view: View) -> View:
        if name not in place.views or isinstance(view, Media):
            return view
        rng = _draws(place.seed, record.uid + name)
        if isinstance(view, str):
            return misheard(view, rate, words, rng)
        return tuple(Turn(turn.speaker, misheard(turn.text, rate, words, rng)) for turn in view)

    return [replace(r, views={name: at(r, name, view) for name, view in r.views.items()}) for r in records]


def _texts(view: View | None) -> list[str]:
    if view is None or isinstance(view, Media):
        return []
    return [view] if isinstance(view, str) else [turn.text for turn in view]


def misheard(text: str, rate: float, words: Sequence[str], rng: np.random.Generator) -> str:
    """A text with simulated recognition errors.

    Args:
        text: words with spaces between them.
        rate: expected errors for each word (word error rate), in [0, 1].
        words: what is heard instead.
        rng: draws; the same draws are made at every rate.
    """
    heard: list[str] = []
    for word in text.split():
        error, kind, other = rng.random() < rate, int(rng.integers(3)), words[int(rng.integers(len(words)))]
        if not error:
            heard.append(word)
        elif kind == 0:
            heard.append(other)
        elif kind == 1:
            heard += [word, other]
    return " ".join(heard)


def _rewritten(records: Sequence[Record], view: str, source: str, views: Sequence[str]) -> list[Record]:
    """With another transcript in the place of `view`: from a file, or from another view of the same record."""
    if view not in views or any(isinstance(record.views.get(view, ""), Media) for record in records):
        raise ConfigError(
            f"robustness.transcripts: {view!r} is no text that the task shows ({', '.join(views)}); mend it"
        )
    if Path(source).is_file():
        texts: Mapping[str, View | None] = transcripts(Path(source))
    else:
        texts = {record.uid: record.views.get(source) for record in records}
    lacking = [
        r.uid for r in records if view in r.views and (texts.get(r.uid) is None or isinstance(texts[r.uid], Media))
    ]
    if lacking:
        raise RecordError(
            f"robustness.transcripts.{view}: {source!r} has no text for {len(lacking)} of {len(records)} records, the first: "
            f"{lacking[0]!r}; name a JSONL file with a line for each, or a text view that they have"
        )
    return [replace(r, views=dict(r.views) | {view: texts[r.uid]}) if view in r.views else r for r in records]


def transcripts(path: Path) -> dict[str, str]:
    """Uid -> text, of lines {"uid", "text"}.

    Raises:
        RecordError: for a line of another form.
    """
    found: dict[str, str] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        if not isinstance(row, dict) or not isinstance(row.get("uid"), str) or not isinstance(row.get("text"), str):
            raise RecordError(f"{path}:{number}: strings uid and text are required; got {row!r}; mend the line")
        found[row["uid"]] = row["text"]
    return found
