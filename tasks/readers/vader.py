"""The human valence ratings of VADER (Hutto and Gilbert, ICWSM 2014): tweets and movie-review snippets.

Two files a set, paired by id: `*_GroundTruth.txt` (id, mean, text) and `*_anonDataRatings.txt` (id, mean, standard deviation,
list of integers -4..4). In the tweet set the two means differ for some ids; the label here is always the mean of the ratings.
"""

import html
import json
from pathlib import Path

from tasks.readers.table import error, number, tab_rows, text_group, words
from tasks.record import Record
from tasks.target import Scalar

LO, HI = -4.0, 4.0
NAMES = {"vader_tweets": "tweets", "vader_movies": "movieReviewSnippets"}
"""How the files of each set begin."""


def read(root: Path, corpus: str, *, task: str, neutral: float) -> list[Record]:
    """One record a text, in the order of the ratings file. No split is shipped: all are train, and equal texts are one group.

    The label is rounded to two decimals; the ratings are kept as they are. They are anonymous: rater "3" of one text is not
    rater "3" of another.

    Args:
        root: folder with the files.
        corpus: a key of `NAMES`.
        task: name for the records.
        neutral: half width of the neutral zone, on the scale [-4, 4].

    Raises:
        RecordError: for a malformed row, or an id that only one of the two files has.
    """
    texts = {row[0]: (where, row[2]) for where, row in tab_rows(root / f"{NAMES[corpus]}_GroundTruth.txt", cells=3)}
    records = []
    for where, (uid, mean, _, listed) in tab_rows(root / f"{NAMES[corpus]}_anonDataRatings.txt", cells=4):
        if uid not in texts:
            raise error(where, "id", "an id of the GroundTruth file is required", uid, "pair the two files of one set")
        ratings = _ratings(where, listed)
        x = sum(ratings) / len(ratings)
        if abs(number(where, "mean", mean, LO, HI) - x) > 1e-3:
            raise error(where, "mean", f"the mean of the list is {x:.4f}", mean, "mend or remove the row")
        text_where, text = texts.pop(uid)
        text = words(text_where, "text", html.unescape(text))
        records.append(
            Record(
                uid=f"{task}-{uid}",
                task=task,
                split="train",
                group=text_group(text),
                views={"text": text},
                target=Scalar(round(x, 2), LO, HI, neutral),
                raters=tuple((str(i), "x", float(r)) for i, r in enumerate(ratings, 1)),
            )
        )
    if texts:
        uid, (where, _) = next(iter(texts.items()))
        raise error(where, "id", "an id of the anonDataRatings file is required", uid, "pair the two files of one set")
    return records


def _ratings(where: str, listed: str) -> list[int]:
    try:
        ratings = json.loads(listed)
    except ValueError:
        ratings = None
    if not (isinstance(ratings, list) and ratings and all(type(r) is int and LO <= r <= HI for r in ratings)):
        raise error(where, "ratings", "a list of integers in -4..4 is required", listed, "mend or remove the row")
    return ratings
