"""The contract of an inference method."""

import enum
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from probinfer.errors import MethodError, ModelError
from probinfer.inference.checkpoint import Journal
from probinfer.inference.draws import Draws
from probinfer.inference.progress import Progress
from probinfer.inference.until import Until
from probinfer.model.target import Target


class Need(enum.Enum):
    """What a method asks of a target."""

    DENSITY = "a log density; discrete sites are summed out, or drawn where they cannot be"
    GRADIENT_IF_ANY = "a log density, and its gradient in the continuous sites where there is one"
    CONTINUOUS = "a log density in continuous sites; discrete ones are summed out"
    GRADIENT = "the gradient of a log density in continuous sites; discrete ones are summed out"
    PARTIAL_GRADIENT = "the gradient of a log density in the continuous sites"
    NO_DISCRETE = "every latent site continuous"
    STATES = "a state-space model whose states are unknown: pi.StateSpace"


class Control(enum.Enum):
    """What of a run the user may steer from outside, by an argument of `infer`."""

    UNTIL = "until"
    CHECKPOINT = "checkpoint"
    DEVICES = "devices"


class Warm(NamedTuple):
    """Draws (n, d), unconstrained, of a posterior close to the one wanted, and the step size that served there."""

    positions: np.ndarray
    step_size: float | None = None


class Run(NamedTuple):
    """What `infer` hands to a method besides the target."""

    key: np.ndarray  # (2,) uint32: all the randomness
    progress: Progress
    until: Until | None = None
    journal: Journal | None = None
    began: float = 0.0  # time.monotonic() at the call of `infer`, from which a budget of seconds counts
    warm: Warm | None = None  # Markov chains start there and adapt briefly; other methods do not need it

    @property
    def deadline(self) -> float:
        """When the rule's seconds are over, on `time.monotonic`'s clock."""
        return self.began + self.until.seconds if self.until is not None and self.until.seconds is not None else np.inf


class Method(Protocol):
    """A method is a frozen dataclass: its fields are its settings, checked at construction.

    `needs` says what the target must offer, `controls` which arguments of `infer` it heeds. `float64` is the precision
    the target is traced in. `run` takes a target to draws; it raises MethodError or ModelError before any work when it
    cannot start, and afterwards returns trouble in the numbers as statistics of the draws, for the report to judge.
    """

    needs: ClassVar[frozenset[Need]]
    controls: ClassVar[frozenset[Control]]

    @property
    def float64(self) -> bool:
        """Whether to compute in double precision."""
        ...

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target."""
        ...


def check_controls(method: Method, **given: Any) -> None:
    """Raise MethodError for an argument of `infer` that the method would not heed."""
    for control in Control:
        if given[control.value] is not None and control not in method.controls:
            raise MethodError(
                f"{type(method).__name__} does not heed {control.value}=; leave it out, or use a Markov chain such as "
                "pi.NUTS()."
            )


def check_start(target: Target, point: np.ndarray, tries: int) -> ModelError:
    """The error for a target whose log density was finite at none of `tries` points, naming the sites to blame."""
    sites = target.site_log_densities(point)
    bad = {name: value for name, value in sites.items() if not np.isfinite(value)}
    if bad:
        listed = ", ".join(f"{name} ({value})" for name, value in bad.items())
        text = f"not finite at site {listed}"
    else:
        names = target.coordinate_names()
        gradient = target.gradient_at(point)
        blamed = sorted({name for name, value in zip(names, gradient, strict=True) if not np.isfinite(value)})
        text = f"finite, but its gradient is not, for {', '.join(blamed) or 'sites unknown'}"
    return ModelError(
        f"The log density is {text}, at each of {tries} initial points. Look there for a logarithm or square root of "
        "what can be zero or negative, data outside the distribution's support, or a scale that can be zero."
    )
