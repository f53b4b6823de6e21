"""The columns that a formula reads: which hold numbers and which labels, and how they are coded."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probinfer.errors import DataError, ModelError
from probinfer.model.formula.expressions import names_in
from probinfer.model.formula.grammar import Call, Name, Node, Number, Source
from probinfer.model.formula.terms import Formula
from probinfer.model.pipeline.fitted import Codes
from probinfer.model.pipeline.raw import Place, column_names, labels, take_columns
from probinfer.model.pipeline.steps import Ordinal
from probinfer.model.tables import as_table, is_of

TRAINING = Place(DataError)


@dataclass(frozen=True)
class Roles:
    """What the columns of the predictors are to the model.

    numbers   columns read as numbers; the argument is called as the column
    labels    columns read as labels, and the argument that holds their codes
    """

    numbers: tuple[str, ...]
    labels: Mapping[str, str]

    def coded(self, node: Node) -> str | None:
        """The argument of a factor that is labels; None for one that is numbers."""
        if isinstance(node, Call) and node.function == "C":
            (column,) = node.arguments
            return self.labels[column.name] if isinstance(column, Name) else None
        if isinstance(node, Name) and node.name not in self.numbers:
            return self.labels[node.name]
        return None


def take_raw(data: Any, names: Sequence[Name | str], source: Source) -> dict[str, np.ndarray]:
    """The columns of these names, (rows,). What pandas or Arrow holds as categories is taken as labels.

    Raises DataError, in words of the formula, for a column that is not there.
    """
    data = as_table(data)
    have = [str(name) for name in column_names(data, TRAINING)]
    wanted: dict[str, int | None] = {}
    for name in names:
        wanted.setdefault(name if isinstance(name, str) else name.name, None if isinstance(name, str) else name.at)
    for name, at in wanted.items():
        if name in have:
            continue
        close = difflib.get_close_matches(name, have, n=1)
        shown = ", ".join(have[:20]) + (" …" if len(have) > 20 else "")
        what = f"The data have no column {name}{f'; did you mean {close[0]}?' if close else '.'} They have {shown}."
        if at is None:
            raise DataError(what)
        try:
            source.fail(at, what)
        except ModelError as error:
            raise DataError(str(error)) from None
    known = list(data) if isinstance(data, Mapping) else ()
    raw, count = take_columns(data, wanted, known, TRAINING)
    if not count:
        raise DataError("The data have no rows; wanted rows of training.")
    for name in wanted:
        categories = categories_of(data, name)
        if categories is not None:
            raw[name] = labels(name, raw[name], TRAINING)
    return raw


def categories_of(data: Any, name: str) -> list[Any] | None:
    """The categories of a column of pandas' or Arrow's own type for them, in pandas' order; None for another column.

    Arrow's order, where it is none by its type, is the one they came in, which says nothing: it is left out.
    """
    found = _categories(data, name)
    return found and found[0]


def ordered_labels(data: Any, name: str) -> tuple[str, ...] | None:
    """The labels of a column whose type says that its categories have an order, in that order and whether rows have
    them all or not; None for another column, or none."""
    data = as_table(data)
    found = _categories(data, name) if name in column_names(data, TRAINING) else None
    if not found or not found[1]:
        return None
    return tuple(map(str, labels(name, np.array(found[0], object), TRAINING)))


def _categories(data: Any, name: str) -> tuple[list[Any], bool] | None:
    """The categories of a column, and whether its type says that they have an order."""
    data = as_table(data)
    column = data[name] if not isinstance(data, Mapping) else data.get(name)
    dtype: Any = getattr(column, "dtype", None)
    if str(dtype) == "category":
        return list(dtype.categories), bool(dtype.ordered)
    if is_of(column, "pyarrow", "ChunkedArray", "Array"):
        import pyarrow as pa

        if pa.types.is_dictionary(column.type):
            kept = list(column.to_pandas().cat.categories) if column.type.ordered else []
            return kept, bool(column.type.ordered)
    return None


def holds_labels(values: np.ndarray) -> bool:
    """Text, True and False: what a formula takes for labels unless told otherwise."""
    if values.dtype.kind == "O":
        return any(isinstance(value, str | bool | bytes | np.bool_) for value in values)
    return values.dtype.kind in "bUS"


def roles_of(formula: Formula, trials: Name | Number | None, raw: Mapping[str, np.ndarray]) -> Roles:
    """Raises DataError for dates, and for labels where the formula wants numbers."""
    numbers, labelled = dict[str, None](), dict[str, None]()
    for node in formula.predictors:
        as_factor = isinstance(node, Name) and node not in formula.offsets
        if isinstance(node, Call) and node.function == "C":
            labelled.update({name.name: None for name in names_in(node)})
            continue
        for name in names_in(node):
            values = raw[name.name]
            if values.dtype.kind in "Mm":
                _fail(formula, name, f"{name.name} holds dates, which are no numbers; make one of them in the table.")
            if not holds_labels(values):
                numbers.setdefault(name.name)
            elif as_factor:
                labelled.setdefault(name.name)
            else:
                _fail(formula, name, f"{name.name} holds labels ({_first(values)!r}), where numbers are wanted.")
    if isinstance(trials, Name):
        numbers.setdefault(trials.name)
    for group in formula.groups:
        labelled.update(dict.fromkeys(group.group))
    return Roles(tuple(numbers), {name: f"C({name})" if name in numbers else name for name in labelled})


def _first(values: np.ndarray) -> Any:
    return next((value for value in values.tolist() if isinstance(value, str | bool | bytes)), values[0])


def _fail(formula: Formula, name: Name, what: str) -> None:
    try:
        formula.source.fail(name.at, what)
    except ModelError as error:
        raise DataError(str(error)) from None


def fit_levels(name: str, values: np.ndarray, given: Mapping[str, Sequence], data: Any) -> Codes:
    """The levels of a column of labels: those given, else those of the rows, sorted.

    Raises DataError where pandas has the categories in another order, which would be the order of the levels in R.
    """
    own = categories_of(data, name)
    step = Ordinal(given.get(name)).fit(name, labels(name, values, TRAINING), TRAINING)
    assert isinstance(step, Codes)
    if name not in given and own:
        texts = [str(label) for label in labels(name, np.array(own, object), TRAINING)]
        order = [label for label in texts if label in step.levels]
        if tuple(order) != step.levels:
            raise DataError(
                f"{name} is a column of categories in the order {', '.join(order[:8])}, and levels are sorted unless "
                f"they are given. Say which is meant: levels={{{name!r}: {order[:8]!r}}}"
                f"{', with the others' if len(order) > 8 else ''}."
            )
    return step
