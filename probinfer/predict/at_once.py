"""Programs that run in the thread that asks. Imports jax.

On a CPU, JAX hands a program to a thread of its own and waits for it, unless it counts less than a thousand operations.
Where a program takes some 50 µs, as that of one row's summary does, waking one thread and then the other takes longer
than the program. XLA has what may call back into Python run where it is asked for, so these are said to, and never do.
"""

from typing import Any

import jax


def compile_at_once(lowered: Any, options: dict[str, Any] | None = None) -> Any:
    """`lowered.compile(compiler_options=options)`, which on a CPU runs in the thread that calls it, without the GIL.

    lowered: what `jax.jit(function).lower` returns. A release of JAX that keeps these things elsewhere compiles as it
    would have anyway.
    """
    callbacks = _callbacks(lowered)
    if callbacks is None or callbacks or jax.default_backend() != "cpu":
        return lowered.compile(compiler_options=options)
    callbacks.append(_never)
    try:
        compiled: Any = lowered.compile(compiler_options=options or {})  # of None it would be kept, for others too
    finally:
        callbacks.clear()  # what is lowered is kept, too
    try:
        if not compiled._executable.unsafe_call.has_host_callbacks:
            return compiled
        compiled._executable.unsafe_call.has_host_callbacks = False  # JAX's short way to a program is not for those
    except AttributeError:
        return lowered.compile(compiler_options=options)
    return compiled


def _callbacks(lowered: Any) -> list | None:
    """What a program may call back; None where that is not known."""
    try:
        found = lowered._lowering.compile_args["host_callbacks"]
    except (AttributeError, KeyError, TypeError):
        return None
    return found if isinstance(found, list) else None


def _never(*arguments: Any) -> Any:
    raise AssertionError("No program has a call to this.")
