"""Traced functions of a program kept on disk, beside what is compiled: to trace one and lower it takes several times as
long as to read it and its compiled form back. Imports jax.

What is kept is StableHLO of fixed shapes. Its name is the hash of all that it follows from: the program but for the
numbers that it is fed, the function and its shapes, the versions of JAX, and the source files of this package. The
folder is beside that of `program_cache`, and as much to be trusted.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib
import numpy as np
from jax.core import ShapedArray
from jax.extend import mlir as portable
from jax.extend.core import Primitive
from jax.extend.mlir.dialects import func
from jax.interpreters import mlir

from probinfer.files import write_whole
from probinfer.model.program_cache import cache_folder
from probinfer.predict.program import Program

_MOST = 512  # files; one takes 50 kB
_WHERE = re.compile(r"^#loc.*\n| loc\(#loc\d*\)", re.MULTILINE)  # lines of the script that the model is from
_SOURCES = ("predict", "model/pipeline")  # what traced functions are made of


class _Module(NamedTuple):
    """StableHLO whose function `main` takes every argument and returns one array of float64 of this shape."""

    code: bytes
    shape: tuple[int, ...]


def fingerprint(program: Program) -> str:
    """The same for programs that differ in nothing but the numbers in their draws and fixed data: what is compiled for
    one serves the other."""
    found = hashlib.sha256()
    family, weights = program.family, program.weights
    outcome = program.prepared.outcome if program.prepared else None
    fed = [
        sorted((name, values.shape, str(values.dtype)) for name, values in group.items())
        for group in (program.draws, program.fixed)
    ]
    words: list[Any] = [
        (family.of or family).name if family is not None else None, outcome.change if outcome else None,
        program.chains, program.repeats, program.event, program.discrete, program.probabilities,
        [(entry.name, entry.dtype, entry.shape) for entry in program.inputs], *fed,
    ]  # fmt: skip
    found.update(repr(words).encode())
    for role, exported in sorted(program.programs.items()):
        found.update(f"{role} {program_words(exported)}".encode())
    if weights is not None:
        found.update(repr(weights.mean_error).encode() + np.ascontiguousarray(weights.values).tobytes())
    return found.hexdigest()


def program_words(exported: Any) -> str:
    """All that an exported program is, but for the lines of the script that it is from."""
    within: Any = getattr(exported, "exported", exported)  # a transformed outcome wraps it
    return f"{within.in_tree} {within.in_avals} {_WHERE.sub('', within.mlir_module())}"


def lowered(function: partial, arguments: tuple, identity: str) -> Any:
    """`jax.jit(function).lower(*arguments)`, from the folder if it is there; else it is put there.

    function: a function of this package, of a program first, that returns one array of float64.
    identity: the program's fingerprint."""
    folder = cache_folder()
    if folder is None or _sources() is None:
        return jax.jit(function).lower(*arguments)
    path = folder.parent.parent / "traced" / _name(function, arguments, identity)
    module = _read(path)
    if module is None:
        traced = jax.jit(function, keep_unused=True).lower(*arguments)
        module_of: Any = traced.compiler_ir("stablehlo")
        code = portable.refine_polymorphic_shapes(mlir.module_to_bytecode(module_of), enable_shape_assertions=True)
        module = _Module(code, jax.tree.leaves(traced.out_info)[0].shape)
        if b"lapack" in code:  # what that needs is set up by tracing
            return traced
        with contextlib.suppress(OSError):
            _write(path, module)

    def called(*arguments: Any) -> jax.Array:
        return _module_p.bind(*jax.tree.leaves(arguments), module=module)

    return jax.jit(called).lower(*arguments)


_module_p = Primitive("probinfer_module")


@_module_p.def_abstract_eval
def _shape_of(*arguments: Any, module: _Module) -> Any:
    return ShapedArray(module.shape, np.dtype(np.float64))


def _insert(context: Any, *arguments: Any, module: _Module) -> Sequence[Any]:
    """Lowering: the module's functions beside those that are being made, and a call."""
    into = context.module_context
    with into.context:
        found = mlir.ir.Module.parse(module.code)
    name = mlir.merge_mlir_modules(into.module, "probinfer_module", found, dst_symtab=into.symbol_table)
    results = mlir.aval_to_ir_types(into, context.avals_out[0])
    return func.CallOp([*results], mlir.ir.FlatSymbolRefAttr.get(name), [*arguments]).results


mlir.register_lowering(_module_p, _insert)


def _name(function: partial, arguments: tuple, identity: str) -> str:
    leaves, tree = jax.tree.flatten(arguments)
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    work: Any = function
    options: dict[str, Any] = {}
    while isinstance(work, partial):
        work, options = work.func, {**work.keywords, **options}
    words = [
        jax.__version__, jaxlib.__version__, jax.default_backend(), _sources(), work.__module__, work.__qualname__,
        sorted(options.items()), str(tree), shapes, identity,
    ]  # fmt: skip
    return hashlib.sha256(repr(words).encode()).hexdigest()


@functools.cache
def _sources() -> str | None:
    """A hash of the source files; None where there are none to read."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    try:
        for folder in _SOURCES:
            for path in sorted((root / folder).glob("*.py")):
                found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return None
    return found.hexdigest()


def _read(path: Path) -> _Module | None:
    """What is kept there; None if nothing is, or it is damaged: it is made again."""
    try:
        content = path.read_bytes()
        os.utime(path)  # the least recently used go first
        digest, head, code = content.split(b"\n", 2)
        if digest.decode() != hashlib.sha256(code).hexdigest():
            return None
        return _Module(code, tuple(json.loads(head)))
    except (OSError, ValueError):
        return None


def _write(path: Path, module: _Module) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(module.code).hexdigest().encode()
    write_whole(path, b"\n".join([digest, json.dumps(module.shape).encode(), module.code]), durable=False)
    ages: Mapping[Path, float] = {}
    with contextlib.suppress(FileNotFoundError):  # another process tidies up, too
        ages = {entry: entry.stat().st_mtime for entry in path.parent.iterdir()}
    for entry in sorted(ages, key=lambda entry: ages[entry])[: max(0, len(ages) - _MOST)]:
        with contextlib.suppress(OSError):
            entry.unlink()
