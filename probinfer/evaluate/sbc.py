"""Simulation-based calibration: whether a method, on this model, gives posteriors that are right on average over what
the model can simulate."""

import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probinfer.errors import MethodError, ModelError, ProbinferError
from probinfer.evaluate.elsewhere import answers
from probinfer.evaluate.replicate import observed_value, prior_draws
from probinfer.evaluate.shown import Shown
from probinfer.inference.choose import choose
from probinfer.inference.draw import draw_again, key_words, target_for, whole_target
from probinfer.inference.draws import Outcome
from probinfer.inference.method import Method
from probinfer.inference.montecarlo.growing import unconstrained
from probinfer.inference.progress import make_progress
from probinfer.inference.settings import check_whole
from probinfer.model.model import BoundModel, Model
from probinfer.model.target import Target

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 63  # ranks are among so many draws, thinned until they are close to independent
LOG_LIKELIHOOD = "log_likelihood"  # the quantity that a posterior which ignores the data cannot have right
_FEWEST, _MOST_BINS, _IN_BIN = 20, 16, 10


@dataclass(frozen=True, eq=False, repr=False)
class SBC(Shown):
    """What `sbc` returns: `.p`, `.to_frame()`, `.ranks`.

    names     of the quantities: every entry of every latent site, and the log likelihood
    ranks     (replications, quantities) of the truth among `largest` posterior draws, 0 to `largest`; uniform if the
              posterior is right
    largest   how many draws
    slow      replications whose chains were worth fewer than `largest` independent draws: their ranks lie too far out
    failed    why replications could not be fitted
    interrupted  Ctrl-C ended it early
    """

    _digits = "{:.3g}"

    names: tuple[str, ...]
    ranks: np.ndarray
    largest: int = LARGEST
    slow: int = 0
    failed: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def p(self) -> float:
        """p-value of everything together: the smallest one, times the number of quantities."""
        return min(1.0, len(self.names) * min(float(p) for p in self._tests()[-1]))

    def to_frame(self) -> "pd.DataFrame":
        """One row for each quantity.

        position  mean of the truth's place in its posterior, 0 to 1; above 1/2 the posterior lies too low
        spread    mean squared distance of that place from the middle, next to what it should be; above 1 the posterior
                  is too narrow
        p         three times the smallest p-value of position, spread, and chi-square over bins
        """
        import pandas as pd

        position, spread, p = self._tests()
        columns = {"position": position, "spread": spread, "p": p}
        return pd.DataFrame(columns, index=pd.Index(self.names, name="quantity"))

    def _tests(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from scipy import stats

        count, possible = len(self.ranks), self.largest + 1
        grid = (np.arange(possible) + 0.5) / possible
        place, squares = grid[self.ranks], (grid - 0.5) ** 2
        position, spread = place.mean(axis=0), ((place - 0.5) ** 2).mean(axis=0)
        bias = 2 * stats.norm.sf(np.abs(position - 0.5) / (grid.std() / np.sqrt(count)))
        width = 2 * stats.norm.sf(np.abs(spread - squares.mean()) / (squares.std() / np.sqrt(count)))
        bins = max(2, min(_MOST_BINS, 2 ** int(np.log2(max(2, count / _IN_BIN)))))
        counts = np.stack([np.bincount(each * bins // possible, minlength=bins) for each in self.ranks.T], axis=1)
        shape = stats.chisquare(counts, axis=0).pvalue
        return position, spread / squares.mean(), np.minimum(1.0, 3 * np.minimum(np.minimum(bias, width), shape))

    def _head(self) -> str:
        text = f"Simulation-based calibration: {len(self.ranks)} replications, p = {self.p:.2g}"
        if self.failed:
            text += f"; {len(self.failed)} could not be fitted, the first: {self.failed[0]}"
        if self.slow:
            text += f"; in {self.slow} the draws were worth fewer than {self.largest}: draw more"
        return text + ("; interrupted" if self.interrupted else "")


def sbc(
    model: Any,
    data: Any,
    method: Method | None = None,
    *,
    replications: int = 200,
    seed: Any = 0,
    executor: Executor | None = None,
    progress: bool = True,
) -> SBC:
    """Draw parameters from the prior and data from them, infer, and see where the truth lies in its posterior.

        theta ~ p(theta),  y ~ p(y | theta),  theta_1, …, theta_L ~ p(theta | y):   #{theta_l < theta} is uniform

    Args:
        model: a NumPyro function or `Model`, every site of which has a proper prior.
        data: the model's data. Outcomes are replaced by simulated ones; they give shapes and types.
        method: how to infer; None chooses, as `infer` does.
        replications: data sets simulated and inferred; their number decides how small a fault is seen.
        seed: whole number or jax key.
        executor: where replications are inferred: one of `concurrent.futures`, or Dask's `Client.get_executor()`. The
            same ranks as without; a worker prepares the model once.
        progress: show a line in a terminal or notebook.

    Returns:
        SBC: `.p`, small if something is wrong; `.to_frame()` says where and which way. After Ctrl-C of what was done.

    Raises:
        ModelError: a site has no prior to draw from, the model has no outcome, or an outcome is not data as it came
            (`obs=jnp.log(y)`).
        MethodError: the method does not fit the model, a number is out of range, or the executor is none.

    It tests method and model together, on data like those that the prior makes; of the data that came it says nothing.
    The log likelihood is ranked beside the parameters, since ranks of parameters alone are uniform too if the data are
    ignored. Replications whose chains mix slowly have ranks too far out: `.slow` counts them.

    Talts et al. (2018), arXiv:1804.06788; Modrák et al. (2023), Bayesian Analysis 20.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(y=None):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> from probinfer import Exact
    >>> found = sbc(model, {"y": np.zeros(5)}, Exact(draws=100), replications=20, progress=False)
    >>> found.p > 1e-4
    True
    """
    check_whole("sbc", "replications", replications, _FEWEST)
    prepared = _Prepared(model, data, method)
    latents, made = prior_draws(prepared.bound, replications, seed)
    words = np.random.SeedSequence([*key_words(seed).tolist(), 1]).generate_state(2 * replications, np.uint32)
    truth = unconstrained(whole_target(prepared.target), latents)
    tasks = [
        _Task(
            truth[number],
            {prepared.arguments[site]: values[number] for site, values in made.items()},
            words[2 * number : 2 * number + 2],
        )
        for number in range(replications)
    ]
    done: dict[int, _Ranks | str] = {}
    line, interrupted = make_progress(progress), False
    found = (
        ((number, prepared.ranks(task)) for number, task in enumerate(tasks))
        if executor is None
        else _elsewhere(executor, (model, data, method), tasks)
    )
    try:
        for number, ranks in found:
            done[number] = ranks
            line.update(len(done), replications, "replications")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        line.close()
    whole = [each for _, each in sorted(done.items())]
    fitted = [each for each in whole if isinstance(each, _Ranks)]
    failed = tuple(each for each in whole if isinstance(each, str))
    if not fitted:
        if interrupted:
            raise KeyboardInterrupt
        raise ModelError(f"No replication could be fitted; the first said: {failed[0]}")
    ranks = np.stack([each.ranks for each in fitted])
    return SBC(prepared.names, ranks, LARGEST, sum(each.slow for each in fitted), failed, interrupted)


class _Task(NamedTuple):
    """One replication: the truth unconstrained (d,), simulated outcomes by argument, words of its own randomness."""

    truth: np.ndarray
    outcomes: dict[str, np.ndarray]
    words: np.ndarray


class _Ranks(NamedTuple):
    ranks: np.ndarray
    slow: bool


class _Prepared:
    """A model and a method, traced once for all replications."""

    def __init__(self, model: Any, data: Any, method: Method | None) -> None:
        self.bound = (model if isinstance(model, Model) else Model(model)).bind(data)
        self.arguments = _arguments(self.bound)
        self.method, self.target = (
            (method, target_for(method, self.bound)) if method is not None else choose(self.bound, steered=False)[:2]
        )
        sites = [(site.name, site.shape) for site in self.bound.latents]
        entries = [f"{name}{list(index)}" if index else name for name, shape in sites for index in np.ndindex(shape)]
        self.names: tuple[str, ...] = (*entries, LOG_LIKELIHOOD)

    def ranks(self, task: _Task) -> "_Ranks | str":
        """Ranks of the truth of a replication; where it cannot be fitted the reason."""
        arrays = self.bound.arrays
        simulated = {name: np.asarray(values, arrays[name].dtype) for name, values in task.outcomes.items()}
        try:
            target = self.target.with_arrays({**arrays, **simulated})
            draws, whole, _ = draw_again(target, self.method, warm=None, seed=_key(task.words), progress=False)
            if draws.outcome is Outcome.INTERRUPTED:
                raise KeyboardInterrupt
            if draws.summaries is not None:
                raise MethodError(f"{draws.method} keeps summaries of its draws only, among which nothing has a rank.")
            positions = np.asarray(draws.positions, float)
            flat = positions.reshape(-1, positions.shape[-1])
            kept = flat[np.linspace(0, len(flat) - 1, LARGEST).round().astype(int)]
            seen = self._seen(whole, np.concatenate([task.truth[None], kept]))
        except ProbinferError as error:
            return f"{type(error).__name__}: {error}"
        truth, among = seen[0], seen[1:]
        equal = (among == truth).sum(axis=0)  # of discrete sites: the truth is put somewhere among its equals
        ties = np.random.default_rng(task.words.tolist()).integers(0, equal + 1)
        return _Ranks((among < truth).sum(axis=0) + ties, _worth(positions) < LARGEST)

    def _seen(self, target: Target, positions: np.ndarray) -> np.ndarray:
        """All quantities at points (n, d): (n, quantities)."""
        values = target.constrain(positions, deterministics=False)
        columns = [values[site.name].reshape(len(positions), -1) for site in self.bound.latents]
        pointwise = target.pointwise_log_likelihood(positions) or {}
        total = sum(each.reshape(len(positions), -1).sum(axis=1) for each in pointwise.values())
        return np.concatenate([*columns, np.asarray(total)[:, None]], axis=1)


def _key(words: np.ndarray) -> int:
    return int(words[0]) << 32 | int(words[1])


def _worth(positions: np.ndarray) -> float:
    """Independent draws that chains (chain, draw, d) are worth, for the slowest coordinate; all of other draws."""
    if positions.ndim < 3:
        return float(len(positions))
    from arviz_stats.base import array_stats

    coordinates = range(positions.shape[-1])
    sizes = [array_stats.ess(positions[..., i], chain_axis=0, draw_axis=1, method="bulk") for i in coordinates]
    return float(np.nanmin(sizes)) if np.isfinite(sizes).any() else 0.0


def _arguments(bound: BoundModel) -> dict[str, str]:
    """The data that each outcome is. ModelError where simulated outcomes could not be put in their place."""
    if not bound.observed:
        raise ModelError("The model has no outcome to simulate: give obs= to the site that the data are of.")
    found = {}
    for site in bound.observed:
        argument = bound.observed_arguments[site.name]
        if argument not in bound.arrays or not np.array_equal(observed_value(bound, site.name), bound.arrays[argument]):
            raise ModelError(
                f"The outcome {site.name} is not data as they came, so that simulated ones cannot take their place. "
                "Transform them before, and pass obs= one of the model's arguments."
            )
        found[site.name] = argument
    return found


# elsewhere -----------------------------------------------------------------------------------------------------------

_prepared: dict[str, _Prepared] = {}  # of the run at hand, in a worker
_making = threading.Lock()


def _elsewhere(executor: Executor, what: tuple, tasks: Sequence[_Task]) -> Iterator[tuple[int, "_Ranks | str"]]:
    run = uuid.uuid4().hex
    return answers(executor, _ranks_for, [(run, *what, task) for task in tasks])


def _ranks_for(run: str, model: Any, data: Any, method: Method | None, task: _Task) -> "_Ranks | str":
    """What a worker does. It prepares a run once."""
    with _making:
        if run not in _prepared:
            _prepared.clear()
            _prepared[run] = _Prepared(model, data, method)
        prepared = _prepared[run]
    return prepared.ranks(task)
