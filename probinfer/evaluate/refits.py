"""A model fitted again without some of its rows: traced and compiled once, chains start where the full fit is."""

import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np

from probinfer.errors import DataError, ModelError, PredictionError
from probinfer.evaluate.elsewhere import answers
from probinfer.evaluate.replicate import observed_value
from probinfer.inference.draw import draw_again, key_words, method_again, target_for, whole_target
from probinfer.inference.draws import Outcome
from probinfer.inference.exact.summed import Summed
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.method import Method, Warm
from probinfer.inference.montecarlo.growing import unconstrained
from probinfer.inference.progress import Progress, make_progress
from probinfer.model.kept_rows import KEPT, filled, maskable, row_names
from probinfer.model.model import BoundModel, Model
from probinfer.model.pipeline.prepared import FittedOutcome
from probinfer.model.pipeline.raw import Place
from probinfer.model.pipeline.steps import Unseen
from probinfer.model.target import Target
from probinfer.posterior.infer import infer
from probinfer.posterior.posterior import Posterior
from probinfer.posterior.report import Report
from probinfer.posterior.verdict import Verdict
from probinfer.predict.predictor import Predictor
from probinfer.predict.rows import read_rows

_POINTS = 3  # at which the log density must not see what is in the rows left out
_AGREES, _AGREES_SINGLE = 1e-9, 1e-4


@dataclass(frozen=True, eq=False)
class Fold:
    """One fit without some rows.

    train, test   numbers of the rows fitted and left out
    report        how far the draws can be trusted
    predictor     of the outcome, from these draws
    warm          the chains began at draws of the full fit; False where the method has no chains, or began anew because
                  a warm start did not end in a GOOD verdict
    """

    train: np.ndarray
    test: np.ndarray
    report: Report
    predictor: Predictor
    warm: bool

    @property
    def verdict(self) -> Verdict:
        """The verdict on the fold's draws."""
        return self.report.verdict


class Refits:
    """Fits of a posterior's model to some of its rows.

    The rows left out are masked, not cut away: they keep their place, filled with rows that are kept, and their log
    likelihood counts zero. So nothing is compiled for one fold after another, whatever their sizes. That nothing else
    in the model looks at them (a factor, a prior scaled by the data) is verified at random points.

    Args:
        posterior: the fit to all rows, with its model and data.
        outcome: name of the observed site; may be left out where there is only one.
        method: how to fit; None takes the posterior's own, with its settings.

    Raises:
        ModelError: rows are not independent given the parameters, or there is no model.
        MethodError: the method is unknown or does not fit.
    """

    def __init__(self, posterior: Posterior, outcome: str | None = None, method: Method | None = None) -> None:
        self.posterior = posterior
        self.predictor = Predictor(posterior, outcome, accept=Verdict.BAD)
        assert posterior.model is not None
        assert posterior.data is not None
        evidence = posterior.report.evidence
        self._own = method is not None
        self.method = method or method_again(str(evidence.attrs.get("method")), evidence.settings)
        self.bound = posterior.model.bind(posterior.data)
        site = next(site for site in self.bound.observed if site.name == self.predictor.outcome)
        self.rows = site.shape[0]
        self.data = dict(posterior.data)
        self.outcomes, self._classes = _own_outcomes(self.predictor, self.bound, site.name)
        self._verified = False
        self._warm: Warm | None = None
        if self.bound.pipeline is not None:
            return  # nothing is shared: steps, levels and scales are those of each fold's own rows
        self._model = maskable(posterior.model, self.rows)
        every = np.ones(self.rows, bool)
        self._target = target_for(self.method, self._model.bind({**self.data, KEPT: every}))
        shapes = {site.name: site.shape for site in self.bound.latents}
        whole = whole_target(self._target)
        if {site.name: site.shape for site in whole.latents} != shapes:
            raise ModelError("The model does not have the same parameters when it is run again.")
        steps = evidence.stats.get("step_size")
        positions = unconstrained(whole, posterior.latents)
        usable = np.isfinite(positions).all(axis=1)
        step = float(np.median(steps[..., -1])) if method is None and steps is not None and np.size(steps) else None
        self._warm = Warm(positions[usable], step) if usable.any() else None

    def rows_at(self, rows: np.ndarray) -> Any:
        """These rows, as a predictor takes them."""
        import pandas as pd

        inputs = {entry.name: np.asarray(self.data[entry.name])[rows] for entry in self.predictor.inputs}
        return inputs or pd.DataFrame(index=range(len(rows)))

    def outcomes_at(self, rows: np.ndarray) -> np.ndarray:
        """What came in these rows, as a fold's predictor takes it: labels, where classes have them."""
        came = np.asarray(self.outcomes)[rows]
        return came.astype(float) if self._classes is None else self._classes.label(came.astype(int))

    def fit(self, train: np.ndarray, test: np.ndarray, seed: Any) -> Fold:
        """Fit to the rows `train` (numbers), for predicting the rows `test`."""
        if self.bound.pipeline is not None:
            return self._fit_anew(train, test, seed)
        posterior, warm = self.drawn(train, seed)
        about = {"verdict": posterior.report.verdict.name, "headline": posterior.report.headline}
        predictor = self.predictor.with_draws(posterior.latents, about)
        return Fold(train, test, posterior.report, predictor, warm)

    def _fit_anew(self, train: np.ndarray, test: np.ndarray, seed: Any) -> Fold:
        """Of a model with preprocessing, fitted with all it knows of its rows to those of the fold alone. Groups that
        only the rows left out have are answered from the population, where the model has one; the outcome's classes are
        those of all rows, so that each fold has a probability for every one."""
        model, data = self.posterior.model, {name: np.asarray(values)[train] for name, values in self.data.items()}
        assert model is not None
        if self._classes is not None and self._classes.labels:
            model = model.with_classes(self._classes.argument, self._classes.labels)
        try:
            bound = model.bind(data)
        except DataError as error:
            raise DataError(
                f"The model does not fit a fold's {len(train)} rows without the other {len(test)}: {error} Choose "
                "folds that keep what is rare, stratified by it for one, or join it with something else in the table."
            ) from None
        draws, whole, attrs = draw_again(
            target_for(self.method, bound), self.method, warm=None, seed=seed, progress=False
        )
        if draws.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt("Interrupted while a fold was drawn.")
        posterior = Posterior.from_draws(draws, whole, model=model, data=data, attrs=attrs)
        predictor = Predictor(posterior, self.predictor.outcome, Verdict.BAD)
        try:
            read_rows(self.rows_at(test), predictor.program)
        except PredictionError:
            try:
                predictor = Predictor(posterior, self.predictor.outcome, Verdict.BAD, unseen=Unseen.POPULATION)
            except ModelError:
                pass  # there is no population: the error of the rows is the one to tell
        return Fold(train, test, posterior.report, predictor, False)

    def drawn(self, train: np.ndarray, seed: Any) -> tuple[Posterior, bool]:
        """The posterior given the rows `train`, and whether its chains began at draws of the full fit."""
        kept = np.zeros(self.rows, bool)
        kept[train] = True
        target = self._of(filled(self.data, kept))
        if not self._verified:
            self._verify(target, self._of(filled(self.data, kept, backwards=True)))
        posterior = self._draw(target, self._warm, seed)
        warm = "warm_start" in posterior.report.evidence.attrs  # methods without chains do not need it
        if warm and posterior.report.verdict < Verdict.GOOD:
            again = self._draw(target, None, seed)
            if again.report.verdict >= posterior.report.verdict:
                posterior, warm = again, False
        return posterior, warm

    def fit_all(
        self,
        folds: Sequence[tuple[np.ndarray, np.ndarray]],
        seed: Any,
        *,
        progress: bool,
        after: Callable[[Fold], Any] = lambda fold: fold,
        executor: Executor | None = None,
    ) -> tuple[list[Any], bool]:
        """`after` of each fold, in their order, and whether all were made: Ctrl-C keeps those that are.

        Folds run side by side where there are more cores than chains, or on the workers of an executor, each of which
        traces and compiles the model once.
        """
        words = key_words(seed)
        if executor is not None and self.bound.pipeline is not None:
            raise ModelError(
                "A model with preprocessing is fitted anew for each fold, in this process: leave the executor out."
            )
        if executor is not None:
            seeds = [np.array([*words, number], np.uint32) for number in range(len(folds))]
            return self._elsewhere(executor, folds, seeds, after, make_progress(progress))

        def work(number: int) -> Any:
            train, test = folds[number]
            return after(self.fit(train, test, np.array([*words, number], np.uint32)))

        line, done = make_progress(progress), {}
        chains = getattr(self.method, "chains", 1)
        beside = max(1, workers(len(folds) * chains) // chains)
        try:
            done[0] = work(0)  # alone: it compiles what the others use
            line.update(1, len(folds), "folds")
            if beside == 1:
                for number in range(1, len(folds)):
                    done[number] = work(number)
                    line.update(len(done), len(folds), "folds")
            else:
                self._side_by_side(work, len(folds), beside, done, line)
        except KeyboardInterrupt:
            if not done:
                raise
        finally:
            line.close()
        return [done[number] for number in sorted(done)], len(done) == len(folds)

    def _elsewhere(
        self, executor: Executor, folds: Sequence, seeds: Sequence, after: Callable[[Fold], Any], line: Progress
    ) -> tuple[list[Any], bool]:
        fixed = (uuid.uuid4().hex, self.posterior, self.predictor.outcome, self.method if self._own else None)
        calls = [(*fixed, train, test, seed) for (train, test), seed in zip(folds, seeds, strict=True)]
        done: dict[int, Any] = {}
        try:
            for number, (latents, report, warm) in answers(executor, _fit_for, calls):
                about = {"verdict": report.verdict.name, "headline": report.headline}
                train, test = folds[number]
                done[number] = after(Fold(train, test, report, self.predictor.with_draws(latents, about), warm))
                line.update(len(done), len(folds), "folds")
        except KeyboardInterrupt:
            if not done:
                raise
        finally:
            line.close()
        return [done[number] for number in sorted(done)], len(done) == len(folds)

    @staticmethod
    def _side_by_side(work: Callable, count: int, beside: int, done: dict[int, Any], line: Any) -> None:
        with ThreadPoolExecutor(beside, thread_name_prefix="probinfer-fold") as pool:
            running = {pool.submit(work, number): number for number in range(1, count)}
            try:
                for job in as_completed(running):
                    done[running[job]] = job.result()
                    line.update(len(done), count, "folds")
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                ended = [job for job in running if job.done() and not job.cancelled() and job.exception() is None]
                done |= {running[job]: job.result() for job in ended}
                raise

    def _draw(self, target: Target, warm: Warm | None, seed: Any) -> Posterior:
        draws, whole, attrs = draw_again(target, self.method, warm=warm, seed=seed, progress=False)
        if draws.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt("Interrupted while a fold was drawn.")
        return Posterior.from_draws(draws, whole, model=None, data=None, attrs=attrs)

    def _of(self, data: dict[str, Any]) -> Target:
        """The target of other data: of the same program, or traced anew if it holds data as constants."""
        if set(row_names(data, self.rows)) <= set(self._target.bound.arrays):
            return self._target.with_arrays(
                {
                    name: np.asarray(data[name], self._target.bound.arrays[name].dtype)
                    for name in self._target.bound.arrays
                }
            )
        target = target_for(self.method, self._model.bind(data))
        if [site.shape for site in target.latents] != [site.shape for site in self._target.latents]:
            raise ModelError(
                "The values of the rows decide the shape of a parameter, as in int(group.max()) + 1: without some "
                "rows it would have another. Pass such sizes as arguments of their own."
            )
        return target

    def _verify(self, target: Target, other: Target) -> None:
        positions = self._warm.positions if self._warm is not None else np.zeros((1, whole_target(target).dim))
        positions = target.part(positions) if isinstance(target, Summed) else positions
        tolerance = _AGREES if target.float64 else _AGREES_SINGLE
        for z in positions[np.linspace(0, len(positions) - 1, _POINTS).astype(int)]:
            one, two = target.site_log_densities(z), other.site_log_densities(z)
            scale = 1 + sum(abs(value) for value in one.values() if np.isfinite(value))
            seen = [name for name in one if abs(one[name] - two[name]) > tolerance * scale]
            if seen:
                raise ModelError(
                    f"The log density of {', '.join(seen)} depends on rows that are left out: a numpyro.factor of the "
                    "data, a prior scaled by them (y.std()), or rows that look at one another. Write the likelihood as "
                    "an observed site with one row each, and pass what spans the rows as data of its own."
                )
        self._verified = True


def _own_outcomes(predictor: Predictor, bound: BoundModel, site: str) -> tuple[np.ndarray, FittedOutcome | None]:
    """What came, in units of its own where the model sees it transformed; of labels their codes, and what has them."""
    outcome = predictor.program.prepared.outcome if predictor.program.prepared else None
    if outcome is None or bound.raw is None:
        return observed_value(bound, site), None
    own = outcome.own(bound.raw[outcome.column.name], Place(DataError))
    return own, outcome if outcome.labels is not None else None


_refits: dict[str, Refits] = {}  # of the run that this process works for
_making = threading.Lock()


def _fit_for(
    run: str,
    posterior: Posterior,
    outcome: str,
    method: Method | None,
    train: np.ndarray,
    test: np.ndarray,
    seed: np.ndarray,
) -> tuple[dict[str, np.ndarray], Report, bool]:
    """What a worker does: draws of a fold, their report, and whether chains began warm. It prepares a run once."""
    del test  # it is the caller's, who predicts
    with _making:
        if run not in _refits:
            _refits.clear()
            _refits[run] = Refits(posterior, outcome, method)
        refits = _refits[run]
    found, warm = refits.drawn(train, seed)
    return dict(found.latents), found.report, warm


def full_fit(
    source: Any, data: Any, method: Method | None, *, outcome: str | None = None, seed: Any, progress: bool
) -> Posterior:
    """The fit to all rows: the one that came, or made now from a model and data, if it has that outcome."""
    if isinstance(source, Posterior):
        if data is not None:
            raise DataError("data came with a Posterior, which has its own; leave them out, or pass the model.")
        return source
    if data is None or not (callable(source) or isinstance(source, Model)):
        raise PredictionError(
            f"source came as {type(source).__name__}; wanted a Posterior, or a model together with its data."
        )
    _check_outcome(source if isinstance(source, Model) else Model(source), data, outcome)
    return infer(source, data, method, seed=seed, progress=progress)


def _check_outcome(model: Model, data: Any, outcome: str | None) -> None:
    """Raise ModelError unless it is known, before anything is fitted, which site is the outcome."""
    if type(model) is not Model:  # a density, or a series, which says itself that it has no rows
        return
    names = [site.name for site in model.bind(data).observed]
    listed = " | ".join(map(repr, names))
    if outcome is None and len(names) > 1:
        raise ModelError(f"The model has {len(names)} outcomes; name one of them: outcome={listed}.")
    if outcome is not None and outcome not in names:
        raise ModelError(f"The model has no observed site {outcome!r}; its outcomes are {', '.join(map(repr, names))}.")
