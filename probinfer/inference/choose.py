"""Which method a model gets when the user names none, and why."""

import numpy as np

from probinfer.errors import MethodError, NoGradient
from probinfer.inference.exact.conjugate import could_be_conjugate, solve
from probinfer.inference.exact.exact import Exact
from probinfer.inference.exact.summed import CannotSum, Summed
from probinfer.inference.mcmc.gibbs import Gibbs
from probinfer.inference.mcmc.metropolis import Metropolis
from probinfer.inference.mcmc.nuts import NUTS
from probinfer.inference.method import Method
from probinfer.inference.montecarlo.pmmh import PMMH
from probinfer.model.model import BoundModel
from probinfer.model.statespace import StateSpace
from probinfer.model.target import Target
from probinfer.model.topics import TopicModel


def choose(bound: BoundModel, *, steered: bool) -> tuple[Method, Target, str]:
    """The method, the target as it wants it, and the reason in words. `steered`: by a stop rule, a checkpoint or
    devices, which only Markov chains heed."""
    if isinstance(bound.model, StateSpace) and bound.model.linear is None:
        reason = "the states cannot be integrated out in closed form, so particles estimate the parameters' likelihood"
        return PMMH(), Target(bound, gradient=False), reason
    if isinstance(bound.model, TopicModel):
        reason = "of a topic model the mixtures and the words' distributions can be integrated out"
        return Gibbs(), Target(bound), reason
    if bound.discrete:
        return _choose_for_discrete(bound, steered=steered)
    try:
        target = Target(bound)
    except NoGradient:
        return Metropolis(), Target(bound, gradient=False), "the log density has no gradient"
    if not steered and _has_closed_form(target):
        return Exact(), target, "the posterior has a closed form"
    return NUTS(), target, "every latent site is continuous and the log density has a gradient"


def _choose_for_discrete(bound: BoundModel, *, steered: bool) -> tuple[Method, Target, str]:
    named = f"{', '.join(bound.discrete)} {'is' if len(bound.discrete) == 1 else 'are'}"
    gradient, missing = True, ""
    try:
        Target(bound)
    except NoGradient:
        gradient, missing = False, ", and the log density has no gradient"
    try:
        target = Summed(bound, gradient=gradient)
    except CannotSum as refusal:
        reason = f"{named} discrete and cannot be summed out: {str(refusal).rstrip('.')}{missing}"
        return Gibbs(), Target(bound, gradient=gradient), reason
    if target.dim and not gradient:
        return Metropolis(), target, f"{named} summed out{missing}"
    if target.dim:
        return NUTS(), target, f"{named} discrete and summed out exactly ({target.words}), which leaves a gradient"
    if steered:  # only chains heed that
        return Gibbs(), target.whole, f"every latent site is discrete ({target.words})"
    return Exact(), target, f"every latent site is discrete and can be summed over ({target.words})"


def _has_closed_form(target: Target) -> bool:
    if not could_be_conjugate(target):
        return False
    try:
        solve(target, np.random.default_rng(0))
    except MethodError:
        return False
    return True
