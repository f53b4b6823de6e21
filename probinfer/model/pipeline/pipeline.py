"""A model with its preprocessing: raw columns are fitted and transformed when data are bound. Imports numpyro by
model.py."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from probinfer.errors import DataError, ModelError
from probinfer.model.model import BoundModel, LogDensity, Model
from probinfer.model.pipeline.fitted import Part
from probinfer.model.pipeline.prepared import FittedColumn, FittedInput, FittedOutcome, Prepared, run_stage
from probinfer.model.pipeline.raw import READERS, Kind, Place, take_columns
from probinfer.model.pipeline.sklearn_steps import check_against, columns_of, is_column_transformer
from probinfer.model.pipeline.steps import BoxCox, Column, DateParts, Impute, OneHot, Ordinal, YeoJohnson
from probinfer.model.tables import as_frame, as_table

_TRAINING = Place(DataError)


class Pipeline(Model):
    """A model with the preprocessing of its data: it takes raw columns, and answers in the outcome's own units.

    Args:
        model: a NumPyro function, or a `Model`. Its arguments are what is prepared here.
        inputs: for each argument the raw column it is, a `Column` with its steps or a name: an array (rows,). A list
            of them is a design matrix (rows, k), side by side; so is a fitted scikit-learn `ColumnTransformer`, whose
            steps are read, checked against it on the rows of training, and stored as numbers. The column of an argument
            whose last step is `Ordinal` holds whole numbers, for a parameter to be indexed by.
        outcome: the observed argument and its raw column. The model sees it transformed (`Log`, `Standardise`,
            `BoxCox`, …) or, with `Ordinal`, as codes of classes; predictions are in the raw column's units, or labels.
        sizes: arguments that are the number of levels of an input, such as `{"n_counties": "county"}`.
        constants: further arguments of the model that are the same for every row.

    Wherever a model can stand, `infer(pipeline, frame)`, the steps are fitted on the rows given there and on no others:
    in cross-validation on each fold's training rows. (A `ColumnTransformer` comes fitted; on which rows is the caller's
    to know.) The raw columns stay with the posterior as its data. A predictor holds the fitted steps as data, saves
    them with it, and takes raw rows.

    Raises:
        ModelError: declarations that do not go together, a scikit-learn step that cannot be stored without pickle.
        DataError (when data are bound): missing or infinite values, labels where numbers belong, columns that are not
            there, in words of the raw table.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import probinfer as pi
    >>> def line(X, y=None):
    ...     beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    ...     with numpyro.plate("rows", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(X @ beta, 0.3), obs=y)
    >>> rng = np.random.default_rng(0)
    >>> size = rng.uniform(50, 200, 100)
    >>> frame = {"size": size, "town": rng.choice(["A", "B"], 100), "price": 2000 * size * rng.lognormal(0, 0.1, 100)}
    >>> pipeline = Pipeline(
    ...     line,
    ...     inputs={"X": [Column("size", pi.Log(), pi.Standardise()), Column("town", pi.OneHot())]},
    ...     outcome={"y": Column("price", pi.Log(), pi.Standardise())},
    ... )
    >>> predictor = pi.Predictor(pi.infer(pipeline, frame, progress=False))
    >>> p = predictor.predict({"size": [100.0], "town": ["A"]})
    >>> bool(p.lower[0] < 200_000 < p.upper[0])
    True
    """

    def __init__(
        self,
        model: Any,
        *,
        inputs: Mapping[str, Any],
        outcome: Mapping[str, Any] | None = None,
        sizes: Mapping[str, str] | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        inner = model if isinstance(model, Model) else Model(model)
        if isinstance(inner, Pipeline | SettledPipeline | LogDensity):
            raise ModelError(f"model came as {type(inner).__name__}; wanted a NumPyro function, or a Model of one.")
        super().__init__(inner.fn, coords={dim: list(labels) for dim, labels in inner.coords.items()}, dims=inner.dims)
        for what, given in (("inputs", inputs), ("outcome", outcome or {}), ("sizes", sizes or {})):
            if not isinstance(given, Mapping):
                raise ModelError(
                    f"Pipeline: {what} came as {type(given).__name__}; wanted a dict from the model's argument to its "
                    "raw column, such as {'x': pi.Column('age', pi.Standardise())}."
                )
        self.inputs = {name: _declared(name, columns) for name, columns in inputs.items()}
        self.outcomes = {name: _outcome_column(name, column) for name, column in (outcome or {}).items()}
        self.sizes, self.constants = dict(sizes or {}), dict(constants or {})
        names = [*self.inputs, *self.outcomes, *self.sizes, *self.constants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ModelError(f"Pipeline declares {', '.join(twice)} twice; each argument of the model is one thing.")
        for size, argument in self.sizes.items():
            column = self.inputs.get(argument)
            if not isinstance(column, Column) or not column.steps or not isinstance(column.steps[-1], Ordinal):
                raise ModelError(
                    f"Pipeline: sizes has {size!r}: {argument!r}; wanted the name of an input that is one column with "
                    "the step Ordinal()."
                )

    def bind(self, data: Any = None) -> BoundModel:
        """Fit the steps on `data`, raw rows of training, and bind the model to what they make of them."""
        data = as_table(data)
        return self.settle(data).bind(data)

    def settle(self, data: Any) -> "SettledPipeline":
        """The model with its steps fitted on the raw rows `data`: what it is bound to later is only transformed."""
        data = as_table(data)
        declared = [column for columns in self.inputs.values() for column in _columns(columns)]
        declared += self.outcomes.values()
        names = [column.name for column in declared]
        raw, count = take_columns(data, names, _names_of(data), _TRAINING)
        if not count:
            raise DataError("The data have no rows; wanted rows of training.")
        fitted = tuple(_fit_input(name, columns, raw, data) for name, columns in self.inputs.items())
        outcomes = tuple(_fit_outcome(name, column, raw) for name, column in self.outcomes.items())
        codes = {each.argument: each.codes for each in fitted if each.codes}
        sizes = {size: codes[argument].size for size, argument in self.sizes.items()}
        return SettledPipeline(self, FittedPipeline(fitted, outcomes, sizes, tuple(dict.fromkeys(names))))

    def with_classes(self, outcome: str, labels: Sequence[str]) -> "Pipeline":
        """The same with these labels for the outcome, whether its rows have them all or not."""
        column = self.outcomes[outcome]
        *before, last = column.steps
        assert isinstance(last, Ordinal)
        found = copy.copy(self)
        codes = replace(last, levels=tuple(labels))
        found.outcomes = {**self.outcomes, outcome: Column(column.name, *before, codes)}
        return found


@dataclass(frozen=True)
class FittedPipeline:
    """What a pipeline is once its steps are fitted. `known`: the raw columns it was fitted on."""

    inputs: tuple[FittedInput, ...]
    outcomes: tuple[FittedOutcome, ...]
    sizes: Mapping[str, int]
    known: tuple[str, ...]

    def prepared(self, argument: str | None) -> Prepared:
        """For a predictor of the outcome that is this argument of the model."""
        outcome = next((each for each in self.outcomes if each.argument == argument), None)
        plain = outcome is None or (outcome.change is None and outcome.labels is None)
        return Prepared(self.inputs, None if plain else outcome, self.known)


class SettledPipeline(Model):
    """A `Pipeline` whose steps are fitted; made by `Pipeline.settle`."""

    def __init__(self, declared: Pipeline, fitted: FittedPipeline) -> None:
        named = {each.argument: list(each.codes.names) for each in fitted.inputs if each.codes}
        wanted = {dim for dims in declared.dims.values() for dim in dims}
        named |= {each.argument: each.names for each in fitted.inputs if each.matrix and each.argument in wanted}
        super().__init__(
            declared.fn,
            coords={**named, **{dim: list(labels) for dim, labels in declared.coords.items()}},
            dims=declared.dims,
        )
        self.declared = declared
        self.fitted = fitted

    def settle(self, data: Any) -> "SettledPipeline":
        """It is settled already."""
        return self

    def take(self, data: Any) -> dict[str, np.ndarray]:
        """The raw columns that it knows, as arrays."""
        return take_columns(data, self.fitted.known, _names_of(data), _TRAINING)[0]

    def transform(self, rows: Any) -> dict[str, np.ndarray]:
        """The model's arguments that raw rows become: arrays by their names. Raises DataError for rows that do not
        fit."""
        names = [name for each in self.fitted.inputs for column in each.columns for name in column.sources]
        return self._inputs(take_columns(rows, names, self.fitted.known, _TRAINING)[0])

    def _inputs(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {each.argument: each.apply(raw, _TRAINING) for each in self.fitted.inputs}

    def bind(self, data: Any = None) -> BoundModel:
        """Transform raw rows and bind the model to them."""
        raw = self.take(data)
        arrays = self._inputs(raw)
        arrays |= {each.argument: each.scaled(raw[each.column.name], _TRAINING) for each in self.fitted.outcomes}
        bound = super().bind({**arrays, **self.fitted.sizes, **self.declared.constants})
        return replace(bound, raw=raw, pipeline=self.fitted)


def _names_of(data: Any) -> list[Any]:
    return list(data) if isinstance(data, Mapping) else []


# declarations --------------------------------------------------------------------------------------------------------


def _declared(name: str, columns: Any) -> Any:
    """A Column, a tuple of them, or a fitted ColumnTransformer."""
    if is_column_transformer(columns):
        columns_of(columns)
        return columns
    if isinstance(columns, Sequence) and not isinstance(columns, str):
        if not columns:
            raise ModelError(f"Pipeline: the input {name!r} is an empty list; wanted columns.")
        return tuple(_column(name, column) for column in columns)
    column = _column(name, columns)
    many = [type(step).__name__ for step in column.steps if isinstance(step, OneHot | DateParts)]
    many += ["Impute(indicator=True)" for step in column.steps if isinstance(step, Impute) and step.indicator]
    return (column,) if many else column


def _column(name: str, column: Any) -> Column:
    if isinstance(column, str):
        return Column(column)
    if not isinstance(column, Column):
        raise ModelError(
            f"Pipeline: the input {name!r} came as {type(column).__name__}; wanted a pi.Column, a list of them, the "
            "name of a column, or a fitted ColumnTransformer of scikit-learn."
        )
    return column


def _outcome_column(name: str, column: Any) -> Column:
    column = _column(name, column)
    if any(isinstance(step, Impute) for step in column.steps):
        raise ModelError(f"Pipeline: the outcome {name!r} is imputed; drop the rows whose outcome is missing instead.")
    return column


def _columns(declared: Any) -> tuple[Any, ...]:
    if is_column_transformer(declared):
        return columns_of(declared)
    return (declared,) if isinstance(declared, Column) else declared


# fitting -------------------------------------------------------------------------------------------------------------


def _fit_input(name: str, declared: Any, raw: Mapping[str, np.ndarray], data: Any) -> FittedInput:
    if is_column_transformer(declared):
        fitted = FittedInput(name, columns_of(declared), True)
        check_against(declared, fitted.columns, _frame(data), fitted.apply(raw, _TRAINING))
        return fitted
    columns = tuple(_fit(column, raw[column.name]) for column in _columns(declared))
    return FittedInput(name, columns, not isinstance(declared, Column))


def _frame(data: Any) -> Any:
    """The rows as the data frame that a ColumnTransformer wants."""
    if isinstance(data, Mapping):
        import pandas as pd

        return pd.DataFrame(dict(data))
    return as_frame(data)


def _fit(column: Column, values: np.ndarray) -> FittedColumn:
    parts, stages = [Part(column.name, READERS[column.kind](column.name, values, _TRAINING))], []
    for step in column.steps:
        stages.append(tuple(step.fit(part.name, part.values, _TRAINING) for part in parts if not part.done))
        parts = run_stage(parts, stages[-1], _TRAINING)
    return FittedColumn(column.name, column.kind, tuple(stages))


def _fit_outcome(name: str, column: Column, raw: Mapping[str, np.ndarray]) -> FittedOutcome:
    try:
        return FittedOutcome.of(name, _fit(_bounded(column), raw[column.name]))
    except ValueError as error:
        if isinstance(error, DataError | ModelError):
            raise
        raise ModelError(f"Pipeline: the outcome {name!r} cannot be predicted in units of its own: {error}.") from None


class _Within:
    """A power step whose lambda is fitted between two numbers: what an outcome's law allows."""

    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __init__(self, step: BoxCox | YeoJohnson, most: float) -> None:
        self.step, self.most = step, most

    def fit(self, name: str, values: np.ndarray, place: Place) -> Any:
        return type(self.step)(self.step.best(name, values, place, 0.0, self.most)).fit(name, values, place)


def _bounded(column: Column) -> Column:
    steps = [
        _Within(step, 5.0 if isinstance(step, BoxCox) else 2.0)
        if isinstance(step, BoxCox | YeoJohnson) and step.lmbda is None
        else step
        for step in column.steps
    ]
    return Column(column.name, *steps)
