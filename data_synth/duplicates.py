"""Near duplicates among explanations: Jaccard similarity of their runs of three words, looked for with MinHash.

Broder (1997), On the resemblance and containment of documents. Signatures of 125 numbers are cut into 25 bands; texts that agree
in a whole band are compared word by word, so that no text is dropped by chance. A pair of similarity s is found with
probability 1 - (1 - s^5)^25: .99 at .7, and all but 2 in 10^10 at .9. Of a crowd of texts that are alike and yet no duplicates,
as from a teacher of few words, only those that agree in most bands are compared. Bands and texts lie in a temporary file.
"""

import re
import sqlite3
from collections import Counter

from datasketch import MinHash

SHINGLE = 3
BANDS, ROWS = 25, 5
CROWD = 100
"""Most texts that are looked up in one band."""
NEAREST = 10
"""Most texts that one is compared with."""


class Duplicates:
    """Texts seen so far.

    Args:
        least: similarity in [0.7, 1] from which on two texts are the same.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self._blank = MinHash(num_perm=BANDS * ROWS)
        self._db = sqlite3.connect("", isolation_level=None)  # a file of its own that SQLite deletes
        self._db.execute("CREATE TABLE texts (uid PRIMARY KEY, text) WITHOUT ROWID")
        self._db.execute("CREATE TABLE bands (band, numbers, uid, PRIMARY KEY (band, numbers, uid)) WITHOUT ROWID")

    def find(self, uid: str, text: str) -> str | None:
        """The uid of a text seen before that is the same; None, and `text` is seen from now on, where there is none."""
        shingles = shingle(text)
        bands = self._bands(shingles)
        query = f"SELECT uid FROM bands WHERE band = ? AND numbers = ? LIMIT {CROWD}"
        agree = Counter(twin for band in bands for (twin,) in self._db.execute(query, band))
        for twin in sorted(agree, key=lambda twin: (-agree[twin], twin))[:NEAREST]:
            (other,) = self._db.execute("SELECT text FROM texts WHERE uid = ?", (twin,)).fetchone()
            if jaccard(shingles, shingle(other)) >= self.least:
                return twin
        self._db.execute("INSERT INTO texts VALUES (?, ?)", (uid, text))
        self._db.executemany("INSERT INTO bands VALUES (?, ?, ?)", [(*band, uid) for band in bands])
        return None

    def _bands(self, shingles: frozenset[str]) -> list[tuple[int, bytes]]:
        signature = self._blank.copy()
        signature.update_batch([s.encode() for s in shingles])
        rows = signature.hashvalues.reshape(BANDS, ROWS)
        return [(band, numbers.tobytes()) for band, numbers in enumerate(rows)]


def shingle(text: str) -> frozenset[str]:
    """Its runs of three words, in lower case and without punctuation; the whole text where it is shorter."""
    words = re.findall(r"\w+", text.lower())
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over size of the union, in [0, 1]."""
    return len(one & other) / len(one | other)
