"""The columns that terms make: fitted on the training rows, computed with numpy there and with jax.numpy in a model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probinfer.errors import DataError
from probinfer.model.formula.coding import code_terms
from probinfer.model.formula.expressions import Expression, fit_expression, fit_polynomial, refuse_not_finite
from probinfer.model.formula.grammar import Call, Name, Node, Source, words
from probinfer.model.formula.terms import Term

_DEPENDENT = 1e-7  # what is left of a column, as part of its length, without those before it; as in R's lm


@dataclass(frozen=True)
class Factor:
    """One factor: numbers, a column for each expression; or labels, whose codes are the argument `codes`."""

    name: str
    numbers: tuple[Expression, ...] = ()
    codes: str = ""
    levels: tuple[str, ...] = ()

    def block(self, columns: Mapping[str, Any], full: bool, xp: Any) -> Any:
        """Its columns (n, k); of labels without the first level unless `full`."""
        if self.codes:
            wanted = np.arange(0 if full else 1, len(self.levels))
            return (columns[self.codes][:, None] == wanted).astype(float)
        like = xp.zeros(len(columns[next(iter(columns))]))  # a constant has one entry for each row too
        return xp.stack([expression.at(columns, xp) + like for expression in self.numbers], axis=-1)

    def labels(self, full: bool) -> tuple[str, ...]:
        """What its columns are called; the empty text for one that needs no name."""
        if self.codes:
            return self.levels if full else self.levels[1:]
        return tuple(str(k) for k in range(1, len(self.numbers) + 1)) if len(self.numbers) > 1 else ("",)


@dataclass(frozen=True)
class Block:
    """A product of factors, each with whether it is coded in full. Without factors it is a column of ones."""

    factors: tuple[tuple[Factor, bool], ...]

    def matrix(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """(n, k), of the first factor's columns the fastest."""
        if not self.factors:
            return xp.ones((len(next(iter(columns.values()))), 1))
        first, *others = (factor.block(columns, full, xp) for factor, full in self.factors)
        for other in others:
            first = (other[:, :, None] * first[:, None, :]).reshape(first.shape[0], -1)
        return first

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each column within its term."""
        found = ("",)
        for factor, full in self.factors:
            found = tuple(f"{a}:{b}" if a and b else a or b for b in factor.labels(full) for a in found)
        return found


@dataclass(frozen=True)
class Made:
    """A term with its columns. `scalar`: it is one column of numbers, and needs no names for several."""

    name: str
    blocks: tuple[Block, ...]
    scalar: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each column within the term."""
        return tuple(label for block in self.blocks for label in block.labels)

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(math.prod(len(factor.labels(full)) for factor, full in block.factors) for block in self.blocks)

    @property
    def full_labels(self) -> tuple[str, ...]:
        """A name for each column among all."""
        return (self.name,) if self.scalar else tuple(f"{self.name}[{label}]" for label in self.labels)


@dataclass(frozen=True)
class Design:
    """The columns of several terms, side by side."""

    terms: tuple[Made, ...]

    def matrix(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """(n, k)."""
        return xp.concatenate([block.matrix(columns, xp) for term in self.terms for block in term.blocks], axis=1)

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(term.width for term in self.terms)

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each column."""
        return tuple(label for term in self.terms for label in term.full_labels)

    def checked(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The matrix of training rows. Raises DataError where a number is not finite."""
        with np.errstate(all="ignore"):
            found = self.matrix(columns, np)
        self.refuse_not_finite(found, columns)
        return found

    def refuse_not_finite(self, matrix: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Raise DataError where a number of the matrix of these columns is not finite, naming column and row."""
        for label, values in zip(self.labels, matrix.T, strict=True):
            refuse_not_finite(label, values, columns)

    def refuse_idle_levels(self, columns: Mapping[str, np.ndarray]) -> None:
        """Raise DataError for a level that is declared and that no row has."""
        factors = [factor for term in self.terms for block in term.blocks for factor, _ in block.factors]
        for factor in factors:
            if factor.codes:
                came = set(columns[factor.codes].tolist())
                idle = [level for code, level in enumerate(factor.levels) if code not in came]
                if idle:
                    raise DataError(
                        f"No row has {factor.name} = {idle[0]}, so nothing can be learned of its coefficient; leave "
                        f"{idle[0]!r} out of levels=."
                    )


def fit_design(
    terms: Sequence[Term],
    columns: Mapping[str, np.ndarray],
    codes: Callable[[Node], tuple[str, tuple[str, ...]] | None],
    source: Source,
) -> Design:
    """The design of terms that may have an intercept among them, which gets a column of ones.

    columns   arguments by name, numbers and codes of the training rows
    codes     of a factor that holds labels, its argument and levels; None of one that is numbers
    """
    factors: dict[Node, Factor] = {}
    for term in terms:
        for node in term.factors:
            if node not in factors:
                factors[node] = _factor(node, columns, codes(node), source)
    asked = []
    for term in terms:
        labelled = tuple(node for node in term.factors if factors[node].codes)
        asked.append((frozenset(term.factors) - frozenset(labelled), labelled))
    made = []
    for term, products in zip(terms, code_terms(asked), strict=True):
        blocks = tuple(
            Block(
                tuple((factors[n], product.get(n, True)) for n in term.factors if n in product or not factors[n].codes)
            )
            for product in products
        )
        plain = all(not factors[node].codes and len(factors[node].numbers) == 1 for node in term.factors)
        made.append(Made(term.name, blocks, plain))
        if not made[-1].width:
            one = next(factors[n] for n in term.factors if factors[n].codes and len(factors[n].levels) == 1)
            raise DataError(
                f"{one.name} is {one.levels[0]!r} in every row, so {term.name} has nothing to tell apart; leave it out."
            )
    return Design(tuple(made))


def _factor(
    node: Node, columns: Mapping[str, np.ndarray], coded: tuple[str, tuple[str, ...]] | None, source: Source
) -> Factor:
    if coded is not None:
        return Factor(words(node), (), *coded)
    if isinstance(node, Call) and node.function == "poly":
        return Factor(words(node), fit_polynomial(node, columns, source))
    assert isinstance(node, Name | Call)
    return Factor(words(node), (fit_expression(node, columns, source),))


def refuse_collinear(matrix: np.ndarray, names: Sequence[str], intercept: bool) -> None:
    """Raise DataError if a column of the fixed part is a sum of multiples of those before it, saying of which."""
    rows, width = matrix.shape
    if intercept:
        centred = matrix - matrix.mean(axis=0)
        for name, values, spread in zip(names, matrix.T, np.abs(centred).max(axis=0), strict=True):
            if values.any() and spread <= 1e-12 * np.abs(values).max():
                raise DataError(f"{name} is the same in every row, and so is the intercept; leave {name} out.")
        matrix = centred
    lengths = np.linalg.norm(matrix, axis=0)
    for name, length in zip(names, lengths, strict=True):
        if length == 0.0:
            what = "leave its term out, or join levels in the table" if "[" in name else "leave it out"
            raise DataError(f"{name} is 0 in every row, so nothing can be learned of its coefficient; {what}.")
    # what holds for the columns of R in X = Q R holds for those of X
    triangle = np.linalg.qr(matrix / lengths, mode="r") if width else np.zeros((0, 0))
    basis = np.zeros((len(triangle), 0))
    for k, name in enumerate(names):
        left = triangle[:, k]
        for _ in range(2):  # once more for what rounding has left
            left = left - basis @ (basis.T @ left)
        size = float(np.linalg.norm(left))
        if size > _DEPENDENT:
            basis = np.column_stack([basis, left / size])
            continue
        share = np.linalg.lstsq(triangle[:, :k], triangle[:, k], rcond=None)[0]
        others = [names[i] for i in np.flatnonzero(np.abs(share) > 1e-6).tolist()]
        listed = ", ".join(others[:8]) + (" and others" if len(others) > 8 else "")
        why = f"{name} is a sum of multiples of {listed}{' and the intercept' if intercept else ''}"
        if rows - intercept < width:
            why = f"There are {rows} rows for {width + intercept} coefficients"
        raise DataError(f"{why}, so their coefficients cannot be told apart; leave one of them out.")
