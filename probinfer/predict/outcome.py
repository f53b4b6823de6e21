"""From a posterior to its outcome as a function of one row: found, checked against the whole model, exported.

A NumPyro function is written for all rows at once. A predictor needs it for any rows, however many. So the function
is run with data of one row, and JAX's vmap makes it a function of many. That is right only where rows do not look at
one another, and what a function does cannot be read from its text; so it is checked: on training rows the one-row
program must give what the model gives.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from probinfer.errors import DataError, ModelError, ProbinferError
from probinfer.model.forks import before_jax
from probinfer.model.pipeline.raw import Place
from probinfer.model.pipeline.steps import Unseen
from probinfer.model.statespace import StateSpace
from probinfer.model.topics import TopicModel
from probinfer.model.trace import VALUE_NEEDED
from probinfer.predict.changed import changed, changed_programs
from probinfer.predict.discrete import BINOMIAL
from probinfer.predict.family import Family, Support
from probinfer.predict.laws import family_of, is_circular, itself, parameters_of
from probinfer.predict.levels import picking_inputs, read_inputs
from probinfer.predict.own_law import own_law
from probinfer.predict.own_states import mixed_over, own_states
from probinfer.predict.population_law import Asked, population_of
from probinfer.predict.program import LOG_DENSITY, MOMENTS, NO_INPUT, PARAMETERS, SAMPLE, Input, Program
from probinfer.predict.training import sketch

if TYPE_CHECKING:
    from probinfer.model.model import BoundModel
    from probinfer.posterior.posterior import Posterior

_CHECKED_ROWS = 32
_CHECKED_DRAWS = 3
_CHECK_RTOL = 1e-6
_PLATFORMS = ("cpu", "cuda", "tpu")


_JOINT = (
    "its distribution is one over all rows together (a Gaussian process, a time series), so it has no answer for a row "
    "alone. A predictor needs an outcome whose rows are independent of one another given the parameters."
)


class _Unfit(Exception):
    """Why a plan does not work. `rank`: how much it tells, the highest is shown."""

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(text)
        self.rank = rank


class _Law(NamedTuple):
    """What the check learned. `top`: the largest outcome in training, of a binomial its largest total."""

    family: Family | None
    event_dim: int
    discrete: bool
    top: float


@dataclass(frozen=True)
class _Plan:
    """One way of running the function for a single row.

    rows        data cut to one row
    fixed       data as they were
    constants   sizes and switches as they are for one row; an outcome that is left out is None
    left_out    outcomes that are not given: None, or placeholder `zeros` for a function that cannot do without
    states      values of the discrete sites that every row has for itself, over which the outcome is mixed
    """

    bound: "BoundModel"
    site: Any
    rows: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    constants: Mapping[str, Any]
    zeros: Mapping[str, np.ndarray]
    left_out: tuple[str, ...]
    row_counts: tuple[str, ...]
    states: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def event(self) -> tuple[int, ...]:
        return tuple(self.site.shape[1:])

    def law(self, draw: Mapping[str, Any], fixed: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        """The outcome's distribution for one row, given without its leading axis, and one draw."""
        arrays = {**fixed, **self.zeros, **{name: value[None] for name, value in row.items() if name != NO_INPUT}}
        return self._law(draw, 1, arrays, self.constants)

    def laws(self, draw: Mapping[str, Any]) -> Any:
        """The outcome's distribution for all rows of the training data, and one draw."""
        return self._law(draw, self.site.shape[0], None, None)

    def _law(self, draw: Mapping[str, Any], rows: int, arrays: Any, constants: Any) -> Any:
        if not self.states:
            return itself(self.bound.simulate(draw, arrays, constants)[self.site.name]["fn"])
        shared = {name: value for name, value in draw.items() if name not in self.states}
        return mixed_over(
            self.states,
            rows,
            self.site.name,
            lambda states: self.bound.simulate({**shared, **states}, arrays, constants),
        )


def row_program(
    posterior: "Posterior",
    outcome: str | None,
    unseen: Unseen | Mapping[str, Unseen] = Unseen.ERROR,
    *,
    of_several: bool = False,
) -> tuple[Program, dict[str, Any] | None]:
    """The program behind a predictor, and a sketch of the rows it was trained on. `unseen`: see `Predictor`.
    `of_several`: it may name inputs that other outcomes have, and this one needs none.

    Raises ModelError where the posterior has no model or no such outcome, where rows of the outcome are not independent
    of one another given the parameters, and where new levels cannot be answered that are wanted.
    """
    before_jax()
    bound = bound_model(posterior)
    site = _outcome_site(bound, outcome)
    latents = {site.name: np.asarray(posterior.latents[site.name]) for site in bound.latents}
    reasons: list[_Unfit] = []
    with jax.enable_x64(True):
        for plan in _plans(bound, site):
            try:
                plan, law = _check(plan, latents)
            except _Unfit as reason:
                reasons.append(reason)
                continue
            evidence = posterior.report.evidence
            program = _export(plan, law, latents, evidence.chains if evidence.chained else None)
            program = _with_population(plan, latents, program, unseen, of_several)
            return _in_own_units(bound, plan, site, program)
    best = max(reasons, key=lambda reason: reason.rank)
    raise ModelError(f"The outcome {site.name!r} cannot be predicted row by row: {best}")


def _in_own_units(
    bound: "BoundModel", plan: "_Plan", site: Any, program: Program
) -> tuple[Program, dict[str, Any] | None]:
    """The program for raw rows and outcomes in their own units, if the model has preprocessing, and the sketch."""
    known, argument = {**bound.constants, **bound.arrays}, bound.observed_arguments.get(site.name)
    y = known.get(argument)
    if bound.pipeline is None or bound.raw is None:
        return program, sketch(plan.rows, y, program)
    prepared = bound.pipeline.prepared(argument).of([entry.name for entry in program.inputs])
    made = [each.argument for each in prepared.inputs]
    absent = [entry.name for entry in program.inputs if entry.name not in made]
    if absent:
        raise ModelError(
            f"The outcome {site.name!r} needs {', '.join(absent)} for every row, which the pipeline makes of no raw "
            "column: declare it among the inputs."
        )
    if program.population is not None:
        prepared = prepared.open_to(program.population.levels)
    outcome = prepared.outcome
    if outcome is not None:
        _check_observed(bound, site, argument)
        if outcome.labels is not None and program.probabilities != len(outcome.labels):
            raise ModelError(
                f"The outcome {site.name!r} is coded as {len(outcome.labels)} classes, and its law in the model has "
                f"{program.probabilities or 'none'}: give it one with as many, Bernoulli for two or Categorical."
            )
        if outcome.change is not None and (program.discrete or program.event):
            raise ModelError(
                f"The outcome {site.name!r} is transformed, which goes with one number a row of a continuous law."
            )
        y = outcome.own(bound.raw[outcome.column.name], Place(DataError))
    change = outcome.change if outcome else None
    program = replace(
        program,
        family=changed(program.family, change) if program.family else None,
        programs=program.programs if program.family else changed_programs(program.programs, change),
        prepared=prepared,
    )
    return program, sketch(plan.rows, y, program)


def _check_observed(bound: "BoundModel", site: Any, argument: str | None) -> None:
    """The site observes the pipeline's column as it is, not something that the function makes of it."""
    seen = jax.jit(lambda: jnp.asarray(bound.simulate({})[site.name]["value"]))()
    if argument is None or not np.array_equal(np.asarray(seen, float), np.asarray(bound.arrays[argument], float)):
        raise ModelError(
            f"The outcome {site.name!r} observes something else than the argument {argument!r} as it comes, so "
            "predictions would not be in its units. Transform in the pipeline, and observe obs=y."
        )


def bound_model(posterior: "Posterior") -> "BoundModel":
    """The posterior's model with its data. Raises ModelError where it has none, or none that answers rows."""
    if posterior.model is None or posterior.data is None:
        raise ModelError(
            "This posterior came without its model or data, and a predictor needs both. Pass them when loading: "
            "load_posterior(path, model=pi.Model(fn), data=data)."
        )
    if isinstance(posterior.model, TopicModel):
        raise ModelError(
            "A topic model has no outcome to predict; pi.Topics(posterior) has the topics, and scores new documents."
        )
    if isinstance(posterior.model, StateSpace):
        raise ModelError(
            "A state-space model predicts times, not rows: pi.Forecaster(posterior).predict(steps=12) has what comes "
            "next, with the doubt about the parameters in it."
        )
    return posterior.model.bind(posterior.data)


def _outcome_site(bound: "BoundModel", outcome: str | None) -> Any:
    observed = {site.name: site for site in bound.observed}
    if outcome is not None and not isinstance(outcome, str):
        raise ModelError(
            f"outcome came as {outcome!r}; wanted the name of one observed site: {' or '.join(map(repr, observed))}."
        )
    if not observed:
        raise ModelError(
            "The model has no observed site, so there is no outcome to predict. Give obs= to a sample site: "
            'numpyro.sample("y", dist.Normal(mu, sigma), obs=y).'
        )
    if outcome is None and len(observed) > 1:
        raise ModelError(
            f"The model has {len(observed)} outcomes; name one of them: outcome={' | '.join(map(repr, observed))}, or "
            f"all at once: outcome={list(observed)!r}."
        )
    name = outcome if outcome is not None else next(iter(observed))
    if name not in observed:
        raise ModelError(f"The model has no observed site {name!r}; its outcomes are {', '.join(map(repr, observed))}.")
    site = observed[name]
    ends: list[bool] = []

    def look() -> list:
        law = bound.simulate({})[name]["fn"]
        ends.append(itself(law) is not law)
        return []

    jax.eval_shape(look)
    if ends[-1]:
        site = site._replace(shape=site.shape[:-1], dims=site.dims[:-1])
    if not site.shape:
        raise ModelError(f"The outcome {name!r} is a single number, so the model has no rows to predict for.")
    return site


def _plans(bound: "BoundModel", site: Any) -> Iterator[_Plan]:
    """Ways of cutting the model to one row, the likeliest first; `_check` says whether one is right."""
    # a function that looks at the values of its data has them as constants; here they are data all the same
    values = {**bound.constants, **bound.arrays, **dict.fromkeys(bound.derived)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    constants = {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}
    rows = site.shape[0]
    own = bound.observed_arguments.get(site.name)
    fed = [argument for argument in bound.observed_arguments.values() if argument in arrays]
    counts = [name for name, value in constants.items() if not isinstance(value, bool) and value == rows]
    left_out = list(dict.fromkeys([tuple(dict.fromkeys(fed)), (own,) if own in arrays else ()]))
    cut_counts = [tuple(counts), *(((),) if counts else ())]
    for missing, cut, as_zeros in product(left_out, cut_counts, (False, True)):
        if as_zeros and not missing:
            continue
        zeros = (
            {name: np.zeros((1, *arrays[name].shape[1:]), arrays[name].dtype) for name in missing} if as_zeros else {}
        )
        kept = {name: value for name, value in arrays.items() if name not in missing}
        per_row = {name: value for name, value in kept.items() if value.ndim and value.shape[0] == rows}
        yield _Plan(
            bound=bound,
            site=site,
            rows=per_row,
            fixed={name: value for name, value in kept.items() if name not in per_row},
            constants={**constants, **dict.fromkeys(cut, 1), **({} if as_zeros else dict.fromkeys(missing))},
            zeros=zeros,
            left_out=missing,
            row_counts=cut,
        )


# checking a plan -----------------------------------------------------------------------------------------------------


def _check(plan: _Plan, latents: Mapping[str, np.ndarray]) -> tuple[_Plan, _Law]:
    """The plan, with the states of each row where it has such, and the outcome's law if the plan gives row by row what
    the model gives for all rows; else raises _Unfit."""
    bound, count = plan.bound, plan.site.shape[0]
    natural = _run(lambda: jax.eval_shape(partial(_sample_sites, plan), {k: v[:1] for k, v in plan.rows.items()}))
    tied = [site for site in bound.latents if site.name in natural and natural[site.name].shape != site.shape]
    if tied:
        plan, why = _with_states(plan, [site.name for site in tied])
    if tied and not plan.states:
        listed = ", ".join(f"{site.name} (shape {site.shape})" for site in tied)
        raise _Unfit(
            3,
            f"{listed} changes its shape with the number of rows, so a new row has no such parameter. Index a "
            "parameter by group, theta[group] with the number of groups passed as a size; or integrate a per-row "
            "effect out: a gamma effect on a Poisson rate is NegativeBinomial2, a normal effect on a normal mean adds "
            f"to its variance.{why}",
        )
    rows = np.unique(np.linspace(0, count - 1, _CHECKED_ROWS).astype(int))
    size = next(iter(latents.values())).shape[0]
    draws = {k: v[np.unique(np.linspace(0, size - 1, _CHECKED_DRAWS).astype(int))] for k, v in latents.items()}
    laws: list[_Law] = []

    def together(draw: Mapping) -> Any:
        law = plan.laws(draw)
        if law.event_dim > len(plan.event) and family_of(law) is None:
            raise _Unfit(2, _JOINT)
        observed = jnp.asarray(bound.simulate(draw)[plan.site.name]["value"])
        observed = observed[..., 0] if observed.ndim > len(plan.site.shape) else observed  # one end of two
        fingerprint = _fingerprint(law, plan.site.shape, observed)
        top = jnp.max(fingerprint[0] if family_of(law) is BINOMIAL else observed)
        return jax.tree.map(lambda a: a[rows], (fingerprint, observed)), top

    def single(draw: Mapping, row: Mapping, observed: Any) -> Any:
        law = plan.law(draw, plan.fixed, row)
        laws.append(_Law(family_of(law), law.event_dim, bool(law.is_discrete), 0.0))
        _check_shape(law, (1, *plan.event))
        return jax.tree.map(lambda a: a[0], _fingerprint(law, (1, *plan.event), observed[None]))

    (expected, observed), top = jax.jit(jax.vmap(together))(draws)
    some = {name: value[rows] for name, value in plan.rows.items()}
    alone = _run(lambda: jax.jit(jax.vmap(jax.vmap(single, (None, 0, 0)), (0, None, None)))(draws, some, observed[0]))
    for one, value in zip(jax.tree.leaves(alone), jax.tree.leaves(expected), strict=True):
        scale = np.max(np.abs(value), initial=0.0, where=np.isfinite(value))
        if not np.allclose(one, value, rtol=_CHECK_RTOL, atol=1e-9 * scale, equal_nan=True):
            raise _Unfit(
                4,
                "run for one training row at a time, the model gives another distribution than for all rows together, "
                "so rows look at one another: batch statistics such as X - X.mean(0), a cumulative sum, a time "
                "series, or the outcome used as an input. Compute what spans the rows beforehand and pass it as data "
                "(X_centred, X_mean).",
            )
    return plan, laws[0]._replace(top=float(np.max(top)))


def _with_states(plan: _Plan, tied: list[str]) -> tuple[_Plan, str]:
    """The plan with the outcome mixed over discrete sites that every row has for itself; or as it was, and why."""
    discrete = [name for name in tied if name in plan.bound.discrete]
    if not discrete:
        return plan, ""
    given = [site.name for site in plan.bound.observed if plan.bound.observed_arguments.get(site.name) in plan.rows]
    found: Any = own_states(plan.bound, tied, plan.site.name, given)
    if plan.event and not isinstance(found, str):
        found = "the outcome has several numbers for each row"
    if isinstance(found, str):
        return plan, f" (A new row's {', '.join(discrete)} would be drawn anew, but here that cannot be: {found}.)"
    return replace(plan, states=found), ""


def _sample_sites(plan: _Plan, row: Mapping[str, Any]) -> dict[str, Any]:
    trace = plan.bound.simulate({}, {**plan.fixed, **plan.zeros, **row}, plan.constants)
    return {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}


def _check_shape(law: Any, shape: tuple[int, ...]) -> None:
    came = tuple(law.shape())
    if len(came) > len(shape) or any(a not in (1, b) for a, b in zip(came[::-1], shape[::-1], strict=False)):
        raise _Unfit(
            2,
            f"for one row its distribution has the shape {came}, not {shape}. A size written into the model must come "
            "from its data (X.shape[0], or an argument that counts the rows). If a row looks at those before it, as in "
            "a series written with y[:-1] and y[1:], make what it looks at a column of its own: the data "
            "before=y[:-1] and y=y[1:], the model dist.Normal(a * before, 1) with obs=y; new rows then bring `before`.",
        )


def _fingerprint(law: Any, shape: tuple[int, ...], observed: jax.Array) -> tuple[jax.Array, ...]:
    """What must agree, rows first: a family's parameters, or the log density at the data and next to them."""
    if family_of(law) is not None:
        return parameters_of(law, shape)
    batch = shape[: len(shape) - law.event_dim]
    return tuple(jnp.broadcast_to(law.log_prob(y), batch) for y in (observed, observed + jnp.ones_like(observed)))


def _run(work: Callable[[], Any]) -> Any:
    """Run the user's function on one row; what it raises becomes the reason why the plan does not work."""
    try:
        return work()
    except (_Unfit, ProbinferError):
        raise
    except VALUE_NEEDED as error:
        raise _Unfit(
            1,
            f"the model looks at the values of its data while it runs ({str(error).splitlines()[0]}). Sizes such as "
            "the number of groups must be arguments of their own: J=85, not int(group.max()) + 1.",
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever the user's function raises with one row is a reason
        text = str(error).splitlines()[0] if str(error) else ""
        raise _Unfit(0, f"with data of a single row the model raised {type(error).__name__}: {text}.") from None


# exporting -----------------------------------------------------------------------------------------------------------


def _export(plan: _Plan, law: _Law, latents: Mapping[str, np.ndarray], chains: int | None) -> Program:
    shapes = (latents, plan.fixed, plan.rows)
    first = ({k: v[0] for k, v in latents.items()}, dict(plan.fixed), {k: v[0] for k, v in plan.rows.items()})
    jaxpr = jax.make_jaxpr(lambda *args: _fingerprint(plan.law(*args), (1, *plan.event), jnp.zeros((1, *plan.event))))(
        *first
    )
    names = [(group, name) for group, arrays in enumerate(shapes) for name in sorted(arrays)]
    read = {names[number] for number in read_inputs(jaxpr.jaxpr)}
    picking = {names[number][1] for number in picking_inputs(jaxpr.jaxpr)}
    draws, fixed, rows = ({k: v for k, v in arrays.items() if (i, k) in read} for i, arrays in enumerate(shapes))
    if not draws:
        raise ModelError(f"The outcome {plan.site.name!r} depends on no latent site: there is nothing to predict from.")
    # as JAX's arrays: NumPy's cannot be indexed by what is traced
    idle = [{k: jnp.asarray(v) for k, v in arrays.items() if (i, k) not in read} for i, arrays in enumerate(first)]

    def law_of(draw: Mapping, kept: Mapping, row: Mapping) -> Any:
        return plan.law({**idle[0], **draw}, {**idle[1], **kept}, {**idle[2], **row})

    one_row = {**plan.fixed, **plan.zeros, **{k: v[:1] for k, v in plan.rows.items()}}
    bounds = plan.bound.index_bounds_of(one_row, plan.constants)
    constants = {k: v for k, v in plan.constants.items() if k not in {*plan.left_out, *plan.bound.derived}}
    known = {k: v for k, v in {**plan.bound.constants, **plan.bound.arrays}.items() if k not in plan.bound.derived}
    family, programs = _programs(plan, law, law_of, draws, fixed, rows or {NO_INPUT: np.zeros(plan.site.shape[0])})
    law = law._replace(family=family)
    return Program(
        outcome=plan.site.name,
        family=family,
        inputs=tuple(_input(name, values, bounds.get(name), name in picking) for name, values in rows.items()),
        draws=draws,
        chains=chains,
        fixed=fixed,
        constants=constants,
        row_counts=plan.row_counts,
        unread=tuple(name for name in known if name not in {*rows, *fixed, *constants}),
        event=plan.event,
        discrete=law.discrete,
        probabilities=_probabilities(law, jaxpr),
        programs=programs,
    )


def _with_population(
    plan: _Plan,
    latents: Mapping[str, np.ndarray],
    program: Program,
    unseen: Unseen | Mapping[str, Unseen],
    of_several: bool,
) -> Program:
    """The program with a law for new levels of the inputs that `unseen` says."""
    every = not isinstance(unseen, Mapping)
    picking = [entry.name for entry in program.inputs if entry.low is not None]
    chosen = dict.fromkeys(picking, unseen) if every else unseen
    wanted = [name for name, which in chosen.items() if which is Unseen.POPULATION]
    if of_several:
        wanted = [name for name in wanted if name in picking]
    if not wanted and (of_several or not (every and unseen is Unseen.POPULATION)):
        return program
    what = f"New levels of {', '.join(wanted)} cannot be predicted" if wanted else "There are no levels to be new"
    if plan.bound.pipeline is not None:
        _check_labels(plan.bound.pipeline, wanted, what)
    if plan.states:
        raise ModelError(f"{what}: the outcome is mixed over {', '.join(plan.states)}, drawn anew for each row.")
    unknown = [name for name in wanted if name not in picking]
    if unknown or not picking:
        raise ModelError(
            f"{what}: unseen names {', '.join(unknown) or 'none'}; the outcome's inputs that pick a level are "
            f"{', '.join(picking) or 'none'}."
        )
    one_row = {**plan.fixed, **plan.zeros, **{name: values[:1] for name, values in plan.rows.items()}}
    shape, values = (1, *plan.event), {**plan.bound.arrays, **plan.bound.constants}
    seen: Any = values.get(plan.bound.observed_arguments.get(plan.site.name) or "")
    given = isinstance(seen, np.ndarray) and seen.ndim > 0 and seen.shape[1:] == plan.event
    y = jnp.asarray(seen[:1], float) if given else jnp.zeros(shape)
    asked = Asked(
        said=lambda draw, row: _fingerprint(plan.law(draw, plan.fixed, row), shape, y),
        simulate=lambda fix: plan.bound.simulate_by(fix, one_row, plan.constants),
        rows=plan.rows,
    )
    population, refused = population_of(asked, program, latents, wanted, _PLATFORMS)
    if population is None or (refused and not every):
        raise ModelError(f"{what}. " + " ".join(f"{name}: {why}." for name, why in refused.items()))
    return replace(program, population=population)


def _check_labels(pipeline: Any, wanted: Sequence[str], what: str) -> None:
    """New labels can be told from others where each has a code of its own, and none is kept for new ones already."""
    codes = {each.argument: each.codes for each in pipeline.inputs}
    for name in wanted:
        if codes.get(name) is None or codes[name].reserve:
            raise ModelError(
                f"{what}: {name} is not made of one column's labels by Ordinal(), or keeps a code for new ones already "
                "(Unseen.RESERVE), with which they are answered."
            )


def _input(name: str, values: np.ndarray, bounds: tuple[int, int] | None, picks: bool) -> Input:
    if bounds is None and picks:
        bounds = (int(values.min()), int(values.max()))  # its range is not known: what training has seen
    low, high = bounds or (None, None)
    return Input(name, values.dtype.name, values.shape[1:], low, high)


def _probabilities(law: _Law, jaxpr: Any) -> int:
    support = law.family.support if law.family else None
    if support is Support.CLASSES:
        return jaxpr.out_avals[0].shape[-1]
    if support is Support.COUNT:
        return int(min(law.top, 30) if law.family is BINOMIAL else min(max(law.top, 10), 30)) + 1
    return 2 if support is Support.BINARY else 0


def _programs(
    plan: _Plan, law: _Law, law_of: Callable, draws: Mapping, fixed: Mapping, rows: Mapping
) -> tuple[Family | None, dict[str, Any]]:
    """The family, which may be one of this law alone, and the programs."""
    shape = (1, *plan.event)
    batch = shape[: len(shape) - law.event_dim]
    export = partial(_exported, law_of, draws, fixed, rows)
    if law.family:
        return law.family, {PARAMETERS: export(lambda d: tuple(p[0] for p in parameters_of(d, shape)))}

    def sample(d: Any, key: jax.Array) -> jax.Array:
        return jnp.broadcast_to(d.expand(batch).sample(key), shape)[0].astype(float)

    def log_density(d: Any, y: jax.Array) -> jax.Array:
        return jnp.sum(jnp.broadcast_to(d.log_prob(y[None]), batch))

    def moments(d: Any) -> tuple[jax.Array, ...]:
        if is_circular(d):
            raise NotImplementedError  # those that NumPyro tells are of points on a circle, not of the numbers
        return tuple(jnp.broadcast_to(m, shape)[0].astype(float) for m in (d.mean, d.variance))

    try:
        sampled = export(sample, key=((2,), np.uint32))
    except ImportError as error:  # NumPyro's, where drawing needs a library that it does not come with
        raise ModelError(
            f"The outcome {plan.site.name!r} has a law that cannot be drawn from here, and so cannot be predicted: "
            f"{error} Another law, such as one without truncation or a normal one, can."
        ) from None
    own = own_law(law_of, draws, fixed, rows) if not plan.event and not _has_change(plan) else None
    if own is not None:
        family, programs = own.export(_PLATFORMS)
        return family, {PARAMETERS: export(own.moments), SAMPLE: sampled, **programs}
    programs = {SAMPLE: sampled, LOG_DENSITY: export(log_density, y=(plan.event, float))}
    try:
        programs[MOMENTS] = export(moments)
    except NotImplementedError:
        pass
    return None, programs


def _has_change(plan: _Plan) -> bool:
    """The pipeline transforms the outcome, and moments of a transformed law are known for some families only."""
    pipeline = plan.bound.pipeline
    outcome = pipeline.prepared(plan.bound.observed_arguments.get(plan.site.name)).outcome if pipeline else None
    return outcome is not None and outcome.change is not None


def _exported(
    law_of: Callable, draws: Mapping, fixed: Mapping, rows: Mapping, of_law: Callable, **extra: tuple[tuple, Any]
) -> jax.export.Exported:
    """`of_law` of the outcome's law, for n rows and s draws. `extra`: one more argument of each row, its shape and
    type."""

    # Traced on its own, at sizes that are known: NumPyro's checks of a law's arguments cannot run at sizes n and s, and
    # to switch them off is to switch them off for every thread.
    @partial(jax.jit, inline=True)
    def of_draw(draw: Mapping, fixed: Mapping, row: Mapping, *more: jax.Array) -> Any:
        return of_law(law_of(draw, fixed, row), *more)

    def per_row(draws: Mapping, fixed: Mapping, row: Mapping, *more: jax.Array) -> Any:
        if "key" in extra:
            numbers = jnp.arange(next(iter(draws.values())).shape[0])
            key = jax.random.wrap_key_data(more[0], impl="threefry2x32")
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)
            return jax.vmap(lambda d, key: of_draw(d, fixed, row, key))(draws, keys)
        return jax.vmap(lambda d: of_draw(d, fixed, row, *more))(draws)

    n, s = jax.export.symbolic_shape("n, s")
    specs = [
        {k: jax.ShapeDtypeStruct((s, *v.shape[1:]), v.dtype) for k, v in draws.items()},
        {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in fixed.items()},
        {k: jax.ShapeDtypeStruct((n, *v.shape[1:]), v.dtype) for k, v in rows.items()},
        *(jax.ShapeDtypeStruct((n, *shape), dtype) for shape, dtype in extra.values()),
    ]
    function = jax.jit(jax.vmap(per_row, (None, None, 0, *[0] * len(extra))))
    return jax.export.export(function, platforms=_PLATFORMS)(*specs)
