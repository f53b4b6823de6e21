"""Where a forecaster is in time: its states, what each draw counts, and how observations move both on. Imports jax."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from probinfer.model.series import Series
from probinfer.posterior.states_report import ESS_BAD, ESS_DOUBTFUL, StatesReport
from probinfer.posterior.verdict import Finding, Verdict
from probinfer.predict.gaussian_motion import GaussianMover
from probinfer.predict.motion import Motion, Mover
from probinfer.predict.particle_motion import ParticleMover
from probinfer.predict.series_calibration import LATER_LEVEL, SeriesCalibration

# Effective draws of the parameters: with 50 a mean is off by a seventh of its epistemic sd.
DRAWS_DOUBTFUL, DRAWS_BAD = 50, 10
LATER_CHANCE = 1e-3  # of so few covered outcomes, if the scores of a calibration were exchangeable


class Use(Enum):
    """What the randomness of a time is for."""

    FOLLOW = 1
    PREDICT = 2
    SAMPLE = 3


@dataclass(frozen=True, eq=False)
class Standing:
    """Where a forecaster is in time.

    time         number of the next observation
    fitted       how many observations the parameters were inferred from
    log_weights  (S,) of the draws of the parameters, normalised
    state        their states at time - 1: mean (S, d) and covariance (S, d, d), or particles and log weights
    words        (2,) the randomness of the observations to come
    ess, worst   least effective particles of a time, on average over the draws, and when; None where exact
    """

    time: int
    fitted: int
    log_weights: np.ndarray
    state: tuple[np.ndarray, ...]
    words: np.ndarray
    ess: float | None = None
    worst: int = 0

    @property
    def weights(self) -> np.ndarray:
        """(S,), summing to one."""
        weights = np.exp(self.log_weights)
        return weights / weights.sum()

    @property
    def effective(self) -> float:
        """Effective number of draws, 1 / sum_s w_s^2."""
        return float(1 / np.sum(self.weights**2))


def mover_of(motion: Motion) -> Mover:
    """What moves the states of such a model."""
    return GaussianMover() if motion.linear else ParticleMover()


def words_of_time(words: np.ndarray, use: Use, time: int) -> np.ndarray:
    """The randomness of a time, for one use: two words of the seed's two. time: from -1."""
    return np.random.SeedSequence([*words.tolist(), use.value, time + 1]).generate_state(2, np.uint32)


def follow(motion: Motion, standing: Standing, series: Series) -> tuple[Standing, np.ndarray]:
    """Where observations lead, and log p(y_t | what came before) of each, mixed over the draws.

    An observation that no draw explains leaves their weights as they are, and `ess` at 0.
    """
    mover, now, scores = mover_of(motion), standing, np.empty(len(series.values))
    for row, (y, observed) in enumerate(zip(*series, strict=True)):
        seen = mover.observe(motion, now.state, now.time, y, observed, words_of_time(now.words, Use.FOLLOW, now.time))
        gained = now.log_weights + np.nan_to_num(seen.log_density, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        scores[row] = _log_sum(gained)
        alive = bool(np.isfinite(scores[row]))
        after = gained - scores[row] if alive else now.log_weights
        now = replace(now, time=now.time + 1, state=seen.state, log_weights=after)
        ess = float(now.weights @ seen.ess) if alive and seen.ess is not None else None if alive else 0.0
        if ess is not None and (now.ess is None or ess < now.ess):
            now = replace(now, ess=ess, worst=now.time - 1)
    return now, scores


def _log_sum(logs: np.ndarray) -> float:
    """log sum exp(logs): SciPy's takes as long to import as all that a server needs besides."""
    most = float(np.max(logs))
    return most + float(np.log(np.sum(np.exp(logs - most)))) if np.isfinite(most) else most


def judge(standing: Standing, about: Mapping[str, Any], calibration: SeriesCalibration | None = None) -> StatesReport:
    """How far forecasts from there can be trusted. about: with the verdict of the posterior."""
    ess, size = standing.effective, len(standing.log_weights)
    since = standing.time - standing.fitted
    findings = []
    before = Verdict.__members__.get(str(about.get("verdict")), Verdict.BAD)
    if before is not Verdict.GOOD:
        text = f"The posterior of the parameters has the verdict {before.name}"
        findings.append(Finding(text, "all times", before, "Mend that one first.", float("nan")))
    if ess < DRAWS_DOUBTFUL:
        findings.append(
            Finding(
                f"{ess:.1f} effective draws of the parameters are left of {size}, after {since} "
                "observations that they were not inferred from",
                "all times",
                Verdict.BAD if ess < DRAWS_BAD else Verdict.DOUBTFUL,
                "Infer again from all observations, and make the forecaster anew; with more draws= it lasts longer.",
                ess,
            )
        )
    if standing.ess is not None and standing.ess < ESS_DOUBTFUL:
        some = "nothing explains" if standing.ess == 0 else f"{standing.ess:.1f} particles on average explain"
        findings.append(
            Finding(
                f"At time {standing.worst} {some} the observation",
                f"time {standing.worst}",
                Verdict.BAD if standing.ess < ESS_BAD else Verdict.DOUBTFUL,
                "Look at that observation for an error; a law with heavier tails, or more particles=, may help.",
                standing.ess,
            )
        )
    later = calibration.later if calibration is not None else None
    if later is not None and later.chance < LATER_CHANCE:
        findings.append(
            Finding(
                f"Of the later half of the calibration's forecasts one ahead, {later.covered} of {later.count} "
                f"outcomes were in intervals of {100 * LATER_LEVEL:.0f}% that the earlier half calibrated",
                "intervals",
                Verdict.DOUBTFUL,
                "Forecasts err ever more, so intervals may cover too rarely: calibrate by later observations, mend the "
                "model, or infer again.",
                later.covered / later.count,
            )
        )
    worst = min((finding.severity for finding in findings), default=Verdict.GOOD)
    headline = f"{ess:.0f} effective draws of the parameters, {since} observations since they were inferred"
    if calibration is not None:
        headline += f", calibrated on {calibration.behind[0]} past forecasts for up to {calibration.steps} steps"
    return StatesReport(worst, tuple(sorted(findings, key=lambda finding: finding.severity.value)), headline)
