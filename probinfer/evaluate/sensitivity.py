"""How much the posterior leans on its prior, and on its likelihood: power scaling, by importance sampling."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import ModelError, PredictionError
from probinfer.evaluate.shown import Shown
from probinfer.evaluate.tails import FEWEST_DRAWS, without_tail
from probinfer.model.model import BoundModel
from probinfer.model.trace import log_densities, pointwise_log_density
from probinfer.posterior.layout import Variable
from probinfer.posterior.posterior import Posterior
from probinfer.predict.predictor import check_posterior

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 0.05
_ALPHAS = (0.99, 1.01)
_OF_TAIL = {"relative": True, "prob": 0.05}  # the efficiency by which arviz-stats finds the tail
_CHUNK = 512


@dataclass(frozen=True, eq=False, repr=False)
class Sensitivity(Shown):
    """What `prior_sensitivity` returns.

    labels       of the scalars, such as `alpha[county=HENNEPIN]`
    prior        of each: how far its law moves per doubling of the prior's power; above 0.05 it is sensitive
    likelihood   the same of the likelihood
    sites        parameters whose priors were scaled
    """

    _digits = "{:.3f}"

    labels: tuple[str, ...]
    prior: np.ndarray
    likelihood: np.ndarray
    sites: tuple[str, ...]

    @property
    def diagnosis(self) -> tuple[str, ...]:
        """In words, for each scalar; empty where nothing is wrong."""
        words = []
        for prior, likelihood in zip(self.prior, self.likelihood, strict=True):
            if prior >= THRESHOLD and likelihood >= THRESHOLD:
                words.append("prior and data disagree, perhaps")
            elif prior >= THRESHOLD:
                words.append("strong prior or weak likelihood")
            else:
                words.append("")
        return tuple(words)

    def to_frame(self) -> "pd.DataFrame":
        """One row for each scalar: prior, likelihood, diagnosis."""
        import pandas as pd

        table = {"prior": self.prior, "likelihood": self.likelihood, "diagnosis": self.diagnosis}
        return pd.DataFrame(table, index=pd.Index(self.labels, name="parameter"))

    def _head(self) -> str:
        moved = sum(bool(word) for word in self.diagnosis)
        return (
            f"Sensitivity to the priors of {', '.join(self.sites)}: {moved} of {len(self.labels)} parameters lean on it"
        )


def prior_sensitivity(
    posterior: Posterior, *, priors: Iterable[str] | None = None, var_names: Iterable[str] | None = None
) -> Sensitivity:
    """Whether conclusions would change with a somewhat wider or narrower prior, without fitting again.

        p_a(theta) proportional to p(theta)^a p(y | theta),   a = 0.99 and 1.01 by Pareto smoothed importance sampling
        sensitivity = change of the marginal law per doubling of a, in cumulative Jensen-Shannon distance

    Computed by arviz-stats; the log prior of every draw is the model's own.

    Args:
        posterior: what `infer` returned, or `load_posterior` with model and data.
        priors: parameters whose priors are scaled, all together. None takes those whose law depends on no other
            parameter: the levels of a hierarchy stay what the hierarchy makes them.
        var_names: parameters shown; None shows all.

    Raises:
        ModelError: the posterior came without its model. PredictionError: unknown names, fewer than 25 draws, or
            draws whose log prior or log likelihood is not finite.

    A large prior sensitivity is no fault where the prior says what is known. It is defined by draws, so parameters
    that mix badly have a noisy one.
    Kallioinen, Paananen, Bürkner & Vehtari (2024), Statistics and Computing 34.

    >>> import numpyro, numpyro.distributions as dist
    >>> import probinfer as pi
    >>> def model(y=None):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> found = prior_sensitivity(pi.infer(model, {"y": np.full(3, 9.0)}, pi.Exact(), progress=False))
    >>> found.diagnosis  # nine standard deviations of the prior away
    ('prior and data disagree, perhaps',)
    """
    from arviz_stats.base import array_stats

    check_posterior(posterior)
    if posterior.model is None or posterior.data is None:
        raise ModelError("This posterior was loaded without its model: load_posterior(path, model, data).")
    bound = posterior.model.bind(posterior.data)
    latents = {site.name: np.asarray(posterior.latents[site.name]) for site in bound.latents}
    scaled = _named("priors", priors, latents) if priors is not None else _top_level(bound, latents)
    evidence = posterior.report.evidence
    shown: list[Variable] = [variable for variable in posterior.sites().variables if variable.latent]
    if var_names is not None:
        wanted = _named("var_names", var_names, {key: 0 for v in shown for key in (v.name, v.site)})
        shown = [variable for variable in shown if variable.name in wanted or variable.site in wanted]
    prior, likelihood = _log_terms(bound, latents, scaled)
    if not (np.isfinite(prior).all() and np.isfinite(likelihood).all()):
        raise PredictionError("Some draws have no finite log prior or log likelihood, so they cannot be weighted.")
    if len(prior) < FEWEST_DRAWS:
        raise PredictionError(
            f"The posterior has {len(prior)} draws, too few to weight; wanted {FEWEST_DRAWS} or more, and some "
            "hundreds are good. Infer with more."
        )
    lead = (evidence.chains, evidence.draws)
    weights = {}
    for name, values in (("prior", prior), ("likelihood", likelihood)):
        for alpha in _ALPHAS:
            log_weights = _power_weights(array_stats, values, alpha).reshape(lead)
            both = np.exp(log_weights - np.max(log_weights)).reshape(lead)
            weights[name, alpha] = both / both.sum()
    labels, found = [], {"prior": [], "likelihood": []}
    for variable in shown:
        flat = variable.values.reshape(*lead, variable.entries)
        for entry in range(variable.entries):
            labels.append(variable.label(entry))
            for name, into in found.items():
                pair = (weights[name, alpha] for alpha in _ALPHAS)
                into.append(_sense(array_stats, flat[..., entry], *pair))
    return Sensitivity(tuple(labels), np.array(found["prior"]), np.array(found["likelihood"]), tuple(scaled))


def _power_weights(array_stats: Any, values: np.ndarray, alpha: float) -> np.ndarray:
    """(draws,) log weights when a term of the log density is raised to alpha, smoothed where they have a tail."""
    plain = (alpha - 1) * values
    if np.ptp(values) == 0 or without_tail(plain, float(array_stats.ess(values[None], method="tail", **_OF_TAIL))):
        return plain
    return array_stats.power_scale_lw(values, alpha=alpha)


def _sense(array_stats: Any, values: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    if np.ptp(values) == 0:  # draws that are all the same have no law to change
        return float("nan")
    found = array_stats.power_scale_sense(values, lower, upper, lower_alpha=_ALPHAS[0], upper_alpha=_ALPHAS[1])
    return float(np.squeeze(found))


def _named(what: str, names: Iterable[str], known: Mapping[str, Any]) -> list[str]:
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise PredictionError(
            f"{what} has {', '.join(map(repr, unknown)) or 'no names'}; there are {', '.join(known)}."
        )
    return wanted


def _top_level(bound: BoundModel, latents: Mapping[str, np.ndarray]) -> list[str]:
    """Sites whose log density does not change when all other sites do: at two draws."""
    if len(next(iter(latents.values()))) < 2:
        return list(latents)

    def terms(one: Mapping[str, jax.Array], other: Mapping[str, jax.Array]) -> dict[str, Any]:
        found = {}
        for name in latents:
            own = [bound.simulate({**rest, name: one[name]})[name] for rest in (one, other)]
            found[name] = [pointwise_log_density(site).sum() for site in own]
        return found

    with jax.enable_x64(True):
        first, last = ({name: jnp.asarray(values[i]) for name, values in latents.items()} for i in (0, -1))
        found = jax.jit(terms)(first, last)
    return [name for name, (own, mixed) in found.items() if np.isclose(own, mixed, rtol=1e-9, atol=1e-12)]


def _log_terms(
    bound: BoundModel, latents: Mapping[str, np.ndarray], scaled: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Log prior of the scaled sites and log likelihood of all observed ones, (draws,) each."""
    observed = [site.name for site in bound.observed]

    def one(values: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        terms = log_densities(bound.simulate(values))
        zero = jnp.zeros(())
        return sum((terms[n] for n in scaled), start=zero), sum((terms[n] for n in observed), start=zero)

    count = len(next(iter(latents.values())))
    found = []
    with jax.enable_x64(True):
        program = jax.jit(jax.vmap(one))
        for start in range(0, count, _CHUNK):
            take = np.minimum(np.arange(start, start + min(_CHUNK, count)), count - 1)
            parts = program({name: values[take] for name, values in latents.items()})
            found.append([np.asarray(part, float)[: count - start] for part in parts])
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])
