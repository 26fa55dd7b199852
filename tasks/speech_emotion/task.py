"""Speech emotion: one of several emotions; the coarse side is its valence. No speaker is in two splits."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import soundfile
from scipy.signal import resample_poly

from runtime.errors import ConfigError, MediaError
from tasks.base import Task
from tasks.metrics.classification import classification_metrics
from tasks.readers import emodb, ravdess
from tasks.record import SPLITS, Media, Record, resolve, write_records
from tasks.target import Class, Space, Target

VALENCE: Mapping[str, Mapping[str, str]] = {"emodb": emodb.VALENCE, "ravdess": ravdess.VALENCE}


class SpeechEmotion(Task):
    """Emotion of an acted sentence. The words are the same for all emotions: a model that is deaf stays at chance.

    Args:
        name, views, grammar: as in `Task`; the views are `audio` and `text` (the sentence, which carries no label).
        corpus: "emodb" or "ravdess".
        data: folder of the corpus.
        labels: emotions to use, in the order of the question; clips of others are left out.
        train, dev, test: speakers of each split, as two digits; those the folder does not have may be listed too.
        speeds: factors of tempo and pitch, 0.5 to 2, at which every training clip is there once more, as if another speaker
            had said it (speed perturbation: Ko et al., Interspeech 2015).

    Raises:
        ConfigError: for an unknown corpus or label, a speaker in two splits, or a speed out of range or twice.
    """

    def __init__(
        self,
        *,
        name: str,
        views: Sequence[str],
        grammar: str,
        corpus: str,
        data: str,
        labels: Sequence[str],
        train: Sequence[str],
        dev: Sequence[str],
        test: Sequence[str],
        speeds: Sequence[float],
    ) -> None:
        super().__init__(name=name, views=views, grammar=grammar)
        if corpus not in VALENCE:
            raise ConfigError(f"task.corpus: one of {sorted(VALENCE)}; got {corpus!r}; mend the config")
        valence = VALENCE[corpus]
        if unknown := sorted(set(labels) - set(valence)):
            raise ConfigError(f"task.labels: {corpus} has {list(valence)}; got {unknown}; mend the config")
        self.corpus, self.data = corpus, Path(data)
        self.space = Space(tuple(labels), tuple(valence[label] for label in labels))
        listed = [(speaker, split) for split, some in zip(SPLITS, (train, dev, test), strict=True) for speaker in some]
        self.split_of = dict(listed)
        if len(self.split_of) < len(listed):
            twice = [speaker for speaker, n in Counter(s for s, _ in listed).items() if n > 1]
            raise ConfigError(
                f"task.train, dev, test: each speaker belongs to one split; got {twice} twice; mend the config"
            )

        if any(not 0.5 <= s <= 2 or s == 1 for s in speeds) or len(set(speeds)) < len(speeds):
            raise ConfigError(
                f"task.speeds: different numbers from 0.5 to 2 without 1, which is always there; got {list(speeds)}; mend "
                "the config"
            )
        self.speeds = tuple(speeds)

    def prepare(self, folder: Path) -> Path:
        """Write the records; the clips stay where they are, unless some are to be there at other speeds.

        Returns:
            The folder of the corpus, or of the copies.
        """
        reader = emodb if self.corpus == "emodb" else ravdess
        records = reader.read(self.data, task=self.name, space=self.space, split_of=self.split_of)
        if self.speeds:
            records = [copy for record in records for copy in self._copies(record, folder)]
        write_records(folder / "records.jsonl", records)
        return folder if self.speeds else self.data

    def _copies(self, record: Record, folder: Path) -> Iterator[Record]:
        """The record with its clip below `folder`, and for training the same at each of the other speeds."""
        clip = record.views["audio"]
        assert isinstance(clip, Media)
        source = resolve(self.data, clip.path)
        try:
            wave, rate = soundfile.read(source, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise MediaError(f"{source}: not a readable sound ({error}); replace the file, or remove it") from None
        for speed in (1.0, *self.speeds) if record.split == "train" else (1.0,):
            name = record.uid + ("" if speed == 1 else f"-x{speed:g}")
            path = folder / "clips" / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            # as many samples as the clip lasts at that speed, played at the old rate
            samples = wave if speed == 1 else resample_poly(wave, 100, round(100 * speed), axis=0)
            soundfile.write(path, samples, rate, subtype="PCM_16")
            views = {**record.views, "audio": replace(clip, path=path.relative_to(folder).as_posix())}
            yield replace(record, uid=name, views=views, meta={**record.meta, "speed": speed})

    def question(self, record: Record) -> str:
        """Names the labels, because the answer must be one of them."""
        return f"Which emotion does the voice carry: {', '.join(self.space.labels)}?"

    def metrics(self, gold: Sequence[Target], answers: Sequence[Target | None]) -> dict[str, float]:
        """WAR, UAR and F1; the classes are unbalanced, so UAR is the one to report."""
        return classification_metrics(
            [t.render() for t in gold], [None if t is None else t.render() for t in answers], self.space.labels
        )

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> list[Target]:
        """The most frequent training label (ties: the order of the labels)."""
        counts = Counter(r.target.render() for r in train)
        majority = Class(max(self.space.labels, key=lambda label: counts[label]), self.space)
        return [majority] * len(test)
