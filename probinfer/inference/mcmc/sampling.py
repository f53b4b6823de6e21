"""The draws that are kept: a number of them, or as many as a stop rule wants."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from probinfer.inference.draws import Outcome
from probinfer.inference.mcmc.live_ess import LiveESS, Seen
from probinfer.inference.mcmc.record import SAMPLING
from probinfer.inference.progress import Progress
from probinfer.inference.settings import settings_of
from probinfer.inference.until import Look, Until


class Advancing(Protocol):
    """Chains as `sample` sees them: `probinfer.inference.mcmc.chains.Chains` says what each is."""

    interrupted: bool

    @property
    def late(self) -> bool:
        """Whether the time for drawing is over."""
        ...

    def advance(
        self,
        count: int,
        metrics: Any,
        drawn: Any,
        *,
        phase: int,
        progress: Progress,
        label: Callable[[], str],
        done: int,
        total: int,
        hurry: bool = False,
    ) -> None:
        """Add `count` more draws of every chain to what is `drawn`."""
        ...


class Ending(NamedTuple):
    """How sampling ended; `stopping` is the rule and what it saw, None without a rule."""

    outcome: Outcome
    stopping: Mapping[str, Any] | None


def sample(
    chains: Advancing,
    metrics: list[Any],
    drawn: Seen,
    draws: int,
    until: Until | None,
    progress: Progress,
    done: int,
    superchains: int = 0,
) -> Ending:
    """Draw from every chain with its metric held fixed, into `drawn`; how it ended.

    draws: per chain, without a rule; with one they are its budget unless it names its own. done: draws of the warm-up.
    superchains: groups of chains that R-hat compares, 0 for every chain by itself.
    """
    budget = draws if until is None else until.budget(draws)
    live = LiveESS(drawn, superchains)
    look = None
    count = 0
    while count < budget and not chains.interrupted:
        wanted = budget if until is None else until.next_look(look, budget, len(metrics))
        hurry = until is not None and count >= until.min_draws
        if until is not None and until.seconds is not None and not hurry:
            wanted = min(wanted, until.min_draws)
        chains.advance(
            wanted - count,
            metrics,
            drawn,
            phase=SAMPLING,
            progress=progress,
            label=live,
            done=done + count,
            total=done + budget,
            hurry=hurry,
        )
        count = int(drawn.counts.min())
        if until is None:
            continue
        if until.has_goal and count and not chains.interrupted:
            look = until.look(drawn.positions(), superchains, last=count >= budget or chains.late)
            live.show(look)
            if until.met(look):
                break
        if chains.late and count >= min(until.min_draws, budget):
            break
    return _ending(chains, until, look, count, budget)


def _ending(chains: Advancing, until: Until | None, look: Look | None, drawn: int, budget: int) -> Ending:
    if until is None:
        return Ending(Outcome.INTERRUPTED if chains.interrupted else Outcome.COMPLETED, None)
    missed = until.missed(look)
    seen = "" if look is None else f"ESS {look.ess:.0f}, R-hat {look.rhat:.3f} after {look.draws} draws per chain"
    spent = f"all {budget} draws per chain were made" if drawn >= budget else f"the {until.seconds} seconds were over"
    if chains.interrupted:
        outcome, reason = Outcome.INTERRUPTED, f"interrupted after {drawn} draws per chain"
    elif missed:
        outcome, reason = Outcome.OUT_OF_BUDGET, f"{missed}, when {spent}"
    else:
        outcome, reason = Outcome.COMPLETED, seen if until.has_goal else spent
    stopping = {
        "rule": settings_of(until),
        "reason": reason,
        "met": not missed and not chains.interrupted,
        "draws": drawn,
        **({"ess": _number(look.ess), "rhat": _number(look.rhat)} if look is not None else {}),
    }
    return Ending(outcome, stopping)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
