"""Predictors in MLflow: logged, saved and loaded as plain files, and as a pyfunc with named columns. Imports mlflow
where used.

`import probinfer.mlflow` comes with the extra `mlflow`. Inside of the model's folder the predictor is the folder that
`save` writes; nothing is pickled, and loading runs no code from it.
"""

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.deploy.fields import Field, fields_of, group_name
from probinfer.errors import ArtifactError, MissingExtra, ModelError, PredictionError
from probinfer.predict.forecaster import Forecaster
from probinfer.predict.interval import probabilities, probability
from probinfer.predict.joint import JointPredictor, parts_of
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor
from probinfer.predict.predictor import load_row_predictor as load_predictor
from probinfer.predict.program import Input
from probinfer.predict.rows import column_names

if TYPE_CHECKING:
    import pandas as pd

FLAVOR = "probinfer"
_DATA = "predictor"  # the folder inside of the model's
_TYPES = {"float64": "double", "int64": "long", "bool": "boolean", "text": "string", "date": "datetime"}
_OUTPUTS = {"f": "double", "i": "long", "u": "long", "b": "boolean", "O": "string", "U": "string"}


def save_model(
    predictor: Predictor | JointPredictor | PointPredictor,
    path: str | os.PathLike[str],
    *,
    level: float = 0.9,
    quantiles: Sequence[float] = (),
    mlflow_model: Any = None,
    pip_requirements: Sequence[str] | None = None,
) -> None:
    """Save a predictor as an MLflow model, a folder that `mlflow models serve` and every other MLflow tool takes.

    Its signature has a column for each input (`X[0]`, `X[1]`, … for a vector; with a `Pipeline` the raw columns), and
    the parameters `level` and `quantiles`, which a request may set. What it answers are the columns of
    `Prediction.to_frame`.

    Args:
        predictor: what to save.
        path: folder, which must not be there yet.
        level: probability of the interval where a request does not say.
        quantiles: further quantiles where a request does not say.
        mlflow_model: MLflow's own record of the model, which `log_model` brings.
        pip_requirements: what the model needs where it runs; this version of probinfer unless said otherwise.

    Raises:
        MissingExtra: mlflow is not installed.
        ArtifactError: there is something at `path`.
        PredictionError: `level` or `quantiles` are no probabilities, or it is a forecaster, which answers no rows.
        ModelError: a point model that cannot be stored as ONNX, but by pickle only.
    """
    if isinstance(predictor, Forecaster):
        raise PredictionError(
            "An MLflow model answers rows, and a Forecaster predicts times: keep the folder that forecaster.save(path) "
            "makes, as an artifact of the run."
        )
    if not isinstance(predictor, Predictor | JointPredictor | PointPredictor):
        raise PredictionError(
            f"{type(predictor).__name__} came, which answers no rows; wanted a predictor: pi.Predictor(posterior)."
        )
    flow = _mlflow()
    level, wanted = probability("level", level), list(probabilities("quantiles", quantiles))
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} is there already; remove it, or save to another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        predictor.save(folder / _DATA)
    except ModelError:  # of what cannot be stored; else the next try would find the folder there
        shutil.rmtree(folder)
        raise
    model = mlflow_model if mlflow_model is not None else flow.models.Model()
    model.signature = signature(predictor, level=level, quantiles=wanted)
    model.add_flavor(FLAVOR, data=_DATA, probinfer_version=version("probinfer"))
    extra = "[onnx]" if isinstance(predictor, PointPredictor) else ""
    needs = pip_requirements if pip_requirements is not None else [f"probinfer{extra}=={version('probinfer')}"]
    flow.pyfunc.add_to_model(
        model,
        loader_module="probinfer.mlflow",
        data=_DATA,
        python_env="python_env.yaml",
        model_config={"level": level, "quantiles": wanted},
    )
    (folder / "requirements.txt").write_text("".join(f"{need}\n" for need in needs), "utf-8")
    (folder / "python_env.yaml").write_text(_ENVIRONMENT, "utf-8")
    model.save(str(folder / "MLmodel"))


def log_model(
    predictor: Predictor | JointPredictor | PointPredictor,
    name: str = "predictor",
    *,
    level: float = 0.9,
    quantiles: Sequence[float] = (),
    registered_model_name: str | None = None,
    pip_requirements: Sequence[str] | None = None,
    **more: Any,
) -> Any:
    """Log a predictor to MLflow's active run, or to a new one; arguments as for `save_model`.

    name                   the model's name in the run
    registered_model_name  also make a version of this model in the registry
    more                   what `mlflow.models.Model.log` takes besides, such as `metadata` or `tags`

    Returns MLflow's ModelInfo, whose `model_uri` is what `load_model` and `mlflow models serve` take. Raises as
    `save_model` does.
    """
    import probinfer.mlflow as flavor

    model = _mlflow().models.Model
    return model.log(
        artifact_path=None,
        name=name,
        flavor=flavor,
        registered_model_name=registered_model_name,
        predictor=predictor,
        level=level,
        quantiles=quantiles,
        pip_requirements=pip_requirements,
        **more,
    )


def load_model(model_uri: str | os.PathLike[str]) -> Predictor | JointPredictor | PointPredictor:
    """The predictor itself, of a model that `log_model` or `save_model` wrote; `mlflow.pyfunc.load_model` gives the
    model with MLflow's own interface.

    model_uri: a folder, or `models:/NAME/VERSION`, `runs:/RUN/NAME` and whatever else MLflow resolves.

    Raises ArtifactError if it is no such model or damaged, MissingExtra without mlflow.
    """
    flow = _mlflow()
    folder = Path(flow.artifacts.download_artifacts(artifact_uri=os.fspath(model_uri)))
    flavors = flow.models.Model.load(str(folder)).flavors
    if FLAVOR not in flavors:
        raise ArtifactError(f"{model_uri} is a model of {', '.join(flavors)}, not of probinfer.")
    return load_predictor(folder / _DATA)


def signature(
    predictor: Predictor | JointPredictor | PointPredictor, *, level: float = 0.9, quantiles: Sequence[float] = ()
) -> Any:
    """MLflow's ModelSignature of a predictor: its columns, what it answers, and the parameters with these defaults."""
    _mlflow()
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    columns: Any = [
        ColSpec(_TYPES[field.dtype], name, required=not field.missing)
        for field in _fields(predictor)
        for name in column_names(Input(field.name, field.dtype, field.shape))
    ]
    asked = [
        ParamSpec("level", "double", float(level)),
        ParamSpec("quantiles", "double", list(map(float, quantiles)), shape=(-1,)),
    ]
    answered = _Pyfunc(predictor, level, quantiles).predict(_example(_fields(predictor)))
    outputs: Any = [ColSpec(_OUTPUTS[np.asarray(answered[name]).dtype.kind], str(name)) for name in answered]
    return ModelSignature(Schema(columns) if columns else None, Schema(outputs), ParamSchema(asked))


def _fields(predictor: Predictor | JointPredictor | PointPredictor) -> Sequence[Field]:
    """What every row must bring for all outcomes."""
    return [*{field.name: field for part in parts_of(predictor) for field in fields_of(part)}.values()]


def _example(fields: Sequence[Field]) -> "pd.DataFrame":
    import pandas as pd

    columns: dict[str, Any] = {}
    for field in fields:
        flat = field.examples(1).reshape(1, -1)
        names = column_names(Input(field.name, field.dtype, field.shape))
        columns |= {name: flat[:, place] for place, name in enumerate(names)}
    return pd.DataFrame(columns)


class _Pyfunc:
    """What MLflow calls: a data frame in, a data frame out."""

    def __init__(
        self, predictor: Predictor | JointPredictor | PointPredictor, level: float, quantiles: Sequence[float]
    ) -> None:
        self.predictor, self._level, self._quantiles = predictor, level, tuple(quantiles)
        self._missing = [field.name for field in _fields(predictor) if field.missing]
        beside = [
            group_name(part)
            for part in parts_of(predictor)
            if part.calibration is not None and part.calibration.grouped and part.calibration.by is None
        ]
        self._groups = beside[0] if beside else None

    def predict(self, rows: "pd.DataFrame", params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
        """`Prediction.to_frame` of the rows. A column that may be missing may be left out."""
        params = params or {}
        groups = rows[self._groups] if self._groups is not None else None
        absent = {name: None for name in self._missing if name not in rows}
        level, quantiles = params.get("level", self._level), params.get("quantiles", self._quantiles)
        found = self.predictor.predict(
            rows.assign(**absent) if absent else rows,
            level=float(level),
            quantiles=[float(q) for q in quantiles] or None,
            groups=groups,
        )
        return found.to_frame()


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> _Pyfunc:
    """What MLflow calls to load the model: the folder, and what `save_model` was told."""
    told = model_config or {}
    return _Pyfunc(load_predictor(path), told.get("level", 0.9), told.get("quantiles", ()))


def _mlflow() -> Any:
    try:
        with warnings.catch_warnings():
            # of a class of MLflow's own, each time that it is imported
            warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)
            import mlflow
            import mlflow.artifacts
            import mlflow.models
            import mlflow.pyfunc
    except ModuleNotFoundError as error:
        raise MissingExtra("mlflow is not installed: pip install 'probinfer[mlflow]'.") from error
    return mlflow


_ENVIRONMENT = """dependencies:
- -r requirements.txt
"""
