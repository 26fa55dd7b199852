"""GoEmotions: 27 emotions and neutral on Reddit comments, several a comment (Demszky et al., ACL 2020, arXiv 2005.00547)."""

from pathlib import Path

from evaluation.verifier.corpus import Corpus, Example, corpus, text_key
from tasks.readers.table import error, read_text, tab_rows


def read(root: Path) -> Corpus:
    """The shipped splits: train.tsv to train on, dev.tsv held out.

    Args:
        root: folder with labels.txt and both files, whose rows are text, label ids joined by commas, comment id; quotes in
            them are unbalanced, and short replies recur in both, so that they are dropped from train.

    Raises:
        RecordError: for a missing file or a malformed row.
    """
    labels = read_text(root / "labels.txt").split()
    return corpus(labels, *(_rows(root / f"{split}.tsv", labels) for split in ("train", "dev")))


def _rows(path: Path, labels: list[str]) -> list[Example]:
    examples = []
    for where, (text, ids, _) in tab_rows(path, 3):
        if not all(i.isdecimal() and int(i) < len(labels) for i in ids.split(",")):
            raise error(
                where, "labels", f"numbers from 0 to {len(labels) - 1} are required", ids, "mend or remove the row"
            )
        examples.append(Example(text, frozenset(labels[int(i)] for i in ids.split(",")), text_key(text)))
    return examples
