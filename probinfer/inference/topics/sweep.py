"""The loops of the collapsed Gibbs sampler over the tokens of a corpus. Imports numba: import it through `extra.py`.

A token's topic given those of all others:   p(z = k) ∝ (α + n_dk) (β + n_kw) / (V β + n_k),   n without the token.
"""

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@njit(inline="always")
def uniform(random):
    """The next number in [0, 1), and the state (1,) uint64 moved on. SplitMix64: Steele, Lea & Flood (2014)."""
    random[0] += _GOLDEN
    x = random[0]
    x = (x ^ (x >> _SHIFT[0])) * _MIX[0]
    x = (x ^ (x >> _SHIFT[1])) * _MIX[1]
    x = x ^ (x >> _SHIFT[2])
    return np.float64(x >> _SHIFT[3]) / 9007199254740992.0


@njit(nogil=True, error_model="numpy")
def sweep(starts, words, z, word_topic, total, alpha, beta, random, space, histogram, mixtures):
    """Draw the topic of every token given all others, in order.

    The sum over topics is split by what is zero in most of them, so that a draw costs about as many steps as the word
    has topics: with c_k = (α + n_dk) / (V β + n_k),

        Σ_k (α + n_dk)(β + n_kw) / (V β + n_k) = Σ_k c_k n_kw + Σ_k β n_dk / (V β + n_k) + Σ_k α β / (V β + n_k)

    z (tokens,), word_topic (V, K) and total (K,) are changed in place; space = (lists (V, K), places (V, K),
    sizes (V,)) is scratch. histogram (longest document + 1,) is set to the number of n_dk of each value, and E[θ_d | z]
    is added to mixtures (documents, K), unless that has no rows. Yao, Mimno & McCallum (2009).
    """
    topics, vocabulary = total.size, word_topic.shape[0]
    v_beta, lists, places, sizes = beta * vocabulary, space[0], space[1], space[2]
    for v in range(vocabulary):
        size = 0
        for k in range(topics):
            if word_topic[v, k] > 0:
                lists[v, size], places[v, k] = k, size
                size += 1
        sizes[v] = size
    for n in range(histogram.size):
        histogram[n] = 0
    inverse, weight = np.empty(topics), np.empty(topics)
    row = np.zeros(topics, np.int32)
    own, place = np.empty(topics, np.int32), np.empty(topics, np.int32)  # topics of the document, and where they stand
    for k in range(topics):
        inverse[k] = 1.0 / (v_beta + total[k])
        weight[k] = alpha * inverse[k]
    for d in range(starts.size - 1):
        first, last = starts[d], starts[d + 1]
        for i in range(first, last):
            row[z[i]] += 1
        used, smoothing, shared = 0, 0.0, 0.0
        for k in range(topics):
            smoothing += alpha * beta * inverse[k]
            if row[k] > 0:
                own[used], place[k] = k, used
                used += 1
                shared += beta * row[k] * inverse[k]
                weight[k] = (alpha + row[k]) * inverse[k]
        for i in range(first, last):
            v, k = words[i], z[i]
            column = word_topic[v]
            smoothing -= alpha * beta * inverse[k]
            shared -= beta * row[k] * inverse[k]
            row[k] -= 1
            column[k] -= 1
            total[k] -= 1
            inverse[k] = 1.0 / (v_beta + total[k])
            smoothing += alpha * beta * inverse[k]
            shared += beta * row[k] * inverse[k]
            weight[k] = (alpha + row[k]) * inverse[k]
            if row[k] == 0:
                used -= 1
                moved = own[used]
                own[place[k]], place[moved] = moved, place[k]
            if column[k] == 0:
                sizes[v] -= 1
                moved = lists[v, sizes[v]]
                lists[v, places[v, k]], places[v, moved] = moved, places[v, k]
            specific, size = 0.0, sizes[v]
            for j in range(size):
                k = lists[v, j]
                specific += weight[k] * column[k]
            u = uniform(random) * (specific + shared + smoothing)
            if u < specific:
                j, k = 0, lists[v, 0]
                u -= weight[k] * column[k]
                while u >= 0 and j < size - 1:
                    j += 1
                    k = lists[v, j]
                    u -= weight[k] * column[k]
            elif used > 0 and u < specific + shared:
                u = (u - specific) / beta
                j, k = 0, own[0]
                u -= row[k] * inverse[k]
                while u >= 0 and j < used - 1:
                    j += 1
                    k = own[j]
                    u -= row[k] * inverse[k]
            else:
                u, k = (u - specific - shared) / (alpha * beta), 0
                u -= inverse[0]
                while u >= 0 and k < topics - 1:
                    k += 1
                    u -= inverse[k]
            z[i] = k
            if row[k] == 0:
                own[used], place[k] = k, used
                used += 1
            if column[k] == 0:
                lists[v, sizes[v]], places[v, k] = k, sizes[v]
                sizes[v] += 1
            smoothing -= alpha * beta * inverse[k]
            shared -= beta * row[k] * inverse[k]
            row[k] += 1
            column[k] += 1
            total[k] += 1
            inverse[k] = 1.0 / (v_beta + total[k])
            smoothing += alpha * beta * inverse[k]
            shared += beta * row[k] * inverse[k]
            weight[k] = (alpha + row[k]) * inverse[k]
        if mixtures.shape[0] > 0:
            whole = topics * alpha + (last - first)
            for k in range(topics):
                mixtures[d, k] += (alpha + row[k]) / whole
        histogram[0] += topics - used
        for j in range(used):
            k = own[j]
            histogram[row[k]] += 1
            row[k] = 0
            weight[k] = alpha * inverse[k]


@njit(nogil=True, error_model="numpy")
def count_values(word_topic, histogram):
    """histogram (most tokens of a word + 1,): how many of the n_kw have each value."""
    for n in range(histogram.size):
        histogram[n] = 0
    for v in range(word_topic.shape[0]):
        for k in range(word_topic.shape[1]):
            histogram[word_topic[v, k]] += 1


@njit(nogil=True, error_model="numpy")
def count_tokens(words, z, word_topic, total):
    """The counts n_kw and n_k of an assignment, added to what is there."""
    for i in range(words.size):
        word_topic[words[i], z[i]] += 1
        total[z[i]] += 1
