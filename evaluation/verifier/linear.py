"""A small multi-label text classifier: TF-IDF of words and of pieces of words, one logistic regression per label.

Words and pairs of words say what is meant (a strong baseline for sentiment: Wang and Manning, ACL 2012); pieces of words,
within word borders, forgive spelling and inflection, and serve languages that set no blanks. The strength of the penalty and
the decision thresholds come from cross-validation by groups inside the training part. Saved as JSON and safetensors; what is
loaded gives exactly the same probabilities.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import hstack
from scipy.special import expit, logit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from evaluation.verifier.corpus import Example, indicators
from evaluation.verifier.f1 import best_threshold, f1_of
from runtime.errors import ConfigError, RecordError
from runtime.files import write_json

FORMAT = 1
SETTINGS_FILE, WEIGHTS_FILE = "verifier.json", "verifier.safetensors"

# Chosen on GoEmotions' train.tsv alone: macro-F1 of a third whose texts were left out, at the best thresholds there, and CPU
# seconds of the 28 regressions. Words .469 (3 s), with the pieces below .482 (13 s); pieces of up to five letters, twice as many
# of them and a tolerance of 1e-4 .484 (24 s).
VIEWS: dict[str, dict[str, Any]] = {
    "words": {"analyzer": "word", "ngram_range": [1, 2], "token_pattern": r"(?u)\b\w+\b|[^\w\s]", "sublinear_tf": True},
    "pieces": {"analyzer": "char_wb", "ngram_range": [2, 4], "sublinear_tf": True},
}
TERMS = {"words": 40_000, "pieces": 20_000}
"""The most frequent terms of a view, at most so many; a term of one text alone is none."""
COSTS = (1.0, 4.0)
"""Inverse strengths of the penalty that are compared."""
FOLDS = 3
TOLERANCE = 0.05
"""Of the solver, relative to the gradient at zero weights."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One way to cut a text into terms, and what the terms say."""

    options: dict[str, Any]
    """Of `TfidfVectorizer`, JSON-able."""
    terms: tuple[str, ...]
    """[F]"""
    idf_F: np.ndarray
    """float32"""
    weights_FL: np.ndarray
    """float32: log-odds of the labels per unit of TF-IDF."""


class LinearVerifier:
    """Logistic regressions on TF-IDF. A text's row does not depend on the texts beside it.

    Args:
        labels: [L].
        thresholds_L: float64, from which probability on naming a label gave its best F1.
        bias_L: float32 log-odds of a text without any known term.
        views: at least one.
    """

    def __init__(
        self, labels: Sequence[str], thresholds_L: np.ndarray, bias_L: np.ndarray, views: Sequence[View]
    ) -> None:
        self.labels, self.thresholds_L, self.bias_L, self.views = tuple(labels), thresholds_L, bias_L, tuple(views)
        self._vectorizers = [_vectorizer(view.options, vocabulary=view.terms) for view in views]
        for vectorizer, view in zip(self._vectorizers, views, strict=True):
            vectorizer.idf_ = view.idf_F

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(N, L) float64 in [0, 1]; the labels are judged one by one, so rows need not sum to one."""
        logits_NL = np.tile(self.bias_L.astype(np.float64), (len(texts), 1))
        if len(texts):
            for vectorizer, view in zip(self._vectorizers, self.views, strict=True):
                logits_NL += vectorizer.transform(texts) @ view.weights_FL
        return expit(logits_NL)

    def save(self, folder: Path) -> None:
        """Write both files; the settings last, so that a folder that has them is whole."""
        arrays = {"thresholds": self.thresholds_L, "bias": self.bias_L}
        for i, view in enumerate(self.views):
            arrays |= {f"{i}.idf": view.idf_F, f"{i}.weights": view.weights_FL}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SETTINGS_FILE).unlink(missing_ok=True)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / WEIGHTS_FILE)
        views = [{"options": view.options, "terms": view.terms} for view in self.views]
        write_json(folder / SETTINGS_FILE, {"format": FORMAT, "labels": self.labels, "views": views})


def load_linear(folder: Path) -> LinearVerifier:
    """What `LinearVerifier.save` wrote.

    Raises:
        ConfigError: when it is of another format version, or one of its two files is missing or torn.
    """
    path = folder / SETTINGS_FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON ({error.msg}); copy or train the verifier again") from None
    if (found := saved.get("format")) != FORMAT:
        raise ConfigError(
            f"{path}: format {FORMAT} is what this version reads; got {found!r}; train the verifier again with "
            "python -m evaluation.verifier"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise ConfigError(f"{path}: there is no {WEIGHTS_FILE} beside it; copy the whole folder")
    arrays = load_file(folder / WEIGHTS_FILE)
    views = [
        View(view["options"], tuple(view["terms"]), arrays[f"{i}.idf"], arrays[f"{i}.weights"])
        for i, view in enumerate(saved["views"])
    ]
    return LinearVerifier(saved["labels"], arrays["thresholds"], arrays["bias"], views)


@dataclass(frozen=True, slots=True)
class Fit:
    """A trained verifier, and how its settings were chosen."""

    verifier: LinearVerifier
    cost: float
    cv_macro_f1: dict[float, float]
    """Inverse strength of the penalty -> macro-F1 of the left-out folds at their own best thresholds, so a little too good."""


def fit(examples: Sequence[Example], labels: Sequence[str], seed: int) -> Fit:
    """Train on examples of two groups or more.

    Args:
        examples: the training part; nothing else is looked at.
        labels: [L]; a label that never or always applies gets a constant probability.
        seed: of the folds.

    Raises:
        RecordError: when no term occurs twice.
    """
    texts, groups, gold_NL = [e.text for e in examples], [e.group for e in examples], indicators(examples, labels)
    folds = GroupKFold(min(FOLDS, len(set(groups))), shuffle=True, random_state=seed)
    left_out = {cost: np.zeros(gold_NL.shape) for cost in COSTS}
    for train, test in folds.split(texts, groups=groups):
        seen, unseen = [texts[i] for i in train], [texts[i] for i in test]
        fitted = _fitted(seen)
        seen_NF, unseen_NF = _features(fitted, seen), _features(fitted, unseen)
        for cost in COSTS:
            weights_FL, bias_L = _regressions(seen_NF, gold_NL[train], cost)
            left_out[cost][test] = expit(unseen_NF @ weights_FL + bias_L)
    thresholds = {
        cost: np.array([best_threshold(*pair) for pair in zip(gold_NL.T, probs_NL.T, strict=True)])
        for cost, probs_NL in left_out.items()
    }
    every = np.arange(len(texts))
    macro_f1 = {
        cost: f1_of(gold_NL, probs_NL >= thresholds[cost], labels)(every)["macro_f1"]
        for cost, probs_NL in left_out.items()
    }
    cost = max(COSTS, key=macro_f1.__getitem__)
    return Fit(_train(texts, gold_NL, labels, cost, thresholds[cost]), cost, macro_f1)


def _train(
    texts: Sequence[str], gold_NL: np.ndarray, labels: Sequence[str], cost: float, thresholds_L: np.ndarray
) -> LinearVerifier:
    fitted = _fitted(texts)
    weights_FL, bias_L = (a.astype(np.float32) for a in _regressions(_features(fitted, texts), gold_NL, cost))
    ends = np.cumsum([len(vectorizer.idf_) for vectorizer in fitted.values()])[:-1]
    views = [
        View(VIEWS[name], tuple(vectorizer.get_feature_names_out()), vectorizer.idf_.astype(np.float32), of_view_FL)
        for (name, vectorizer), of_view_FL in zip(fitted.items(), np.split(weights_FL, ends), strict=True)
    ]
    return LinearVerifier(labels, thresholds_L, bias_L, views)


def _fitted(texts: Sequence[str]) -> dict[str, TfidfVectorizer]:
    """View -> its terms and their frequencies in these texts, without views that have no term."""
    fitted = {}
    for name, options in VIEWS.items():
        # scikit-learn's answer to an empty vocabulary, as of words in a language that sets no blanks
        with suppress(ValueError):
            fitted[name] = _vectorizer(options, min_df=2, max_features=TERMS[name]).fit(texts)
    if not fitted:
        raise RecordError(
            f"verifier: a word or a piece of one must occur in two of the texts trained on; got {len(texts)} texts without; "
            "add texts"
        )
    return fitted


def _features(fitted: dict[str, TfidfVectorizer], texts: Sequence[str]) -> Any:
    """[N, F] sparse matrix, view beside view."""
    return hstack([vectorizer.transform(texts) for vectorizer in fitted.values()], "csr")


def _vectorizer(options: dict[str, Any], **further: Any) -> TfidfVectorizer:
    settings = {**options, **further, "ngram_range": tuple(options["ngram_range"]), "dtype": np.float32}
    return TfidfVectorizer(**settings)


def _regressions(features_NF: Any, gold_NL: np.ndarray, cost: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights [F, L] and biases [L], one label at a time."""
    n, width = features_NF.shape
    weights_FL, bias_L = np.zeros((width, gold_NL.shape[1])), np.zeros(gold_NL.shape[1])
    for i, gold_N in enumerate(gold_NL.T):
        if gold_N.all() or not gold_N.any():
            bias_L[i] = logit((gold_N.sum() + 0.5) / (n + 1))
            continue
        machine: Any = LogisticRegression(C=cost, solver="liblinear", tol=TOLERANCE, random_state=0)
        machine.fit(features_NF, gold_N)
        weights_FL[:, i], bias_L[i] = machine.coef_[0], machine.intercept_[0]
    return weights_FL, bias_L
