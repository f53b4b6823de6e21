"""Hyper-parameters and priors chosen by predictions of rows held out. Imports numpy; the search's library when used."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import DataError, MethodError, ProbinferError
from probinfer.evaluate.elsewhere import answers
from probinfer.evaluate.holdout import Split, split_rows
from probinfer.evaluate.one_outcome import refuse_several
from probinfer.evaluate.search import BayesianSearch, GridSearch, RandomSearch, Search
from probinfer.evaluate.shown import Shown
from probinfer.evaluate.transform import transform
from probinfer.inference.draws import Outcome
from probinfer.inference.progress import Progress, make_progress
from probinfer.model.formula.formula import FormulaModel, SettledFormula
from probinfer.model.model import Model
from probinfer.model.pipeline.pipeline import Pipeline, SettledPipeline
from probinfer.model.tables import as_frame
from probinfer.posterior.infer import infer
from probinfer.posterior.verdict import Verdict
from probinfer.predict.predictor import Predictor
from probinfer.predict.rows import plain_numbers

if TYPE_CHECKING:
    import pandas as pd


class Criterion(Enum):
    """What a trial is judged by, a mean over the rows held out.

    LOG_SCORE   log predictive density of what came; the higher the better
    CRPS        distance of the predictive distribution from what came, in the outcome's unit; the lower the better

    >>> Criterion.CRPS.value
    'crps'
    """

    LOG_SCORE = "log_score"
    CRPS = "crps"

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self is Criterion.LOG_SCORE else -1


@dataclass(frozen=True, eq=False)
class Trial:
    """One setting that was tried.

    parameters   by name of the model's argument
    score, se    mean of the criterion over the rows held out, and its standard error sd / sqrt(rows); nan if it failed
    pointwise    (rows,) the criterion of each row held out; empty if it failed
    verdict      of the posterior; None if it failed
    seconds      that it took
    failure      why there is no score, in words; None if there is one
    """

    parameters: Mapping[str, Any]
    score: float
    se: float
    pointwise: np.ndarray
    verdict: Verdict | None
    seconds: float
    failure: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Trials(Shown):
    """What `tune` returns: `trials.best.parameters`, `trials.simplest("degree")`, `trials.to_frame()`.

    criterion     what was compared
    accept        the worst verdict with which a trial can be the best
    trials        in the order in which they were made
    validation    numbers of the rows held out
    interrupted   Ctrl-C ended the search; the trials that were finished are here
    """

    criterion: Criterion
    accept: Verdict
    trials: tuple[Trial, ...]
    validation: np.ndarray
    interrupted: bool = False

    @property
    def eligible(self) -> tuple[Trial, ...]:
        """The trials that have a score and a verdict that is accepted."""
        return tuple(
            t for t in self.trials if np.isfinite(t.score) and t.verdict is not None and t.verdict >= self.accept
        )

    @property
    def best(self) -> Trial:
        """The best score. Raises MethodError if no trial has one, with an accepted verdict."""
        if not self.eligible:
            seen = [t.failure or f"verdict {t.verdict.name if t.verdict else '?'}" for t in self.trials]
            told = "; ".join(each.rstrip(".") for each in list(dict.fromkeys(seen))[:3])
            raise MethodError(
                f"None of {len(self.trials)} trials has a score and a verdict of {self.accept.name} or better: {told}."
            )
        return max(self.eligible, key=lambda trial: self.criterion.sign * trial.score)

    def simplest(self, by: Any) -> Trial:
        """The simplest trial within one standard error of the best: what the data cannot tell from it.

        by: the name of a numeric hyper-parameter whose smaller values are simpler, or a function of a trial's
        parameters that gives its complexity. Of equally simple ones, the best. Breiman, Friedman, Olshen & Stone
        (1984), section 3.4.3. Raises MethodError for an unknown name.
        """
        best = self.best
        if not callable(by) and by not in best.parameters:
            raise MethodError(
                f"by is {by!r}; wanted one of {', '.join(best.parameters)}, or a function of the parameters."
            )
        sign = self.criterion.sign
        near = [trial for trial in self.eligible if sign * trial.score >= sign * best.score - best.se]

        def complexity(trial: Trial) -> tuple[float, float]:
            size = by(dict(trial.parameters)) if callable(by) else trial.parameters[by]
            return float(size), -sign * trial.score

        return min(near, key=complexity)

    def to_frame(self) -> "pd.DataFrame":
        """One row for each trial, the best first: parameters, score, se, difference from the best and its se (of the
        rows' differences), verdict, seconds, failure."""
        import pandas as pd

        best = self.best if self.eligible else None
        rows = []
        for number, trial in enumerate(self.trials):
            gap = np.full(1, np.nan)
            if best is not None and len(trial.pointwise):
                gap = trial.pointwise - best.pointwise
            rows.append(
                {
                    **trial.parameters,
                    self.criterion.value: trial.score,
                    "se": trial.se,
                    "difference": float(gap.mean()),
                    "difference_se": _se(gap) if trial is not best else 0.0,
                    "verdict": trial.verdict.name if trial.verdict else "",
                    "seconds": trial.seconds,
                    "failure": trial.failure or "",
                    "trial": number,
                }
            )
        frame = pd.DataFrame(rows).set_index("trial")
        return frame.sort_values(self.criterion.value, ascending=self.criterion is Criterion.CRPS, kind="stable")

    def _head(self) -> str:
        ended = ", interrupted" if self.interrupted else ""
        return f"{len(self.trials)} trials by {self.criterion.value} of {len(self.validation)} rows held out{ended}"


def tune(
    model: Any,
    data: Any,
    search: Search,
    *,
    outcome: str | None = None,
    method: Any = None,
    criterion: Criterion = Criterion.LOG_SCORE,
    validation: Any = 0.25,
    rows: Any = None,
    accept: Verdict = Verdict.DOUBTFUL,
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool = True,
) -> Trials:
    """Try hyper-parameters, each by fitting to some rows and predicting the others.

        score = 1/n sum over rows n held out of log p(y_n | x_n, training rows)     (or the CRPS)

    Hyper-parameters are arguments of the model: the scale of a prior, a degree, a switch. Every trial has the same rows
    and the same seed. Numbers that are no whole numbers do not compile anew; whole numbers may set shapes, and do.

    Args:
        model: a NumPyro function, or a `Model`.
        data: dict of arrays by the model's arguments, without those of the search.
        search: `GridSearch`, `RandomSearch` or `BayesianSearch`.
        outcome: name of the observed site; may be left out where there is only one.
        method: how to infer; None chooses.
        criterion: `Criterion.LOG_SCORE`, or `Criterion.CRPS` for an outcome that is one number.
        validation: share of rows held out, drawn at random, or the numbers of those rows; for time series, the last.
        rows: names of the arrays that have one entry for each row; by default all as long as the outcome.
        accept: the worst verdict with which a trial can be the best.
        seed: of the split, the search and the inference.
        executor: where the trials run, all at once: one of `concurrent.futures`, or Dask's `Client.get_executor()`. Not
            for a search whose next point depends on the scores before.
        progress: show a line in a terminal or notebook.

    Returns:
        Trials: `.best`, `.simplest(by)`, `.to_frame()`. After Ctrl-C those that were finished.

    Raises:
        DataError: data, rows and hyper-parameters do not fit the model.
        MethodError: no search, an unknown criterion, no rows left to train or to hold out, or a model without
            arguments, which a formula and a `Pipeline` are.
        MissingExtra: the library of the search is not installed.

    A trial that fails (the log density is nowhere finite, …) is kept with its reason, and the search goes on.
    The best of many trials looks better than it is: score it again on rows that took no part.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> def level(scale, y=None):
    ...     mu = numpyro.sample("mu", dist.Normal(0, scale))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> y = np.random.default_rng(0).normal(5, 1, 40)
    >>> trials = tune(level, {"y": y}, GridSearch({"scale": [0.01, 10.0]}), progress=False)
    >>> trials.best.parameters
    {'scale': 10.0}
    """
    _check_arguments(search, criterion, accept, seed)
    refuse_several(outcome, "tune(model, data, search, outcome=name)")
    if executor is not None and search.sequential:
        raise MethodError(
            f"{type(search).__name__} asks for one point after the other, which an executor cannot have at once; "
            "use RandomSearch or GridSearch, or leave the executor out."
        )
    split, outcome = _split(model, as_frame(data), search, outcome, validation, rows, seed)
    if executor is not None:
        points = [point for point, _ in search.points(seed)]
        calls = [(model, split, point, outcome, method, criterion, seed) for point in points]
        made, interrupted = _elsewhere(executor, calls, make_progress(progress))
        return Trials(criterion, accept, made, split.held_out, interrupted)
    done: list[Trial] = []
    line, interrupted = make_progress(progress), False
    try:
        for point, tell in search.points(seed):
            trial = _try(model, split, point, outcome, method, criterion, seed)
            if trial is None:
                raise KeyboardInterrupt
            done.append(trial)
            tell(criterion.sign * trial.score if np.isfinite(trial.score) else None)
            line.update(len(done), search.trials, _line(done, criterion))
    except KeyboardInterrupt:
        if not done:
            raise
        interrupted = True
    finally:
        line.close()
    return Trials(criterion, accept, tuple(done), split.held_out, interrupted)


def _elsewhere(executor: Executor, calls: Sequence[tuple[Any, ...]], line: Progress) -> tuple[tuple[Trial, ...], bool]:
    """The trials of all calls in their order, and whether Ctrl-C ended them early."""
    found: dict[int, Trial] = {}
    interrupted = False
    try:
        for number, trial in answers(executor, _try, calls):
            if trial is None:
                raise KeyboardInterrupt
            found[number] = trial
            line.update(len(found), len(calls), _line([*found.values()], calls[0][5]))
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    finally:
        line.close()
    return tuple(found[number] for number in sorted(found)), interrupted


def _try(
    model: Any, split: Split, point: dict[str, Any], outcome: str, method: Any, criterion: Criterion, seed: int
) -> Trial | None:
    """A trial; None if Ctrl-C ended its sampling before its time."""
    began = time.perf_counter()
    try:
        posterior = infer(model, {**split.training, **_arguments(point)}, method, seed=seed, progress=False)
        if posterior.report.outcome is Outcome.INTERRUPTED:
            return None
        predictor = Predictor(posterior, outcome, accept=Verdict.BAD)
        pointwise = _pointwise(predictor, split, criterion, seed)
    except ProbinferError as error:
        seconds = time.perf_counter() - began
        reason = f"{type(error).__name__}: {error}"
        return Trial(point, float("nan"), float("nan"), np.zeros(0), None, seconds, reason)
    score, verdict, seconds = float(np.mean(pointwise)), posterior.report.verdict, time.perf_counter() - began
    if not np.isfinite(score):
        bad = int(np.sum(~np.isfinite(pointwise)))
        return Trial(point, score, float("nan"), pointwise, verdict, seconds, f"{bad} rows held out were impossible")
    return Trial(point, score, _se(pointwise), pointwise, verdict, seconds)


def _pointwise(predictor: Predictor, split: Split, criterion: Criterion, seed: int) -> np.ndarray:
    if criterion is Criterion.CRPS:
        if predictor.program.event:
            raise MethodError(f"{predictor.outcome} has several numbers for each row; take Criterion.LOG_SCORE.")
        y = plain_numbers(predictor.outcome, split.outcomes).astype(float)
        return transform(predictor, split.rows, y, seed).crps
    if predictor.inputs:
        return predictor.log_score(split.rows, split.outcomes)
    return np.concatenate([predictor.log_score({}, one) for one in split.outcomes[:, None]])  # {} is one row


def _arguments(point: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's single numbers as Python's, so that a whole number may set a shape."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in point.items()}


def _se(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _line(done: list[Trial], criterion: Criterion) -> str:
    scores = [trial.score for trial in done if np.isfinite(trial.score)]
    best = f"{max(scores, key=lambda s: criterion.sign * s):.4g}" if scores else "none yet"
    return f"trial {len(done)}, best {criterion.value} {best}"


def _check_arguments(search: Any, criterion: Any, accept: Any, seed: Any) -> None:
    if not isinstance(search, GridSearch | RandomSearch | BayesianSearch):
        hint = f"; did you mean {search.__name__}(space)?" if isinstance(search, type) else ""
        raise MethodError(
            f"search came as {search!r}; wanted pi.GridSearch, pi.RandomSearch or pi.BayesianSearch{hint}"
        )
    if not isinstance(criterion, Criterion):
        raise MethodError(f"criterion is {criterion!r}; wanted Criterion.LOG_SCORE or Criterion.CRPS.")
    if not isinstance(accept, Verdict):
        raise MethodError(f"accept is {accept!r}; wanted a Verdict, such as Verdict.DOUBTFUL.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise MethodError(f"seed is {seed!r}; wanted a whole number, 0 or more.")


def _split(
    model: Any, data: Any, search: Search, outcome: str | None, validation: Any, rows: Any, seed: int
) -> tuple[Split, str]:
    """The rows, and the outcome's site; the model is traced with the first point that fits it."""
    model = model if isinstance(model, Model) else Model(model)
    if isinstance(model, FormulaModel | SettledFormula | Pipeline | SettledPipeline):
        raise MethodError(
            "Hyper-parameters are arguments of a NumPyro function, and a formula or a pipeline has none. Infer each "
            "variant by itself, and compare them: pi.compare({name: pi.cross_validate(variant, data, cv=5), ...})."
        )
    twice = sorted(set(search.space) & set(data if isinstance(data, Mapping) else ()))
    if twice:
        raise DataError(f"{', '.join(twice)} came in the data and in the search; leave it out of the data.")
    first = next(iter(search.points(seed)))[0]
    bound = model.bind({**dict(data), **_arguments(first)})
    names = [site.name for site in bound.observed]
    if outcome is None and len(names) != 1:
        raise DataError(f"The model observes {', '.join(names) or 'nothing'}; pass outcome=, the name of one site.")
    chosen = names[0] if outcome is None else outcome
    if chosen not in names:
        raise DataError(f"outcome is {outcome!r}; the model observes {', '.join(names) or 'nothing'}.")
    return split_rows(bound, chosen, dict(data), validation, rows, seed), chosen
