"""Stochastic gradient Langevin dynamics: chains that look at a few rows of the data for each step."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.stochastic import AllRows, Anchor, find_anchor, gradient_from
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_fraction, check_whole, settings_of
from probinfer.model.rows import Rows
from probinfer.model.target import Target

_USUAL_BATCH = 256
_POINTS, _BATCHES = 8, 32  # where, and from how many minibatches each, the noise of the gradient is measured
_LONGEST = 1.0  # step size, in units of the posterior's variance
_BYTES = 2**25  # of the rows of one call
_TOGETHER = 20  # draws of one call, at most
_WARMUP = 100


@dataclass(frozen=True)
class SGLD:
    """Stochastic gradient Langevin dynamics with control variates, for data too large to go through for every step.

        x <- x + (h / 2) L' g(z) + sqrt(h) ξ,   z = ẑ + L x,   ξ ~ N(0, I)

    g(z) is an unbiased gradient of log p(z | data) from a minibatch of rows, exact at the mode ẑ and corrected by what
    the rows say elsewhere (control variates); L L' is the inverse curvature at ẑ, so that one step size h fits all
    directions. ẑ and L cost some tens of passes over the data and 4 d for the curvature; after that, a step costs two
    minibatches, however many rows there are.

    There is no acceptance step: the draws are from a law that is somewhat too wide. In stationarity

        E[x_j (L'g)_j] = -1 - (h / 4) E[(L'g)_j²]   where the posterior has E[x_j ∂_j log p] = -1,

    and for a normal posterior the excess is that of the variance, relatively. h is chosen so that it is `bias`, from
    the noise of g at points around ẑ; what it was in the end is measured along the chains and reported.

    Args:
        minibatch: rows of a step, drawn with replacement; None takes 256, or all if there are fewer.
        chains: independent chains, each from its own point of the normal law at the mode.
        draws: draws kept, per chain; between them lie 2 / h steps.
        bias: share by which the step may make variances too large, in (0, 1): cost goes with 1 / bias.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`: a minibatch empty or larger than the data, or a model whose
            rows are not independent given parameters that all of them share.

    `infer` stores `step_bias` (measured, the largest of all directions), `step_size`, `steps_between_draws`,
    `gradient_noise` (variance of L'g, 1 being that of its mean) and `passes` over all data.

    Fails where the posterior is far from normal: the curvature at the mode is then no measure elsewhere, the noise
    grows away from ẑ, and the excess is no longer one of variances alone. NUTS is exact.

    Welling & Teh (2011), ICML; Baker, Fearnhead, Fox & Nemeth (2019), Statistics and Computing 29; the bias of a step:
    Vollmer, Zygalakis & Teh (2016), JMLR 17(159).

    >>> SGLD(minibatch=500).draws
    1000
    """

    minibatch: int | None = None
    chains: int = 4
    draws: int = 1000
    bias: float = 0.02
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        if self.minibatch is not None:
            check_whole("SGLD", "minibatch", self.minibatch, 1)
        check_whole("SGLD", "chains", self.chains, 1)
        check_whole("SGLD", "draws", self.draws, 1)
        check_fraction("SGLD", "bias", self.bias, "0.02")

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        began = time.perf_counter()
        observed = target.bound.observed
        longest = observed[0].shape[0] if observed and observed[0].shape else 0
        rows = Rows(target, min(_USUAL_BATCH, longest) if self.minibatch is None else self.minibatch, "SGLD")
        seeds = np.random.SeedSequence(run.key.tolist()).spawn(self.chains + 1)
        generator = np.random.default_rng(seeds[-1])
        everything = AllRows(rows, target)
        anchor = find_anchor(everything, target, generator)
        found = time.perf_counter() - began
        noise = _noise(rows, target, anchor, generator)
        step = min(_LONGEST, 4 * self.bias / (1 + noise))
        between = int(np.ceil(2 / step))
        chains = [
            _chain(
                rows, target, anchor, step, between, self.draws, np.random.default_rng(seed), run, chain, self.chains
            )
            for chain, seed in enumerate(seeds[:-1])
        ]
        size = np.mean([each.size for each in chains], axis=0)
        return Draws(
            positions=np.stack([each.positions for each in chains]),
            stats={},
            method="SGLD",
            settings={**settings_of(self), "minibatch": rows.batch},
            seconds={"mode": found, "sampling": time.perf_counter() - began - found},
            facts={
                "step_bias": float(np.max(size) * step / 4),
                "step_size": float(step),
                "steps_between_draws": between,
                "gradient_noise": float(noise),
                "passes": everything.passes,
            },
        )


def _noise(rows: Rows, target: Target, anchor: Anchor, generator: np.random.Generator) -> float:
    """Variance of the gradient from a minibatch, in white coordinates: the largest of all directions, on average over
    points around the anchor."""
    whole, dtype = rows.whole, target.dtype
    with target.precision():
        place = (jnp.asarray(anchor.position, dtype), jnp.asarray(anchor.gradient, dtype))
        gradient = jax.jit(jax.vmap(lambda z, taken: gradient_from(rows, place)(z, taken, whole), in_axes=(None, 0)))
        variances = []
        for _ in range(_POINTS):
            z = anchor.position + anchor.root @ generator.standard_normal(target.dim)
            taken = rows.take(generator.integers(0, rows.count, (_BATCHES, rows.batch)))
            slopes = np.asarray(gradient(z.astype(dtype), taken), float) @ anchor.root
            variances.append(slopes.var(axis=0, ddof=1))
    return float(np.max(np.mean(variances, axis=0)))


class _Chain(NamedTuple):
    """Draws (draw, d), and the mean square of the gradient in white coordinates (d,)."""

    positions: np.ndarray
    size: np.ndarray


def _chain(
    rows: Rows,
    target: Target,
    anchor: Anchor,
    step: float,
    between: int,
    draws: int,
    generator: np.random.Generator,
    run: Run,
    chain: int,
    chains: int,
) -> _Chain:
    """One chain from a point of the normal law at the anchor; the first draws are left out."""
    dtype, whole = target.dtype, rows.whole
    each = sum(part.nbytes for part in rows.take(np.zeros((1, rows.batch), int)).values())
    together = int(np.clip(_BYTES // max(1, between * each), 1, _TOGETHER))
    with target.precision():
        place = jax.tree.map(lambda a: jnp.asarray(a, dtype), (anchor.position, anchor.gradient, anchor.root, step))
        program = _program(rows, target, between, together)
        x = generator.standard_normal(target.dim).astype(dtype)
        kept, sizes = [], []
        total = _WARMUP + draws
        for start in range(0, total, together):
            taken = rows.take(generator.integers(0, rows.count, (together, between, rows.batch)))
            push = generator.standard_normal((together, between, target.dim)).astype(dtype)
            x, points, size = program(x, push, taken, whole, place)
            kept.append(np.asarray(points, float))
            sizes.append(np.asarray(size, float))
            run.progress.update(chain * total + min(start + together, total), chains * total, f"step size {step:.2g}")
    chosen = slice(_WARMUP, total)
    white = np.concatenate(kept)[chosen]
    return _Chain(anchor.position + white @ anchor.root.T, np.concatenate(sizes)[chosen].mean(axis=0))


def _program(rows: Rows, target: Target, between: int, together: int) -> Any:
    """The executable that makes `together` draws: (x, push, taken, whole, place) -> (x, points, mean squares)."""

    def several(x: jax.Array, push: jax.Array, taken: Any, whole: Any, place: Any) -> tuple:
        position, slope, root, step = place
        gradient = gradient_from(rows, (position, slope))

        def one(x: jax.Array, given: tuple) -> tuple:
            pushed, part = given
            white = root.T @ gradient(position + root @ x, part, whole)
            return x + step / 2 * white + jnp.sqrt(step) * pushed, white**2

        def draw(x: jax.Array, given: tuple) -> tuple:
            x, squares = lax.scan(one, x, given)
            return x, (x, squares.mean(axis=0))

        x, (points, sizes) = lax.scan(draw, x, (push, taken))
        return x, points, sizes

    dtype, d = target.dtype, target.dim

    def shape(*size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype)

    taken = rows.shapes(together, between, rows.batch)
    place = (shape(d), shape(d), shape(d, d), shape())
    name = f"sgld {rows.batch} of {rows.count}, {together} x {between}"
    return target.compile(name, several, shape(d), shape(together, between, d), taken, rows.whole, place)
