"""The law of an outcome whose row has discrete sites of its own: a mixture over their values, made anew for each row.

    p(y | θ) = Σ_k p(z = k | θ) p(y | z = k, θ)

The values that such sites had in training belong to the rows of training and say nothing about others. Imports numpyro.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from probinfer.inference.exact.elimination import CannotSum, dependences, values_of
from probinfer.inference.exact.rules import Along
from probinfer.model.target import Target
from probinfer.model.trace import pointwise_log_density
from probinfer.predict.families import BERNOULLI, CATEGORICAL
from probinfer.predict.laws import family_of, parameters_of

if TYPE_CHECKING:
    from probinfer.model.model import BoundModel

MOST_STATES = 100  # of all discrete sites of a row together: a component of the mixture each


def own_states(bound: "BoundModel", names: list[str], outcome: str, given: list[str]) -> dict[str, np.ndarray] | str:
    """The values of discrete sites with one entry for each row; or why an outcome is no mixture over them.

    given: other outcomes, which are known where the outcome is asked for.
    """
    sites = {site.name: site for site in bound.latents}
    if not set(names) <= set(bound.discrete) or any(len(sites[name].shape) != 1 for name in names):
        return "they are no discrete sites with one value for each row"
    target = Target(bound, gradient=False)
    try:
        values = values_of(target)
    except CannotSum as refusal:
        return str(refusal).rstrip(".")
    states = np.prod([len(values[name]) for name in names])
    if states > MOST_STATES:
        return f"they have {states} states together, more than {MOST_STATES}"
    seen = dependences(target)
    for name in names:
        for term in (outcome, *names):
            if name in seen[term] and not Along(0).same(seen[term][name].get(0)):
                return f"{term} of a row depends on {name} of other rows"
        told = [term for term in given if name in seen[term]]
        if told:
            return f"{', '.join(told)} depends on {name} too, and is known"
    return {name: values[name] for name in names}


def mixed_over(
    values: Mapping[str, np.ndarray], rows: int, outcome: str, run: Callable[[dict[str, jax.Array]], Mapping[str, Any]]
) -> Any:
    """The outcome's law for each of `rows` rows, from traces of the model with its states fixed."""
    weights, parts = [], []
    for state in itertools.product(*values.values()):
        trace = run({name: jnp.full(rows, value) for name, value in zip(values, state, strict=True)})
        weight = sum((pointwise_log_density(trace[name]) for name in values), start=jnp.zeros(rows))
        weights.append(jnp.broadcast_to(weight, (rows,)))
        law = trace[outcome]["fn"]
        parts.append(law if law.batch_shape == (rows,) else law.expand((rows,)))
    logits = jnp.stack(weights, axis=-1)
    shares = jax.nn.softmax(logits, axis=-1)
    family = family_of(parts[0])
    if family in (BERNOULLI, CATEGORICAL) and parts[0].event_dim == 0:
        logs = [parameters_of(part, (rows,))[0] for part in parts]
        if family is BERNOULLI:
            return dist.Bernoulli(probs=jnp.sum(shares * jax.nn.sigmoid(jnp.stack(logs, axis=-1)), axis=-1))
        return dist.Categorical(probs=jnp.einsum("nk,nkc->nc", shares, jnp.exp(jnp.stack(logs, axis=1))))
    return dist.MixtureGeneral(dist.Categorical(probs=shares), parts, support=parts[0].support)
