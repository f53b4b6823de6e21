"""Latent sites whose law is a location and a scale, and which of them hang on other latents. Imports NumPyro
and JAX."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from numpyro import distributions as dist

from probinfer.model.trace import UNITS, jacobian_name

_FAMILIES = (dist.Normal, dist.StudentT, dist.Laplace, dist.Logistic, dist.Cauchy, dist.Gumbel, dist.LogNormal)
_WRAPPED = (dist.Independent, dist.ExpandedDistribution)
# What `infer` of a site of standard noise calls the scale that the model multiplies it by. Only its changes matter: a
# constant factor, the unit of the effect's coordinates, may be left out of it.
UNIT_OF = "unit_of"
# The same where the entries of its last axis are mixed: the lower triangular root that the model multiplies them by,
# and what it adds to each of them, from which a constant may be left out too.
ROOT_OF = "root_of"


class LocationScale(NamedTuple):
    """A law under which the unconstrained value, in the site's units, is loc + scale * noise.

    loc, scale: of the shape of the site, or one that is broadcast to it. noise: its law, which has neither in it.
    unit: the value is the noise itself, which the model divides by `scale` afterwards, and adds loc.
    root: of such noise, what it is multiplied by instead, (k, k) lower triangular; `scale` is one over its diagonal.
    """

    loc: Any
    scale: Any
    noise: dist.Distribution
    unit: bool = False
    root: Any = None


def location_scale(site: Mapping[str, Any]) -> LocationScale | None:
    """The law of a site as a location and a scale; None for any that is not of such a family."""
    if UNIT_OF in site["infer"] or ROOT_OF in site["infer"]:
        law, (root, loc) = _inner(site["fn"]), site["infer"].get(ROOT_OF, (None, jnp.zeros(())))
        scale = site["infer"][UNIT_OF] if root is None else jnp.diagonal(root)
        return None if law is None else LocationScale(loc, 1.0 / scale, law, unit=True, root=root)
    found = location_scale_of(site["fn"])
    if found is None or UNITS not in site["infer"]:
        return found
    middle, size = site["infer"][UNITS]
    return found._replace(loc=(found.loc - middle) / size, scale=found.scale / size)


def location_scale_of(law: Any) -> LocationScale | None:
    """A law as a location and a scale of its unconstrained value; None for any that is not of such a family."""
    law = _inner(law)
    if law is None:
        return None
    if isinstance(law, dist.StudentT):
        return LocationScale(law.loc, law.scale, dist.StudentT(law.df, 0.0, 1.0))
    family: Any = dist.Normal if isinstance(law, dist.LogNormal) else type(law)
    return LocationScale(law.loc, law.scale, family(0.0, 1.0))


def _inner(law: Any) -> Any:
    """The law of one of the families that there is inside of others that only shape it; None where there is none."""
    while isinstance(law, _WRAPPED):
        law = law.base_dist
    return law if type(law) in _FAMILIES else None


def dependent_sites(z: Any, trace: Mapping[str, Any], latents: Sequence[str]) -> tuple[str, ...]:
    """The latents whose location or scale depends on other latents, in a trace under differentiation by z.

    What depends on z has z's own type there, and nothing else has: data are tracers of another kind, and numbers are
    none. Inside a scan that tells nothing, so sites there are left out, as are those under a mask or scaled by a
    handler, whose log density is not that of their law. None of a model that nothing is observed in: its density is
    itself what was asked for.
    """
    own = {jacobian_name(name) for name in latents}
    if all(site["type"] != "sample" or not site["is_observed"] or name in own for name, site in trace.items()):
        return ()
    found = []
    for name in latents:
        site = trace[name]
        law = location_scale(site)
        if law is None or site["scale"] is not None or "_scan_current_index" in site["infer"]:
            continue
        if type(z) in (type(law.loc), type(law.scale)):
            found.append(name)
    return tuple(found)
