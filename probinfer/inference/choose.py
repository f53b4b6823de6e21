"""Which method a model gets when the user names none, and why."""

from probinfer.errors import NoGradient
from probinfer.inference.mcmc.gibbs import Gibbs
from probinfer.inference.mcmc.metropolis import Metropolis
from probinfer.inference.mcmc.nuts import NUTS
from probinfer.inference.method import Method
from probinfer.inference.montecarlo.pmmh import PMMH
from probinfer.model.model import BoundModel
from probinfer.model.statespace import StateSpace
from probinfer.model.target import Target


def choose(bound: BoundModel) -> tuple[Method, Target, str]:
    """The method, the target as it wants it, and the reason in words."""
    if isinstance(bound.model, StateSpace) and bound.model.linear is None:
        reason = "the states cannot be integrated out in closed form, so particles estimate the parameters' likelihood"
        return PMMH(), Target(bound, gradient=False), reason
    if bound.discrete:
        return Gibbs(), Target(bound), f"the latent site {bound.discrete[0]} is discrete"
    try:
        return NUTS(), Target(bound), "every latent site is continuous and the log density has a gradient"
    except NoGradient:
        return Metropolis(), Target(bound, gradient=False), "the log density has no gradient"
