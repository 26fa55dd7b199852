"""Typed targets: what an answer can be, and the five things every kind supplies once.

    render()        canonical answer text
    read(text)      the text as a value of the same space, or None when it is not one
    coarse()        the discrimination anchor, and so the hint; None when there is no coarser form
    vote(values)    typed self-consistency over several answers
    score(gold)     closeness of `self` to `gold` in [0, 1]; None when gold rates nothing

A target carries its space (range, labels, names), so `gold.read(text)` needs no registry. Two laws hold for all kinds and
are property-tested: `t.read(t.render()) == t`, and `t.score(t) == 1`.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from statistics import median, median_low
from typing import Any, ClassVar, Self, TypeVar

from rewards.numbers import closeness, level_closeness, mean_closeness
from rewards.sets import jaccard, set_f1
from rewards.text import token_f1
from runtime.errors import RecordError

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
WORD = re.compile(r"[^<>,=:{}\"\s]([^<>,=:{}\"\n]*[^<>,=:{}\"\s])?")
"""What a label or a name may look like: no tag, no separator of ours, no outer blank."""

NONE = "none"
"""How an empty set is written."""

RATER_STEP = 1 / 30
"""Of a scale's width: by so much a mean of five raters on a seven-point scale (CMU-MOSI, -3 to 3) moves when one of them moves by
one point. The other rated corpora lie around it: VADER 1/80 (ten raters, nine points), CH-SIMS 1/10 (five, three points)."""


def number_text(x: float) -> str:
    """The shortest decimal text that reads back as exactly `x`, without an exponent."""
    return format(Decimal(repr(x)), "f")


def read_number(text: str) -> float | None:
    """A plain decimal number, or None."""
    text = text.strip()
    return float(text) if NUMBER.fullmatch(text) else None


def _check(ok: bool, what: str, got: object, remedy: str) -> None:
    if not ok:
        raise RecordError(f"target: {what}; got {got!r}; {remedy}")


def _check_number(name: str, x: object, lo: float, hi: float) -> float:
    is_number = isinstance(x, int | float) and not isinstance(x, bool) and (isinstance(x, int) or math.isfinite(x))
    _check(is_number, f"{name} must be a finite number", x, "remove the row or mend its label")
    _check(lo <= x <= hi, f"{name} must lie in [{lo}, {hi}]", x, "mend the label or the declared range")  # type: ignore[operator]
    return float(x) + 0.0  # type: ignore[arg-type]  # + 0.0 turns -0.0 into 0.0, which prints as people write it


def _is_anchor(word: object) -> bool:
    """Verdicts are read in lower case, and `none` says that there is none."""
    return isinstance(word, str) and bool(WORD.fullmatch(word)) and word == word.lower() and word != NONE


def _near_edge(x: float, lo: float, hi: float, side: Callable[[float], object]) -> bool:
    """Whether `side`, which never turns back along the scale, changes within a rater's step of `x`.

    Never at an end of the scale: a mean lies there only when all raters agree.
    """
    step = RATER_STEP * (hi - lo)
    below, above = (min(max(round(x + d, 9), lo), hi) for d in (-step, step))  # 0.4 - 0.2 is 0.2, rounding aside
    return lo < x < hi and side(below) != side(above)


@dataclass(frozen=True, slots=True)
class Space:
    """A closed set of labels, with an optional coarser parent for each (valence, stage of support, wheel cluster)."""

    labels: tuple[str, ...]
    parents: tuple[str, ...] = ()
    """[K] parent of each label, in the order of `labels`; empty when the space has no coarser form."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "parents", tuple(self.parents))
        unique = len(set(self.labels)) == len(self.labels) >= 2
        _check(unique, "a label space needs two or more distinct labels", self.labels, "mend the space")
        _check(
            all(WORD.fullmatch(x) for x in self.labels + self.parents),
            "labels are plain words",
            self.labels,
            "mend the space",
        )
        _check(len(self.parents) in (0, len(self.labels)), "one parent for each label", self.parents, "mend the space")
        _check(
            all(_is_anchor(x) for x in self.parents),
            "parents are lower case, not 'none'",
            self.parents,
            "mend the space",
        )

    def parent(self, label: str) -> str | None:
        """The coarser class of `label`, or None when the space has no parents."""
        return self.parents[self.labels.index(label)] if self.parents else None


@dataclass(frozen=True)
class Target(ABC):
    """One typed answer together with its space."""

    kind: ClassVar[str]

    @abstractmethod
    def render(self) -> str:
        """Canonical answer text, free of angle brackets."""

    @abstractmethod
    def read(self, text: str) -> Self | None:
        """`text` as a value of this target's space; None when it is not one. Never raises."""

    @abstractmethod
    def score(self, gold: Self) -> float | None:
        """Closeness to `gold` in [0, 1], 1 for equal; None when gold rates nothing."""

    @abstractmethod
    def vote(self, values: Sequence[Self]) -> Self:
        """The typed consensus of `values`: invariant under permutation, and `vote([a] * n) == a`."""

    def coarse(self) -> str | None:
        """The discrimination anchor; None when this kind has no coarser form."""
        return None

    def read_coarse(self, text: str) -> str | None:
        """A stated verdict in canonical form, or None when it is no verdict of this space."""
        text = text.strip().lower()
        return text if text in self.coarse_space() else None

    def coarse_space(self) -> tuple[str, ...]:
        """Every anchor that `coarse` can give, where they can be listed; empty when there is none."""
        return ()

    @property
    def hintable(self) -> bool:
        """Whether `coarse` says less than the answer itself."""
        coarse = self.coarse()
        return coarse is not None and coarse != self.render().lower()

    @property
    def borderline(self) -> bool:
        """Whether raters one step away would give another `coarse`: failing on it may be the label's fault.

        Only graded kinds have a step; labels of a closed set, positions and texts are never borderline.
        """
        return False

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object that `target_from_json` reads back."""
        return {"kind": self.kind} | {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def _plain(value: Any) -> Any:
    match value:
        case Target():
            return value.to_json()
        case Space():
            return {"labels": list(value.labels), "parents": list(value.parents)}
        case Mapping():
            return {k: _plain(v) for k, v in value.items()}
        case frozenset():
            return sorted(value)
        case tuple():
            return [_plain(v) for v in value]
        case _:
            return value


@dataclass(frozen=True)
class Scalar(Target):
    """A number on a scale, for example sentiment intensity on [-3, 3]."""

    kind = "scalar"
    x: float
    lo: float
    hi: float
    neutral: float = 0.0
    """Half width of the neutral zone around the middle of the scale; 0 means the exact middle only."""

    def __post_init__(self) -> None:
        _check(self.lo < self.hi, "the range needs lo < hi", (self.lo, self.hi), "mend the declared range")
        object.__setattr__(self, "x", _check_number("x", self.x, self.lo, self.hi))
        object.__setattr__(self, "neutral", _check_number("neutral", self.neutral, 0, self.hi - self.lo))

    def render(self) -> str:
        return number_text(self.x)

    def read(self, text: str) -> Self | None:
        x = read_number(text)
        return replace(self, x=x) if x is not None and self.lo <= x <= self.hi else None

    def score(self, gold: Self) -> float:
        return closeness(self.x, gold.x, gold.lo, gold.hi)

    def vote(self, values: Sequence[Self]) -> Self:
        return replace(self, x=median(v.x for v in values))

    def coarse(self) -> str:
        offset = self.x - (self.lo + self.hi) / 2
        if abs(offset) <= self.neutral + 1e-9:  # labels on the edge of the zone belong to it, rounding aside
            return "neutral"
        return "negative" if offset < 0 else "positive"

    def coarse_space(self) -> tuple[str, ...]:
        return ("negative", "neutral", "positive")

    @property
    def borderline(self) -> bool:
        """Whether an edge of the neutral zone is crossed; all of a zone narrower than the step is borderline."""
        return _near_edge(self.x, self.lo, self.hi, lambda x: replace(self, x=x).coarse())


@dataclass(frozen=True)
class Ordinal(Target):
    """One of several ordered, named levels."""

    kind = "ordinal"
    level: int
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        _check(
            len(set(self.levels)) == len(self.levels) >= 2,
            "two or more distinct levels",
            self.levels,
            "mend the levels",
        )
        _check(all(WORD.fullmatch(x) for x in self.levels), "levels are plain words", self.levels, "mend the levels")
        ok = isinstance(self.level, int) and not isinstance(self.level, bool) and 0 <= self.level < len(self.levels)
        _check(ok, f"level must be an integer in 0..{len(self.levels) - 1}", self.level, "mend the label")

    def render(self) -> str:
        return self.levels[self.level]

    def read(self, text: str) -> Self | None:
        text = text.strip()
        return replace(self, level=self.levels.index(text)) if text in self.levels else None

    def score(self, gold: Self) -> float:
        return level_closeness(self.level, gold.level, len(gold.levels))

    def vote(self, values: Sequence[Self]) -> Self:
        return replace(self, level=median_low(v.level for v in values))

    def coarse(self) -> str:
        twice, top = 2 * self.level, len(self.levels) - 1
        return "middle" if twice == top else "low" if twice < top else "high"

    def coarse_space(self) -> tuple[str, ...]:
        return ("low", "middle", "high") if len(self.levels) % 2 else ("low", "high")

    @property
    def hintable(self) -> bool:
        """Two or three levels are their own coarse form."""
        return len(self.levels) > 3

    @property
    def borderline(self) -> bool:
        """Next to a level of another coarse class; not where levels are their own coarse form, and all are next to one."""
        near = (max(self.level - 1, 0), min(self.level + 1, len(self.levels) - 1))
        return self.hintable and any(replace(self, level=k).coarse() != self.coarse() for k in near)


@dataclass(frozen=True)
class Class(Target):
    """One of a closed set of labels; its coarse form is the label's parent in the declared hierarchy."""

    kind = "class"
    label: str
    space: Space

    def __post_init__(self) -> None:
        _check(
            self.label in self.space.labels,
            f"label must be one of {self.space.labels}",
            self.label,
            "mend the label or the space",
        )

    def render(self) -> str:
        return self.label

    def read(self, text: str) -> Self | None:
        text = text.strip()
        return replace(self, label=text) if text in self.space.labels else None

    def score(self, gold: Self) -> float:
        return float(self.label == gold.label)

    def vote(self, values: Sequence[Self]) -> Self:
        counts = Counter(v.label for v in values)
        return replace(self, label=max(self.space.labels, key=lambda x: counts[x]))  # ties: the order of the space

    def coarse(self) -> str | None:
        return self.space.parent(self.label)

    def coarse_space(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.space.parents))

    @property
    def hintable(self) -> bool:
        """A parent with one child gives that child away; the label is still hintable, its space being coarser as a whole."""
        return 1 < len(set(self.space.parents)) < len(self.space.labels)


def _read_list(text: str) -> list[str] | None:
    """A comma list without repetitions, `none` for the empty one; None when it is not such a list."""
    words = [word.strip() for word in text.split(",")]
    if words == [NONE]:
        return []
    return words if all(words) and len(set(words)) == len(words) and NONE not in words else None


@dataclass(frozen=True)
class LabelSet(Target):
    """Several labels, from a closed space or an open vocabulary; coarse is the set of wheel clusters.

    `clusters` maps a label to its cluster for open vocabularies; labels it does not know belong to the cluster "other".
    """

    kind = "label_set"
    labels: frozenset[str]
    space: Space | None = None
    clusters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", frozenset(self.labels))
        fine = all(isinstance(x, str) and WORD.fullmatch(x) and x != NONE for x in self.labels)
        _check(fine, "labels are plain words", sorted(map(str, self.labels)), "mend the labels")
        if self.space is not None:
            _check(
                self.labels <= set(self.space.labels),
                f"labels must come from {self.space.labels}",
                sorted(self.labels),
                "mend the labels",
            )
        clusters = sorted(set(self.clusters.values()))
        _check(all(_is_anchor(x) for x in clusters), "clusters are lower-case words, not 'none'", clusters, "mend them")

    def render(self) -> str:
        return ", ".join(sorted(self.labels)) or NONE

    def read(self, text: str) -> Self | None:
        words = _read_list(text)
        if words is None or not all(WORD.fullmatch(w) for w in words):
            return None
        if self.space is not None and not set(words) <= set(self.space.labels):
            return None
        return replace(self, labels=frozenset(words))

    def score(self, gold: Self) -> float:
        """Jaccard for a closed space; F1 of the clusters for an open one (wording is free, the family is not)."""
        if gold.space is not None or not gold.clusters:
            return jaccard(self.labels, gold.labels)
        return set_f1(gold.families(self.labels), gold.families(gold.labels))

    def vote(self, values: Sequence[Self]) -> Self:
        return replace(self, labels=_frequent([v.labels for v in values]))

    def families(self, labels: frozenset[str]) -> frozenset[str]:
        """Clusters of `labels`."""
        if self.space is not None:
            return frozenset(filter(None, map(self.space.parent, labels)))
        return frozenset(self.clusters.get(x, "other") for x in labels)

    def coarse(self) -> str | None:
        if not self.clusters and (self.space is None or not self.space.parents):
            return None
        return ", ".join(sorted(self.families(self.labels))) or NONE

    def read_coarse(self, text: str) -> str | None:
        words = _read_list(text.strip().lower())
        if words is None or not set(words) <= set(self.coarse_space()):
            return None
        return ", ".join(sorted(words)) or NONE

    def coarse_space(self) -> tuple[str, ...]:
        """The clusters; a verdict is a comma list of them."""
        if self.space is not None:
            return tuple(dict.fromkeys(self.space.parents))
        return (*sorted(set(self.clusters.values()) - {"other"}), "other") if self.clusters else ()

    @property
    def hintable(self) -> bool:
        """Not where every label of a closed space is a cluster of its own."""
        renamed = self.space is not None and len(set(self.space.parents)) == len(self.space.labels)
        return super().hintable and not renamed


T = TypeVar("T", str, int)


def _frequent(sets: Sequence[frozenset[T]]) -> frozenset[T]:
    """Members of at least half of the sets; if none survives, the most frequent one (ties: the smallest)."""
    counts = Counter(x for s in sets for x in s)
    kept = frozenset(x for x, n in counts.items() if 2 * n >= len(sets))
    if kept or not counts or 2 * sum(not s for s in sets) >= len(sets):
        return kept
    return frozenset([min(counts, key=lambda x: (-counts[x], x))])


@dataclass(frozen=True)
class IndexSet(Target):
    """Positions in a numbered list, 0..n-1, for example the utterances that trigger an emotion flip in the last one.

    Coarse says how far back the nearest trigger lies: `last` (the flipping utterance itself), `previous`, `earlier`, `none`.
    """

    kind = "index_set"
    indices: frozenset[int]
    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", frozenset(self.indices))
        fine = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < self.n for i in self.indices)
        _check(isinstance(self.n, int) and self.n > 0, "n must be a positive integer", self.n, "mend the row")
        _check(fine, f"indices must lie in 0..{self.n - 1}", sorted(map(str, self.indices)), "mend the indices")

    def render(self) -> str:
        return ", ".join(map(str, sorted(self.indices))) or NONE

    def read(self, text: str) -> Self | None:
        words = _read_list(text)
        if words is None or not all(re.fullmatch(r"[0-9]{1,9}", w) and int(w) < self.n for w in words):
            return None
        return replace(self, indices=frozenset(map(int, words)))

    def score(self, gold: Self) -> float:
        return set_f1(self.indices, gold.indices)

    def vote(self, values: Sequence[Self]) -> Self:
        return replace(self, indices=_frequent([v.indices for v in values]))

    def coarse(self) -> str:
        if not self.indices:
            return NONE
        distance = self.n - 1 - max(self.indices)
        return ("last", "previous", "earlier")[min(distance, 2)]

    def coarse_space(self) -> tuple[str, ...]:
        return ("last", "previous", "earlier", NONE)

    @property
    def hintable(self) -> bool:
        """With one utterance there is nothing left to find, and `none` is the whole answer."""
        return self.n > 1 and super().hintable


@dataclass(frozen=True)
class Vector(Target):
    """Several named numbers on one scale, some possibly unrated (None). Coarse lists the names that are present."""

    kind = "vector"
    names: tuple[str, ...]
    x: tuple[float | None, ...]
    lo: float
    hi: float
    present: float | None = None
    """A rated entry above this value counts as present; None means above `lo`."""

    def __post_init__(self) -> None:
        _check(self.lo < self.hi, "the range needs lo < hi", (self.lo, self.hi), "mend the declared range")
        object.__setattr__(self, "names", tuple(self.names))
        _check(
            len(set(self.names)) == len(self.names) == len(self.x) > 0,
            "one number (or null) for each distinct name",
            self.x,
            "mend the row",
        )
        _check(
            all(WORD.fullmatch(x) and x != NONE for x in self.names),
            "names are plain words",
            self.names,
            "mend the names",
        )
        _check(all(n == n.lower() for n in self.names), "names are lower case", self.names, "mend the names")
        object.__setattr__(
            self, "x", tuple(None if v is None else _check_number("x", v, self.lo, self.hi) for v in self.x)
        )
        if self.present is not None:
            object.__setattr__(self, "present", _check_number("present", self.present, self.lo, self.hi))

    def render(self) -> str:
        rated = [f"{n}={number_text(v)}" for n, v in zip(self.names, self.x, strict=True) if v is not None]
        return ", ".join(rated) or NONE

    def read(self, text: str) -> Self | None:
        pairs = _read_list(text)
        if pairs is None:
            return None
        found: dict[str, float] = {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            x, name = read_number(value), name.strip()
            if not equals or name not in self.names or name in found or x is None or not self.lo <= x <= self.hi:
                return None
            found[name] = x
        return replace(self, x=tuple(found.get(n) for n in self.names))

    def score(self, gold: Self) -> float | None:
        return mean_closeness(self.x, gold.x, gold.lo, gold.hi)

    def vote(self, values: Sequence[Self]) -> Self:
        columns = [[v for v in column if v is not None] for column in zip(*(v.x for v in values), strict=True)]
        return replace(self, x=tuple(median(c) if 2 * len(c) > len(values) else None for c in columns))

    @property
    def _edge(self) -> float:
        return self.lo if self.present is None else self.present

    def coarse(self) -> str:
        rated = zip(self.names, self.x, strict=True)
        return ", ".join(n for n, v in rated if v is not None and v > self._edge) or NONE

    def read_coarse(self, text: str) -> str | None:
        words = _read_list(text.strip().lower())
        if words is None or not set(words) <= set(self.names):
            return None
        return ", ".join(n for n in self.names if n in words) or NONE

    def coarse_space(self) -> tuple[str, ...]:
        """The names; a verdict is a comma list of them."""
        return self.names

    @property
    def borderline(self) -> bool:
        """Whether a step would make any rated entry present or absent."""
        rated = [v for v in self.x if v is not None]
        return any(_near_edge(v, self.lo, self.hi, lambda v: v > self._edge) for v in rated)


@dataclass(frozen=True)
class Text(Target):
    """Free text with one or more references; it has no coarser form."""

    kind = "text"
    refs: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "refs", tuple(" ".join(str(r).split()) for r in self.refs))
        fine = all(self.refs) and self.refs and not any(c in r for r in self.refs for c in "<>")
        _check(bool(fine), "one or more non-empty references without angle brackets", self.refs, "mend the row")

    def render(self) -> str:
        return self.refs[0]

    def read(self, text: str) -> Self | None:
        text = " ".join(text.split())
        if text == self.refs[0]:
            return self
        return replace(self, refs=(text,)) if text and "<" not in text and ">" not in text else None

    def score(self, gold: Self) -> float:
        return max(token_f1(self.refs[0], ref) for ref in gold.refs)

    def vote(self, values: Sequence[Self]) -> Self:
        """The medoid: the text with the highest summed overlap with all others (ties: alphabetical order)."""
        return min(values, key=lambda v: (-math.fsum(token_f1(v.refs[0], w.refs[0]) for w in values), v.refs))


@dataclass(frozen=True)
class Composite(Target):
    """Named targets of any kinds; masked fields are absent, not zero. Coarse is that of the first field that has one."""

    kind = "composite"
    fields: Mapping[str, Target]
    mask: frozenset[str] = frozenset()
    """Names of fields that nobody annotated; whatever value they were filled with is dropped."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", frozenset(self.mask))
        object.__setattr__(self, "fields", {k: v for k, v in self.fields.items() if k not in self.mask})
        _check(bool(self.fields), "at least one field that is not masked", sorted(self.mask), "drop the row")
        _check(
            all(WORD.fullmatch(k) for k in self.fields),
            "field names are plain words",
            list(self.fields),
            "mend the names",
        )

    def render(self) -> str:
        return json.dumps({k: v.render() for k, v in self.fields.items()}, ensure_ascii=False)

    def read(self, text: str) -> Self | None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or set(found) - self.mask != set(self.fields):
            return None
        values = {k: v.read(found[k]) if isinstance(found[k], str) else None for k, v in self.fields.items()}
        present = {k: v for k, v in values.items() if v is not None}
        return replace(self, fields=present) if len(present) == len(values) else None

    def score(self, gold: Self) -> float | None:
        parts = [self.fields[k].score(v) if k in self.fields else 0.0 for k, v in gold.fields.items()]
        known = [p for p in parts if p is not None]
        return sum(known) / len(known) if known else None

    def vote(self, values: Sequence[Self]) -> Self:
        return replace(self, fields={k: f.vote([v.fields[k] for v in values]) for k, f in self.fields.items()})

    def _anchor(self) -> Target | None:
        return next((f for f in self.fields.values() if f.coarse() is not None), None)

    def coarse(self) -> str | None:
        anchor = self._anchor()
        return anchor.coarse() if anchor else None

    def read_coarse(self, text: str) -> str | None:
        anchor = self._anchor()
        return anchor.read_coarse(text) if anchor else None

    def coarse_space(self) -> tuple[str, ...]:
        anchor = self._anchor()
        return anchor.coarse_space() if anchor else ()

    @property
    def hintable(self) -> bool:
        """As its anchor, which is never the whole answer when there are further fields."""
        anchor = self._anchor()
        return anchor is not None and (anchor.hintable or len(self.fields) > 1)

    @property
    def borderline(self) -> bool:
        """As its anchor."""
        anchor = self._anchor()
        return anchor is not None and anchor.borderline


KINDS: tuple[type[Target], ...] = (Scalar, Ordinal, Class, LabelSet, IndexSet, Vector, Text, Composite)


LISTS = frozenset({"labels", "parents", "levels", "indices", "names", "refs", "mask"})
"""Fields that hold several words; a bare string would otherwise be read letter by letter."""


def target_from_json(obj: Any) -> Target:
    """Read what `Target.to_json` wrote.

    Raises:
        RecordError: naming the field that is missing, unknown, or holds a value that its kind does not allow.
    """
    kinds = {k.kind: k for k in KINDS}
    kind = obj.get("kind") if isinstance(obj, Mapping) else obj
    if not isinstance(obj, Mapping) or not isinstance(kind, str) or kind not in kinds:
        raise RecordError(f"target: kind must be one of {sorted(kinds)}; got {kind!r}; mend the row")
    cls = kinds[kind]
    values = {k: v for k, v in obj.items() if k != "kind"}
    known = {f.name for f in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise RecordError(f"target: {kind} has no field {unknown}; allowed {sorted(known)}; mend the row")
    if values.get("space") is None:
        values.pop("space", None)
    for name in sorted({"space", "clusters", "fields"} & set(values)):
        _check(isinstance(values[name], Mapping), f"{name} must be an object", values[name], "mend the row")
    try:
        if "space" in values:
            values["space"] = Space(**_listed(values["space"]))
        if "fields" in values:
            values["fields"] = {k: target_from_json(v) for k, v in values["fields"].items()}
        return cls(**_listed(values))
    except TypeError as error:
        raise RecordError(f"target: {kind} cannot be made from {sorted(values)}: {error}; mend the row") from None


def _listed(values: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in sorted(LISTS & set(values)):
        _check(isinstance(values[name], list), f"{name} must be a list", values[name], "mend the row")
    return values
