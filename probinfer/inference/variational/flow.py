"""Normalising flows: a normal law, bent by coupling layers until the bound no longer rises."""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import numpy as np

from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.montecarlo.space import space_of_target
from probinfer.inference.settings import check_whole, settings_of
from probinfer.inference.variational.approximation import weighted_draws
from probinfer.inference.variational.coupling import (
    WIDE,
    WIDE_SHARE,
    Layers,
    forward,
    identity,
    inverse,
    log_base,
)
from probinfer.inference.variational.elbo import fit_normal
from probinfer.inference.variational.families import Family, FewDirections, NormalLaw, Triangular
from probinfer.inference.variational.minibatch import fit_from_rows
from probinfer.inference.variational.other_modes import Other, mass_elsewhere
from probinfer.inference.variational.sampled_rows import SampledRows
from probinfer.model.rows import Rows
from probinfer.model.target import Target

if TYPE_CHECKING:
    from probinfer.inference.variational.ascent import Ascended

_FULL = 100  # dimensions up to which the normal law to begin with has all correlations
_FLAT = 1e-9  # the least width of a direction of that law, of its widest, in units of each coordinate
_CHUNK = 1000  # points of a call of the compiled flow
_FRESH = 4000  # draws that the bound is measured with
_LOOK = 0.1  # seconds between looks at how far the starts are
_FRESH_ALL_ROWS = 400  # and where each is a pass over more rows than a step sees


@dataclass(frozen=True)
class Flow:
    """Variational inference with a normalising flow: q is the law of z = m + R f(e), e ~ N(0, I), f coupling layers.

        ELBO(q) = E_q[log p(z, data) - log q(z)] = log p(data) - KL(q || p)

    m and R are those of the nearest normal law, so that the flow begins where `FullRank` ends (`LowRank` above 100
    parameters). f bends every coordinate and lets each half of the coordinates scale and move the other half in turn:
    curved valleys, funnels and skewness are in reach. The bound is raised by Adam at three rates in turn, each for as
    long as the bound still rises beyond its noise; the layers of the last rate are averaged.

    Args:
        layers: coupling layers, an even number lets every coordinate move as often.
        width: hidden units of each layer's network.
        starts: independent fits, from random points of their own; the one with the best bound is kept.
        max_steps: steps of Adam for each start, at most.
        draws: draws from q, each weighted with p / q.
        resample: keep one draw for five effective ones, chosen by weight, instead of all draws of q as they are.
        minibatch: rows of the data that a step looks at, drawn with replacement; None looks at all of them.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`, with `minibatch`: it is larger than the data, or the model's
            rows are not independent given parameters that all of them share.

    `infer` returns draws with the dims ("sample",) and stores `pareto_khat`, `elbo` with `elbo_mcse`, `log_evidence`
    with `log_evidence_mcse` (from the weights), `importance_ess`, `elbo_of_starts`, `steps`, and `still_rising`, the
    nats by which the bound rose at the end of the steps if it had not stopped, and `mass_elsewhere`, as for
    `MeanField`. With `minibatch` also `passes` over all rows: one for each draw, because its weight takes all of them.

    Fails where modes are far apart: it covers the one that a start fell into, and the weights do not show the others.
    A look from other places does, as for `MeanField`, unless no climb leads there. Elsewhere the Pareto shape shows
    what is left. Costs 256 gradients a step, some thousands of steps, and seconds of compilation.

    Rezende & Mohamed (2015), ICML; Dinh, Sohl-Dickstein & Bengio (2017), ICLR; Agrawal & Domke (2024), NeurIPS.

    >>> Flow(layers=8).starts
    2
    """

    layers: int = 8
    width: int = 32
    starts: int = 2
    max_steps: int = 20_000
    draws: int = 4000
    resample: bool = False
    minibatch: int | None = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        check_whole("Flow", "layers", self.layers, 1)
        check_whole("Flow", "width", self.width, 1)
        check_whole("Flow", "starts", self.starts, 1)
        check_whole("Flow", "max_steps", self.max_steps, 100)
        check_whole("Flow", "draws", self.draws, 100)
        if self.minibatch is not None:
            check_whole("Flow", "minibatch", self.minibatch, 1)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        began = time.perf_counter()
        rows = None if self.minibatch is None else Rows(target, self.minibatch, "Flow", "minibatch")
        seen = None if rows is None else SampledRows(rows, target, np.random.default_rng([*run.key.tolist(), 1]))
        found, others = self._fits(target, run, seen)
        fitted = time.perf_counter() - began
        bound, error, ascended, law = best = max(found, key=lambda one: one.bound)
        generator = np.random.default_rng(run.key)
        others = [Other(each.law, each.elbo + (0.0 if seen is None else bound)) for each in others]
        others += [Other(each.law, each.bound) for each in found if each is not best]
        draws = weighted_draws(
            law,
            target,
            generator,
            method="Flow",
            settings=settings_of(self),
            facts={
                **({"elbo": bound, "elbo_mcse": error} if seen is None else {}),
                "elbo_of_starts": ", ".join(f"{each.bound:.3f}" for each in found),
                "steps": ascended.steps,
                "still_rising": 0.0 if ascended.arrived else ascended.rise,
                "mass_elsewhere": mass_elsewhere(law, bound, others, generator.spawn(1)[0]),
            },
            log_density=None if seen is None else seen.log_density,
        )
        facts = draws.facts if seen is None else {**draws.facts, "passes": seen.passes}
        return replace(draws, facts=facts, seconds={"fit": fitted, "sampling": time.perf_counter() - began - fitted})

    def _fits(self, target: Target, run: Run, seen: SampledRows | None) -> "tuple[list[_Fit], list[Other]]":
        """The fit of every start, and laws at other modes, as `_base` has them. The fits run side by side, but those of
        a minibatch, which draw their rows in turn."""
        from probinfer.inference.variational.ascent import ascend, steps_program  # optax takes a while to import

        reached = [(0, -np.inf)] * self.starts  # steps of each, and the bound after them
        over = Event()

        def fit(start: int, generator: np.random.Generator, mean: np.ndarray, root: np.ndarray) -> _Fit:
            masks, layers = identity(generator, target.dim, self.layers, self.width)

            def tell(done: int, bound: float) -> None:
                reached[start] = done, bound
                if over.is_set():
                    raise CancelledError

            ascended = ascend(steps.result(), target, mean, root, masks, layers, generator, self.max_steps, tell, seen)
            law = FlowLaw(target, mean, root, masks, ascended.layers)
            maps.result()
            terms = _bounds(law, target, generator, seen)
            return _Fit(float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms))), ascended, law)

        like = identity(np.random.default_rng(0), target.dim, self.layers, self.width)
        seeds = np.random.SeedSequence(run.key.tolist()).spawn(self.starts)
        threads = workers(self.starts) if seen is None else 1
        with ThreadPoolExecutor(2) as compiling, ThreadPoolExecutor(threads, "probinfer") as pool:
            steps = compiling.submit(steps_program, target, *like, seen)
            maps = compiling.submit(_compile_maps, target, *like)
            generators = [np.random.default_rng(seed) for seed in seeds]
            bases = [_base(target, generator, seen) for generator in generators]  # one by one: the first compiles
            fits = [pool.submit(fit, n, generators[n], mean, root) for n, (mean, root, _) in enumerate(bases)]
            try:
                while wait(fits, timeout=_LOOK, return_when=FIRST_EXCEPTION).not_done:
                    if any(each.done() and each.exception() for each in fits):
                        break
                    done, bounds = zip(*reached, strict=True)
                    run.progress.update(sum(done), self.starts * self.max_steps, f"bound {max(bounds):.2f}")
                return [each.result() for each in fits], [other for *_, others in bases for other in others]
            finally:
                over.set()


class _Fit(NamedTuple):
    """A start's fit: its bound with the Monte Carlo error, how it came about, and the law."""

    bound: float
    error: float
    ascended: "Ascended"
    law: "FlowLaw"


class FlowLaw(NamedTuple):
    """The law of mean + R f(e), e from the base law; `layers` and `masks` are those of f."""

    target: Target
    mean: np.ndarray
    root: np.ndarray
    masks: np.ndarray
    layers: dict[str, np.ndarray]

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Points (n, d)."""
        scale = np.where(generator.random((n, 1)) < WIDE_SHARE, WIDE, 1.0)
        x = self._map("forward", scale * generator.standard_normal((n, len(self.mean))))
        return self.mean + x @ self.root.T

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d)."""
        x = np.linalg.solve(self.root, (z - self.mean).T).T
        return self._map("density", x) - np.linalg.slogdet(self.root)[1]

    def _map(self, way: str, points: np.ndarray) -> np.ndarray:
        """What `_WAYS` makes of points (n, d), in chunks of one size."""
        found = []
        with self.target.precision():
            layers, masks = jax.tree.map(lambda a: np.asarray(a, self.target.dtype), (self.layers, self.masks))
            program = _map_program(self.target, way, self.masks, self.layers)
            for start in range(0, len(points), _CHUNK):
                part = points[start : start + _CHUNK]
                padded = np.concatenate([part, np.zeros((_CHUNK - len(part), points.shape[1]))])
                found.append(np.asarray(program(layers, masks, padded.astype(self.target.dtype)), float)[: len(part)])
        return np.concatenate(found)


def _log_density(layers: Layers, masks: jax.Array, x: jax.Array) -> jax.Array:
    """Log density (n,) of f(e), e from the base law, at x (n, d)."""
    white, log_det = inverse(layers, masks, x)
    return log_base(white) + log_det


_WAYS: dict[str, Callable[[Layers, jax.Array, jax.Array], jax.Array]] = {
    "forward": lambda *arguments: forward(*arguments)[0],
    "density": _log_density,
}


def _map_program(target: Target, way: str, masks: np.ndarray, layers: dict[str, np.ndarray]) -> Callable:
    """The compiled program of one of `_WAYS`, for layers of this kind and chunks of points."""
    arrays = layers, masks, np.empty((_CHUNK, target.dim))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, target.dtype), arrays)
    size = " ".join(map(str, layers["inner"].shape))
    return target.compile(f"flow {way} {size}", _WAYS[way], *shapes)


def _compile_maps(target: Target, masks: np.ndarray, layers: dict[str, np.ndarray]) -> None:
    """Both ways, while layers are trained."""
    for way in _WAYS:
        _map_program(target, way, masks, layers)


def _base(
    target: Target, generator: np.random.Generator, seen: SampledRows | None
) -> tuple[np.ndarray, np.ndarray, tuple[Other, ...]]:
    """Mean (d,) and root (d, d) of the nearest normal law, and laws at other modes; good enough is enough, so it is not
    asked to settle. With `seen`, the bounds of the others are as some rows say, less that of the law itself there."""
    d = target.dim
    settings: dict[str, Any] = {"points": 256, "rounds": 2, "progress": lambda done: None}

    def nearest[Law: NormalLaw](family: Family[Law]) -> tuple[Law, tuple[Other, ...]]:
        if seen is None:
            fitted = fit_normal(target, generator, family, **settings)
            return fitted.law, fitted.others
        stepped = fit_from_rows(seen, generator, family, **settings)
        return stepped.law, tuple(Other(law, elbo - stepped.elbo_of_rows) for law, elbo in stepped.others)

    law, others = nearest(Triangular()) if d <= _FULL else nearest(FewDirections(round(np.sqrt(d))))
    return law.mean, _invertible((law.at(np.eye(d)) - law.mean).T), others


def _invertible(root: np.ndarray) -> np.ndarray:
    """A root (d, d) of a covariance, stretched along the directions in which it has no width to speak of: the nearest
    normal law of a posterior that is far from normal may have collapsed there, and a map that starts flat stays so."""
    lengths = np.linalg.norm(root, axis=1, keepdims=True)
    lengths = np.where(np.isfinite(lengths) & (lengths > 0), lengths, 1.0)
    scaled = np.where(np.isfinite(root), root / lengths, 0.0)
    left, widths, right = np.linalg.svd(scaled)
    if widths[-1] >= _FLAT * widths[0] > 0:
        return root
    return lengths * (left * np.maximum(widths, _FLAT * max(widths[0], 1.0))) @ right


def _bounds(law: FlowLaw, target: Target, generator: np.random.Generator, seen: SampledRows | None) -> np.ndarray:
    """log p - log q (n,) at fresh draws of q; those where the target has no mass are left out."""
    z = law.draw(generator, _FRESH if seen is None else _FRESH_ALL_ROWS)
    log_density = space_of_target(target).log_density if seen is None else seen.log_density
    terms = log_density(z) - law.log_density(z)
    return terms[np.isfinite(terms)]
