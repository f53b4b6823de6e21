"""Prior and posterior predictive checks: data drawn from the model next to the data that came."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.special import logsumexp

from probinfer.errors import MissingExtra, ModelError, PredictionError
from probinfer.evaluate.one_outcome import refuse_several
from probinfer.evaluate.replicate import observed_value, prior_draws, replicate
from probinfer.evaluate.shown import Shown
from probinfer.evaluate.tails import FEWEST_DRAWS, without_tail
from probinfer.inference.draw import key_words
from probinfer.model.model import BoundModel, Model
from probinfer.posterior.layout import lay_out, tree_name
from probinfer.posterior.posterior import Posterior
from probinfer.posterior.verdict import Verdict
from probinfer.predict.family import Support
from probinfer.predict.predictor import check_posterior

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

EXTREME = 0.01  # a p-value this close to 0 or 1 is pointed out
_MOST_CLASSES = 8

Statistic = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Checked:
    """One statistic of the data, against data drawn from the model.

    name           of the statistic
    observed       of the data that came
    mean           of the data drawn
    lower, upper   equal-tailed interval of the data drawn, with the check's level
    p              share of the data drawn whose statistic is larger, and half of those that are equal
    """

    name: str
    observed: float
    mean: float
    lower: float
    upper: float
    p: float

    @property
    def extreme(self) -> bool:
        """The data that came are in the outermost hundredth of the data drawn, on either side."""
        return not EXTREME <= self.p <= 1 - EXTREME


@dataclass(frozen=True, eq=False, repr=False)
class Check(Shown):
    """What `prior_check` and `posterior_check` return: `check["mean"].p`, `check.to_frame()`, `check.plot()`.

    outcome      name of the outcome
    group        "prior_predictive" or "posterior_predictive", where the tree has the data drawn
    tree         xarray.DataTree of ArviZ's schema: that group, observed_data, and prior or all of the posterior's
    statistics   of the data
    level        of their intervals
    pit          (n,) of each outcome, given all others (LOO-PIT); uniform if the model is right; None for a prior
                 check, and where importance sampling does not reach
    pit_p        p-value of its uniformity; None without `pit`
    verdict      on the posterior; None for a prior check
    """

    outcome: str
    group: str
    tree: "xr.DataTree"
    statistics: tuple[Checked, ...]
    level: float
    pit: np.ndarray | None = None
    pit_p: float | None = None
    verdict: Verdict | None = None

    def __getitem__(self, name: str) -> Checked:
        for one in self.statistics:
            if one.name == name:
                return one
        raise KeyError(f"no statistic {name!r}; there are {', '.join(one.name for one in self.statistics)}")

    def to_frame(self) -> "pd.DataFrame":
        """One row for each statistic: observed, mean, lower, upper, p, extreme."""
        import pandas as pd

        columns = ("observed", "mean", "lower", "upper", "p", "extreme")
        return pd.DataFrame(
            [[getattr(one, name) for name in columns] for one in self.statistics],
            columns=list(columns),
            index=pd.Index([one.name for one in self.statistics], name="statistic"),
        )

    def plot(self, **options: Any) -> Any:
        """Distribution of the outcome in the data drawn and in those that came: `arviz_plots.plot_ppc_dist`.

        options go to it. Raises MissingExtra without arviz-plots.
        """
        try:
            plots = importlib.import_module("arviz_plots")
        except ModuleNotFoundError as error:
            raise MissingExtra(
                "A plot needs arviz-plots, which is not installed: pip install 'probinfer[plot]'."
            ) from error
        tree = self.tree
        if "sample" in tree[self.group].dims:  # which is what arviz-plots calls chains and draws together
            drawn = tree[self.group].to_dataset().rename(sample="draw").expand_dims(chain=1)
            tree = type(tree).from_dict({self.group: drawn, "observed_data": tree["observed_data"].to_dataset()})
        given: dict[str, Any] = {"var_names": [self.outcome], "group": self.group, **options}
        return plots.plot_ppc_dist(tree, **given)

    def _head(self) -> str:
        kind = self.group.partition("_")[0].capitalize()
        draws = int(np.prod([self.tree[self.group].sizes[d] for d in self.tree[self.group].dims if d in _SAMPLE]))
        text = f"{kind} predictive check of {self.outcome}: {draws} data sets, {100 * self.level:.10g}% intervals"
        if self.pit_p is not None:
            text += f"; LOO-PIT uniform with p = {self.pit_p:.2g}"
        if self.verdict is not None and self.verdict is not Verdict.GOOD:
            text += f"; {self.verdict.symbol} the posterior is {self.verdict.name}"
        return text


_SAMPLE = ("chain", "draw", "sample")


def prior_check(
    model: Any,
    data: Any,
    *,
    outcome: str | None = None,
    statistics: Mapping[str, Statistic] | None = None,
    draws: int = 500,
    level: float = 0.9,
    seed: Any = 0,
) -> Check:
    """What data the model thinks possible before it has seen any, next to those that came.

        theta ~ p(theta),  y_rep ~ p(y | theta);   p = P(T(y_rep) > T(y)) + P(T(y_rep) = T(y)) / 2

    Args:
        model: a NumPyro function or `Model`, every site of which has a proper prior.
        data: the model's data, the outcome too.
        outcome: name of the observed site; may be left out where there is only one.
        statistics: by name, functions of the outcome (n, …) that give a number. None takes mean, sd, min and max of
            numbers; mean, sd, max and the share of zeros of counts; mean and the number of changes from row to row of 0
            and 1; the share of each class.
        draws: data sets drawn.
        level: of the intervals.
        seed: whole number or jax key.

    Raises:
        ModelError: a site has no prior to draw from, or there is no such outcome. PredictionError: a statistic gives no
            number, or an argument is out of range.

    Read it the other way round than a test: a prior that allows data far from possible is to be made narrower; one
    under which the data that came are extreme contradicts them. Box (1980), JRSS A 143; Gabry et al. (2019), JRSS A
    182.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(y=None):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> check = prior_check(model, {"y": np.full(20, 9.0)})
    >>> check["mean"].p  # a mean of 9 is not to be had
    0.0
    """
    refuse_several(outcome, "prior_check(model, data, outcome=name)")
    _check_statistics(statistics)
    model = model if isinstance(model, Model) else Model(model)
    bound = model.bind(data)
    _check_numbers(draws, level)
    name = _outcome(bound, outcome)
    latents, made = prior_draws(bound, int(draws), seed)
    groups = {"prior": {name: values[None] for name, values in latents.items()}}
    groups["prior_predictive"] = {name: values[None] for name, values in made.items()}
    tree = _tree(bound, groups, ("chain", "draw"))
    observed = observed_value(bound, name)
    return Check(
        outcome=tree_name(name),
        group="prior_predictive",
        tree=tree,
        statistics=_compared(made[name], observed, statistics or _usual(bound, name, observed), level),
        level=level,
    )


def posterior_check(
    posterior: Posterior,
    *,
    outcome: str | None = None,
    statistics: Mapping[str, Statistic] | None = None,
    draws: int = 1000,
    level: float = 0.9,
    seed: Any = 0,
) -> Check:
    """Whether data drawn from the fitted model look like those it was fitted to.

        y_rep ~ p(y | theta) for draws theta of the posterior;   p = P(T(y_rep) > T(y)) + P(T(y_rep) = T(y)) / 2
        LOO-PIT_i = P(y_rep,i <= y_i | y_-i), by Pareto smoothed importance sampling (arviz-stats)

    Args:
        posterior: what `infer` returned, or `load_posterior` with model and data.
        draws: posterior draws used, evenly spaced, one data set for each; all of them if there are fewer.
        outcome, statistics, level, seed: as for `prior_check`.

    Raises:
        ModelError: the posterior came without its model, or there is no such outcome. PredictionError: a statistic
            gives no number, or an argument is out of range.

    p-values of statistics that the model fits (a mean, with a free level) are close to 1/2 whether it is right or
    not, and of others closer to it than those of a test; so an extreme one says much, a middling one little. Choose
    statistics of what the model might miss: zeros, largest values, runs. `pit_p` allows for the dependence of LOO-PIT
    values. Gelman, Meng & Stern (1996), Statistica Sinica 6; Gelfand, Dey & Chang (1992); Säilynoja et al. (2026).
    """
    import xarray as xr

    check_posterior(posterior)
    refuse_several(outcome, "posterior_check(posterior, outcome=name)")
    _check_statistics(statistics)
    if posterior.model is None or posterior.data is None:
        raise ModelError("This posterior was loaded without its model: load_posterior(path, model, data).")
    bound = posterior.model.bind(posterior.data)
    _check_numbers(draws, level)
    name = _outcome(bound, outcome)
    evidence = posterior.report.evidence
    each = min(evidence.draws, max(1, int(draws) // evidence.chains))
    place = np.unique(np.linspace(0, evidence.draws - 1, each).astype(int))
    take = (np.arange(evidence.chains)[:, None] * evidence.draws + place).ravel()
    made = replicate(bound, {key: values[take] for key, values in posterior.latents.items()}, seed)
    lead = (evidence.chains, len(place)) if evidence.chained else (len(place),)
    group = {key: values.reshape(*lead, *values.shape[1:]) for key, values in made.items()}
    tree = _tree(bound, {"posterior_predictive": group}, evidence.sample_dims, {evidence.sample_dims[-1]: place})
    whole = {path: node.to_dataset() for path, node in posterior.tree.children.items()}
    whole["posterior_predictive"] = tree["posterior_predictive"].to_dataset()
    observed = observed_value(bound, name)
    pit, pit_p = _loo_pit(posterior, name, made[name], observed, take, seed)
    return Check(
        outcome=tree_name(name),
        group="posterior_predictive",
        tree=xr.DataTree.from_dict({"/": xr.Dataset(attrs=posterior.tree.attrs), **whole}),
        statistics=_compared(made[name], observed, statistics or _usual(bound, name, observed), level),
        level=level,
        pit=pit,
        pit_p=pit_p,
        verdict=posterior.report.verdict,
    )


def _loo_pit(
    posterior: Posterior, name: str, made: np.ndarray, observed: np.ndarray, take: np.ndarray, seed: Any
) -> tuple[np.ndarray | None, float | None]:
    from arviz_stats.base import array_stats

    group = posterior.tree.children.get("log_likelihood")
    if group is None or tree_name(name) not in group.data_vars:
        return None, None
    values = group[tree_name(name)].transpose(*posterior.report.evidence.sample_dims, ...).to_numpy()
    ratios = -values.reshape(-1, *values.shape[len(posterior.report.evidence.sample_dims) :])[take]
    if ratios.shape[1:] != observed.shape or not np.isfinite(ratios).all() or len(take) < FEWEST_DRAWS:
        return None, None
    ratios, made = (np.reshape(array, (len(take), -1)).T for array in (ratios, made))
    flat = without_tail(ratios.T)
    weights = ratios - logsumexp(ratios, axis=-1, keepdims=True)
    if not flat.all():
        weights[~flat] = array_stats.psislw(ratios[~flat], axis=-1)[0]
    random = np.random.default_rng(key_words(seed))
    pit = array_stats.loo_pit(made[:, None], observed.ravel(), weights[:, None], random_state=random)
    pit = np.clip(np.asarray(pit, float), 0.5 / len(take), 1 - 0.5 / len(take))
    return pit, float(array_stats.uniformity_test(pit)[0])


def _outcome(bound: BoundModel, outcome: str | None) -> str:
    names = [site.name for site in bound.observed]
    if outcome is None and len(names) == 1:
        return names[0]
    if outcome is None or outcome not in names:
        came = "no outcome was named" if outcome is None else f"there is no outcome {outcome!r}"
        raise ModelError(f"{came}; the model has observed {', '.join(names) or 'none: give it the outcome'}.")
    return outcome


def _check_numbers(draws: Any, level: Any) -> None:
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 1:
        raise PredictionError(f"draws is {draws!r}; wanted a whole number, 1 or more.")
    if isinstance(level, bool) or not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise PredictionError(f"level is {level!r}; wanted a probability, such as 0.9.")


def _usual(bound: BoundModel, name: str, observed: np.ndarray) -> dict[str, Statistic]:
    from probinfer.predict.laws import family_of

    kinds: list[tuple[bool, Support | None]] = []

    def look() -> list:
        law = bound.simulate({})[name]["fn"]
        family = family_of(law)
        kinds.append((bool(law.is_discrete), family.support if family is not None else None))
        return []

    jax.eval_shape(look)
    discrete, support = kinds[-1]
    if not discrete:
        return {"mean": np.mean, "sd": np.std, "min": np.min, "max": np.max}
    if support is Support.BINARY:
        return {"mean": np.mean, "changes": lambda y: np.count_nonzero(np.diff(y, axis=0))}
    if support is Support.CLASSES:
        codes = np.unique(observed)[:_MOST_CLASSES]
        return {f"share of {code:g}": (lambda y, code=code: np.mean(y == code)) for code in codes}
    return {"mean": np.mean, "sd": np.std, "max": np.max, "zeros": lambda y: np.mean(y == 0)}


def _check_statistics(statistics: Any) -> None:
    if statistics is None:
        return
    if not isinstance(statistics, Mapping) or not all(callable(one) for one in statistics.values()):
        raise PredictionError(
            f"statistics came as {statistics!r}; wanted functions of the outcome by name, such as {{'mean': np.mean}}."
        )


def _compared(
    made: np.ndarray, observed: np.ndarray, statistics: Mapping[str, Statistic], level: float
) -> tuple[Checked, ...]:
    found = []
    for name, statistic in statistics.items():
        here = _number(name, statistic, observed)
        there = np.array([_number(name, statistic, one) for one in made])
        lower, upper = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
        p = np.mean(there > here) + np.mean(there == here) / 2
        found.append(Checked(name, here, float(there.mean()), float(lower), float(upper), float(p)))
    return tuple(found)


def _number(name: str, statistic: Statistic, y: np.ndarray) -> float:
    value = np.asarray(statistic(y))
    if value.ndim or value.dtype.kind not in "fiub" or not np.isfinite(value):
        gave = repr(value.item()) if value.ndim == 0 else f"an array of shape {value.shape}"
        raise PredictionError(f"The statistic {name!r} gave {gave} of an outcome {y.shape}; wanted one finite number.")
    return float(value)


def _tree(
    bound: BoundModel,
    groups: Mapping[str, Mapping[str, np.ndarray]],
    sample_dims: tuple[str, ...],
    labels: Mapping[str, np.ndarray] | None = None,
) -> "xr.DataTree":
    """Groups of ArviZ's schema, and the data observed."""
    import xarray as xr

    sites = {site.name: site.dims for site in (*bound.latents, *bound.observed)}
    whole = {**groups, "observed_data": {site.name: observed_value(bound, site.name) for site in bound.observed}}
    found = {}
    for group, arrays in whole.items():
        leading = () if group == "observed_data" else sample_dims
        variables = lay_out(arrays, sample_dims=leading, dims_of=lambda name: sites[name], coords=bound.coords)
        coords: dict[str, Any] = {dim: label for v in variables for dim, label in zip(v.dims, v.coords, strict=True)}
        lengths = variables[0].values.shape[: len(leading)]
        coords |= {dim: np.arange(length) for dim, length in zip(leading, lengths, strict=True)}
        coords |= {dim: label for dim, label in (labels or {}).items() if dim in leading}
        found[group] = xr.Dataset({v.name: ((*leading, *v.dims), v.values) for v in variables}, coords)
    return xr.DataTree.from_dict(found)
