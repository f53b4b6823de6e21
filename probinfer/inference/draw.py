"""From a model and data to draws: the checks before a method runs, and where its draws come from."""

import enum
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import numpy as np

from probinfer.errors import MethodError, NoGradient
from probinfer.inference.checkpoint import Journal
from probinfer.inference.choose import choose
from probinfer.inference.draws import Draws
from probinfer.inference.exact.exact import Exact
from probinfer.inference.exact.summed import CannotSum, Summed
from probinfer.inference.fits import advice, check_fits
from probinfer.inference.key_words import key_words as key_words
from probinfer.inference.mcmc.gibbs import Gibbs
from probinfer.inference.mcmc.hmc import HMC
from probinfer.inference.mcmc.many import ManyChains
from probinfer.inference.mcmc.metropolis import Metropolis
from probinfer.inference.mcmc.nuts import NUTS
from probinfer.inference.mcmc.sghmc import SGHMC
from probinfer.inference.mcmc.sgld import SGLD
from probinfer.inference.method import Method, Need, Run, Warm, check_controls
from probinfer.inference.montecarlo.growing import PosteriorBefore, appended
from probinfer.inference.montecarlo.importance import Importance
from probinfer.inference.montecarlo.particle_gibbs import ParticleGibbs
from probinfer.inference.montecarlo.pmmh import PMMH
from probinfer.inference.montecarlo.rejection import Rejection
from probinfer.inference.montecarlo.replica import Tempering
from probinfer.inference.montecarlo.smc import BEFORE, SMC
from probinfer.inference.progress import make_progress
from probinfer.inference.settings import check_switch, check_switches, settings_of
from probinfer.inference.until import Until
from probinfer.inference.variational.flow import Flow
from probinfer.inference.variational.gaussian import FullRank, LowRank, MeanField
from probinfer.inference.variational.laplace import Laplace
from probinfer.inference.variational.pathfinder import Pathfinder
from probinfer.model.model import BoundModel, Model
from probinfer.model.shared_rows import devices_of
from probinfer.model.target import Target

METHODS: tuple[type, ...] = (
    NUTS,
    HMC,
    Metropolis,
    Gibbs,
    SGLD,
    SGHMC,
    Importance,
    Rejection,
    SMC,
    ManyChains,
    Tempering,
    PMMH,
    ParticleGibbs,
    Laplace,
    MeanField,
    LowRank,
    FullRank,
    Pathfinder,
    Flow,
    Exact,
)


def draw(
    model: Any,
    data: Any = None,
    method: Method | None = None,
    *,
    seed: Any = 0,
    until: Until | None = None,
    checkpoint: str | os.PathLike | None = None,
    devices: Any = None,
    progress: bool = True,
) -> tuple[Draws, Target, dict[str, Any]]:
    """Draws, the target they are from, and their provenance, for the posterior to keep. Arguments as for `infer`."""
    began, clock = time.perf_counter(), time.monotonic()
    key = key_words(seed)
    if until is not None and not isinstance(until, Until):
        raise MethodError(f"until came as {until!r}; wanted a rule such as pi.Until(ess=400, seconds=60), or None.")
    check_switch("infer", "progress", progress)
    if is_dataclass(method):
        check_switches(method)
    over = devices_of(devices) if devices is not None else ()
    model = model if isinstance(model, Model) else Model(model)
    bound = model.bind(data)
    if method is None:
        chosen, target, reason = choose(bound, steered=until is not None or checkpoint is not None or bool(over))
    else:
        chosen, reason = method, None
        target = target_for(method, bound)
    check_controls(chosen, until=until, checkpoint=checkpoint, devices=devices)
    if over:
        target = _shared(target, over)
    traced = time.perf_counter() - began
    provenance = _provenance(model, whole_target(target))
    journal = None
    if checkpoint is not None:
        given = json.loads(_json(settings_of(chosen)))
        settings = {f"{type(chosen).__name__}.{name}": value for name, value in given.items()}
        versions = {f"version of {name}": version for name, version in _versions().items()}
        parts = {"devices": len(over)} if over else {}  # their number decides how sums are rounded
        asked = {**provenance, "seed": [int(word) for word in key], **settings, **versions, **parts}
        journal = Journal(checkpoint, asked)
    line = make_progress(progress)
    try:
        draws, target = _drawn(chosen, target, Run(key, line, until, journal, clock))
    finally:
        line.close()
        if journal is not None:
            journal.close()
    attributes = _attributes(draws, provenance, seed, key, {"trace": traced, "began": began}, reason)
    return draws, target, {**attributes, **({"devices": len(over)} if over else {})}


def _shared(target: Target, devices: Sequence[jax.Device]) -> Target:
    if isinstance(target, Summed):
        raise MethodError(
            f"devices= is for models without discrete sites, and {', '.join(target.bound.discrete)} would be summed "
            "out on one device. Leave devices out."
        )
    return target.over(devices)


def target_for(method: Method, bound: BoundModel) -> Target:
    """The target as the method wants it: a `Summed` one where it cannot have discrete sites and the model has some.
    MethodError if the method does not fit the model."""
    check_fits(method, bound, METHODS)
    if isinstance(method, Metropolis):
        return method.target_of(bound)
    gradient = _wants_gradient(method.needs)
    if not (bound.discrete and {Need.CONTINUOUS, Need.GRADIENT} & method.needs):
        return traced(bound, method)
    try:
        target = Summed(bound, float64=method.float64, gradient=gradient)
    except CannotSum as refusal:
        raise MethodError(
            f"{type(method).__name__} needs discrete sites summed out, and here they cannot be: {refusal} "
            f"{advice(bound, METHODS)}"
        ) from None
    if target.dim == 0 and not isinstance(method, Exact):
        raise MethodError(
            f"{type(method).__name__} has nothing left to draw once {', '.join(bound.discrete)} "
            f"{'is' if len(bound.discrete) == 1 else 'are'} summed out: the model has no continuous site. "
            f"{advice(bound, METHODS)}"
        )
    return target


def traced(bound: BoundModel, method: Method) -> Target:
    """The target of all sites, with a gradient where the method wants one. Raises NoGradient where it cannot do without
    one that there is not."""
    try:
        return Target(bound, float64=method.float64, gradient=_wants_gradient(method.needs))
    except NoGradient:
        if Need.GRADIENT_IF_ANY not in method.needs:
            raise
        return Target(bound, float64=method.float64, gradient=False)


def _wants_gradient(needs: frozenset[Need]) -> bool:
    return bool({Need.GRADIENT, Need.PARTIAL_GRADIENT, Need.GRADIENT_IF_ANY} & needs)


def model_fingerprint(bound: BoundModel, method: str, *, float64: bool) -> str:
    """The fingerprint that a posterior of this model has when the method of that name drew it: it is that of the
    program, which has a gradient only for methods that use one."""
    known: dict[str, Any] = {each.__name__: each for each in METHODS}
    gradient = method not in known or _wants_gradient(known[method].needs)
    try:
        return Target(bound, float64=float64, gradient=gradient).fingerprint
    except NoGradient:  # it did without
        return Target(bound, float64=float64, gradient=False).fingerprint


def whole_target(target: Target) -> Target:
    """The target of all sites of a model: of a `Summed` one, that with the discrete sites too."""
    return target.whole if isinstance(target, Summed) else target


def _drawn(method: Method, target: Target, run: Run) -> tuple[Draws, Target]:
    """Draws of all sites, and the target they are from."""
    if isinstance(target, Summed) and run.warm is not None:
        run = run._replace(warm=run.warm._replace(positions=target.part(run.warm.positions)))
    return _completed(method.run(target, run), target, run.key)


def _completed(draws: Draws, target: Target, key: np.ndarray) -> tuple[Draws, Target]:
    """The draws with the discrete sites that were summed out, drawn given the others; and the target of all sites."""
    if not isinstance(target, Summed):
        return draws, target
    began = time.perf_counter()
    positions = target.complete(draws.positions, key)
    seconds = {**draws.seconds, "discrete": time.perf_counter() - began}
    facts = {**draws.facts, "summed_out": target.words}
    return replace(draws, positions=positions, seconds=seconds, facts=facts), target.whole


def draw_update(
    model: Model,
    before: Mapping[str, Any],
    new: Any,
    latents: Mapping[str, np.ndarray],
    method: SMC,
    *,
    seed: Any,
    progress: bool,
) -> tuple[Draws, Target, dict[str, Any]]:
    """As `draw`, from draws of the posterior given the data `before` to that given the new data too."""
    began, clock, key = time.perf_counter(), time.monotonic(), key_words(seed)
    if not isinstance(method, SMC):
        raise MethodError(f"method came as {method!r}; an update is made by pi.SMC().")
    if method.proposal is not None:
        raise MethodError("SMC: an update begins at the draws of the posterior before; leave proposal= out.")
    model = model.settle(before)  # preprocessing stays as it was fitted: the draws are on its scale
    bounds = [model.bind(data) for data in (before, appended(before, model.take(new)))]
    old, target = (target_for(method, bound) for bound in bounds)
    beginning = PosteriorBefore(old, target, latents)
    traced = time.perf_counter() - began
    line = make_progress(progress)
    try:
        draws = method.lead(beginning, BEFORE, Run(key, line, began=clock))
    finally:
        line.close()
    draws, target = _completed(draws, target, key)
    spent = {"trace": traced, "began": began}
    return draws, target, _attributes(draws, _provenance(model, target), seed, key, spent, None)


def draw_again(
    target: Target, method: Method, *, warm: Warm | None, seed: Any, progress: bool
) -> tuple[Draws, Target, dict[str, Any]]:
    """As `draw`, from a target that is traced already; Markov chains start at the draws `warm`, of all sites."""
    began, clock, key = time.perf_counter(), time.monotonic(), key_words(seed)
    line = make_progress(progress)
    try:
        draws, target = _drawn(method, target, Run(key, line, began=clock, warm=warm))
    finally:
        line.close()
    spent = {"trace": 0.0, "began": began}
    return draws, target, _attributes(draws, _provenance(target.bound.model, target), seed, key, spent, None)


def method_again(name: str, settings: Mapping[str, Any]) -> Method:
    """The method of a run, from its name and its settings. MethodError if they are not those of a method here."""
    known: dict[str, Any] = {method.__name__: method for method in METHODS}
    if name not in known:
        raise MethodError(f"The draws are by {name!r}, no method of this version; pass method=, such as pi.NUTS().")
    kinds = {field.name: field.type for field in fields(known[name])}
    choices = {name: kind for name, kind in kinds.items() if isinstance(kind, enum.EnumType)}
    try:
        given = {key: value for key, value in settings.items() if key in kinds}
        given |= {key: choices[key][given[key]] for key in choices.keys() & given.keys()}
        return known[name](**given)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise MethodError(f"{name} cannot be set up again from its settings ({error}); pass method=.") from error


def _provenance(model: Model, target: Target) -> dict[str, Any]:
    return {
        "data_hash": data_hash(target.bound),
        "model_name": getattr(model.fn, "__name__", type(model).__name__),
        "model_fingerprint": target.fingerprint,
        **({"improper": json.dumps(target.bound.improper)} if target.bound.improper else {}),
    }


def _attributes(
    draws: Draws,
    provenance: Mapping[str, Any],
    seed: Any,
    key: np.ndarray,
    spent: Mapping[str, float],
    reason: str | None,
) -> dict[str, Any]:
    """What the posterior's tree says about its making."""
    seconds = {"trace": spent["trace"], **draws.seconds, "total": time.perf_counter() - spent["began"]}
    return {
        "method": draws.method,
        **({"method_chosen": reason} if reason else {}),
        "settings": _json(draws.settings),
        "seed": json.dumps(seed if isinstance(seed, int) else [int(word) for word in key]),
        **provenance,
        "versions": json.dumps(_versions()),
        "outcome": draws.outcome.value,
        **draws.facts,
        **({"until": json.dumps(dict(draws.stopping))} if draws.stopping is not None else {}),
        "seconds": json.dumps(seconds),
    }


def _json(settings: Mapping[str, Any]) -> str:
    """Settings as JSON, choices and functions by their names."""
    return json.dumps(dict(settings), default=lambda value: getattr(value, "__qualname__", str(value)))


def data_hash(bound: BoundModel) -> str:
    """SHA-256 of the data: names, types, shapes, values."""
    digest = hashlib.sha256(json.dumps(_plain(bound.constants), sort_keys=True, default=str).encode())
    for name, array in sorted(bound.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _plain(constants: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in constants.items()}


@functools.cache  # looking them up takes longer than sampling a small model
def _versions() -> dict[str, str]:
    packages = ("probinfer", "jax", "jaxlib", "numpyro", "numpy", "arviz-base", "arviz-stats")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
