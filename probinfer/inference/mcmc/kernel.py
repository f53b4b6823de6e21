"""What a Markov chain's transition takes and gives, whichever it is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Ask = Callable[[Callable[[Any], Any]], Any]  # a function of the data -> its value, inside the compiled program
Value = Any  # an array: of JAX inside the compiled program, of NumPy outside

MAX_ENERGY_ERROR = 1000.0  # beyond it the integrator has left the energy surface: a divergence (Stan's limit)


class Draw(NamedTuple):
    """Where a transition begins and ends; `g` is the gradient (d,), zero for a transition that uses none; `words` are
    random words that belong to the state, () for most."""

    q: Value
    g: Value
    log_density: Value
    words: Value = ()  # (n, 2) uint32


class Info(NamedTuple):
    """What a transition was like; all scalars but one."""

    acceptance: Value  # mean over the trajectory of min(1, exp(-energy error))
    symmetric_acceptance: Value  # what the step size adapts on; one for each where there are several
    steps: Value
    depth: Value
    diverging: Value
    saturated: Value
    energy: Value
    energy_error: Value


class Kernel(NamedTuple):
    """A transition, and what has to be known around it.

    name: tells its programs apart, so every setting that is compiled into it is in it.
    transition: (density, metric, start, step_size, key, limit) -> (Draw, Info); `density` is the target's
        value_and_grad, or its log density alone where `gradient` is false.
    gradient: whether it uses gradients.
    first_step: the step size to begin with; an array of several, where parts of a state have step sizes of their own.
    fit: (draws, gradients, use, rank) -> Metric.
    limit: the most doublings of a trajectory.
    stats: the fields of Info worth keeping, by ArviZ's names.
    given: target -> function of (argument, data) that the transition gets, as a function of its argument, instead of
        the density.
    place: (position, generator) -> position, where not every random position is a point of the target.
    begin: (chain, generator) -> (Start, words), where a chain cannot begin at a random position of finite density.
    words: how many pairs of random words belong to the state.
    targets: the acceptances that several step sizes aim at, in the place of the method's own.
    sized: whether the step size means anything.
    batch: whether it is that of NUTS, which batch.py has for many chains at once.
    """

    name: str
    transition: Callable[..., tuple[Draw, Info]]
    gradient: bool
    first_step: Any
    fit: Callable[..., Any]
    limit: int
    stats: Mapping[str, str]
    given: Callable[[Any], Callable] | None = None
    place: Callable[..., Any] | None = None
    begin: Callable[..., Any] | None = None
    words: int = 0
    targets: Any = None
    sized: bool = True
    batch: bool = False


def asks_of_data(target: Any) -> Callable[[Callable[[Any], Any], Any], Any]:
    """The `given` of a kernel whose transition wants more of the data than a density: it gets an `Ask`."""
    del target
    return lambda ask, inputs: ask(inputs)
