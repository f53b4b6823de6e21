"""Whether a method fits a model, before any work; and which methods do, where it does not."""

import contextlib
from typing import Any, NamedTuple

from probinfer.errors import MethodError, NoGradient
from probinfer.inference.exact.conjugate import could_be_conjugate
from probinfer.inference.exact.exact import Exact
from probinfer.inference.exact.summed import CannotSum, Summed
from probinfer.inference.latent_sites import describe
from probinfer.inference.method import Need
from probinfer.model.model import BoundModel
from probinfer.model.statespace import StateSpace
from probinfer.model.target import Target


def check_fits(method: Any, bound: BoundModel, methods: tuple[Any, ...]) -> None:
    """Raise MethodError when the method needs what the model does not offer, naming the methods that would fit."""
    if not (hasattr(method, "needs") and callable(getattr(method, "run", None))) or isinstance(method, type):
        hint = f"; did you mean {method.__name__}()?" if isinstance(method, type) else ""
        names = ", ".join(f"pi.{each.__name__}()" for each in methods)
        raise MethodError(f"method came as {method!r}; wanted one of {names}{hint}")
    if Need.STATES in method.needs and not isinstance(bound.model, StateSpace):
        raise MethodError(
            f"{type(method).__name__} needs {Need.STATES.value}, and the model came as a "
            f"{type(bound.model).__name__}. {advice(bound, methods)}"
        )
    if bound.discrete and Need.NO_DISCRETE in method.needs:
        raise MethodError(
            f"{type(method).__name__} needs {Need.NO_DISCRETE.value}, but {', '.join(bound.discrete)} "
            f"{'is' if len(bound.discrete) == 1 else 'are'} discrete. {advice(bound, methods)}"
        )


def advice(bound: BoundModel, methods: tuple[Any, ...]) -> str:
    """A sentence with the methods that fit a model, as far as its sites, its gradient and its sums tell."""
    offer = _offer(bound)
    names = [each.__name__ for each in methods if _fits(each, offer)]
    return f"Fits: {', '.join(names)}." if names else "No method of this version draws its discrete sites."


class _Offer(NamedTuple):
    """What a model offers. left: of discrete sites that can be summed out, the continuous dimensions that are left."""

    states: bool
    discrete: bool
    vectors: bool
    gradient: bool
    conjugate: bool
    left: int | None


def _offer(bound: BoundModel) -> _Offer:
    """Found out by tracing the model anew: this is for errors, whose text may take a moment."""
    gradient, left = True, None
    try:
        target = Target(bound)
    except NoGradient:
        gradient, target = False, Target(bound, gradient=False)
    if bound.discrete:
        with contextlib.suppress(CannotSum):
            left = Summed(bound, gradient=False).dim
    about = describe(target)
    return _Offer(
        states=isinstance(bound.model, StateSpace),
        discrete=bool(bound.discrete),
        vectors=any(about[name].vectors for name in bound.discrete),
        gradient=gradient,
        conjugate=gradient and not bound.discrete and could_be_conjugate(target),
        left=left,
    )


def _fits(method: Any, offer: _Offer) -> bool:
    needs = method.needs
    if Need.STATES in needs:
        return offer.states
    if {Need.GRADIENT, Need.PARTIAL_GRADIENT} & needs and not offer.gradient:
        return False
    if method is Exact:
        return offer.left == 0 or offer.conjugate
    if not offer.discrete:
        return True
    if Need.NO_DISCRETE in needs:
        return False
    if Need.DENSITY in needs:
        return offer.left is not None or not offer.vectors
    if Need.GRADIENT_IF_ANY in needs:
        return not offer.vectors
    return bool(offer.left)
