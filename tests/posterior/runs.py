"""Synthetic runs: draws with a known law and a target that names them, so that no sampler is needed here."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from probinfer.inference.draws import Draws, Outcome
from probinfer.posterior.posterior import Posterior


class FakeSite(NamedTuple):
    name: str
    shape: tuple[int, ...]


class FakeTarget:
    """Positions are the flat latents themselves; `double` adds the deterministic site `twice_<first latent>`."""

    bound = None

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Sequence] | None = None,
        observed: Mapping[str, np.ndarray] | None = None,
        constant: Mapping[str, np.ndarray] | None = None,
        double: bool = False,
        pinned: Mapping[tuple, float] | None = None,
    ):
        self.latents = tuple(FakeSite(name, tuple(shape)) for name, shape in shapes.items())
        first = self.latents[0]
        self.deterministics = (FakeSite(f"twice_{first.name}", first.shape),) if double else ()
        self.dim = sum(int(np.prod(site.shape, dtype=int)) for site in self.latents)
        self.coords = {name: np.asarray(labels) for name, labels in (coords or {}).items()}
        self.observed_data = dict(observed or {})
        self.constant_data = dict(constant or {})
        self.log_likelihood_calls = 0
        self._dims = dict(dims or {})
        self._pinned = dict(pinned or {})

    def constrain(self, positions, *, deterministics=True):
        values, start = {}, 0
        for site in self.latents:
            size = int(np.prod(site.shape, dtype=int))
            values[site.name] = positions[..., start : start + size].reshape(*positions.shape[:-1], *site.shape).copy()
            start += size
        for (name, *index), constant in self._pinned.items():
            values[name][(..., *index)] = constant
        if deterministics:
            values |= {site.name: 2 * values[self.latents[0].name] for site in self.deterministics}
        return values

    def pointwise_log_likelihood(self, positions):
        """y ~ Normal(first latent entry, 1)."""
        self.log_likelihood_calls += 1
        if not self.observed_data:
            return None
        mean = positions[..., :1]
        return {name: -0.5 * (y - mean) ** 2 - 0.5 * np.log(2 * np.pi) for name, y in self.observed_data.items()}

    def dims_of(self, name):
        return tuple(self._dims.get(name, ()))


def ar1(rng: np.random.Generator, shape: tuple[int, ...], phi: float) -> np.ndarray:
    """Stationary Gaussian chains of variance one along the last axis, correlation phi between neighbours."""
    x = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        x[..., t] = phi * x[..., t - 1] + np.sqrt(1 - phi**2) * x[..., t]
    return x


def make_draws(positions: np.ndarray, stats=None, **about) -> Draws:
    chained = positions.ndim == 3
    known = {
        "sample_dims": ("chain", "draw") if chained else ("sample",),
        "outcome": Outcome.COMPLETED,
        "seconds": {"compile": 0.5, "warmup": 0.25, "sampling": 0.125},
        "settings": {"draws": positions.shape[-2], "target_accept": 0.8, "max_tree_depth": 10},
        "method": "NUTS",
    }
    return Draws(positions=positions, stats=stats or {}, **{**known, **about})


def make_posterior(positions, stats=None, target=None, *, model=None, attrs=None, **about) -> Posterior:
    """Posterior over one vector `x`, unless a target says otherwise."""
    target = target or FakeTarget({"x": (positions.shape[-1],)})
    return Posterior.from_draws(
        make_draws(positions, stats, **about), target, model=model, data=None, attrs={"seed": 3, **(attrs or {})}
    )


def good_stats(rng: np.random.Generator, chains: int, draws: int) -> dict[str, np.ndarray]:
    """Statistics of a healthy run of NUTS."""
    return {
        "lp": rng.normal(size=(chains, draws)),
        "acceptance_rate": rng.uniform(0.7, 0.95, size=(chains, draws)),
        "step_size": np.full((chains, draws), 0.4),
        "tree_depth": np.full((chains, draws), 3),
        "n_steps": np.full((chains, draws), 7),
        "diverging": np.zeros((chains, draws), bool),
        "energy": rng.normal(size=(chains, draws)),
        "reached_max_treedepth": np.zeros((chains, draws), bool),
    }
