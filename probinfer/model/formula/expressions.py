"""Numbers made of columns, with what they need to know of the training rows. Imports numpy; runs in jax.numpy too.

An expression is read from a formula's tree, fitted once, and then computed anywhere: `at(columns, xp)` with numpy or
jax.numpy for `xp`. Only the functions of `FUNCTIONS` and those with constants of the training rows are known.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from probinfer.errors import DataError
from probinfer.model.formula.grammar import Binary, Call, Name, Node, Number, Signed, Source, words

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "log": lambda x, xp: xp.log(x),
    "log1p": lambda x, xp: xp.log1p(x),
    "log2": lambda x, xp: xp.log(x) / np.log(2.0),
    "log10": lambda x, xp: xp.log(x) / np.log(10.0),
    "exp": lambda x, xp: xp.exp(x),
    "sqrt": lambda x, xp: xp.sqrt(x),
    "abs": lambda x, xp: xp.abs(x),
    "sin": lambda x, xp: xp.sin(x),
    "cos": lambda x, xp: xp.cos(x),
    "tanh": lambda x, xp: xp.tanh(x),
}
FITTED = ("scale", "standardize", "standardise", "center", "centre")  # these know mean and sd of the training rows
OTHERS = ("I", "C", "poly", "offset")
_MOST_POWER = 12
_READ = re.compile(r"`([^`]+)`|\[[^\]]*\]|(?<![\w.])([^\W\d]\w*)(?![\w(])")  # columns, not functions and levels


class Expression(Protocol):
    """Numbers (n,) of the columns, each (n,)."""

    def at(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """The numbers."""
        ...


@dataclass(frozen=True)
class Column:
    """A column itself."""

    name: str

    def at(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """The numbers."""
        return columns[self.name]


@dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float

    def at(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """The number."""
        return self.value


@dataclass(frozen=True)
class Applied:
    """A function of `FUNCTIONS`."""

    function: str
    of: Expression

    def at(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """The numbers."""
        return FUNCTIONS[self.function](self.of.at(columns, xp), xp)


@dataclass(frozen=True)
class Scaled:
    """(x - shift) / scale."""

    of: Expression
    shift: float
    scale: float

    def at(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """The numbers."""
        return (self.of.at(columns, xp) - self.shift) / self.scale


@dataclass(frozen=True)
class Arithmetic:
    """left operator right, or -left."""

    operator: str
    left: Expression
    right: Expression

    def at(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """The numbers."""
        left = self.left.at(columns, xp)
        if self.operator == "**" and isinstance(self.right, Constant) and self.right.value == int(self.right.value):
            return left ** int(self.right.value)  # by multiplication, of numbers below zero too
        right = self.right.at(columns, xp)
        if self.operator == "+":
            return left + right
        if self.operator == "-":
            return left - right
        if self.operator == "*":
            return left * right
        return left / right if self.operator == "/" else left**right


@dataclass(frozen=True)
class Orthogonal:
    """The polynomial of degree len(shifts) in x that is orthogonal, over the training rows, to all of lower degree:

        p_0 = 1,   p_{k+1} = (x - a_k) p_k - (s_k / s_{k-1}) p_{k-1},   divided by sqrt(s_k) in the end

    with shifts a_k = sum x p_k^2 / s_k and squares s_k = sum p_k^2. Kennedy & Gentle (1980), Statistical Computing,
    section 8.2; what `poly` of R gives.
    """

    of: Expression
    shifts: tuple[float, ...]
    squares: tuple[float, ...]

    def at(self, columns: Mapping[str, Any], xp: Any) -> Any:
        """The numbers."""
        x = self.of.at(columns, xp)
        before, now = 0.0 * x, 0.0 * x + 1.0
        for k, shift in enumerate(self.shifts):
            back = self.squares[k] / self.squares[k - 1] if k else 0.0
            before, now = now, (x - shift) * now - back * before
        return now / np.sqrt(self.squares[len(self.shifts)])


def names_in(node: Node) -> Iterator[Name]:
    """The columns that a tree reads."""
    if isinstance(node, Name):
        yield node
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from names_in(argument)
    elif isinstance(node, Signed):
        yield from names_in(node.operand)
    elif isinstance(node, Binary):
        yield from names_in(node.left)
        yield from names_in(node.right)


def check_calls(node: Node, source: Source, *, outermost: bool = True) -> None:
    """Raise ModelError for functions that are not known and arguments that do not fit, before any data are seen."""
    if isinstance(node, Signed):
        check_calls(node.operand, source, outermost=False)
    if isinstance(node, Binary):
        check_calls(node.left, source, outermost=False)
        check_calls(node.right, source, outermost=False)
    if not isinstance(node, Call):
        return
    name, known = node.function, (*FUNCTIONS, *FITTED, *OTHERS)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        source.fail(
            node.at,
            f"{name} is no function that formulas know{f'; did you mean {close[0]}?' if close else '.'} They know "
            f"{', '.join(known)}. Other columns are made in the table.",
        )
    if name in ("C", "poly") and not outermost:
        source.fail(node.at, f"{name}() is a factor of its own, not a part of another function.")
    if name == "offset" and not outermost:
        source.fail(node.at, "An offset is a term of its own: + offset(log(exposure)).")
    if name == "C" and not (len(node.arguments) == 1 and isinstance(node.arguments[0], Name)):
        source.fail(node.at, "C() takes a column, C(year); the order of its levels is said by levels=.")
    if name == "poly":
        degree_of(node, source)
    elif len(node.arguments) != 1 or node.options:
        source.fail(node.at, f"{name}() takes one argument; came {words(node)}.")
    for argument in node.arguments:
        check_calls(argument, source, outermost=False)


def degree_of(node: Call, source: Source) -> tuple[int, bool]:
    """Of poly(x, degree, raw=): the degree, and whether it is raw."""
    named = node.named
    given = node.arguments[1] if len(node.arguments) == 2 else named.pop("degree", None)
    raw = named.pop("raw", Name("False"))
    degree = given.value if isinstance(given, Number) else 0.0
    if not 1 <= len(node.arguments) <= 2 or named or degree != int(degree) or not 1 <= degree <= _MOST_POWER:
        source.fail(
            node.at, f"poly() takes a column and a degree from 1 to {_MOST_POWER}: poly(x, 2), raw=True for x**2."
        )
    if raw not in (Name("True"), Name("False"), Number(1.0), Number(0.0)):
        source.fail(node.at, "poly(): raw is True, for x and x**2, or False, for orthogonal polynomials.")
    return int(degree), raw in (Name("True"), Number(1.0))


def fit_expression(node: Node, columns: Mapping[str, np.ndarray], source: Source) -> Expression:
    """The expression of a tree, with constants of `columns`, those of the training rows, each (n,).

    Raises DataError where a column has no spread to scale by, ModelError for what is no arithmetic.
    """
    if isinstance(node, Number):
        return Constant(node.value)
    if isinstance(node, Name):
        return Column(node.name)
    if isinstance(node, Signed):
        return Arithmetic("-", Constant(0.0), fit_expression(node.operand, columns, source))
    if isinstance(node, Binary):
        sides = (fit_expression(side, columns, source) for side in (node.left, node.right))
        return Arithmetic(node.operator, *sides)
    inner = fit_expression(node.arguments[0], columns, source)
    if node.function in FUNCTIONS:
        return Applied(node.function, inner)
    if node.function in FITTED:
        values = _values(inner, columns, words(node))
        mean, sd = float(values.mean()), float(values.std())
        if node.function in ("center", "centre"):
            return Scaled(inner, mean, 1.0)
        if sd <= 1e-12 * float(np.abs(values).max()):
            raise DataError(
                f"{words(node.arguments[0])} is {values[0]:g} in every row, so {words(node)} has no spread to scale "
                "by; leave it out."
            )
        return Scaled(inner, mean, sd)
    assert node.function == "I", node.function
    return inner


def fit_polynomial(node: Call, columns: Mapping[str, np.ndarray], source: Source) -> tuple[Expression, ...]:
    """The columns of poly(x, degree, raw=)."""
    degree, raw = degree_of(node, source)
    inner = fit_expression(node.arguments[0], columns, source)
    if raw:
        return tuple(Arithmetic("**", inner, Constant(float(power))) for power in range(1, degree + 1))
    x = _values(inner, columns, words(node))
    if len(np.unique(x)) <= degree:
        raise DataError(
            f"{words(node.arguments[0])} has {len(np.unique(x))} different values, and {words(node)} needs "
            f"{degree + 1}; lower the degree."
        )
    shifts: list[float] = []
    squares = [float(len(x))]
    before, now = np.zeros_like(x), np.ones_like(x)
    for k in range(degree):
        shifts.append(float((x * now**2).sum() / squares[k]))
        back = squares[k] / squares[k - 1] if k else 0.0
        before, now = now, (x - shifts[k]) * now - back * before
        squares.append(float((now**2).sum()))
    return tuple(Orthogonal(inner, tuple(shifts[:k]), tuple(squares[: k + 1])) for k in range(1, degree + 1))


def _values(expression: Expression, columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Its numbers over the training rows, all of them finite."""
    length = len(next(iter(columns.values())))
    with np.errstate(all="ignore"):
        values = np.broadcast_to(np.asarray(expression.at(columns, np), float), (length,))
    refuse_not_finite(name, values, columns)
    return values


def refuse_not_finite(name: str, values: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    """Raise DataError, naming the row and what the columns that `name` reads are there."""
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        read = {quoted or plain for quoted, plain in _READ.findall(name)}
        known = {column: numbers[row] for column, numbers in columns.items() if numbers.dtype.kind == "f"}  # no codes
        found = ", ".join(f"{column} is {number:g}" for column, number in known.items() if column in read)
        found = f", where {found}" if found else ""
        more = f" and {bad.sum() - 1} more" if bad.sum() > 1 else ""
        raise DataError(
            f"{name} is {values[row]} in row {row}{more} (the first row is row 0){found}; wanted "
            "finite numbers. Drop such rows, or use another function, such as log1p for counts with zeros."
        )
