"""Metrics of outcomes that are numbers or counts. Imports numpy, scipy; scikit-learn when called."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy

from probinfer.evaluate.extra import sklearn
from probinfer.evaluate.intervals import of_influence, of_mean, of_share
from probinfer.evaluate.scores import Score, Scores
from probinfer.evaluate.transform import crps_of_draws, transform
from probinfer.predict.interval import without_groups
from probinfer.predict.point import PointPredictor
from probinfer.predict.point_law import laws
from probinfer.predict.prediction import Prediction
from probinfer.predict.predictor import Predictor

PINBALL = (0.05, 0.25, 0.5, 0.75, 0.95)


class Law(NamedTuple):
    """What the predictive law says of each outcome, beyond its summaries.

    pit, crps, log_score   (rows,); a point model has no log_score
    how                    `pit` and `crps` were found
    calibrated             the prediction's interval is; these are the model's all the same
    pit_p, tested          the p-value of a test of the PIT, and which; None for a test that it is uniform
    """

    pit: np.ndarray
    crps: np.ndarray
    log_score: np.ndarray | None
    how: str
    calibrated: bool = False
    pit_p: float | None = None
    tested: str = "Kolmogorov-Smirnov p-value"


def law_of(predictor: Predictor, rows: Any, y: np.ndarray, seed: int) -> Law:
    """PIT, CRPS and log score of outcomes (rows,)."""
    rows = without_groups(rows, predictor.calibration, predictor.program)
    pit, crps, how = transform(predictor, rows, y, seed)
    return Law(pit, crps, predictor.log_score(rows, y), how, predictor.calibration is not None)


def law_of_point(
    predictor: PointPredictor, values: np.ndarray, groups: np.ndarray | None, y: np.ndarray, seed: int
) -> Law:
    """PIT and CRPS of outcomes (rows,) by the law that calibration makes of the model's `values`: these plus the errors
    of the calibration rows, all equally probable."""
    known, v = predictor.calibration, np.random.default_rng(seed).random(len(y))
    assert known is not None
    below, upto = predictor.places(values, groups, y)
    pit, crps, numbers = below + v * (upto - below), np.empty(len(y)), known.numbers(groups, len(y))
    for rows, draws in laws(known, values, numbers):
        crps[rows] = crps_of_draws(draws, y[rows])
    # The errors of the calibration rows have as much chance in them as those of the new ones.
    tests = [
        scipy.stats.ks_2samp(pit[numbers == number], np.arange(1, count + 1) / (count + 1)).pvalue
        for number, count in enumerate(known.counts)
        if (numbers == number).any()
    ]
    tested = "Kolmogorov-Smirnov p-value, two samples"
    tested += f"; the smallest of {len(tests)} groups times {len(tests)}" if len(tests) > 1 else ""
    whose = f"the errors of {sum(known.counts)} calibration rows"
    return Law(pit, crps, None, whose, pit_p=min(1.0, len(tests) * float(min(tests))), tested=tested)


def score(prediction: Prediction, law: Law | None, y: np.ndarray, level: float) -> Scores:
    """The table for numbers; see `probinfer.metrics`."""
    known = sklearn("metrics")
    error = y - prediction.mean
    inside = (prediction.lower <= y) & (y <= prediction.upper)
    pointwise = {"mae": np.abs(error), "coverage": inside.astype(float), "width": prediction.upper - prediction.lower}
    scores = [of_mean("mae", pointwise["mae"], level), *_squared(known, y, prediction.mean, level)]
    if law is not None:
        pointwise |= {"crps": law.crps} | ({"log_score": law.log_score} if law.log_score is not None else {})
        own = [of_mean(name, pointwise[name], level) for name in ("crps", "log_score") if name in pointwise]
        if law.how != "exact":
            own[0] = replace(own[0], how=f"{own[0].how}; from {law.how}")
        if law.calibrated:  # which moves intervals and quantiles only
            own = [replace(score, how=f"{score.how}; of the model, not calibrated") for score in own]
        scores += own
    if prediction.quantiles is not None and len(prediction.quantile_levels):
        asked = zip(prediction.quantile_levels, prediction.quantiles.T, strict=True)
        losses = [_pinball(y, quantiles, alpha) for alpha, quantiles in asked]
        pointwise["pinball"] = np.mean(losses, axis=0)
        scores.append(of_mean("pinball", pointwise["pinball"], level))
    scores.append(of_share("coverage", int(inside.sum()), len(y), level))
    scores.append(of_mean("width", pointwise["width"], level))
    pit = None if law is None else law.pit
    if law is not None:
        p_value = law.pit_p if law.pit_p is not None else float(scipy.stats.kstest(law.pit, "uniform").pvalue)
        whose = "; of the model, not calibrated" if law.calibrated else ""
        scores.append(Score("pit_p", p_value, *[float("nan")] * 3, f"{law.tested}{whose}"))
    return Scores(prediction.outcome, len(y), level, tuple(scores), pit, None, pointwise)


def _pinball(y: np.ndarray, quantile: np.ndarray, alpha: float) -> np.ndarray:
    return np.maximum(alpha * (y - quantile), (alpha - 1) * (y - quantile))


def _squared(known: Any, y: np.ndarray, mean: np.ndarray, level: float) -> list[Score]:
    """rmse and r2, with the influence of each row."""
    squares, around = (y - mean) ** 2, (y - y.mean()) ** 2
    rmse = float(known.root_mean_squared_error(y, mean))
    influence = (squares - squares.mean()) / (2 * rmse) if rmse > 0 else np.zeros(len(y))
    scores = [of_influence("rmse", rmse, influence, level)]
    total = around.mean()
    if len(y) < 2 or total == 0:
        return [*scores, Score("r2", *[float("nan")] * 4, "outcomes do not vary")]
    ratio = squares.mean() / total
    influence = -(squares - squares.mean()) / total + ratio * (around - total) / total
    return [*scores, of_influence("r2", float(known.r2_score(y, mean)), influence, level)]
