"""Predictor: a posterior's answers for new rows, exact where the outcome's law allows. Imports jax, not numpyro."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from probinfer.errors import PredictionError, UnreliablePosterior
from probinfer.model.forks import before_jax, is_forked
from probinfer.model.pipeline.steps import Unseen
from probinfer.posterior.verdict import Verdict
from probinfer.predict.conformal import Calibration
from probinfer.predict.engine import Engine
from probinfer.predict.family import Support
from probinfer.predict.interval import (
    answer_with_interval,
    calibrate,
    check_tolerance,
    entropy_parts,
    probabilities,
    probability,
    refuse_undefined,
    take_groups,
)
from probinfer.predict.kind import Interval
from probinfer.predict.missing import Marginal, fill
from probinfer.predict.population import engine_of
from probinfer.predict.prediction import Prediction
from probinfer.predict.program import Input, Program
from probinfer.predict.rows import Gap, content_hashes, read_outcomes, read_rows
from probinfer.predict.sampling import check_draws, sample_rows

if TYPE_CHECKING:
    from probinfer.posterior.posterior import Posterior
    from probinfer.predict.compress import Compression
    from probinfer.predict.joint import JointPredictor
    from probinfer.predict.plain_files import Place
    from probinfer.predict.single import Rounding

_FINDINGS_SHOWN = 3


class Predictor:
    """Predictions of one outcome of a model for new rows.

    For each posterior draw the outcome has a known distribution; a prediction summarises the mixture of them all.
    With a distribution of `probinfer.predict.families` this is exact, needs no random numbers, and is the same on
    every machine. Others are answered from predictive draws whose randomness belongs to the row, so that no answer
    depends on what else is asked.

    Args:
        posterior: what `infer` returned, or `load_posterior` with model and data.
        outcome: name of the observed site; may be left out where there is only one. A list of names gives a
            `JointPredictor` of all these outcomes instead.
        accept: the worst verdict to accept. A posterior with a worse one does not become a predictor.
        unseen: what a level is that training never saw, such as a group's number beyond the last. `Unseen.ERROR`, or
            `Unseen.POPULATION`: it has effects of its own, from the law that the model gives to those of every level,
            given the other parameters of a draw: the posterior of a model with one more level, which has no data. New
            effects are drawn, one for each posterior draw, or as many as make 4,000 in all; by counters, so that a
            row's answer depends on nothing else. What they differ by is epistemic: data of that level would lessen it.
            A dict {input: Unseen} says it for each.

    Raises:
        UnreliablePosterior: the verdict is worse than `accept`.
        PredictionError: `posterior` is none, or `accept` no Verdict.
        ModelError: the posterior came without model or data, the model has no such outcome, or its rows are not
            independent given the parameters (time series, batch statistics, one parameter for every row); or new
            levels are wanted of an input for which the model has no law of them.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from probinfer import infer
    >>> def coin(y=None):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> predictor = Predictor(infer(coin, {"y": np.array([1, 0, 1, 1])}, progress=False))
    >>> bool(abs(predictor.predict({}).mean[0] - 4 / 6) < 0.02)  # exact: Beta(4, 2)
    True
    """

    @overload
    def __new__(
        cls,
        posterior: "Posterior",
        outcome: str | None = None,
        accept: Verdict = Verdict.GOOD,
        *,
        unseen: Unseen | Mapping[str, Unseen] = Unseen.ERROR,
    ) -> Self: ...
    @overload
    def __new__(
        cls,
        posterior: "Posterior",
        outcome: list[str] | tuple[str, ...],
        accept: Verdict = Verdict.GOOD,
        *,
        unseen: Unseen | Mapping[str, Unseen] = Unseen.ERROR,
    ) -> "JointPredictor": ...
    def __new__(
        cls, posterior: Any = None, outcome: Any = None, accept: Verdict = Verdict.GOOD, *, unseen: Any = Unseen.ERROR
    ) -> Any:
        """Of several outcomes the predictor is a `JointPredictor`."""
        if isinstance(outcome, list | tuple):
            from probinfer.predict.joint import JointPredictor

            return JointPredictor(posterior, outcome, accept, unseen=unseen)
        return super().__new__(cls)

    def __init__(
        self,
        posterior: "Posterior",
        outcome: Any = None,
        accept: Verdict = Verdict.GOOD,
        *,
        unseen: Unseen | Mapping[str, Unseen] = Unseen.ERROR,
    ) -> None:
        from probinfer.predict.outcome import row_program

        if not isinstance(accept, Verdict):
            raise PredictionError(f"accept is {accept!r}; wanted a Verdict, such as Verdict.DOUBTFUL.")
        check_unseen(unseen)
        check_posterior(posterior)
        refuse_unreliable(posterior, accept, "Predictor")
        program, training = row_program(posterior, outcome, unseen)
        self._set(program, {**provenance(posterior, accept), "training": training}, None)

    @classmethod
    def from_program(cls, program: Program, about: Mapping[str, Any], calibration: Calibration | None = None) -> Self:
        """The predictor of a program that was made before: how `load_predictor` makes it."""
        self = object.__new__(cls)
        self._set(program, about, calibration)
        return self

    def of_file(self) -> Self:
        """This predictor, once it is in a file: other processes will load it, too."""
        self._engine.lasting = True
        return self

    def with_draws(self, latents: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> "Predictor":
        """The predictor of other draws of the same model's parameters, each (draws, *shape), as many chains as here.

        Nothing is traced or compiled for it, if there are as many draws. It is not calibrated. `about`: their verdict
        and provenance.
        """
        predictor = self.from_program(self.program.with_draws(lambda name, _: np.asarray(latents[name])), about)
        predictor._engine = self._engine.sharing(predictor.program)
        return predictor

    def _set(self, program: Program, about: Mapping[str, Any], calibration: Calibration | None) -> None:
        self.program = program
        self.about = dict(about)
        self.calibration = calibration
        self._engine = engine_of(program)

    @property
    def outcome(self) -> str:
        """Name of the outcome."""
        return self.program.outcome

    @property
    def compression(self) -> "Compression | None":
        """What `compress` cost; None for a predictor that holds all its draws."""
        from probinfer.predict.compress import Compression

        words = self.about.get("compression")
        return Compression(**words) if words else None

    @property
    def rounding(self) -> "Rounding | None":
        """What `round` cost; None for a predictor whose draws are as they came."""
        from probinfer.predict.single import Rounding

        words = self.about.get("rounding")
        return Rounding(**words) if words else None

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What every row must bring: names, types, shapes, valid ranges. Of a model with preprocessing the raw columns,
        whose type is "float64", "text" (labels: text, numbers or booleans) or "date"."""
        return self.program.asked

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
    ) -> Prediction:
        """Predict the outcome of each row.

        Args:
            rows: dict of arrays by the model's argument names, or a table: of pandas, polars, pyarrow, or anything else
                that hands out its columns as an Arrow stream (`__arrow_c_stream__`). A vector-valued argument
                X is an array (rows, k), or the table columns X[0], …, X[k-1]. A table's columns come in any order, and
                further ones are ignored; a dict may also hold what the model knows and the outcome does not need, the
                outcome itself for one. Without inputs, `{}` is one row.
            level: probability of the interval `lower` to `upper`.
            quantiles: further quantiles wanted, probabilities between 0 and 1.
            interval: which interval: equal-tailed, the shortest, or a bound from one side; see `Interval`.
            groups: the group of each row, for a predictor calibrated with groups that are no column of the rows.
            missing: what may stand where an input is missing (NaN, None), by the name of a column of the rows, or as a
                table: an array (k, *shape) of equally probable values, such as k training rows'. Of several, those of
                the same number belong together. A row with gaps is predicted by the mixture over all k, whose spread
                is part of `aleatoric_sd`. Without it a missing value is an error.
            first_row: number of the first row, for errors that name rows of a larger table.

        Returns:
            Prediction: mean, sd and its two parts, interval, quantiles, probabilities, entropy of classes and its two
                parts, Monte Carlo error of the mean.

        Raises:
            PredictionError: the rows do not fit (names, types, shapes, missing or infinite values, a level that
                training never saw), the model's parameters are not numbers for some row, `level` or `quantiles`
                are no probabilities, `interval` is no Interval, a group is unknown, or there were too few
                calibration rows for `level`.
        """
        level = probability("level", level)
        wanted = probabilities("quantiles", quantiles)
        if not isinstance(interval, Interval):
            raise PredictionError(f"interval is {interval!r}; wanted an Interval, such as Interval.HDI.")
        if isinstance(first_row, bool) or not isinstance(first_row, int | np.integer):
            raise PredictionError(f"first_row is {first_row!r}; wanted the number of the first row, such as 0.")
        rows, groups = take_groups(rows, groups, self.calibration, self.program, first_row)
        engine: Engine | Marginal = self._engine
        try:
            if missing is None:
                columns, count = read_rows(rows, self.program, first_row=first_row)
            else:
                filled = fill(rows, missing, self.program, first_row)
                columns, count = filled.columns, filled.count
                engine = Marginal(engine, filled) if filled.gaps.any() else engine
        except Gap as error:
            raise PredictionError(f"{error} For a gap, missing={{input: values}} says what may stand there.") from None
        hashes = np.zeros(count, np.uint32) if self.program.family else content_hashes(columns, count)
        found = answer_with_interval(engine, self.calibration, columns, hashes, groups, level, wanted, interval)
        answer = found.answer
        refuse_undefined(answer.defined, self.outcome, first_row, columns)
        support = self.program.family.support if self.program.family else None
        return Prediction.of(
            outcome=self.outcome,
            mean=answer.mean,
            sd=answer.sd,
            lower=found.lower,
            upper=found.upper,
            level=level,
            epistemic_sd=answer.epistemic_sd,
            aleatoric_sd=answer.aleatoric_sd,
            mcse=answer.mcse,
            quantiles=found.quantiles if quantiles is not None else None,
            quantile_levels=wanted,
            probabilities=answer.probabilities if self.program.probabilities else None,
            classes=_classes(self.program, support),
            sets=found.sets,
            calibration_rows=found.calibration_rows,
            guarantee=found.guarantee,
            interval=interval,
            **entropy_parts(answer),
        )

    def calibrate(self, rows: Any, y: Any, groups: Any = None) -> "Predictor":
        """A new predictor whose intervals cover as often as their level says, whether the model is right or not.

        Split conformal prediction. Calibration row i gets the score s_i = F(y_i | x_i), its place in the model's exact
        predictive distribution (on the scale of `probinfer.predict.conformity`, which goes on where floating point
        ends). With the scores sorted and a = 1 - level, a new row's interval is

            lower = F^-1(s_(floor((n + 1) a / 2)) | x),   upper = F^-1(s_(ceil((n + 1) (1 - a / 2))) | x)

        and covers with probability at least `level`, and at most level + 2 / (n + 1) for a continuous outcome, if the
        new row and the calibration rows are exchangeable (for instance independent draws of one population). Whole
        numbers have one score for each end, P(Y <= y) and P(Y < y), which needs no random numbers. Classes get
        `Prediction.sets`: all with (probability of the more probable ones + half its own) up to the score of rank
        ceil((n + 1) level), and always the most probable.

        The point prediction, sd and its parts, probabilities, `sample` and `log_score` stay the model's. The interval,
        sets, and quantiles of numbers follow the calibration; a quantile below 0.5 errs to below, one above 0.5 to
        above. Of an outcome of several numbers, each is covered on its own.

        Args:
            rows: as for `predict`; rows that the model was not trained on.
            y: what came, (rows, *event).
            groups: calibrate each group on its own (Mondrian), so that the coverage holds in each. The name of a column
                of the rows (new rows must then have it too), or an array with a whole number or text for each row
                (then pass `groups` to `predict`).

        Returns:
            Predictor: it shares the model's arrays with this one, which stays as it is.

        Raises:
            PredictionError: the rows do not fit, outcomes do not match them, are not finite or outside of the
                outcome's support; there are no rows; rows of the training data are among them. The last is noticed
                where training rows can be told apart, from a sample of 512 of them.

        Fails where new rows differ from the calibration rows: a later time, another place, rows of one person in both.
        Coverage is an average over rows, not for each x. For a single calibration set it is Beta distributed with the
        mean above: with n = 100 rows and 90% its sd is 3%.
        Vovk, Gammerman & Shafer (2005); Chernozhukov, Wuethrich & Zhu (2021), PNAS 118 (scores from the cdf); Romano,
        Sesia & Candes (2020), NeurIPS (adaptive sets).

        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from probinfer import infer
        >>> def model(y=None):
        ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(mu, 0.1), obs=y)  # too sure of itself: the sd is 1
        >>> y = np.random.default_rng(0).normal(size=500)
        >>> predictor = Predictor(infer(model, {"y": y[:100]}, progress=False))
        >>> before, after = (p.predict({}) for p in (predictor, predictor.calibrate({"y": y[100:]}, y[100:])))
        >>> bool(before.upper - before.lower < 0.4), bool(after.upper - after.lower > 2.5)  # of a standard normal: 3.3
        (True, True)
        """
        return self.calibrated_by(calibrate(self._engine, self.about.get("training"), rows, y, groups))

    def calibrated_by(self, calibration: Calibration | None) -> "Predictor":
        """A new predictor with a calibration that was made elsewhere: how `CrossValidation.calibrate` makes it."""
        predictor = self.from_program(self.program, self.about, calibration)
        predictor._engine = self._engine  # what is compiled stays compiled
        return predictor

    def compress(self, rows: Any, tolerance: float = 0.01) -> "Predictor":
        """A new predictor that answers from far fewer, weighted draws: the fewest found that keep every summary.

        A draw's say about the rows is a vector: of each row's outcome the mean, variance, and cdf at 13 quantiles. With
        v_s the vector of draw s in units of the row's predictive sd, less the mean over the draws, the weights w >= 0
        with the sum one are those of ever more draws that make |sum_s w_s v_s| least, until on the rows held out

            |mean' - mean|, |sd' - sd| and those of its two parts, |q'(p) - q(p)|  <=  tolerance * sd

        for p from 0.005 to 0.995, and so for equal-tailed intervals up to 99%. Whole numbers: the cdf at each
        quantile, and every probability, within `tolerance`; entropies follow the probabilities, and are not looked at
        themselves. A quantile moves to the next number where the cdf is
        that close to its level. Shortest intervals, whose ends are not well determined, and `log_score` are not
        looked at. `mcse` becomes the largest Monte Carlo error of the mean that the full draws had on the reference
        rows, in units of the epistemic sd, times the row's.

        Args:
            rows: as for `predict`, 30 or more that are like those to be predicted. No outcomes are needed, so training
                rows will do. A third, chosen at random, is held out; at most some thousand are used.
            tolerance: largest error of a summary, as part of the row's predictive sd.

        Returns:
            Predictor: `compression` says what it cost; it is stored with the predictor. Answers take time and memory
                in proportion to the draws.

        Raises:
            PredictionError: the rows do not fit or are too few, the law has no closed form or no sd, the predictor is
                compressed or calibrated already, or half of the draws do not suffice.

        Fails where new rows are unlike those given, such as groups that were not among them: compare `predict` of both.
        Levels that training never saw are an error again: few draws say little of a population.
        Wolfe (1976), Mathematical Programming 11 (the search); Litterer & Lyons (2012), Annals of Applied Probability
        22, and Hayakawa, Oberhauser & Lyons (2022), NeurIPS (why so few points suffice).

        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from probinfer import Exact, infer
        >>> def model(x, y=None):
        ...     slope = numpyro.sample("slope", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
        >>> x = np.linspace(-1, 1, 50)
        >>> predictor = Predictor(infer(model, {"x": x, "y": x}, Exact(draws=1000), progress=False))
        >>> small = predictor.compress({"x": x}, tolerance=0.05)
        >>> small.compression.before, small.compression.after < 40, small.compression.error < 0.05
        (1000, True, True)
        """
        from probinfer.predict.compress import compress

        tolerance = check_tolerance(tolerance)
        self.refuse_calibrated("compress")
        known = replace(self.program, population=None)
        columns, count = read_rows(rows, known)
        program, compression = compress(known, columns, count, tolerance)
        return self.from_program(program, {**self.about, "compression": compression.words()})

    def round(self, rows: Any, tolerance: float = 1e-4) -> "Predictor":
        """A new predictor whose draws are numbers of single precision, so that it takes half the space when saved.

        Each draw moves by at most 6e-8 of itself. What that does to predictions depends on how much cancels in the
        model, so it is measured: on the rows given, the mean, sd and its two parts, and 25 quantiles from 0.5% to
        99.5% stay within `tolerance` of the row's predictive sd (of whole numbers the cdf and all probabilities within
        `tolerance`), or there is an error instead of a predictor. For comparison, 4,000 independent draws leave a Monte
        Carlo error of 0.016 of the epistemic sd.

        It answers the same before saving and after loading, bit for bit: what is rounded here is rounded for good, and
        computed with in double precision as ever.

        Args:
            rows: as for `predict`, like those to be predicted; at most 1,000 of them are looked at. No outcomes are
                needed, so training rows will do.
            tolerance: largest error of a summary, as part of the row's predictive sd.

        Returns:
            Predictor: `rounding` says what it cost; it is stored with the predictor, as format version 6.

        Raises:
            PredictionError: the rows do not fit, the law has no closed form or no sd, the predictor is calibrated
                already, or the predictions would move by more than `tolerance`.

        Fails where new rows are unlike those given, such as inputs a thousand times as large.

        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from probinfer import infer
        >>> def model(x, y=None):
        ...     slope = numpyro.sample("slope", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
        >>> x = np.linspace(-1, 1, 50)
        >>> predictor = Predictor(infer(model, {"x": x, "y": x}, progress=False))
        >>> predictor.round({"x": x}).rounding.error < 1e-6
        True
        """
        from probinfer.predict.single import rounded

        tolerance = check_tolerance(tolerance)
        self.refuse_calibrated("round")
        columns, count = read_rows(rows, replace(self.program, population=None))
        program, rounding = rounded(self.program, columns, count, tolerance)
        return self.from_program(program, {**self.about, "rounding": rounding.words()})

    def refuse_calibrated(self, verb: str) -> None:
        """Raise PredictionError for what a calibration would not survive."""
        if self.calibration is not None:
            raise PredictionError(
                f"The predictor is calibrated, and its calibration holds for its own draws. {verb.capitalize()} first, "
                f"then calibrate: predictor.{verb}(rows).calibrate(rows, y)."
            )

    def sample(self, rows: Any, draws: int = 100, seed: Any = 0) -> np.ndarray:
        """Draws from the predictive distribution, (draws, rows, *event); whole numbers for a discrete outcome.

        Draw i is a joint draw: all rows share the i-th of `draws` posterior draws taken in random order (again from
        the start when they are used up; of a compressed predictor each as often as its weight says, rounded up or down
        in every 128), and each row has noise of its own. A row's noise comes from its content and `seed`, not from its
        place; equal rows in one call are told apart by counting. The first of many draws are those of fewer.

        Raises PredictionError as `predict` does, and for a number of draws or a seed that is none.
        """
        number = check_draws(draws)
        columns, count = read_rows(rows, self.program)
        return sample_rows(self._engine, columns, content_hashes(columns, count), number, seed)

    def log_score(self, rows: Any, y: Any) -> np.ndarray:
        """log of the posterior predictive density (or probability) of each outcome, (rows,); -inf for an impossible
        one.

        log (1/S) sum_s p(y | row, theta_s) over the S posterior draws; of an outcome of several numbers, their joint
        density. Raises PredictionError as `predict` does, and for outcomes that are no numbers or do not match the
        rows.
        """
        columns, count = read_rows(rows, self.program)
        found = self._engine.log_score(columns, read_outcomes(y, self.program, count))
        refuse_undefined(~np.isnan(found), self.outcome, columns=columns)
        return found

    def cdf(self, rows: Any, y: Any) -> np.ndarray:
        """P(Y <= y) and P(Y < y) of each outcome by the model, on a last axis of two: (rows, *event, 2).

        Exact where the outcome's law has a cdf, else from predictive draws of each row's own. Not of classes without
        order, and not moved by a calibration. Raises PredictionError as `log_score` does.
        """
        columns, count = read_rows(rows, self.program)
        found = self._engine.cdf(columns, content_hashes(columns, count), read_outcomes(y, self.program, count))
        refuse_undefined(~np.isnan(found).any(axis=tuple(range(1, found.ndim))), self.outcome, columns=columns)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as a folder of plain files that `load_predictor` reads without the model's code; where `path` ends in
        .zip, as one uncompressed zip of them.

        An older predictor at `path` is replaced once the new one is complete; anything else there is left alone, with
        an ArtifactError. OSError where it cannot be written: the text says why, and what is there now.
        """
        from probinfer.predict.artifact import write

        write(self, path)

    def __reduce__(self) -> tuple[Any, ...]:
        """In a pickle that somebody makes, such as joblib's, there are the bytes of the artifact and nothing else."""
        from probinfer.predict.artifact import contents
        from probinfer.predict.plain_files import as_zip

        return restored, (as_zip(contents(self)),)

    def __copy__(self) -> "Predictor":
        return self.calibrated_by(self.calibration)

    def __deepcopy__(self, memo: Any) -> "Predictor":
        return copy.copy(self)  # nothing ever writes to its arrays

    def export_onnx(
        self, path: str | os.PathLike[str], level: float = 0.9, quantiles: Sequence[float] | None = None
    ) -> None:
        """Write one ONNX file that answers rows as `predict` does, in float64, for ONNX Runtime and others.

        Inputs are those of `predictor.inputs`, each (rows, *shape) of its type; raw columns of a model with a pipeline
        are numbers with nan, or text with "", where a value is missing. Outputs are mean, sd, lower, upper,
        epistemic_sd, aleatoric_sd and mcse, (rows, *event); with `quantiles` also quantiles (…, levels), and for
        classes and counts probabilities (…, k); entropies are left out. The rows are not checked: where an integer
        picks a level that training never saw, or a raw row cannot be prepared, all outputs are nan.

        Args:
            path: the file; one of that name is replaced when the new one is complete.
            level: probability of the equal-tailed interval `lower` to `upper`, fixed in the file.
            quantiles: further quantiles, fixed in the file.

        Raises:
            ExportError: the law has no closed form, the predictor is calibrated, rows need no inputs, or the pipeline
                has a step or the model an operation that has no translation; the text names it.
            MissingExtra: onnx is not installed.
            PredictionError: `level` or `quantiles` are no probabilities.
        """
        from probinfer.predict.export import export_onnx

        level = probability("level", level)
        export_onnx(self, path, level, probabilities("quantiles", quantiles))

    def __repr__(self) -> str:
        program = self.program
        law = f" ~ {program.family.name}" if program.family else ""
        takes = ", ".join(f"{i.name}{list(i.shape) if i.shape else ''}" for i in self.inputs) or "no inputs"
        rows = f"; calibrated on {sum(self.calibration.counts)} rows" if self.calibration else ""
        verdict = self.about.get("verdict", "?")
        few = self.compression
        kept = f" for {few.before}, within {few.error:.2g}" if few else ""
        return f"Predictor({program.outcome}{law}; {takes}; {program.size} draws{kept}; {verdict}{rows})"


def load_predictor(path: str | os.PathLike[str]) -> Any:
    """Load the `Predictor`, `JointPredictor`, `PointPredictor` or `Forecaster` that `save` wrote, as a folder or as one
    zip. Runs no code from it, and needs neither the model nor its data.

    Raises ArtifactError if a file is missing, changed, not declared or a link, or if the format is one of a later
    version; ForkedProcess in a process that was forked from one in which probinfer had run JAX.
    """
    from probinfer.predict.plain_files import open_place

    return _read(open_place(path))


def load_row_predictor(path: str | os.PathLike[str]) -> Any:
    """As `load_predictor`, for what answers rows. Raises PredictionError for a forecaster, which answers times."""
    from probinfer.predict.artifact import sections
    from probinfer.predict.plain_files import open_place

    place = open_place(path)
    if "series" in sections(place):
        raise PredictionError(
            f"{path} holds a forecaster, which predicts times, not rows, and so cannot be used here. For a table of "
            f"what comes, probinfer score {path} INPUT OUTPUT --steps 12, or pi.load_predictor(path).predict(steps=12)"
            f".to_frame(); over HTTP, probinfer serve {path}."
        )
    return _read(place)


def restored(content: bytes) -> Any:
    """What was pickled as the bytes of an artifact, with all the checks of `load_predictor`."""
    from probinfer.predict.plain_files import OneFile

    if is_forked():  # an error here would be lost: multiprocessing's worker ends, and who waits for it waits for ever
        return _InForkedProcess()
    return _read(OneFile(content, "a pickled predictor"))


class _InForkedProcess:
    """A predictor that came by pickle to a process that cannot run it: each call of it says so."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: before_jax()


def _read(path: "Place") -> Any:
    from probinfer.predict.artifact import read, sections

    found = sections(path)
    if "parts" in found:
        from probinfer.predict.joint_artifact import read_joint

        return read_joint(path)
    if "model" in found:
        from probinfer.predict.point_artifact import read_point

        return read_point(path)
    if "series" in found:
        from probinfer.predict.series_artifact import read_forecaster

        return read_forecaster(path)
    return Predictor.from_program(*read(path)).of_file()


def check_unseen(unseen: Any) -> None:
    """Raise PredictionError for what says of no level what it is."""
    given = unseen.values() if isinstance(unseen, Mapping) else [unseen]
    if any(not isinstance(each, Unseen) or each not in (Unseen.ERROR, Unseen.POPULATION) for each in given):
        raise PredictionError(
            f"unseen is {unseen!r}; wanted Unseen.ERROR or Unseen.POPULATION, or a dict with one of them for inputs."
        )


def check_posterior(posterior: Any) -> None:
    """Raise PredictionError for what is no posterior."""
    if not hasattr(posterior, "latents") or not hasattr(posterior, "report"):
        hint = ""
        if isinstance(posterior, str | os.PathLike):
            hint = f" A predictor that was saved is loaded: pi.load_predictor({os.fspath(posterior)!r})."
        elif callable(posterior):
            hint = " A model is fitted first: pi.infer(model, data)."
        raise PredictionError(
            f"posterior came as {type(posterior).__name__}; wanted the Posterior that infer or load_posterior returned."
            f"{hint}"
        )


def refuse_unreliable(posterior: "Posterior", accept: Verdict, owner: str) -> None:
    """UnreliablePosterior if the verdict is worse than `accept`; `owner` is what was to be made of the posterior."""
    report = posterior.report
    if report.verdict >= accept:
        return
    findings = [finding for finding in report.findings if finding.severity < accept]
    listed = "\n".join(str(finding) for finding in findings[:_FINDINGS_SHOWN])
    more = (
        f"\n… and {len(findings) - _FINDINGS_SHOWN} more in posterior.report" if len(findings) > _FINDINGS_SHOWN else ""
    )
    raise UnreliablePosterior(
        f"The posterior's verdict is {report.verdict.name}, and only {accept.name} or better is "
        f"accepted here.\n{listed}{more}\n"
        f"To predict from it all the same, say so: {owner}(posterior, accept=Verdict.{report.verdict.name})."
    )


def provenance(posterior: "Posterior", accept: Verdict) -> dict[str, Any]:
    """What a predictor keeps of where its posterior came from."""
    report = posterior.report
    return {
        "verdict": report.verdict.name,
        "accepted": accept.name,
        "headline": report.headline,
        "findings": [
            {"severity": f.severity.name, "what": f.what, "where": f.where, "advice": f.advice} for f in report.findings
        ],
        "provenance": {str(name): value for name, value in report.evidence.attrs.items()},
    }


def _classes(program: Program, support: Support | None) -> np.ndarray | None:
    """Codes of the classes, or their labels where a pipeline knows them."""
    if support not in (Support.BINARY, Support.CLASSES):
        return None
    return np.array(program.labels, object) if program.labels else np.arange(program.probabilities)
