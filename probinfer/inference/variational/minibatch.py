"""The normal law nearest to a target that is looked at by a few rows at a time: steps of Adam, until two runs agree.

    bound = E_q[log p^(z)] - E_q[log q(z)]

Begins with the law nearest to some rows, as in elbo.py, and brings it to where all rows want it, with what they say at
its mean: then it differs from the one sought by less than its own width, and some hundred steps find the rest. Slopes
are those of the path alone, which are exact where q is p (Roeder, Wu & Duvenaud 2017): what is left is the noise of the
rows, which the average over a run's second half takes out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from probinfer.inference.variational.elbo import SETTLED, Fitted, apart, climb, fit_normal
from probinfer.inference.variational.families import Family, NormalLaw, standard_points
from probinfer.inference.variational.other_modes import Other
from probinfer.inference.variational.sampled_rows import Known, SampledRows
from probinfer.model.one_thread import one_blas_thread

_BEGIN_ROWS, _ROWS_PER_DIMENSION = 2000, 20  # rows that the law begins with, at least
_MOVES = 12  # times that it is brought nearer to what all rows want
_NEAR = 1.0  # move, in standard deviations, after which steps take over
_LOST = 5.0  # nats and a unit for each dimension that a move may cost at the mean: more, and it is taken back by half
_HALVINGS = 8
_STEPS = 400  # of the first two runs
_POINTS = 32  # of a step
_FAST, _SLOW = 0.05, 0.01  # rates of the two halves, in units of the law's own width
_DECAY, _SQUARE_DECAY = 0.9, 0.99  # of Adam
_LEFT_OUT = 0.5  # share of steps without a finite slope, above which a run says nothing


class Stepped[Law: NormalLaw](NamedTuple):
    """The approximation; the last change from one run of steps to the next; steps in all; laws at other modes of what
    the rows that it began with say, and the bound of its own there."""

    law: Law
    change: float
    steps: int
    others: tuple[Other, ...]
    elbo_of_rows: float


def fit_from_rows[Law: NormalLaw](
    seen: SampledRows,
    generator: np.random.Generator,
    family: Family[Law],
    *,
    points: int,
    rounds: int,
    progress: Callable[[int], None],
) -> Stepped[Law]:
    """Runs of steps until two agree, each twice as long as the last while they do not.

    Raises ModelError when the log density is finite at no starting point.
    """
    law, known, first = _begin(seen, generator, family, points)
    ask = seen.fresh(_POINTS)
    steps, total, change = _STEPS, 0, np.inf
    for done in range(rounds):
        before = law
        law, arrived = _run(family, law, ask, known, generator, steps)
        known = seen.known_at(law.mean)
        total += steps
        change = apart(law, before) if arrived and done else np.inf
        progress(done + 1)
        if change <= SETTLED:
            break
        steps *= 1 if done == 0 else 2
    return Stepped(law, change, total, first.others, first.elbo)


def _begin[Law: NormalLaw](
    seen: SampledRows, generator: np.random.Generator, family: Family[Law], points: int
) -> tuple[Law, Known, Fitted[Law]]:
    """The law nearest to some rows, moved by the slope of all rows at its mean, again and again while that is far; and
    the fit to these rows."""
    d = seen.target.dim
    count = min(seen.rows.count, max(_BEGIN_ROWS, _ROWS_PER_DIMENSION * d, seen.rows.batch))
    points = max(points, family.points(d))
    some = seen.fixed(count, seen.nothing_known())
    fitted = fit_normal(
        seen.target, generator, family, points=points, rounds=1, progress=lambda done: None, gradients=some
    )
    law, known = fitted.law, seen.known_at(fitted.law.mean)
    if count == seen.rows.count:
        return law, known, fitted
    for _ in range(_MOVES):
        before, was = law, known
        law, _ = climb(family, law, standard_points(generator, points, d), seen.fixed(count, known))
        known = seen.known_at(law.mean)
        for _ in range(_HALVINGS):
            if known.value > was.value - _LOST - d:
                break
            law = law.around((law.mean + before.mean) / 2)
            known = seen.known_at(law.mean)
        if np.max(np.abs(law.mean - before.mean) / law.sd) <= _NEAR:
            break
    return law, known, fitted


def _run[Law: NormalLaw](
    family: Family[Law], frame: Law, ask: Any, known: Known, generator: np.random.Generator, steps: int
) -> tuple[Law, bool]:
    """The law that the second half of so many steps from `frame` has on average, and whether most steps had slopes."""
    d = len(frame.mean)
    x = np.zeros(family.count(d))
    drift, size, total = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    taken, kept = 0, 0
    with np.errstate(all="ignore"), one_blas_thread():  # the matrices are small, see elbo.py
        for step in range(steps):
            law = family.law(frame, x)
            white = standard_points(generator, _POINTS, d)
            _, slopes = ask(law.at(white), known)
            along = slopes - law.slopes(white)
            own = family.slopes(frame, x, law, white, np.zeros_like(along))  # of the law's entropy, held in `along`
            uphill = family.slopes(frame, x, law, white, along) - own
            if np.isfinite(uphill).all():
                taken += 1
                drift += (1 - _DECAY) * (uphill - drift)
                size += (1 - _SQUARE_DECAY) * (uphill**2 - size)
                unbiased = size / (1 - _SQUARE_DECAY**taken)
                rate = _FAST if step < steps // 2 else _SLOW
                x = x + rate * drift / (1 - _DECAY**taken) / (np.sqrt(unbiased) + 1e-12)
            if step >= steps // 2:
                total, kept = total + x, kept + 1
    return family.law(frame, total / kept), taken > (1 - _LEFT_OUT) * steps
