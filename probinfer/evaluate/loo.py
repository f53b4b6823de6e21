"""Leave-one-out cross-validation from one fit: PSIS through arviz-stats, exact refits where it cannot be trusted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.special import logsumexp

from probinfer.errors import ModelError, PredictionError
from probinfer.evaluate.one_outcome import refuse_several
from probinfer.evaluate.refits import Refits
from probinfer.evaluate.replicate import observed_value
from probinfer.evaluate.tails import FEWEST_DRAWS, without_tail
from probinfer.inference.settings import check_whole
from probinfer.posterior.layout import tree_name
from probinfer.posterior.posterior import Posterior
from probinfer.posterior.verdict import Verdict
from probinfer.predict.engine import Engine
from probinfer.predict.predictor import Predictor, check_posterior
from probinfer.predict.program import LOG_DENSITY, PARAMETERS, Program
from probinfer.predict.rows import read_rows

if TYPE_CHECKING:
    import pandas as pd

MOST_REFITS = 20
_BLOCK = 4_000_000  # log likelihoods looked at together


@dataclass(frozen=True, eq=False)
class LOO:
    """Expected log pointwise predictive density by leave-one-out cross-validation.

    outcome      name of the outcome
    pointwise    (n,) log p(y_i | all others), in the order of the outcome's entries
    khat         (n,) Pareto shape of the importance weights; 0 where they have no tail
    good_k       the shape up to which they can be trusted with so many draws, min(1 - 1 / log10(draws), 0.7)
    refitted     (n,) the point was left out by a fit of its own: `pointwise` is that fit's, and `khat` does not matter
    lppd         sum of log p(y_i | all), the same points included
    verdict      on the posterior
    note         why points of bad shape were not refitted; None if they were, or there are none
    observed     the outcomes that came, by which `compare` knows that models are of the same; None where unknown
    """

    outcome: str
    pointwise: np.ndarray
    khat: np.ndarray
    good_k: float
    refitted: np.ndarray
    lppd: float
    verdict: Verdict
    note: str | None = None
    observed: np.ndarray | None = None

    @property
    def elpd(self) -> float:
        """Sum of the pointwise values."""
        return float(self.pointwise.sum())

    @property
    def se(self) -> float:
        """Standard error of `elpd` over points: sqrt(n) times the standard deviation of the pointwise values."""
        return (
            float(np.sqrt(len(self.pointwise)) * np.std(self.pointwise, ddof=1)) if len(self.pointwise) > 1 else np.nan
        )

    @property
    def p(self) -> float:
        """Effective number of parameters, lppd - elpd."""
        return self.lppd - self.elpd

    @property
    def bad(self) -> np.ndarray:
        """(n,) points whose value cannot be trusted: shape above `good_k`, and not refitted."""
        return ~(self.khat <= self.good_k) & ~self.refitted

    def to_frame(self) -> "pd.DataFrame":
        """One row for each point: elpd, khat, refitted."""
        import pandas as pd

        return pd.DataFrame({"elpd": self.pointwise, "khat": self.khat, "refitted": self.refitted})

    def __repr__(self) -> str:
        lines = [
            f"LOO of {self.outcome}: {len(self.pointwise)} points, elpd {self.elpd:.1f} ± {self.se:.1f}, "
            f"p {self.p:.1f}",
            f"{self.verdict.symbol} posterior {self.verdict.name}; Pareto shapes up to {np.max(self.khat):.2f}, good "
            f"up to {self.good_k:.2f}",
        ]
        if self.refitted.any():
            lines.append(f"{self.refitted.sum()} points of larger shape left out by fits of their own")
        if self.bad.any():
            first = int(np.argmax(self.bad))
            lines.append(f"✗ {self.bad.sum()} points cannot be trusted, point {first} for one: {self.note}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return "".join(f"<div>{escape(line)}</div>" for line in repr(self).splitlines())


def loo(
    posterior: Posterior,
    outcome: str | None = None,
    *,
    refit: bool = True,
    most_refits: int = MOST_REFITS,
    seed: Any = 0,
    progress: bool = True,
) -> LOO:
    """Leave-one-out cross-validation, from the draws given all points.

        elpd = sum over i of log p(y_i | y_-i),   p(y_i | y_-i) = 1 / E[1 / p(y_i | theta)] over the posterior

    The expectation is taken by Pareto smoothed importance sampling (`arviz_stats`), from the posterior's log
    likelihoods, or from those computed block by block where they are too many to keep. A point with a Pareto shape
    above `good_k` is left out by a fit of its own, which starts at the draws there are (`cross_validate` says how).

    Args:
        posterior: what `infer` returned; without its model, points cannot be refitted.
        outcome: name of the observed site; may be left out where there is only one.
        refit: whether to fit again without each bad point.
        most_refits: more bad points than these are left as they are, with a note.
        seed: of the fits.
        progress: show a line of progress while fitting.

    Raises:
        PredictionError: there is no such outcome, nothing to compute its log likelihood from, or fewer than 25 draws.
        MethodError: `most_refits` is no whole number.

    Fails where one point is no unit of its own: time series, rows of one person (leave the group out instead, by
    `cross_validate(groups=)`). The standard error is too small for fewer than about 100 points.
    Vehtari, Gelman & Gabry (2017), Statistics and Computing 27; Vehtari et al. (2024), JMLR 25(72).

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import probinfer as pi
    >>> def model(y=None):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     with numpyro.plate("rows", 40):
    ...         numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> y = np.random.default_rng(0).normal(0.5, 1, 40)
    >>> found = loo(pi.infer(model, {"y": y}, pi.Exact(), progress=False))
    >>> bool(0.5 < found.p < 1.5), int(found.bad.sum())  # one parameter
    (True, 0)
    """
    from arviz_stats.base import array_stats

    check_posterior(posterior)
    refuse_several(outcome, "loo(posterior, name)")
    check_whole("loo", "most_refits", most_refits, 0)
    draws = _draws(posterior)
    if draws < FEWEST_DRAWS:
        raise PredictionError(
            f"The posterior has {draws} draws, too few for importance sampling; wanted {FEWEST_DRAWS} or more, and "
            "some hundreds are good. Infer with more, or use cross_validate."
        )
    r_eff = _relative_efficiency(posterior)
    found = []
    for block in _finite(log_likelihoods(posterior, outcome)):
        flat = without_tail(-block, r_eff)
        part = np.empty((3, block.shape[1]))
        if flat.any():
            part[:, flat] = _plain(block[:, flat])
        if not flat.all():
            part[:, ~flat] = array_stats.loo(block[None, :, ~flat], chain_axis=0, draw_axis=1, r_eff=r_eff)
        found.append(part)
    pointwise, khat, excess = np.concatenate(found, axis=1)
    lost = ~np.isfinite(pointwise) | ~np.isfinite(excess)
    pointwise, khat = np.where(lost, -np.inf, pointwise), np.where(lost | np.isnan(khat), np.inf, khat)
    name = outcome_name(posterior, outcome)
    result = LOO(
        outcome=name,
        pointwise=pointwise,
        khat=khat,
        good_k=float(min(1 - 1 / np.log10(max(draws, 11)), 0.7)),
        refitted=np.zeros(len(pointwise), bool),
        lppd=float(np.sum(np.where(lost, -np.inf, pointwise + excess))),
        verdict=posterior.report.verdict,
        observed=_observed(posterior, name),
    )
    return _refitted(result, posterior, refit, most_refits, seed, progress) if result.bad.any() else result


def _plain(block: np.ndarray) -> np.ndarray:
    """(3, points): elpd, shape 0 and lppd - elpd of points whose weights have no tail, with the weights as they are."""
    draws = len(block)
    elpd, lppd = np.log(draws) - logsumexp(-block, axis=0), logsumexp(block, axis=0) - np.log(draws)
    return np.stack([elpd, np.zeros(block.shape[1]), lppd - elpd])


def outcome_name(posterior: Posterior, outcome: str | None) -> str:
    """The outcome meant. Raises PredictionError if it is not known which."""
    group = posterior.tree.children.get("log_likelihood")
    names = list(map(str, group.data_vars)) if group is not None else []
    if not names and posterior.model is not None:
        names = [tree_name(site.name) for site in posterior.model.bind(posterior.data).observed]
    if outcome is None and len(names) == 1:
        return names[0]
    if outcome is None or tree_name(outcome) not in names:
        came = "no outcome was named" if outcome is None else f"there is no outcome {outcome!r}"
        raise PredictionError(f"{came}; the posterior has log likelihoods of {', '.join(names) or 'none'}.")
    return tree_name(outcome)


def _observed(posterior: Posterior, name: str) -> np.ndarray | None:
    """What came of the outcome, as the model saw it; of a posterior without its model what its tree has."""
    if posterior.model is not None and posterior.data is not None:
        bound = posterior.model.bind(posterior.data)
        return observed_value(bound, next(site.name for site in bound.observed if tree_name(site.name) == name))
    group = posterior.tree.children.get("observed_data")
    return None if group is None or name not in group.data_vars else group[name].to_numpy()


def log_likelihoods(posterior: Posterior, outcome: str | None) -> Iterator[np.ndarray]:
    """log p(y_i | theta) in blocks of points, (draws, points): all that the tree holds, or as the predictor computes
    them."""
    name = outcome_name(posterior, outcome)
    group = posterior.tree.children.get("log_likelihood")
    draws = _draws(posterior)
    if group is not None and name in group.data_vars:
        values = group[name].transpose(*posterior.report.evidence.sample_dims, ...).to_numpy()
        flat = values.reshape(draws, -1)
        step = max(1, _BLOCK // draws)
        yield from (flat[:, start : start + step] for start in range(0, flat.shape[1], step))
        return
    try:
        predictor = Predictor(posterior, outcome, accept=Verdict.BAD)
    except ModelError as error:
        raise PredictionError(
            f"The posterior has no log likelihoods of {name}, and they cannot be computed row by row: {error}"
        ) from error
    yield from _streamed(posterior, predictor, draws)


def _streamed(posterior: Posterior, predictor: Predictor, draws: int) -> Iterator[np.ndarray]:
    program = predictor.program
    assert posterior.model is not None
    assert posterior.data is not None
    data: Mapping[str, Any] = posterior.data
    y = np.asarray(observed_value(posterior.model.bind(data), predictor.outcome), float)
    step, engine = max(1, _BLOCK // draws), Engine(program)
    for start in range(0, len(y), step):
        span = slice(start, start + step)
        rows = {entry.name: np.asarray(data[entry.name])[span] for entry in program.inputs}
        columns, _ = read_rows(rows, program) if rows else ({}, 0)
        yield engine.of_outcomes(_densities, columns, y[span]).T


def _densities(program: Program, draws: dict, fixed: dict, rows: dict, y: jax.Array) -> jax.Array:
    """log p(y | theta) of each row and draw."""
    if program.family is None:
        return program.programs[LOG_DENSITY].call(draws, fixed, rows, y)
    parameters = program.programs[PARAMETERS].call(draws, fixed, rows)
    density = program.family.log_density(y[:, None], *parameters)
    return density.reshape(*density.shape[:2], -1).sum(axis=2)


def _finite(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """A point that some draw thinks impossible has no finite weight: it becomes nan, and is reported as lost."""
    for block in blocks:
        yield np.where(np.isfinite(block).all(axis=0), block, np.nan)


def _draws(posterior: Posterior) -> int:
    evidence = posterior.report.evidence
    return evidence.chains * evidence.draws


def _relative_efficiency(posterior: Posterior) -> float:
    """Effective draws over draws, for means, averaged over parameters."""
    evidence, numbers = posterior.report.evidence, posterior.report.numbers
    if not evidence.chained or evidence.chains < 2:
        return 1.0
    with np.errstate(all="ignore"):
        sizes = (numbers.sd / numbers.mcse_mean) ** 2 / _draws(posterior)
    sizes = sizes[np.isfinite(sizes)]
    return float(np.mean(sizes)) if len(sizes) else 1.0


def _refitted(result: LOO, posterior: Posterior, refit: bool, most: int, seed: Any, progress: bool) -> LOO:
    bad = np.flatnonzero(result.bad)
    if not refit:
        return replace(result, note="refit=False; loo(posterior) leaves each out by a fit of its own")
    if len(bad) > most:
        return replace(result, note=f"more than {most}; use cross_validate, or a model that is not so surprised")
    try:
        refits = Refits(posterior, result.outcome)
        if refits.rows != len(result.pointwise):
            raise ModelError("a point is not a row of its own")
    except (ModelError, PredictionError) as error:
        return replace(result, note=f"they could not be left out by fits of their own: {error}")
    every = np.arange(refits.rows)
    folds = [(np.delete(every, row), np.array([row])) for row in bad]
    scores, _ = refits.fit_all(
        folds,
        seed,
        progress=progress,
        after=lambda fold: float(fold.predictor.log_score(refits.rows_at(fold.test), refits.outcomes_at(fold.test))[0]),
    )
    pointwise, refitted = result.pointwise.copy(), result.refitted.copy()
    done = bad[: len(scores)]
    pointwise[done], refitted[done] = scores, True
    note = None if len(done) == len(bad) else "interrupted before they were fitted"
    return replace(result, pointwise=pointwise, refitted=refitted, note=note)
