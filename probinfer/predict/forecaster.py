"""Forecaster: a state-space posterior's answers for times to come, which goes on with what is observed. Imports jax,
not numpyro."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.special import logsumexp

from probinfer.errors import DataError, PredictionError
from probinfer.inference.key_words import key_words
from probinfer.inference.settings import check_whole
from probinfer.model.series import Series, read_series
from probinfer.posterior.states_report import ESS_BAD, ESS_DOUBTFUL, StatesReport
from probinfer.posterior.verdict import Finding, Verdict
from probinfer.predict.family import Support
from probinfer.predict.gaussian_motion import GaussianMover
from probinfer.predict.interval import likely_set, probabilities, probabilities_of, probability
from probinfer.predict.kind import Interval
from probinfer.predict.motion import Motion, Mover
from probinfer.predict.particle_motion import ParticleMover
from probinfer.predict.predictor import check_posterior, provenance, refuse_unreliable
from probinfer.predict.series_prediction import SeriesPrediction
from probinfer.predict.shortest import ends_of
from probinfer.predict.step_summary import Summary, summarise
from probinfer.predict.weights import Weights

if TYPE_CHECKING:
    from probinfer.inference.montecarlo.particle import ParticleFilter
    from probinfer.posterior.posterior import Posterior

OUTCOME = "observations"
# Effective draws of the parameters: with 50 a mean is off by a seventh of its epistemic sd.
DRAWS_DOUBTFUL, DRAWS_BAD = 50, 10
_FOLLOW, _PREDICT, _SAMPLE = 1, 2, 3  # uses of randomness


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
        ModelError: the posterior came without model or data, or is of another model.
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
        from probinfer.predict.standing import first_standing

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
        self._mover: Mover = GaussianMover() if motion.linear else ParticleMover()

    @property
    def time(self) -> int:
        """Number of the next observation, which is how many came."""
        return self.standing.time

    @property
    def ess(self) -> float:
        """Effective number of draws of the parameters, 1 / sum_s w_s^2."""
        return float(1 / np.sum(self.standing.weights**2))

    @property
    def report(self) -> StatesReport:
        """How far the forecasts can be trusted: verdict, findings, headline. The verdict of the posterior is in it, how
        many draws of the parameters are left, and how many particles."""
        return _judge(self)

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
        self._within(steps)
        levels, words = np.array([*probabilities_of(interval, level), *wanted]), key_words(seed)
        state = self._mover.scatter(self.motion, self.standing.state, self._words(words, _PREDICT, -1))
        found, weights = [], self.standing.weights
        for time in range(self.time, self.time + steps):
            state, outcomes = self._mover.ahead(self.motion, state, time, self._words(words, _PREDICT, time))
            found.append(summarise(self.motion, outcomes, weights, levels, level if hdi else None))
            if not found[-1].defined.all():
                raise PredictionError(
                    f"At time {time}, {time - self.time + 1} ahead, the model's laws are not numbers, or lead beyond "
                    "1e308, for some draws of the parameters. Look for a state that runs away, or a scale that can be "
                    "negative."
                )
        return self._prediction(found, level, wanted, quantiles is not None, interval)

    def observe(self, y: Any) -> Self:
        """A new forecaster that has seen what came since: the next observations, in their order.

        y: (n, *event), NaN where missing; a time at which nothing came has a row too. In parts or at once is the same.
        Raises PredictionError where they do not fit. Look at `ess` and `report` afterwards.
        """
        standing, _ = self._follow(self._read(y))
        return self.from_standing(self.motion, standing, self.about)

    def log_score(self, y: Any) -> np.ndarray:
        """log p(y_t | all that came before it), (n,), of the next observations; 0 where nothing was observed.

        Their sum is the log predictive density of all of them together. For each draw these are the increments of the
        filter's log likelihood. y, errors: as for `observe`.
        """
        return self._follow(self._read(y))[1]

    def sample(self, steps: int = 1, draws: int = 100, seed: Any = 0) -> np.ndarray:
        """Simulated futures (draws, steps, *event): each of one draw of the parameters, taken by weight, and one state.

        A future's times belong together, so sums, maxima and first passages may be read off. Whole numbers for a
        discrete law. Raises as `predict` does.
        """
        check_whole("sample", "steps", steps, 1)
        check_whole("sample", "draws", draws, 1)
        self._within(steps)
        words = key_words(seed)
        generator = np.random.default_rng([*words.tolist(), _SAMPLE])
        chosen = generator.permutation(
            Weights(np.maximum(self.standing.weights, 1e-300), 0.0).pick(draws, generator.random())
        )
        states = self._mover.pick(self.motion, self.standing.state, chosen, self._words(words, _SAMPLE, -1))
        found = []
        for time in range(self.time, self.time + steps):
            states, y = self._mover.simulate(self.motion, states, chosen, time, self._words(words, _SAMPLE, time))
            found.append(y)
        values = np.stack(found, axis=1)
        return values.astype(np.int64) if self.motion.discrete else values

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

    # -------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _words(words: np.ndarray, use: int, time: int) -> np.ndarray:
        """The randomness of a time, for one use."""
        return np.random.SeedSequence([*words.tolist(), use, time + 1]).generate_state(2, np.uint32)

    def _within(self, steps: int) -> None:
        """PredictionError for times that the model does not know."""
        horizon = self.motion.horizon
        if horizon is not None and self.time + steps > horizon:
            raise PredictionError(
                f"The times {self.time} to {self.time + steps - 1} were asked for, and the model looks into an array by the "
                f"time that ends with time {horizon - 1}: what drives the series later is not known. Infer with arrays "
                "that hold the future too (regressors, calendars, matrices of each time)."
            )

    def _read(self, y: Any) -> Series:
        motion = self.motion
        try:
            values, observed = read_series(y, missing=True)
        except DataError as error:
            raise PredictionError(str(error)) from None
        if motion.event == () and motion.linear and values.ndim == 2 and values.shape[1] == 1:
            values, observed = values[:, 0], observed[:, 0]
        if values.shape[1:] != motion.event:
            raise PredictionError(
                f"observations have the shape {np.shape(y)}, one row for each time; wanted "
                f"{('n', *motion.event)}, n times".replace("'", "")
                + ", as those that the parameters were inferred from."
            )
        parts = observed.reshape(len(observed), -1)
        partly = parts.any(axis=1) & ~parts.all(axis=1)
        if partly.any() and not motion.apart:
            raise PredictionError(
                f"observations are partly NaN in row {int(np.argmax(partly))}, but the entries of one observation are "
                "not independent given the state. Make the whole row NaN."
            )
        support = motion.family.support if motion.family else None
        if motion.discrete and np.any(wrong := observed & ~_possible(values, support, motion.probabilities)):
            row = int(np.argwhere(wrong)[0][0])
            raise PredictionError(
                f"observations hold {values[row].tolist()} in row {row}; wanted whole numbers"
                + (f", {support.value}." if support else ".")
            )
        self._within(len(values))
        return Series(values.astype(motion.kinds[0]), observed)

    def _follow(self, series: Series) -> tuple[Standing, np.ndarray]:
        """Where observations lead, and the log score of each."""
        now, scores = self.standing, np.empty(len(series.values))
        for row, (y, observed) in enumerate(zip(*series, strict=True)):
            words = self._words(now.words, _FOLLOW, now.time)
            seen = self._mover.observe(self.motion, now.state, now.time, y, observed, words)
            gained = now.log_weights + np.nan_to_num(seen.log_density, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
            scores[row] = logsumexp(gained)
            alive = np.isfinite(scores[row])
            after = gained - scores[row] if alive else now.log_weights
            now = replace(now, time=now.time + 1, state=seen.state, log_weights=after)
            if seen.ess is not None:
                ess = float(now.weights @ seen.ess) if alive else 0.0
                if now.ess is None or ess < now.ess:
                    now = replace(now, ess=ess, worst=now.time - 1)
        return now, scores

    def _prediction(
        self, found: list[Summary], level: float, wanted: tuple[float, ...], asked: bool, interval: Interval
    ) -> SeriesPrediction:
        motion, event = self.motion, self.motion.event

        def shaped(values: Sequence[np.ndarray], *more: int) -> np.ndarray:
            return np.stack(values).reshape(len(found), *event, *more)

        places = shaped([each.quantiles for each in found], 2 + len(wanted))
        lower, upper = places[..., 0], places[..., 1]
        if interval is Interval.HDI:
            ends = shaped([each.ends for each in found], 2)
            lower, upper = ends[..., 0], ends[..., 1]
        support = motion.family.support if motion.family else None
        classes = support in (Support.BINARY, Support.CLASSES)
        bottom, top = ends_of(support)
        bottom = -np.inf if motion.family is None else bottom
        if interval is Interval.LOWER:
            upper = np.full_like(upper, motion.probabilities - 1.0 if classes else top)
        if interval is Interval.UPPER:
            lower = np.full_like(lower, bottom)
        mean, mcse = shaped([each.mean for each in found]), shaped([each.mcse for each in found])
        aleatoric = shaped([each.aleatoric_variance for each in found])
        epistemic = shaped([each.epistemic_variance for each in found])
        some = shaped([each.probabilities for each in found], motion.probabilities) if motion.probabilities else None
        parts: dict[str, Any] = {}
        if found[0].entropies is not None:
            whole, apart = np.moveaxis(shaped([each.entropies for each in found], 2), -1, 0)
            parts = {"entropy": whole, "expected_entropy": apart, "mutual_information": np.maximum(whole - apart, 0.0)}
        return SeriesPrediction(
            outcome=OUTCOME,
            mean=mean,
            sd=np.sqrt(aleatoric + np.where(np.isnan(epistemic), 0.0, epistemic)),
            lower=lower,
            upper=upper,
            level=level,
            epistemic_sd=np.sqrt(epistemic),
            aleatoric_sd=np.sqrt(aleatoric),
            mcse=mcse,
            quantiles=places[..., 2:] if asked else None,
            quantile_levels=wanted,
            probabilities=some,
            classes=np.arange(motion.probabilities) if classes else None,
            sets=likely_set(some, level) if classes and some is not None else None,
            interval=interval,
            times=np.arange(self.time, self.time + len(found)),
            **parts,
        )


def _possible(values: np.ndarray, support: Support | None, many: int) -> np.ndarray:
    """Which values a discrete law can give."""
    whole = values == np.floor(values)
    if support is None:
        return whole
    top = many - 1 if support in (Support.BINARY, Support.CLASSES) else np.inf
    return whole & (values >= 0) & (values <= top)


def _judge(forecaster: Forecaster) -> StatesReport:
    standing, about, ess = forecaster.standing, forecaster.about, forecaster.ess
    since = standing.time - standing.fitted
    findings = []
    before = Verdict.__members__.get(str(about.get("verdict")), Verdict.BAD)
    if before is not Verdict.GOOD:
        text = f"The posterior of the parameters has the verdict {before.name}"
        findings.append(Finding(text, "all times", before, "Mend that one first.", float("nan")))
    if ess < DRAWS_DOUBTFUL:
        findings.append(
            Finding(
                f"{ess:.1f} effective draws of the parameters are left of {forecaster.motion.size}, after {since} "
                "observations that they were not inferred from",
                "all times",
                Verdict.BAD if ess < DRAWS_BAD else Verdict.DOUBTFUL,
                "Infer again from all observations, and make the forecaster anew; with more draws= it lasts longer.",
                ess,
            )
        )
    if standing.ess is not None and standing.ess < ESS_DOUBTFUL:
        some = "no particle explains" if standing.ess == 0 else f"{standing.ess:.1f} particles on average explain"
        findings.append(
            Finding(
                f"The particles collapse: at time {standing.worst} {some} the observation",
                f"time {standing.worst}",
                Verdict.BAD if standing.ess < ESS_BAD else Verdict.DOUBTFUL,
                "Use more particles=, or an observation law with heavier tails; look at that observation for an error.",
                standing.ess,
            )
        )
    worst = min((finding.severity for finding in findings), default=Verdict.GOOD)
    headline = f"{ess:.0f} effective draws of the parameters, {since} observations since they were inferred"
    return StatesReport(worst, tuple(sorted(findings, key=lambda finding: finding.severity.value)), headline)
