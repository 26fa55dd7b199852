"""Hypothesis strategies for targets of every kind."""

from hypothesis import strategies as st

from tasks.target import NONE, Class, Composite, IndexSet, LabelSet, Ordinal, Scalar, Space, Target, Text, Vector

LETTERS = st.characters(codec="utf-8", exclude_characters='<>,=:{}"', exclude_categories=["C", "Z"])
word = st.text(LETTERS, min_size=1, max_size=6).filter(lambda w: w != NONE)
lower = word.map(str.lower).filter(lambda w: w == w.lower() and w != NONE)
phrase = st.lists(word, min_size=1, max_size=4).map(" ".join)
scale = st.tuples(st.integers(-9, 9), st.integers(1, 9)).map(lambda p: (float(p[0]), float(p[0] + p[1])))


@st.composite
def spaces(draw: st.DrawFn, parents: bool | None = None) -> Space:
    labels = draw(st.lists(phrase, min_size=2, max_size=5, unique=True).filter(lambda x: NONE not in x))
    with_parents = draw(st.booleans()) if parents is None else parents
    chosen = draw(st.lists(lower, min_size=len(labels), max_size=len(labels))) if with_parents else []
    return Space(tuple(labels), tuple(chosen))


@st.composite
def scalars(draw: st.DrawFn) -> Scalar:
    lo, hi = draw(scale)
    return Scalar(draw(st.floats(lo, hi)), lo, hi, draw(st.floats(0, (hi - lo) / 2)))


@st.composite
def ordinals(draw: st.DrawFn) -> Ordinal:
    levels = draw(st.lists(phrase, min_size=2, max_size=6, unique=True))
    return Ordinal(draw(st.integers(0, len(levels) - 1)), tuple(levels))


@st.composite
def classes(draw: st.DrawFn, parents: bool | None = None) -> Class:
    space = draw(spaces(parents))
    return Class(draw(st.sampled_from(space.labels)), space)


@st.composite
def label_sets(draw: st.DrawFn) -> LabelSet:
    if draw(st.booleans()):
        space = draw(spaces())
        return LabelSet(frozenset(draw(st.sets(st.sampled_from(space.labels)))), space)
    clusters = draw(st.dictionaries(phrase, lower, max_size=4))
    return LabelSet(frozenset(draw(st.sets(phrase, max_size=4))), None, clusters)


@st.composite
def index_sets(draw: st.DrawFn) -> IndexSet:
    n = draw(st.integers(1, 12))
    return IndexSet(frozenset(draw(st.sets(st.integers(0, n - 1)))), n)


@st.composite
def vectors(draw: st.DrawFn) -> Vector:
    names = draw(st.lists(lower, min_size=1, max_size=4, unique=True))
    lo, hi = draw(scale)
    x = draw(st.lists(st.none() | st.floats(lo, hi), min_size=len(names), max_size=len(names)))
    return Vector(tuple(names), tuple(x), lo, hi, draw(st.none() | st.floats(lo, hi)))


texts = st.lists(phrase, min_size=1, max_size=3).map(lambda refs: Text(tuple(refs)))
simple: st.SearchStrategy[Target] = st.one_of(
    scalars(), ordinals(), classes(), label_sets(), index_sets(), vectors(), texts
)


@st.composite
def composites(draw: st.DrawFn) -> Composite:
    found = draw(st.dictionaries(phrase, simple, min_size=1, max_size=3))
    return Composite(found, frozenset(draw(st.sets(st.sampled_from([*found, "absent"]), max_size=len(found) - 1))))


targets: st.SearchStrategy[Target] = st.one_of(simple, composites())
anchored = targets.filter(lambda t: t.coarse() is not None)
