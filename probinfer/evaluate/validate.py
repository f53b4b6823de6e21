"""Cross-validation: every row predicted by a fit that has not seen it."""

import functools
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import PredictionError, UnreliablePosterior
from probinfer.evaluate import classes, numbers
from probinfer.evaluate.metrics import check_outcomes
from probinfer.evaluate.one_outcome import refuse_several
from probinfer.evaluate.refits import Fold, Refits, full_fit
from probinfer.evaluate.scores import Scores
from probinfer.evaluate.shown import Shown
from probinfer.evaluate.splits import folds_of, labels_of
from probinfer.inference.method import Method
from probinfer.model.tables import as_frame
from probinfer.posterior.verdict import Verdict
from probinfer.predict.conformal import read_groups
from probinfer.predict.interval import calibrate_across, is_classes, probability
from probinfer.predict.prediction import Prediction
from probinfer.predict.predictor import Predictor

if TYPE_CHECKING:
    import pandas as pd

# Fields of a Prediction that are no rows.
_OF_ALL = ("outcome", "level", "quantile_levels", "classes", "guarantee", "interval")


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation(Shown):
    """What `cross_validate` returns.

    outcome      name of the outcome
    level        of the prediction intervals and of the scores' intervals
    folds        the fits: rows, verdict, predictor
    log_score    (n,) log predictive density of each row by the fold that has not seen it; nan where there is none
    complete     all folds were made; False after Ctrl-C
    refits       the fit to all rows, `refits.posterior`, and the way to further ones

    `prediction` and `scores` are computed when first asked for.
    """

    outcome: str
    level: float
    folds: tuple[Fold, ...]
    log_score: np.ndarray
    complete: bool
    refits: Refits

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """(m,) numbers of the rows that a fold left out, ascending."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))

    @functools.cached_property
    def outcomes(self) -> np.ndarray:
        """(m, …) what came in these rows; of labels their codes."""
        return np.asarray(self.refits.outcomes[self.rows], float)

    @functools.cached_property
    def prediction(self) -> Prediction:
        """Of the m rows, each by the fold that has not seen it."""
        parts = [
            fold.predictor.predict(self.refits.rows_at(fold.test), self.level, quantiles=numbers.PINBALL)
            for fold in self.folds
        ]
        joined = {}
        for entry in fields(Prediction):
            if entry.name not in _OF_ALL and getattr(parts[0], entry.name) is not None:
                joined[entry.name] = self._ordered([getattr(part, entry.name) for part in parts])
        return replace(parts[0], **joined)

    @functools.cached_property
    def scores(self) -> Scores:
        """`metrics` of these predictions. PredictionError for an outcome of several numbers per row."""
        prediction = classes.by_codes(self.prediction)
        check_outcomes(prediction, self.outcomes)
        if prediction.classes is not None:
            return classes.score(prediction, self.outcomes, self.level, 0)
        laws = []
        for fold in self.folds:
            y = self.refits.outcomes_at(fold.test)
            laws.append(numbers.law_of(fold.predictor, self.refits.rows_at(fold.test), y, 0))
        law = numbers.Law(
            pit=self._ordered([law.pit for law in laws]),
            crps=self._ordered([law.crps for law in laws]),
            log_score=self._ordered([law.log_score for law in laws if law.log_score is not None]),
            how=laws[0].how,
            calibrated=False,
        )
        return numbers.score(prediction, law, self.outcomes, self.level)

    def _ordered(self, parts: list[np.ndarray]) -> np.ndarray:
        """One entry of each fold's rows, in the order of `rows`."""
        return np.concatenate(parts)[np.argsort(np.concatenate([fold.test for fold in self.folds]))]

    @property
    def elpd(self) -> float:
        """Sum of the log scores: the expected log pointwise predictive density of so many rows."""
        return float(self.log_score[self.rows].sum())

    @property
    def se(self) -> float:
        """Standard error of `elpd`: sqrt(m) times the standard deviation of the log scores."""
        if len(self.rows) < 2:
            return float("nan")
        return float(np.sqrt(len(self.rows)) * self.log_score[self.rows].std(ddof=1))

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of a fold."""
        return min(fold.verdict for fold in self.folds)

    def calibrate(self, groups: Any = None, accept: Verdict = Verdict.GOOD) -> Predictor:
        """The predictor of the fit to all rows, calibrated by the rows as the folds that had not seen them saw them.

        As `Predictor.calibrate`, without rows of its own: the score of row i is its place in the predictive
        distribution of the fold that left it out, s_i = F_(-i)(y_i | x_i), and bounds are quantiles of the full fit at
        the ranked scores. So all rows train, and all calibrate.

        Args:
            groups: calibrate each group on its own: one for each row of the data, a whole number or a text (then pass
                `groups` to `predict`).
            accept: the worst verdict to accept, of the full fit and of the folds.

        Returns:
            Predictor: calibrated; its `Prediction.guarantee` says by how many folds.

        Raises:
            UnreliablePosterior: a verdict is worse than `accept`.
            PredictionError: the cross-validation was interrupted; groups do not fit; an outcome is outside of the
                outcome's support.

        Coverage is about the level, and not proved for finitely many rows as that of rows kept apart is: the scores
        come from fits to fewer rows than the one that predicts, which errs to wider intervals, and is noticeable where
        a fold takes away much of what is known about a parameter (groups with few rows, as many features as rows).
        There use `Predictor.calibrate`, or more folds.
        Vovk (2015), Annals of Mathematics and AI 74; Barber, Candes, Ramdas & Tibshirani (2021), Annals of
        Statistics 49.

        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> import probinfer as pi
        >>> def model(y=None):
        ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(mu, 0.1), obs=y)  # too sure of itself: the sd is 1
        >>> y = np.random.default_rng(0).normal(size=200)
        >>> found = cross_validate(model, {"y": y}, pi.Exact(draws=500), cv=4, progress=False)
        >>> prediction = found.calibrate().predict({})
        >>> bool(2.5 < prediction.upper[0] - prediction.lower[0] < 4.5)  # of a standard normal: 3.3
        True
        """
        if not self.complete or len(self.rows) < len(self.log_score):
            raise PredictionError(
                f"Only {len(self.rows)} of {len(self.log_score)} rows were left out by a fold; calibrating takes folds "
                "that leave out every row once, such as cv=5, and a cross-validation that was not interrupted."
            )
        labels = None
        if groups is not None:
            labels = read_groups(groups)
            if len(labels) != len(self.log_score):
                raise PredictionError(
                    f"groups has {len(labels)} entries for {len(self.log_score)} rows; wanted one for each."
                )
            labels = np.concatenate([labels[fold.test] for fold in self.folds])
        predictor = Predictor(self.refits.posterior, self.outcome, accept)
        if self.verdict < accept:
            raise UnreliablePosterior(
                f"The worst verdict of a fold is {self.verdict.name}, and only {accept.name} or better is accepted "
                f"here. Look at the folds, or say so: calibrate(accept=Verdict.{self.verdict.name})."
            )
        parts = [
            (fold.predictor._engine, self.refits.rows_at(fold.test), self.refits.outcomes_at(fold.test))
            for fold in self.folds
        ]
        return predictor.calibrated_by(calibrate_across(parts, labels, None))

    def to_frame(self) -> "pd.DataFrame":
        """One row for each fold: rows trained on and left out, verdict, whether it started warm, mean log score."""
        import pandas as pd

        return pd.DataFrame(
            {
                "train": [len(fold.train) for fold in self.folds],
                "test": [len(fold.test) for fold in self.folds],
                "verdict": [fold.verdict.name for fold in self.folds],
                "warm": [fold.warm for fold in self.folds],
                "log_score": [float(self.log_score[fold.test].mean()) for fold in self.folds],
            },
            index=pd.RangeIndex(len(self.folds), name="fold"),
        )

    def _head(self) -> str:
        worst = f"{self.verdict.symbol} worst verdict of a fold {self.verdict.name}"
        left = "" if self.complete else "; interrupted, not all folds were made"
        return (
            f"Cross-validation of {self.outcome}: {len(self.folds)} folds, {len(self.rows)} of {len(self.log_score)} "
            f"rows predicted, elpd {self.elpd:.1f} ± {self.se:.1f}; {worst}{left}"
        )


def cross_validate(
    source: Any,
    data: Any = None,
    method: Method | None = None,
    *,
    cv: Any = 5,
    groups: Any = None,
    outcome: str | None = None,
    level: float = 0.9,
    seed: Any = 0,
    executor: Executor | None = None,
    progress: bool = True,
) -> CrossValidation:
    """Predict every row by a fit to other rows.

        elpd = sum over folds f, rows n in f of log p(y_n | x_n, y without f)

    All folds run one compiled program: rows left out are masked, and chains start from draws of the fit to all rows,
    with the metric that fits there, and adapt for 100 draws. A fold whose verdict is then not GOOD starts again from
    nowhere. Folds run side by side where there are more cores than chains.

    Args:
        source: a `Posterior` with its model and data; or a model, with `data`, which is fitted to all rows first.
        data: the model's data; None with a posterior.
        method: how to fit; None takes the posterior's own method and settings, or lets `infer` choose.
        cv: number of folds; a splitter of scikit-learn, such as TimeSeriesSplit(5), StratifiedKFold(5),
            LeaveOneGroupOut(); or pairs of arrays (rows to train on, rows to leave out). A number makes shuffled
            folds: of whole groups if there are `groups`, stratified if the outcome is a class. No row may be left out
            twice.
        groups: one label for each row, or the name of a column of the data that has them.
        outcome: name of the observed site; may be left out where there is only one.
        level: of the prediction intervals and of the scores' intervals.
        seed: whole number or jax key; decides folds and draws.
        executor: where folds are fitted: one of `concurrent.futures`, or Dask's `Client.get_executor()`. Each worker
            traces and compiles the model once, and gives the draws that this process would.
        progress: show a line of progress.

    Returns:
        CrossValidation: `.elpd`, `.se`, `.folds` with a verdict each, `.prediction` of every row by the fold that has
        not seen it, `.scores` of these. After Ctrl-C, the folds made so far.

    Raises:
        ModelError: rows are not independent given the parameters; a parameter has an entry for each row; something else
            than the outcome's own terms depends on the rows.
        DataError: `cv` or `groups` do not fit the rows. PredictionError: the level is none.
        MethodError, MissingExtra (scikit-learn).

    Fails where rows left out are not like new rows: rows of one person in several folds (pass `groups`), a time
    series in shuffled folds (pass TimeSeriesSplit). Errors take the rows as independent, while folds share training
    rows. Warm starts lie where the full posterior does: a mode that only a fold has would be missed.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import probinfer as pi
    >>> def model(y=None):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> y = np.random.default_rng(0).normal(0.5, 1, 30)
    >>> found = cross_validate(model, {"y": y}, pi.Exact(draws=500), cv=3, progress=False)
    >>> len(found.folds), bool(abs(found.elpd / 30 + 1.4) < 0.3)
    (3, True)
    """
    refuse_several(outcome, "cross_validate(source, data, outcome=name)")
    level = probability("level", level)
    data = as_frame(data)
    refits = Refits(full_fit(source, data, method, outcome=outcome, seed=seed, progress=progress), outcome, method)
    program = refits.predictor.program
    groups = labels_of(refits.data if data is None else data, "groups", groups)
    folds = folds_of(cv, refits.outcomes, groups, is_classes(program), seed)

    def score(fold: Fold) -> tuple[Fold, np.ndarray]:
        y = refits.outcomes_at(fold.test)
        return fold, fold.predictor.log_score(refits.rows_at(fold.test), y)

    parts, complete = refits.fit_all(folds, seed, progress=progress, after=score, executor=executor)
    log_score = np.full(refits.rows, np.nan)
    for fold, scores in parts:
        log_score[fold.test] = scores
    return CrossValidation(
        outcome=program.outcome,
        level=level,
        folds=tuple(fold for fold, _ in parts),
        log_score=log_score,
        complete=complete,
        refits=refits,
    )
