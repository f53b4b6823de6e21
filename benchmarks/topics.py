"""Topic models: collapsed Gibbs next to scikit-learn's and a NumPyro model, on a corpus of 10,000 documents.

    sh benchmarks/peers/install.sh numpyro
    python -m benchmarks.topics [--small] [--dry]

The corpus is drawn from the model itself: 10,000 documents of 80 words, 20 topics, 5,000 words, α = 0.1, β = 0.05;
200 more documents are held out. Each method is given K, and α = 0.1, β = 0.01, one thread, and several budgets of
work; for each budget, the seconds that it took and the perplexity of the held-out documents. That is the same
estimate for all: the probability of each document by `probinfer`'s particles, at the words' distributions that the
method arrived at. The seconds to a perplexity are those of its smallest budget that reaches it. NumPyro has no such
sampler: its model has the z summed out, by SVI with a normal guide, stopped after its budget of seconds. Writes a
section of RESULTS.md unless --dry.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse
from sklearn.decomposition import LatentDirichletAllocation

import probinfer as pi
from benchmarks.results import circumstances, write_section
from probinfer.inference.topics.document import follow
from probinfer.model.topics import corpus_of

PEERS = Path(__file__).parent / "peers"
TITLE = "Topic models next to scikit-learn and NumPyro"
TOPICS, ALPHA, BETA = 20, 0.1, 0.01
HELD_OUT = 200
SLACK = 1.02  # of the best perplexity of all: what counts as reaching it


def simulate(documents: int, length: int, vocabulary: int) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """Counts (documents, vocabulary) and the topics (TOPICS, vocabulary) that made them."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(vocabulary, 0.05), TOPICS)
    mixtures = rng.dirichlet(np.full(TOPICS, ALPHA), documents)
    z = (rng.random((documents, length, 1)) > mixtures.cumsum(axis=1)[:, None, :]).sum(axis=2).clip(max=TOPICS - 1)
    u, words = rng.random(z.shape), np.empty(z.shape, np.int64)
    for k, topic in enumerate(topics):
        words[z == k] = np.searchsorted(topic.cumsum(), u[z == k]).clip(max=vocabulary - 1)
    rows = np.repeat(np.arange(documents), length)
    table = scipy.sparse.csr_array((np.ones(rows.size, np.int64), (rows, words.ravel())), shape=(documents, vocabulary))
    table.sum_duplicates()
    return table, topics


def perplexity(topics: np.ndarray, counts: scipy.sparse.csr_array) -> float:
    """Of documents, given the words' distributions (topic, word)."""
    corpus = corpus_of(counts)
    logs, mixtures = np.zeros(corpus.documents), np.zeros((corpus.documents, len(topics)))
    base = np.ascontiguousarray(np.maximum(topics, 1e-12).T)
    random = np.array([1], np.uint64)
    follow(corpus.starts, corpus.words, base, np.ones(len(topics)), 0.0, ALPHA, 50, random, logs, mixtures)
    return float(np.exp(-logs.sum() / corpus.words.size))


def probinfer(counts: scipy.sparse.csr_array, sweeps: int) -> np.ndarray:
    """One chain: three quarters of the sweeps as warm-up."""
    model = pi.TopicModel(TOPICS, document_concentration=ALPHA, word_concentration=BETA)
    warmup = 3 * sweeps // 4
    method = pi.Gibbs(chains=1, draws=sweeps - warmup, warmup=warmup)
    posterior = pi.infer(model, {"counts": counts}, method, progress=False)
    return pi.Topics(posterior, accept=pi.Verdict.BAD).probabilities


def sklearn(counts: scipy.sparse.csr_array, passes: int) -> np.ndarray:
    """Online variational Bayes, which arrives sooner than its batch mode."""
    fitted = LatentDirichletAllocation(
        TOPICS,
        doc_topic_prior=ALPHA,
        topic_word_prior=BETA,
        learning_method="online",
        max_iter=passes,
        random_state=0,
        n_jobs=1,
    ).fit(scipy.sparse.csr_matrix(counts))
    return fitted.components_ / fitted.components_.sum(axis=1, keepdims=True)


def numpyro(counts: scipy.sparse.csr_array, budgets: list[int]) -> list[tuple[float, np.ndarray]]:
    """Seconds and topics at each budget of one run, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        entries = counts.tocoo()
        given = {"document": entries.row, "word": entries.col, "count": entries.data, "shape": entries.shape}
        np.savez(f"{folder}/counts.npz", topics=TOPICS, alpha=ALPHA, beta=BETA, **given)
        command = [PEERS / ".envs" / "numpyro" / "bin" / "python", PEERS / "peer_topics.py", folder]
        answer = subprocess.run([*command, *map(str, budgets)], capture_output=True, text=True, check=True).stdout
        seconds = json.loads(answer.splitlines()[-1])
        return [(spent, np.load(f"{folder}/{budget}.npy")) for spent, budget in zip(seconds, budgets, strict=True)]


def measure(counts: scipy.sparse.csr_array, small: bool) -> dict[str, list[tuple[str, float, float]]]:
    """By method: budget in words, seconds, perplexity of the documents held out."""
    train, test = counts[:-HELD_OUT], counts[-HELD_OUT:]
    probinfer(train[:50], 4)  # compiles
    found: dict[str, list[tuple[str, float, float]]] = {}
    plans = [
        ("probinfer, collapsed Gibbs", "sweeps", (10, 20) if small else (20, 40, 80, 160), probinfer),
        ("scikit-learn, online", "passes", (1, 2) if small else (1, 2, 4), sklearn),
    ]
    for name, unit, budgets, run in plans:
        for budget in budgets:
            began = time.perf_counter()
            topics = run(train, budget)
            seconds = time.perf_counter() - began
            found.setdefault(name, []).append((f"{budget} {unit}", seconds, perplexity(topics, test)))
            print(name, *found[name][-1], flush=True)
    budgets = [10] if small else [20, 60]
    for budget, (seconds, topics) in zip(budgets, numpyro(train, budgets), strict=True):
        found.setdefault("NumPyro, SVI", []).append((f"{budget} s", seconds, perplexity(topics, test)))
        print("NumPyro", *found["NumPyro, SVI"][-1], flush=True)
    return found


def report(found: dict, truth: float, size: str) -> str:
    best = min(row[2] for rows in found.values() for row in rows)
    lines = [
        f"{size} Perplexity of {HELD_OUT} documents held out, lower is better; that of the topics which made them is "
        f"{truth:.1f}. One thread each; compiled before. By `python -m benchmarks.topics`.",
        "",
        circumstances("probinfer", "scikit-learn", "numba"),
        "",
        "| method | budget | seconds | perplexity |",
        "|---|---|---|---|",
        *(f"| {name} | {b} | {s:.1f} | {p:.1f} |" for name, rows in found.items() for b, s, p in rows),
        "",
        f"Seconds to within {SLACK - 1:.0%} of the best perplexity, {best:.1f}: "
        + "; ".join(
            f"{name} {min((s for _, s, p in rows if p <= SLACK * best), default=float('inf')):.1f}"
            for name, rows in found.items()
        )
        + " (inf: at no budget).",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of the corpus, small budgets")
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    options = parser.parse_args()
    documents, length, vocabulary = (1_000, 80, 1_000) if options.small else (10_000, 80, 5_000)
    counts, truth = simulate(documents + HELD_OUT, length, vocabulary)
    found = measure(counts, options.small)
    size = f"{documents:,} documents of {length} words, {vocabulary:,} different ones, {TOPICS} topics."
    text = report(found, perplexity(truth, counts[-HELD_OUT:]), size)
    print(text)
    if not options.dry:
        write_section(TITLE, text)


if __name__ == "__main__":
    main()
