"""Forecaster: a state-space posterior's answers for times to come, which goes on with what is observed. Imports jax,
not numpyro."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from probinfer.errors import PredictionError
from probinfer.inference.key_words import key_words
from probinfer.inference.settings import check_whole
from probinfer.model.series import Series
from probinfer.posterior.states_report import StatesReport
from probinfer.posterior.verdict import Verdict
from probinfer.predict.interval import probabilities, probability
from probinfer.predict.kind import Interval
from probinfer.predict.motion import Motion
from probinfer.predict.outlook import look_ahead, no_numbers, paths_for
from probinfer.predict.predictor import check_posterior, provenance, refuse_unreliable, restored
from probinfer.predict.series_answer import answer
from probinfer.predict.series_calibration import SeriesCalibration, law_of
from probinfer.predict.series_prediction import SeriesPrediction
from probinfer.predict.series_question import SeriesQuestion
from probinfer.predict.series_rows import check_horizon, read_observations
from probinfer.predict.standing import Standing, Use, follow, judge, mover_of, words_of_time
from probinfer.predict.training import refuse_training_series
from probinfer.predict.weights import Weights

if TYPE_CHECKING:
    from probinfer.inference.montecarlo.particle import ParticleFilter
    from probinfer.posterior.posterior import Posterior


class Forecaster:
    """Forecasts from the posterior of a `StateSpace`, mixed over draws of its parameters; a predictor of times.

        p(y_T+h | y) = sum_s w_s ∫ p(y_T+h | x_T, theta_s) p(x_T | y, theta_s) dx_T,     w_s = 1/S at first

    A linear Gaussian model is answered exactly for each draw (Kalman's filter), and the mixture of the draws too. Of
    any other model, each draw has particles of its own; with an observation's law of `probinfer.predict.families` the
    summaries are those of the mixture of these laws over 20,000 simulated states, else of simulated observations.

    `observe` goes on filtering with what came since: the states move on, and the draws of the parameters are weighted
    by how well each foresaw it, w_s p(y_new | y, theta_s). That is exact as the number of draws grows, without a new
    inference; as the weights fall on fewer and fewer draws, `ess` falls and `report` says when to infer again.

    Args:
        posterior: of `pi.infer(pi.StateSpace(...), y, ...)`, fresh or from `load_posterior` with model and data.
        accept: the worst verdict to accept.
        draws: draws of the parameters, evenly from every chain; None takes 1,000, or 200 where there are particles.
        particles: of every draw; None takes 500. Not for a linear Gaussian model, which needs none.
        filter: kind, resampling and proposals of the particle filter over the data, as a `ParticleFilter`, whose own
            `particles` and `runs` are not heeded. What comes later is filtered by the bootstrap filter.
        seed: whole number or jax key, for the particles.

    Raises:
        UnreliablePosterior: the verdict is worse than `accept`.
        PredictionError: `posterior` is none, or `accept` no Verdict.
        ModelError: the posterior came without model or data, or is of another model; or the model reads an
            array by an index that depends on the time and on states or parameters, and may leave it.
        MethodError: a number is out of range, or does not fit the model.

    Fails where few particles explain an observation, which `report` tells with its time. Times are numbered from 0, the
    first observation. Chopin (2002), Biometrika 89(3) (weights of draws); Chopin, Jacob & Papaspiliopoulos (2013),
    JRSS B 75(3) (with particles for each draw; here without their moves); Durbin & Koopman (2012), ch. 4.

    >>> import numpy as np, numpyro.distributions as dist
    >>> from probinfer import NUTS, StateSpace, infer
    >>> level = StateSpace.linear_gaussian(
    ...     [0.0],
    ...     [[10.0]],
    ...     [[1.0]],
    ...     lambda t, params: params["q"] * np.eye(1),
    ...     [[1.0]],
    ...     [[1.0]],
    ...     prior={"q": dist.HalfNormal(1.0)},
    ... )
    >>> y = np.cumsum(np.random.default_rng(0).normal(size=60))
    >>> forecaster = Forecaster(infer(level, y, NUTS(draws=500), progress=False))
    >>> forecast = forecaster.predict(3)
    >>> forecast.times, forecast.mean.shape, bool((np.diff(forecast.sd) > 0).all())
    (array([60, 61, 62]), (3,), True)
    >>> forecaster.observe([y[-1] + 1.0]).predict(1).times
    array([61])
    """

    def __init__(
        self,
        posterior: "Posterior",
        accept: Verdict = Verdict.GOOD,
        *,
        draws: int | None = None,
        particles: int | None = None,
        filter: "ParticleFilter | None" = None,
        seed: Any = 0,
    ) -> None:
        from probinfer.predict.first_standing import first_standing

        if not isinstance(accept, Verdict):
            raise PredictionError(f"accept is {accept!r}; wanted a Verdict, such as Verdict.DOUBTFUL.")
        check_posterior(posterior)
        refuse_unreliable(posterior, accept, "Forecaster")
        for name, number, least in (("draws", draws, 1), ("particles", particles, 2)):
            if number is not None:
                check_whole("Forecaster", name, number, least)
        motion, standing, training = first_standing(posterior, draws, particles, filter, key_words(seed))
        self._set(motion, standing, {**provenance(posterior, accept), "training": training}, None)

    @classmethod
    def from_standing(
        cls,
        motion: Motion,
        standing: Standing,
        about: Mapping[str, Any],
        calibration: SeriesCalibration | None = None,
    ) -> Self:
        """The forecaster of parts that were made before: how `load_predictor` makes it."""
        self = object.__new__(cls)
        self._set(motion, standing, about, calibration)
        return self

    def _set(
        self, motion: Motion, standing: Standing, about: Mapping[str, Any], calibration: SeriesCalibration | None
    ) -> None:
        self.motion, self.standing, self.about, self.calibration = motion, standing, dict(about), calibration

    def standing_at(self, standing: Standing) -> Self:
        """The same forecaster at another place in time."""
        return self.from_standing(self.motion, standing, self.about, self.calibration)

    def lent(self, other: "Forecaster") -> Self:
        """The same forecaster with what is compiled for another one of the same programs."""
        return self.from_standing(self.motion.lent(other.motion), self.standing, self.about, self.calibration)

    @property
    def time(self) -> int:
        """Number of the next observation, which is how many came."""
        return self.standing.time

    @property
    def ess(self) -> float:
        """Effective number of draws of the parameters, 1 / sum_s w_s^2."""
        return self.standing.effective

    @property
    def report(self) -> StatesReport:
        """How far the forecasts can be trusted: verdict, findings, headline. The verdict of the posterior is in it, how
        many draws of the parameters are left, and how many particles; of a calibrated forecaster also whether the later
        half of the calibration's forecasts erred as the earlier one did."""
        return judge(self.standing, self.about, self.calibration)

    def predict(
        self,
        steps: int = 1,
        level: float = 0.9,
        quantiles: Sequence[float] | None = None,
        *,
        interval: Interval = Interval.ETI,
        seed: Any = 0,
    ) -> SeriesPrediction:
        """Predict the observations of the `steps` times that follow.

        Args:
            steps: how many; the first of many are those of fewer.
            level: probability of the interval `lower` to `upper`, of each time on its own.
            quantiles: further quantiles wanted, probabilities between 0 and 1.
            interval: which interval: equal-tailed, a bound from one side, or, of a continuous law, the shortest.
            seed: whole number or jax key, for simulated states; of a linear Gaussian model there are none.

        Returns:
            SeriesPrediction: a row for each time, (steps, *event) each; `mcse` is the Monte Carlo error of the mean, of
                draws and of particles.

        Raises:
            PredictionError: `level` or `quantiles` are no probabilities, `interval` is no Interval or not offered, the
                model looks into an array that ends before, or its laws are not numbers at some time; the forecaster is
                calibrated for fewer steps, or by too few forecasts for `level` or `quantiles`.
            MethodError: `steps` or `seed` is none.
        """
        check_whole("predict", "steps", steps, 1)
        level, wanted = probability("level", level), probabilities("quantiles", quantiles)
        if not isinstance(interval, Interval):
            raise PredictionError(f"interval is {interval!r}; wanted an Interval, such as Interval.LOWER.")
        question, words = SeriesQuestion(self.motion, self.calibration, level, wanted, interval), key_words(seed)
        question.check(steps)
        found = [*look_ahead(self.motion, self.standing, steps, question, words)]
        return answer(question, found, self.time, quantiles=quantiles is not None)

    def calibrate(self, y: Any, steps: int = 1, *, level: float = 0.9, seed: Any = 0) -> Self:
        """A new forecaster that has seen `y`, and whose intervals cover about as often as their level says, whether the
        model is right or not, as far as forecasts go on erring as they did.

        Split conformal prediction, for each number of steps ahead on its own, with a rolling origin. From before every
        one of the n observations the forecaster, which has seen all that came earlier, forecasts up to `steps` times.
        Each outcome gets the score s = F(y), its place in the forecast's own distribution (on the scale of
        `probinfer.predict.conformity`), so that h ahead there are m = n - h + 1 scores, less those that are missing.
        With these sorted and a = 1 - level, the interval h ahead is

            lower = F^-1(s_(floor((m + 1) a / 2))),   upper = F^-1(s_(ceil((m + 1) (1 - a / 2))))

        of the distribution of the forecast that is made. Whole numbers have one score for each end, and classes get
        sets, as `Predictor.calibrate` says. Mean, sd, probabilities, `sample` and `log_score` stay the model's.

        Were the scores of one horizon exchangeable, it would cover with probability `level` at least, and at most
        level + 2 / (m + 1) for a continuous law. In a series they are so only as far as forecasts go on erring alike;
        forecasts h ahead from h successive times overlap, so their scores depend on one another and say as much as
        fewer independent ones would. So the coverage is about the level, with no proof for finitely many; `report`
        compares the later half of the scores with the earlier one.

        Args:
            y: (n, *event), the observations that follow those that the forecaster has seen, kept from inference; NaN
                where missing.
            steps: for how many times ahead. `predict` then answers up to so many.
            level: the highest level that intervals shall have; others may be asked for.
            seed: of the forecasts, as for `predict`.

        Returns:
            Forecaster: it stands after `y`, as after `observe(y)`. Later observations move it on, and leave the
                calibration as it is; calibrating again replaces it.

        Raises:
            PredictionError: `y` does not fit, holds what the law cannot give, or is too short for `steps` and `level`;
                observations that the parameters were inferred from are among it (noticed where their numbers tell);
                the model does not know its times, or its laws are not numbers at some of them.
            MethodError: `steps` or `seed` is none.

        Fails where the series changes its kind after `y`, and where `y` was used for the inference: the parameters know
        it, so intervals come out too narrow. Takes n x steps forecasts of one time.
        Vovk, Gammerman & Shafer (2005); Stankeviciute, Alaa & van der Schaar (2021), NeurIPS (horizon by horizon);
        Chernozhukov, Wuethrich & Zhu (2018), COLT, and Barber, Candes, Ramdas & Tibshirani (2023), Annals of Statistics
        51 (what dependence and drift cost).

        >>> import numpy as np, numpyro.distributions as dist
        >>> from probinfer import NUTS, StateSpace, infer
        >>> level = StateSpace.linear_gaussian(
        ...     [0.0],
        ...     [[1.0]],
        ...     [[0.5]],
        ...     lambda t, params: params["q"] * np.eye(1),
        ...     [[1.0]],
        ...     [[0.01]],
        ...     prior={"q": dist.LogNormal(-4.0, 0.1)},  # too sure of itself: the variance of the noise is 1
        ... )
        >>> y = np.random.default_rng(0).normal(size=200)
        >>> before = Forecaster(infer(level, y[:50], NUTS(draws=500), progress=False))
        >>> after = before.calibrate(y[50:], steps=3)
        >>> law, forecast = after.predict(3), before.observe(y[50:]).predict(3)
        >>> after.time, bool(((law.upper - law.lower) > 2 * (forecast.upper - forecast.lower)).all())
        (200, True)
        """
        from probinfer.predict.rolling import calibrate

        check_whole("calibrate", "steps", steps, 1)
        level, words, series = probability("level", level), key_words(seed), self.kept_from_inference(y)
        standing, calibration = calibrate(self.motion, self.standing, series, steps, level, words)
        return self.from_standing(self.motion, standing, self.about, calibration)

    def calibrated_by(self, calibration: SeriesCalibration) -> Self:
        """A new forecaster with the calibration of another fit of the same model: `other.calibration`.

        For a forecaster whose parameters were inferred from all observations, so that none are left to calibrate with:
        `other` is one inferred from the earlier of them, and calibrated with the later. `Prediction.guarantee` says so;
        it holds as far as forecasts of both err alike. Raises PredictionError for what is none, or of other
        observations.
        """
        if not isinstance(calibration, SeriesCalibration):
            raise PredictionError(
                f"calibration came as {type(calibration).__name__}; wanted that of a forecaster that `calibrate` gave, "
                "as in forecaster.calibrated_by(other.calibration)."
            )
        if calibration.lower.shape[2:] != self.motion.event:
            raise PredictionError(
                f"The calibration is of observations of the shape {calibration.lower.shape[2:]}; wanted "
                f"{self.motion.event}, as those of this forecaster."
            )
        if calibration.law != law_of(self.motion):
            laws = [law or "a law without closed form" for law in (calibration.law, law_of(self.motion))]
            raise PredictionError(
                f"The calibration is of forecasts by {laws[0]}, and this forecaster's are by {laws[1]}; wanted that of "
                "another fit of the same model."
            )
        carried = replace(calibration, carried=True)
        return self.from_standing(self.motion, self.standing, self.about, carried)

    def kept_from_inference(self, y: Any) -> Series:
        """The observations that follow, checked, for what forecasts are compared with. Raises PredictionError where
        they do not fit, or the parameters were inferred from some."""
        series = self._read(y)
        refuse_training_series(series, self.about.get("training"), self.time)
        return series

    def observe(self, y: Any) -> Self:
        """A new forecaster that has seen what came since: the next observations, in their order.

        y: (n, *event), NaN where missing; a time at which nothing came has a row too. In parts or at once is the same.
        Raises PredictionError where they do not fit. Look at `ess` and `report` afterwards.
        """
        return self.standing_at(self._follow(y)[0])

    def log_score(self, y: Any) -> np.ndarray:
        """log p(y_t | all that came before it), (n,), of the next observations; 0 where nothing was observed.

        Their sum is the log predictive density of all of them together. For each draw these are the increments of the
        filter's log likelihood. y, errors: as for `observe`.
        """
        return self._follow(y)[1]

    def sample(self, steps: int = 1, draws: int = 100, seed: Any = 0) -> np.ndarray:
        """Simulated futures (draws, steps, *event): each of one draw of the parameters, taken by weight, and one state.

        A future's times belong together, so sums, maxima and first passages may be read off. Whole numbers for a
        discrete law. Raises as `predict` does.
        """
        check_whole("sample", "steps", steps, 1)
        check_whole("sample", "draws", draws, 1)
        motion, first = self.motion, self.time
        check_horizon(motion, first, steps)
        words = key_words(seed)
        generator = np.random.default_rng([*words.tolist(), Use.SAMPLE.value])
        weights = Weights(np.maximum(self.standing.weights, 1e-300), 0.0)
        chosen = np.resize(generator.permutation(weights.pick(draws, generator.random())), paths_for(draws))
        mover, found = mover_of(motion), []
        states = mover.pick(motion, self.standing.state, chosen, words_of_time(words, Use.SAMPLE, -1))
        for time in range(first, first + steps):
            states, y = mover.simulate(motion, states, chosen, time, words_of_time(words, Use.SAMPLE, time))
            found.append(y[:draws])
        values = np.stack(found, axis=1)
        held = np.abs(values) < 2.0**63 if motion.discrete else np.isfinite(values)
        known = held.all(axis=(0, *range(2, held.ndim)))
        if not known.all():
            raise no_numbers(first + int(np.argmin(known)), first, "2**63" if motion.discrete else "1e308")
        return values.astype(np.int64) if motion.discrete else values

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as a folder of plain files that `load_predictor` reads without the model's code, and goes on from; where
        `path` ends in .zip, as one uncompressed zip of them.

        An older predictor at `path` is replaced once the new one is complete; anything else there is left alone, with
        an ArtifactError.
        """
        from probinfer.predict.series_artifact import write_forecaster

        write_forecaster(self, path)

    def __reduce__(self) -> tuple[Any, ...]:
        """As `Predictor`'s: the bytes of the artifact."""
        from probinfer.predict.plain_files import as_zip
        from probinfer.predict.series_artifact import contents

        return restored, (as_zip(contents(self)),)

    def __copy__(self) -> "Forecaster":
        return self.standing_at(self.standing)

    def __deepcopy__(self, memo: Any) -> "Forecaster":
        return copy.copy(self)

    def __repr__(self) -> str:
        law = self.motion.family.name if self.motion.family else "a law without closed form"
        kind = "linear Gaussian" if self.motion.linear else f"{self.standing.state[1].shape[1]} particles each"
        report = self.report
        return (
            f"Forecaster({law}; from time {self.time} on; {self.motion.size} draws, {kind}; {report.verdict.name}: "
            f"{report.headline})"
        )

    def _follow(self, y: Any) -> tuple[Standing, np.ndarray]:
        return follow(self.motion, self.standing, self._read(y))

    def _read(self, y: Any) -> Series:
        """The observations that follow, checked."""
        series = read_observations(y, self.motion)
        check_horizon(self.motion, self.time, len(series.values))
        return series
