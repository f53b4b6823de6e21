"""`formula`: a model written as R, brms and Bambi write them, fitted to a table as a pipeline is. Imports numpyro."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from probinfer.errors import DataError, ModelError
from probinfer.model.formula.columns import TRAINING, fit_levels, ordered_labels, roles_of, take_raw
from probinfer.model.formula.design import Design, fit_design, refuse_collinear
from probinfer.model.formula.expressions import check_calls, fit_expression, names_in, refuse_not_finite
from probinfer.model.formula.families import LAWS, Family, Law, Link, check_family, own_priors, scale_of
from probinfer.model.formula.grammar import Name, Node, Number, words
from probinfer.model.formula.groups import combined, correlation_names, fit_group, group_names
from probinfer.model.formula.linear import Coefficients, Group, LinearModel
from probinfer.model.formula.priors import Prior, Priors, Scale
from probinfer.model.formula.response import Response, check_values, fit_outcome, read_response, refuse_own
from probinfer.model.formula.terms import INTERCEPT, Formula, read_formula
from probinfer.model.model import BoundModel, Model
from probinfer.model.pipeline.pipeline import FittedPipeline
from probinfer.model.pipeline.prepared import FittedColumn, FittedInput
from probinfer.model.pipeline.raw import Kind, gaps
from probinfer.model.tables import as_table

_MOST_LOG = float(np.log(np.finfo(float).max))


def formula(
    text: str,
    family: Family = Family.GAUSSIAN,
    *,
    link: Link | None = None,
    priors: Mapping[str, Any] | None = None,
    levels: Mapping[str, Sequence[Any]] | None = None,
    centred: Sequence[str] = (),
) -> "FormulaModel":
    """A regression model of the columns of a table, `pi.infer(pi.formula("y ~ x + (1 | group)"), frame)`.

        link(E[y]) = Intercept + sum of coefficients times columns + offsets + coefficients of the row's groups

    Columns of text, True and False, and categories are coded without their first level, in full where nothing implies
    it. Coefficients are called as their terms: `Intercept`, `floor`, `floor:log_uranium`, and for a term of several
    columns an array with their names. A group (1 + x | g) has `g_sd`, `g_effect` and `g_corr`; see docs/formula.md for
    the grammar.

    Args:
        text: outcome ~ terms. `+ - * : / **`, `0 +`, functions of columns (log, scale, poly, I, C, …), `offset(x)`,
            `(x | g)`.
        family: the law of the outcome.
        link: what of the mean is linear; None is the family's usual one.
        priors: distributions of NumPyro by the name of a coefficient, `Intercept` (of the outcome where predictors are
            at their means), one of the family's own parameters, a group (its standard deviations) or `g_corr`. Those
            left out are weakly informative, scaled by the data.
        levels: the order of the labels of a column, the reference first; by default sorted.
        centred: groups whose coefficients are sampled as they are. Without it they are in units of their sd, which
            samples well where levels have few rows; where each has many, NUTS finds that out and draws them as they
            are, and other methods want it said here.

    Returns:
        FormulaModel: a model for `infer` and all that takes one; its data are a data frame, an Arrow table or a dict of
        columns. A predictor of its posterior takes raw columns.

    Raises:
        ModelError: the text is no formula (with a caret at the place), a function is not known, a prior has the name of
            no parameter.
        DataError (when data are bound): a column is not there, the outcome's values do not fit the family, values are
            missing, columns are collinear.

    Fails where what is fitted is not linear in the coefficients; write a NumPyro function then.
    Wilkinson & Rogers (1973); Bates, Maechler, Bolker & Walker (2015), J. Statistical Software 67; Capretto et al.
    (2022), J. Statistical Software 103 (Bambi, whose priors these are).

    >>> import numpy as np
    >>> import probinfer as pi
    >>> rng = np.random.default_rng(0)
    >>> x, town = rng.normal(size=200), rng.choice(["A", "B"], 200)
    >>> frame = {"x": x, "town": town, "y": 1 + 2 * x + 3 * (town == "B") + rng.normal(size=200)}
    >>> posterior = pi.infer(pi.formula("y ~ x + town"), frame, progress=False)
    >>> posterior.summary()["mean"][["Intercept", "x", "town[town_dim=B]"]].round(0).tolist()
    [1.0, 2.0, 3.0]
    """
    return FormulaModel(text, family, link=link, priors=priors, levels=levels, centred=centred)


class FormulaModel(Model):
    """What `formula` makes: a model that becomes a NumPyro function when it sees data."""

    def __init__(
        self,
        text: str,
        family: Family = Family.GAUSSIAN,
        *,
        link: Link | None = None,
        priors: Mapping[str, Any] | None = None,
        levels: Mapping[str, Sequence[Any]] | None = None,
        centred: Sequence[str] = (),
    ) -> None:
        super().__init__(_Unsettled(text))
        self.text, self.family = text, family
        self.link = check_family(family, link)
        self.formula = _checked(read_formula(text), family)
        self.response = read_response(self.formula.response, family, self.law, self.formula.source)
        refuse_own(self.response, self.formula)
        for what, given in (("priors", priors), ("levels", levels)):
            if given is not None and not isinstance(given, Mapping):
                raise ModelError(f"{what} came as {type(given).__name__}; wanted a dict by the names in the formula.")
        self.priors = Priors(dict(priors or {}))
        self.priors.check(self._parameters())
        self.levels = {name: _level_order(name, order) for name, order in (levels or {}).items()}
        self.centred = (centred,) if isinstance(centred, str) else tuple(centred)
        groups = group_names(self.formula)
        for name in self.centred:
            if name not in groups:
                raise ModelError(f"centred has {name!r}; the groups of the formula are {', '.join(groups) or 'none'}.")
        unknown = [name for name in self.levels if name not in self._columns()]
        if unknown:
            raise ModelError(f"levels has {unknown[0]!r}; the columns of the formula are {', '.join(self._columns())}.")

    def __repr__(self) -> str:
        return f"formula({self.text!r}, {self.family})"

    @property
    def law(self) -> Law:
        """What the family is."""
        return LAWS[self.family]

    def _parameters(self) -> list[str]:
        """Names that a prior may be given for."""
        names = ["Intercept"] if self.formula.intercept and self.family is not Family.CUMULATIVE else []
        names += [*(term.name for term in self.formula.effects), *self.law.own]
        for name, terms in group_names(self.formula).items():
            names += [name, f"{name}_sd", *correlation_names(name, terms)]
        return names

    def _columns(self) -> dict[str, Name | str]:
        """The columns that are read, each with where it stands first."""
        found: dict[str, Name | str] = {name.name: name for name in self.response.names}
        for node in self.formula.predictors:
            for name in names_in(node):
                found.setdefault(name.name, name)
        for group in self.formula.groups:
            for column in group.group:
                found.setdefault(column, column)
        return found

    def bind(self, data: Any = None) -> BoundModel:
        """Fit constants, levels and default priors to the rows `data`, and bind the model to them."""
        data = as_table(data)
        return self.settle(data).bind(data)

    def take(self, data: Any) -> dict[str, np.ndarray]:
        """The raw columns that it knows, as arrays."""
        return take_raw(data, [*self._columns().values()], self.formula.source)

    def settle(self, data: Any) -> "SettledFormula":
        """The model as a function, with constants, levels and default priors of the rows `data`."""
        data = as_table(data)
        return _Settling(self.with_order_of(data), data).settled()

    def with_order_of(self, data: Any) -> "FormulaModel":
        """The same with the labels of the outcome in their order, where the column's type says it and the family wants
        one: the raw columns that a posterior keeps do not say it any more."""
        name = self.response.column.name
        if self.family is not Family.CUMULATIVE or name in self.levels:
            return self
        order = ordered_labels(data, name)
        return self if order is None else self.with_classes(name, order)

    def with_classes(self, outcome: str, labels: Sequence[str]) -> "FormulaModel":
        """The same with these labels for the outcome, whether its rows have them all or not."""
        found = copy.copy(self)
        found.levels = {**self.levels, outcome: tuple(labels)}
        return found


@dataclass(frozen=True)
class _Unsettled:
    """Stands for the function while there is none."""

    text: str

    def __call__(self, **columns: Any) -> None:
        raise ModelError(f"The formula {self.text!r} becomes a function when it is bound to data: model.settle(data).")


class SettledFormula(Model):
    """A `FormulaModel` that has seen its rows; made by `FormulaModel.settle`. `fn` is a `LinearModel`."""

    def __init__(
        self,
        declared: FormulaModel,
        function: LinearModel,
        fitted: FittedPipeline,
        coords: Mapping[str, Sequence[Any]],
        dims: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__(function, coords=coords, dims=dims)
        self.declared, self.function, self.fitted = declared, function, fitted

    def __repr__(self) -> str:
        return repr(self.declared)

    def take(self, data: Any) -> dict[str, np.ndarray]:
        """The raw columns that it knows, as arrays."""
        return self.declared.take(data)

    def bind(self, data: Any = None) -> BoundModel:
        """Make the model's arguments of raw rows and bind it to them.

        Raises DataError, naming the row, for outcomes that the family does not have, predictors that are not finite,
        and labels or combinations of groups that training has not seen.
        """
        raw, declared = self.take(data), self.declared
        arrays = {each.argument: each.apply(raw, TRAINING) for each in self.fitted.inputs}
        for each in self.fitted.outcomes:
            arrays[each.argument] = each.scaled(raw[each.column.name], TRAINING)
            if each.labels is None:
                check_values(declared.response, declared.law, declared.family, arrays[each.argument], raw)
        with np.errstate(all="ignore"):
            derived = self.function.derived(arrays, np)
        self._check_derived(derived, arrays)
        bound = super().bind({**arrays, **derived})
        return replace(bound, raw=raw, pipeline=self.fitted, derived=tuple(derived))

    def _check_derived(self, derived: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> None:
        """Raise DataError where something that is made of the columns is no number, naming the row."""
        if self.function.coefficients:
            self.function.design.refuse_not_finite(derived["(design)"], columns)
        if self.function.offsets:
            _check_offset(self.declared, derived["(offset)"], columns)
        for group in self.function.groups:
            if group.design:
                group.design.refuse_not_finite(derived[f"(design of {group.name})"], columns)


class _Settling:
    """From a formula and rows of training to the function."""

    def __init__(self, model: FormulaModel, data: Any) -> None:
        self.model, self.formula = model, model.formula
        raw = model.take(data)
        _refuse_missing(model.response, raw)
        self.outcome, self.y, self.classes = fit_outcome(
            model.response, model.law, model.family, raw, model.levels, data
        )
        self.roles = roles_of(self.formula, model.response.trials, raw)
        read = {*self.roles.labels, *([model.response.column.name] if self.classes else [])}
        idle = [name for name in model.levels if name not in read]
        if idle:
            raise DataError(
                f"levels has {idle[0]!r}, a column that is read as numbers; C({idle[0]}) reads it as labels."
            )
        self.codes = {
            argument: fit_levels(column, raw[column], model.levels, data)
            for column, argument in self.roles.labels.items()
        }
        self.inputs = self._inputs()
        self.columns = {each.argument: each.apply(raw, TRAINING) for each in self.inputs}
        self.levels = {column: (argument, self.codes[argument]) for column, argument in self.roles.labels.items()}
        crossed = [
            combined(name, terms[0].group, self.columns, self.levels)
            for name, terms in group_names(self.formula).items()
            if len(terms[0].group) > 1
        ]
        self.inputs = (*self.inputs, *crossed)
        self.raw_names = tuple(raw)
        self.many = self.classes - 1 if model.family is Family.CATEGORICAL else 0

    def settled(self) -> SettledFormula:
        """The model."""
        design, matrix, means = self._fixed()
        offsets = tuple(fit_expression(node, self.columns, self.formula.source) for node in self.formula.offsets)
        with np.errstate(all="ignore"):
            moved = sum((np.asarray(one.at(self.columns, np)) for one in offsets), start=np.zeros(len(self.y)))
        _check_offset(self.model, moved, self.columns)
        scale = self._scale(moved)
        groups = self._groups(scale)
        function = LinearModel(
            outcome=self.outcome.argument,
            family=self.model.family,
            link=self.model.link,
            intercept=self._intercept(scale),
            design=design,
            means=means,
            coefficients=self._coefficients(design, matrix, scale),
            groups=tuple(group for group, _ in groups),
            offsets=offsets,
            trials=_trials(self.model.response),
            own=self._own(),
            classes=self.classes,
        )
        coords, dims = self._axes(design, groups)
        _check_names(function, self.columns)
        fitted = FittedPipeline(self.inputs, (self.outcome,), {}, self.raw_names)
        return SettledFormula(self.model, function, fitted, coords, dims)

    def _inputs(self) -> tuple[FittedInput, ...]:
        found = [FittedInput(name, (FittedColumn(name, Kind.NUMBER),), False) for name in self.roles.numbers]
        for column, argument in self.roles.labels.items():
            stages = ((self.codes[argument],),)
            found.append(FittedInput(argument, (FittedColumn(column, Kind.LABEL, stages),), False))
        return tuple(found)

    def _coded(self, node: Node) -> tuple[str, tuple[str, ...]] | None:
        argument = self.roles.coded(node)
        return (argument, self.codes[argument].levels) if argument is not None else None

    def _fixed(self) -> tuple[Design, np.ndarray, np.ndarray]:
        """The design without the intercept, its matrix, and what is taken from its columns."""
        formula = self.formula
        every = fit_design(formula.terms, self.columns, self._coded, formula.source)
        terms = [made for term, made in zip(formula.terms, every.terms, strict=True) if term != INTERCEPT]
        design = Design(tuple(terms))
        if not design.terms:
            return design, np.zeros((len(self.y), 0)), np.zeros(0)
        design.refuse_idle_levels(self.columns)
        matrix = design.checked(self.columns)
        refuse_collinear(matrix, design.labels, formula.intercept)
        return design, matrix, matrix.mean(axis=0) if formula.intercept else np.zeros(design.width)

    def _scale(self, offset: np.ndarray) -> Scale:
        """Of the linear predictor. Without an intercept coefficients have to reach the outcome from zero."""
        middle, spread = scale_of(self.model.law, self.model.link, self.y, offset)
        return Scale(middle, spread if self.formula.intercept else float(np.hypot(middle, spread)))

    def _intercept(self, scale: Scale) -> Prior | None:
        if not self.formula.intercept or self.model.family is Family.CUMULATIVE:
            return None
        shape = (self.many,) if self.many else ()
        return self.model.priors.real("Intercept", scale.middle, scale.spread, shape)

    def _coefficients(self, design: Design, matrix: np.ndarray, scale: Scale) -> tuple[Coefficients, ...]:
        spread, first, found = scale.of(matrix) if design.terms else np.zeros(0), 0, []
        for term in design.terms:
            each = spread[first : first + term.width]
            shape = () if term.scalar else (term.width,)
            each = each.reshape(shape)
            if self.many:
                each, shape = np.repeat(each[..., None], self.many, axis=-1), (*shape, self.many)
            prior = self.model.priors.real(term.name, 0.0, each if shape else float(each), shape)
            found.append(Coefficients(term.name, term.width, prior))
            first += term.width
        return tuple(found)

    def _own(self) -> dict[str, Prior]:
        found, priors = {}, self.model.priors
        real = float(np.std(self.y)) if "sigma" in self.model.law.own else 1.0
        for name, default in own_priors(self.model.law, real, self.classes).items():
            if name == "threshold":
                inner = f"dist.Normal(0, 5).expand([{self.classes - 1}]).to_event(1)"
                example = f"dist.TransformedDistribution({inner}, dist.transforms.OrderedTransform())"
                found[name] = Prior(priors.vector(name, default, example))
            elif name == "zero_inflation":
                found[name] = Prior(priors.inside((name,), default, (), 0.0, 1.0))
            else:
                found[name] = priors.above_zero((name,), default, real if name == "sigma" else 1.0, ())
        return found

    def _groups(self, scale: Scale) -> list[tuple[Group, tuple[str, ...]]]:
        effects = {term.name for term in self.formula.effects}
        found = []
        for name, terms in group_names(self.formula).items():
            given = self.model.priors.given
            if name in effects:  # the name alone is that of the term then
                given = {key: prior for key, prior in given.items() if key != name}
            found.append(
                fit_group(
                    name,
                    terms,
                    self.columns,
                    self._coded,
                    self.levels,
                    Priors(given),
                    scale,
                    self.many,
                    self.formula,
                    name in self.model.centred,
                )
            )
        self._refuse_idle_priors([group for group, _ in found])
        return found

    def _refuse_idle_priors(self, groups: Sequence[Group]) -> None:
        """Raise ModelError for a prior of correlations that there are none of."""
        effects = {term.name for term in self.formula.effects}
        for group, (name, terms) in zip(groups, group_names(self.formula).items(), strict=True):
            own = [block.name for block in group.correlated]
            for called in correlation_names(name, terms):
                if called in self.model.priors.given and called not in (*own, *effects):
                    raise ModelError(
                        f"priors names {called!r}, and the correlations of {name} are {', '.join(own) or 'none'}: of "
                        "one coefficient there is no correlation. Leave it out."
                    )

    def _axes(
        self, design: Design, groups: Sequence[tuple[Group, tuple[str, ...]]]
    ) -> tuple[dict[str, Sequence[Any]], dict[str, Sequence[str]]]:
        """Names of the axes of sites, and their labels."""
        coords: dict[str, Sequence[Any]] = {}
        dims: dict[str, Sequence[str]] = {}
        outcome = self.outcome.argument
        along = f"{outcome}_class"
        classes = (along,) if self.many else ()
        labels = self.outcome.labels or ()
        if self.many:
            coords[along] = labels[1:]
            dims |= {"Intercept": classes, "Intercept_centred": classes}
        if self.model.family is Family.CUMULATIVE:
            coords[f"{outcome}_threshold"] = [f"{a}|{b}" for a, b in pairwise(labels)]
            dims |= dict.fromkeys(("threshold", "threshold_centred"), (f"{outcome}_threshold",))
        sites = {outcome, *self.model.law.own, *(term.name for term in design.terms)}
        for term in design.terms:
            if not term.scalar:
                coords[_dim(term.name)] = term.labels
            dims[term.name] = (*(() if term.scalar else (_dim(term.name),)), *classes)
        for group, each in groups:
            level = f"{group.name}_level" if group.name in sites else group.name
            coords[level] = group.levels
            term = (f"{group.name}_term",) if group.design else ()
            if term:
                coords[term[0]] = each
            dims[f"{group.name}_sd"] = (*term, *classes)
            dims |= dict.fromkeys((f"{group.name}_z", f"{group.name}_effect"), (level, *term, *classes))
            for block in group.correlated:
                if block.size > 2:
                    names = each[block.first : block.last]
                    pairs = zip(*np.tril_indices(block.size, -1), strict=True)
                    coords[f"{block.name}_pair"] = [f"{names[b]}, {names[a]}" for a, b in pairs]
                    dims[block.name] = (f"{block.name}_pair",)
        return coords, dims


def _checked(found: Formula, family: Family) -> Formula:
    """Raise ModelError for what can be told without data."""
    for node in found.predictors:
        check_calls(node, found.source, outermost=node not in found.offsets)
        if not isinstance(node, Number) and next(names_in(node), None) is None:
            found.source.fail(node.at, f"{words(node)} reads no column.")
    if family is Family.CUMULATIVE and not found.intercept:
        found.source.fail(0, "A cumulative model has thresholds in the place of an intercept; leave 0 or -1 out.")
    for node in found.offsets:
        if isinstance(node, Number):
            found.source.fail(node.at, "An offset is a column, or a function of one: offset(log(exposure)).")
    if not found.terms and not found.groups:
        found.source.fail(
            len(found.source.text.rstrip()), "The formula has no terms; wanted some, or 1 for an intercept."
        )
    return found


def _dim(term: str) -> str:
    """The axis of a term's coefficients; a slash would be a path in a saved posterior."""
    return f"{term.replace('/', '.')}_dim"


def _level_order(name: str, order: Any) -> tuple:
    if isinstance(order, str) or not isinstance(order, Sequence | np.ndarray) or not len(order):
        raise ModelError(f"levels has {order!r} for {name}; wanted its labels in their order, the reference first.")
    return tuple(order)


def _refuse_missing(response: Response, raw: Mapping[str, np.ndarray]) -> None:
    """Raise DataError for rows with gaps, naming the column and the first of them."""
    for name, values in raw.items():
        gone = gaps(values)
        if gone.any() and values.dtype.kind not in "Mm" and name != response.column.name:
            raise DataError(
                f"{name} is missing {TRAINING.at(gone)}; every row needs a value. Drop those rows, or fill them in the "
                "table."
            )


def _check_offset(model: FormulaModel, moved: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    """Raise DataError where the sum of the offsets is not finite, or with a log link its exponential."""
    nodes = model.formula.offsets
    named = " + ".join(map(words, nodes))
    refuse_not_finite(named, moved, columns)
    most = moved[np.argmax(np.abs(moved))]
    if model.link is Link.LOG and abs(most) > _MOST_LOG:
        hint = f"; did you mean offset(log({named}))?" if len(nodes) == 1 and (moved > 0).all() else "."
        raise DataError(f"offset({named}) reaches {most:g}, and is on the log scale{hint}")


def _trials(response: Response) -> Any:
    if isinstance(response.trials, Number):
        return response.trials.value
    return response.trials.name if response.trials else None


def _check_names(function: LinearModel, columns: Mapping[str, np.ndarray]) -> None:
    """Raise ModelError where a column is called as something else in the model is."""
    odd = sorted(set(columns) & {*function.names_of_derived})
    if odd:
        raise ModelError(f"A column is called {odd[0]}, as an argument of the model is; rename it in the table.")
    names = ["Intercept", "Intercept_centred", *function.own, "threshold_centred", function.outcome]
    for group in function.groups:
        names += [f"{group.name}_{what}" for what in ("sd", "z", "effect")]
        names += [name for block in group.correlated for name in (block.name, f"{block.name}_cholesky")]
    clash = sorted({one.name for one in function.coefficients} & set(names))
    twice = sorted({name for name in names if names.count(name) > 1})
    if clash or twice:
        raise ModelError(
            f"Two parameters of the model would be called {(clash or twice)[0]}; rename that column in the table."
        )
