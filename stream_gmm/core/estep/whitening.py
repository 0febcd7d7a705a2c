"""The compiled loops of the whitened kernel: every component whitens the rows with its own factor.

To whiten a row x for a component means ``y = U' (x - mean)``, with the precision ``U U'``. No digits cancel,
whatever the conditioning; it is slower than the features of :mod:`.kernels`. Sizes and axis order are as there.
"""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.kernels import compute_responsibilities
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import Array, divide_by_weight

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_EXACT = {"contract", "nsz"}
_BLOCK = 256

KernelResults = tuple[Array, Array, Array, Array, Array]
"""What ``StackLayout.assemble`` takes: ``sums``, ``expected``, ``weight``, ``mean`` and ``scatter``."""


@compiled(internal=True, fastmath=_FAST)
def _whiten(rows_t, start, mean, lower, centred, y):  # type: ignore[no-untyped-def]
    """Fill ``y (D, b)`` with ``U' (x - mean)`` of b rows; ``lower (D, D)`` is ``U'``, ``centred (D, b)`` scratch."""
    d, b = y.shape
    for i in range(d):
        target, source = centred[i], rows_t[i]
        for j in range(b):
            target[j] = source[start + j] - mean[i]
    np.dot(lower, centred, y)


@compiled(internal=True, fastmath=_FAST)
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


@compiled(fastmath=_FAST)
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
            for i in range(d + 1):
                for j in range(d + 1):
                    moments[k, i, j] += part[i, j]


@compiled(fastmath=_FAST)
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


# For scoring, where nothing is added across rows, and no sum is reordered: a row has the same log-density, to the
# last bit, whatever rows stand beside it. Only the triangle of a factor is used, which takes no more operations than
# the features. Whitened values of component k are computed four at a time, from row i of its triangle on, and before
# them the first one, two or three (the head). Functions without branches: with them, each call takes 70 ns more.


@compiled(internal=True, fastmath=_EXACT)
def _centre(rows_t, mean, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        target, source, origin = out[i], rows_t[i], mean[i]
        for j in range(out.shape[1]):
            target[j] = source[j] - origin


@compiled(internal=True, fastmath=_EXACT)
def _square_one(lower, k, x, out):  # type: ignore[no-untyped-def]
    """Fill ``out (b,)`` with the square of the first whitened value of component k."""
    x0, a = x[0], lower[k, 0, 0]
    for j in range(out.shape[0]):
        y0 = a * x0[j]
        out[j] = y0 * y0


@compiled(internal=True, fastmath=_EXACT)
def _square_two(lower, k, x, out):  # type: ignore[no-untyped-def]
    """Fill ``out (b,)`` with the sum of the squares of the first two whitened values."""
    x0, x1, a, b0, b1 = x[0], x[1], lower[k, 0, 0], lower[k, 1, 0], lower[k, 1, 1]
    for j in range(out.shape[0]):
        y0, y1 = a * x0[j], b0 * x0[j] + b1 * x1[j]
        out[j] = y0 * y0 + y1 * y1


@compiled(internal=True, fastmath=_EXACT)
def _square_three(lower, k, x, out):  # type: ignore[no-untyped-def]
    """Fill ``out (b,)`` with the sum of the squares of the first three whitened values."""
    x0, x1, x2, a, b0, b1 = x[0], x[1], x[2], lower[k, 0, 0], lower[k, 1, 0], lower[k, 1, 1]
    c0, c1, c2 = lower[k, 2, 0], lower[k, 2, 1], lower[k, 2, 2]
    for j in range(out.shape[0]):
        y0, y1, y2 = a * x0[j], b0 * x0[j] + b1 * x1[j], c0 * x0[j] + c1 * x1[j] + c2 * x2[j]
        out[j] = y0 * y0 + y1 * y1 + y2 * y2


@compiled(internal=True, fastmath=_EXACT)
def _square_four(lower, k, x, out):  # type: ignore[no-untyped-def]
    """Fill ``out (b,)`` with the sum of the squares of the first four whitened values."""
    x0, x1, x2, x3, a, b0, b1 = x[0], x[1], x[2], x[3], lower[k, 0, 0], lower[k, 1, 0], lower[k, 1, 1]
    c0, c1, c2 = lower[k, 2, 0], lower[k, 2, 1], lower[k, 2, 2]
    d0, d1, d2, d3 = lower[k, 3, 0], lower[k, 3, 1], lower[k, 3, 2], lower[k, 3, 3]
    for j in range(out.shape[0]):
        p, q, r, s = x0[j], x1[j], x2[j], x3[j]
        y0, y1, y2, y3 = a * p, b0 * p + b1 * q, c0 * p + c1 * q + c2 * r, d0 * p + d1 * q + d2 * r + d3 * s
        out[j] = y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3


@compiled(internal=True, fastmath=_EXACT)
def _add_column(lower, k, i, c, x, y):  # type: ignore[no-untyped-def]
    """Add to ``y (4, b)`` what column c adds to the whitened values i to i + 3."""
    x0, y0, y1, y2, y3 = x[c], y[0], y[1], y[2], y[3]
    a0, b0, c0, d0 = lower[k, i, c], lower[k, i + 1, c], lower[k, i + 2, c], lower[k, i + 3, c]
    for j in range(x.shape[1]):
        p = x0[j]
        y0[j] += a0 * p
        y1[j] += b0 * p
        y2[j] += c0 * p
        y3[j] += d0 * p


@compiled(internal=True, fastmath=_EXACT)
def _add_tile(lower, k, i, c, x, y):  # type: ignore[no-untyped-def]
    """Add to ``y (4, b)`` what the columns c to c + 3 add to the whitened values i to i + 3."""
    x0, x1, x2, x3, y0, y1, y2, y3 = x[c], x[c + 1], x[c + 2], x[c + 3], y[0], y[1], y[2], y[3]
    a0, a1, a2, a3 = lower[k, i, c], lower[k, i, c + 1], lower[k, i, c + 2], lower[k, i, c + 3]
    b0, b1, b2, b3 = lower[k, i + 1, c], lower[k, i + 1, c + 1], lower[k, i + 1, c + 2], lower[k, i + 1, c + 3]
    c0, c1, c2, c3 = lower[k, i + 2, c], lower[k, i + 2, c + 1], lower[k, i + 2, c + 2], lower[k, i + 2, c + 3]
    d0, d1, d2, d3 = lower[k, i + 3, c], lower[k, i + 3, c + 1], lower[k, i + 3, c + 2], lower[k, i + 3, c + 3]
    for j in range(x.shape[1]):
        p, q, r, s = x0[j], x1[j], x2[j], x3[j]
        y0[j] = y0[j] + a0 * p + a1 * q + a2 * r + a3 * s
        y1[j] = y1[j] + b0 * p + b1 * q + b2 * r + b3 * s
        y2[j] = y2[j] + c0 * p + c1 * q + c2 * r + c3 * s
        y3[j] = y3[j] + d0 * p + d1 * q + d2 * r + d3 * s


@compiled(internal=True, fastmath=_EXACT)
def _square_tile(lower, k, i, x, y, out):  # type: ignore[no-untyped-def]
    """Add the columns i to i + 3 to the whitened values i to i + 3 in ``y``, and their squares to ``out (b,)``."""
    x0, x1, x2, x3, y0, y1, y2, y3 = x[i], x[i + 1], x[i + 2], x[i + 3], y[0], y[1], y[2], y[3]
    a0, b0, b1 = lower[k, i, i], lower[k, i + 1, i], lower[k, i + 1, i + 1]
    c0, c1, c2 = lower[k, i + 2, i], lower[k, i + 2, i + 1], lower[k, i + 2, i + 2]
    d0, d1, d2, d3 = lower[k, i + 3, i], lower[k, i + 3, i + 1], lower[k, i + 3, i + 2], lower[k, i + 3, i + 3]
    for j in range(out.shape[0]):
        p, q, r, s = x0[j], x1[j], x2[j], x3[j]
        u0, u1, u2 = y0[j] + a0 * p, y1[j] + b0 * p + b1 * q, y2[j] + c0 * p + c1 * q + c2 * r
        u3 = y3[j] + d0 * p + d1 * q + d2 * r + d3 * s
        out[j] = out[j] + u0 * u0 + u1 * u1 + u2 * u2 + u3 * u3


@compiled(internal=True, fastmath=_EXACT)
def whiten_to_log_densities(rows_t, means, lower, log_norm, x, y, logp):  # type: ignore[no-untyped-def]
    """Fill ``logp (K, b)`` with the weighted log-densities of ``rows_t (D, b)``, in nats.

    ``lower (K, D, D)`` are the lower triangles ``U'``; ``x (D, b)`` and ``y (4, b)`` are overwritten.
    """
    d = rows_t.shape[0]
    head = d % 4 if d % 4 else 4
    for k in range(len(log_norm)):
        out = logp[k]
        _centre(rows_t, means[k], x)
        if head == 1:
            _square_one(lower, k, x, out)
        elif head == 2:
            _square_two(lower, k, x, out)
        elif head == 3:
            _square_three(lower, k, x, out)
        else:
            _square_four(lower, k, x, out)
        for i in range(head, d, 4):
            y[:] = 0.0
            whole = head % 4
            for c in range(whole):
                _add_column(lower, k, i, c, x, y)
            for c in range(whole, i, 4):
                _add_tile(lower, k, i, c, x, y)
            _square_tile(lower, k, i, x, y, out)
        for j in range(out.shape[0]):
            out[j] = log_norm[k] - 0.5 * out[j]


@compiled(internal=True, fastmath=_EXACT)
def scale_to_log_densities(rows_t, means, whitener, log_norm, logp):  # type: ignore[no-untyped-def]
    """Fill ``logp (K, b)`` as :func:`whiten_to_log_densities`, for diagonal structures with ``whitener (K, D)``."""
    d, b = rows_t.shape[0], logp.shape[1]
    head = d % 4
    for k in range(len(log_norm)):
        out = logp[k]
        out[:] = 0.0
        for i in range(head):
            x0, m0, w0 = rows_t[i], means[k, i], whitener[k, i]
            for j in range(b):
                y0 = (x0[j] - m0) * w0
                out[j] += y0 * y0
        for i in range(head, d, 4):
            x0, x1, x2, x3 = rows_t[i], rows_t[i + 1], rows_t[i + 2], rows_t[i + 3]
            m0, m1, m2, m3 = means[k, i], means[k, i + 1], means[k, i + 2], means[k, i + 3]
            w0, w1, w2, w3 = whitener[k, i], whitener[k, i + 1], whitener[k, i + 2], whitener[k, i + 3]
            for j in range(b):
                y0, y1 = (x0[j] - m0) * w0, (x1[j] - m1) * w1
                y2, y3 = (x2[j] - m2) * w2, (x3[j] - m3) * w3
                out[j] = out[j] + y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3
        for j in range(b):
            out[j] = log_norm[k] - 0.5 * out[j]


@compiled(fastmath=_EXACT)
def full_log_densities(rows_t, means, lower, log_norm, logp):  # type: ignore[no-untyped-def]
    """Fill ``logp (K, N)`` with the weighted log-densities of the components, in nats; ``lower`` are ``U'``."""
    d, n = rows_t.shape
    for start in range(0, n, _BLOCK):
        b = min(_BLOCK, n - start)
        rows, block = np.empty((d, b)), np.empty((len(log_norm), b))
        for i in range(d):
            for j in range(b):
                rows[i, j] = rows_t[i, start + j]
        whiten_to_log_densities(rows, means, lower, log_norm, np.empty((d, b)), np.empty((4, b)), block)
        for k in range(len(log_norm)):
            for j in range(b):
                logp[k, start + j] = block[k, j]


@compiled(fastmath=_EXACT)
def diagonal_log_densities(rows_t, means, whitener, log_norm, logp):  # type: ignore[no-untyped-def]
    """Fill ``logp (K, N)`` as :func:`full_log_densities` does, for diagonal structures with ``whitener (K, D)``."""
    d, n = rows_t.shape
    for start in range(0, n, _BLOCK):
        b = min(_BLOCK, n - start)
        rows, block = np.empty((d, b)), np.empty((len(log_norm), b))
        for i in range(d):
            for j in range(b):
                rows[i, j] = rows_t[i, start + j]
        scale_to_log_densities(rows, means, whitener, log_norm, block)
        for k in range(len(log_norm)):
            for j in range(b):
                logp[k, start + j] = block[k, j]


def sum_full(density: Density, rows_t: Array, weights: Array, offsets: Array, backgrounds: Array) -> KernelResults:
    """Return what :func:`full_pass` gives as ``sums``, and ``expected``, ``weight``, ``mean``, ``scatter``."""
    (m, d), sums, lower = density.means.shape, np.zeros((len(backgrounds), 2)), density.lower
    moments = np.zeros((m, d + 1, d + 1))
    full_pass(rows_t, weights, density.means, lower, density.log_norm, offsets, backgrounds, moments, sums)
    weight, second = moments[:, d, d], moments[:, :d, :d]
    whitened_mean = divide_by_weight(moments[:, :d, d], weight)
    expected = density.log_norm * weight - 0.5 * np.einsum("kjj->k", second)
    about_mean = second - weight[:, None, None] * (whitened_mean[:, :, None] * whitened_mean[:, None, :])
    unwhiten = np.linalg.inv(lower)
    scatter = unwhiten @ about_mean @ np.swapaxes(unwhiten, 1, 2)
    return sums, expected, weight, density.means + np.einsum("kij,kj->ki", unwhiten, whitened_mean), scatter


def sum_diagonal(
    density: Density, rows_t: Array, weights: Array, offsets: Array, backgrounds: Array
) -> KernelResults:
    """Return the same from :func:`diagonal_pass`."""
    (m, d), sums = density.means.shape, np.zeros((len(backgrounds), 2))
    moments = np.zeros((m, 1 + 2 * d))
    diagonal_pass(
        rows_t, weights, density.means, density.whitener, density.log_norm, offsets, backgrounds, moments, sums
    )
    weight, second = moments[:, 0], moments[:, 1 + d :]
    whitened_mean = divide_by_weight(moments[:, 1 : 1 + d], weight)
    expected = density.log_norm * weight - 0.5 * second.sum(axis=1)
    scatter = (second - weight[:, None] * whitened_mean**2) / density.whitener**2
    return sums, expected, weight, density.means + whitened_mean / density.whitener, scatter
