"""The compiled loops: blocks of rows -> log-densities -> responsibilities -> statistics.

A block of rows is small enough that its features and log-densities stay in cache. Arrays are
feature-major (``rows_t (D, N)``), so that every inner loop runs along contiguous rows. The GIL
is released; compiled code is cached on disk, so that a worker's first task need not compile.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 256
_FAST = {"reassoc", "contract", "nsz", "arcp"}

# exp(x) = 2^n exp(r), |r| <= ln2 / 2; adding 1.5 * 2^52 rounds n to the low bits of the sum.
_MAGIC = 6755399441055744.0
_LOG2E = 1.4426950408889634
_LN2_HI = 0.6931471803691238
_LN2_LO = 1.9082149292705877e-10
# Below exp(-230) = 1e-100 a responsibility is taken for 0: subnormal numbers would make the matrix
# products a hundred times slower.
_LOWEST = -230.0


# Not "reassoc": it would simplify ``(t + MAGIC) - MAGIC`` away.
@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def exp_row(x, top, diff, power, total, spread):  # type: ignore[no-untyped-def]
    """Replace ``x`` by ``e = exp(x - top)``, for ``x <= top``.

    Adds ``e`` to ``total`` and ``e (x - top)`` to ``spread``; ``diff`` and ``power`` are scratch. All
    are ``(n,)``.

    A degree-12 polynomial that the compiler turns into vector code; relative error below 1e-15.
    """
    n = x.shape[0]
    bits = power.view(np.int64)
    for j in range(n):
        value = max(x[j] - top[j], _LOWEST)
        diff[j] = value
        t = value * _LOG2E + _MAGIC
        power[j] = t
        whole = t - _MAGIC
        r = (value - whole * _LN2_HI) - whole * _LN2_LO
        p = 2.08767569878681e-09
        p = p * r + 2.505210838544172e-08
        p = p * r + 2.755731922398589e-07
        p = p * r + 2.7557319223985893e-06
        p = p * r + 2.48015873015873e-05
        p = p * r + 1.984126984126984e-04
        p = p * r + 1.388888888888889e-03
        p = p * r + 8.333333333333333e-03
        p = p * r + 4.1666666666666664e-02
        p = p * r + 1.6666666666666666e-01
        p = p * r + 0.5
        p = p * r + 1.0
        x[j] = p * r + 1.0
    for j in range(n):
        bits[j] = (bits[j] + 1023) << 52
    for j in range(n):
        e = x[j] * power[j] if diff[j] > _LOWEST else 0.0
        x[j] = e
        total[j] += e
        spread[j] += e * diff[j]


@njit(cache=True, nogil=True, fastmath=_FAST)
def soften(logp, offsets, sums, scratch):  # type: ignore[no-untyped-def]
    """Turn log-densities ``logp (M, b)`` into responsibilities, candidate by candidate.

    ``sums (C, 3)`` collects log-likelihood, entropy and the log of the largest responsibility;
    ``scratch (5, b)`` is overwritten.
    """
    b = logp.shape[1]
    top, diff, power, total, spread = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    for c in range(len(offsets) - 1):
        lo, hi = offsets[c], offsets[c + 1]
        top[:] = logp[lo]
        for k in range(lo + 1, hi):
            row = logp[k]
            for j in range(b):
                top[j] = max(top[j], row[j])
        total[:] = 0.0
        spread[:] = 0.0
        for k in range(lo, hi):
            exp_row(logp[k], top, diff, power, total, spread)
        loglik, entropy, log_max = 0.0, 0.0, 0.0
        for j in range(b):
            log_total = np.log(total[j])
            loglik += top[j] + log_total
            entropy += log_total - spread[j] / total[j]
            log_max -= log_total
            total[j] = 1.0 / total[j]
        for k in range(lo, hi):
            row = logp[k]
            for j in range(b):
                row[j] *= total[j]
        sums[c, 0] += loglik
        sums[c, 1] += entropy
        sums[c, 2] += log_max


@njit(cache=True, nogil=True, fastmath=_FAST)
def features(rows_t, start, shift, scale, cross, out):  # type: ignore[no-untyped-def]
    """Fill ``out (F, b)`` with 1, the standardised rows, and their products or squares."""
    d, b = rows_t.shape[0], out.shape[1]
    out[0, :] = 1.0
    for i in range(d):
        z = out[1 + i]
        source = rows_t[i]
        inverse = 1.0 / scale[i]
        for j in range(b):
            z[j] = (source[start + j] - shift[i]) * inverse
    f = 1 + d
    for i in range(d):
        a = out[1 + i]
        for k in range(i, d if cross else i + 1):
            c = out[1 + k]
            target = out[f]
            for j in range(b):
                target[j] = a[j] * c[j]
            f += 1


@njit(cache=True, nogil=True, fastmath=_FAST)
def quadratic_pass(rows_t, shift, scale, weights, offsets, cross, totals, sums):  # type: ignore[no-untyped-def]
    """E-step by quadratic features: adds ``r @ features`` to ``totals (M, F)``."""
    n = rows_t.shape[1]
    m, n_features = weights.shape
    for start in range(0, n, BLOCK):
        b = min(BLOCK, n - start)
        if start == 0 or b < BLOCK:
            phi = np.empty((n_features, b))
            logp = np.empty((m, b))
            scratch = np.empty((5, b))
        features(rows_t, start, shift, scale, cross, phi)
        np.dot(weights, phi, logp)
        soften(logp, offsets, sums, scratch)
        totals += np.dot(logp, phi.T)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _whiten_full(rows_t, start, means, lower, y, centred):  # type: ignore[no-untyped-def]
    """Fill ``y (M, D, b)`` with ``U_k' (x - mean_k)``; ``lower (M, D, D)`` holds ``U_k'``."""
    m, d, b = y.shape
    for k in range(m):
        for i in range(d):
            for j in range(b):
                centred[i, j] = rows_t[i, start + j] - means[k, i]
        np.dot(lower[k], centred, y[k])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _half_norms(log_norm, y, logp):  # type: ignore[no-untyped-def]
    """Fill ``logp (M, b)`` with ``log_norm - |y|^2 / 2``."""
    m, d, b = y.shape
    for k in range(m):
        row = logp[k]
        row[:] = 0.0
        for i in range(d):
            for j in range(b):
                row[j] += y[k, i, j] * y[k, i, j]
        for j in range(b):
            row[j] = log_norm[k] - 0.5 * row[j]


@njit(cache=True, nogil=True, fastmath=_FAST)
def whitened_full_pass(rows_t, means, lower, log_norm, offsets, first, second, weight, sums):  # type: ignore[no-untyped-def]
    """E-step by whitened rows: adds ``sum r``, ``sum r y`` and ``sum r y y'``."""
    d, n = rows_t.shape
    m = len(log_norm)
    for start in range(0, n, BLOCK):
        b = min(BLOCK, n - start)
        if start == 0 or b < BLOCK:
            y = np.empty((m, d, b))
            centred = np.empty((d, b))
            logp = np.empty((m, b))
            scratch = np.empty((5, b))
        _whiten_full(rows_t, start, means, lower, y, centred)
        _half_norms(log_norm, y, logp)
        soften(logp, offsets, sums, scratch)
        for k in range(m):
            r = logp[k]
            weight[k] += r.sum()
            for i in range(d):
                for j in range(b):
                    centred[i, j] = r[j] * y[k, i, j]
                first[k, i] += centred[i].sum()
            second[k] += np.dot(centred, y[k].T)


@njit(cache=True, nogil=True, fastmath=_FAST)
def whitened_diagonal_pass(rows_t, means, whitener, log_norm, offsets, first, second, weight, sums):  # type: ignore[no-untyped-def]
    """Do the same for diagonal structures; ``second (M, D)``."""
    d, n = rows_t.shape
    m = len(log_norm)
    for start in range(0, n, BLOCK):
        b = min(BLOCK, n - start)
        if start == 0 or b < BLOCK:
            y = np.empty((m, d, b))
            logp = np.empty((m, b))
            scratch = np.empty((5, b))
        for k in range(m):
            for i in range(d):
                for j in range(b):
                    y[k, i, j] = (rows_t[i, start + j] - means[k, i]) * whitener[k, i]
        _half_norms(log_norm, y, logp)
        soften(logp, offsets, sums, scratch)
        for k in range(m):
            r = logp[k]
            weight[k] += r.sum()
            for i in range(d):
                a, s = 0.0, 0.0
                for j in range(b):
                    value = r[j] * y[k, i, j]
                    a += value
                    s += value * y[k, i, j]
                first[k, i] += a
                second[k, i] += s


@njit(cache=True, nogil=True, fastmath=_FAST)
def whitened_full_logp(rows_t, means, lower, log_norm, logp):  # type: ignore[no-untyped-def]
    """Fill ``logp (K, N)`` with the components' weighted log-densities (for scoring)."""
    d, n = rows_t.shape
    m = len(log_norm)
    for start in range(0, n, BLOCK):
        b = min(BLOCK, n - start)
        if start == 0 or b < BLOCK:
            y = np.empty((m, d, b))
            centred = np.empty((d, b))
            block = np.empty((m, b))
        _whiten_full(rows_t, start, means, lower, y, centred)
        _half_norms(log_norm, y, block)
        logp[:, start : start + b] = block


@njit(cache=True, nogil=True, fastmath=_FAST)
def whitened_diagonal_logp(rows_t, means, whitener, log_norm, logp):  # type: ignore[no-untyped-def]
    """Do the same for diagonal structures."""
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
