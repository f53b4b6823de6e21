"""The probability of new documents and their mixtures by particles, given topics. Imports numba: use `extra.loops`.

    p(w_1, …, w_n) = Π_i p(w_i | w_<i),   p(w_i | z_<i) = Σ_k (α + m_k) / (K α + i - 1) (b_kw + c_kw) / (B_k + m_k)

with m_k tokens of the document in topic k so far, c_kw of them the word w, and b_kw = β + n_kw, B_k = V β + n_k of the
corpus. A particle is z_<i; it is weighted by p(w_i | z_<i), then given z_i from its law given w_i: the best proposal.
The product of the particles' mean weights has no bias.
"""

import numpy as np
from numba import njit

from probinfer.inference.topics.sweep import uniform


@njit(nogil=True, error_model="numpy")
def follow(starts, words, base, sums, own, alpha, particles, random, log_probability, mixtures):
    """log p of each document (documents,), and E[θ | w] (documents, K) added to `mixtures`.

    base (V, K), sums (K,): b and B above. own: 1, or 0 for topics whose distributions are known, base, with sums 1:
    then the document's own tokens say nothing about them. Resamples, systematically, below an effective share of one
    half.
    """
    topics = sums.size
    m, c = np.empty((particles, topics)), np.empty((particles, topics))
    m_old, c_old = np.empty((particles, topics)), np.empty((particles, topics))
    chosen, weights, cumulated = np.empty(particles, np.int64), np.empty(particles), np.empty(topics)
    for d in range(starts.size - 1):
        for r in range(particles):
            weights[r] = 1.0 / particles
            for k in range(topics):
                m[r, k] = c[r, k] = 0.0
        log_p = 0.0
        for i in range(starts[d], starts[d + 1]):
            v = words[i]
            if i > starts[d] and v != words[i - 1]:
                for r in range(particles):
                    for k in range(topics):
                        c[r, k] = 0.0
            whole, mean = topics * alpha + (i - starts[d]), 0.0
            for r in range(particles):
                sum_ = 0.0
                for k in range(topics):
                    sum_ += (alpha + m[r, k]) * (base[v, k] + own * c[r, k]) / (sums[k] + own * m[r, k])
                    cumulated[k] = sum_
                u, k = uniform(random) * sum_, 0
                while cumulated[k] <= u and k < topics - 1:
                    k += 1
                m[r, k] += 1.0
                c[r, k] += 1.0
                weights[r] *= sum_ / whole
                mean += weights[r]
            log_p += np.log(mean)
            squares = 0.0
            for r in range(particles):
                weights[r] /= mean
                squares += weights[r] ** 2
            if squares * particles > 2.0 and i + 1 < starts[d + 1]:
                u, sum_, r = uniform(random), weights[0] * particles, 0
                for j in range(particles):
                    while sum_ <= u + j and r < particles - 1:
                        r += 1
                        sum_ += weights[r] * particles
                    chosen[j] = r
                for j in range(particles):
                    for k in range(topics):
                        m_old[j, k], c_old[j, k] = m[j, k], c[j, k]
                for j in range(particles):
                    weights[j] = 1.0 / particles
                    for k in range(topics):
                        m[j, k], c[j, k] = m_old[chosen[j], k], c_old[chosen[j], k]
        log_probability[d] = log_p
        whole = topics * alpha + (starts[d + 1] - starts[d])
        for r in range(particles):
            for k in range(topics):
                mixtures[d, k] += weights[r] * (alpha + m[r, k]) / whole
