"""The compiled loops for rows with missing values: marginal densities of the columns that a row has.

Rows come sorted by *pattern*, the set of columns that are observed: those of pattern p are ``starts[p]`` to
``starts[p + 1] - 1``, and ``observed (P, D)`` says which columns they have. What depends on the pattern and not on
the row is computed once for all its rows. Sizes and axis order are as in :mod:`stream_gmm.core.estep.kernels`.

For a covariance matrix that is the *factor* ``A (o, D)``, the first o rows of its Cholesky factor when the o observed
columns come first: with the whitened row ``y`` of the observed columns, ``A' y`` is the centred row with conditional
means in place of what is missing, and ``covariance - A' A`` is the covariance that this leaves.
"""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.kernels import compute_responsibilities

_FAST = {"reassoc", "contract", "nsz", "arcp"}
# Not for functions that are called by others: code that was just compiled calls the function itself, code from the
# cache on disk a copy that was optimised with its caller. With "reassoc" the two may add in another order.
_EXACT = {"contract", "nsz"}
_BLOCK = 256
_LEAST_SHARE = 1e-16
"""Share of its variance that columns leave another at least; where they determine it, rounding leaves anything."""
LOG_2PI = np.log(2.0 * np.pi)


@compiled()
def list_columns(observed, there, absent):  # type: ignore[no-untyped-def]
    """Fill ``there`` and ``absent`` with the observed and the missing columns; return how many there are of both."""
    o, u = 0, 0
    for j in range(len(observed)):
        if observed[j]:
            there[o] = j
            o += 1
        else:
            absent[u] = j
            u += 1
    return o, u


@compiled()
def add_missing_widths(backgrounds, log_widths, absent, out):  # type: ignore[no-untyped-def]
    """Fill ``out (C,)`` with the log-densities of the noise of each candidate, without the columns ``absent``."""
    for c in range(len(out)):
        out[c] = backgrounds[c]
        if backgrounds[c] > -1e299:
            for j in absent:
                out[c] += log_widths[c, j]


@compiled()
def factor_observed(covariance, there, factor):  # type: ignore[no-untyped-def]
    """Fill the first rows of ``factor (D, D)``; return half the log-determinant of the columns ``there``."""
    half_log_det = 0.0
    for i in range(len(there)):
        a = there[i]
        row = factor[i]
        row[:] = covariance[a]
        for k in range(i):
            above = factor[k]
            coefficient = above[a]
            for j in range(len(row)):
                row[j] -= coefficient * above[j]
        pivot = np.sqrt(max(row[a], _LEAST_SHARE * covariance[a, a]))
        half_log_det += np.log(pivot)
        inverse = 1.0 / pivot
        for j in range(len(row)):
            row[j] *= inverse
        row[a] = pivot
        for k in range(i):
            row[there[k]] = 0.0
    return half_log_det


@compiled(fastmath=_EXACT)
def whiten_observed(rows_t, start, mean, there, factor, log_norm, y, logp):  # type: ignore[no-untyped-def]
    """Fill ``y (o, b)`` with whitened rows, and ``logp (b,)`` with their log-densities ``log_norm - |y|^2 / 2``."""
    o, b = y.shape
    logp[:] = 0.0
    for i in range(o):
        a = there[i]
        target, source, centre = y[i], rows_t[a], mean[a]
        for j in range(b):
            target[j] = source[start + j] - centre
        for k in range(i):
            coefficient, other = factor[k, a], y[k]
            for j in range(b):
                target[j] -= coefficient * other[j]
        inverse = 1.0 / factor[i, a]
        for j in range(b):
            target[j] *= inverse
            logp[j] += target[j] * target[j]
    for j in range(b):
        logp[j] = log_norm - 0.5 * logp[j]


@compiled(internal=True, fastmath=_EXACT)
def _scale_observed(rows_t, start, mean, there, whitener, log_norm, y, logp):  # type: ignore[no-untyped-def]
    """As :func:`whiten_observed` for a diagonal covariance, with ``whitener (D,)``."""
    o, b = y.shape
    logp[:] = 0.0
    for i in range(o):
        a = there[i]
        target, source, centre, factor = y[i], rows_t[a], mean[a], whitener[a]
        for j in range(b):
            target[j] = (source[start + j] - centre) * factor
            logp[j] += target[j] * target[j]
    for j in range(b):
        logp[j] = log_norm - 0.5 * logp[j]


@compiled()
def sum_whitened(r, y, first, second):  # type: ignore[no-untyped-def]
    """Add the sums of ``r y`` to ``first (o,)`` and of ``r y y'`` to ``second (o, o)``."""
    o, b = y.shape
    weighted = np.empty((o, b))
    for i in range(o):
        for j in range(b):
            weighted[i, j] = r[j] * y[i, j]
    sums, products = np.dot(y, r), np.dot(weighted, y.T)
    for i in range(o):
        first[i] += sums[i]
        for k in range(o):
            second[i, k] += products[i, k]


@compiled(internal=True)
def _add_completed_rows(r, y, factor, first, second):  # type: ignore[no-untyped-def]
    """Add the sums of ``r x`` and ``r x x'`` over rows ``x = A' y`` to ``first (D,)`` and ``second (D, D)``."""
    o, b = y.shape
    d = len(first)
    x = np.empty(d)
    for j in range(b):
        x[:] = 0.0
        for i in range(o):
            value, row = y[i, j], factor[i]
            for k in range(d):
                x[k] += value * row[k]
        for i in range(d):
            value, target = r[j] * x[i], second[i]
            first[i] += value
            for k in range(d):
                target[k] += value * x[k]


@compiled()
def add_completed_sums(of_y, of_yy, factor, first, second):  # type: ignore[no-untyped-def]
    """Add ``A' of_y`` to ``first (D,)`` and ``A' of_yy A`` to ``second (D, D)``; ``of_yy`` has its lower half."""
    o, d = len(of_y), len(first)
    product = np.zeros(d)
    for i in range(o):
        row = factor[i]
        product[:] = 0.0
        for k in range(o):
            value, other = (of_yy[i, k] if k <= i else of_yy[k, i]), factor[k]
            for j in range(d):
                product[j] += value * other[j]
        for j in range(d):
            first[j] += of_y[i] * row[j]
            value, target = row[j], second[j]
            for k in range(d):
                target[k] += value * product[k]


@compiled()
def add_conditional_covariance(weight, covariance, factor, o, absent, second):  # type: ignore[no-untyped-def]
    """Add ``weight (covariance - A' A)`` to the block of the missing columns."""
    for i in absent:
        for j in absent:
            value = covariance[i, j]
            for k in range(o):
                value -= factor[k, i] * factor[k, j]
            second[i, j] += weight * value


@compiled(fastmath=_FAST)
def full_marginal_pass(  # type: ignore[no-untyped-def]
    rows_t, row_weights, starts, observed, means, covariances, log_weights, offsets, backgrounds, log_widths,
    weight, first, second, expected, of_noise, sums,
):  # fmt: skip
    """E-step of rows with missing values, for ``covariances (M, D, D)``.

    Adds to ``weight (M,)``, ``first (M, D)`` and ``second (M, D, D)`` the sums over rows of ``r``, ``r x`` and
    ``r (x x' + c)``: x is the row about the mean with conditional means in place of what is missing, c the
    conditional covariance, and r are responsibilities times row weights. ``expected (M,)`` and ``of_noise (C,)`` get
    the sums of r times the log-density, of the components and of the noise; ``sums (C, 2)`` as in
    :func:`~stream_gmm.core.estep.kernels.compute_responsibilities`. ``log_weights (M,)`` are the logarithms of the
    mixing weights, ``log_widths (C, D)`` those of the widths of the box of the noise.
    """
    m, d = means.shape
    there_all, absent_all = np.empty(d, np.int64), np.empty(d, np.int64)
    factors, log_norm = np.zeros((m, d, d)), np.empty(m)
    noise = np.empty(len(offsets) - 1)
    y_memory, logp_memory, scratch_memory = np.empty(m * d * _BLOCK), np.empty(m * _BLOCK), np.empty(2 * _BLOCK)
    of_y_all, of_yy_all, before = np.empty((m, d)), np.empty((m, d, d)), np.empty(m)
    for p in range(len(starts) - 1):
        o, u = list_columns(observed[p], there_all, absent_all)
        there, absent = there_all[:o], absent_all[:u]
        add_missing_widths(backgrounds, log_widths, absent, noise)
        for k in range(m):
            half_log_det = factor_observed(covariances[k], there, factors[k])
            log_norm[k] = log_weights[k] - half_log_det - 0.5 * o * LOG_2PI
        # With fewer rows than columns it is cheaper to complete the rows than their sums.
        few = starts[p + 1] - starts[p] < o
        of_y_all[:, :o] = 0.0
        of_yy_all[:, :o, :o] = 0.0
        before[:] = weight
        rows_weight = 0.0
        for start in range(starts[p], starts[p + 1], _BLOCK):
            b = min(_BLOCK, starts[p + 1] - start)
            y = y_memory[: m * o * b].reshape((m, o, b))
            logp = logp_memory[: m * b].reshape((m, b))
            scratch = scratch_memory[: 2 * b].reshape((2, b))
            for k in range(m):
                whiten_observed(rows_t, start, means[k], there, factors[k], log_norm[k], y[k], logp[k])
            weights = row_weights[start : start + b]
            rows_weight += weights.sum() if len(weights) else float(b)
            compute_responsibilities(logp, offsets, weights, noise, sums, scratch)
            for k in range(m):
                r = logp[k]
                weight[k] += r.sum()
                if few:
                    for j in range(b):
                        squared = 0.0
                        for i in range(o):
                            squared += y[k, i, j] * y[k, i, j]
                        expected[k] -= 0.5 * r[j] * squared
                    _add_completed_rows(r, y[k], factors[k], first[k], second[k])
                else:
                    sum_whitened(r, y[k], of_y_all[k], of_yy_all[k])
        for k in range(m):
            gained = weight[k] - before[k]
            expected[k] += log_norm[k] * gained
            if not few:
                for i in range(o):
                    expected[k] -= 0.5 * of_yy_all[k, i, i]
                add_completed_sums(of_y_all[k, :o], of_yy_all[k], factors[k], first[k], second[k])
            add_conditional_covariance(gained, covariances[k], factors[k], o, absent, second[k])
        for c in range(len(noise)):
            if backgrounds[c] > -1e299:
                lo, hi = offsets[c], offsets[c + 1]
                of_noise[c] += noise[c] * (rows_weight - (weight[lo:hi].sum() - before[lo:hi].sum()))


@compiled(fastmath=_FAST)
def diagonal_marginal_pass(  # type: ignore[no-untyped-def]
    rows_t, row_weights, starts, observed, means, whitener, log_weights, offsets, backgrounds, log_widths,
    weight, first, second, expected, of_noise, sums,
):  # fmt: skip
    """As :func:`full_marginal_pass`, for diagonal structures with ``whitener (M, D)``: missing columns are left out.

    ``first (M, D)`` and ``second (M, D)`` get the sums in whitened coordinates, in which what is missing has mean 0
    and variance 1.
    """
    m, d = means.shape
    there_all, absent_all, log_norm = np.empty(d, np.int64), np.empty(d, np.int64), np.empty(m)
    noise = np.empty(len(offsets) - 1)
    y_memory, logp_memory, scratch_memory = np.empty(m * d * _BLOCK), np.empty(m * _BLOCK), np.empty(2 * _BLOCK)
    before = np.empty(m)
    for p in range(len(starts) - 1):
        o, u = list_columns(observed[p], there_all, absent_all)
        there, absent = there_all[:o], absent_all[:u]
        add_missing_widths(backgrounds, log_widths, absent, noise)
        for k in range(m):
            log_norm[k] = log_weights[k] - 0.5 * o * LOG_2PI
            for j in there:
                log_norm[k] += np.log(whitener[k, j])
        before[:] = weight
        rows_weight = 0.0
        for start in range(starts[p], starts[p + 1], _BLOCK):
            b = min(_BLOCK, starts[p + 1] - start)
            y = y_memory[: m * o * b].reshape((m, o, b))
            logp = logp_memory[: m * b].reshape((m, b))
            scratch = scratch_memory[: 2 * b].reshape((2, b))
            for k in range(m):
                _scale_observed(rows_t, start, means[k], there, whitener[k], log_norm[k], y[k], logp[k])
            weights = row_weights[start : start + b]
            rows_weight += weights.sum() if len(weights) else float(b)
            compute_responsibilities(logp, offsets, weights, noise, sums, scratch)
            for k in range(m):
                r = logp[k]
                weight[k] += r.sum()
                for i in range(o):
                    row = y[k, i]
                    of_y, of_yy = 0.0, 0.0
                    for j in range(b):
                        value = r[j] * row[j]
                        of_y += value
                        of_yy += value * row[j]
                    first[k, there[i]] += of_y
                    second[k, there[i]] += of_yy
                    expected[k] -= 0.5 * of_yy
        for k in range(m):
            gained = weight[k] - before[k]
            expected[k] += log_norm[k] * gained
            for j in absent:
                second[k, j] += gained
        for c in range(len(noise)):
            if backgrounds[c] > -1e299:
                lo, hi = offsets[c], offsets[c + 1]
                of_noise[c] += noise[c] * (rows_weight - (weight[lo:hi].sum() - before[lo:hi].sum()))
