"""A point model in memory as the ONNX file that it is stored as, once it was found to say the same. Imports numpy; what
converts is imported where it is used."""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from probinfer.errors import MissingExtra, ModelError
from probinfer.predict.onnx_model import OnnxModel
from probinfer.predict.point import CalibrationRows, PointPredictor
from probinfer.predict.point_model import PointModel, TorchModel

_MOST_MODELS = 64  # of one predictor
_AGREES = 1e-5  # of the outcomes' standard deviation; of probabilities, as it is
_LONGEST = 200  # characters of a converter's own words in an error


def as_onnx(predictor: PointPredictor) -> PointPredictor:
    """The predictor of the model as ONNX, calibrated with the same rows: what is served is what was calibrated.

    Raises ModelError, by name, for a model that has no conversion, or whose conversion says something else on the
    calibration rows, and MissingExtra where what converts is not installed.
    """
    asked, name = predictor.asked, predictor.asked.name
    if isinstance(asked.parts[0].model, OnnxModel):
        return predictor
    if asked.whole:
        raise ModelError(f"The {name} answers in this process, and cannot be saved. {asked.whole}")
    if len(asked.parts) > _MOST_MODELS:
        raise ModelError(
            f"The predictor is {name}, and no more than {_MOST_MODELS} models are saved together, as each of them "
            "answers each row. Fit fewer: pi.cross_calibrate(…, cv=10)."
        )
    if any(_ways(part.model) is None for part in asked.parts):
        raise ModelError(
            f"A {name} cannot be stored without pickle, which runs code when it is loaded. "
            "Convert it to ONNX (Keras's model.export with format='onnx', TensorFlow's tf2onnx) and make "
            "PointPredictor('model.onnx', inputs=…) of the file."
        )
    rows = predictor.calibration_rows
    if rows is None:
        raise ModelError(
            f"A {name} cannot be stored without pickle, but as ONNX, where calibration rows show that this says the "
            "same. Calibrate it before: predictor.calibrate(rows, y).save(path)."
        )
    spread = float(np.std(np.concatenate([each.came for each in rows]))) if predictor.classes is None else 1.0
    pairs = [_converted(predictor, part, own, spread) for part, own in zip(asked.parts, rows, strict=True)]
    return predictor.asking([model for model, _ in pairs]).calibrated(
        [own._replace(values=values) for own, (_, values) in zip(rows, pairs, strict=True)]
    )


def _converted(
    predictor: PointPredictor, part: PointModel, rows: CalibrationRows, spread: float
) -> tuple[OnnxModel, np.ndarray]:
    """One model as ONNX, and what that says of its calibration rows."""
    ways, reasons, allowed = _ways(part.model), [], _AGREES * spread
    assert ways is not None
    for way in ways(part.model, part.width, predictor.classes is not None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the converter's own code
                content = way()
            found = OnnxModel.read(content, threads=int(len(predictor.asked.parts) > 1))
            values = predictor.said_by(part.having([found]), rows.given)
        except MissingExtra:
            raise
        except Exception as error:  # noqa: BLE001 - converters have no error of their own
            reasons.append(_said(error))
            continue
        difference = float(np.abs(values - rows.values).max())
        if difference <= allowed:
            return found, values
        reasons.append(f"on the calibration rows it differs by up to {difference:.3g}, and {allowed:.3g} is allowed")
    raise ModelError(
        f"The {part.name} cannot be saved: its conversion to ONNX failed ({'; '.join(dict.fromkeys(reasons))}). "
        "Convert it by other means (onnxmltools for XGBoost and LightGBM), make PointPredictor('model.onnx', inputs=…) "
        "of the file (inputs=pipeline[:-1] where a scikit-learn Pipeline prepares its matrix), and calibrate that."
    )


def _said(error: BaseException) -> str:
    """What went wrong first, in a converter's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:_LONGEST]}"


def _ways(model: Any) -> Callable[[Any, int, bool], Iterator[Callable[[], bytes]]] | None:
    """How a model is converted: in some ways one after the other, until one says the same."""
    if isinstance(model, TorchModel):
        return _module
    return _estimator if hasattr(model, "get_params") else None


def _estimator(model: Any, width: int, classes: bool) -> Iterator[Callable[[], bytes]]:
    """In double precision, and in single, which is what some operators have."""
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"A {type(model).__name__} is stored as ONNX, which needs skl2onnx, and it is not installed: pip install "
            "'probinfer[convert]'."
        ) from error
    convert: Any = to_onnx  # whose types are narrower than what it takes
    options = {id(model): {"zipmap": False}} if classes else None
    for kind in (DoubleTensorType, FloatTensorType):
        yield lambda kind=kind: convert(
            model, initial_types=[("X", kind([None, width]))], options=options
        ).SerializeToString()


def _module(model: TorchModel, width: int, classes: bool) -> Iterator[Callable[[], bytes]]:
    """By PyTorch's own export, for any number of rows."""
    try:
        importlib.import_module("onnxscript")  # PyTorch's export works by it
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"A {type(model.module).__name__} is stored as ONNX, and PyTorch's export needs onnxscript, which is not "
            "installed: pip install onnxscript."
        ) from error

    def export() -> bytes:
        torch: Any = sys.modules["torch"]  # who passes a module has imported it
        rows = torch.export.Dim("rows")
        program = torch.onnx.export(
            model.module, (torch.zeros(2, width),), dynamo=True, dynamic_shapes=({0: rows},), verbose=False
        )
        assert program is not None
        return program.model_proto.SerializeToString()

    yield export
