"""Models next to each other: predictive densities, their differences with errors, stacking weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from probinfer.errors import PredictionError
from probinfer.evaluate.loo import LOO, MOST_REFITS, loo
from probinfer.evaluate.one_outcome import refuse_several
from probinfer.evaluate.stacking import stacking_weights
from probinfer.evaluate.validate import CrossValidation, cross_validate
from probinfer.inference.settings import check_whole
from probinfer.posterior.posterior import Posterior
from probinfer.posterior.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

FEW_POINTS = 100  # below which the normal law of a difference is a poor one; Sivula, Magnusson & Vehtari (2025)
SMALL = 4.0  # differences below this are hardly ever told apart, whatever their error says
FOLDS = 10


@dataclass(frozen=True)
class Compared:
    """One model of a comparison.

    name       as given
    elpd, se   expected log pointwise predictive density, with its standard error
    p          effective number of parameters; nan if cross-validated
    diff, dse  elpd less that of the best model, with the standard error of the difference
    p_worse    chance that the model is worse than the best, by a normal law of the difference
    weight     stacking weight
    verdict    worst verdict of the fits
    how        the elpd was found
    bad        points that cannot be trusted
    """

    name: str
    elpd: float
    se: float
    p: float
    diff: float
    dse: float
    p_worse: float
    weight: float
    verdict: Verdict
    how: str
    bad: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` returns: `comparison["name"]`, `comparison.best`, `comparison.to_frame()`.

    models     the best first
    points     how many points were predicted
    pointwise  by name, (points,) log predictive densities
    notes      what to keep in mind, in sentences
    """

    models: tuple[Compared, ...]
    points: int
    pointwise: dict[str, np.ndarray]
    notes: tuple[str, ...]

    @property
    def best(self) -> Compared:
        """The model of the highest elpd."""
        return self.models[0]

    @property
    def weights(self) -> dict[str, float]:
        """Stacking weights by name."""
        return {model.name: model.weight for model in self.models}

    def __getitem__(self, name: str) -> Compared:
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(f"no model {name!r}; there are {', '.join(str(model.name) for model in self.models)}")

    def __len__(self) -> int:
        return len(self.models)

    def to_frame(self) -> "pd.DataFrame":
        """The table, with ArviZ's names of columns: rank elpd p elpd_diff dse p_worse weight se, then bad, verdict,
        how."""
        import pandas as pd

        return pd.DataFrame(
            {
                "rank": range(len(self.models)),
                "elpd": [model.elpd for model in self.models],
                "p": [model.p for model in self.models],
                "elpd_diff": [model.diff for model in self.models],
                "dse": [model.dse for model in self.models],
                "p_worse": [model.p_worse for model in self.models],
                "weight": [model.weight for model in self.models],
                "se": [model.se for model in self.models],
                "bad": [model.bad for model in self.models],
                "verdict": [model.verdict.name for model in self.models],
                "how": [model.how for model in self.models],
            },
            index=pd.Index([model.name for model in self.models], name="model"),
        )

    def __repr__(self) -> str:
        table = self.to_frame().to_string(float_format="{:.4g}".format)
        return "\n".join([f"Comparison of {len(self)} models on {self.points} points", table, *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        head = f"<p>Comparison of {len(self)} models on {self.points} points</p>"
        return f"{head}{self.to_frame().to_html(float_format='{:.4g}'.format)}{notes}"


def compare(
    models: Mapping[str, Any],
    outcome: str | None = None,
    *,
    refit: bool = True,
    most_refits: int = MOST_REFITS,
    seed: Any = 0,
    progress: bool = True,
) -> Comparison:
    """Which of several models of the same outcomes predicts best, and by how much.

        elpd_diff = sum_i (l_ik - l_i,best),   dse = sqrt(n) sd_i(l_ik - l_i,best)
        stacking weights: the mixture with the highest sum_i log sum_k w_k exp(l_ik)

    l_ik is the log predictive density of point i by model k without that point: by `loo`. If a model has more than
    `most_refits` points that importance sampling cannot leave out, all models that can be are cross-validated with the
    same ten folds instead.

    Args:
        models: by name, two or more: a `Posterior`, what `loo` returned, or what `cross_validate` returned (then for
            all of them, with the same rows).
        outcome: name of the observed site, where the models have several.
        refit: whether points may be fitted again; False compares what importance sampling gives, and says so.
        most_refits: per model.
        seed: of folds and fits.
        progress: show a line of progress while fitting.

    Raises:
        PredictionError: fewer than two models, other things than those, or models of different outcomes or rows.
        MethodError: `most_refits` is no whole number.

    Fails where models differ little (below about 4), or points are few (below about 100): the normal law behind
    `p_worse` is then a poor one. Choosing the best of many models makes it look better than it is.
    Vehtari, Gelman & Gabry (2017); Yao et al. (2018); Sivula, Magnusson, Matamoros & Vehtari (2025).
    """
    _check(models)
    refuse_several(outcome, "compare(models, name)")
    check_whole("compare", "most_refits", most_refits, 0)
    told = {name: model for name, model in models.items() if isinstance(model, CrossValidation)}
    if told:
        found: dict[str, LOO | CrossValidation] = dict(told)
        if len(told) < len(models):
            other = next(name for name in models if name not in told)
            raise PredictionError(
                f"{next(iter(told))!r} is cross-validated and {other!r} is not: pass all models as posteriors, or "
                "all as cross_validate(..., cv=) with the same folds."
            )
    else:
        given: dict[str, Any] = {"refit": refit, "most_refits": most_refits, "seed": seed, "progress": progress}
        found = {
            name: model if isinstance(model, LOO) else loo(model, outcome, **given) for name, model in models.items()
        }
    _check_same_outcomes(found)
    if not told:
        hopeless = [
            name for name, result in found.items() if isinstance(result, LOO) and result.bad.sum() > most_refits
        ]
        if hopeless and refit and all(isinstance(model, Posterior) for model in models.values()):
            found = {
                name: cross_validate(model, cv=FOLDS, outcome=outcome, seed=seed, progress=progress)
                for name, model in models.items()
            }
    pointwise = {name: _points(result) for name, result in found.items()}
    lengths = {name: len(values) for name, values in pointwise.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise PredictionError(f"The models predict different numbers of points ({listed}); wanted the same outcomes.")
    return _table(found, pointwise)


def _points(result: LOO | CrossValidation) -> np.ndarray:
    return result.pointwise if isinstance(result, LOO) else result.log_score[result.rows]


def _table(found: Mapping[str, LOO | CrossValidation], pointwise: dict[str, np.ndarray]) -> Comparison:
    names = sorted(found, key=lambda name: -found[name].elpd)
    best, count = pointwise[names[0]], len(pointwise[names[0]])
    weights = stacking_weights(np.stack([pointwise[name] for name in names], axis=1))
    models = []
    for name, weight in zip(names, weights, strict=True):
        result = found[name]
        apart = _difference(pointwise[name], best)
        diff, dse = float(apart.sum()), float(np.sqrt(count) * apart.std(ddof=1)) if count > 1 else float("nan")
        is_loo = isinstance(result, LOO)
        models.append(
            Compared(
                name=name,
                elpd=result.elpd,
                se=result.se,
                p=result.p if is_loo else float("nan"),
                diff=diff,
                dse=dse,
                p_worse=float(scipy.stats.norm.sf(diff / dse)) if dse > 0 else float("nan"),
                weight=float(weight),
                verdict=result.verdict,
                how=_how(result),
                bad=int(result.bad.sum()) if is_loo else 0,
            )
        )
    return Comparison(tuple(models), count, {name: pointwise[name] for name in names}, _notes(models, count, found))


def _difference(one: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Where both are impossible, they do not differ."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(one) & np.isneginf(best), 0.0, one - best)


def _how(result: LOO | CrossValidation) -> str:
    if isinstance(result, CrossValidation):
        return f"{len(result.folds)} folds"
    return f"PSIS-LOO, {result.refitted.sum()} refits" if result.refitted.any() else "PSIS-LOO"


def _notes(models: list[Compared], count: int, found: Mapping[str, LOO | CrossValidation]) -> tuple[str, ...]:
    notes = []
    for model in models:
        result = found[model.name]
        if model.bad and isinstance(result, LOO):
            notes.append(f"✗ {model.name}: {model.bad} points cannot be trusted; {result.note}")
        if model.verdict is not Verdict.GOOD:
            notes.append(f"{model.verdict.symbol} {model.name}: a fit behind it is {model.verdict.name}")
    close = [str(model.name) for model in models[1:] if abs(model.diff) < SMALL]
    if close:
        notes.append(
            f"! {', '.join(close)} and {models[0].name} predict about equally well: they differ by less than {SMALL:g}"
        )
    if count < FEW_POINTS:
        notes.append(f"! {count} points are few: errors of the differences are probably too small")
    return tuple(notes)


def _check(models: Any) -> None:
    if isinstance(models, Mapping) and len(models) < 2:
        came = ", ".join(map(repr, models)) or "none"
        raise PredictionError(f"models has {len(models)} ({came}); wanted two or more to compare, by name.")
    if not isinstance(models, Mapping):
        raise PredictionError(f"models came as {type(models).__name__}; wanted a dict of two or more, by name.")
    for name, model in models.items():
        if not isinstance(model, Posterior | LOO | CrossValidation):
            raise PredictionError(
                f"model {name!r} came as {type(model).__name__}; wanted what infer, loo or cross_validate returned."
            )


def _check_same_outcomes(found: Mapping[str, LOO | CrossValidation]) -> None:
    """The models must have predicted the same rows, in which the same came."""
    came = {name: result.observed if isinstance(result, LOO) else result.outcomes for name, result in found.items()}
    known = [(name, array) for name, array in came.items() if array is not None]
    for (first, here), (other, there) in pairwise(known):
        one, two = found[first], found[other]
        if isinstance(one, CrossValidation) and isinstance(two, CrossValidation):
            if not np.array_equal(one.rows, two.rows):
                raise PredictionError(
                    f"{first!r} and {other!r} were cross-validated on different rows ({len(one.rows)} and "
                    f"{len(two.rows)}); pass the same cv= to both."
                )
        if not np.array_equal(here, there):
            raise PredictionError(
                f"{first!r} and {other!r} have observed different outcomes (shapes {here.shape} and {there.shape}): "
                "densities of other data, or of transformed data, cannot be compared. Where a formula or a pipeline "
                "transforms the outcome, compare what cross_validate finds: its scores are in the outcome's own units."
            )
