"""The compiled loops of the whitened kernel: every component whitens the rows with its own factor.

To whiten a row x for a component means ``y = U' (x - mean)``, with the precision ``U U'``. No digits cancel,
whatever the conditioning; it is slower than the features of :mod:`.kernels`. Sizes and axis order are as there.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stream_gmm.core.estep.kernels import compute_responsibilities

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_BLOCK = 256


@njit(cache=True, nogil=True, fastmath=_FAST)
def _whiten(rows_t, start, mean, lower, centred, y):  # type: ignore[no-untyped-def]
    """Fill ``y (D, b)`` with ``U' (x - mean)`` of b rows; ``lower (D, D)`` is ``U'``, ``centred (D, b)`` scratch."""
    d, b = y.shape
    for i in range(d):
        target, source = centred[i], rows_t[i]
        for j in range(b):
            target[j] = source[start + j] - mean[i]
    np.dot(lower, centred, y)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _log_density(log_norm, y, out):  # type: ignore[no-untyped-def]
    """Fill ``out (b,)`` with ``log_norm - |y|^2 / 2``, in nats."""
    d, b = y.shape
    out[:] = 0.0
    for i in range(d):
        row = y[i]
        for j in range(b):
            out[j] += row[j] * row[j]
    for j in range(b):
        out[j] = log_norm - 0.5 * out[j]


@njit(cache=True, nogil=True, fastmath=_FAST)
def full_pass(rows_t, row_weights, means, lower, log_norm, offsets, backgrounds, moments, sums):  # type: ignore[no-untyped-def]
    """E-step by whitened rows: add the sums over rows of ``r [y, 1] [y, 1]'`` to ``moments (M, D + 1, D + 1)``.

    ``means (M, D)``, ``lower (M, D, D)`` and ``log_norm (M,)`` are those of a
    :class:`~stream_gmm.core.model.density.Density`; ``r`` are responsibilities times row weights; the other arguments
    are as in :func:`~stream_gmm.core.estep.kernels.compute_responsibilities`.
    """
    d, n = rows_t.shape
    m = len(log_norm)
    part = np.empty((d + 1, d + 1))
    for start in range(0, n, _BLOCK):
        b = min(_BLOCK, n - start)
        if start == 0 or b < _BLOCK:
            y = np.ones((m, d + 1, b))
            weighted = np.empty((d + 1, b))
            centred = np.empty((d, b))
            logp = np.empty((m, b))
            scratch = np.empty((2, b))
        for k in range(m):
            _whiten(rows_t, start, means[k], lower[k], centred, y[k, :d])
            _log_density(log_norm[k], y[k, :d], logp[k])
        compute_responsibilities(logp, offsets, row_weights[start : start + b], backgrounds, sums, scratch)
        for k in range(m):
            r = logp[k]
            for i in range(d + 1):
                target, source = weighted[i], y[k, i]
                for j in range(b):
                    target[j] = r[j] * source[j]
            np.dot(weighted, y[k].T, part)
            moments[k] += part


@njit(cache=True, nogil=True, fastmath=_FAST)
def diagonal_pass(rows_t, row_weights, means, whitener, log_norm, offsets, backgrounds, moments, sums):  # type: ignore[no-untyped-def]
    """E-step by whitened rows of diagonal structures, with ``whitener (M, D)``.

    Adds the sums over rows of ``r``, ``r y`` and ``r y^2`` to ``moments (M, 1 + 2 D)``; otherwise as
    :func:`full_pass`.
    """
    d, n = rows_t.shape
    m = len(log_norm)
    for start in range(0, n, _BLOCK):
        b = min(_BLOCK, n - start)
        if start == 0 or b < _BLOCK:
            y = np.empty((m, d, b))
            logp = np.empty((m, b))
            scratch = np.empty((2, b))
        for k in range(m):
            for i in range(d):
                target, source = y[k, i], rows_t[i]
                for j in range(b):
                    target[j] = (source[start + j] - means[k, i]) * whitener[k, i]
            _log_density(log_norm[k], y[k], logp[k])
        compute_responsibilities(logp, offsets, row_weights[start : start + b], backgrounds, sums, scratch)
        for k in range(m):
            r = logp[k]
            moments[k, 0] += r.sum()
            for i in range(d):
                row = y[k, i]
                first, second = 0.0, 0.0
                for j in range(b):
                    value = r[j] * row[j]
                    first += value
                    second += value * row[j]
                moments[k, 1 + i] += first
                moments[k, 1 + d + i] += second


@njit(cache=True, nogil=True, fastmath=_FAST)
def full_log_densities(rows_t, means, lower, log_norm, logp):  # type: ignore[no-untyped-def]
    """Fill ``logp (K, N)`` with the weighted log-densities of the components, in nats (for scoring)."""
    d, n = rows_t.shape
    for start in range(0, n, _BLOCK):
        b = min(_BLOCK, n - start)
        centred, y = np.empty((d, b)), np.empty((d, b))
        for k in range(len(log_norm)):
            _whiten(rows_t, start, means[k], lower[k], centred, y)
            _log_density(log_norm[k], y, logp[k, start : start + b])


@njit(cache=True, nogil=True, fastmath=_FAST)
def diagonal_log_densities(rows_t, means, whitener, log_norm, logp):  # type: ignore[no-untyped-def]
    """Fill ``logp (K, N)`` as :func:`full_log_densities` does, for diagonal structures with ``whitener (K, D)``."""
    d, n = rows_t.shape
    for k in range(len(log_norm)):
        row = logp[k]
        row[:] = 0.0
        for i in range(d):
            for j in range(n):
                y = (rows_t[i, j] - means[k, i]) * whitener[k, i]
                row[j] += y * y
        for j in range(n):
            row[j] = log_norm[k] - 0.5 * row[j]
