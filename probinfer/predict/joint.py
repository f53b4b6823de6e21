"""JointPredictor: several outcomes of a model at once, from the same posterior draws. Imports jax, not numpyro."""

import copy
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from probinfer.errors import ExportError, ModelError, PredictionError
from probinfer.model.pipeline.steps import Unseen
from probinfer.model.tables import as_frame, as_table
from probinfer.posterior.verdict import Verdict
from probinfer.predict.interval import check_tolerance
from probinfer.predict.joint_prediction import JointPrediction, of_outcomes
from probinfer.predict.kind import Interval
from probinfer.predict.population import refuse_mixed_levels
from probinfer.predict.predictor import (
    Predictor,
    check_posterior,
    check_unseen,
    provenance,
    refuse_unreliable,
    restored,
)
from probinfer.predict.program import Input, Program
from probinfer.predict.rows import content_hashes, read_rows
from probinfer.predict.sampling import check_draws, sample_rows

if TYPE_CHECKING:
    from probinfer.posterior.posterior import Posterior

OWN = ("training", "compression", "rounding", "monitor")  # what is said about each outcome, not about the posterior


class JointPredictor:
    """Predictions of several outcomes of a model for new rows: what `Predictor(posterior, outcome=["a", "b"])` gives.

    Each outcome's prediction is that of a `Predictor` of it alone, as exact. `sample` draws the outcomes together: each
    draw takes one posterior draw for all of them, so they depend on one another as far as the parameters make them,

        p(a, b | row) = (1/S) sum_s p(a | row, theta_s) p(b | row, theta_s)
        Cov[a, b | row] = Cov_s(E[a | row, theta_s], E[b | row, theta_s])

    which is right where the outcomes of a row are independent of one another given the parameters. Others are refused.
    Where what the outcomes share is a residual too, make one outcome of several numbers, a `MultivariateNormal`.

    Args:
        posterior: what `infer` returned, or `load_posterior` with model and data.
        outcome: names of the observed sites, one or more; None for all of them, in the order of the model.
        accept: the worst verdict to accept.
        unseen: what levels are that training never saw, as for `Predictor`; a dict names inputs of any outcome. A new
            level has the same effects for all outcomes that read them, in each draw of `sample`.

    Raises:
        UnreliablePosterior: the verdict is worse than `accept`.
        PredictionError: `posterior` is none, or `accept` no Verdict.
        ModelError: as `Predictor` does; and an outcome is predicted from the observed value of another one, or two have
            a discrete site of each row in common; or new levels are wanted that an outcome has no law of, or that two
            outcomes would not give the same effects.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from probinfer import Laplace, infer
    >>> def model(x, height=None, ill=None):
    ...     slope = numpyro.sample("slope", dist.Normal(0, 1))
    ...     numpyro.sample("height", dist.Normal(slope * x, 1.0), obs=height)
    ...     numpyro.sample("ill", dist.Bernoulli(logits=slope * x), obs=ill)
    >>> x = np.linspace(-1, 1, 40)
    >>> posterior = infer(model, {"x": x, "height": x, "ill": x > 0}, Laplace(), progress=False)
    >>> predictor = Predictor(posterior, outcome=["height", "ill"])
    >>> prediction = predictor.predict({"x": [0.0, 1.0]})
    >>> list(prediction), prediction["ill"].probabilities.shape, list(prediction.to_frame())[:1]
    (['height', 'ill'], (2, 2), ['height.mean'])
    >>> {name: draws.shape for name, draws in predictor.sample({"x": [0.0, 1.0]}, draws=10).items()}
    {'height': (10, 2), 'ill': (10, 2)}
    """

    def __init__(
        self,
        posterior: "Posterior",
        outcome: Sequence[str] | None = None,
        accept: Verdict = Verdict.GOOD,
        *,
        unseen: Unseen | Mapping[str, Unseen] = Unseen.ERROR,
    ) -> None:
        from probinfer.predict.dependent import refuse_dependent
        from probinfer.predict.outcome import bound_model, row_program

        if not isinstance(accept, Verdict):
            raise PredictionError(f"accept is {accept!r}; wanted a Verdict, such as Verdict.DOUBTFUL.")
        check_unseen(unseen)
        check_posterior(posterior)
        refuse_unreliable(posterior, accept, "Predictor")
        bound = bound_model(posterior)
        names = _names(outcome, [site.name for site in bound.observed])
        made = {name: row_program(posterior, name, unseen, of_several=True) for name in names}
        programs = {name: program for name, (program, _) in made.items()}
        refuse_dependent(bound, programs)
        _check_levels(programs, unseen)
        about = provenance(posterior, accept)
        self.parts: dict[str, Predictor] = {
            name: Predictor.from_program(program, {**about, "training": training})
            for name, (program, training) in made.items()
        }

    @classmethod
    def of(cls, parts: Mapping[str, Predictor]) -> Self:
        """Of predictors made before, by the names of their outcomes. Raises PredictionError where they are not of one
        posterior: what they know of it (verdict, provenance) differs, or they do not have the same draws, which are as
        many, of as many chains, of the same weights, and with the same values of every site they share."""
        _check_parts(parts)
        self = cls.__new__(cls)
        self.parts = dict(parts)
        first = next(iter(self.parts.values())).program
        for name, part in self.parts.items():
            _refuse_other_posterior(self._first, part)
            program = part.program
            one, two = (w.values if w is not None else np.zeros(0) for w in (first.weights, program.weights))
            shared = [
                (values, other.program.every_draw[site])
                for other in self.parts.values()
                for site, values in program.every_draw.items()
                if site in other.program.every_draw
            ]
            if (
                (program.size, program.chains) != (first.size, first.chains)
                or not np.array_equal(one, two)
                or not all(a is b or np.array_equal(a, b) for a, b in shared)
            ):
                raise PredictionError(
                    f"The predictors of {first.outcome!r} and {name!r} do not have the same posterior draws, so they "
                    "make no joint one."
                )
        try:
            refuse_mixed_levels({name: part.program for name, part in self.parts.items()})
        except ModelError as error:
            raise PredictionError(str(error)) from None
        return self

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes."""
        return tuple(self.parts)

    @property
    def about(self) -> dict[str, Any]:
        """Verdict and provenance of the posterior."""
        return _of_posterior(self._first)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What rows must bring for all outcomes together; of outcomes with rows of their own the inputs of each."""
        found: dict[str, Input] = {}
        for entry in (entry for part in self.parts.values() for entry in part.inputs):
            other = found.get(entry.name, entry)
            low, high = (
                bound([value for value in values if value is not None], default=None)
                for bound, values in ((max, (entry.low, other.low)), (min, (entry.high, other.high)))
            )
            found[entry.name] = replace(entry, low=low, high=high)
        return tuple(found.values())

    def __getitem__(self, outcome: str) -> Predictor:
        """The predictor of one outcome alone."""
        if outcome not in self.parts:
            raise PredictionError(f"{outcome!r} is no outcome; there are {', '.join(map(repr, self.parts))}.")
        return self.parts[outcome]

    def predict(
        self,
        rows: Any,
        level: float = 0.9,
        quantiles: Sequence[float] | None = None,
        *,
        interval: Interval = Interval.ETI,
        groups: Any = None,
        missing: Mapping[str, Any] | None = None,
        first_row: int = 0,
    ) -> JointPrediction:
        """Predict every outcome of each row.

        Arguments are those of `Predictor.predict`, the same for every outcome. Outcomes with rows of their own (persons
        and their visits) take each their own from a dict, whose arrays then have different lengths. `groups` goes to
        the outcomes that are calibrated with groups, `missing` to those that have such inputs.

        Returns:
            JointPrediction: a mapping from each outcome to its Prediction.

        Raises:
            PredictionError: as `Predictor.predict` does.
        """
        rows_of, found = self.rows_of(rows), {}
        for name, part in self.parts.items():
            calibration = part.calibration
            beside = groups if not self._grouped or (calibration is not None and calibration.grouped) else None
            found[name] = part.predict(
                rows_of(name),
                level,
                quantiles,
                interval=interval,
                groups=beside,
                missing=self._missing(name, missing),
                first_row=first_row,
            )
        return JointPrediction(found)

    def sample(self, rows: Any, draws: int = 100, seed: Any = 0) -> dict[str, np.ndarray]:
        """Joint draws of all outcomes from their predictive distribution, (draws, rows, *event) by outcome.

        Draw i of every outcome, in every row, is of the same posterior draw: what the outcomes have in common through
        the parameters is kept, and so are the effects of a new level. Each outcome has noise of its own, which belongs
        to its name, the row's content, and `seed`. The first of many draws are those of fewer.

        Raises PredictionError as `Predictor.sample` does.
        """
        count, rows_of, found = check_draws(draws), self.rows_of(rows), {}
        for name, part in self.parts.items():
            columns, length = read_rows(rows_of(name), part.program)
            hashes = content_hashes(columns, length)
            found[name] = sample_rows(part._engine, columns, hashes, count, seed, noise_of=name)
        return found

    def log_score(self, rows: Any, y: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Each outcome's log predictive density as `Predictor.log_score` has it, (rows,), for those that `y` holds.

        They are those of the marginal laws; their sum is no joint log density unless the outcomes are independent.
        """
        rows_of = self.rows_of(rows)
        return {name: self[name].log_score(rows_of(name), values) for name, values in self.of_outcomes(y).items()}

    def cdf(self, rows: Any, y: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """P(Y <= y) and P(Y < y) of each outcome that `y` holds, as `Predictor.cdf` has them."""
        rows_of = self.rows_of(rows)
        return {name: self[name].cdf(rows_of(name), values) for name, values in self.of_outcomes(y).items()}

    def calibrate(self, rows: Any, y: Mapping[str, Any], groups: Any = None) -> "JointPredictor":
        """A new predictor whose intervals and sets cover, for each outcome that `y` holds; the others stay as they are.

        Each outcome is calibrated on its own, as `Predictor.calibrate` says, so an interval covers its outcome as often
        as the level says: not all intervals of a row at once.
        """
        rows_of, values = self.rows_of(rows), self.of_outcomes(y)
        return self.of(
            {
                name: part.calibrate(rows_of(name), values[name], groups) if name in values else part
                for name, part in self.parts.items()
            }
        )

    def compress(self, rows: Any, tolerance: float = 0.01) -> "JointPredictor":
        """A new predictor that answers from far fewer, weighted draws, the same for all outcomes.

        So `sample` draws them together as before. Every outcome's summaries stay within `tolerance` as
        `Predictor.compress` says; the dependence between outcomes is not looked at. Levels that training never saw are
        an error again.
        """
        from probinfer.predict.compress import Asked, compress_together

        tolerance, rows_of, asked = check_tolerance(tolerance), self.rows_of(rows), []
        for name, part in self.parts.items():
            part.refuse_calibrated("compress")
            known = replace(part.program, population=None)
            asked.append(Asked(known, *read_rows(rows_of(name), known)))
        smaller = zip(self.parts.items(), compress_together(asked, tolerance), strict=True)
        return self.of(
            {
                name: Predictor.from_program(program, {**part.about, "compression": compression.words()})
                for (name, part), (program, compression) in smaller
            }
        )

    def round(self, rows: Any, tolerance: float = 1e-4) -> "JointPredictor":
        """A new predictor with draws of single precision: half the space when saved. Each outcome's summaries stay
        within `tolerance` as `Predictor.round` says."""
        rows_of = self.rows_of(rows)
        return self.of({name: part.round(rows_of(name), tolerance) for name, part in self.parts.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as one folder of plain files, or one zip, that `load_predictor` reads without the model's code.

        Draws that outcomes have in common are stored once. See `Predictor.save`.
        """
        from probinfer.predict.joint_artifact import write_joint

        write_joint(self, path)

    def __reduce__(self) -> tuple[Any, ...]:
        """As `Predictor`'s: the bytes of the artifact."""
        from probinfer.predict.joint_artifact import contents
        from probinfer.predict.plain_files import as_zip

        return restored, (as_zip(contents(self)),)

    def __copy__(self) -> "JointPredictor":
        return self.of({name: copy.copy(part) for name, part in self.parts.items()})

    def __deepcopy__(self, memo: Any) -> "JointPredictor":
        return copy.copy(self)

    def export_onnx(self, path: str | os.PathLike[str], *_: Any, **__: Any) -> NoReturn:
        """Not offered for several outcomes in one file: raises ExportError. Export each of them,
        `predictor["y"].export_onnx(path)`."""
        raise ExportError(
            f"An ONNX file holds one outcome, and this predictor has {', '.join(map(repr, self.parts))}. Write a file "
            f"for each: predictor[{self.outcomes[0]!r}].export_onnx(path)."
        )

    def __repr__(self) -> str:
        laws = [f"{n} ~ {p.program.family.name}" if p.program.family else n for n, p in self.parts.items()]
        takes = ", ".join(f"{i.name}{list(i.shape) if i.shape else ''}" for i in self.inputs) or "no inputs"
        verdict = self.about.get("verdict", "?")
        return f"JointPredictor({', '.join(laws)}; {takes}; {self._first.program.size} draws; {verdict})"

    @property
    def _first(self) -> Predictor:
        return next(iter(self.parts.values()))

    @property
    def _grouped(self) -> bool:
        """Whether some outcome is calibrated with groups."""
        return any(part.calibration is not None and part.calibration.grouped for part in self.parts.values())

    def _missing(self, name: str, missing: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """What may stand for the inputs of one outcome; what belongs to none is left for it to refuse."""
        missing = as_frame(missing)
        if not isinstance(missing, Mapping) and not hasattr(missing, "columns"):
            return missing
        others = {entry.name for entry in self.inputs} - {entry.name for entry in self.parts[name].inputs}
        return {key: values for key, values in missing.items() if key not in others} or None

    def of_outcomes(self, y: Any) -> Mapping[str, Any]:
        """What came for outcomes, by their names. Raises PredictionError for something else than a dict, or a name that
        is none."""
        return of_outcomes(y, self.outcomes)

    def rows_of(self, rows: Any) -> Callable[[str], Any]:
        """The rows of each outcome."""
        return _RowsOf(self, rows)


def parts_of[P](predictor: P | JointPredictor) -> "list[P | Predictor]":
    """The predictor of each outcome: itself, where there is one."""
    return [*predictor.parts.values()] if isinstance(predictor, JointPredictor) else [predictor]


class _RowsOf:
    """The rows of each outcome. One that needs no inputs has as many as the others, if these agree."""

    def __init__(self, predictor: JointPredictor, rows: Any) -> None:
        rows = as_table(rows)
        self._rows, self._parts, self._bare = rows, predictor.parts, rows
        if isinstance(rows, Mapping) and predictor.inputs:
            counts = {
                len(values)
                for entry in predictor.inputs
                if (values := rows.get(entry.name)) is not None and np.ndim(values) > len(entry.shape)
            }
            if len(counts) == 1:
                import pyarrow as pa

                self._bare = pa.table({"": np.zeros(counts.pop())})

    def __call__(self, name: str) -> Any:
        return self._rows if self._parts[name].inputs else self._bare


def _of_posterior(part: Predictor) -> dict[str, Any]:
    return {name: value for name, value in part.about.items() if name not in OWN}


def _check_parts(parts: Any) -> None:
    """Raise PredictionError for what are no predictors by the names of their outcomes."""
    if not isinstance(parts, Mapping) or not parts:
        came = "none" if isinstance(parts, Mapping) else type(parts).__name__
        raise PredictionError(f"parts came as {came}; wanted a dict of predictors by the names of their outcomes.")
    for name, part in parts.items():
        if not isinstance(part, Predictor):
            raise PredictionError(f"parts[{name!r}] came as {type(part).__name__}; wanted a Predictor of one outcome.")
        if part.outcome != name:
            raise PredictionError(f"parts[{name!r}] is the predictor of {part.outcome!r}; name it by that.")


def _refuse_other_posterior(one: Predictor, two: Predictor) -> None:
    """Raise PredictionError where two predictors know different things of their posterior."""
    known, differs = (_known(one), _known(two)), []
    for name in {**known[0], **known[1]}:
        first, second = ([each[name]] if name in each else [] for each in known)
        if first != second:
            differs.append(f"{name} is {_shown(first)} and {_shown(second)}")
    if differs:
        raise PredictionError(
            f"The predictors of {one.outcome!r} and {two.outcome!r} are of different posteriors: {', '.join(differs)}. "
            "Make both of one posterior, with the same accept."
        )


def _shown(values: list[Any]) -> str:
    return reprlib.repr(values[0]) if values else "not there"


def _known(part: Predictor) -> dict[str, Any]:
    """What a predictor knows of its posterior, in the words of a file, which it may have come from."""
    from probinfer.predict.artifact import in_words

    words = in_words(_of_posterior(part))
    origin = words.pop("provenance", {})
    parts = origin.items() if isinstance(origin, dict) else [("", origin)]
    return {**words, **{f"provenance {name}": value for name, value in parts}}


def _check_levels(programs: Mapping[str, Program], unseen: Unseen | Mapping[str, Unseen]) -> None:
    """Raise ModelError where levels are to be new that no outcome picks, or that outcomes would not share."""
    picking = {entry.name for each in programs.values() for entry in each.inputs if entry.low is not None}
    named = [key for key, which in unseen.items() if which is Unseen.POPULATION] if isinstance(unseen, Mapping) else []
    unknown = [name for name in named if name not in picking]
    if unknown or (unseen is Unseen.POPULATION and not picking):
        what = f"unseen names {', '.join(unknown)}" if unknown else "There are no levels to be new"
        raise ModelError(f"{what}; the outcomes' inputs that pick a level are {', '.join(sorted(picking)) or 'none'}.")
    refuse_mixed_levels(programs)


def _names(outcome: Any, observed: list[str]) -> list[str]:
    names = list(outcome) if isinstance(outcome, list | tuple) else observed if outcome is None else [outcome]
    if not observed:
        raise ModelError(
            "The model has no observed site, so there is no outcome to predict. Give obs= to a sample site: "
            'numpyro.sample("y", dist.Normal(mu, sigma), obs=y).'
        )
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"outcome came as {outcome!r}; wanted names of observed sites: {', '.join(observed)}.")
    if len(set(names)) < len(names):
        raise ModelError(f"outcome came as {outcome!r}, which names an outcome twice; each has one prediction.")
    return names
