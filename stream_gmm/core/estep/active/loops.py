"""The compiled loop of the feature kernel that skips components which add nothing to a row.

Rows of a window are sorted by a *label*, the component to which a linear score assigns them, so that the rows of a
group are near each other. For a group, components are evaluated in three steps: the labels themselves, which bound
the likelihood of every row from below; for every component a bound of its density from above, by one coordinate of
the whitened row; and in full those which the bounds leave. Labels and coordinates decide what is evaluated, never
what it is worth: any choice of them gives the same statistics to rounding.
"""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.active.vectors import exponentiate, find_highest, find_possible, scale_rows
from stream_gmm.core.estep.kernels import complete_features, exp_nonpositive, sphere, standardise
from stream_gmm.core.estep.tiles.products import (
    add_products,
    allocate,
    copy_group,
    multiply_group,
    pad_columns,
    transpose_group,
)
from stream_gmm.core.estep.tiles.vectors import VECTOR_BYTES
from stream_gmm.core.model.features import QUADRATIC_ORDER

_FAST = {"contract", "nsz"}
_ROWS = 2 * VECTOR_BYTES // 8
WINDOW = 8192
"""Rows that are sorted together: their coordinates stay in the cache."""
NEGLIGIBLE = 1e-15
"""A component is skipped if it adds less than this share to the likelihood of every row of a group."""
GAP = 35.5
"""Nats: -log(NEGLIGIBLE) and one more, for the rounding errors of bounds and densities."""
_RELATIVE = 1e-9  # of a bound far outside of all components, where rounding errors grow with the distance


@compiled(fastmath=_FAST)
def label_rows(z, label_weights, group, scores, labels):  # type: ignore[no-untyped-def]
    """Fill ``labels (N,)`` with the number of the highest linear score of the columns of ``z (D, N)``.

    ``label_weights (K, 1 + D)`` give the scores; ``group`` and ``scores (K, rows)`` are overwritten.
    """
    k = len(label_weights)
    everyone = np.arange(k)
    top, best = np.empty(_ROWS), np.empty(_ROWS)
    for lo in range(0, z.shape[1], _ROWS):
        copy_group(z, lo, group, 1)
        multiply_group(label_weights, everyone, k, group, scores, 0)
        top[:] = -np.inf
        find_highest(scores, k, top, best)
        for j in range(_ROWS):
            labels[lo + j] = max(np.int64(best[j]), 0)


@compiled()
def sort_by_label(labels, n_labels, order):  # type: ignore[no-untyped-def]
    """Fill ``order (N,)`` with the row numbers sorted by label; rows of one label keep their order."""
    starts = np.zeros(n_labels + 1, np.int64)
    for label in labels:
        starts[label + 1] += 1
    for label in range(n_labels):
        starts[label + 1] += starts[label]
    for row in range(len(labels)):
        order[starts[labels[row]]] = row
        starts[labels[row]] += 1


@compiled(internal=True, fastmath=_FAST)
def _sum_logs(values):  # type: ignore[no-untyped-def]
    """Return the sum of the logarithms of a multiple of eight values in [1, 1e15], added in order.

    One logarithm is taken for the product of eight.
    """
    out = 0.0
    for j in range(0, len(values), 8):
        product = values[j]
        for i in range(j + 1, j + 8):
            product *= values[i]
        out += np.log(product)
    return out


@compiled(fastmath=_FAST)
def active_pass(  # type: ignore[no-untyped-def]
    rows_t, row_weights, shift, inverse_scale, inverse_root, weights, log_norm, label_weights, directions, background,
    totals, sums,
):  # fmt: skip
    """E-step of one candidate by quadratic features, without what is negligible; return the pairs that it evaluated.

    ``label_weights`` and ``directions (K * K, 1 + D)`` are those of a :class:`~.screen.Screen`, ``log_norm (K,)`` are
    the log-densities of the components at their means; the other arguments are those of
    :func:`~stream_gmm.core.estep.kernels.feature_pass` for one candidate. Returned are the numbers of pairs of a row
    and a component whose log-density was computed, and of those that were summed.
    """
    d, n = rows_t.shape
    k, f = weights.shape
    wide = pad_columns(f, 8)
    step = min(WINDOW, (n + _ROWS - 1) // _ROWS * _ROWS)
    group, features = allocate(wide, _ROWS, weights), allocate(_ROWS, wide, weights)
    group[0] = 1.0
    scores, logp = allocate(k, _ROWS, weights), allocate(k, _ROWS, weights)
    z, centred, part = allocate(d, step, weights), np.empty((d, step)), allocate(k, wide, weights)
    labels, order, pairs = np.empty(step, np.int64), np.empty(step, np.int64), np.arange(k * k)
    all_tops, all_totals = np.empty(step), np.empty(step)
    # find_possible writes one number more than it counts.
    active, anchors = np.empty(k + 1, np.int64), np.empty(_ROWS, np.int64)
    floor, top, best = np.empty(_ROWS), np.empty(_ROWS), np.empty(_ROWS)
    total, share = np.empty(_ROWS), np.empty(_ROWS)
    noisy, evaluated, summed = background > -1e299, 0, 0
    for start in range(0, n, step):
        b = min(step, n - start)
        block, first = rows_t, start
        if b < step:
            # Copies of the last row, with weight 0, fill up the last window.
            step = (b + _ROWS - 1) // _ROWS * _ROWS
            z, centred = allocate(d, step, weights), np.empty((d, step))
            labels, order = np.empty(step, np.int64), np.empty(step, np.int64)
            all_tops, all_totals = np.empty(step), np.empty(step)
            block, first = np.empty((d, step)), 0
            for i in range(d):
                target, source, last = block[i], rows_t[i, start:], rows_t[i, n - 1]
                for j in range(b):
                    target[j] = source[j]
                target[b:] = last
        if inverse_root.shape[0]:
            standardise(block, first, shift, inverse_scale, centred)
            sphere(centred, inverse_root, z)
        else:
            standardise(block, first, shift, inverse_scale, z)
        label_rows(z, label_weights, group, scores, labels)
        sort_by_label(labels, k, order)
        for lo in range(0, step, _ROWS):
            n_anchors = 0
            for j in range(_ROWS):
                row = order[lo + j]
                if n_anchors == 0 or anchors[n_anchors - 1] != labels[row]:
                    anchors[n_anchors] = labels[row]
                    n_anchors += 1
                share[j] = 0.0
                if row < b:
                    share[j] = row_weights[start + row] if row_weights.shape[0] else 1.0
            for i in range(d):
                target, source = group[1 + i], z[i]
                for j in range(_ROWS):
                    target[j] = source[order[lo + j]]
            complete_features(d, QUADRATIC_ORDER, group)

            floor[:] = background
            multiply_group(weights, anchors, n_anchors, group, logp, 0)
            find_highest(logp, n_anchors, floor, best)
            for j in range(_ROWS):
                floor[j] -= GAP + _RELATIVE * abs(floor[j])
            middle = labels[order[lo + _ROWS // 2]]
            multiply_group(directions, pairs[middle * k : (middle + 1) * k], k, group, scores, 0)
            count = find_possible(scores, log_norm, 0.5 - _RELATIVE, k, floor, active)
            multiply_group(weights, active, count, group, logp, 0)
            evaluated += count

            top[:] = background
            find_highest(logp, count, top, best)
            for j in range(_ROWS):
                total[j] = exp_nonpositive(background - top[j]) if noisy else 0.0  # type: ignore[no-untyped-call]
            kept = exponentiate(logp, count, top, total, NEGLIGIBLE, active)
            for j in range(_ROWS):
                all_tops[lo + j], all_totals[lo + j], share[j] = top[j], total[j], share[j] / total[j]
            scale_rows(logp, kept, share)
            transpose_group(group, features, 0)
            add_products(logp, active, kept, features, _ROWS, part)
            summed += kept
        if row_weights.shape[0] or b < step:
            for j in range(step):
                row = order[j]
                if row < b:
                    weight = row_weights[start + row] if row_weights.shape[0] else 1.0
                    log_total = np.log(all_totals[j])
                    sums[0, 0] += weight * (all_tops[j] + log_total)
                    sums[0, 1] -= weight * log_total
        else:
            log_total = _sum_logs(all_totals)
            sums[0, 0] += all_tops.sum() + log_total
            sums[0, 1] -= log_total
        for c in range(k):
            target, source = totals[c], part[c]
            for i in range(f):
                target[i] += source[i]
        part[:] = 0.0
    return evaluated * _ROWS, summed * _ROWS
