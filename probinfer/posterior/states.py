"""What `filter` and `smooth` give: the states over time with their doubt, the likelihood, a report, and forecasts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from probinfer.inference.draw import key_words
from probinfer.inference.montecarlo.doubtful_laws import Undefined
from probinfer.inference.settings import check_whole
from probinfer.inference.undefined import NEGLIGIBLE
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import StateSpace
from probinfer.posterior.estimate import check_level
from probinfer.posterior.state_laws import Cloud, Gaussian, Mixture, future_cloud, future_gaussian, mixture_of
from probinfer.posterior.states_report import ESS_BAD, ESS_DOUBTFUL, StatesReport
from probinfer.posterior.verdict import Finding, Verdict

if TYPE_CHECKING:
    import pandas as pd

# Standard deviation of a run's log likelihood, above which their mean of exponentials rests on the luckiest.
SPREAD_DOUBTFUL = 2.0


class Band:
    """A law for each time: `mean`, `sd`, `mcse` (of the mean, None where exact), all (T, *shape); `times`; `level`."""

    def __init__(self, law: Gaussian | Mixture | Cloud, level: float, first: int) -> None:
        self.law, self.level = law, level
        self.mean, self.sd, self.mcse = law.mean, law.sd, law.mcse
        self.times = np.arange(first, first + len(law.mean))

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles (levels, T, *shape). MethodError where they need particles that were not kept."""
        return self.law.quantiles(np.array([check_level(level) for level in levels]))

    def interval(self, level: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends (T, *shape) of the equal-tailed interval."""
        level = self.level if level is None else check_level(level)
        lower, upper = self.quantiles([(1 - level) / 2, (1 + level) / 2])
        return lower, upper

    def to_frame(self) -> "pd.DataFrame":
        """A row for each time and entry: mean, sd, and the interval, with its level in the columns' names."""
        import pandas as pd

        lower, upper = self.interval()
        entries = int(np.prod(self.mean.shape[1:], dtype=int))
        name = f"eti{100 * self.level:.10g}"
        columns = {"mean": self.mean, "sd": self.sd, f"{name}_lb": lower, f"{name}_ub": upper}
        return pd.DataFrame(
            {
                "time": np.repeat(self.times, entries),
                "entry": np.tile(np.arange(entries), len(self.times)),
                **{column: np.asarray(values).ravel() for column, values in columns.items()},
            }
        )

    def _repr_html_(self) -> str:
        return f"<div>{self.to_frame().tail(8).to_html(index=False, float_format='%.4g', border=0)}</div>"


class Forecast(Band):
    """Observations to come; `states`, a band too, has the states."""

    def __init__(self, states: Band, law: Gaussian | Mixture | Cloud, level: float, first: int) -> None:
        super().__init__(law, level, first)
        self.states = states


class States(Band):
    """States of a `StateSpace` over time.

    mean, sd, mcse   (T, *state); mcse is the Monte Carlo error of the mean between runs, None where exact
    level            of `interval()` and `to_frame()`; `interval(level)` and `quantiles(levels)` give others
    log_likelihood, log_likelihood_mcse   log p(y), and its Monte Carlo error (0 where exact, NaN for one run); with a
                     posterior of the parameters, the mean of log p(y | θ) over its draws, and the error of that mean
    ess              (T,) effective particles at each time, of the worst run; None where exact
    report           verdict and findings; `forecast(steps)` what comes next
    """

    def __init__(
        self,
        law: Gaussian | Mixture | Cloud,
        level: float,
        *,
        model: StateSpace,
        params: Parameters,
        method: Any,
        log_likelihoods: np.ndarray,
        last: Any,
        ess: np.ndarray | None,
        before: Verdict | None = None,
        undefined: Undefined | None = None,
    ) -> None:
        super().__init__(law, level, 0)
        self.ess = ess
        self._model, self._params, self._last = model, params, last
        runs = len(log_likelihoods)
        self.log_likelihood = float(logsumexp(log_likelihoods) - np.log(runs))
        self.log_likelihood_mcse = 0.0
        if before is not None:
            self.log_likelihood = float(log_likelihoods.mean())
            self.log_likelihood_mcse = float(log_likelihoods.std(ddof=1) / np.sqrt(runs)) if runs > 1 else float("nan")
        elif ess is not None:
            with np.errstate(invalid="ignore"):  # -inf in every run: there is no error to tell
                relative = np.exp(log_likelihoods - self.log_likelihood)
                self.log_likelihood_mcse = float(relative.std(ddof=1) / np.sqrt(runs)) if runs > 1 else float("nan")
        error = f" ± {self.log_likelihood_mcse:.2g}" if ess is not None or before is not None else " (exact)"
        error += f", over {runs} draws of the parameters" if before is not None else ""
        headline = f"{type(method).__name__}, {len(self.mean)} times, log likelihood {self.log_likelihood:.6g}{error}"
        with np.errstate(invalid="ignore"):
            spread = float(np.std(log_likelihoods, ddof=1)) if before is None and runs > 1 else 0.0
        findings = _findings(self, log_likelihoods, spread, getattr(method, "particles", 0), before)
        findings = tuple(sorted([*_undefined(undefined), *findings], key=lambda finding: finding.severity.value))
        worst = min((finding.severity for finding in findings), default=Verdict.GOOD)
        self.report = StatesReport(worst, findings, headline)

    def forecast(self, steps: int, *, level: float | None = None, seed: Any = 0) -> Forecast:
        """Observations and states of the `steps` times that follow, exact or from 20,000 simulated futures.

        Raises MethodError for a step count or level out of range, ModelError where matrices end before that time.
        """
        check_whole("forecast", "steps", steps, 1)
        level = self.level if level is None else check_level(level)
        first = len(self.mean)
        if self._model.linear is not None:
            one = {name: value[0] for name, value in self._params.items()}
            self._model.linear.check(one, first + steps)
        if isinstance(self._last, Cloud):
            x, y = future_cloud(self._model, self._params, self._last, key_words(seed), first, steps)
        else:
            sets = [
                future_gaussian(self._model, {n: v[s] for n, v in self._params.items()}, mean, cov, first, steps)
                for s, (mean, cov) in enumerate(zip(*self._last, strict=True))
            ]
            x, y = (
                part[0]
                if len(part) == 1
                else mixture_of(np.stack([p.mean for p in part]), np.stack([p.sd for p in part]))
                for part in zip(*sets, strict=True)
            )
        return Forecast(Band(x, level, first), y, level, first)

    def __repr__(self) -> str:
        return f"States({self.report.verdict.name}: {self.report.headline})"

    def _repr_html_(self) -> str:
        complete = not isinstance(self.law, Cloud) or self.law.weights.shape[1] == len(self.mean)
        return self.report._repr_html_() + (super()._repr_html_() if complete else "")


def _undefined(found: Undefined | None) -> list[Finding]:
    if found is None:
        return []
    more = f", and {found.times - 1} more times" if found.times > 1 else ""
    return [
        Finding(
            f"A law of the model is none, or its density not a number, for {found.share:.2%} of the particles at time "
            f"{found.time}: their weight is not to be relied on",
            f"as in {found.place}{more}",
            Verdict.DOUBTFUL if found.share > NEGLIGIBLE else Verdict.GOOD,
            "Look there for a logarithm or root of what can be negative, a scale that can be, 0/0, or an overflow. If "
            "the state cannot be there, give the transition a law with that support, or the density -inf.",
            found.share,
        )
    ]


def _findings(
    states: States, log_likelihoods: np.ndarray, spread: float, particles: int, before: Verdict | None
) -> tuple[Finding, ...]:
    findings = []
    if before not in (None, Verdict.GOOD):
        text = f"The posterior of the parameters has the verdict {before.name}"
        findings.append(Finding(text, "all times", before, "Mend that one first.", float("nan")))
    finite = np.isfinite(states.mean).reshape(len(states.mean), -1).all(axis=1)
    if not finite.all() or (states.ess is None and not np.isfinite(log_likelihoods).all()):
        first = int(np.argmin(finite))
        advice = "Look for a scale that can be zero, observation noise of zero, or a state that runs away."
        where = f"from time {first} on"
        findings.append(Finding("The numbers are not finite", where, Verdict.BAD, advice, float(first)))
    elif states.ess is not None:
        t = int(np.argmin(states.ess))
        least = float(states.ess[t])
        if least < ESS_DOUBTFUL:
            what = "no particle explains the observation" if least == 0 else f"{least:.1f} particles carry the weight"
            severity = Verdict.BAD if least < ESS_BAD else Verdict.DOUBTFUL
            others = int((states.ess < ESS_DOUBTFUL).sum()) - 1
            advice = (
                "Use more particles, a proposal= that sees the observation, or an observation law with heavier tails; "
                "look at that observation for an error."
            )
            text = f"The particles collapse: at time {t} {what}, of {particles} in a run"
            findings.append(Finding(text, f"time {t}" + f" and {others} more" * (others > 0), severity, advice, least))
        if not spread <= SPREAD_DOUBTFUL:
            text = f"The log likelihood of a run has a standard deviation of {spread:.2g}"
            advice = f"Its error is itself uncertain: use about {SPREAD_DOUBTFUL:g} or less, by more particles."
            findings.append(Finding(text, "the log likelihood", Verdict.DOUBTFUL, advice, spread))
    return tuple(sorted(findings, key=lambda finding: finding.severity.value))
