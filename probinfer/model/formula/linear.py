"""The NumPyro function of a formula: a linear predictor and a law. Imports numpyro.

    eta = alpha + (X - means) @ beta + offset + sum over groups of  Z @ effect[level],      effect = sd * (z @ L^T)

with z standard normal (the non-centred form, which samples well where levels have few rows; or effect itself, where
they have many) and L the Cholesky factor
of their correlations. With centred columns alpha and beta are nearly independent; the intercept on the raw scale is
alpha - means @ beta.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from probinfer.model.formula.design import Design
from probinfer.model.formula.expressions import Expression
from probinfer.model.formula.families import LAWS, Family, Link
from probinfer.model.formula.priors import Prior
from probinfer.model.location_scale import ROOT_OF, UNIT_OF
from probinfer.model.trace import UNITS


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The coefficients of one term: a site of the shape of its prior, `width` columns of the design."""

    name: str
    width: int
    prior: Prior


@dataclass(frozen=True, eq=False)
class Correlated:
    """Which of a group's coefficients are correlated, `first` to `last`, and the law of their correlations: one of a
    number between -1 and 1 for two of them, else of the Cholesky factor of their matrix."""

    name: str
    first: int
    last: int
    prior: Any

    @property
    def size(self) -> int:
        """How many they are."""
        return self.last - self.first


@dataclass(frozen=True, eq=False)
class Group:
    """Coefficients that each level of a group has for itself.

    codes    argument that holds the level of each row
    levels   names of the levels
    design   the columns that the coefficients are for; None for an intercept alone
    sd       prior of their standard deviations, of the shape of these
    spread   of the outcome, in the units of each coefficient
    centred  they are sampled as they are, not in units of their sd
    """

    name: str
    codes: str
    levels: tuple[str, ...]
    design: Design | None
    sd: Prior
    spread: Any
    correlated: tuple[Correlated, ...] = ()
    centred: bool = False

    @property
    def coefficients(self) -> int:
        """For each level."""
        return self.design.width if self.design else 1

    def derived(self, columns: Mapping[str, Any], xp: Any) -> dict[str, Any]:
        """What of it the data alone decide."""
        return {f"(design of {self.name})": self.design.matrix(columns, xp)} if self.design else {}


@dataclass(frozen=True, eq=False)
class LinearModel:
    """The model as a function of its columns, `model(**columns)`: it draws sites of NumPyro, and returns nothing.

    What the data alone decide (`derived`) may be given, computed beforehand, so that no gradient computes it again; it
    is computed where it is not given.
    """

    outcome: str
    family: Family
    link: Link
    intercept: Prior | None
    design: Design
    means: np.ndarray
    coefficients: tuple[Coefficients, ...]
    groups: tuple[Group, ...]
    offsets: tuple[Expression, ...]
    trials: str | float | None
    own: Mapping[str, Prior]
    classes: int

    @property
    def many(self) -> bool:
        """There is a linear predictor for each class but the first."""
        return self.family is Family.CATEGORICAL

    @property
    def moved(self) -> bool:
        """Intercept, or thresholds, are inferred for predictors at their means, and moved back."""
        return bool(np.any(self.means))

    def derived(self, columns: Mapping[str, Any], xp: Any) -> dict[str, Any]:
        """What of the predictors the data alone decide."""
        found = {}
        if self.coefficients:
            found["(design)"] = self.design.matrix(columns, xp) - self.means
        if self.offsets:
            found["(offset)"] = sum(offset.at(columns, xp) for offset in self.offsets)
        for group in self.groups:
            found |= group.derived(columns, xp)
        return found

    def __call__(self, **columns: Any) -> None:
        """Draw every site; what of the columns the data decide is computed unless it is given. None is an outcome that
        is not known."""
        given = {name: columns.pop(name) for name in [*columns] if name in self.names_of_derived}
        columns = {name: values for name, values in columns.items() if values is not None}
        known = {name: value for name, value in given.items() if value is not None} or self.derived(columns, jnp)
        eta, shift, fixed = self._fixed(known)
        if self.offsets:
            eta = eta + (known["(offset)"][:, None] if self.many else known["(offset)"])
        for group in self.groups:
            eta = eta + self._of_group(group, columns, known, fixed)
        own = {name: prior.draw(self._own_name(name)) for name, prior in self.own.items()}
        if "threshold" in own and self.moved:
            numpyro.deterministic("threshold", own["threshold"] + shift)
        trials = columns[self.trials] if isinstance(self.trials, str) else self.trials
        law = LAWS[self.family].law(eta, own, self.link, trials)
        numpyro.sample(self.outcome, law, obs=columns.get(self.outcome))

    @property
    def names_of_derived(self) -> tuple[str, ...]:
        """Arguments that are computed where they are not given."""
        return ("(design)", "(offset)", *(f"(design of {group.name})" for group in self.groups))

    def _own_name(self, name: str) -> str:
        return f"{name}_centred" if name == "threshold" and self.moved else name

    def _fixed(self, known: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """The fixed part, what it is at the means of the predictors without the intercept, and its coefficients; the
        intercept without where its coordinates begin, which may be so far off that effects next to it lose digits."""
        eta, shift, found = jnp.zeros(()), jnp.zeros(()), {}
        if self.intercept is not None:
            eta = alpha = self.intercept.draw("Intercept_centred" if self.moved else "Intercept")
            found["Intercept"] = alpha - (self.intercept.units or (0.0,))[0]
        if not self.coefficients:
            return eta, shift, found
        parts = []
        for one in self.coefficients:
            values = one.prior.draw(one.name)
            parts.append(values.reshape(one.width, *values.shape[values.ndim - self.many :]))
        beta = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
        if self.moved:
            shift = self.means @ beta
            if self.intercept is not None:
                numpyro.deterministic("Intercept", alpha - shift)
                found["Intercept"] = found["Intercept"] - shift
        found |= {label: beta[i] for i, label in enumerate(self.design.labels)}
        return eta + known["(design)"] @ beta, shift, found

    def _of_group(
        self, group: Group, columns: Mapping[str, Any], known: Mapping[str, Any], fixed: Mapping[str, Any]
    ) -> Any:
        count = group.coefficients
        sd = group.sd.draw(f"{group.name}_sd")
        each = sd.shape[: sd.ndim - self.many]
        effect = _effect(group, sd, fixed)
        picked = effect[columns[group.codes]]
        if not each:
            return picked
        assert each == (count,)
        matrix = known[f"(design of {group.name})"]
        return (picked * (matrix[..., None] if self.many else matrix)).sum(axis=1)


def _effect(group: Group, sd: Any, fixed: Mapping[str, Any]) -> Any:
    """The coefficients of every level, (levels, *shape of sd); `fixed` are those of all levels, but for constants."""
    shape = (len(group.levels), *sd.shape)
    if group.centred:
        units = {UNITS: (0.0, group.spread)}
        return numpyro.sample(f"{group.name}_effect", dist.Normal(0.0, sd).expand(shape), infer=units)
    unit = {UNIT_OF: sd / group.spread}
    root = None
    if group.correlated:
        root = _root(group, sd.dtype)
        assert group.design is not None
        mean = jnp.stack([jnp.asarray(fixed.get(label, 0.0), sd.dtype) for label in group.design.labels])
        unit = {ROOT_OF: ((sd / group.spread)[:, None] * root, mean / group.spread)}
    z: Any = numpyro.sample(f"{group.name}_z", dist.Normal(0.0, 1.0).expand(shape), infer=unit)
    return numpyro.deterministic(f"{group.name}_effect", (z if root is None else z @ root.T) * sd)


def _root(group: Group, dtype: Any) -> Any:
    """That of the correlations of all coefficients of a group; those that are in no block have none. It is put together
    without an entry set in place or an empty part: ONNX has neither."""
    rows, done, width = [], 0, group.coefficients
    for block in group.correlated:
        before, after = (np.zeros((block.size, count), dtype) for count in (block.first, width - block.last))
        inside = _joined([before, _root_of_correlations(block), after], axis=1)
        rows += [np.eye(block.first - done, width, done, dtype), inside]
        done = block.last
    return _joined([*rows, np.eye(width - done, width, done, dtype)], axis=0)


def _joined(parts: Sequence[Any], axis: int) -> Any:
    """Matrices next to one another, without those that are empty."""
    there = [part for part in parts if part.size]
    return there[0] if len(there) == 1 else jnp.concatenate(there, axis=axis)


def _root_of_correlations(block: Correlated) -> Any:
    """The lower triangular root of the correlation matrix of a block."""
    if block.size == 2:
        r: Any = numpyro.sample(block.name, block.prior)
        return jnp.stack([jnp.stack([1.0, 0.0 * r]), jnp.stack([r, jnp.sqrt(1.0 - r**2)])])
    root: Any = numpyro.sample(f"{block.name}_cholesky", block.prior)
    numpyro.deterministic(block.name, (root @ root.T)[np.tril_indices(block.size, -1)])
    return root
