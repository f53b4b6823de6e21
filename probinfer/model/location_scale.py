"""Latent sites whose law is a location and a scale, and which of them hang on other latents. Imports NumPyro
and JAX."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from numpyro import distributions as dist

from probinfer.model.trace import jacobian_name

_FAMILIES = (dist.Normal, dist.StudentT, dist.Laplace, dist.Logistic, dist.Cauchy, dist.Gumbel, dist.LogNormal)
_WRAPPED = (dist.Independent, dist.ExpandedDistribution)
UNIT_OF = "unit_of"  # what `infer` of a site of standard noise calls the scale that the model multiplies it by


class LocationScale(NamedTuple):
    """A law under which the unconstrained value is loc + scale * noise.

    loc, scale: of the shape of the site, or one that is broadcast to it. noise: its law, which has neither in it.
    unit: the value is the noise itself, which the model divides by `scale` afterwards; loc is 0.
    """

    loc: Any
    scale: Any
    noise: dist.Distribution
    unit: bool = False


def location_scale(site: Mapping[str, Any]) -> LocationScale | None:
    """The law of a site as a location and a scale; None for any that is not of such a family."""
    law = site["fn"]
    while isinstance(law, _WRAPPED):
        law = law.base_dist
    if type(law) not in _FAMILIES:
        return None
    if UNIT_OF in site["infer"]:
        return LocationScale(jnp.zeros(()), 1.0 / site["infer"][UNIT_OF], law, unit=True)
    if isinstance(law, dist.StudentT):
        return LocationScale(law.loc, law.scale, dist.StudentT(law.df, 0.0, 1.0))
    family: Any = dist.Normal if isinstance(law, dist.LogNormal) else type(law)
    return LocationScale(law.loc, law.scale, family(0.0, 1.0))


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
