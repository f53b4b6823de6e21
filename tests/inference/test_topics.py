"""Topic models: the sweep, the concentrations and the document scores against enumeration, and the way of a user."""

import inspect
import itertools
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from scipy import stats
from scipy.special import gammaln, logsumexp

import probinfer as pi
from probinfer.errors import CheckpointError, DataError, MissingExtra, ModelError, PredictionError, UnreliablePosterior
from probinfer.inference import turns
from probinfer.inference.draws import Outcome
from probinfer.inference.topics import chain as chain_module
from probinfer.inference.topics import collapsed, document, sweep
from probinfer.inference.topics.concentration import counts_of
from probinfer.inference.topics.matching import match
from probinfer.model.topics import Corpus, corpus_of, read_counts
from probinfer.posterior.diagnose import judge
from tests.inference.statistics import assert_within_mcse

FALSE_ALARM = 1e-6
COUNTS = np.array([[2, 1, 0], [0, 2, 1]])  # six words of three kinds in two documents
ALPHA, BETA, TOPICS = 0.7, 0.4, 2
TINY = corpus_of(read_counts(COUNTS))
ASSIGNMENTS = np.array(list(itertools.product(range(TOPICS), repeat=len(TINY.words))))


def tables(corpus: Corpus, z: np.ndarray, topics: int = TOPICS) -> tuple[np.ndarray, np.ndarray]:
    """Counts of an assignment: (documents, topics) and (words, topics)."""
    by_document = np.zeros((corpus.documents, topics), np.int64)
    by_word = np.zeros((corpus.vocabulary, topics), np.int64)
    np.add.at(by_document, (np.repeat(np.arange(corpus.documents), np.diff(corpus.starts)), z), 1)
    np.add.at(by_word, (corpus.words, z), 1)
    return by_document, by_word


def log_joint(corpus: Corpus, z: np.ndarray, alpha: float, beta: float) -> float:
    """log p(w, z), written out: the Dirichlet-multinomial density of every document and of every topic."""
    total = 0.0
    for counts, concentration in zip(tables(corpus, z), (alpha, beta), strict=True):
        rows = counts if concentration is alpha else counts.T
        for row in rows:
            whole = len(row) * concentration
            total += gammaln(whole) - gammaln(whole + row.sum())
            total += np.sum(gammaln(concentration + row) - gammaln(concentration))
    return total


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    """p(z | w) of every assignment of the tiny corpus."""
    logs = np.array([log_joint(TINY, z, ALPHA, BETA) for z in ASSIGNMENTS])
    return np.exp(logs - logsumexp(logs))


def sweep_once(function, z: np.ndarray, random: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
    """The histogram of n_dk after a sweep, which changes z."""
    word_topic = tables(TINY, z)[1].astype(np.int32)
    space = (np.zeros((3, TOPICS), np.int32), np.zeros((3, TOPICS), np.int32), np.zeros(3, np.int32))
    histogram = np.zeros(16, np.int64)
    total = word_topic.sum(axis=0).astype(np.int64)
    function(TINY.starts, TINY.words, z, word_topic, total, ALPHA, BETA, random, space, histogram, mixtures)
    return histogram


def law_after_a_sweep(function, exact: np.ndarray, chains: int) -> float:
    """p-value of the hypothesis that a sweep from exact draws leaves their law where it is."""
    generator = np.random.default_rng(0)
    random = np.array([1], np.uint64)
    powers = TOPICS ** np.arange(len(TINY.words))[::-1]
    seen = np.zeros(len(exact))
    for start in generator.choice(len(exact), chains, p=exact):
        z = ASSIGNMENTS[start].astype(np.int16)
        sweep_once(function, z, random, np.zeros((0, TOPICS)))
        seen[z @ powers] += 1
    rare = exact * chains < 10
    cells = np.append(exact[~rare], exact[rare].sum()), np.append(seen[~rare], seen[rare].sum())
    used = cells[0] > 0
    return float(stats.chisquare(cells[1][used], cells[0][used] * chains).pvalue)


def interpreted(change: tuple[str, str] | None = None):
    """The sweep without compilation, with its own random numbers, and perhaps with one change."""
    source = inspect.getsource(sweep.sweep.py_func)
    if change is not None:
        assert source.count(change[0]) == 1
        source = source.replace(*change)
    generator = np.random.default_rng(1)
    names = {"np": np, "njit": lambda **_: lambda f: f, "uniform": lambda random: generator.random()}
    exec(source, names)
    return names["sweep"]


SUBTRACTED = """            row[k] -= 1
            column[k] -= 1
            total[k] -= 1
"""


class TestSweep:
    def test_leaves_the_posterior_of_the_assignments_in_place(self, exact):
        assert law_after_a_sweep(sweep.sweep, exact, 8_000) > FALSE_ALARM

    def test_interpreted_does_too(self, exact):
        assert law_after_a_sweep(interpreted(), exact, 3_000) > FALSE_ALARM

    @pytest.mark.parametrize(
        "change",
        [
            (SUBTRACTED, ""),
            ("u = (u - specific) / beta", "u = u - specific"),
        ],
        ids=["forgets to subtract the token", "forgets a factor"],
    )
    def test_a_broken_twin_does_not(self, exact, change):
        assert law_after_a_sweep(interpreted(change), exact, 3_000) < FALSE_ALARM

    def test_keeps_its_books(self):
        z, mixtures = np.array([0, 1, 0, 1, 1, 0], np.int16), np.zeros((2, TOPICS))
        histogram = sweep_once(sweep.sweep, z, np.array([5], np.uint64), mixtures)
        by_document, by_word = tables(TINY, z)
        np.testing.assert_array_equal(histogram, np.bincount(by_document.ravel(), minlength=16))
        np.testing.assert_allclose(mixtures, (ALPHA + by_document) / (TOPICS * ALPHA + 3))
        values = np.zeros(4, np.int64)
        sweep.count_values(by_word.astype(np.int32), values)
        factors = (
            counts_of(histogram, np.bincount([3, 3]), TOPICS),
            counts_of(values, np.bincount(by_word.sum(axis=0)), 3),
        )
        found = factors[0].log_density(ALPHA) + factors[1].log_density(BETA)
        assert found == pytest.approx(log_joint(TINY, z, ALPHA, BETA), rel=1e-12)

    def test_random_numbers_are_uniform(self):
        random = np.array([3], np.uint64)
        assert stats.kstest([sweep.uniform(random) for _ in range(20_000)], "uniform").pvalue > FALSE_ALARM


@pytest.fixture(scope="module")
def tiny_posterior() -> pi.Posterior:
    model = pi.TopicModel(TOPICS, document_concentration=ALPHA, word_concentration=BETA, words=["a", "b", "c"])
    return pi.infer(model, {"counts": COUNTS}, pi.Gibbs(draws=1000, warmup=50), seed=3, progress=False)


class TestPosterior:
    def test_agrees_with_enumeration(self, tiny_posterior, exact):
        posterior = tiny_posterior.tree["posterior"]
        logs = np.array([log_joint(TINY, z, ALPHA, BETA) for z in ASSIGNMENTS])
        shares = np.array([tables(TINY, z)[1].sum(axis=0) / 6 for z in ASSIGNMENTS])
        largest, effective = shares.max(axis=1), 1 / np.sum(shares**2, axis=1)
        for name, values, draws in (
            ("log_joint", logs, posterior["log_joint"]),
            ("effective_topics", effective, posterior["effective_topics"]),
            ("topic_share", largest, posterior["topic_share"][..., 0]),
        ):
            assert_within_mcse(draws.to_numpy(), exact @ values, names=name, checks=3, resolution=0.2)

    def test_is_good_and_says_what_was_judged(self, tiny_posterior):
        report = tiny_posterior.report
        assert report.verdict is pi.Verdict.GOOD
        assert "topics have no order, so what is judged does not depend on their numbers" in str(report)
        assert "log_joint, effective_topics, topic_share" in report.findings[0].where
        assert "GOOD" in tiny_posterior._repr_html_()

    @pytest.mark.long
    def test_learns_the_concentrations(self):
        """α and β with the prior Exponential(1), against a sum over assignments and a grid of both."""
        model = pi.TopicModel(TOPICS, document_concentration=None, word_concentration=None)
        posterior = pi.infer(model, COUNTS, pi.Gibbs(draws=700, warmup=100), seed=4, progress=False)
        x = np.linspace(np.log(1e-5), np.log(25.0), 300)  # on the log scale, where the density is smooth
        grid = np.exp(x)
        z_tables = [tables(TINY, z) for z in ASSIGNMENTS]
        by_document = np.array([[_urn(t[0], a) for a in grid] for t in z_tables])
        by_word = np.array([[_urn(t[1].T, b) for b in grid] for t in z_tables])
        prior = x - grid
        logs = logsumexp(by_document[:, :, None] + by_word[:, None, :], axis=0) + prior[:, None] + prior
        weight = np.exp(logs - logsumexp(logs))
        for axis, name in ((1, "document_concentration"), (0, "word_concentration")):
            values = np.log(posterior.tree["posterior"][name].to_numpy())
            assert_within_mcse(values, weight.sum(axis=axis) @ x, names=name, checks=2, resolution=0.4)

    def test_no_method_takes_gibbs_and_says_why(self):
        model = pi.TopicModel(TOPICS)
        posterior = pi.infer(model, scipy.sparse.csr_array(COUNTS), until=pi.Until(draws=100), progress=False)
        assert posterior.tree.attrs["method"] == "Gibbs"
        assert "integrated out" in posterior.tree.attrs["method_chosen"]
        assert posterior.tree["posterior"].sizes["draw"] == 100

    @pytest.mark.long
    def test_stops_by_a_rule(self):
        rule = pi.Until(ess=200)
        posterior = pi.infer(pi.TopicModel(TOPICS), COUNTS, pi.Gibbs(warmup=20), until=rule, progress=False)
        assert posterior.report.outcome is Outcome.COMPLETED
        assert 100 <= posterior.report.evidence.draws < 10_000

    def test_survives_saving(self, tiny_posterior, tmp_path):
        tiny_posterior.save(tmp_path / "topics.nc")
        loaded = pi.load_posterior(tmp_path / "topics.nc", tiny_posterior.model, COUNTS)
        assert str(loaded.report) == str(tiny_posterior.report)
        new = [[1, 0, 1]]
        assert pi.Topics(loaded).score(new).perplexity == pi.Topics(tiny_posterior).score(new).perplexity

    def test_predictor_names_what_to_use(self, tiny_posterior):
        with pytest.raises(ModelError, match=r"pi\.Topics\(posterior\)"):
            pi.Predictor(tiny_posterior)

    def test_topics_that_differ_between_chains_are_doubtful(self, tiny_posterior):
        evidence = tiny_posterior.report.evidence
        attrs = {**evidence.attrs, "topic_overlap": "[0.9, 0.2]"}
        report = judge(type(evidence)(evidence.variables, evidence.sample_dims, evidence.stats, attrs))
        assert report.verdict is pi.Verdict.DOUBTFUL
        assert "1 of 2 topics are not found by every chain: the worst match shares 20%" in report.findings[0].what


def _urn(counts: np.ndarray, concentration: float) -> float:
    whole = counts.shape[1] * concentration
    inside = np.sum(gammaln(concentration + counts) - gammaln(concentration))
    return float(inside + np.sum(gammaln(whole) - gammaln(whole + counts.sum(axis=1))))


class TestRun:
    MODEL = pi.TopicModel(3, document_concentration=None)
    COUNTS = np.random.default_rng(0).poisson(0.8, (30, 12))
    METHOD = pi.Gibbs(chains=2, draws=40, warmup=20)

    def infer(self, **options) -> pi.Posterior:
        return pi.infer(self.MODEL, self.COUNTS, self.METHOD, seed=7, progress=False, **options)

    @staticmethod
    def same(one: pi.Posterior, other: pi.Posterior) -> bool:
        places = [("posterior", "log_joint"), ("posterior", "document_concentration"), ("topics", "word_count")]
        places.append(("documents", "mixture"))
        return all(np.array_equal(one.tree[a][b].to_numpy(), other.tree[a][b].to_numpy()) for a, b in places)

    def test_the_seed_decides_whatever_the_pauses(self, monkeypatch):
        whole = self.infer()
        monkeypatch.setattr(collapsed, "_PAUSE", 0.0)
        assert self.same(whole, self.infer())
        other = pi.infer(self.MODEL, self.COUNTS, self.METHOD, seed=8, progress=False)
        assert not self.same(whole, other)

    def test_goes_on_from_a_checkpoint_bit_for_bit(self, monkeypatch, tmp_path):
        whole = self.infer()
        monkeypatch.setattr(collapsed, "_PAUSE", 0.0)
        monkeypatch.setattr(collapsed, "_RECORD", 0.0)
        path = tmp_path / "run"
        assert self.same(whole, self.infer(checkpoint=path))
        content = path.read_bytes()
        for share in (0.6,):  # killed in the middle of a record
            path.write_bytes(content[: int(share * len(content))])
            assert self.same(whole, self.infer(checkpoint=path))
        with pytest.raises(CheckpointError, match="of another run"):
            pi.infer(self.MODEL, self.COUNTS, self.METHOD, seed=8, progress=False, checkpoint=path)

    def test_states_are_thinned_to_the_bound(self, monkeypatch):
        monkeypatch.setattr(collapsed, "MAX_STATES", 2 * 12 * 3 * 10)
        monkeypatch.setattr(collapsed, "MAX_MIXTURES", 1)
        tree = self.infer().tree
        np.testing.assert_array_equal(tree["topics"]["state"], np.arange(0, 40, 4))
        assert "documents" not in tree.children
        assert (tree["topics"]["word_count"].sum(("topic", "word")) == self.COUNTS.sum()).all()

    @pytest.mark.parametrize("at", [3, 50])
    def test_interrupted(self, at, monkeypatch):
        calls, wait = itertools.count(), turns.wait

        def interrupting(*args, **kwargs):
            if next(calls) == at:
                raise KeyboardInterrupt
            return wait(*args, **kwargs)

        monkeypatch.setattr(collapsed, "_PAUSE", 0.0)
        monkeypatch.setattr(turns, "wait", interrupting)
        if at == 3:
            with pytest.raises(KeyboardInterrupt, match="during warm-up"):
                self.infer()
            return
        posterior = self.infer()
        assert posterior.report.outcome is Outcome.INTERRUPTED
        assert 0 < posterior.report.evidence.draws < 40

    def test_documents_and_words_may_be_empty(self):
        counts = np.vstack([self.COUNTS, np.zeros(12, int)])
        counts = np.hstack([counts, np.zeros((31, 1), int)])
        posterior = pi.infer(pi.TopicModel(3), counts, self.METHOD, progress=False)
        topics = pi.Topics(posterior, accept=pi.Verdict.BAD)
        np.testing.assert_allclose(topics.mixtures[-1], 1 / 3)
        np.testing.assert_allclose(topics.probabilities.sum(axis=1), 1)
        np.testing.assert_allclose(topics.transform(counts[-1:])[0], 1 / 3)

    def test_without_numba_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "numba", None)
        with pytest.raises(MissingExtra, match=r"pip install 'probinfer\[topics\]'"):
            self.infer()

    def test_warm_up_ends_at_the_models_own_concentrations(self):
        plan = chain_module.Plan(TINY, TOPICS, sweep, (False, False), 40, 10)
        one = chain_module.Chain(plan, 0, np.array([1, 2], np.uint32), (0.1, 3.0))
        seen = []
        for made in range(41):
            one.sweeps = made
            seen.append(one._heated().copy())
        np.testing.assert_allclose(seen[0], [2.0, 3.0])  # a concentration above the hot one stays
        np.testing.assert_array_equal(seen[30:], np.tile([0.1, 3.0], (11, 1)))
        assert (np.diff(np.array(seen)[:, 0]) <= 0).all()


class TestDocuments:
    WORDS = Corpus(np.array([0, 4]), np.array([0, 0, 1, 2], np.int32), 3)
    BASE = np.array([[3.0, 0.4], [1.0, 2.0], [0.4, 1.7]])

    def enumerated(self) -> tuple[float, np.ndarray]:
        """p(w) and E[θ | w] by a sum over the topics of the four words, with the urn of the docstring."""
        sums, total, theta = self.BASE.sum(axis=0), 0.0, np.zeros(2)
        for z in itertools.product(range(2), repeat=4):
            p, m, c = 1.0, np.zeros(2), np.zeros((3, 2))
            for i, (w, k) in enumerate(zip(self.WORDS.words, z, strict=True)):
                p *= (ALPHA + m[k]) / (2 * ALPHA + i) * (self.BASE[w, k] + c[w, k]) / (sums[k] + m[k])
                m[k] += 1
                c[w, k] += 1
            total += p
            theta += p * (ALPHA + m) / (2 * ALPHA + 4)
        return total, theta / total

    def follow(self, particles: int, runs: int, own: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        random, logs, mixtures = np.array([9], np.uint64), np.zeros(runs), np.zeros((runs, 2))
        starts, words = np.arange(runs + 1) * 4, np.tile(self.WORDS.words, runs)
        document.follow(starts, words, self.BASE, self.BASE.sum(axis=0), own, ALPHA, particles, random, logs, mixtures)
        return logs, mixtures

    def off(self, values: np.ndarray, exact: float) -> float:
        return abs(values.mean() - exact) / (values.std(ddof=1) / np.sqrt(len(values)))

    @pytest.mark.parametrize("particles", [1, 3, 20])
    def test_the_probability_has_no_bias(self, particles):
        logs, _ = self.follow(particles, 20_000)
        assert self.off(np.exp(logs), self.enumerated()[0]) < stats.norm.isf(FALSE_ALARM / 2)

    def test_a_twin_that_forgets_the_documents_own_words_is_caught(self):
        logs, _ = self.follow(3, 20_000, own=0.0)
        assert self.off(np.exp(logs), self.enumerated()[0]) > stats.norm.isf(FALSE_ALARM / 2)

    def test_the_mixture_tends_to_the_exact_one(self):
        """Its bias falls with the number of particles: at 3,000 it is far below the error of 300 runs."""
        _, mixtures = self.follow(3_000, 300)
        assert self.off(mixtures[:, 0], self.enumerated()[1][0]) < stats.norm.isf(FALSE_ALARM / 2)

    def test_score_is_the_posterior_predictive(self, tiny_posterior, exact):
        """p(w_new | w) by enumeration of all topics of old and new words."""
        logs = np.array([log_joint(TINY, z, ALPHA, BETA) for z in ASSIGNMENTS])
        both = corpus_of(read_counts(np.vstack([COUNTS, [[1, 0, 2]]])))
        more = np.array(list(itertools.product(range(TOPICS), repeat=9)))
        wanted = logsumexp([log_joint(both, z, ALPHA, BETA) for z in more]) - logsumexp(logs)
        found = pi.Topics(tiny_posterior).score([[1, 0, 2]], states=4_000, particles=10)
        assert found.perplexity == pytest.approx(np.exp(-wanted / 3), abs=6 * found.perplexity_mcse)
        assert 0 < found.perplexity_mcse < 0.05
        assert found.log_score[0] == pytest.approx(wanted, abs=0.05)
        assert repr(found).startswith("HeldOut(perplexity ")


@pytest.fixture(scope="module")
def topics() -> pi.Topics:
    rng = np.random.default_rng(0)
    half = rng.poisson([3, 3, 2, 0, 0, 0], (25, 6))
    counts = pd.DataFrame(np.concatenate([half, half[:, ::-1]]), columns=list("abcdef"))
    model = pi.TopicModel(2, words=counts.columns)
    posterior = pi.infer(model, {"counts": counts}, pi.Gibbs(draws=150, warmup=100), progress=False)
    return pi.Topics(posterior, accept=pi.Verdict.DOUBTFUL)


class TestTopics:
    def test_finds_what_was_put_in(self, topics):
        table = topics.top_words(3)
        assert {frozenset(row) for row in table.filter(like="word").to_numpy()} == {frozenset("abc"), frozenset("def")}
        assert (table["overlap"] > 0.9).all()
        assert table["share"].sum() == pytest.approx(1)
        assert (topics.mixtures[:25].argmax(axis=1) != topics.mixtures[25:].argmax(axis=1)).all()

    def test_new_documents(self, topics):
        mixtures = topics.transform([[4, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 4]])
        np.testing.assert_allclose(mixtures.sum(axis=1), 1)
        assert mixtures[0].argmax() != mixtures[1].argmax()
        usual, strange = (topics.score(rows).perplexity for rows in ([[4, 1, 2, 0, 0, 0]], [[4, 0, 0, 4, 0, 0]]))
        assert usual < strange

    def test_draws_of_the_distributions(self, topics):
        draws = topics.sample(400, seed=1)
        assert draws.shape == (400, 2, 6)
        error = draws.std(axis=0) / np.sqrt(400)
        assert (np.abs(draws.mean(axis=0) - topics.probabilities) < 6 * error + 1e-4).all()

    def test_in_a_notebook(self, topics):
        page = topics._repr_html_()
        assert "<table>" in page
        assert "overlap" in page
        assert "topics of 6 words" in repr(topics)

    @pytest.mark.parametrize(
        ("counts", "text"),
        [
            ([[1, 2]], "counts have 2 columns, the topics 6 words"),
            ([[0.5] * 6], r"counts\[0, 0\] is .*without weights such as tf-idf"),
            ([[0] * 6], "there is no word to score"),
        ],
    )
    def test_refuses_rows(self, topics, counts, text):
        with pytest.raises(PredictionError, match=text):
            topics.score(counts)

    def test_refuses_other_posteriors_and_bad_ones(self, tiny_posterior):
        other = pi.infer(pi.LogDensity(lambda x: -0.5 * (x**2).sum(), dim=1), None, pi.NUTS(draws=50), progress=False)
        with pytest.raises(ModelError, match="holds no topics"):
            pi.Topics(other, accept=pi.Verdict.BAD)
        short = pi.infer(tiny_posterior.model, COUNTS, pi.Gibbs(draws=20, warmup=0), progress=False)
        with pytest.raises(UnreliablePosterior, match=r"Topics\(posterior, accept=Verdict\."):
            pi.Topics(short)


class TestChecks:
    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"topics": 1}, "topics is 1; wanted a whole number from 2"),
            ({"topics": 2.0}, "topics is 2.0"),
            ({"topics": 2, "document_concentration": 0}, "document_concentration is 0; wanted a number above 0"),
            ({"topics": 2, "word_concentration": float("nan")}, "word_concentration is nan"),
        ],
    )
    def test_settings(self, settings, text):
        with pytest.raises(ModelError, match=text):
            pi.TopicModel(**settings)

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            ({"X": COUNTS}, r"keys \['X'\]"),
            ([1, 2], "two axes, documents × words"),
            ([["a", "b"]], "wanted whole numbers"),
            ([[1, -1]], r"counts\[0, 1\] is"),
            ([[1, np.nan]], r"counts\[0, 1\] is"),
            (scipy.sparse.csr_array([[0.0, 0.3]]), "tf-idf"),
            ([[0, 0]], "all zero: no words"),
            (np.zeros((0, 3)), "one document and one word at least"),
            (None, "came as|two axes|hold"),
        ],
    )
    def test_counts(self, data, text):
        with pytest.raises(DataError, match=text):
            pi.infer(pi.TopicModel(2), data, progress=False)

    def test_names(self):
        with pytest.raises(DataError, match="3 columns, and the model has 2 words"):
            pi.infer(pi.TopicModel(2, words=["a", "b"]), COUNTS, progress=False)

    def test_matching(self):
        generator = np.random.default_rng(0)
        first = generator.dirichlet(np.ones(30) / 3, 5)
        order = generator.permutation(5)
        orders, overlap = match(np.stack([first[order], first]), 1)
        np.testing.assert_array_equal(order[orders[0]], np.arange(5))
        np.testing.assert_allclose(overlap, 1)
        assert (match(np.stack([first, first[[0, 0, 0, 0, 0]]]), 0)[1] < 0.9).sum() == 4

    def test_the_model_as_a_density(self):
        """With the topics of the words summed out: what methods other than Gibbs see."""
        bound = pi.TopicModel(2, document_concentration=ALPHA, word_concentration=BETA).bind(COUNTS)
        generator = np.random.default_rng(0)
        theta, phi = generator.dirichlet([1, 1], 2), generator.dirichlet([1, 1, 1], 2)
        trace = bound.simulate({"mixtures": theta, "topics": phi})
        found = float(trace["log_likelihood"]["fn"].log_factor)
        assert found == pytest.approx(np.sum(COUNTS * np.log(theta @ phi)), rel=1e-6)
        assert [site.dims for site in bound.latents] == [("document", "topic"), ("topic", "word")]


@pytest.mark.long
def test_nuts_agrees_on_what_has_no_labels(exact):
    """p(word w in document d) = E[Σ_k θ_dk φ_kw | words], by NUTS with the topics summed out and by enumeration."""
    wanted = np.zeros((2, 3))
    for p, z in zip(exact, ASSIGNMENTS, strict=True):
        by_document, by_word = tables(TINY, z)
        theta = (ALPHA + by_document) / (TOPICS * ALPHA + 3)
        wanted += p * theta @ ((BETA + by_word) / (3 * BETA + by_word.sum(axis=0))).T
    model = pi.TopicModel(TOPICS, document_concentration=ALPHA, word_concentration=BETA)
    posterior = pi.infer(model, COUNTS, pi.NUTS(draws=4_000, target_accept=0.95), progress=False).tree["posterior"]
    found = np.einsum("cndk,cnkw->cndw", posterior["mixtures"].to_numpy(), posterior["topics"].to_numpy())
    assert_within_mcse(found, wanted, resolution=0.3)


@pytest.mark.long
def test_simulation_based_calibration():
    """Corpora from the prior, concentrations too: the truth's rank among thinned draws is uniform."""
    generator = np.random.default_rng(0)
    ranks, kept, thin, runs = [], 15, 20, 400
    for run in range(runs):
        alpha, beta = generator.exponential(size=2)
        theta, phi = generator.dirichlet([alpha] * 3, 6), generator.dirichlet([beta] * 5, 3)
        theta, phi = np.nan_to_num(theta, nan=1 / 3), np.nan_to_num(phi, nan=1 / 5)
        z = np.array([generator.choice(3, p=row) for row in np.repeat(theta, 8, axis=0)])
        words = np.array([generator.choice(5, p=phi[k]) for k in z], np.int32)
        corpus = Corpus(np.arange(7) * 8, words, 5)
        by_document, by_word = tables(corpus, z, 3)
        truth = [_urn(by_document, alpha) + _urn(by_word.T, beta) - alpha - beta, alpha, beta]
        plan = chain_module.Plan(corpus, 3, sweep, (True, True), 100, 1)
        chain = chain_module.Chain(plan, run, np.array([5, 6], np.uint32), (0.5, 0.5))
        chain.advance(100 + kept * thin, np.inf)
        draws = np.array(chain.rows)[::thin][:, [0, 2, 3]]
        ranks.append((draws < truth).sum(axis=0))
    for rank in np.array(ranks).T:
        seen = np.bincount(rank // 2, minlength=8)
        assert stats.chisquare(seen).pvalue > FALSE_ALARM
