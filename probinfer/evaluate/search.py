"""Where to look for hyper-parameters: every point of a grid, random points, or points that earlier ones suggest.

Imports numpy; scikit-learn and Optuna when a search begins.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from probinfer.errors import MethodError
from probinfer.evaluate.library import library
from probinfer.inference.settings import check_whole

Score = float | None  # of the point proposed last, the higher the better; None if there is none


class Search(Protocol):
    """A search is a frozen dataclass with a `space`: name -> values. It proposes points and is told their scores."""

    @property
    def space(self) -> Mapping[str, Any]:
        """By name of an argument of the model, what it may be."""
        ...

    @property
    def trials(self) -> int:
        """How many points it proposes."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether a point depends on the scores of those before."""
        ...

    def points(self, seed: int) -> "Iterator[tuple[dict[str, Any], Callable[[Score], None]]]":
        """Points, each with the function that is to be told its score before the next is asked for."""
        ...


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included.

    Args:
        low, high: the ends.
        log: on the scale of logarithms, as suits scales of priors: each decade is as likely as any other.
        whole: whole numbers.

    Raises:
        MethodError: the ends are not finite numbers with low < high, or not positive for `log`, or not whole.

    >>> Range(0.1, 10, log=True).low
    0.1
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        numbers = all(isinstance(e, int | float | np.number) and not isinstance(e, bool) for e in ends)
        if not (numbers and np.isfinite(ends).all() and self.low < self.high):
            raise MethodError(f"Range: came low={self.low!r}, high={self.high!r}; wanted numbers with low < high.")
        if self.log and self.low <= 0:
            raise MethodError(f"Range: low is {self.low!r}; on the scale of logarithms it must be above 0.")
        if self.whole and any(float(end) != round(end) for end in ends):
            raise MethodError(f"Range: came low={self.low!r}, high={self.high!r}; wanted whole numbers.")

    def rvs(self, random_state: Any = None) -> float | int:
        """A random one, as SciPy's distributions have it, which scikit-learn's sampler asks."""
        generator = random_state if hasattr(random_state, "uniform") else np.random.default_rng(random_state)
        low, high = (self.low, self.high + 1 - 1e-9) if self.whole else (self.low, self.high)
        if not self.log:
            value = generator.uniform(low, high)
        else:
            value = np.exp(generator.uniform(np.log(low), np.log(high)))
        return int(np.floor(value)) if self.whole else float(np.clip(value, self.low, self.high))


@dataclass(frozen=True)
class GridSearch:
    """Every combination of the values in `space`, by scikit-learn's ParameterGrid.

    Args:
        space: by name of an argument of the model, a list of values.

    Raises:
        MethodError: the space is empty, or some values are no list.

    >>> GridSearch({"scale": [0.1, 1.0], "degree": [1, 2, 3]}).trials
    6
    """

    space: Mapping[str, Any]

    def __post_init__(self) -> None:
        _check_space("GridSearch", self.space, lambda _: False, "a list of values")

    @property
    def trials(self) -> int:
        """How many points there are."""
        return int(np.prod([len(values) for values in self.space.values()]))

    @property
    def sequential(self) -> bool:
        """Whether a point depends on the scores of those before."""
        return False

    def points(self, seed: int) -> Iterator[tuple[dict[str, Any], Callable[[Score], None]]]:
        """All of them, in the order of the space; the seed changes nothing."""
        del seed
        for point in library("sklearn.model_selection", "tune").ParameterGrid(dict(self.space)):
            yield {name: point[name] for name in self.space}, _ignore


@dataclass(frozen=True)
class RandomSearch:
    """Random points, by scikit-learn's ParameterSampler; different ones where the space is all lists.

    Args:
        space: by name of an argument of the model, a `Range`, a list of values, or a distribution of scipy.stats.
        trials: how many points; all of them, where lists hold no more.

    Raises:
        MethodError: the space is empty, some entry is none of the three, or `trials` is no number from 1.

    Bergstra & Bengio (2012), JMLR 13: better than a grid where few of many hyper-parameters matter.

    >>> RandomSearch({"scale": Range(0.01, 10, log=True)}, trials=30).trials
    30
    """

    space: Mapping[str, Any]
    trials: int = 20

    def __post_init__(self) -> None:
        check_whole("RandomSearch", "trials", self.trials, 1)
        _check_space(
            "RandomSearch", self.space, lambda v: hasattr(v, "rvs"), "a Range, a list, or a scipy distribution"
        )
        if not any(hasattr(values, "rvs") for values in self.space.values()):
            most = int(np.prod([len(values) for values in self.space.values()]))
            object.__setattr__(self, "trials", min(self.trials, most))

    @property
    def sequential(self) -> bool:
        """Whether a point depends on the scores of those before."""
        return False

    def points(self, seed: int) -> Iterator[tuple[dict[str, Any], Callable[[Score], None]]]:
        """Points from the seed."""
        sampler = library("sklearn.model_selection", "tune").ParameterSampler
        for point in sampler(dict(self.space), self.trials, random_state=seed % 2**32):
            yield {name: point[name] for name in self.space}, _ignore


@dataclass(frozen=True)
class BayesianSearch:
    """Points where earlier ones promise the best score, by Optuna's tree-structured Parzen estimator.

    Args:
        space: by name of an argument of the model, a `Range`, a list of values, or a distribution of Optuna.
        trials: how many points; the first ten are random.

    Raises:
        MethodError: the space is empty, some entry is none of the three, or `trials` is no number from 1.

    Bergstra, Bardenet, Bengio & Kégl (2011), NeurIPS; Akiba et al. (2019), KDD.

    >>> BayesianSearch({"scale": Range(0.01, 10, log=True)}).trials
    30
    """

    space: Mapping[str, Any]
    trials: int = 30

    def __post_init__(self) -> None:
        check_whole("BayesianSearch", "trials", self.trials, 1)
        _check_space(
            "BayesianSearch",
            self.space,
            lambda v: isinstance(v, Range) or type(v).__module__.startswith("optuna."),
            "a Range, a list, or a distribution of Optuna",
        )

    @property
    def sequential(self) -> bool:
        """Whether a point depends on the scores of those before."""
        return True

    def points(self, seed: int) -> Iterator[tuple[dict[str, Any], Callable[[Score], None]]]:
        """Points from the seed and the scores told."""
        optuna = library("optuna", "tune")
        choices = {name: _of_optuna(optuna, values) for name, values in self.space.items()}
        with _Quiet(optuna):
            study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed % 2**32))
        for _ in range(self.trials):
            with _Quiet(optuna):
                trial = study.ask({name: found for name, (found, _) in choices.items()})

            def tell(score: Score, trial: Any = trial) -> None:
                with _Quiet(optuna):
                    failed = score is None or not np.isfinite(score)
                    study.tell(trial, None if failed else score, state=_state(optuna, failed))

            yield {name: back(trial.params[name]) for name, (_, back) in choices.items()}, tell


class _Quiet:
    """Optuna says nothing inside; its level is what it was afterwards."""

    def __init__(self, optuna: Any) -> None:
        self._logging = optuna.logging

    def __enter__(self) -> None:
        self._level = self._logging.get_verbosity()
        self._logging.set_verbosity(self._logging.ERROR)

    def __exit__(self, *error: object) -> None:
        self._logging.set_verbosity(self._level)


def _state(optuna: Any, failed: bool) -> Any:
    return optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE


def _of_optuna(optuna: Any, values: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Optuna's distribution, and the way back from what it proposes; a list is known to it by the places in it."""
    if isinstance(values, Range):
        if values.whole:
            return optuna.distributions.IntDistribution(int(values.low), int(values.high), log=values.log), int
        return optuna.distributions.FloatDistribution(float(values.low), float(values.high), log=values.log), float
    if _is_list(values):
        listed = list(values)
        return optuna.distributions.CategoricalDistribution(list(range(len(listed)))), lambda place: listed[place]
    return values, lambda value: value


def _check_space(name: str, space: Any, fits: Callable[[Any], bool], wanted: str) -> None:
    if not isinstance(space, Mapping) or not space:
        raise MethodError(
            f'{name}: space came as {space!r}; wanted {{"argument of the model": values}}, one entry or more.'
        )
    for key, values in space.items():
        if not isinstance(key, str):
            raise MethodError(f"{name}: space has the key {key!r}; wanted the name of an argument of the model.")
        if not fits(values) and not _is_list(values):
            raise MethodError(f"{name}: {key} came as {values!r}; wanted {wanted}.")
        if _is_list(values) and not len(values):
            raise MethodError(f"{name}: {key} has no values to choose from.")


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence | np.ndarray) and not isinstance(values, str | bytes) and np.ndim(values) > 0


def _ignore(score: Score) -> None:
    """A search that does not learn."""
