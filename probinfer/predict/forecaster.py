"""Forecaster: a state-space posterior's answers for times to come, which goes on with what is observed. Imports jax,
not numpyro."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from probinfer.errors import PredictionError
from probinfer.inference.key_words import key_words
from probinfer.inference.settings import check_whole
from probinfer.posterior.states_report import StatesReport
from probinfer.posterior.verdict import Verdict
from probinfer.predict.interval import probabilities, probabilities_of, probability
from probinfer.predict.kind import Interval
from probinfer.predict.motion import Motion
from probinfer.predict.outlook import look_ahead, no_numbers, paths_for
from probinfer.predict.predictor import check_posterior, provenance, refuse_unreliable
from probinfer.predict.series_answer import answer
from probinfer.predict.series_prediction import SeriesPrediction
from probinfer.predict.series_rows import check_horizon, read_observations
from probinfer.predict.standing import Standing, Use, follow, judge, mover_of, words_of_time
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
        motion, standing = first_standing(posterior, draws, particles, filter, key_words(seed))
        self._set(motion, standing, provenance(posterior, accept))

    @classmethod
    def from_standing(cls, motion: Motion, standing: Standing, about: Mapping[str, Any]) -> Self:
        """The forecaster of parts that were made before: how `load_predictor` makes it."""
        self = object.__new__(cls)
        self._set(motion, standing, about)
        return self

    def _set(self, motion: Motion, standing: Standing, about: Mapping[str, Any]) -> None:
        self.motion, self.standing, self.about = motion, standing, dict(about)

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
        many draws of the parameters are left, and how many particles."""
        return judge(self.standing, self.about)

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
                model looks into an array that ends before, or its laws are not numbers at some time.
            MethodError: `steps` or `seed` is none.
        """
        check_whole("predict", "steps", steps, 1)
        level, wanted = probability("level", level), probabilities("quantiles", quantiles)
        if not isinstance(interval, Interval):
            raise PredictionError(f"interval is {interval!r}; wanted an Interval, such as Interval.LOWER.")
        hdi = interval is Interval.HDI
        if hdi and (self.motion.family is None or self.motion.discrete):
            raise PredictionError(
                "Interval.HDI is for observations of a continuous law with a closed form. Ask for Interval.ETI."
            )
        levels, words = np.array([*probabilities_of(interval, level), *wanted]), key_words(seed)
        found = [*look_ahead(self.motion, self.standing, steps, levels, words, level if hdi else None)]
        return answer(self.motion, found, self.time, level, wanted if quantiles is not None else None, interval)

    def observe(self, y: Any) -> Self:
        """A new forecaster that has seen what came since: the next observations, in their order.

        y: (n, *event), NaN where missing; a time at which nothing came has a row too. In parts or at once is the same.
        Raises PredictionError where they do not fit. Look at `ess` and `report` afterwards.
        """
        return self.from_standing(self.motion, self._follow(y)[0], self.about)

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
        """Save as a folder of plain files that `load_predictor` reads without the model's code, and goes on from.

        An older predictor at `path` is replaced once the new one is complete; anything else there is left alone, with
        an ArtifactError.
        """
        from probinfer.predict.series_artifact import write_forecaster

        write_forecaster(self, path)

    def __repr__(self) -> str:
        law = self.motion.family.name if self.motion.family else "a law without closed form"
        kind = "linear Gaussian" if self.motion.linear else f"{self.standing.state[1].shape[1]} particles each"
        report = self.report
        return (
            f"Forecaster({law}; from time {self.time} on; {self.motion.size} draws, {kind}; {report.verdict.name}: "
            f"{report.headline})"
        )

    def _follow(self, y: Any) -> tuple[Standing, np.ndarray]:
        series = read_observations(y, self.motion)
        check_horizon(self.motion, self.time, len(series.values))
        return follow(self.motion, self.standing, series)
