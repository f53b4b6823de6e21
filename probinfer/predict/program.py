"""What a predictor computes from: posterior draws, and the model's outcome as a function of one row. Imports jax
only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from probinfer.model.pipeline.prepared import Prepared
from probinfer.model.pipeline.raw import Kind
from probinfer.predict.family import Family
from probinfer.predict.weights import Weights

PARAMETERS, SAMPLE, MOMENTS, LOG_DENSITY = "parameters", "sample", "moments", "log_density"
CDF, DENSITY = "cdf", "density"  # of a traced family
NO_INPUT = ""  # stands for the rows of a model whose outcome reads no data

_RAW = {Kind.NUMBER: "float64", Kind.LABEL: "text", Kind.DATE: "date"}

JaxArrays = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Input:
    """One argument of the model that every row must bring.

    dtype         "float64", "int64" or "bool"; "text" and "date" only of raw columns
    shape         of one row's value: () for a number, (k,) for a vector
    low, high     valid range, both ends included, of an integer that picks a level; else None
    closed        why a level beyond cannot be answered, where that was wanted of other inputs
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    low: int | None = None
    high: int | None = None
    closed: str = ""


@dataclass(frozen=True)
class Population:
    """How levels that training never saw get effects of their own, from the law that the model has for those of all.

    levels    the inputs whose levels may be new
    together  for each of them the number of the factor it belongs to: inputs of one factor pick from the same effects,
              as the two teams of a match do
    sites     for each factor the latent sites that have an entry for each of its levels
    refused   the other inputs that pick a level, and why theirs may not be new
    draws     the latent sites that the law depends on and the outcome does not read, each (S, *shape)
    program   exported function of (all draws, slots (levels,), keys (s, levels, 2)) -> those sites of the outcome's
              draws that change: with the effects of a new level where `slots` says (-1: nowhere), by keys of each draw
              and new level
    """

    levels: tuple[str, ...]
    together: tuple[int, ...]
    sites: tuple[tuple[str, ...], ...]
    refused: Mapping[str, str]
    draws: Mapping[str, np.ndarray]
    program: jax.export.Exported

    @property
    def factors(self) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """The inputs and the sites of each factor."""
        of = list(zip(self.levels, self.together, strict=True))
        return [(tuple(name for name, own in of if own == number), s) for number, s in enumerate(self.sites)]


@dataclass(frozen=True)
class Program:
    """The outcome's law for one row and one posterior draw, vectorised over both, and everything it is fed.

    programs     exported functions of (draws, fixed, rows, …) with any number n of rows and s of draws. With a family,
                 PARAMETERS -> the family's parameters, each (n, s, *event); with a traced one also SAMPLE, and CDF and
                 DENSITY of (k,) values and the law's numbers, (k,) each. Without one,
                 SAMPLE (…, keys (n, 2)) -> one outcome per row and draw, LOG_DENSITY (…, y (n, *event)) -> (n, s),
                 and, where the law has them, MOMENTS -> mean and variance, each (n, s, *event).
    draws        the latent sites that the outcome depends on, each (S, *shape), chain after chain
    chains       how many chains they are; None for independent or weighted draws
    fixed        data of the model that are the same for every row
    constants    the sizes and switches it was traced with; those in `row_counts` were the number of rows
    unread       data of the model that the outcome does not depend on, itself among them
    event        shape of one row's outcome; () for a number
    discrete     the outcome takes whole numbers
    probabilities  how many of P(Y = 0), P(Y = 1), … a prediction holds; 0 for none
    prepared     how raw columns become the inputs, and the outcome's units; None where rows hold the inputs themselves
    weights      what each draw counts; None where they count alike. Only with a family
    population   how a level that training never saw is answered; None where it is an error
    repeats      how often each draw stands in a row among `draws`, to have several new effects
    """

    outcome: str
    family: Family | None
    inputs: tuple[Input, ...]
    draws: Mapping[str, np.ndarray]
    chains: int | None
    fixed: Mapping[str, np.ndarray]
    constants: Mapping[str, Any]
    row_counts: tuple[str, ...]
    unread: tuple[str, ...]
    event: tuple[int, ...]
    discrete: bool
    probabilities: int
    programs: Mapping[str, jax.export.Exported]
    prepared: Prepared | None = None
    weights: Weights | None = None
    population: Population | None = None
    repeats: int = 1

    def with_draws(self, of: Callable[[str, np.ndarray], np.ndarray]) -> "Program":
        """The program with `of(name, values)` in place of the draws of each site."""
        draws = {name: of(name, values) for name, values in self.draws.items()}
        population = self.population
        if population is not None:
            population = replace(population, draws={name: of(name, v) for name, v in population.draws.items()})
        return replace(self, draws=draws, population=population)

    @property
    def every_draw(self) -> Mapping[str, np.ndarray]:
        """The draws, with those that the law of new levels depends on besides."""
        return {**self.draws, **(self.population.draws if self.population else {})}

    @cached_property
    def checked(self) -> tuple[Input, ...]:
        """The inputs; without a valid range where any level will do."""
        if self.population is None:
            return self.inputs
        new, refused = self.population.levels, self.population.refused
        return tuple(
            replace(i, low=None, high=None) if i.name in new else replace(i, closed=refused.get(i.name, ""))
            for i in self.inputs
        )

    @property
    def known(self) -> set[str]:
        """All names that rows may bring."""
        if self.prepared is not None:
            return {*self.prepared.columns, *self.prepared.known}
        return {*(entry.name for entry in self.inputs), *self.fixed, *self.constants, *self.unread}

    @property
    def asked(self) -> tuple[Input, ...]:
        """What rows must bring."""
        if self.prepared is None:
            return self.inputs
        return tuple(Input(name, _RAW[kind]) for name, kind in self.prepared.columns.items())

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Labels of the outcome's classes, where it has any."""
        outcome = self.prepared.outcome if self.prepared else None
        return outcome.labels if outcome else None

    @property
    def size(self) -> int:
        """Number of posterior draws."""
        return next(iter(self.draws.values())).shape[0]
