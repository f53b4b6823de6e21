"""What summing discrete sites out costs: the model as it is written with them next to the sum written by hand.

    python -m benchmarks.discrete [--only MODEL ...] [--repeat 9] [--dry]

Normal mixtures with k components; a class for each group of rows, whose rows are spread over the table; hidden Markov
chains of k states in numpyro's scan, by hand the forward recursion. `sites` is the
model with its discrete sites, `by hand` the same density with a logsumexp of the model's own, as one would write it
with numpyro.factor. Microseconds of processor time a leapfrog, medians of turns: of a bare loop of leapfrog steps on
one thread, and of the block that `pi.NUTS` runs. `discrete sites` is the wall time that drawing them for 4,000 draws
takes afterwards. Writes a section of RESULTS.md unless --dry or --only.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import probinfer as pi
from benchmarks.loop import Sampled
from benchmarks.results import measure_table

TITLE = "What summing discrete sites out costs"
HEADER = (
    "| model | rows | bare, µs a leapfrog: sites | by hand | ratio | block: sites | by hand | ratio |"
    " discrete sites, s |\n|---|---|---|---|---|---|---|---|---|"
)


def _components(k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(k)))
    centre = numpyro.sample("centre", dist.Normal(jnp.linspace(-4.0, 4.0, k), 1.0).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0).expand([k]).to_event(1))
    return share, centre, scale


def mixture(y: Any, k: int) -> None:
    share, centre, scale = _components(k)
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Categorical(share))
        numpyro.sample("y", dist.Normal(centre[z], scale[z]), obs=y)


def mixture_by_hand(y: Any, k: int) -> None:
    share, centre, scale = _components(k)
    each = jnp.log(share)[:, None] + dist.Normal(centre[:, None], scale[:, None]).log_prob(y)
    numpyro.factor("y", jax.nn.logsumexp(each, axis=0).sum())


def groups(y: Any, group: Any, count: int, k: int) -> None:
    share, centre, scale = _components(k)
    with numpyro.plate("group", count):
        z = numpyro.sample("z", dist.Categorical(share))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(centre[z[group]], scale[z[group]]), obs=y)


def groups_by_hand(y: Any, group: Any, count: int, k: int) -> None:
    share, centre, scale = _components(k)
    rows = dist.Normal(centre, scale).log_prob(y[:, None])
    each = jnp.log(share) + jax.ops.segment_sum(rows, group, num_segments=count)
    numpyro.factor("y", jax.nn.logsumexp(each, axis=1).sum())


def _chain(k: int) -> tuple[jax.Array, jax.Array]:
    moves = numpyro.sample("moves", dist.Dirichlet(jnp.ones((k, k)) + 4.0 * jnp.eye(k)).to_event(1))
    return moves, numpyro.sample("centre", dist.Normal(jnp.linspace(-4.0, 4.0, k), 1.0).to_event(1))


def hidden_markov(y: Any, k: int) -> None:
    moves, centre = _chain(k)

    def step(before: Any, row: Any) -> tuple[Any, None]:
        state = numpyro.sample("state", dist.Categorical(moves[before]))
        numpyro.sample("y", dist.Normal(centre[state], 1.0), obs=row)
        return state, None

    scan(step, 0, y)


def hidden_markov_by_hand(y: Any, k: int) -> None:
    moves, centre = _chain(k)
    logs, seen = jnp.log(moves), dist.Normal(centre, 1.0).log_prob(y[:, None])

    def forward(before: jax.Array, here: jax.Array) -> tuple[jax.Array, None]:
        return here + jax.nn.logsumexp(before[:, None] + logs, axis=0), None

    numpyro.factor("y", jax.nn.logsumexp(jax.lax.scan(forward, seen[0] + logs[0], seen[1:])[0]))


def _mixture_data(rows: int, k: int) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {"y": np.linspace(-4, 4, k)[generator.integers(0, k, rows)] + 0.7 * generator.normal(size=rows), "k": k}


def _groups_data(rows: int, k: int) -> dict[str, Any]:
    generator = np.random.default_rng(2)
    count = rows // 10
    group = generator.integers(0, count, rows)
    centre = np.linspace(-4, 4, k)[generator.integers(0, k, count)]
    return {"y": centre[group] + 0.7 * generator.normal(size=rows), "group": group, "count": count, "k": k}


MODELS: dict[str, tuple[Callable, Callable, dict[str, Any]]] = {
    "mixture of 2": (mixture, mixture_by_hand, _mixture_data(1000, 2)),
    "mixture of 5": (mixture, mixture_by_hand, _mixture_data(1000, 5)),
    "classes of 100 groups": (groups, groups_by_hand, _groups_data(1000, 3)),
    "hidden chain of 2 states": (hidden_markov, hidden_markov_by_hand, _mixture_data(300, 2)),
    "hidden chain of 5 states": (hidden_markov, hidden_markov_by_hand, _mixture_data(300, 5)),
}


def rows(name: str, repeat: int) -> list[str]:
    sites, by_hand, data = MODELS[name]
    sampled = [Sampled(model, data) for model in (sites, by_hand)]
    bare = [each.bare() for each in sampled]
    turns = [[*(each() for each in bare), *(each.block()[0] for each in sampled)] for _ in range(repeat)]
    ours, hand, our_block, hand_block = np.median(turns, axis=0)
    posterior = pi.infer(sites, data, pi.NUTS(), seed=1, progress=False)
    after = json.loads(posterior.tree.attrs["seconds"])["discrete"]
    line = (
        f"| {name} | {len(data['y'])} | {ours:.1f} | {hand:.1f} | {ours / hand:.2f} |"
        f" {our_block:.1f} | {hand_block:.1f} | {our_block / hand_block:.2f} | {after:.2f} |"
    )
    return [line]


def main(arguments: list[str] | None = None) -> None:
    words = "The first lines of the module say what is compared."
    measure_table("benchmarks.discrete", TITLE, HEADER, MODELS, rows, words, repeat=9, arguments=arguments)


if __name__ == "__main__":
    main()
