"""When to stop drawing: a rule looked at after numbers of draws that depend on the draws alone, never on the clock."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.convergence import MIN_DRAWS, convergence
from probinfer.inference.settings import check_above, check_whole

_FIRST = 100  # draws after which the rule is looked at first, and always made: R-hat and ESS of fewer say little
_UNBOUNDED = 10  # times the method's draws that a rule without a budget of its own may take
_GROWTH = (1.2, 3.0)  # from one look to the next: looks together cost a few times the last one, overshoot is bounded
_MARGIN = 1.1  # aimed at beyond what the last look promises, as ESS does not grow quite evenly
_FEW = 4  # coordinates that a rule looks at first


class Look(NamedTuple):
    """What one look at the draws found: the smallest ESS and the largest R-hat of all unconstrained coordinates, or, if
    it was `short`, of those that seem to move slowest."""

    draws: int
    ess: float
    rhat: float
    short: bool = False


def look_at(positions: np.ndarray, superchains: int = 0, *, sizes: bool = True) -> Look:
    """ESS and R-hat of draws (chain, draw, d); NaN, which reaches no goal, where a coordinate never moved. Without
    `sizes` the ESS is NaN, and two thirds of the time are saved."""
    numbers = convergence(np.moveaxis(positions, -1, 0), superchains=superchains, errors=False, sizes=sizes)
    with np.errstate(invalid="ignore"):
        ess = float(np.min(np.minimum(numbers.ess_bulk, numbers.ess_tail)))
        return Look(positions.shape[1], ess, float(np.max(numbers.r_hat)))


def slowest(positions: np.ndarray, count: int) -> np.ndarray:
    """The `count` coordinates of draws (chain, draw, d) whose means of batches vary most, compared with the draws: by
    batch means these have the smallest effective sample sizes. The slowest is the last."""
    length = int(np.sqrt(positions.shape[1]))
    batches = positions[:, -(positions.shape[1] // length) * length :]
    means = batches.reshape(len(batches), -1, length, batches.shape[-1]).mean(2)
    centred = batches - means.mean((0, 1))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        slow = means.var((0, 1)) / np.einsum("cnd,cnd->d", centred, centred)
    return np.argsort(np.nan_to_num(slow, nan=np.inf))[-count:]


@dataclass(frozen=True)
class Until:
    """Stop drawing when the posterior is good enough, or the budget is spent.

        min over coordinates of min(ESS bulk, ESS tail) >= ess   and   max over coordinates of R-hat <= rhat

    Args:
        ess: effective sample size wanted, of all chains together; the report's own limit is 100 per chain.
        rhat: largest rank-normalised split R-hat wanted, above 1.
        seconds: budget of wall time from the call of `infer`. Warm-up and `min_draws` are finished whatever it says.
        draws: budget of draws per chain, in the place of the method's `draws`; None allows ten times those,
            and `min_draws` at least.
        min_draws: draws per chain that are made in any case, before the rule is looked at first.

    Raises:
        MethodError: nothing to stop at, or a value out of range.

    ESS and R-hat are looked at after numbers of draws that follow from the draws themselves, so the same seed stops
    at the same draw on any machine; only `seconds` makes the number of draws depend on the machine. Stopping on an
    estimate favours runs that look good early: `min_draws` keeps that bias too small for simulation-based calibration
    with the rule on to see (`tests/inference/test_sbc.py`).

    Fails: a mode that no chain has seen is not missed by any rule; the posterior's report still judges the draws.

    Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), "Rank-normalization, folding, and localization".

    >>> Until(ess=400, rhat=1.01, seconds=60).ess
    400
    """

    ess: float | None = None
    rhat: float | None = None
    seconds: float | None = None
    draws: int | None = None
    min_draws: int = _FIRST

    def __post_init__(self) -> None:
        if all(value is None for value in (self.ess, self.rhat, self.seconds, self.draws)):
            raise MethodError("Until: nothing to stop at; wanted ess, rhat, seconds or draws, such as Until(ess=400).")
        for name, value, low, example in (
            ("ess", self.ess, 0, "400"),
            ("rhat", self.rhat, 1, "1.01"),
            ("seconds", self.seconds, 0, "60"),
        ):
            if value is not None:
                check_above("Until", name, value, low, example)
        if self.draws is not None:
            check_whole("Until", "draws", self.draws, 1)
        check_whole("Until", "min_draws", self.min_draws, MIN_DRAWS)
        if self.draws is not None and self.draws < self.min_draws and self.has_goal:
            raise MethodError(
                f"Until: draws is {self.draws}, less than min_draws, {self.min_draws}; wanted a budget that holds them."
            )

    @property
    def has_goal(self) -> bool:
        """Whether there is anything to reach, and not only a budget to spend."""
        return self.ess is not None or self.rhat is not None

    def budget(self, method_draws: int) -> int:
        """The most draws per chain."""
        return self.draws if self.draws is not None else max(self.min_draws, _UNBOUNDED * method_draws)

    def met(self, look: Look) -> bool:
        """Whether every goal is reached."""
        return (self.ess is None or look.ess >= self.ess) and (self.rhat is None or look.rhat <= self.rhat)

    def look(self, positions: np.ndarray, superchains: int = 0, *, last: bool = False) -> Look:
        """Look at draws (chain, draw, d), of chains in so many groups, and no longer than it takes to see that the rule
        is not met: at the slowest coordinate first, at a few, and at all where those meet it; at the ESS only if it has
        a goal, or the rule is met, or this is the `last` look."""
        dim = positions.shape[-1]
        chosen = slowest(positions, _FEW)
        sizes = last or self.ess is not None
        for count in sorted({1, len(chosen)}) if not last else [len(chosen)]:
            look = look_at(positions[..., chosen[-count:]], superchains, sizes=sizes)
            if not self.met(look):
                return look if count == dim else look._replace(short=True)
        return look if count == dim and sizes else look_at(positions, superchains)

    def next_look(self, look: Look | None, budget: int, chains: int) -> int:
        """Draws per chain after which to look again; not where the ESS, which is at most N log10(N) for N draws of all
        chains, is below its goal in any case."""
        if not self.has_goal:
            return budget
        first = self.min_draws
        if self.ess is not None:
            first = max(first, int(np.ceil(self.ess / np.log10(max(self.ess, 10.0)) / chains)))
        if look is None:
            return min(first, budget)
        low, high = (int(np.ceil(factor * look.draws)) for factor in _GROWTH)
        more = [1.0]
        if self.ess is not None:
            more.append(self.ess / look.ess if look.ess > 0 else np.inf)
        if self.rhat is not None and np.isfinite(look.rhat):  # of chains that have mixed it nears 1 as 1 / draws
            more.append((look.rhat - 1) / (self.rhat - 1))
        wanted = int(min(np.ceil(_MARGIN * look.draws * max(more)), high))
        return min(max(low, wanted, first), budget)

    def missed(self, look: Look | None) -> str:
        """What was not reached, in words; empty when nothing was."""
        if not self.has_goal:
            return ""
        if look is None:
            return "the rule was not looked at"
        parts = []
        most, least = ("at most ", "at least ") if look.short else ("", "")
        if self.ess is not None and not look.ess >= self.ess:
            parts.append(f"ESS {most}{look.ess:.0f}, wanted {self.ess:g}")
        if self.rhat is not None and not look.rhat <= self.rhat:
            parts.append(f"R-hat {least}{look.rhat:.3f}, wanted {self.rhat:g}")
        return " and ".join(parts)
