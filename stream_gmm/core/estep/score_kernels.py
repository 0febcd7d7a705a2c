"""The compiled loops that score rows: whitened rows -> log-densities -> responsibilities, component, distance.

A block of rows goes through all steps before the next one, so that what is between them stays in the cache. The
log-densities are those of :mod:`.whitening`, in which no digits cancel. A row has the same scores, to the last bit,
whatever rows stand beside it. Sizes and axis order are as in :mod:`.kernels`.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.kernels import bits64, exp_background, exp_nonpositive, float64
from stream_gmm.core.estep.whitening import scale_to_log_densities, whiten_to_log_densities

_EXACT = {"contract", "nsz"}
_BLOCK = 256


def log_positive(x):  # type: ignore[no-untyped-def]
    """Return ``log(x)`` for a normal ``x > 0`` in compiled code, and -inf for 0; it can be vectorised.

    ``x = 2^e (1 + f)`` with ``sqrt(1/2) <= 1 + f < sqrt(2)``, and ``log(1 + f) = 2 artanh(f / (2 + f))`` by its
    series (relative error 4e-16).
    """
    raise TypeError("for compiled code only")


@overload(log_positive, jit_options={"fastmath": _EXACT, "error_model": "numpy"}, inline="always")
def _overload_log_positive(x):  # type: ignore[no-untyped-def]
    return _log64 if x == types.float64 else None


def _log64(x):  # type: ignore[no-untyped-def]
    bits = bits64(x)
    # Adding the distance from sqrt(1/2) to 1 carries into the exponent exactly if the fraction is beyond sqrt(2).
    exponent = ((bits + 0x00095F619980C433) >> 52) - 1023
    f = float64(bits - (exponent << 52)) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 2.0 / 21.0
    p = p * z + 2.0 / 19.0
    p = p * z + 2.0 / 17.0
    p = p * z + 2.0 / 15.0
    p = p * z + 2.0 / 13.0
    p = p * z + 2.0 / 11.0
    p = p * z + 2.0 / 9.0
    p = p * z + 2.0 / 7.0
    p = p * z + 2.0 / 5.0
    p = p * z + 2.0 / 3.0
    tail = s * z * p
    e = np.float64(exponent)
    out = e * 0.6931471803691238 + (2.0 * s + (tail + e * 1.9082149292705877e-10))
    return out if x > 0.0 else -np.inf


@compiled(internal=True, fastmath=_EXACT)
def _gather_rows(rows, step, stride, start, out):  # type: ignore[no-untyped-def]
    """Fill ``out (D, b)`` with the rows from ``start`` on; ``rows`` is flat, see :func:`score_full`."""
    d, b = out.shape
    if step == 1:
        for i in range(d):
            target, source = out[i], rows[i * stride + start : i * stride + start + b]
            for j in range(b):
                target[j] = source[j]
    else:
        source, whole = rows[start * step : (start + b) * step], b - b % 8
        for begin in range(0, whole, 8):  # eight values fill a line of the cache
            for i in range(d):
                target = out[i, begin : begin + 8]
                for j in range(8):
                    target[j] = source[(begin + j) * step + i]
        for j in range(whole, b):
            for i in range(d):
                out[i, j] = source[j * step + i]


@compiled(internal=True, fastmath=_EXACT)
def _exp_and_entropy(x, top, total, entropy):  # type: ignore[no-untyped-def]
    """Replace ``x (b,)`` by ``e = exp(x - top)``; add e to ``total (b,)`` and ``e (x - top)`` to ``entropy (b,)``."""
    for j in range(x.shape[0]):
        t = x[j] - top[j]
        t = t if t > -1e300 else -1e300  # 0 * inf would be NaN
        e = exp_nonpositive(t)  # type: ignore[no-untyped-call]
        x[j] = e
        total[j] += e
        entropy[j] += e * t


@compiled(internal=True, fastmath=_EXACT, error_model="numpy")
def complete_scores(  # type: ignore[no-untyped-def]
    logp, start, log_norm, background, noisy,
    component, proba, step, stride, log_density, distance, entropy, highest, noise,
):  # fmt: skip
    """Fill the scores of the b rows from ``start`` on, from their log-densities ``logp (K, b)``, which are used up.

    ``component``, ``log_density``, ``distance`` (squared, to the likeliest component), ``entropy`` (nats, with that
    of the noise) and ``highest`` (the largest responsibility) are ``(N,)``. ``proba (N K,)`` gets the responsibility
    of component c for row j at ``j step + c stride``, and ``noise (N,)`` is empty unless ``noisy``. Of a row whose
    log-densities are all -inf, the log-density is that of the noise or -inf, the distance inf, and the
    responsibilities are 0.
    """
    k, b = logp.shape
    top, total, best, spread, share = np.empty(b), np.zeros(b), np.zeros(b, np.int32), np.zeros(b), np.empty(b)
    for j in range(b):
        top[j] = logp[0, j]
    for c in range(1, k):
        row = logp[c]
        for j in range(b):
            higher = row[j] > top[j]
            top[j] = row[j] if higher else top[j]
            best[j] = c if higher else best[j]
    for j in range(b):
        distance[start + j] = max(-2.0 * (top[j] - log_norm[best[j]]), 0.0)
        component[start + j] = -1 if noisy and background > top[j] else best[j]
    for j in range(b):
        if not top[j] > -1e308:  # also where an overflow has made it NaN
            top[j] = background if noisy else 0.0
            component[start + j] = -1 if noisy else best[j]
            distance[start + j] = np.inf
            for c in range(k):
                logp[c, j] = -np.inf
    if noisy:
        exp_background(background, top, total)
        for j in range(b):
            share[j] = total[j]
            spread[j] = total[j] * (background - top[j])
    for c in range(k):
        _exp_and_entropy(logp[c], top, total, spread)
    for j in range(b):
        log_total = log_positive(total[j])  # type: ignore[no-untyped-call]
        log_density[start + j] = top[j] + log_total
        inverse = 1.0 / total[j] if total[j] > 0.0 else 0.0
        entropy[start + j] = log_total - spread[j] * inverse if total[j] > 0.0 else 0.0
        highest[start + j] = total[j] = inverse
    if noisy:
        for j in range(b):
            noise[start + j] = share[j] * total[j]
    if step == 1:
        for c in range(k):
            row, target = logp[c], proba[c * stride + start : c * stride + start + b]
            for j in range(b):
                target[j] = row[j] * total[j]
    else:
        target, whole = proba[start * step : (start + b) * step], b - b % 8
        for begin in range(0, whole, 8):
            for c in range(k):
                row = logp[c, begin : begin + 8]
                for j in range(8):
                    target[(begin + j) * step + c] = row[j] * total[begin + j]
        for j in range(whole, b):
            for c in range(k):
                target[j * step + c] = logp[c, j] * total[j]


@compiled(fastmath=_EXACT)
def score_full(  # type: ignore[no-untyped-def]
    rows, steps, n, means, lower, log_norm, background, noisy,
    component, proba, log_density, distance, entropy, highest, noise,
):  # fmt: skip
    """Fill the scores of n rows; ``lower (K, D, D)`` are ``U'``, and the rest is as in :func:`complete_scores`.

    ``rows (N D,)`` and ``proba (N K,)`` are flat: entry i of row j is at ``j step + i stride``. ``steps`` holds step
    and stride of both; either the step or the stride is 1.
    """
    d, k = means.shape[1], len(log_norm)
    for start in range(0, n, _BLOCK):
        b = min(_BLOCK, n - start)
        if start == 0 or b < _BLOCK:
            rows_t, x, y, logp = np.empty((d, b)), np.empty((d, b)), np.empty((4, b)), np.empty((k, b))
        _gather_rows(rows, steps[0], steps[1], start, rows_t)
        whiten_to_log_densities(rows_t, means, lower, log_norm, x, y, logp)
        complete_scores(
            logp, start, log_norm, background, noisy,
            component, proba, steps[2], steps[3], log_density, distance, entropy, highest, noise,
        )  # fmt: skip


@compiled(fastmath=_EXACT)
def score_diagonal(  # type: ignore[no-untyped-def]
    rows, steps, n, means, whitener, log_norm, background, noisy,
    component, proba, log_density, distance, entropy, highest, noise,
):  # fmt: skip
    """Fill the scores of n rows for diagonal structures with ``whitener (K, D)``; otherwise as :func:`score_full`."""
    d, k = means.shape[1], len(log_norm)
    for start in range(0, n, _BLOCK):
        b = min(_BLOCK, n - start)
        if start == 0 or b < _BLOCK:
            rows_t, logp = np.empty((d, b)), np.empty((k, b))
        _gather_rows(rows, steps[0], steps[1], start, rows_t)
        scale_to_log_densities(rows_t, means, whitener, log_norm, logp)
        complete_scores(
            logp, start, log_norm, background, noisy,
            component, proba, steps[2], steps[3], log_density, distance, entropy, highest, noise,
        )  # fmt: skip
