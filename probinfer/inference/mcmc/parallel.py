"""How many chains run side by side: each on a thread of its own, or many in step as one program."""

import enum

import jax

from probinfer.errors import MethodError
from probinfer.model.target import Target

_SUPERCHAINS = 16  # groups of chains that begin at one point
_MANY = 4 * _SUPERCHAINS  # chains, from which on there are such groups


class Parallel(enum.Enum):
    """How chains run side by side.

    AUTO is BATCH where JAX's default backend is a GPU or another accelerator, and THREADS on a CPU, where a gradient
    of many chains costs as much as so many gradients.

    >>> Parallel.AUTO.name
    'AUTO'
    """

    AUTO = "threads on a CPU, one batch elsewhere"
    THREADS = "a call of a program for each chain, on a thread"
    BATCH = "one program for many chains, a gradient of each in every step"


def is_batch(parallel: Parallel, target: Target) -> bool:
    """Whether chains of this target run as a batch. Raises MethodError where they should and cannot."""
    if parallel is Parallel.BATCH and target.devices:
        raise MethodError(
            "devices= shares the rows of the data out for one chain at a time, and NUTS(parallel=Parallel.BATCH) wants "
            "all chains in one program. Leave one of the two out."
        )
    elsewhere = jax.default_backend() != "cpu" and not target.devices
    return parallel is Parallel.BATCH or (parallel is Parallel.AUTO and elsewhere)


def superchains(chains: int) -> int:
    """Groups of chains that begin at one point each, for R-hat to compare: 16 where there are 64 chains or more and
    they divide by 16, none else.

    Of hundreds of short chains the usual R-hat is large whether they agree or not, as the mean of each is uncertain.
    Margossian et al. (2024), nested R-hat.
    """
    return _SUPERCHAINS if chains >= _MANY and chains % _SUPERCHAINS == 0 else 0
