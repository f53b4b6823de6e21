"""Topic models: documents as bags of words, each word from one of the document's topics; and the corpus they see."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import scipy.sparse

from probinfer.errors import DataError, ModelError
from probinfer.model.model import BoundModel, Model

MAX_TOPICS = 32_767  # a token's topic is kept in two bytes
_KEYS = ("document", "word", "count", "documents", "vocabulary")


class Corpus(NamedTuple):
    """Documents as runs of tokens, equal words of a document next to each other."""

    starts: np.ndarray  # (documents + 1,) int64: document d has the tokens starts[d], …, starts[d + 1] - 1
    words: np.ndarray  # (tokens,) int32
    vocabulary: int

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.starts) - 1


class TopicModel(Model):
    """Latent Dirichlet allocation: each document mixes topics, each topic is a distribution over words.

        φ_k ~ Dirichlet(β, …, β) over words,    θ_d ~ Dirichlet(α, …, α) over topics
        z_di ~ Categorical(θ_d),   w_di ~ Categorical(φ_z_di)

    `pi.infer(model, {"counts": counts})` takes `pi.Gibbs`, which integrates θ and φ out and draws the topic of every
    token; it needs the extra `topics`. Other methods (`pi.MeanField()`, `pi.NUTS()`) take θ, the site `mixtures`, and
    φ, the site `topics`, as parameters with the z summed out: for small corpora.

    Args:
        topics: their number K.
        document_concentration: α; below 1 a document has few topics. None learns it, with the prior Exponential(1).
        word_concentration: β; below 1 a topic has few words. None learns it, in the same way.
        words: the words' names, one for each column of the counts, such as a vectoriser's `get_feature_names_out()`.

    Raises:
        ModelError: a setting is out of range; DataError, later: the counts are no table of whole numbers, 0 or more.

    The data are {"counts": table}, documents × words, as an array, a data frame, or a sparse matrix of SciPy; the table
    alone will do. Topics have no order: whatever numbers them is arbitrary, and may differ from chain to chain.

    Blei, Ng & Jordan (2003); Griffiths & Steyvers (2004).

    >>> TopicModel(20)
    TopicModel(20 topics, document_concentration=0.1, word_concentration=0.01)
    """

    def __init__(
        self,
        topics: int,
        *,
        document_concentration: float | None = 0.1,
        word_concentration: float | None = 0.01,
        words: Sequence[str] | None = None,
    ) -> None:
        whole = isinstance(topics, int | np.integer) and not isinstance(topics, bool)
        if not whole or not 2 <= topics <= MAX_TOPICS:
            raise ModelError(f"TopicModel: topics is {topics!r}; wanted a whole number from 2 to {MAX_TOPICS}.")
        self.topics = int(topics)
        self.document_concentration = _concentration("document_concentration", document_concentration)
        self.word_concentration = _concentration("word_concentration", word_concentration)
        self.words = None if words is None else np.asarray(words).astype(str)

        def topic_model(document: Any, word: Any, count: Any, documents: int, vocabulary: int) -> None:
            alpha, beta = (
                numpyro.sample(name, dist.Exponential(1.0)) if given is None else given
                for name, given in (
                    ("document_concentration", self.document_concentration),
                    ("word_concentration", self.word_concentration),
                )
            )
            with numpyro.plate("document", documents):
                theta: Any = numpyro.sample("mixtures", dist.Dirichlet(alpha * jnp.ones(self.topics)))
            with numpyro.plate("topic", self.topics):
                phi: Any = numpyro.sample("topics", dist.Dirichlet(beta * jnp.ones(vocabulary)))
            seen = jnp.sum(theta[document] * phi[:, word].T, axis=-1)
            numpyro.factor("log_likelihood", jnp.sum(count * jnp.log(seen)))

        super().__init__(
            topic_model,
            coords=None if self.words is None else {"word": self.words.tolist()},
            dims={"mixtures": ("document", "topic"), "topics": ("topic", "word")},
        )

    def __repr__(self) -> str:
        return (
            f"TopicModel({self.topics} topics, document_concentration={self.document_concentration}, "
            f"word_concentration={self.word_concentration})"
        )

    def bind(self, data: Any = None) -> BoundModel:
        """Check the counts and trace the model."""
        if isinstance(data, Mapping) and set(data) == set(_KEYS):
            entries = (np.asarray(data["count"]), (np.asarray(data["document"]), np.asarray(data["word"])))
            table = scipy.sparse.csr_array(entries, shape=(int(data["documents"]), int(data["vocabulary"])))
        else:
            if isinstance(data, Mapping):
                if set(data) != {"counts"}:
                    raise DataError(
                        f"data came with the keys {sorted(map(str, data))}; a topic model takes "
                        '{"counts": table}, documents × words, or the table alone.'
                    )
                data = data["counts"]
            table = read_counts(data)
        if table.nnz == 0:
            raise DataError(f"counts ({table.shape[0]} documents × {table.shape[1]} words) are all zero: no words.")
        if self.words is not None and len(self.words) != table.shape[1]:
            raise DataError(
                f"counts have {table.shape[1]} columns, and the model has {len(self.words)} words; wanted a name for "
                "each column."
            )
        entries = table.tocoo()
        return super().bind(
            {
                "document": entries.row.astype(np.int64),
                "word": entries.col.astype(np.int64),
                "count": entries.data.astype(np.int64),
                "documents": table.shape[0],
                "vocabulary": table.shape[1],
            }
        )


def read_counts(given: Any) -> scipy.sparse.csr_array:
    """A table documents × words as sparse whole numbers, sorted. Raises DataError for anything else."""
    if scipy.sparse.issparse(given):
        table = scipy.sparse.csr_array(given)
    else:
        try:
            dense = np.asarray(given.to_numpy() if hasattr(given, "to_numpy") else given)
            dense = dense.astype(float) if dense.dtype.kind == "O" else dense
        except (TypeError, ValueError):
            raise DataError(f"counts came as {type(given).__name__}; wanted a table of whole numbers.") from None
        if dense.ndim != 2:
            raise DataError(f"counts have the shape {dense.shape}; wanted two axes, documents × words.")
        if dense.dtype.kind not in "iufb":
            raise DataError(
                f"counts hold {dense.dtype}; wanted whole numbers: how often each word is in each document."
            )
        table = scipy.sparse.csr_array(dense)
    if 0 in table.shape:
        raise DataError(f"counts have the shape {table.shape}; wanted one document and one word at least.")
    table.sum_duplicates()  # sorts each row's words too
    values = table.data
    if values.dtype.kind not in "iufb":
        raise DataError(f"counts hold {values.dtype}; wanted whole numbers: how often each word is in each document.")
    wrong = ~np.isfinite(values) | (values < 0) | (values != np.floor(values))
    if wrong.any():
        at = int(np.argmax(wrong))
        row = int(np.searchsorted(table.indptr, at, side="right")) - 1
        raise DataError(
            f"counts[{row}, {table.indices[at]}] is {values[at]!r}, and {int(wrong.sum())} entries in all are no whole "
            "numbers, 0 or more. A topic model is of counts: give those, without weights such as tf-idf."
        )
    table = scipy.sparse.csr_array((values.astype(np.int64), table.indices, table.indptr), shape=table.shape)
    table.eliminate_zeros()
    return table


def corpus_of(table: scipy.sparse.csr_array) -> Corpus:
    """The tokens of a table of counts."""
    words = np.repeat(table.indices.astype(np.int32), table.data)
    ends = np.concatenate([[0], np.cumsum(table.data)])
    return Corpus(ends[table.indptr].astype(np.int64), words, int(table.shape[1]))


def corpus_of_bound(bound: BoundModel) -> Corpus:
    """The tokens of the data that a topic model is bound to."""
    arrays, shape = bound.arrays, (bound.constants["documents"], bound.constants["vocabulary"])
    return corpus_of(scipy.sparse.csr_array((arrays["count"], (arrays["document"], arrays["word"])), shape=shape))


def _concentration(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or value <= 0:
        raise ModelError(f"TopicModel: {name} is {value!r}; wanted a number above 0, such as 0.1, or None to learn it.")
    return float(value)
