"""Linear algebra on one thread, for matrices so small that more threads only wait for each other."""

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


def one_blas_thread() -> AbstractContextManager:
    """While it lasts, BLAS of NumPy and SciPy use one thread. Short vectors and small matrices are slower on many, by a
    hundred times when other processes want the cores too."""
    return _thread_pools().limit(limits=1, user_api="blas")


@functools.cache
def _thread_pools() -> ThreadpoolController:
    """Looked up once in a process, since that takes milliseconds."""
    import scipy.linalg  # noqa: F401 SciPy's BLAS is a library of its own, found only once it is loaded

    return ThreadpoolController()
