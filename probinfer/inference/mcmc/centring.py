"""Which centring of a hierarchy's latents fits, from draws and gradients; and chains and draws in its coordinates."""

import json

import numpy as np

from probinfer.inference.mcmc.block import ChainState, Row
from probinfer.inference.mcmc.compiled import compiled_density
from probinfer.inference.mcmc.metric import pooled
from probinfer.inference.method import Warm
from probinfer.model.recentred import Recentred
from probinfer.model.target import Target

UNTIL = 0.6  # of the warm-up: the latest that the centring changes
_GRID = np.linspace(0, 1, 11)
_SHRINK = 50.0  # draws in all, by which the entries of a site are judged alike as much as one by one
_TOLERANCE = 0.1  # of a loss, the log of a ratio of variances: less is no reason to be anywhere but at an end
_LOOKED_AT = 100  # draws of a posterior nearby
_NUMBERS = 500_000  # entries of draws that a choice looks at, at most; but _LEAST draws of each chain at least
_LEAST = 20


def best_centring(target: Recentred, draws: np.ndarray, gradients: np.ndarray, use: np.ndarray) -> np.ndarray:
    """The centring (d,) under which each entry z that can be moved has the least var(z) var(gradient).

    That product is 1 for a normal law of its own, and more for any other: it is the Fisher divergence that the metric
    of this entry cannot mend. At fixed values of the other coordinates, with c the centring of `target`,

        z(c') = c' loc + scale^(c' - c) (z - c loc),        gradient(c') = scale^(c - c') gradient

    (of noise that is mixed, with 1 - c' and 1 - c before loc), so one set of draws judges every centring. Where an end,
    0 or 1, is nearly as good as the best, it is taken: with fewer draws, what is in between is noise, and a neck that
    they did not go down is no trouble at 0.

    Args:
        draws, gradients: (chain, n, d) in the coordinates of `target`.
        use: (chain, n), which of them count.
    """
    centring = target.centring.copy()
    chosen = np.flatnonzero(target.movable)
    most = max(_NUMBERS // (len(draws) * len(chosen)), _LEAST)
    every = -(-draws.shape[1] // most)
    draws, gradients, use = draws[:, ::every], gradients[:, ::every], use[:, ::every]
    use = use & np.isfinite(draws).all(axis=-1) & np.isfinite(gradients).all(axis=-1)
    if use.sum() < 2 * len(use):
        return centring
    losses = _losses(target, draws, gradients, use, chosen)
    names = np.array(target.coordinate_names())[chosen]
    for name in target.hierarchical:
        own = names == name
        shared = losses[:, own].mean(axis=1, keepdims=True)
        loss = losses[:, own] + _SHRINK / use.sum() * shared
        centring[chosen[own]] = _picked(loss, centring[chosen[own]], float(shared[0, 0] - shared[-1, 0]))
    return centring


def _losses(
    target: Recentred, draws: np.ndarray, gradients: np.ndarray, use: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """log var(z) + log var(gradient) for every centring of the grid and each chosen entry (grid, m)."""
    shape = (*draws.shape[:2], len(chosen))
    there = target.move(draws.reshape(-1, target.dim), target.centring)
    loc, log_scale = (part[:, chosen].reshape(shape) for part in (there.loc, there.log_scale))
    here = target.centring[chosen]
    share = np.asarray(target.share(target.centring))[chosen]
    noise, gradients = draws[..., chosen] - share * loc, gradients[..., chosen]
    losses = np.empty((len(_GRID), len(chosen)))
    with np.errstate(all="ignore"):
        for k, c in enumerate(_GRID):
            stretch = np.exp((c - here) * log_scale)
            share = np.asarray(target.share(np.full(target.dim, c)))[chosen]
            spreads = [pooled(part, use).var(axis=0) for part in (share * loc + stretch * noise, gradients / stretch)]
            losses[k] = np.log(spreads[0]) + np.log(spreads[1])
    return np.where(np.isfinite(losses), losses, np.inf)


def _picked(loss: np.ndarray, now: np.ndarray, lead: float) -> np.ndarray:
    """The centring of each entry (m,) for its losses (grid, m): an end that is good enough, else the best. Where one
    end is better for all entries together (`lead` of 1 over 0) it is the first choice, and twice the loss is good
    enough; else it is the one that an entry has `now`, or 0."""
    told = abs(lead) > _TOLERANCE
    wanted = np.full(len(now), float(lead > 0)) if told else np.where(now == 1.0, 1.0, 0.0)
    excess = loss - loss.min(axis=0)
    picked = _GRID[np.argmin(loss, axis=0)]
    for end, enough in ((1.0 - wanted, _TOLERANCE), (wanted, _TOLERANCE * (1 + told))):
        picked = np.where(np.where(end == 1.0, excess[-1], excess[0]) <= enough, end, picked)
    return np.where(np.isfinite(loss).any(axis=0), picked, now)


def moved(here: Recentred, there: Recentred, q: np.ndarray, g: np.ndarray, log_density: np.ndarray) -> tuple:
    """Points (..., d), gradients and log densities in the coordinates of another centring."""
    flat = q.reshape(-1, here.dim), g.reshape(-1, here.dim), log_density.reshape(-1)
    to = here.move(flat[0], there.centring).to
    back = there.move(to, here.centring, flat[1])
    return to.reshape(q.shape), back.gradient.reshape(q.shape), (flat[2] + back.surplus).reshape(log_density.shape)


def moved_states(here: Recentred, there: Recentred, states: ChainState) -> ChainState | None:
    """Where chains are, in the coordinates of another centring; None where that is no number."""
    q, g, log_density = moved(here, there, states.q, states.g, states.log_density)
    if not (np.isfinite(q).all() and np.isfinite(g).all() and np.isfinite(log_density).all()):
        return None
    return states._replace(q=q, g=g, log_density=log_density)


def as_the_model_has_them(target: Recentred, rows: Row) -> Row:
    """Draws with positions and log densities in the coordinates of the model; their gradients are left as they are."""
    plain = target.move(rows.q.reshape(-1, target.dim), np.ones(target.dim))
    surplus = plain.surplus.reshape(rows.log_density.shape)
    return rows._replace(q=plain.to.reshape(rows.q.shape), log_density=rows.log_density - surplus)


def from_the_model(target: Target, positions: np.ndarray) -> np.ndarray:
    """Positions (n, d) as the model has them, in the coordinates of the target."""
    if not isinstance(target, Recentred):
        return positions
    return target.centred(np.ones(target.dim)).move(positions, target.centring).to


def centred_nearby(target: Recentred, warm: Warm, key: np.ndarray) -> tuple[Recentred, Warm]:
    """The target with the centring that fits draws of a posterior nearby, which are as the model has them; and the
    draws in its coordinates."""
    density = compiled_density(target)
    order = np.random.default_rng([*np.asarray(key).tolist(), _LOOKED_AT]).permutation(len(warm.positions))
    picked = warm.positions[order[:_LOOKED_AT]].astype(target.dtype)
    with target.precision():
        gradients = np.stack([np.asarray(density(z, target.inputs)[1]) for z in picked])
    there = target.centred(best_centring(target, picked[None], gradients[None], np.ones((1, len(picked)), bool)))
    return there, warm._replace(positions=target.move(warm.positions, there.centring).to)


def recentred_sites(target: Recentred) -> dict[str, str]:
    """The facts of a run: the mean centring of each site that was not left as the model has it."""
    names = np.array(target.coordinate_names())
    means = {name: float(target.centring[names == name].mean()) for name in target.hierarchical}
    moved = {name: round(mean, 3) for name, mean in means.items() if mean < 1}
    return {"recentred": json.dumps(moved)} if moved else {}
