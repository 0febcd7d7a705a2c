"""The compiled loop for rows with missing values and components that share one covariance matrix."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.kernels import compute_responsibilities
from stream_gmm.core.estep.marginal.kernels import (
    LOG_2PI,
    add_completed_sums,
    add_conditional_covariance,
    add_missing_widths,
    factor_observed,
    list_columns,
    sum_whitened,
    whiten_observed,
)

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_EXACT = {"contract", "nsz"}
_BLOCK = 256


@compiled(internal=True, fastmath=_EXACT)
def _fill_log_densities(y, centre, log_norm, out):  # type: ignore[no-untyped-def]
    """Fill ``out (b,)`` with ``log_norm - |y - centre|^2 / 2`` for ``y (o, b)``."""
    out[:] = 0.0
    for i in range(y.shape[0]):
        row, origin = y[i], centre[i]
        for j in range(y.shape[1]):
            delta = row[j] - origin
            out[j] += delta * delta
    for j in range(y.shape[1]):
        out[j] = log_norm - 0.5 * out[j]


@compiled(fastmath=_FAST)
def shared_marginal_pass(  # type: ignore[no-untyped-def]
    rows_t, row_weights, starts, observed, means, covariances, log_weights, offsets, backgrounds, log_widths,
    weight, first, second, expected, of_noise, sums,
):  # fmt: skip
    """As :func:`~.kernels.full_marginal_pass`, for candidates whose components have one covariance, the first one's.

    Rows are whitened once for a candidate, about the mean of its means; the means lie so close together that no
    digits are lost (``SHARED_DISTANCE`` of :mod:`.density`). ``second`` gets the sums of all components at the
    place of the first one, and so does ``expected`` the squared distances.
    """
    (m, d), n_candidates = means.shape, len(offsets) - 1
    there_all, absent_all, noise = np.empty(d, np.int64), np.empty(d, np.int64), np.empty(n_candidates)
    factors, log_norm, centres = np.zeros((n_candidates, d, d)), np.empty(m), np.zeros((n_candidates, d))
    for c in range(n_candidates):
        for k in range(offsets[c], offsets[c + 1]):
            centres[c] += means[k] / (offsets[c + 1] - offsets[c])
    y_memory, logp_memory = np.empty(n_candidates * d * _BLOCK), np.empty(m * _BLOCK)
    scratch_memory, totals = np.empty(2 * _BLOCK), np.empty(_BLOCK)
    places, of_y, before = np.zeros((m, d)), np.empty((m, d)), np.empty(m)
    of_yy = np.empty((n_candidates, d, d))
    for p in range(len(starts) - 1):
        o, u = list_columns(observed[p], there_all, absent_all)
        there, absent = there_all[:o], absent_all[:u]
        add_missing_widths(backgrounds, log_widths, absent, noise)
        for c in range(n_candidates):
            factor = factors[c]
            half_log_det = factor_observed(covariances[offsets[c]], there, factor)
            for k in range(offsets[c], offsets[c + 1]):
                log_norm[k] = log_weights[k] - half_log_det - 0.5 * o * LOG_2PI
                for i in range(o):
                    a = there[i]
                    value = means[k, a] - centres[c, a]
                    for j in range(i):
                        value -= factor[j, a] * places[k, j]
                    places[k, i] = value / factor[i, a]
        of_y[:] = 0.0
        of_yy[:] = 0.0
        before[:] = weight
        rows_weight = 0.0
        for start in range(starts[p], starts[p + 1], _BLOCK):
            b = min(_BLOCK, starts[p + 1] - start)
            y = y_memory[: n_candidates * o * b].reshape((n_candidates, o, b))
            logp = logp_memory[: m * b].reshape((m, b))
            scratch, total = scratch_memory[: 2 * b].reshape((2, b)), totals[:b]
            for c in range(n_candidates):
                whiten_observed(rows_t, start, centres[c], there, factors[c], 0.0, y[c], total)
                for k in range(offsets[c], offsets[c + 1]):
                    _fill_log_densities(y[c], places[k, :o], log_norm[k], logp[k])
            weights = row_weights[start : start + b]
            rows_weight += weights.sum() if len(weights) else float(b)
            compute_responsibilities(logp, offsets, weights, noise, sums, scratch)
            for c in range(n_candidates):
                lo, hi = offsets[c], offsets[c + 1]
                total[:] = 0.0
                for k in range(lo, hi):
                    weight[k] += logp[k].sum()
                    for j in range(b):
                        total[j] += logp[k, j]
                of_y[lo:hi, :o] += np.dot(logp[lo:hi], y[c].T)
                sum_whitened(total, y[c], scratch_memory[:o], of_yy[c])
        for c in range(n_candidates):
            lo, hi, pooled, gained_all = offsets[c], offsets[c + 1], of_yy[c], 0.0
            for k in range(lo, hi):
                gained, place = weight[k] - before[k], places[k]
                gained_all += gained
                for i in range(o):
                    for j in range(o):
                        pooled[i, j] += gained * place[i] * place[j] - of_y[k, i] * place[j] - place[i] * of_y[k, j]
                for i in range(o):
                    of_y[k, i] -= gained * place[i]
                expected[k] += log_norm[k] * gained
                if k > lo:
                    for i in range(o):
                        for j in range(d):
                            first[k, j] += of_y[k, i] * factors[c, i, j]
            for i in range(o):
                expected[lo] -= 0.5 * pooled[i, i]
            add_completed_sums(of_y[lo, :o], pooled, factors[c], first[lo], second[lo])
            add_conditional_covariance(gained_all, covariances[lo], factors[c], o, absent, second[lo])
            if backgrounds[c] > -1e299:
                of_noise[c] += noise[c] * (rows_weight - gained_all)
