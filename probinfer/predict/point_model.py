"""What a point predictor asks: an ONNX file, an estimator, a module of PyTorch or a function, and how rows become what
it takes. Imports numpy; of a model's own library only what the model itself is of."""

import copy
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probinfer.errors import ModelError, PredictionError
from probinfer.model.pipeline.prepared import FittedColumn, FittedInput, Prepared
from probinfer.model.pipeline.raw import Place, frame_of
from probinfer.model.pipeline.sklearn_steps import check_against, columns_of, is_column_transformer, is_pipeline
from probinfer.predict.onnx_model import OnnxModel
from probinfer.predict.program import Input, Program
from probinfer.predict.rows import read_rows

_MATRIX = "X"  # what a model takes that is not asked for its own names
_ROWS = 65_536  # that the model is asked at a time


@dataclass(frozen=True, eq=False)
class PointModel:
    """A model, and what it is given of a row.

    model      an ONNX model, an estimator, a module of PyTorch, or a function
    inputs     numbers by their names, the arrays that `prepared` makes, or the raw columns of `whole`
    prepared   how raw columns become the inputs; None where rows hold the inputs themselves
    checked    the scikit-learn transformer that `prepared` was read from, to be compared with it
    whole      why the model is given the raw columns as a data frame, and cannot be saved; "" where it is not
    """

    model: Any
    inputs: tuple[Input, ...]
    prepared: Prepared | None = None
    checked: Any = None
    whole: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.model, OnnxModel):
            self.model.check_width(self.width)
        elif not self.whole:
            self._check_fitted_inputs()

    def _check_fitted_inputs(self) -> None:
        """Raise ModelError for inputs that are not those an estimator was fitted to."""
        names, count = getattr(self.model, "feature_names_in_", None), getattr(self.model, "n_features_in_", None)
        asked = [entry.name for entry in self.inputs]
        if self.prepared is None and names is not None and asked != list(map(str, names)):
            raise ModelError(
                f"inputs are {', '.join(asked)}; the {self.name} was fitted to the columns {', '.join(map(str, names))}"
                ", in this order. Leave inputs out."
            )
        if isinstance(count, int | np.integer) and count != self.width:
            raise ModelError(
                f"inputs are {self.width} numbers of each row, {', '.join(asked)}; the {self.name} was fitted to "
                f"{count}."
            )

    @property
    def name(self) -> str:
        """What kind of model it is."""
        return type(self.model.module if isinstance(self.model, TorchModel) else self.model).__name__

    @property
    def width(self) -> int:
        """How many numbers it takes of a row."""
        return sum(int(np.prod(entry.shape)) for entry in self.inputs)

    @property
    def to_convert(self) -> bool:
        """It is saved as another model, which has to agree with it."""
        return not self.whole and not isinstance(self.model, OnnxModel)

    def given(self, rows: Any, program: Program, first_row: int) -> Any:
        """What the model is asked for these rows: a matrix (rows, k), or a data frame. Raises PredictionError for rows
        that do not fit."""
        if self.whole:
            place = Place(PredictionError, first_row)
            return frame_of(rows, [entry.name for entry in self.inputs], [program.outcome], place)
        return self.of_columns(self.read(rows, program, first_row))

    def read(self, rows: Any, program: Program, first_row: int) -> dict[str, np.ndarray]:
        """The inputs' columns. Raises PredictionError for rows that do not fit."""
        return read_rows(rows, program, first_row=first_row)[0]

    def of_columns(self, columns: Mapping[str, np.ndarray]) -> Any:
        """What the model is asked, of rows that were read."""
        return self.matrix(columns)

    def each(self, given: Any) -> list[tuple["PointModel", Any]]:
        """The model, and what it is asked: as `FoldModels` has it of several."""
        return [(self, given)]

    def having(self, models: Sequence[Any]) -> "PointModel":
        """The same, with this model."""
        return replace(self, model=models[0], checked=None)

    def together(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """What the model said."""
        return values[0]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """What the model said: a number, or probabilities, of each row."""
        return values

    @property
    def parts(self) -> tuple["PointModel", ...]:
        """The model."""
        return (self,)

    @property
    def watched(self) -> tuple[Input, ...]:
        """Inputs whose columns tell what rows are like."""
        return self.inputs

    def matrix(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The inputs side by side, (rows, k)."""
        parts = [columns[entry.name] for entry in self.inputs]
        if all(part.ndim == 1 for part in parts):
            return np.stack(parts, axis=1)
        flat = [part if part.ndim == 2 else part[:, None] for part in parts]
        return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)

    def answer(self, given: Any, *, probabilities: bool) -> np.ndarray:
        """What the model says, asked for some rows at a time. Raises PredictionError if it is not fitted, and whatever
        it raises itself."""
        ask = callable_of(self.model, probabilities=probabilities)
        if self.whole:
            parts = [given.iloc[start : start + _ROWS] for start in range(0, len(given), _ROWS)]
        else:
            parts = [self._named(given[start : start + _ROWS]) for start in range(0, len(given), _ROWS)]
        try:
            return np.concatenate([_numbers(ask(part), len(part)) for part in parts])
        except (ValueError, AttributeError) as error:
            if type(error).__name__ != "NotFittedError":  # scikit-learn's, which need not be installed
                raise
            raise PredictionError(f"The {self.name} is not fitted; wanted one after {self.name}.fit(X, y).") from None

    def _named(self, matrix: np.ndarray) -> Any:
        """A matrix as the model was fitted: a data frame, where that was one."""
        if not hasattr(self.model, "feature_names_in_"):
            return matrix
        import pandas as pd

        prepared = self.prepared is not None
        names = self.model.feature_names_in_ if prepared else [entry.name for entry in self.inputs]
        return pd.DataFrame(matrix, columns=names)

    def check_prepared(self, rows: Any, matrix: np.ndarray) -> None:
        """Compare what `rows` became with the scikit-learn transformer whose steps were read, if there is one. Raises
        ModelError where they differ, PredictionError for rows that the transformer cannot read."""
        transformer, prepared = self.checked, self.prepared
        if prepared is None or transformer is None or not len(matrix):
            return
        frame: Any = frame_of(rows, prepared.columns, prepared.known, Place(PredictionError))
        single = [name for name in frame if frame[name].dtype.kind == "f" and frame[name].dtype.itemsize < 8]
        frame = frame.astype(dict.fromkeys(single, "float64"))  # scikit-learn would compute in single precision
        if not hasattr(transformer, "feature_names_in_"):
            frame = frame.to_numpy()
        try:
            check_against(transformer, prepared.inputs[0].columns, frame, matrix)
        except (TypeError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise PredictionError(
                f"The {type(transformer).__name__} itself cannot prepare the calibration rows: {error} Give them as "
                "the data frame that it was fitted on has its columns."
            ) from None

    @classmethod
    def of(cls, model: Any, inputs: Any, outcome: str) -> "PointModel":
        """Of what `PointPredictor` takes. Raises ModelError for what cannot be used."""
        model = _usable(model)
        declared = (inputs, None) if isinstance(inputs, Prepared) else _declared(inputs, outcome)
        if declared is not None:
            return cls._raw(model, *declared)
        if is_pipeline(model) and len(model.steps) > 1:
            found = cls._split(model, inputs, outcome)
            if found is not None:
                return found
        names = inputs if inputs is not None else getattr(model, "feature_names_in_", None)
        if names is None and _not_fitted(model):
            raise ModelError(
                f"The {type(model).__name__} is not fitted; wanted one after {type(model).__name__}().fit(X, y)."
            )
        if names is None or isinstance(names, str) or not len(names) or len(set(names)) < len(names):
            raise ModelError(
                f"inputs came as {inputs!r}; wanted the different names of the model's inputs, in their order, or how "
                "raw columns become them: a fitted ColumnTransformer, or a pi.Pipeline that is settled."
            )
        if inputs is None and _holds_transformer(model):
            reason = (
                f"A {type(model).__name__} has its ColumnTransformer inside. What prepares raw columns is stored where "
                "it stands at the beginning of a Pipeline, Pipeline([('prepare', …), ('model', …)])."
            )
            return cls(model, _entries(names, "any"), whole=reason)
        return cls(model, _entries(names, "float64"))

    @classmethod
    def _raw(cls, model: Any, prepared: Prepared, checked: Any = None) -> "PointModel":
        shapes = {each.argument: (len(each.names),) if each.matrix else () for each in prepared.inputs}
        inputs = tuple(Input(name, "float64", shape) for name, shape in shapes.items())
        return cls(model, inputs, prepared, checked)

    @classmethod
    def _split(cls, pipeline: Any, names: Any, outcome: str) -> "PointModel | None":
        """Its first steps as preparation, as far as they are known here, and the others as the model. Of a pipeline
        none of whose steps is known all of it, asked for data frames; None where its inputs are named, as numbers."""
        reason, columns = "", getattr(pipeline, "feature_names_in_", None)
        if names is not None and columns is not None and list(names) != list(columns):
            raise ModelError(
                f"inputs came as {names!r}; the Pipeline was fitted on the columns {', '.join(columns)}. Leave inputs "
                "out."
            )
        for stop in range(len(pipeline.steps) - 1, 0, -1):
            before, after = pipeline[:stop], pipeline[stop:]
            try:
                made = columns_of(before, names)
            except ModelError as error:
                reason = str(error)
                continue
            rest = after if len(after.steps) > 1 else after.steps[0][1]
            return cls._raw(rest, _prepared(made, columns if columns is not None else names, outcome), before)
        if names is not None:
            return None
        if columns is None:
            raise ModelError(f"{reason} Or name the columns of the array that it was fitted on: inputs=[…].")
        numbers = "Where its columns are all numbers, name them, and it is converted as a whole: inputs=[…]."
        return cls(pipeline, _entries(columns, "any"), whole=f"{reason} {numbers}")


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A copy of a PyTorch module, on the CPU and in evaluation mode: float32 in, without gradients, float64 out."""

    module: Any

    @classmethod
    def of(cls, module: Any) -> "TorchModel":
        """Later training changes the module, not the copy."""
        return cls(copy.deepcopy(module).cpu().float().eval())

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        """What the module gives for a matrix of inputs (rows, k)."""
        torch: Any = sys.modules["torch"]  # who passes a module has imported it
        with torch.no_grad():
            return self.module(torch.from_numpy(np.ascontiguousarray(matrix, np.float32))).double().numpy()


def callable_of(model: Any, *, probabilities: bool) -> Callable[[Any], Any]:
    """How the model is asked. Raises ModelError for what cannot be."""
    if probabilities and hasattr(model, "predict_proba"):
        return model.predict_proba
    if isinstance(model, OnnxModel):
        return model.probabilities if probabilities else model.numbers
    if hasattr(model, "predict"):
        return model.predict
    if callable(model):
        return model
    raise _no_model(model)


def _no_model(model: Any) -> ModelError:
    return ModelError(
        f"model came as {type(model).__name__}; wanted the path of an ONNX file, a fitted estimator with predict, a "
        "module of PyTorch, or a function from the matrix of inputs to predictions."
    )


def _usable(model: Any) -> Any:
    if isinstance(model, str | os.PathLike | bytes):
        return OnnxModel.read(model)
    if isinstance(model, type):
        raise ModelError(
            f"model came as the class {model.__name__}; wanted a fitted estimator of it, such as "
            f"{model.__name__}().fit(X, y)."
        )
    known = isinstance(model, OnnxModel) or callable(model)
    if not (known or hasattr(model, "predict") or hasattr(model, "predict_proba")):
        raise _no_model(model)
    if type(model).__module__.startswith("sklearn.model_selection."):
        model = getattr(model, "best_estimator_", model)  # of a search, which predicts by it
    _refuse_wordless(model)
    own = hasattr(model, "predict") or hasattr(model, "predict_proba")
    if not own and any(kind.__module__.startswith("torch.nn.") for kind in type(model).__mro__):
        return TorchModel.of(model)
    return model


def _numbers(said: Any, count: int) -> np.ndarray:
    """What a model said of some rows, as an array of numbers. Raises PredictionError for what is none."""
    try:
        values = np.asarray(said, float)
    except (TypeError, ValueError):
        raise PredictionError(
            f"The model gave {type(said).__name__}, which is no array of numbers, for {count} rows; wanted a number or "
            "the probabilities of the classes for each row. Of a model of labels wrap its predict_proba, with classes=."
        ) from None
    if not values.ndim:
        raise PredictionError(f"The model gave the one number {values:g} for {count} rows; wanted a number for each.")
    return values


def _not_fitted(model: Any) -> bool:
    """An estimator of scikit-learn before fit: it has set nothing whose name ends in an underscore."""
    if not (hasattr(model, "get_params") and hasattr(model, "fit")) or not hasattr(model, "__dict__"):
        return False
    return not any(name.endswith("_") and not name.startswith("_") for name in vars(model))


def _refuse_wordless(model: Any) -> None:
    """A classifier of scikit-learn gives probabilities, of one outcome; else its labels would pass for numbers."""
    base = sys.modules.get("sklearn.base")  # whoever passes an estimator has imported it
    if base is None or not hasattr(model, "get_params") or not base.is_classifier(model):
        return
    if not hasattr(model, "predict_proba"):
        raise ModelError(
            f"A {type(model).__name__} gives no probabilities, from which sets of classes are made; wanted one with "
            "predict_proba, such as CalibratedClassifierCV around it."
        )
    if isinstance(getattr(model, "classes_", None), list):
        raise ModelError(
            f"The {type(model).__name__} was fitted to several outcomes; wanted a model of one, and a predictor for "
            "each of them."
        )


def _declared(inputs: Any, outcome: str) -> tuple[Prepared, Any] | None:
    """The preparation that was declared, and the transformer it was read from; None for names."""
    if is_column_transformer(inputs) or is_pipeline(inputs):
        return _prepared(columns_of(inputs), inputs.feature_names_in_, outcome), inputs
    pipelines = sys.modules.get("probinfer.model.pipeline.pipeline")  # imports NumPyro, which loading must not
    if pipelines is None or not isinstance(inputs, pipelines.Pipeline | pipelines.SettledPipeline):
        return None
    if isinstance(inputs, pipelines.Pipeline):
        raise ModelError(
            "inputs came as a pi.Pipeline whose steps are not fitted; settle it with the rows of training: "
            "inputs=pipeline.settle(frame)."
        )
    fitted = inputs.fitted
    if any(each.change is not None or each.labels is not None for each in fitted.outcomes):
        raise ModelError(
            "inputs came as a pi.Pipeline that transforms its outcome; a point model gives the outcome itself. Declare "
            "the inputs alone."
        )
    return Prepared(fitted.inputs, None, tuple(dict.fromkeys([*fitted.known, outcome]))), None


def _prepared(columns: tuple[FittedColumn, ...], known: Sequence[str], outcome: str) -> Prepared:
    names = tuple(dict.fromkeys([*map(str, known), outcome]))
    return Prepared((FittedInput(_MATRIX, columns, True),), None, names)


def _entries(names: Sequence[Any], dtype: str) -> tuple[Input, ...]:
    return tuple(Input(str(name), dtype) for name in names)


def _holds_transformer(model: Any) -> bool:
    parts = model.get_params().values() if hasattr(model, "get_params") and hasattr(model, "feature_names_in_") else ()
    return any(map(is_column_transformer, parts))
