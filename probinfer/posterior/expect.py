"""The verb: a function and a distribution in, its expectation out, with error and verdict."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.convergence import MIN_DRAWS, convergence
from probinfer.inference.draw import key_words, traced
from probinfer.inference.montecarlo.average import Average, skewness_of_mean
from probinfer.inference.montecarlo.importance import Importance
from probinfer.inference.montecarlo.integrand import Integrand
from probinfer.inference.montecarlo.law import Law, as_law, is_half_made, is_law
from probinfer.inference.montecarlo.pareto import worst_khat
from probinfer.inference.montecarlo.plain import MonteCarlo
from probinfer.inference.montecarlo.quasi import QuasiMonteCarlo
from probinfer.inference.montecarlo.rejection import Rejection
from probinfer.model.forks import before_jax
from probinfer.model.model import Model
from probinfer.posterior.diagnose import R_HAT_BAD, R_HAT_DOUBTFUL
from probinfer.posterior.estimate import Estimate, check_level, judge_average
from probinfer.posterior.posterior import Posterior
from probinfer.posterior.verdict import Finding, Verdict

METHODS = (MonteCarlo, QuasiMonteCarlo, Importance, Rejection)

# Dimensions up to which even points are taken without being asked: beyond, the gain is rarely worth the map.
_QUASI_DIM = 100


def expect(
    f: Callable[..., Any],
    over: Any,
    method: Any = None,
    *,
    data: Any = None,
    seed: Any = 0,
    level: float = 0.9,
    batched: bool = False,
) -> Estimate:
    """Expectation of f over a distribution: E f(x) = ∫ f(x) p(x) dx, with its Monte Carlo error and a verdict.

    Args:
        f: a function of one point, written with `jax.numpy`; it returns a number, an array, or a dict of them. With
            `batched` a NumPy function of all points at once, which returns one entry for each.
        over: what x follows, and so what f takes:
            a NumPyro distribution, or a frozen one of `scipy.stats`: x of shape batch shape + event shape;
            a NumPyro function, `Model` or `LogDensity` (with its `data`), normalised or not: a dict of its sites;
            a `Posterior`: a dict of its sites.
        method: `MonteCarlo`, `QuasiMonteCarlo`, `Importance` or `Rejection`, with settings. None chooses: the draws of
            a posterior are used as they are; importance sampling for a model; quasi-Monte Carlo for a distribution
            that has quantile functions, in at most 100 dimensions; else plain Monte Carlo. `estimate.reason` says.
        data: of a model; as for `infer`.
        seed: whole number or jax key. The same seed gives the same estimate.
        level: of the interval that is printed.
        batched: f takes arrays with all points along their first axis.

    Returns:
        Estimate: `.value`, `.mcse`, `.interval(level)`, `.ess`, `.verdict`, `.reason`.

    Raises:
        MethodError: f, over, method, level or seed is not what it should be, or the method does not fit what f is
            averaged over; a bound given to `Rejection` was wrong.
        ModelError, DataError: as for `infer`.

    Fails where no draw finds what matters: the indicator of an event that no draw hits is 0 with an error of 0, and
    its verdict DOUBTFUL. Heavy tails and too few terms are found by the Pareto shape and the skewness.

    >>> import numpyro.distributions as dist
    >>> estimate = expect(lambda x: x**2, dist.Normal(1.0, 2.0))
    >>> round(estimate.value, 3), estimate.verdict.name
    (5.0, 'GOOD')
    """
    clock = time.perf_counter()
    before_jax()
    key = key_words(seed)
    level = check_level(level)
    if not isinstance(batched, bool):
        raise MethodError(f"batched is {batched!r}; wanted True or False.")
    if method is not None and not isinstance(method, METHODS):
        hint = f"; did you mean {method.__name__}()?" if isinstance(method, type) else ""
        names = ", ".join(f"pi.{each.__name__}()" for each in METHODS)
        raise MethodError(f"method came as {method!r}; wanted one of {names}, or None{hint}.")
    integrand = Integrand(f, batched=batched)
    if data is not None and (is_law(over) or isinstance(over, Posterior)):
        raise MethodError(f"data came along with a {type(over).__name__}, which has none; they belong to a model.")
    findings: tuple[Finding, ...] = ()
    if isinstance(over, Posterior):
        if method is not None:
            raise MethodError(
                f"method is {method!r}, but the draws of a posterior are there already. Leave it out; or pass the "
                "model and its data instead of the posterior."
            )
        average, findings = _over_posterior(integrand, over)
        name, why = "draws of the posterior", "averaged over the draws of the posterior, their autocorrelation counted"
    elif is_law(over):
        law = as_law(over)
        chosen, why = (method, "as asked") if method is not None else _choose(law)
        average, name = chosen.average(law, integrand, key), type(chosen).__name__
    elif isinstance(over, Model) or (callable(over) and not is_half_made(over)):
        chosen = Importance() if method is None else method
        if isinstance(chosen, MonteCarlo | QuasiMonteCarlo):
            raise MethodError(
                f"{type(chosen).__name__} draws from a distribution, and from this model's posterior nobody can draw "
                "directly. Fits: pi.Importance(), pi.Rejection(); or pi.infer first, and the posterior as `over`."
            )
        model = over if isinstance(over, Model) else Model(over)
        bound = model.bind(data)
        average, name = chosen.average_over_target(traced(bound, chosen), integrand, key), type(chosen).__name__
        why = "as asked" if method is not None else "the density is known up to a constant: weighted draws"
    else:
        as_law(over)
        raise AssertionError("as_law takes what is_law does not")
    found = tuple(sorted((*findings, *judge_average(average)), key=lambda finding: finding.severity.value))
    verdict = min((finding.severity for finding in found), default=Verdict.GOOD)
    said = f"{found[0].what}." if found else "Nothing speaks against the estimate."
    return Estimate(
        value=integrand.shaped(average.value),
        mcse=integrand.shaped(average.mcse),
        ess=integrand.shaped(average.ess),
        level=level,
        draws=average.draws,
        dof=average.dof,
        method=name,
        verdict=verdict,
        reason=f"{name} ({why}), {average.draws} evaluations. {said}",
        findings=found,
        pareto_khat=average.pareto_khat,
        acceptance=average.acceptance,
        log_evidence=average.log_evidence,
        log_evidence_mcse=average.log_evidence_mcse,
        seconds=time.perf_counter() - clock,
    )


def _choose(law: Law) -> tuple[MonteCarlo | QuasiMonteCarlo, str]:
    name = type(law.origin).__name__
    if law.searched:
        return MonteCarlo(), f"no closed form of {name}'s quantile function is known"
    if law.from_uniform is not None and law.dim <= _QUASI_DIM:
        return QuasiMonteCarlo(), f"{name} has a quantile function, so even points can be used"
    if law.from_uniform is None:
        return MonteCarlo(), f"no quantile function of {name} is known"
    return MonteCarlo(), f"{law.dim} dimensions are too many for even points to pay"


def _over_posterior(f: Integrand, posterior: Posterior) -> tuple[Average, tuple[Finding, ...]]:
    """Mean of f over the draws, the error from their effective number."""
    evidence = posterior.sites()
    chains, draws = evidence.chains, evidence.draws
    if draws < MIN_DRAWS:
        raise MethodError(f"The posterior has {draws} draws; wanted at least {MIN_DRAWS}.")
    points = {v.site: v.values.reshape(chains * draws, *v.shape) for v in evidence.variables}
    values = f(points)
    table = np.moveaxis(values.reshape(chains, draws, -1), -1, 0)
    numbers = convergence(table, independent=not evidence.chained, superchains=evidence.superchains)
    with np.errstate(all="ignore"):
        mcse = np.where(numbers.constant, 0.0, numbers.mcse_mean)
        ess = np.where(numbers.constant, float(chains * draws), (numbers.sd / mcse) ** 2)
    average = Average(
        value=numbers.mean,
        mcse=mcse,
        ess=ess,
        dof=float(np.clip(np.nanmin(ess, initial=np.inf) - 1, 1, chains * draws)),
        draws=chains * draws,
        skewness=skewness_of_mean(values),
        constant=numbers.constant,
        non_finite=int(np.sum(~np.isfinite(values))),
        pareto_khat=worst_khat(values),
    )
    findings = []
    report = posterior.report
    if report.verdict < Verdict.GOOD:
        what = next(finding.what for finding in report.findings if finding.severity is report.verdict)
        findings.append(
            Finding(
                f"The posterior itself is {report.verdict.name}: {what}",
                "the posterior",
                report.verdict,
                "Read posterior.report; mend that first.",
                float(report.verdict.value),
            )
        )
    worst = float(np.nanmax(numbers.r_hat, initial=1.0))
    if worst > R_HAT_DOUBTFUL:
        findings.append(
            Finding(
                f"The chains disagree about f: its R-hat is {worst:.3f}",
                "the estimate",
                Verdict.BAD if worst > R_HAT_BAD else Verdict.DOUBTFUL,
                "Run longer, or see what posterior.report says.",
                worst,
            )
        )
    return average, tuple(findings)
