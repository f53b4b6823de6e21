"""A run of the collapsed Gibbs sampler: chains side by side on threads, from the first assignment to the draws."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np

from probinfer.inference.checkpoint import Journal
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.mcmc.sampling import sample
from probinfer.inference.mcmc.warmup import DEFAULT_WARMUP
from probinfer.inference.method import Run
from probinfer.inference.progress import Progress
from probinfer.inference.topics.chain import Chain, Plan, read_record
from probinfer.inference.topics.extra import loops
from probinfer.inference.topics.matching import match
from probinfer.inference.turns import Turns
from probinfer.model.model import BoundModel
from probinfer.model.topics import TopicModel, corpus_of_bound

MAX_STATES = 20_000_000  # numbers in the states that all chains keep: 80 MB
MAX_MIXTURES = 20_000_000  # numbers in the mean mixtures of all documents, of all chains: 160 MB
_PAUSE = 0.25  # seconds between looks at Ctrl-C, if a sweep takes no longer
_RECORD = 5.0  # seconds of a chain's work between its records, and a tenth of the run so far: what a crash may cost
_FIRST = 0.5  # where a concentration that is learned begins


type Labelled = tuple[tuple[str, ...], np.ndarray]


class Seen:
    """The draws of a crowd so far, as `sample` looks at them: their numbers without labels."""

    def __init__(self, crowd: list[Chain]) -> None:
        self._crowd = crowd
        self._columns = [0, 1, *(2 + i for i, each in enumerate(crowd[0].plan.learned) if each)]

    @property
    def counts(self) -> np.ndarray:
        """Draws of each chain."""
        return np.array([chain.drawn for chain in self._crowd])

    @property
    def dim(self) -> int:
        """Numbers of a draw."""
        return len(self._columns)

    def positions(self, every: int = 1, coordinates: Any = slice(None)) -> np.ndarray:
        """Every so many-th draw (chain, draw, number) of those that every chain has."""
        shortest = int(self.counts.min())
        rows = [np.array(chain.rows[:shortest:every])[:, self._columns] for chain in self._crowd]
        return np.stack(rows)[..., coordinates]


def run_collapsed(model: TopicModel, bound: BoundModel, run: Run, chains: int, draws: int, warmup: int | None) -> Draws:
    """Draw the topics of all tokens; see `TopicModel`. The draws hold what does not depend on the topics' numbers."""
    clock = time.perf_counter
    began = clock()
    warmup = DEFAULT_WARMUP if warmup is None else warmup
    corpus = corpus_of_bound(bound)
    given = (model.document_concentration, model.word_concentration)
    plan = Plan(
        corpus=corpus,
        topics=model.topics,
        loops=loops("sweep"),
        learned=(given[0] is None, given[1] is None),
        warmup=warmup,
        states=max(1, MAX_STATES // (chains * corpus.vocabulary * model.topics)),
    )
    first = tuple(_FIRST if value is None else value for value in given)
    crowd = [Chain(plan, number, run.key, (first[0], first[1])) for number in range(chains)]
    if chains * corpus.documents * model.topics <= MAX_MIXTURES:
        for chain in crowd:
            chain.keep_mixtures()
    with ThreadPoolExecutor(workers(chains), thread_name_prefix="probinfer") as pool:
        team = Team(pool, crowd, run.journal, run.deadline)
        team.advance(warmup, phase=0, progress=run.progress, label=lambda: "warm-up", done=0, total=warmup + draws)
        if team.interrupted:
            run.progress.close()
            raise KeyboardInterrupt("Interrupted during warm-up: there are no draws yet.")
        warm = clock()
        ending = sample(team, crowd, Seen(crowd), draws, run.until, run.progress, warmup)
    run.progress.close()
    count = min(chain.drawn for chain in crowd)
    if count == 0:
        raise KeyboardInterrupt("Interrupted before every chain had its first draw.")
    rows = np.stack([np.array(chain.rows[:count]) for chain in crowd])
    summaries = {
        "log_joint": rows[..., 0],
        "effective_topics": rows[..., 1],
        "topic_share": np.stack([np.array(chain.shares[:count]) for chain in crowd]),
        **{
            name: rows[..., 2 + i]
            for i, name in enumerate(("document_concentration", "word_concentration"))
            if plan.learned[i]
        },
    }
    groups, overlap = _labelled(crowd, model, corpus.documents)
    return Draws(
        positions=np.empty((chains, count, 0)),
        stats={"lp": rows[..., 0]},
        method="Gibbs",
        settings={"chains": chains, "draws": draws, "warmup": warmup},
        facts={
            "exchangeable": "topics",
            "topic_overlap": [float(value) for value in overlap],
            "tokens": len(corpus.words),
        },
        outcome=ending.outcome,
        seconds={"warmup": warm - began, "sampling": clock() - warm},
        stopping=ending.stopping,
        summaries=summaries,
        groups=groups,
    )


class Team(Turns):
    """The chains of a run, and the journal that keeps them: what `sample` asks of chains.

    What a chain draws depends on its key alone, never on where its work was cut into pieces, or on other chains.
    """

    def __init__(self, pool: Executor, crowd: list[Chain], journal: Journal | None, deadline: float) -> None:
        super().__init__(pool, workers(len(crowd)), deadline)
        self._crowd, self._journal = crowd, journal
        self._tokens, self._spent = 0, 0.0
        for payload in journal.records if journal is not None else ():
            arrays = read_record(payload)
            crowd[int(arrays["place"][0])].restore(arrays)

    def advance(
        self,
        count: int,
        metrics: Any = None,
        drawn: Any = None,
        *,
        phase: int,
        progress: Progress,
        label: Callable[[], str],
        done: int,
        total: int,
        hurry: bool = False,
    ) -> None:
        """Every chain on to `done + count` sweeps. On Ctrl-C, and with `hurry` after the deadline, sweeps under way
        are finished; Ctrl-C sets `interrupted` as well."""
        del metrics, drawn, phase  # each chain has its own draws
        goal = done + count

        def finish(number: int, made: tuple[int, float]) -> bool:
            chain = self._crowd[number]
            self._count(chain, *made)
            speed = f"{self._tokens / max(self._spent, 1e-9):.2g} tokens a second and chain"
            progress.update(
                sum(each.sweeps for each in self._crowd),
                total * len(self._crowd),
                lambda: f"{label()}, {speed}",
            )
            self._keep(chain, last=chain.sweeps >= goal)
            return chain.sweeps < goal

        behind = [number for number, chain in enumerate(self._crowd) if chain.sweeps < goal]
        self.take_turns(behind, lambda number: _timed(self._crowd[number], goal), finish, hurry=hurry)

    def _count(self, chain: Chain, made: int, seconds: float) -> None:
        self._tokens += made * len(chain.z)
        self._spent += seconds
        chain.spent += seconds

    def _keep(self, chain: Chain, *, last: bool) -> None:
        if self._journal is None:
            return
        if last or chain.spent - chain.written > max(_RECORD, 0.1 * chain.spent):
            self._journal.append(chain.record())
            chain.written = chain.spent


def _timed(chain: Chain, goal: int) -> tuple[int, float]:
    began = time.perf_counter()
    made = chain.advance(goal - chain.sweeps, _PAUSE)
    return made, time.perf_counter() - began


def _labelled(
    crowd: list[Chain], model: TopicModel, documents: int
) -> tuple[dict[str, dict[str, Labelled]], np.ndarray]:
    """The groups of what depends on the topics' numbers, those of the best chain for all; and how far chains agree."""
    numbers = sorted(set.intersection(*(set(chain.states) for chain in crowd)))
    best = int(np.argmax([np.mean([row[0] for row in chain.rows]) for chain in crowd]))
    counts = np.stack([np.stack([chain.states[n][0].T for n in numbers]) for chain in crowd])
    values = np.stack([np.stack([chain.states[n][1] for n in numbers]) for chain in crowd])
    smoothed = counts.mean(axis=1) + values[..., 1].mean(axis=1)[:, None, None]
    orders, overlap = match(smoothed / smoothed.sum(axis=-1, keepdims=True), best)
    for chain, order in enumerate(orders):
        counts[chain] = counts[chain][:, order]
    words = model.words if model.words is not None else np.arange(counts.shape[-1])
    labels: dict[str, Labelled] = {
        "chain": (("chain",), np.arange(len(crowd))),
        "topic": (("topic",), np.arange(model.topics)),
    }
    groups: dict[str, dict[str, Labelled]] = {
        "topics": {
            "word_count": (("chain", "state", "topic", "word"), counts),
            "document_concentration": (("chain", "state"), values[..., 0]),
            "word_concentration": (("chain", "state"), values[..., 1]),
            "state": (("state",), np.array(numbers)),
            "word": (("word",), words),
            **labels,
        }
    }
    if len(crowd[0].mixtures):
        means = np.stack([chain.mixtures[:, order] / chain.drawn for chain, order in zip(crowd, orders, strict=True)])
        document = (("document",), np.arange(documents))
        groups["documents"] = {"mixture": (("chain", "document", "topic"), means), "document": document, **labels}
    return groups, overlap
