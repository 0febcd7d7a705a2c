"""The compiled loops that score rows with missing values, and fill in what is missing.

Rows come sorted by pattern, as in :mod:`.kernels`; structures with variances come as diagonal matrices.
"""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.marginal.kernels import (
    LOG_2PI,
    add_missing_widths,
    factor_observed,
    list_columns,
    whiten_observed,
)
from stream_gmm.core.estep.score_kernels import complete_scores

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_BLOCK = 256


@compiled(fastmath=_FAST)
def score_marginal_rows(  # type: ignore[no-untyped-def]
    rows_t, starts, observed, means, covariances, log_weights, background, log_widths, noisy,
    component, proba, log_density, distance, entropy, highest, noise, log_norms,
):  # fmt: skip
    """Fill the scores of rows with missing values.

    They are those of :func:`~stream_gmm.core.estep.score_kernels.complete_scores`; ``proba (N K,)`` is flat, row by
    row. ``log_norms (P, K)`` gets the constants of the weighted log-densities for each pattern.
    """
    m, d = means.shape
    there_all, absent_all = np.empty(d, np.int64), np.empty(d, np.int64)
    factors, backgrounds, in_columns = np.zeros((m, d, d)), np.full(1, background), np.empty(1)
    y_memory, logp_memory = np.empty(d * _BLOCK), np.empty(m * _BLOCK)
    for p in range(len(starts) - 1):
        o, u = list_columns(observed[p], there_all, absent_all)
        there = there_all[:o]
        add_missing_widths(backgrounds, log_widths, absent_all[:u], in_columns)
        for k in range(m):
            half_log_det = factor_observed(covariances[k], there, factors[k])
            log_norms[p, k] = log_weights[k] - half_log_det - 0.5 * o * LOG_2PI
        for start in range(starts[p], starts[p + 1], _BLOCK):
            b = min(_BLOCK, starts[p + 1] - start)
            y = y_memory[: o * b].reshape((o, b))
            logp = logp_memory[: m * b].reshape((m, b))
            for k in range(m):
                whiten_observed(rows_t, start, means[k], there, factors[k], log_norms[p, k], y, logp[k])
            complete_scores(
                logp, start, log_norms[p], in_columns[0], noisy,
                component, proba, m, 1, log_density, distance, entropy, highest, noise,
            )  # fmt: skip


@compiled(fastmath=_FAST)
def impute_marginal_rows(rows_t, starts, observed, means, covariances, shares, mean, variance):  # type: ignore[no-untyped-def]
    """Fill ``mean (D, N)`` and ``variance (D, N)`` of the missing values of rows, given those that they have.

    ``shares (N, K)`` are the responsibilities, which add up to 1. Observed values are their own mean, of variance 0.
    """
    m, d = means.shape
    there_all, absent_all, factor = np.empty(d, np.int64), np.empty(d, np.int64), np.zeros((d, d))
    y_memory, logp_memory = np.empty(d * _BLOCK), np.empty(_BLOCK)
    for p in range(len(starts) - 1):
        o, u = list_columns(observed[p], there_all, absent_all)
        there, absent = there_all[:o], absent_all[:u]
        for j in there:
            mean[j, starts[p] : starts[p + 1]] = rows_t[j, starts[p] : starts[p + 1]]
            variance[j, starts[p] : starts[p + 1]] = 0.0
        for j in absent:
            mean[j, starts[p] : starts[p + 1]] = 0.0
            variance[j, starts[p] : starts[p + 1]] = 0.0
        for k in range(m):
            factor_observed(covariances[k], there, factor)
            for start in range(starts[p], starts[p + 1], _BLOCK):
                b = min(_BLOCK, starts[p + 1] - start)
                y = y_memory[: o * b].reshape((o, b))
                whiten_observed(rows_t, start, means[k], there, factor, 0.0, y, logp_memory[:b])
                for a in absent:
                    left = covariances[k, a, a]
                    for i in range(o):
                        left -= factor[i, a] * factor[i, a]
                    for j in range(b):
                        value = means[k, a] - means[0, a]  # close to the values, so that no digits of squares cancel
                        for i in range(o):
                            value += factor[i, a] * y[i, j]
                        share = shares[start + j, k]
                        mean[a, start + j] += share * value
                        variance[a, start + j] += share * (max(left, 0.0) + value * value)
        for a in absent:
            for j in range(starts[p], starts[p + 1]):
                variance[a, j] = max(variance[a, j] - mean[a, j] * mean[a, j], 0.0)
                mean[a, j] += means[0, a]
