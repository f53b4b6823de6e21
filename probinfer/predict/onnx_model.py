"""An ONNX model run by ONNX Runtime, kept as the bytes of its file. Imports onnx and onnxruntime where used."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from probinfer.errors import MissingExtra, ModelError

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """One matrix of numbers in, (rows, k).

    content  the file
    threads  that it computes with; 0 for as many as there are cores
    """

    content: bytes = field(repr=False)
    threads: int = 0

    @classmethod
    def read(cls, source: str | os.PathLike | bytes, threads: int = 0) -> "OnnxModel":
        """From a path or bytes. Raises ModelError if it is no such model, OSError if it cannot be read."""
        try:
            model = cls(source if isinstance(source, bytes) else Path(source).read_bytes(), threads)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ModelError(f"{source} is no file; wanted the path of an ONNX file, such as 'model.onnx'.") from None
        _ = model.session
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        """In a pickle there is the file, and not what runs it."""
        return type(self), (self.content, self.threads)

    @cached_property
    def session(self) -> Any:
        """The running model, checked."""
        try:
            import onnx
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtra(
                "An ONNX model needs onnx and onnxruntime, which are not installed: pip install 'probinfer[onnx]'."
            ) from error
        try:
            proto = onnx.load_model_from_string(self.content)
        except Exception as error:  # noqa: BLE001 - protobuf has no error of its own here
            raise ModelError(f"This is no ONNX model: {type(error).__name__}.") from None
        _refuse_outside_data(proto, onnx)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        try:
            session = onnxruntime.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime has a dozen
            raise ModelError(f"ONNX Runtime refuses the model: {str(error).splitlines()[0]}") from None
        entries = session.get_inputs()
        if len(entries) != 1 or entries[0].type not in _TYPES or len(entries[0].shape) != 2:
            came = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in entries)
            raise ModelError(f"The ONNX model takes {came}; wanted one matrix of numbers (rows, inputs).")
        return session

    def numbers(self, matrix: np.ndarray) -> np.ndarray:
        """Its first output."""
        return self._run(matrix, [self.session.get_outputs()[0].name])[0]

    def probabilities(self, matrix: np.ndarray) -> np.ndarray:
        """Its only output that is a matrix of numbers, (rows, classes). Raises ModelError for none, or several."""
        outputs = [o for o in self.session.get_outputs() if o.type in _TYPES and len(o.shape) == 2]
        if len(outputs) != 1:
            came = ", ".join(f"{output.name}: {output.type}" for output in self.session.get_outputs())
            raise ModelError(
                f"The ONNX model gives {came}; wanted one matrix of probabilities (rows, classes). A classifier of "
                "skl2onnx is converted with the option zipmap=False."
            )
        return self._run(matrix, [outputs[0].name])[0]

    def check_width(self, width: int) -> None:
        """Raise ModelError unless it takes so many numbers of a row."""
        taken = self.session.get_inputs()[0].shape[1]
        if isinstance(taken, int) and taken != width:
            raise ModelError(f"The ONNX model takes {taken} inputs, and {width} are named or prepared.")

    def _run(self, matrix: np.ndarray, names: list[str]) -> list[np.ndarray]:
        self.check_width(matrix.shape[1])
        entry = self.session.get_inputs()[0]
        with np.errstate(over="ignore"):  # what is infinite in float32 gives no finite prediction, which is refused
            values = matrix.astype(_TYPES[entry.type])
        return self.session.run(names, {entry.name: values})


def _refuse_outside_data(model: Any, onnx: Any) -> None:
    """Weights kept in other files would be read from wherever the model says. Also in graphs inside of nodes."""
    tensors, graphs = [], [model.graph, *model.functions]
    while graphs:
        one = graphs.pop()
        tensors += getattr(one, "initializer", [])
        tensors += [t for s in getattr(one, "sparse_initializer", []) for t in (s.values, s.indices)]
        for node in one.node:
            for attribute in node.attribute:
                tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
                graphs += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise ModelError(
            "The ONNX model keeps weights in other files; save it as one file (save_as_external_data=False)."
        )
