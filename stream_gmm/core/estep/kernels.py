"""The compiled loops of the feature kernels: features -> log-densities -> responsibilities -> sums.

Rows are processed in blocks of ``b`` rows, small enough for the features and log-densities of a block to stay in
the cache; features and log-densities are made group by group, a group being some rows that fill vector registers.
Arrays are feature-major (``rows_t (D, N)``), so that every inner loop runs over contiguous memory. The
GIL is released; compiled code is cached on disk, so that the first task of a worker need not compile.

The matrix products are those of :mod:`.tiles`; the rest is written so that the compiler can vectorise it, in float64
or float32, depending on the type of the packed weights. Sums over blocks are always float64.

Sizes: ``M`` components of all candidates together, ``C`` candidates, ``F`` features, ``D`` columns, ``N`` rows.
``offsets (C + 1,)`` gives the components of each candidate: those of candidate c are ``offsets[c]`` to
``offsets[c + 1] - 1``.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.tiles.products import (
    add_products,
    allocate,
    copy_group,
    count_lanes,
    multiply_group,
    multiply_rows,
    pad_columns,
    transpose_group,
)
from stream_gmm.core.model.features import DIAGONAL_ORDER, ISOTROPIC_ORDER, QUADRATIC_ORDER

_FAST = {"reassoc", "contract", "nsz", "arcp"}
# Flags of LLVM. Not "reassoc" for exp: it would simplify ``(t + magic) - magic`` away.
_EXACT = {"contract", "nsz"}
_BLOCK = 384
_CACHED_BYTES = 250_000


@intrinsic
def bits64(_, x):  # type: ignore[no-untyped-def]
    """Reinterpret a float64 as an int64."""
    return types.int64(types.float64), lambda c, b, s, args: b.bitcast(args[0], ir.IntType(64))


@intrinsic
def float64(_, x):  # type: ignore[no-untyped-def]
    """Reinterpret an int64 as a float64."""
    return types.float64(types.int64), lambda c, b, s, args: b.bitcast(args[0], ir.DoubleType())


@intrinsic
def _bits32(_, x):  # type: ignore[no-untyped-def]
    """Reinterpret a float32 as an int32."""
    return types.int32(types.float32), lambda c, b, s, args: b.bitcast(args[0], ir.IntType(32))


@intrinsic
def _float32(_, x):  # type: ignore[no-untyped-def]
    """Reinterpret an int32 as a float32."""
    return types.float32(types.int32), lambda c, b, s, args: b.bitcast(args[0], ir.FloatType())


def exp_nonpositive(x):  # type: ignore[no-untyped-def]
    """Return ``exp(x)`` for ``x <= 0`` in compiled code; 0 below 1e-100 (float64) or 1e-26 (float32).

    ``exp(x) = 2^n exp(r)`` with ``|r| <= ln 2 / 2``; adding 1.5 * 2^52 rounds n to the low bits of the
    sum, and a polynomial through Chebyshev nodes gives ``exp(r)`` (relative error 3e-16 in float64, 3e-9 in
    float32). Smaller values are set to 0: they are far below a unit in the last place of any sum, and subnormal
    numbers would make the matrix products a hundred times slower.
    """
    raise TypeError("for compiled code only")


@overload(exp_nonpositive, jit_options={"fastmath": _EXACT}, inline="always")
def _overload_exp_nonpositive(x):  # type: ignore[no-untyped-def]
    return _exp32 if x == types.float32 else _exp64


def _exp64(x):  # type: ignore[no-untyped-def]
    value = max(x, -230.0)
    shifted = value * 1.4426950408889634 + 6755399441055744.0
    whole = shifted - 6755399441055744.0
    r = (value - whole * 0.6931471803691238) - whole * 1.9082149292705877e-10
    p = 2.7626357241447223e-07
    p = p * r + 2.764018079620985e-06
    p = p * r + 2.4801504346997686e-05
    p = p * r + 0.00019841170270440067
    p = p * r + 0.0013888888932488599
    p = p * r + 0.008333333385667782
    p = p * r + 0.04166666666657314
    p = p * r + 0.16666666666554406
    p = p * r + 0.5000000000000006
    p = p * r + 1.0000000000000067
    p = p * r + 1.0
    p = p * float64((bits64(shifted) + 1023) << 52)
    return p if x > -230.0 else 0.0


def _exp32(x):  # type: ignore[no-untyped-def]
    value = max(x, np.float32(-60.0))
    shifted = value * np.float32(1.4426950408889634) + np.float32(12582912.0)
    whole = shifted - np.float32(12582912.0)
    r = (value - whole * np.float32(0.693359375)) - whole * np.float32(-2.12194440e-4)
    p = np.float32(0.0013941108433972674)
    p = p * r + np.float32(0.008375126398153335)
    p = p * r + np.float32(0.04166635289677516)
    p = p * r + np.float32(0.16666415514653277)
    p = p * r + np.float32(0.5000000047117757)
    p = p * r + np.float32(1.000000037716214)
    p = p * r + np.float32(1.0)
    p = p * _float32((_bits32(shifted) + np.int32(127)) << np.int32(23))
    return p if x > np.float32(-60.0) else np.float32(0.0)


@compiled(fastmath=_EXACT)
def exp_row(x, top, total):  # type: ignore[no-untyped-def]
    """Replace ``x (b,)`` by ``e = exp(x - top)``, for ``x <= top``, and add it to ``total (b,)``."""
    for j in range(x.shape[0]):
        e = exp_nonpositive(x[j] - top[j])  # type: ignore[no-untyped-call]
        x[j] = e
        total[j] += e


@compiled(internal=True, fastmath=_EXACT)
def exp_background(background, top, total):  # type: ignore[no-untyped-def]
    """Raise ``top (b,)`` to at least ``background``, and set ``total (b,)`` to ``exp(background - top)``."""
    for j in range(top.shape[0]):
        top[j] = max(top[j], background)
        total[j] = exp_nonpositive(background - top[j])  # type: ignore[no-untyped-call]


@compiled(internal=True, fastmath=_FAST)
def _sum_of_logs(values):  # type: ignore[no-untyped-def]
    """Return the sum of the logarithms of values in [1, 1e15], with one logarithm for the product of eight."""
    n = values.shape[0]
    eighth = n // 8
    out = 0.0
    for j in range(eighth):
        product = np.float64(values[j])
        for i in range(1, 8):
            product *= np.float64(values[j + i * eighth])
        out += np.log(product)
    for j in range(8 * eighth, n):
        out += np.log(np.float64(values[j]))
    return out


@compiled(internal=True, fastmath=_FAST)
def compute_responsibilities(logp, offsets, weights, backgrounds, sums, scratch):  # type: ignore[no-untyped-def]
    """Replace log-densities ``logp (M, b)`` by responsibilities times row weights, candidate by candidate.

    ``weights`` holds the weights of the rows ``(b,)``, or is empty ``(0,)`` if every row counts once.
    ``backgrounds (C,)`` holds the weighted log-density of the noise of each candidate, which takes its share of the
    responsibilities; -1e300 for a candidate without noise. The log-likelihood and the sum of the log of the largest
    responsibility, in nats, are added to ``sums (C, 2)``; ``scratch (2, b)`` is overwritten.
    """
    b = logp.shape[1]
    top, total = scratch[0], scratch[1]
    for c in range(len(offsets) - 1):
        lo, hi = offsets[c], offsets[c + 1]
        row = logp[lo]
        for j in range(b):
            top[j] = row[j]
        for k in range(lo + 1, hi):
            row = logp[k]
            for j in range(b):
                top[j] = max(top[j], row[j])
        total[:] = 0.0
        if backgrounds[c] > -1e299:
            exp_background(backgrounds[c], top, total)
        for k in range(lo, hi):
            exp_row(logp[k], top, total)
        highest = 0.0
        if weights.shape[0]:
            log_total = 0.0
            for j in range(b):
                log_total += weights[j] * np.log(np.float64(total[j]))
                highest += weights[j] * np.float64(top[j])
                total[j] = weights[j] / total[j]
        else:
            log_total = _sum_of_logs(total)
            for j in range(b):
                highest += np.float64(top[j])
                total[j] = 1.0 / total[j]
        for k in range(lo, hi):
            row = logp[k]
            for j in range(b):
                row[j] *= total[j]
        sums[c, 0] += highest + log_total
        sums[c, 1] -= log_total


@compiled(internal=True, fastmath=_FAST)
def standardise(rows_t, start, shift, inverse_scale, out):  # type: ignore[no-untyped-def]
    """Fill ``out (D, b)`` with the b rows that begin at ``start``, centred and scaled."""
    d, b = out.shape
    for i in range(d):
        target, source, origin, factor = out[i], rows_t[i, start : start + b], shift[i], inverse_scale[i]
        for j in range(b):
            target[j] = (source[j] - origin) * factor


@compiled(internal=True, fastmath=_FAST)
def sphere(z, inverse_root, out):  # type: ignore[no-untyped-def]
    """Fill ``out (D, b)`` with ``inverse_root @ z``."""
    sphered = np.dot(inverse_root, z)
    for i in range(z.shape[0]):
        target, source = out[i], sphered[i]
        for j in range(z.shape[1]):
            target[j] = source[j]


@compiled(internal=True, fastmath=_FAST)
def sum_squares(z, norms):  # type: ignore[no-untyped-def]
    """Fill ``norms (1, b)`` with the squared norms of the columns of ``z (D, b)``."""
    target = norms[0]
    target[:] = 0.0
    for i in range(z.shape[0]):
        source = z[i]
        for j in range(target.shape[0]):
            target[j] += source[j] * source[j]


@compiled(inline="always")
def complete_features(d, order, group):  # type: ignore[no-untyped-def]
    """Complete the features of a group, ``group (F, rows)``, which holds 1 in row 0 and z in its rows 1 to D.

    ``order`` is one of the constants of :mod:`stream_gmm.core.model.features`: nothing more, the squares, or all
    products ``z_i z_j`` with i <= j. ``|z|^2`` is that of :func:`sum_squares`.
    """
    first = 1 + d
    if order == DIAGONAL_ORDER:
        for i in range(d):
            multiply_rows(group, 1 + i, 1 + i, 1, first + i)
    elif order == QUADRATIC_ORDER:
        for i in range(d):
            multiply_rows(group, 1 + i, 1 + i, d - i, first)
            first += d - i


@compiled()
def block_rows(m, f, item_bytes):  # type: ignore[no-untyped-def]
    """Return how many rows make a block: whole groups, few enough for the cache, many enough for long loops."""
    group_rows = 2 * count_lanes(item_bytes)
    return max(min(_CACHED_BYTES // ((m + f) * item_bytes), _BLOCK) // group_rows, 1) * group_rows


@compiled(fastmath=_FAST)
def feature_pass(  # type: ignore[no-untyped-def]
    rows_t, row_weights, shift, inverse_scale, inverse_root, order, weights, offsets, backgrounds, totals, sums
):
    """E-step by features: add the sums over rows of ``r features'`` to ``totals (M, F)``.

    ``r`` are the responsibilities times the row weights. The features are those of
    ``z = inverse_root (x - shift) inverse_scale``, without the root if that is empty ``(0, 0)``. ``weights (M, F)``
    are the packed weights of the components, ``order`` is as in :func:`complete_features`, and ``row_weights``,
    ``backgrounds`` and ``sums`` are as in :func:`compute_responsibilities`.
    """
    d, n = rows_t.shape
    m, f = weights.shape
    size = weights.itemsize
    group_rows, wide = 2 * count_lanes(size), pad_columns(f, size)
    step = min(block_rows(m, f, size), (n + group_rows - 1) // group_rows * group_rows)
    everyone = np.arange(m)
    group, features = allocate(wide, group_rows, weights), allocate(step, wide, weights)
    group[0] = 1.0
    logp, scratch = allocate(m, step, weights), allocate(np.int64(2), step, weights)
    z, norms, part = allocate(d, step, weights), allocate(np.int64(1), step, weights), allocate(m, wide, weights)
    centred = np.empty((d, step))
    pending = 0
    for start in range(0, n, step):
        b = min(step, n - start)
        block, first, block_weights = rows_t, start, row_weights[start : start + b]
        if b < step:
            # Copies of the last row, with weight 0, fill up the last block.
            block, first, block_weights = np.empty((d, step)), 0, np.zeros(step)
            for i in range(d):
                target, source, last = block[i], rows_t[i, start:], rows_t[i, n - 1]
                for j in range(b):
                    target[j] = source[j]
                target[b:] = last
            block_weights[:b] = 1.0
            if row_weights.shape[0]:
                for j in range(b):
                    block_weights[j] = row_weights[start + j]
        if inverse_root.shape[0]:
            standardise(block, first, shift, inverse_scale, centred)
            sphere(centred, inverse_root, z)
        else:
            standardise(block, first, shift, inverse_scale, z)
        if order == ISOTROPIC_ORDER:
            sum_squares(z, norms)
        used = (b + group_rows - 1) // group_rows * group_rows
        for lo in range(0, used, group_rows):
            copy_group(z, lo, group, 1)
            if order == ISOTROPIC_ORDER:
                copy_group(norms, lo, group, 1 + d)
            complete_features(d, order, group)
            multiply_group(weights, everyone, m, group, logp, lo)
            transpose_group(group, features, lo)
        compute_responsibilities(logp, offsets, block_weights, backgrounds, sums, scratch)
        add_products(logp, everyone, m, features, used, part)
        pending += b
        if pending >= _BLOCK or start + b == n:
            for k in range(m):
                total, added = totals[k], part[k]
                for i in range(f):
                    total[i] += added[i]
            part[:] = 0.0
            pending = 0
