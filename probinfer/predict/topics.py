"""What a topic model has learned: its topics in words, the mixtures of documents old and new, held-out scores."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import DataError, ModelError, PredictionError
from probinfer.inference.draw import key_words
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.settings import check_whole
from probinfer.inference.topics.extra import loops
from probinfer.model.topics import Corpus, corpus_of, read_counts
from probinfer.posterior.verdict import Verdict
from probinfer.predict.predictor import refuse_unreliable

if TYPE_CHECKING:
    import pandas as pd

    from probinfer.posterior.posterior import Posterior

_SHOWN = 8  # words of a topic in a notebook


@dataclass(frozen=True, eq=False)
class HeldOut:
    """How well new documents were foreseen.

    log_score        log p(w_d | corpus) of each document (documents,), its words in a given order
    tokens           words of each document
    perplexity       exp(- Σ log_score / Σ tokens): as many equally probable words would be as hard to foresee
    perplexity_mcse  its Monte Carlo error, by leaving out one draw of the posterior after the other
    """

    log_score: np.ndarray
    tokens: np.ndarray
    perplexity: float
    perplexity_mcse: float

    def __repr__(self) -> str:
        return (
            f"HeldOut(perplexity {self.perplexity:.5g} ± {self.perplexity_mcse:.2g}, {len(self.tokens)} documents, "
            f"{int(self.tokens.sum())} words)"
        )


class Topics:
    """The topics of a posterior of a `TopicModel`, and what they say of new documents.

    probabilities  (topic, word) E[φ_k | words]: mean over draws of (β + n_kw) / (V β + n_k)
    shares         (topic,) share of the corpus' tokens in each topic, mean over draws
    overlap        (topic,) how far every chain has this topic: the smallest Σ_w min(φ_kw, φ'_kw) with its match there
    mixtures       (documents, topic) E[θ_d | words] of the corpus' documents; None where they were too many to keep
    words          the words' names

    Args:
        posterior: of `pi.infer(pi.TopicModel(...), counts, pi.Gibbs())`, fresh or from `load_posterior`.
        accept: the worst verdict to accept.

    Raises:
        UnreliablePosterior: the verdict is worse than `accept`.
        ModelError: the posterior is of another model or method.

    Topics of different chains are matched by their overlap, and means are over all chains. Where a topic's overlap is
    low the chains did not find the same one, and its mean is a blend: look at `overlap` first. Within a chain topics
    are taken to keep their numbers, which they do in corpora of more than a few hundred words.

    >>> import numpy as np
    >>> from probinfer import Gibbs, TopicModel, infer
    >>> rng = np.random.default_rng(0)
    >>> half = rng.poisson([3, 3, 3, 0, 0, 0], (20, 6))
    >>> counts = np.concatenate([half, half[:, ::-1]])  # documents about a, b, c, and documents about d, e, f
    >>> model = TopicModel(2, words=list("abcdef"))
    >>> topics = Topics(infer(model, counts, Gibbs(draws=200, warmup=100), progress=False), accept=Verdict.DOUBTFUL)
    >>> sorted("".join(sorted(row)) for row in topics.top_words(3).filter(like="word").to_numpy())
    ['abc', 'def']
    >>> float(topics.transform([[4, 0, 1, 0, 0, 0]]).max().round(1))
    1.0
    """

    def __init__(self, posterior: "Posterior", accept: Verdict = Verdict.GOOD) -> None:
        if not isinstance(accept, Verdict):
            raise PredictionError(f"accept is {accept!r}; wanted a Verdict, such as Verdict.DOUBTFUL.")
        tree = posterior.tree
        if "topics" not in tree.children or "word_count" not in tree["topics"].data_vars:
            raise ModelError(
                "This posterior holds no topics; wanted one of pi.infer(pi.TopicModel(...), counts, pi.Gibbs())."
            )
        refuse_unreliable(posterior, accept, "Topics")
        kept = tree["topics"]
        self.words = kept["word"].to_numpy()
        self._counts = kept["word_count"].to_numpy()
        self._alpha = kept["document_concentration"].to_numpy()
        self._beta = kept["word_concentration"].to_numpy()
        sizes = self._counts.sum(axis=-1)
        self.shares = (sizes / sizes.sum(axis=-1, keepdims=True)).mean(axis=(0, 1))
        self.overlap = posterior.report.evidence.numbers_of("topic_overlap")
        self.probabilities = np.zeros(self._counts.shape[2:])
        for chain, state in np.ndindex(*self._beta.shape):
            beta = self._beta[chain, state]
            whole = sizes[chain, state, :, None] + beta * len(self.words)
            self.probabilities += (self._counts[chain, state] + beta) / whole / self._beta.size
        self.mixtures = None
        if "documents" in tree.children:
            self.mixtures = tree["documents"]["mixture"].to_numpy().mean(axis=0)
        self._headline = f"{len(self.shares)} topics of {len(self.words)} words, {posterior.report.headline}"
        self._verdict = posterior.report.verdict

    def top_words(self, count: int = 10) -> "pd.DataFrame":
        """A row for each topic, the largest first: its share and overlap, and its `count` most probable words."""
        import pandas as pd

        check_whole("top_words", "count", count, 1)
        order = np.argsort(-self.probabilities, axis=1)[:, :count]
        table = pd.DataFrame(
            {
                "share": self.shares,
                "overlap": self.overlap,
                **{f"word {i + 1}": self.words[order[:, i]] for i in range(order.shape[1])},
            },
            index=pd.Index(np.arange(len(self.shares)), name="topic"),
        )
        return table.sort_values("share", ascending=False)

    def sample(self, draws: int = 100, *, seed: Any = 0) -> np.ndarray:
        """Draws of the topics' distributions over words (draws, topic, word): φ_k | z ~ Dirichlet(β + n_k), each from a
        draw of z that the posterior keeps, in turns."""
        check_whole("sample", "draws", draws, 1)
        generator = np.random.default_rng(key_words(seed))
        picked = np.unravel_index(np.linspace(0, self._beta.size - 1, draws).round().astype(int), self._beta.shape)
        found = np.empty((draws, *self.probabilities.shape))
        for draw, (chain, state) in enumerate(zip(*picked, strict=True)):
            for k, counts in enumerate(self._counts[chain, state]):
                found[draw, k] = generator.dirichlet(counts + self._beta[chain, state])
        return found

    def transform(self, counts: Any, *, particles: int = 20, states: int = 20, seed: Any = 0) -> np.ndarray:
        """Mixtures of new documents (documents, topic): E[θ | words] given the topics, mean over draws.

        counts: documents × words, as for `TopicModel`. particles, states: as for `score`. The new documents do not
        change what is believed of the topics. A document without words has the prior's mixture.
        Raises PredictionError for counts that do not fit.
        """
        return self._follow(self._corpus(counts), particles, states, seed)[1]

    def score(self, counts: Any, *, particles: int = 20, states: int = 20, seed: Any = 0) -> HeldOut:
        """Log predictive probability and perplexity of new documents.

            log_score_d = log mean over draws s of p(w_d | z_s, corpus)

        with p(w_d | z_s, corpus) estimated without bias by particles, from the first word to the last; θ, φ and the
        new topics are all integrated out. counts: documents × words of those that the model has not seen; words as
        a sequence, so without the multinomial coefficient.

        particles: of the filter in each draw. states: draws of the posterior, spread over all that it keeps, of all
        chains. More of both lower `perplexity_mcse`; as the logarithm of an estimate, a score is too low by about half
        its variance. Raises PredictionError for counts that do not fit, or without a word.

        Wallach, Murray, Salakhutdinov & Mimno (2009), Evaluation methods for topic models; Buntine (2009).
        """
        corpus = self._corpus(counts)
        tokens = np.diff(corpus.starts)
        if not tokens.sum():
            raise PredictionError("counts are all zero: there is no word to score.")
        logs, _ = self._follow(corpus, particles, states, seed)
        high = logs.max(axis=0)
        likelihood = np.exp(logs - high)  # (states, documents)
        score = high + np.log(likelihood.mean(axis=0))
        perplexity = float(np.exp(-score.sum() / tokens.sum()))
        n, error = len(logs), float("nan")
        if n > 1:
            with np.errstate(divide="ignore"):  # of a document that one draw alone foresees: an error without bound
                others = np.log(np.maximum(likelihood.sum(axis=0) - likelihood, 0) / (n - 1))
            left_out = np.exp(-(high + others).sum(axis=1) / tokens.sum())
            error = float(np.sqrt((n - 1) * np.mean((left_out - left_out.mean()) ** 2)))
        return HeldOut(score, tokens, perplexity, error)

    def _follow(self, corpus: Corpus, particles: int, states: int, seed: Any) -> tuple[np.ndarray, np.ndarray]:
        """log p (states, documents), and the mean over states of the mixtures (documents, topic)."""
        check_whole("Topics", "particles", particles, 2)
        check_whole("Topics", "states", states, 1)
        follow = loops("document").follow
        picked = np.unique(np.linspace(0, self._beta.size - 1, states).round().astype(int))
        words = [int(word) for word in key_words(seed)]

        def one(index: int) -> tuple[np.ndarray, np.ndarray]:
            chain, state = np.unravel_index(index, self._beta.shape)
            beta, kept = self._beta[chain, state], self._counts[chain, state]
            base = np.ascontiguousarray(kept.T + beta)
            sums = kept.sum(axis=1) + beta * len(self.words)
            random = np.random.SeedSequence([*words, int(index)]).generate_state(1, np.uint64)
            logs, mixtures = np.zeros(corpus.documents), np.zeros((corpus.documents, len(sums)))
            alpha = float(self._alpha[chain, state])
            follow(corpus.starts, corpus.words, base, sums, 1.0, alpha, particles, random, logs, mixtures)
            return logs, mixtures

        with ThreadPoolExecutor(workers(len(picked)), thread_name_prefix="probinfer") as pool:
            logs, mean = [], np.zeros((corpus.documents, len(self.shares)))
            for log_probability, mixtures in pool.map(one, picked):
                logs.append(log_probability)
                mean += mixtures / len(picked)
        return np.stack(logs), mean

    def _corpus(self, counts: Any) -> Corpus:
        try:
            table = read_counts(counts)
        except DataError as error:
            raise PredictionError(str(error)) from None
        if table.shape[1] != len(self.words):
            raise PredictionError(
                f"counts have {table.shape[1]} columns, the topics {len(self.words)} words; wanted the columns that "
                "the model was inferred from, in their order."
            )
        return corpus_of(table)

    def __repr__(self) -> str:
        return f"Topics({self._verdict.name}: {self._headline})"

    def _repr_html_(self) -> str:
        table = self.top_words(_SHOWN)
        rows = [
            f"<tr><th>{topic}</th><td>{row['share']:.1%}</td><td>{row['overlap']:.2f}</td>"
            f"<td style='text-align:left'>{escape(' '.join(map(str, row.iloc[2:])))}</td></tr>"
            for topic, row in table.iterrows()
        ]
        head = "<tr><th>topic</th><th>share</th><th>overlap</th><th style='text-align:left'>words</th></tr>"
        verdict = f"<b>{self._verdict.symbol} {self._verdict.name}</b>"
        return f"<div>{verdict} {escape(self._headline)}<table>{head}{''.join(rows)}</table></div>"
