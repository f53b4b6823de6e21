"""Tests that may be looked at after every row: bets against the hypothesis, whose capital it cannot make large.

A bet is a function f of what comes next with E[f] <= 1 under the hypothesis. The capital

    E_t = mean over bets k of sum over starts j <= t of w_j f_k(x_j) ... f_k(x_t)  +  sum over j > t of w_j,   w_j = 1
    / (j (j + 1))

spreads over all rows at which a change may begin. It is a nonnegative (super)martingale that starts at one, so that the
chance of it ever reaching 1 / a is at most a, however long and however often one looks (Ville 1939). Imports numpy.
Vovk, Gammerman & Shafer (2005); Ramdas, Grünwald, Vovk & Shafer (2023), Statistical Science 38(4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

Bet = Callable[[np.ndarray], np.ndarray]


def _beta(a: float, b: float) -> Bet:
    """A tenth of the capital is kept, so that no single value ruins it."""
    law = scipy.stats.beta(a, b)
    return lambda p: 0.1 + 0.9 * law.pdf(p)


# Against uniform numbers: that they lie low or high, weakly and strongly; at the ends; in the middle.
UNIFORM: tuple[Bet, ...] = (
    *(lambda p, s=s: 1 + s * (2 * p - 1) for s in (-0.3, 0.3)),
    *(_beta(a, b) for a, b in ((1, 2), (2, 1), (1, 5), (5, 1))),
    lambda p: 1 + 1.8 * (6 * p**2 - 6 * p + 1),
    lambda p: 1 + 0.5 * (6 * p**2 - 6 * p + 1),
    _beta(2, 2),
    _beta(5, 5),
)


_TIMES = (1.6, 3.5, 9.0)


def misses(level: float) -> tuple[Bet, ...]:
    """Against misses (1) that are no more frequent than 1 - level: that their odds are 1.6, 3.5 and 9 times as high."""
    odds = (1 - level) / level

    def bet(share: float) -> Bet:
        return lambda miss: np.where(miss > 0, share / (1 - level), (1 - share) / level)

    return tuple(bet(times * odds / (1 + times * odds)) for times in _TIMES)


def miss_gains(miss: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """What the bets of `misses` gain where each row has a chance of its own: (rows, bets)."""
    odds = np.array(_TIMES) * (chance / (1 - chance))[:, None]
    share = odds / (1 + odds)
    return np.where(miss[:, None], share / chance[:, None], (1 - share) / (1 - chance)[:, None])


@dataclass
class Capital:
    """Capital of several tests side by side, one for each name.

    log_sums   (names, bets) logs of the sums over starts
    count      rows so far
    largest    (names,) the largest log capital so far
    crossed    (names,) row at which log capital first reached the threshold; -1 where it has not
    """

    log_sums: np.ndarray
    count: int
    largest: np.ndarray
    crossed: np.ndarray

    @classmethod
    def begin(cls, names: int, bets: int) -> "Capital":
        """Nothing seen yet."""
        return cls(np.full((names, bets), -np.inf), 0, np.zeros(names), np.full(names, -1))

    @property
    def log_capital(self) -> np.ndarray:
        """(names,) now."""
        return self._total(self.log_sums[None], np.array([self.count]))[0]

    def after(self, values: np.ndarray, bets: tuple[Bet, ...], log_threshold: Any) -> "Capital":
        """The capital after further rows of values (rows, names); one threshold, or one for each name."""
        return self.gaining(np.stack([bet(values) for bet in bets], axis=-1), log_threshold)

    def gaining(self, gains: np.ndarray, log_threshold: Any) -> "Capital":
        """As `after`, of what the bets have gained, (rows, names, bets)."""
        rows = len(gains)
        if not rows:
            return self
        gains = np.log(gains)
        number = self.count + np.arange(1, rows + 1)
        total = np.cumsum(gains, axis=0)
        before = np.concatenate([np.zeros((1, *total.shape[1:])), total[:-1]])
        stakes = -np.log(number * (number + 1.0))[:, None, None] - before
        sums = total + np.logaddexp.accumulate(np.concatenate([self.log_sums[None], stakes]), axis=0)[1:]
        capital = self._total(sums, number)
        reached = capital >= log_threshold
        first = np.where(reached.any(axis=0), self.count + np.argmax(reached, axis=0), -1)
        return Capital(
            log_sums=sums[-1],
            count=int(number[-1]),
            largest=np.maximum(self.largest, capital.max(axis=0)),
            crossed=np.where(self.crossed >= 0, self.crossed, first),
        )

    def to_plain(self) -> dict[str, Any]:
        """As JSON holds it; a sum of nothing is None."""
        sums = [[None if np.isneginf(value) else float(value) for value in row] for row in self.log_sums]
        return {
            "log_sums": sums,
            "count": self.count,
            "largest": self.largest.tolist(),
            "crossed": self.crossed.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any], names: int, bets: int) -> "Capital":
        """Raises ValueError, KeyError or TypeError if it is no capital of so many names and bets."""
        sums = np.array([[-np.inf if value is None else float(value) for value in row] for row in plain["log_sums"]])
        largest, crossed = np.array(plain["largest"], float), np.array(plain["crossed"], int)
        count = int(plain["count"])
        if sums.shape != (names, bets) or largest.shape != (names,) or crossed.shape != (names,) or count < 0:
            raise ValueError(f"capital of {sums.shape} where {(names, bets)} was wanted")
        if np.isnan(sums).any() or not np.isfinite(largest).all():
            raise ValueError("capital that is no number")
        return cls(sums, count, largest, crossed)

    @staticmethod
    def _total(sums: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Log capital (rows, names) from the sums (rows, names, bets) after so many rows."""
        return np.logaddexp(np.logaddexp.reduce(sums, axis=-1) - np.log(sums.shape[-1]), -np.log(number + 1.0)[:, None])
