"""What an outcome family is: one record of pure functions. Imports jax only."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from jax import Array

if TYPE_CHECKING:
    from probinfer.model.pipeline.change import Change


class Support(Enum):
    """Where the outcome lives; decides how its mixture is inverted and which summaries it has."""

    REAL = "any real number"
    POSITIVE = "numbers above zero"
    UNIT = "numbers between 0 and 1"
    BINARY = "0 or 1"
    COUNT = "0, 1, 2, …"
    CLASSES = "class codes 0, …, K - 1"

    @property
    def discrete(self) -> bool:
        """The outcome takes whole numbers."""
        return self in (Support.BINARY, Support.COUNT, Support.CLASSES)


def _absent(*parameters: Array) -> Any:
    """A function that a family of this support does not have."""
    raise NotImplementedError


@dataclass(frozen=True)
class Family:
    """A parametric law of the outcome as functions of its parameters: what predictions are computed from.

    Each function takes the parameters by position in the order of `parameters`, as arrays that broadcast with each
    other and with the value, and is elementwise; BINARY has one parameter, the log odds of 1, and CLASSES one, log
    probabilities, with the classes on the last axis. They run in float64 or float32, under jit and vmap, and never
    touch NumPyro, so that a saved predictor needs no model code.

    mean, variance   moments; inf where they are infinite, nan where they do not exist (Student's t with df <= 1)
    cdf              P(Y <= y)
    log_density      log density or log probability of y; -inf outside the support
    sample           (key, *parameters) -> one draw for each entry of the broadcast parameters
    locate           continuous: centre and spread on the search scale (reals: x, positive: log x, unit: logit x)
    first, ratio     counts: log P(Y = 0), and (k, *parameters) -> P(Y = k + 1) / P(Y = k)
    normal           continuous: normal on the search scale, with the mean and sd that `locate` gives
    traced           made of the law's own exported functions (traced.py): in double precision only, not under vmap
    of, change       of an outcome that the model has transformed: the model's family, and the transform
    """

    name: str
    parameters: tuple[str, ...]
    support: Support
    mean: Callable[..., Array]
    variance: Callable[..., Array]
    cdf: Callable[..., Array]
    log_density: Callable[..., Array]
    sample: Callable[..., Array]
    locate: Callable[..., tuple[Array, Array]] = _absent
    first: Callable[..., Array] = _absent
    ratio: Callable[..., Array] = _absent
    normal: bool = False
    traced: bool = False
    of: "Family | None" = None
    change: "Change | None" = None
