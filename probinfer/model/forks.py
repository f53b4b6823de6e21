"""A process that was forked from one where JAX had run is told so, instead of waiting for ever. Imports the errors.

JAX and XLA compute in threads, and fork copies none of them: in the child the first program, or the reading of a stored
one, waits for a thread that is not there.
"""

import os

from probinfer.errors import ForkedProcess

_watched = False  # JAX has run in this process, or in the one it was forked from
_forked = False  # the latter


def before_jax() -> None:
    """Every way to JAX in probinfer begins here; it costs some 50 ns. Raises ForkedProcess in a child of a process that
    came here before it forked."""
    if not _watched:
        _watch()
    elif _forked:
        raise ForkedProcess(
            f"This process ({os.getpid()}) was forked from one in which probinfer had run JAX already. "
            "JAX's threads are not in the copy, and a program would wait for them for ever. Start processes by "
            "'spawn' or 'forkserver', multiprocessing.get_context('spawn'), or fork before anything is loaded or run: "
            "gunicorn without --preload, and load_predictor in each worker."
        )


def is_forked() -> bool:
    """JAX cannot run in this process."""
    return _forked


def _watch() -> None:
    global _watched
    _watched = True
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    global _forked
    _forked = True
