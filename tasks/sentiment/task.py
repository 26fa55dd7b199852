"""Sentiment intensity: a number on the scale of its corpus; the coarse side is negative, neutral or positive."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.errors import ConfigError
from runtime.files import write_jsonl
from tasks.base import Task
from tasks.metrics.regression import regression_metrics
from tasks.readers import emobank, mosi, vader
from tasks.record import SPLITS, Record, write_records
from tasks.target import Scalar, Target

CORPORA = (*vader.NAMES, "emobank", *mosi.RANGE)


class Sentiment(Task):
    """Intensity on one corpus.

    Splits are those of the corpus; for one that it does not ship, whole groups are taken out of train in the order of a
    seeded hash.

    Args:
        name, views, grammar: as in `Task`; the views are `text` and, where the clips are there, `audio` and `video`.
        corpus: a name of `CORPORA`.
        data: folder of the corpus.
        neutral: half width of the neutral zone around the middle, on the scale of the corpus.
        language: "en" or "zh".
        group: leakage unit of the video corpora, "video" or "clip"; texts are grouped by equality.
        dev_share, test_share: share of the training groups that become a split which is not shipped.
        seed: of the cuts and of the choice under `limit`.
        limit: most records of each split, null for all.
        scale: lower and upper end of the scale on which scores are asked for and stated; None is that of the corpus. The
            labels are mapped onto it linearly, so that a model that was taught on one corpus understands the question of
            another; `metrics` maps back and counts on the scale of the corpus.

    Raises:
        ConfigError: for an unknown corpus, unit or split, shares that leave nothing to train on, or a scale without width.
    """

    def __init__(
        self,
        *,
        name: str,
        views: Sequence[str],
        grammar: str,
        corpus: str,
        data: str,
        neutral: float,
        language: str,
        group: str,
        dev_share: float,
        test_share: float,
        seed: int,
        limit: Mapping[str, int | None],
        scale: Sequence[float] | None,
    ) -> None:
        super().__init__(name=name, views=views, grammar=grammar)
        if corpus not in CORPORA:
            raise ConfigError(f"task.corpus: one of {CORPORA}; got {corpus!r}; mend the config")
        if group not in ("video", "clip"):
            raise ConfigError(f"task.group: 'video' or 'clip'; got {group!r}; mend the config")
        if min(dev_share, test_share) < 0 or dev_share + test_share >= 1:
            got = (dev_share, test_share)
            raise ConfigError(f"task.dev_share, test_share: shares with a sum below 1; got {got}; mend the config")
        if set(limit) != set(SPLITS):
            raise ConfigError(
                f"task.limit: one number or null for each of {SPLITS}; got {dict(limit)}; mend the config"
            )
        self.corpus, self.data, self.neutral, self.language, self.group = corpus, Path(data), neutral, language, group
        self.dev_share, self.test_share, self.seed, self.limit = dev_share, test_share, seed, dict(limit)
        if corpus in vader.NAMES:
            self.native = vader.LO, vader.HI
        else:
            self.native = (emobank.LO, emobank.HI) if corpus == "emobank" else mosi.RANGE[corpus]
        if scale is not None and not (len(scale) == 2 and scale[0] < scale[1]):
            raise ConfigError(
                "task.scale: [lower end, upper end], or null for the scale of the corpus; "
                f"got {list(scale)}; mend the config"
            )
        self.lo, self.hi = self.native if scale is None else (float(scale[0]), float(scale[1]))

    def prepare(self, folder: Path) -> Path:
        """Write the records, and to `left_out.jsonl` the uid of every row that is not used, with the reason.

        Returns:
            The folder of the corpus.
        """
        read = [self._stated(record) for record in self._read()]
        records, left_out = self._without_leaks(self._with_all_splits(read))
        chosen = {r.uid for s in SPLITS for r in self._choose([r for r in records if r.split == s], self.limit[s])}
        left_out += [{"uid": r.uid, "reason": f"limit of split {r.split}"} for r in records if r.uid not in chosen]
        write_jsonl(folder / "left_out.jsonl", left_out)
        write_records(folder / "records.jsonl", [r for r in records if r.uid in chosen])
        return self.data

    def _read(self) -> list[Record]:
        if self.corpus in vader.NAMES:
            return vader.read(self.data, self.corpus, task=self.name, neutral=self.neutral)
        if self.corpus == "emobank":
            return emobank.read(self.data, task=self.name, neutral=self.neutral)
        return mosi.read(
            self.data, self.corpus, task=self.name, neutral=self.neutral, language=self.language, group=self.group
        )

    def _stated(self, record: Record) -> Record:
        """A record of the corpus with its label and ratings on the stated scale; six decimals, so that labels read well."""
        stated = self.lo, self.hi
        if stated == self.native:
            return record
        zone = round(self.neutral * (self.hi - self.lo) / (self.native[1] - self.native[0]), 6)
        target = Scalar(round(_moved(_x(record.target), self.native, stated), 6), *stated, zone)
        raters = record.raters and tuple(
            (rater, field, round(_moved(float(x), self.native, stated), 6)) for rater, field, x in record.raters
        )
        return replace(record, target=target, raters=raters)

    def _native(self, target: Target) -> float:
        """A score back on the scale of the corpus; four decimals, the most that its labels have."""
        stated, x = (self.lo, self.hi), _x(target)
        return x if stated == self.native else round(_moved(x, stated, self.native), 4)

    def _draw(self, key: str) -> float:
        """A number in [0, 1) that depends on seed and key alone."""
        return int(hashlib.sha256(f"{self.seed}:{key}".encode()).hexdigest()[:12], 16) / 16**12

    def _with_all_splits(self, records: list[Record]) -> list[Record]:
        """Takes whole groups out of train for each split that the corpus does not ship."""
        groups = sorted({r.group for r in records if r.split == "train"}, key=self._draw)
        shipped, moved = {r.split for r in records}, {}
        for split, share in (("test", self.test_share), ("dev", self.dev_share)):
            if split not in shipped:
                start = len(moved)
                moved |= dict.fromkeys(groups[start : start + round(share * len(groups))], split)
        return [replace(r, split=moved.get(r.group, r.split)) for r in records]

    def _without_leaks(self, records: list[Record]) -> tuple[list[Record], list[dict[str, str]]]:
        """EmoBank ships some texts in two splits: they stay in the later one, so that train gives nothing away."""
        if self.corpus != "emobank":
            return records, []
        split_of = {r.group: r.split for s in SPLITS for r in records if r.split == s}  # test over dev over train
        left_out = [
            {"uid": r.uid, "reason": f"its text also occurs in split {split_of[r.group]}"}
            for r in records
            if r.split != split_of[r.group]
        ]
        return [r for r in records if r.split == split_of[r.group]], left_out

    def _choose(self, records: list[Record], most: int | None) -> list[Record]:
        return sorted(records, key=lambda r: self._draw(r.uid))[:most]

    def question(self, record: Record) -> str:
        """States the range, because corpora differ in it."""
        return f"How strong is the sentiment, from {self.lo:g} (most negative) to {self.hi:g} (most positive)?"

    def metrics(self, gold: Sequence[Target], answers: Sequence[Target | None]) -> dict[str, float]:
        """MAE, Corr, Acc-k and F1 with the conventions of CH-SIMS for CH-SIMS, else of CMU-MOSI, on the scale of the corpus."""
        return regression_metrics(
            [self._native(t) for t in gold],
            [None if t is None else self._native(t) for t in answers],
            lo=self.native[0],
            hi=self.native[1],
            neutral=self.neutral,
            scheme="sims" if self.corpus == "sims" else "mosi",
        )

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> list[Target]:
        """The mean label of the training records."""
        mean = float(np.mean([_x(r.target) for r in train]))
        return [replace(train[0].target, x=round(mean, 2))] * len(test)


def _x(target: Target) -> float:
    assert isinstance(target, Scalar)
    return target.x


def _moved(x: float, source: tuple[float, float], goal: tuple[float, float]) -> float:
    """A number on the scale `source` at the same place of the scale `goal`."""
    return goal[0] + (x - source[0]) * (goal[1] - goal[0]) / (source[1] - source[0])
