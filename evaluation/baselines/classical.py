"""The classical baseline of speech emotion: functionals of the sound and a support vector machine; nothing is pretrained.

In the manner of openSMILE's feature sets (Eyben et al. 2016, IEEE Transactions on Affective Computing 7, 190-202) with what
librosa measures: contours of a clip (MFCC and their deltas, spectral shape, level), of each its mean, deviation and
percentiles, and the prosody of `models/cues.py` (pitch, its slope and range, level, brightness, rate, pauses).

Cost and kernel width are chosen by cross-validation that leaves whole groups (speakers) of the training split out; neither
dev nor test is looked at before the one prediction on `eval.split`.
"""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import librosa
import numpy as np
import torch
from sklearn.impute import SimpleImputer
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from evaluation.baselines.answers import scored
from evaluation.baselines.config import BaselineConfig, ClassicalConfig
from evaluation.run import EvalConfig
from models.clips import existing
from models.cues import voice_cues
from models.load import cache_folder
from models.media import RATE, read_audio
from models.media_cache import MediaCache, content
from models.session import Session
from runtime.errors import ConfigError, StageError
from runtime.run import run_stage
from tasks.base import Dataset, Task
from tasks.metrics.classification import classification_metrics
from tasks.record import Media, Record, resolve
from tasks.target import Class

MFCC = 20
WINDOW, HOP = 512, 160
"""Samples: 32 and 10 ms."""
PERCENTILES = (10, 50, 90)
FORMAT = 1
"""Raised when the same sound gives other features, so that entries of older versions are not used."""
CACHE_BYTES = 1 << 30
"""A clip's features take about 2 kB."""


def functionals(wave: np.ndarray) -> np.ndarray:
    """[F] statistics of a sound; NaN where a cue of the voice cannot be measured.

    Args:
        wave: (T,) float mono samples in [-1, 1] at 16 kHz; a sound shorter than a window is filled up with silence.
    """
    wave = np.pad(wave, (0, max(0, WINDOW - len(wave))))
    size: dict[str, Any] = {"n_fft": WINDOW, "hop_length": HOP}
    power = np.abs(librosa.stft(wave, **size)) ** 2
    spectrum: dict[str, Any] = {"S": np.sqrt(power), "sr": RATE}
    mfcc = librosa.feature.mfcc(S=librosa.power_to_db(librosa.feature.melspectrogram(S=power, sr=RATE)), n_mfcc=MFCC)
    rms = librosa.feature.rms(S=spectrum["S"], frame_length=WINDOW)
    contours_KN = np.concatenate(
        [
            mfcc,
            librosa.feature.delta(mfcc, mode="nearest"),
            librosa.feature.spectral_centroid(**spectrum),
            librosa.feature.spectral_bandwidth(**spectrum),
            librosa.feature.spectral_rolloff(**spectrum),
            librosa.feature.spectral_flatness(S=spectrum["S"]),
            librosa.feature.zero_crossing_rate(wave, frame_length=WINDOW, hop_length=HOP),
            librosa.amplitude_to_db(rms),
        ]
    )
    statistics = [contours_KN.mean(1), contours_KN.std(1), *np.percentile(contours_KN, PERCENTILES, axis=1)]
    prosody = [np.nan if cue is None else cue for cue in astuple(voice_cues(wave))]
    return np.concatenate([*statistics, prosody]).astype(np.float32)


def features(task: Task, data: Dataset, records: Sequence[Record]) -> np.ndarray:
    """[N, F] functionals of the sound that each prompt shows, measured once per clip and machine.

    Raises:
        ConfigError: when the task shows a record without sound.
    """
    cache = MediaCache(cache_folder() / "functionals", CACHE_BYTES)
    rows = []
    for record in tqdm(records, desc="functionals", leave=False, disable=None):
        clip = _sound(task, record)
        path, span = resolve(data.root, clip.path), clip.span
        made_from = {"content": content(existing(str(path))), "span": span, "format": FORMAT}
        made = cache.fetch(
            made_from,
            lambda path=path, span=span: {"functionals": torch.from_numpy(functionals(read_audio(path, span)))},
        )
        rows.append(made["functionals"].numpy())
    return np.stack(rows)


def _sound(task: Task, record: Record) -> Media:
    shown = [record.views[name] for name in task.views if name in record.views]
    clip = next((view for view in shown if isinstance(view, Media) and view.kind == "audio"), None)
    if clip is None:
        raise ConfigError(
            f"baselines classical: the functionals are of sound, and {task.name} shows none in {record.uid!r} "
            f"(task.views={list(task.views)}); add an audio view, or choose another task"
        )
    return clip


def fit(features_NF: np.ndarray, labels: Sequence[str], groups: Sequence[str], cfg: ClassicalConfig) -> GridSearchCV:
    """The machine with the best mean UAR over left-out groups, trained on all of them.

    Args:
        features_NF: may hold NaN, which becomes the median of the training part.
        labels: [N] two different ones at least.
        groups: [N] two different ones at least.
        cfg: folds, and the grid.
    """
    names = sorted(set(labels))

    def uar(gold: Sequence[str], predicted: Sequence[str]) -> float:
        return classification_metrics(gold, predicted, names)["uar"]

    search = GridSearchCV(
        make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), SVC(class_weight="balanced")
        ),
        {"svc__C": list(cfg.C), "svc__gamma": list(cfg.gamma)},
        scoring=make_scorer(uar),
        cv=GroupKFold(min(cfg.folds, len(set(groups)))),
    )
    return search.fit(features_NF, labels, groups=groups)


def run(session: Session) -> dict[str, Any]:
    """Train and score once for these settings, into `eval/classical`.

    Returns:
        What `score_predictions` returns, with `chosen` (the point of the grid), `cv_uar` (its mean over the left-out
        groups) and the numbers of `features`, training `clips` and `folds`.

    Raises:
        ConfigError: when the answers are not labels, or a clip has no sound.
        StageError: when the training split has one group or one label only.
    """
    cfg: EvalConfig = session.section("eval", EvalConfig)
    settings = session.section("baseline", BaselineConfig).classical
    task, data, folder = session.task, session.data, session.folder / "eval" / "classical"
    train, test = data.split("train"), data.split(cfg.split)[: cfg.limit]
    if other := next((r for r in data.records if not isinstance(r.target, Class)), None):
        raise ConfigError(
            f"baselines classical: answers must be labels, and those of {task.name} are of kind {other.target.kind!r}; choose a "
            "task such as emodb, or the baseline regression"
        )
    labels, groups = [r.target.render() for r in train], [r.group for r in train]
    if len(set(labels)) < 2 or len(set(groups)) < 2:
        raise StageError(
            f"baselines classical: two groups and two labels in the training split are the least, one group being left out at a "
            f"time; got {len(set(groups))} and {len(set(labels))}; list more speakers in task.train"
        )

    def work() -> dict[str, Any]:
        features_NF = features(task, data, train)
        search = fit(features_NF, labels, groups, settings)
        predicted = search.predict(features(task, data, test))
        answers = {r.uid: _read(r, label) for r, label in zip(test, predicted, strict=True)}
        return {
            **scored(session, cfg, answers, folder),
            "chosen": {name.removeprefix("svc__"): value for name, value in search.best_params_.items()},
            "cv_uar": float(search.best_score_),
            "features": features_NF.shape[1],
            "clips": len(train),
            "folds": int(search.n_splits_),
        }

    made_from = session.settings(classical=settings, eval=cfg)
    return run_stage(folder, made_from, {"records": session.records}, work)


def _read(record: Record, label: str) -> Class:
    value = record.target.read(str(label))
    assert isinstance(value, Class), label
    return value
