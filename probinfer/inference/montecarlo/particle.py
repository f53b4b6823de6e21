"""The particle filter's settings, and many passes of it over a series, compiled once for each shape."""

import enum
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.montecarlo.particle_pass import Keep, Pass, one_pass
from probinfer.inference.montecarlo.resampling import Resampling
from probinfer.inference.settings import check_whole
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.program_cache import kept_programs
from probinfer.model.statespace import Series, StateSpace

# Numbers held for quantiles and smoothing: 2**25 doubles are 256 MB.
KEPT = 2**25


class FilterKind(enum.Enum):
    """Where a particle filter's next particles come from.

    BOOTSTRAP the transition; GUIDED a proposal that sees the next observation; AUXILIARY either of them, from
    particles chosen by a look at the next observation.

    >>> FilterKind.BOOTSTRAP.value
    'bootstrap'
    """

    BOOTSTRAP = "bootstrap"
    GUIDED = "guided"
    AUXILIARY = "auxiliary"


@dataclass(frozen=True)
class ParticleFilter:
    """Sequential importance resampling for any `StateSpace`.

        v_i = W_i η_i;   if 1 / Σ V_i² < resample_below N: resample by V
        x' ~ q;   w_i = W'_i g(y | x') f(x' | x) / q(x')

    with V the normalised v, η = 1 unless auxiliary, W' = Σ v / (N η) after resampling and W otherwise. The estimate of
    log p(y) is Σ_t log Σ_i w_i: its exponential is unbiased whatever the number of particles. The runs are independent
    of one another; their spread gives the Monte Carlo errors.

    Args:
        particles: N, of each run.
        runs: independent filters; 1 gives no Monte Carlo errors.
        kind: `FilterKind.BOOTSTRAP`, `GUIDED` or `AUXILIARY`. None: guided if there is a proposal, else bootstrap.
        resampling: `Resampling.SYSTEMATIC`, `STRATIFIED`, `RESIDUAL` or `MULTINOMIAL`.
        resample_below: resample when the effective share of the particles falls below this; 1 resamples at every step.
        proposal: (x, t, params, y) -> law q of the next state, with tails no lighter than f g. Where the observation is
            missing, y is 0.
        initial_proposal: (params, y) -> law of the first state; None takes `initial`.
        look_ahead: (x, t, params, y) -> log η, for the auxiliary filter. None takes the observation's log density at
            the mean of the transition.
        keep: keep all particles, which quantiles and smoothing need; None keeps up to 2**25 numbers.

    Raises:
        MethodError: a setting is out of range, or does not fit the kind.

    Fails when the observations are far more precise than the transition, or the state has many dimensions: few
    particles then carry all the weight, and the report says at which time. Costs N draws and densities a time and run;
    the runs share the cores.

    Gordon, Salmond & Smith (1993); Pitt & Shephard (1999); Chopin & Papaspiliopoulos (2020), ch. 10.

    >>> ParticleFilter(particles=500).runs
    8
    """

    particles: int = 1000
    runs: int = 8
    kind: FilterKind | None = None
    resampling: Resampling = Resampling.SYSTEMATIC
    resample_below: float = 0.5
    proposal: Callable[..., Any] | None = None
    initial_proposal: Callable[..., Any] | None = None
    look_ahead: Callable[..., Any] | None = None
    keep: bool | None = None

    def __post_init__(self) -> None:
        check_whole("ParticleFilter", "particles", self.particles, 2)
        check_whole("ParticleFilter", "runs", self.runs, 1)
        for name, kind in (("kind", FilterKind), ("resampling", Resampling)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (name == "kind" and value is None):
                wanted = ", ".join(f"pi.{each}" for each in kind)
                raise MethodError(f"ParticleFilter: {name} is {value!r}; wanted one of {wanted}.")
        below = self.resample_below
        if isinstance(below, bool) or not isinstance(below, int | float) or not 0 < below <= 1:
            raise MethodError(f"ParticleFilter: resample_below is {below!r}; wanted a number in (0, 1], such as 0.5.")
        for name in ("proposal", "initial_proposal", "look_ahead"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise MethodError(f"ParticleFilter: {name} is {value!r}; wanted a function or None.")
        if self.kind is FilterKind.GUIDED and self.proposal is None:
            raise MethodError(
                "ParticleFilter: the guided filter came without proposal=; wanted a function (x, t, params, y) that "
                "returns a NumPyro distribution."
            )
        if self.kind is FilterKind.BOOTSTRAP and self.proposal is not None:
            raise MethodError(
                "ParticleFilter: proposal= was given, but the bootstrap filter proposes by the transition; leave kind= "
                "out, or take pi.FilterKind.GUIDED."
            )
        if self.look_ahead is not None and self.kind is not FilterKind.AUXILIARY:
            raise MethodError("ParticleFilter: look_ahead= is heeded only with kind=pi.FilterKind.AUXILIARY.")
        if self.keep not in (None, True, False):
            raise MethodError(f"ParticleFilter: keep is {self.keep!r}; wanted True, False or None.")

    @property
    def auxiliary(self) -> bool:
        """Whether particles are chosen by a look at the next observation."""
        return self.kind is FilterKind.AUXILIARY

    def keeps(self, numbers: int) -> bool:
        """Whether all particles are kept, when they are so many numbers."""
        return self.keep if self.keep is not None else numbers <= KEPT


def passes(
    model: StateSpace,
    method: ParticleFilter,
    series: Series,
    params: Parameters,
    key: np.ndarray,
    *,
    keep: Keep,
    particles: int | None = None,
) -> Pass:
    """A pass for each set of parameters: every array of `params` and of the answer has a first axis of sets, (S, ...).

    key: (2,) uint32. particles: instead of the method's. Without parameters there are `method.runs` passes.
    """
    count = len(next(iter(params.values()))) if params else method.runs
    keys = np.random.default_rng(key).integers(0, 2**32, (count, 2), dtype=np.uint32)
    with jax.enable_x64(True):
        fixed = (jnp.asarray(series.values), jnp.asarray(series.observed))
        sets = [
            ({name: jnp.asarray(value[s]) for name, value in params.items()}, jnp.asarray(keys[s]))
            for s in range(count)
        ]
        program = compiled(
            model,
            ("particles", method, keep, particles),
            lambda params, key, values, observed: one_pass(
                model, method, params, Series(values, observed), key, keep=keep, particles=particles
            ),
            *sets[0],
            *fixed,
        )

    def run(one: tuple) -> Pass:
        return jax.tree.map(np.asarray, program(*one, *fixed))

    if count == 1:
        return jax.tree.map(lambda part: part[None], run(sets[0]))
    with ThreadPoolExecutor(workers(count), thread_name_prefix="probinfer") as pool:
        found = list(pool.map(run, sets))
    return jax.tree.map(lambda *parts: np.stack(parts), *found)


def compiled(model: StateSpace, name: tuple, function: Callable, *arguments: Any) -> Any:
    """The executable of a function for arguments of these shapes, kept with the model."""
    leaves, structure = jax.tree.flatten(arguments)
    key = (*name, structure, *((leaf.shape, leaf.dtype.name) for leaf in leaves))
    if key not in model.programs:
        with jax.enable_x64(True), kept_programs():
            # a seventh less time for many particles, on processors that have vectors of that width
            options = {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else {}
            model.programs[key] = jax.jit(function).lower(*arguments).compile(compiler_options=options)
    return model.programs[key]
