"""A JAX function as a flat list of array operations of fixed shapes: StableHLO without calls. Imports jax."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import mlir
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo

_PASSES = "builtin.module(inline,func.func(chlo-legalize-to-stablehlo),canonicalize,cse,symbol-dce)"


def flat_module(function: Callable, *arguments: Any) -> Any:
    """The MLIR module of `function` at the shapes of `arguments` (a pytree of ShapeDtypeStruct); it has one function.
    Keep the module as long as its operations are looked at.

    Exported programs within, which are of any number of rows and draws, get the fixed shapes too.
    """
    module: Any = jax.jit(function).lower(*arguments).compiler_ir("stablehlo")
    refined = mlir.refine_polymorphic_shapes(str(module).encode(), enable_shape_assertions=False)
    stablehlo.register_stablehlo_passes()
    with module.context, ir.Location.unknown():
        flat = ir.Module.parse(refined)
        passmanager.PassManager.parse(_PASSES).run(flat.operation)
    return flat
