"""Metrics of outcomes that are classes. Imports numpy, scipy; scikit-learn when called."""

from dataclasses import replace
from typing import Any

import numpy as np
import scipy

from probinfer.evaluate.extra import sklearn
from probinfer.evaluate.intervals import of_mean, of_resamples, of_share, share_interval
from probinfer.evaluate.scores import Calibration, Score, Scores
from probinfer.predict.prediction import Prediction

BINS = 10
_AUC_RESAMPLES = 200


def by_codes(prediction: Prediction) -> Prediction:
    """The prediction with codes 0, 1, … in the place of the labels of its classes."""
    return replace(prediction, classes=None if prediction.classes is None else np.arange(len(prediction.classes)))


def score(prediction: Prediction, y: np.ndarray, level: float, seed: int) -> Scores:
    """The table for classes; see `probinfer.metrics`."""
    known = sklearn("metrics")
    chances, codes = prediction.probabilities, prediction.classes
    assert chances is not None
    assert codes is not None
    y, said = y.astype(int), np.argmax(chances, axis=1)
    came = np.eye(len(codes))[y]
    with np.errstate(divide="ignore"):
        log_score = np.log(chances[np.arange(len(y)), y])
    brier = ((chances - came) ** 2).sum(axis=1)
    if len(codes) == 2:  # of the class 1 alone, as is usual for two classes
        brier = brier / 2
    pointwise = {"accuracy": (said == y).astype(float), "log_loss": -log_score, "brier": brier, "log_score": log_score}
    scores = [of_share("accuracy", int((said == y).sum()), len(y), level)]
    scores += _binary(known, y, said, chances[:, 1], level, seed) if len(codes) == 2 else []
    scores += _several(known, y, said, chances, codes, level, seed) if len(codes) > 2 else []
    scores += [of_mean("log_loss", -log_score, level), of_mean("brier", brier, level)]
    curve = calibration_curve(y, chances[:, 1], level) if len(codes) == 2 else None
    return Scores(prediction.outcome, len(y), level, tuple(scores), None, curve, pointwise)


def _binary(known: Any, y: np.ndarray, said: np.ndarray, chance: np.ndarray, level: float, seed: int) -> list[Score]:
    both = int((y & said).sum())
    scores = [
        of_share("precision", both, int(said.sum()), level),
        of_share("recall", both, int(y.sum()), level),
        of_resamples(
            "f1",
            float(known.f1_score(y, said, zero_division=np.nan)),
            lambda i: _f1(y[i], said[i]),
            len(y),
            level,
            seed,
        ),
    ]
    if 0 < y.sum() < len(y):
        return [*scores, _delong(float(known.roc_auc_score(y, chance)), y, chance, level)]
    return [*scores, Score("roc_auc", *[float("nan")] * 4, "only one class came")]


def _f1(y: np.ndarray, said: np.ndarray) -> float:
    total = y.sum() + said.sum()
    return float(2 * (y & said).sum() / total) if total else float("nan")


def _delong(value: float, y: np.ndarray, chance: np.ndarray, level: float) -> Score:
    """Standard error of the area under the ROC curve: DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44."""
    ones, zeros = chance[y == 1], chance[y == 0]
    ranks = scipy.stats.rankdata(np.concatenate([ones, zeros]))
    above = (ranks[: len(ones)] - scipy.stats.rankdata(ones)) / len(zeros)
    below = 1 - (ranks[len(ones) :] - scipy.stats.rankdata(zeros)) / len(ones)
    if min(len(ones), len(zeros)) < 2:
        return Score("roc_auc", value, *[float("nan")] * 3, "no error: one row of a class")
    se = float(np.sqrt(above.var(ddof=1) / len(ones) + below.var(ddof=1) / len(zeros)))
    if se == 0:
        return Score("roc_auc", value, *[float("nan")] * 3, "no error: every pair of rows alike")
    half = float(scipy.stats.norm.ppf((1 + level) / 2)) * se
    return Score("roc_auc", value, se, max(0.0, value - half), min(1.0, value + half), "DeLong")


def _several(
    known: Any, y: np.ndarray, said: np.ndarray, chances: np.ndarray, codes: np.ndarray, level: float, seed: int
) -> list[Score]:
    """Means over classes."""
    count = len(codes)

    def averages(i: np.ndarray) -> np.ndarray:
        table = np.bincount(y[i] * count + said[i], minlength=count**2).reshape(count, count)
        hits, is_, says = np.diag(table), table.sum(axis=1), table.sum(axis=0)
        present = (is_ + says) > 0
        parts = [hits / np.maximum(says, 1), hits / np.maximum(is_, 1), 2 * hits / np.maximum(is_ + says, 1)]
        return np.array([part[present].mean() for part in parts])

    values = known.precision_recall_fscore_support(y, said, average="macro", zero_division=0)[:3]
    scores = [
        of_resamples(name, float(value), lambda i, k=k: float(averages(i)[k]), len(y), level, seed)
        for k, (name, value) in enumerate(zip(("precision", "recall", "f1"), values, strict=True))
    ]

    def auc(i: np.ndarray) -> float:
        if len(np.unique(y[i])) < count:
            return float("nan")
        return float(known.roc_auc_score(y[i], chances[i], multi_class="ovr", labels=codes))

    value = auc(np.arange(len(y)))
    if np.isnan(value):
        return [*scores, Score("roc_auc", *[float("nan")] * 4, "not every class came")]
    return [*scores, of_resamples("roc_auc", value, auc, len(y), level, seed, _AUC_RESAMPLES)]


def calibration_curve(y: np.ndarray, chance: np.ndarray, level: float) -> Calibration:
    """Share of ones against the predicted probability, in bins of equal width that hold rows."""
    seen, said = sklearn("calibration").calibration_curve(y, chance, n_bins=BINS)
    place = np.searchsorted(np.linspace(0.0, 1.0, BINS + 1)[1:-1], chance)
    count = np.bincount(place, minlength=BINS)
    count = count[count > 0]
    pairs = zip(seen, count, strict=True)
    ends = np.array([share_interval(round(share * n), int(n), level) for share, n in pairs])
    return Calibration(said, seen, ends[:, 0], ends[:, 1], count)
