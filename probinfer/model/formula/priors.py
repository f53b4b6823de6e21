"""Priors of a formula's model: weakly informative ones scaled by the data, or those that are given. Imports numpyro.

As in Bambi and rstanarm: with s the sd of a real outcome, else 1,

    Intercept (at the means of the predictors)   Normal(m, 2.5 s)     m: the outcome's mean, of a log link its logarithm
    a coefficient                                Normal(0, 2.5 s / sd(x))
    sd of a group's coefficients                 HalfNormal(2.5 s / sd(x)), of intercepts HalfNormal(2.5 s)

and those of a family's own parameters, `own_priors`. Each is sampled in units of s, so that neither the outcome's unit
nor a predictor's matters to where chains begin and how far they step.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import ExpTransform, biject_to

from probinfer.errors import ModelError
from probinfer.model.location_scale import location_scale_of
from probinfer.model.trace import UNITS

WIDE = 2.5


@dataclass(frozen=True)
class Scale:
    """Of the linear predictor: where it is and how far it moves."""

    middle: float
    spread: float

    def of(self, matrix: np.ndarray) -> np.ndarray:
        """What a coefficient of each column (n, k) is like: spread / sd, by size where a column does not vary."""
        sd = matrix.std(axis=0)
        size = np.abs(matrix).max(axis=0)
        return self.spread / np.where(sd > 1e-12 * size, sd, np.where(size > 0, size, 1.0))


@dataclass(frozen=True, eq=False)
class Prior:
    """A law of single numbers, and the unit that they are sampled in (see `UNITS`); None: as NumPyro has them."""

    law: Any
    units: tuple[Any, Any] | None = None

    def draw(self, name: str) -> Any:
        """The site of that name."""
        return numpyro.sample(name, self.law, infer={} if self.units is None else {UNITS: self.units})


@dataclass(frozen=True)
class Priors:
    """Those that are given, by name; `known` are the names there are."""

    given: Mapping[str, Any]

    def check(self, known: Iterable[str]) -> None:
        """Raise ModelError for a name that no parameter has, and what is no distribution."""
        known = list(dict.fromkeys(known))
        for name, prior in self.given.items():
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=3)
                near = f"; did you mean {' or '.join(close)}?" if close else "."
                raise ModelError(
                    f"priors names {name!r}, and the formula's model has no such parameter{near} It has "
                    f"{', '.join(known)}."
                )
            if not isinstance(prior, dist.Distribution):
                raise ModelError(
                    f"The prior of {name} is {prior!r}; wanted a distribution of NumPyro, such as dist.Normal(0, 1)."
                )

    def real(self, name: str, middle: float, spread: Any, shape: tuple[int, ...]) -> Prior:
        """The prior of numbers of this shape that are about `middle`, give or take the `spread` of each."""
        default = dist.Normal(middle, WIDE * spread)
        law = _expanded(name, self.given.get(name, default), shape)
        return Prior(law, _units(law, middle, spread, own=name in self.given))

    def above_zero(self, names: Iterable[str], default: Any, size: Any, shape: tuple[int, ...]) -> Prior:
        """The prior of numbers above zero, each of some `size`."""
        law = self.inside(names, default, shape, 0.0, np.inf)
        return Prior(law, _units(law, 0.0, size, own=False))

    def inside(self, names: Iterable[str], default: Any, shape: tuple[int, ...], low: float, high: float) -> Any:
        """The prior of numbers between two, under the first of its names that is given."""
        name = next((name for name in names if name in self.given), None)
        if name is None:
            return _expanded("", default, shape)
        prior = self.given[name]
        outside = [x for x in (low - 1.0, high + 1.0) if np.isfinite(x)]
        if prior.event_shape == () and any(np.any(np.asarray(prior.support(jnp.asarray(x)))) for x in outside):
            span = f"between {low:g} and {high:g}" if np.isfinite(high) else f"above {low:g}"
            example = "dist.Beta(1, 1)" if low == 0 and np.isfinite(high) else (
                "dist.Uniform(-1, 1)" if np.isfinite(high) else "dist.HalfNormal(1)"
            )  # fmt: skip
            raise ModelError(f"The prior of {name} reaches beyond {span}; wanted one such as {example}.")
        return _expanded(name, prior, shape)

    def vector(self, name: str, default: Any, example: str) -> Any:
        """The prior of a vector or matrix as a whole, of the default's shape and support; `example` is one, as text."""
        prior = self.given.get(name, default)
        if tuple(prior.shape()) != tuple(default.shape()) or prior.event_shape != default.event_shape:
            raise ModelError(
                f"The prior of {name} has the shape {tuple(prior.shape())}; wanted a law of the shape "
                f"{tuple(default.shape())}, such as {example}."
            )
        if prior.support != default.support:
            raise ModelError(
                f"The prior of {name} is a law on {prior.support!r}; wanted one on {default.support!r}, such as "
                f"{example}."
            )
        return prior


def _expanded(name: str, prior: Any, shape: tuple[int, ...]) -> Any:
    batch = tuple(prior.batch_shape)
    fits = len(batch) <= len(shape) and all(a in (1, b) for a, b in zip(batch[::-1], shape[::-1], strict=False))
    if prior.event_shape != () or not fits:
        raise ModelError(
            f"The prior of {name} has the shape {tuple(prior.shape())}, and {name} "
            f"{f'the shape {shape}' if shape else 'is one number'}; wanted a law of single numbers, such as "
            "dist.Normal(0, 1)."
        )
    return prior.expand(shape) if batch != shape else prior


def _units(law: Any, middle: float, spread: Any, *, own: bool) -> tuple[Any, Any] | None:
    """The unit of the coordinates of numbers that are about `middle`, give or take the spread of each; `own`: their law
    is the user's, and where it is the narrower of the two it says where they are. Positive numbers are sampled as their
    logarithms; what has other bounds has them for its unit."""
    to_support = biject_to(law.support)
    if isinstance(to_support, ExpTransform):
        return np.log(spread), 1.0
    if law.support is not dist.constraints.real:
        return None
    said = location_scale_of(law) if own else None
    if said is None:
        return middle, spread
    narrower = np.asarray(said.scale) < spread
    return np.where(narrower, said.loc, middle), np.where(narrower, said.scale, spread)
