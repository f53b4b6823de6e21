"""Where chains begin when an approximation says where: at draws of it, with the metric that gradients there show."""

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import logsumexp

from probinfer.inference.mcmc.metric import Metric, fit
from probinfer.inference.method import Run
from probinfer.inference.montecarlo.pareto import smooth
from probinfer.inference.montecarlo.space import compiled
from probinfer.model.target import Target

_LOOKED_AT = 400  # draws whose gradients the metric is fitted from
_MANY = 100  # of them in a call of the compiled gradient
_WIDE = 8.0  # times the spread of a normal posterior's log density, beyond which most draws are far out


class Beginning(NamedTuple):
    """Starting points (chain, d) and the metric there, None where the draws are no places to begin at; what the
    approximation said of itself."""

    positions: np.ndarray | None
    metric: Metric | None
    facts: dict[str, Any]


NOWHERE = Beginning(None, None, {})


def begin(init: Any, target: Target, run: Run, chains: int, rank: int) -> Beginning:
    """Draw starting points from the approximation that `init` makes of the target.

    They are chosen by their weights, none twice. The metric is the one of least Fisher divergence: from draws and the
    target's gradients there it is right for a normal target whatever the law of the draws, so that an approximation too
    narrow or too wide still tells the scales. Draws are no places to begin at where the log density is finite at less
    than half of them, or varies from one to the next much more than the sqrt(d / 2) that it does in the posterior.
    """
    seed, own = np.random.SeedSequence(run.key.tolist()).spawn(chains + 2)[-2:]  # beyond those of the chains
    generator = np.random.default_rng(own)
    found = init.run(target, run._replace(key=seed.generate_state(2, np.uint32), until=None, journal=None))
    name = type(init).__name__
    khat = float(found.facts.get("pareto_khat", np.inf))
    weights = found.stats["log_weight"]
    chosen = generator.permutation(len(found.positions))[:_LOOKED_AT]
    z = found.positions[chosen]
    values, slopes = _gradients(target, z)
    usable = np.isfinite(values) & np.isfinite(slopes).all(axis=1)
    facts = {"init": name, "init_khat": khat, "init_seconds": float(sum(found.seconds.values()))}
    if usable.sum() < max(len(z) / 2, chains):
        return Beginning(None, None, {**facts, "init_refused": f"the log density is finite at {usable.mean():.0%}"})
    low, high = np.quantile(values[usable], [0.25, 0.75])
    spread = float((high - low) / 1.349 / np.sqrt(target.dim / 2))
    if spread > _WIDE:
        return Beginning(
            None,
            None,
            {**facts, "init_refused": f"the log density varies {spread:.0f} times as much as it should, over all"},
        )
    kept = np.flatnonzero(usable)
    shares = smooth(np.where(np.isfinite(weights[chosen][kept]), weights[chosen][kept], -np.inf)).log_weights
    shares = np.exp(shares - logsumexp(shares)) + 1e-12
    starts = generator.choice(kept, size=chains, replace=False, p=shares / shares.sum())
    metric = fit(z[kept][None], slopes[kept][None], np.ones((1, len(kept)), bool), rank)
    return Beginning(z[starts], metric, facts)


def _gradients(target: Target, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log densities (n,) and gradients (n, d) at points (n, d)."""
    program = compiled(target, "value and gradient", target.value_and_grad, _MANY)
    values, slopes = np.empty(len(z)), np.empty(z.shape)
    with target.precision():
        for start in range(0, len(z), _MANY):
            part = z[start : start + _MANY]
            padded = np.concatenate([part, np.broadcast_to(part[:1], (_MANY - len(part), target.dim))])
            value, slope = jax.tree.map(np.asarray, program(padded.astype(target.dtype), target.inputs))
            values[start : start + len(part)], slopes[start : start + len(part)] = (
                value[: len(part)],
                slope[: len(part)],
            )
    return values, slopes
