"""A predictor as one ONNX file, for whatever runs ONNX. Imports jax; onnx where used.

The summaries of one row, the very functions that `predict` compiles, are lowered to StableHLO and translated operation
by operation; ONNX's Scan runs them over the rows. So the file answers what `predict` answers, quantiles by the same
search on the mixture's cdf included. No model code is needed: a loaded predictor has its program. Raw columns of a
model with a pipeline are prepared by nodes of their own, before the rows are gone through.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import ExportError
from probinfer.files import write_whole
from probinfer.predict.engine import Answer, _family_summary
from probinfer.predict.family import Family, Support
from probinfer.predict.interval import probabilities_of
from probinfer.predict.kind import Interval
from probinfer.predict.onnx_ops import OPSET, Graph, onnx, translate, value_info
from probinfer.predict.onnx_pipeline import ML, ML_OPSET, Preparation, refuse_steps
from probinfer.predict.program import NO_INPUT, Input, Program
from probinfer.predict.stablehlo import flat_module

if TYPE_CHECKING:
    from probinfer.predict.predictor import Predictor

_IR_VERSION = 8


def export_onnx(predictor: "Predictor", path: str | os.PathLike[str], level: float, quantiles: Sequence[float]) -> None:
    """Write the file. See `Predictor.export_onnx`."""
    helper = onnx().helper
    program = predictor.program
    _refuse(predictor)
    _check_path(path)
    levels = (*probabilities_of(Interval.ETI, level), *quantiles)
    graph, outputs = _row_graph(program, np.array(levels))
    inputs = [value_info(entry.name, _dtype(entry), ["rows", *entry.shape]) for entry in program.asked]
    prepares = [] if program.prepared is None else [helper.make_opsetid(ML, ML_OPSET)]
    model = helper.make_model(
        _over_rows(program, graph, outputs, inputs),
        opset_imports=[helper.make_opsetid("", OPSET), *prepares],
        ir_version=_IR_VERSION,
        producer_name="probinfer",
    )
    helper.set_model_props(model, _properties(predictor, level, quantiles))
    onnx().checker.check_model(model)
    write_whole(Path(path), model.SerializeToString())


def _check_path(path: Any) -> None:
    if not isinstance(path, str | os.PathLike):
        raise ExportError(f"path is {path!r}; wanted the name of a file, such as 'predictor.onnx'.")
    if Path(path).is_dir():
        raise ExportError(f"{path} is a folder; wanted the name of a file, such as {Path(path) / 'predictor.onnx'}.")
    if not Path(path).parent.is_dir():
        raise ExportError(f"{Path(path).parent} is no folder; make it first.")


def _refuse(predictor: "Predictor") -> None:
    program = predictor.program
    if program.family is None:
        raise ExportError(
            f"{program.outcome} has a law without a closed form, which is answered from predictive draws; ONNX has no "
            "such random numbers. Save it as a folder (predictor.save) instead."
        )
    if program.family.traced:
        raise ExportError(
            f"{program.outcome} is {program.family.name}, a law that is computed by its own functions, which are not "
            "translated to ONNX. Save it as a folder (predictor.save) instead."
        )
    if predictor.calibration is not None:
        raise ExportError(
            "The predictor is calibrated, and the ONNX file would give the intervals without calibration. Export the "
            "predictor that was calibrated, or save this one as a folder (predictor.save)."
        )
    if program.prepared is not None:
        refuse_steps(program.prepared)
    if not program.inputs:
        raise ExportError(f"The rows of {program.outcome} need no inputs, so there is nothing that ONNX could be fed.")


def _dtype(entry: Input) -> np.dtype:
    return np.dtype(object if entry.dtype == "text" else entry.dtype)  # as onnx has it, text is of NumPy's objects


def _row_graph(program: Program, levels: np.ndarray) -> tuple[Graph, dict[str, str]]:
    """The graph of one row's summaries, with the draws as constants; and its outputs by name."""
    names: list[str] = []

    def answer(draws: Mapping, fixed: Mapping, rows: Mapping) -> list[jax.Array]:
        columns = dict(rows) or {NO_INPUT: jnp.zeros(1)}
        found = _summary(program, dict(draws), dict(fixed), columns, jnp.asarray(levels))
        known = jnp.ones((), bool)
        for entry in program.inputs:
            if entry.low is not None and entry.high is not None:
                known &= jnp.all((rows[entry.name] >= entry.low) & (rows[entry.name] <= entry.high))
        outputs = _outputs(program, found)
        names[:] = outputs
        return [jnp.where(known, value[0], jnp.nan) for value in outputs.values()]

    arguments = (
        {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in program.draws.items()},
        {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in program.fixed.items()},
        {i.name: jax.ShapeDtypeStruct((1, *i.shape), np.dtype(i.dtype)) for i in program.inputs},
    )
    with jax.enable_x64(True):
        module = flat_module(answer, *arguments)
    block = module.body.operations[0].regions[0].blocks[0]
    graph = Graph("v")
    given = [graph.constant(program.draws[name]) for name in sorted(program.draws)]
    given += [graph.constant(program.fixed[name]) for name in sorted(program.fixed)]
    for entry in sorted(program.inputs, key=lambda i: i.name):
        given.append(graph.add("Unsqueeze", f"row {entry.name}", graph.ints(0)))
    results = translate(block, graph, dict(zip(block.arguments, given, strict=True)))
    return graph, dict(zip(names, results, strict=True))


def _summary(program: Program, draws: dict, fixed: dict, rows: dict, levels: jax.Array) -> Answer:
    found = _family_summary(program, draws, fixed, rows, jnp.zeros(1, jnp.uint32), levels)
    if cast(Family, program.family).support is not Support.COUNT:
        return found

    def search() -> jax.Array:
        return _family_summary(
            program, draws, fixed, rows, jnp.zeros(1, jnp.uint32), levels, search_counts=True
        ).quantiles

    searched = jax.lax.cond(jnp.any(found.quantiles < 0.0), search, lambda: found.quantiles)
    return found._replace(quantiles=jnp.where(found.quantiles < 0.0, searched, found.quantiles))


def _outputs(program: Program, found: Answer) -> dict[str, jax.Array]:
    outputs = {
        "mean": found.mean,
        "sd": found.sd,
        "lower": found.quantiles[..., 0],
        "upper": found.quantiles[..., 1],
        "epistemic_sd": found.epistemic_sd,
        "aleatoric_sd": found.aleatoric_sd,
        "mcse": found.mcse,
    }
    if found.quantiles.shape[-1] > 2:
        outputs["quantiles"] = found.quantiles[..., 2:]
    if program.probabilities:
        outputs["probabilities"] = found.probabilities
    return outputs


def _over_rows(program: Program, row: Graph, outputs: Mapping[str, str], inputs: Sequence[Any]) -> Any:
    """The whole graph: what prepares raw columns, and Scan over the rows. The draws are its constants, which the body
    of the Scan sees."""
    whole, preparation = Graph("w"), None
    given = {entry.name: entry.name for entry in program.inputs}
    if program.prepared is not None:
        preparation = Preparation(whole)
        given = preparation.arguments(program.prepared)
    floats = np.dtype(float)
    shapes = {"quantiles": [None], "probabilities": [program.probabilities]}
    body = onnx().helper.make_graph(
        row.nodes,
        "one row",
        [value_info(f"row {entry.name}", np.dtype(entry.dtype), entry.shape) for entry in program.inputs],
        [value_info(name, floats, [*program.event, *shapes.get(label, [])]) for label, name in outputs.items()],
    )
    found = list(outputs) if preparation is None else [f"all {label}" for label in outputs]
    node = onnx().helper.make_node(
        "Scan", [given[entry.name] for entry in program.inputs], found, body=body, num_scan_inputs=len(program.inputs)
    )
    whole.nodes.append(node)
    if preparation is not None:
        bad, nan = preparation.bad, whole.constant(np.nan, floats)
        for label, name in zip(outputs, found, strict=True):
            further = len(program.event) + (label in shapes)
            flags = whole.add("Unsqueeze", bad, whole.ints(*range(1, 1 + further))) if further else bad
            whole.nodes.append(onnx().helper.make_node("Where", [flags, nan, name], [label]))
    whole.constants += row.constants
    declared = [value_info(label, floats, ["rows", *program.event, *shapes.get(label, [])]) for label in outputs]
    return whole.built("predictor", inputs, declared)


def _properties(predictor: "Predictor", level: float, quantiles: Sequence[float]) -> dict[str, str]:
    """What the file says about itself: text for each key."""
    program = predictor.program
    bounds = {i.name: [i.low, i.high] for i in program.inputs if i.low is not None}
    words = {
        "outcome": program.outcome,
        "family": cast(Family, program.family).name,
        "level": level,
        "quantiles": list(quantiles),
        "known_levels": bounds,
        "verdict": predictor.about.get("verdict"),
        "draws": program.size,
    }
    if program.labels:
        words["classes"] = list(program.labels)
    return {
        f"probinfer.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in words.items()
    }
