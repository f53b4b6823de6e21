"""A run of Markov chains from its starting points to its draws, whatever the transition."""

import contextlib
import functools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from probinfer.errors import ModelError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.approximate_start import NOWHERE, Beginning, begin
from probinfer.inference.mcmc.batched_chains import BatchedChains
from probinfer.inference.mcmc.block import ChainState, Row, one, restart, stacked
from probinfer.inference.mcmc.centring import as_the_model_has_them, centred_nearby, recentred_sites
from probinfer.inference.mcmc.chains import Chains, workers
from probinfer.inference.mcmc.compiled import Batch, Block, compiled_density, value_at
from probinfer.inference.mcmc.drawn import Drawn
from probinfer.inference.mcmc.kernel import Kernel
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.nearby import undefined_nearby
from probinfer.inference.mcmc.parallel import Parallel, is_batch
from probinfer.inference.mcmc.record import Record
from probinfer.inference.mcmc.sampling import sample
from probinfer.inference.mcmc.scouts import SCOUTS, Elsewhere, look_elsewhere
from probinfer.inference.mcmc.start import RADII, Start, find_start
from probinfer.inference.mcmc.warmup import WARM_WARMUP, warm_up
from probinfer.inference.method import Run, Warm, check_start
from probinfer.inference.settings import settings_of
from probinfer.model.recentred import Recentred
from probinfer.model.target import Target

_AGAIN = 0xA6A1  # tells the seeds of chains that begin again from others
_NEARBY = 200  # draws of the posterior nearby that each chain of a warm start looks at


def run_chains(
    method: Any,
    kernel: Kernel,
    target: Target,
    run: Run,
    *,
    rank: int,
    warmup: int,
    accept: float | None = None,
    raised: float | None = None,
    init: Any = None,
    settles: Any = None,
    scouted: bool = False,
    parallel: Parallel = Parallel.THREADS,
    superchains: int = 0,
    recentre: bool = False,
) -> Draws:
    """Warm up and draw. `method` has the settings chains, draws and target_accept, for which `accept` stands where it
    is None; `rank` is that of the metric; `init` is a method whose draws the chains begin at; `raised` and `settles` as
    for `warm_up`; `scouted` has scouts look for modes that no chain has been to, and lost chains begin again;
    `superchains` groups of chains begin at one point each, 0 lets every chain have its own; with `recentre` the latents
    of a hierarchy are drawn in the coordinates that the warm-up finds to be the best."""
    clock = time.perf_counter
    began = clock()
    if run.warm is not None:
        warmup = min(warmup, WARM_WARMUP)
    # in the coordinates of the model at first
    recentred = Recentred(target) if recentre and target.hierarchical and not target.devices else None
    space: Target = target if recentred is None else recentred
    with ThreadPoolExecutor(workers(method.chains), thread_name_prefix="probinfer") as pool:
        if kernel.batch and is_batch(parallel, target):
            kind, compiling = BatchedChains, pool.submit(Batch, kernel, space, rank, method.chains)
        else:
            kind, compiling = Chains, pool.submit(Block, kernel, space, rank)
        if recentred is not None:
            moving = pool.submit(recentred.compile_move)
            if run.warm is not None:
                moving.result()
                space, warm = centred_nearby(recentred, run.warm, run.key)
                run = run._replace(warm=warm)
        beginning = NOWHERE if init is None else begin(init, target, run, method.chains, rank)
        if kernel.begin is None:
            seeds = np.random.SeedSequence(run.key.tolist()).spawn(method.chains)
            states, metrics = _start(
                kernel, seeds, space, run, rank, beginning, method.chains // superchains if superchains else 1
            )
        else:
            states, metrics = _begin(kernel, method.chains, target, run)
        record = Record(run.journal, target.dim, target.dtype, kernel.words, np.shape(kernel.first_step))
        block = compiling.result().on(space)
        if recentred is not None:
            moving.result()
        own = method.target_accept if accept is None else accept
        aim = own if kernel.targets is None else kernel.targets
        chains = kind(pool, block, space, stacked(states), aim, kernel.limit, record, run.deadline)
        compiled = clock()
        metrics, warmed, restarted = warm_up(
            chains,
            metrics,
            kernel.fit,
            warmup,
            warmup + method.draws,
            run.progress,
            keep=run.warm is not None,
            settles=settles,
            raised=raised,
            another=functools.partial(_another, kernel, run, rank) if scouted else None,
            recentred=recentred,
        )
        if chains.interrupted:
            run.progress.close()
            raise KeyboardInterrupt("Interrupted during warm-up: there are no draws yet.")
        warm = clock()
        space, place, moved = chains.target, None, {}
        if isinstance(space, Recentred):
            place, moved = functools.partial(as_the_model_has_them, space), recentred_sites(space)
        drawn = Drawn(method.chains, place=place)
        looks = scouted and run.warm is None
        beside = looks and kind is Chains and not target.devices  # on a device its programs wait for one another
        start_scouts = functools.partial(_scout_starts, kernel, space, run, rank, chains)
        starting = pool.submit(start_scouts) if beside else None
        ending = sample(chains, metrics, drawn, method.draws, run.until, run.progress, warmed, superchains)
        if drawn.shortest == 0:
            run.progress.close()
            raise KeyboardInterrupt("Interrupted before every chain had its first draw.")
        rows: Row = jax.tree.map(np.ascontiguousarray, drawn.rows())
        positions, log_density = rows.q, rows.log_density
        elsewhere = None
        if looks and not (chains.interrupted or chains.late):
            best = int(np.argmax(np.median(log_density, axis=1)))
            with contextlib.suppress(KeyboardInterrupt):  # the draws are there
                begun = start_scouts() if starting is None else starting.result()
                if begun is not None:
                    step = restart(there := one(chains.states, best), there.step.log_average).step
                    scouts = chains.others(stacked([state._replace(step=step) for state in begun]))
                    done = warmed + drawn.shortest
                    elsewhere = look_elsewhere(scouts, metrics[best], positions, log_density, run.progress, done, place)
    run.progress.close()
    aimed = {} if accept is None else {"target_accept": chains.target_accept}  # of which the warm-up may raise it
    seen = {name: getattr(rows.info, field) for name, field in kernel.stats.items()}
    nearby = {}
    if kernel.begin is None:
        # several blocks meet NaN without a divergence
        told = seen if kernel.given is None else {k: v for k, v in seen.items() if k != "diverging"}
        value = value_at(target if recentred is None else recentred, gradient=kernel.gradient)
        nearby = undefined_nearby(value, target, positions, told, run.key, kernel.place)
    return Draws(
        positions=positions,
        stats={
            "lp": log_density,
            **({"step_size": _first(rows.step_size)} if kernel.sized else {}),
            **seen,
        },
        method=type(method).__name__,
        settings={**settings_of(method), "warmup": warmup, **aimed},
        facts={
            **beginning.facts,
            **nearby,
            "warmup_draws": warmed,
            **({"restarted": restarted} if restarted else {}),
            **({"superchains": superchains} if superchains else {}),
            **moved,
            **({"warm_start": 1} if run.warm is not None else {}),
            **_told(elsewhere, target),
        },
        outcome=ending.outcome,
        seconds={"compile": compiled - began, "warmup": warm - compiled, "sampling": clock() - warm},
        stopping=ending.stopping,
    )


def _another(kernel: Kernel, run: Run, rank: int, chains: Chains, which: np.ndarray, attempt: int) -> ChainState | None:
    """Other starting points for those chains (chain,), a mask, whose random numbers go on; None where none is found."""
    seeds = np.random.SeedSequence([*run.key.tolist(), _AGAIN, attempt]).spawn(len(chains))
    try:
        states, _ = _start(kernel, [seeds[i] for i in np.flatnonzero(which)], chains.target, run, rank, NOWHERE)
    except ModelError:
        return None
    kept = jax.tree.map(lambda column: column[which], chains.states)
    new = stacked(states)
    return kept._replace(q=new.q, g=new.g, log_density=new.log_density)


def _scout_starts(kernel: Kernel, target: Target, run: Run, rank: int, chains: Chains) -> list[ChainState] | None:
    """Where scouts begin, looked for while chains draw; None where there are no such places, or no time is left."""
    seeds = np.random.SeedSequence([*run.key.tolist(), SCOUTS]).spawn(SCOUTS)
    try:
        return _start(kernel, seeds, target, run, rank, NOWHERE, over=lambda: chains.interrupted or chains.late)[0]
    except (ModelError, _Over):
        return None


class _Over(Exception):
    """Nobody needs starting points any more."""


def _told(elsewhere: Elsewhere | None, target: Target) -> dict[str, Any]:
    """What scouts found, as facts for the report."""
    if elsewhere is None:
        return {}
    place = {name: np.ravel(value).tolist() for name, value in target.named(elsewhere.position).items()}
    numbers = {"gain": elsewhere.gain, "scouts": elsewhere.scouts, "of": SCOUTS}
    return {"elsewhere": json.dumps(place), **{f"elsewhere_{name}": number for name, number in numbers.items()}}


def _first(sizes: np.ndarray) -> np.ndarray:
    """The step size (chain, draw); of several, the first."""
    return sizes if sizes.ndim == 2 else sizes[..., 0]


def _begin(kernel: Kernel, count: int, target: Target, run: Run) -> tuple[list[ChainState], list[Metric]]:
    """As `_start`, at points that the kernel knows."""
    assert kernel.begin is not None
    dtype = target.dtype.type
    states, metrics = [], []
    with target.precision():
        first_step = jax.tree.map(np.asarray, steps.start(kernel.first_step, target.dtype))
        for chain, seed in enumerate(np.random.SeedSequence(run.key.tolist()).spawn(count)):
            generator = np.random.default_rng(seed)
            key = generator.integers(0, 2**32, 2, dtype=np.uint32)
            start, words = kernel.begin(chain, generator)
            q, g = start.position.astype(dtype), start.gradient.astype(dtype)
            states.append(ChainState(q, key, np.uint32(0), first_step, g, dtype(start.log_density), words))
            metrics.append(start.metric)
    return states, metrics


def _start(
    kernel: Kernel,
    seeds: list[np.random.SeedSequence],
    target: Target,
    run: Run,
    rank: int,
    beginning: Beginning,
    each: int = 1,
    over: Callable[[], bool] | None = None,
) -> tuple[list[ChainState], list[Metric]]:
    """A chain for each seed at its starting point, which so many of them have in common, and the metric that fits each
    there. Raises `_Over` once that is so."""
    density, dtype = compiled_density(target, gradient=kernel.gradient), target.dtype.type
    none = np.zeros(target.dim)
    states, metrics = [], []
    warm = run.warm
    with target.precision():
        # a step size that served nearby, where there is one for all
        known = warm.step_size if warm is not None and np.ndim(kernel.first_step) == 0 else None
        first_step = jax.tree.map(np.asarray, steps.start(known or kernel.first_step, target.dtype))
        for chain, seed in enumerate(seeds):
            generator = np.random.default_rng(seed)
            key = generator.integers(0, 2**32, 2, dtype=np.uint32)

            def evaluate(position: np.ndarray) -> tuple[float, np.ndarray]:
                if over is not None and over():
                    raise _Over
                found = density(position.astype(dtype), target.inputs)
                value, gradient = found if kernel.gradient else (found, none)
                return float(value), np.asarray(gradient, float)

            def propose(radius: float, generator: np.random.Generator = generator) -> np.ndarray:
                position = generator.uniform(-radius, radius, target.dim)
                return position if kernel.place is None else kernel.place(position, generator)

            if chain % each:
                states.append(states[-1]._replace(key=key))
                metrics.append(metrics[-1])
                continue
            start, last = None, np.zeros(target.dim)
            if warm is not None:
                start = _warm_start(kernel, evaluate, warm, generator, rank)
            elif beginning.positions is not None and beginning.metric is not None:
                position = beginning.positions[chain]
                start = Start(position, *evaluate(position), beginning.metric)
            if start is None:
                start, last = find_start(evaluate, propose, target.dim, rank, descend=kernel.gradient)
            if start is None:
                raise check_start(target, last, len(RADII))
            q, g = start.position.astype(dtype), start.gradient.astype(dtype)
            states.append(ChainState(q, key, np.uint32(0), first_step, g, dtype(start.log_density)))
            metrics.append(start.metric)
    return states, metrics


def _warm_start(
    kernel: Kernel, evaluate: Callable, warm: Warm, generator: np.random.Generator, rank: int
) -> Start | None:
    """A draw of the posterior nearby, and the metric from several of them with the gradients that they have here: of a
    normal law it is right wherever the draws are from. None if the log density is finite at too few of them."""
    picked = warm.positions[generator.permutation(len(warm.positions))[:_NEARBY]]
    found = [(z, *evaluate(z)) for z in picked]
    found = [each for each in found if np.isfinite(each[1]) and np.isfinite(each[2]).all()]
    if len(found) < max(2, len(picked) // 2):
        return None
    points, gradients = (np.stack([each[i] for each in found])[None] for i in (0, 2))
    metric = kernel.fit(points, gradients, np.ones(points.shape[:2], bool), rank)
    return Start(*found[0], metric)
