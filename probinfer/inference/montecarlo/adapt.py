"""A proposal fitted to where the mass is: adaptive multiple importance sampling with mixtures of Student's t.

Cornuet, Marin, Mira, Robert (2012), "Adaptive multiple importance sampling"; Cappé, Douc, Guillin, Marin, Robert
(2008), "Adaptive importance sampling in general mixture classes"; for levels that lead to a rare event, Rubinstein
and Kroese (2004), "The cross-entropy method".
"""

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.student import StudentMixture, fit

_ELITE = 0.1  # share of draws that a level keeps
_GOOD = 0.9  # effective share at which more rounds are not worth their draws
_WIDENED, _WIDER = 3, 16.0  # times that a first proposal which meets nothing is made so much wider
_LEVELS = 150  # of a score at most: each is about a tenth as probable as the one before
_PASSED = 0.5  # share of the best level's hits, below which the levels have passed what they were to lead to
_GAIN = 1.05  # growth of the effective share in a round that makes another one worth it


class Search:
    """Rounds of drawing, weighting against all proposals so far together, and fitting the next.

    log_target: (n, d) -> (n,), what the proposal shall be like, unnormalised.
    components: the most components that a proposal has.
    """

    def __init__(
        self,
        log_target: Callable[[np.ndarray], np.ndarray],
        start: StudentMixture,
        generator: np.random.Generator,
        *,
        components: int,
    ) -> None:
        self.mixture = start
        self._log_target, self._generator, self._components = log_target, generator, components
        self._mixtures: list[tuple[StudentMixture, int]] = []
        self._points = np.empty((0, start.means.shape[1]))
        self._log_targets = np.empty(0)
        self._log_proposals = np.empty(0)  # log of sum_r n_r q_r at every point

    def run(self, rounds: int, draws: int, progress: Callable[[int], None] = lambda done: None) -> StudentMixture:
        """The proposal after at most so many rounds."""
        before, best = 0.0, self.mixture
        for _ in range(_WIDENED):
            if np.isfinite(self._log_target(self.mixture.draw(self._generator, draws))).any():
                break
            self.mixture = self.mixture.widened(_WIDER)
        for done in range(rounds):
            share = self._round(draws)
            progress(done + 1)
            if share > before:
                best = self._drawn_from
            if share > _GOOD or (done > 2 and share < before * _GAIN):
                break
            before = max(before, share)
        return self.mixture if not best.shares.size or before == 0 else self._better(best, draws)

    def descend(
        self,
        log_density: Callable[[np.ndarray], np.ndarray],
        score: Callable[[np.ndarray], np.ndarray],
        draws: int,
    ) -> None:
        """Lead the proposal to where the target has mass, through levels of the score that each keep a tenth.

        log_density: (n, d) -> (n,), of the law whose part above a level the proposal shall be like.
        score: (n, d) -> (n,).

        Levels end where a tenth of the draws meet the target, or where fewer do than at the level before: the score
        goes on rising beyond it. Raises MethodError where no level has met it.
        """
        level, best, most = -np.inf, self.mixture, 0.0
        for _ in range(_LEVELS):
            z = self.mixture.draw(self._generator, draws)
            share = float(np.isfinite(self._log_target(z)).mean())
            if share > most:
                best, most = self.mixture, share
            if share >= _ELITE or share < _PASSED * most:
                break
            scores = np.where(np.isnan(values := score(z)), -np.inf, values)
            higher = float(np.quantile(scores, 1 - _ELITE))
            if not higher > level:
                break
            level = higher
            self._forget()
            self._take(z, np.where(scores >= level, log_density(z), -np.inf), draws)
            self._refit()
        else:
            if not most:
                raise MethodError(
                    f"Importance: the score was followed through {_LEVELS} levels, up to {level:.4g}, and f is zero at "
                    "all points there: it leads away from the event. Give a score that is larger towards it; the sign "
                    "may be wrong."
                )
        if most:
            self.mixture = best
        self._forget()

    def _better(self, best: StudentMixture, draws: int) -> StudentMixture:
        """Of the last fit and the best one before, that with more effective draws."""
        sizes = []
        for mixture in (self.mixture, best):
            z = mixture.draw(self._generator, draws)
            log_weights = self._log_target(z) - mixture.log_density(z)
            sizes.append(effective_share(log_weights))
        return self.mixture if sizes[0] >= sizes[1] else best

    def _round(self, draws: int) -> float:
        """Draw, weight, fit; the effective share of this round's draws."""
        self._drawn_from = self.mixture
        z = self.mixture.draw(self._generator, draws)
        log_target = self._log_target(z)
        share = effective_share(log_target - self.mixture.log_density(z))
        self._take(z, log_target, draws)
        if np.isfinite(self._log_targets).any():
            self._refit()
        return share

    def _take(self, z: np.ndarray, log_target: np.ndarray, draws: int) -> None:
        old = np.logaddexp(self._log_proposals, np.log(draws) + self.mixture.log_density(self._points))
        self._mixtures.append((self.mixture, draws))
        new = logsumexp([np.log(count) + mixture.log_density(z) for mixture, count in self._mixtures], axis=0)
        self._points = np.concatenate([self._points, z])
        self._log_targets = np.concatenate([self._log_targets, log_target])
        self._log_proposals = np.concatenate([old, new])

    def _refit(self) -> None:
        log_weights = self._log_targets - self._log_proposals
        d = self._points.shape[1]
        weights = _tempered(log_weights, min(20.0 + 5 * d, np.isfinite(log_weights).sum() / 2))
        size = 1 / np.sum(weights**2)
        count = int(np.clip(size / (10 * (d + 1)), 1, self._components))
        self.mixture = fit(self._points, weights, count, self.mixture, self._generator)

    def _forget(self) -> None:
        self._mixtures, self._points = [], self._points[:0]
        self._log_targets, self._log_proposals = self._log_targets[:0], self._log_proposals[:0]


def effective_share(log_weights: np.ndarray) -> float:
    """(sum w)^2 / (n sum w^2); 0 without any weight."""
    if not np.isfinite(log_weights).any():
        return 0.0
    w = np.exp(log_weights - log_weights.max())
    return float(w.sum() ** 2 / (w**2).sum() / len(w))


def _tempered(log_weights: np.ndarray, least: float) -> np.ndarray:
    """Normalised weights w^b, b the largest power up to one that leaves so many effective draws."""

    def at(power: float) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            scaled = np.where(np.isfinite(log_weights), power * log_weights, -np.inf)
        return np.exp(scaled - logsumexp(scaled))

    low, high = 0.0, 1.0
    if 1 / np.sum(at(1.0) ** 2) >= least:
        return at(1.0)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 / np.sum(at(middle) ** 2) >= least else (low, middle)
    return at(low)
