"""The compiled loop that merges clusters pair by pair, for :mod:`.seeding`."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled


@compiled(internal=True, error_model="numpy")
def _measure_volume(weight, scatter, ridge):  # type: ignore[no-untyped-def]
    """Return the weight times half the log-determinant of a covariance with a ridge; -inf if that is singular."""
    d = len(ridge)
    factor, total = np.zeros((d, d)), 0.0
    for i in range(d):
        for j in range(i + 1):
            s = scatter[i, j] / weight + ridge[i, j]
            for m in range(j):
                s -= factor[i, m] * factor[j, m]
            if i > j:
                factor[i, j] = s / factor[j, j]
            elif s > 0.0:
                factor[i, i] = np.sqrt(s)
                total += np.log(factor[i, i])
            else:
                return -np.inf
    return weight * total


@compiled(error_model="numpy")
def merge_clusters(weight, mean, scatter, ridge, wanted):  # type: ignore[no-untyped-def]
    """Return for each cluster which of the ``wanted`` ones it ends in, after merging pair by pair.

    The pair is merged that loses the least log-likelihood of a normal distribution for each cluster.
    """
    n, d = mean.shape
    ends, alive, volume = np.arange(n), np.ones(n, np.bool_), np.empty(n)
    loss, both = np.full((n, n), np.inf), np.empty((d, d))
    for i in range(n):
        volume[i] = _measure_volume(weight[i], scatter[i], ridge)
    first, left = 0, n
    stale = np.arange(n)
    while True:
        for i in stale:
            for j in range(n):
                if j != i and alive[i] and alive[j] and (len(stale) == 1 or j > i):
                    total = weight[i] + weight[j]
                    share = weight[i] * weight[j] / total
                    for a in range(d):
                        for b in range(d):
                            between = share * (mean[i, a] - mean[j, a]) * (mean[i, b] - mean[j, b])
                            both[a, b] = scatter[i, a, b] + scatter[j, a, b] + between
                    value = _measure_volume(total, both, ridge) - volume[i] - volume[j]
                    loss[min(i, j), max(i, j)] = value if value == value else np.inf
        if left <= wanted:
            break
        first, second, least = 0, 1, np.inf
        for i in range(n):
            for j in range(i + 1, n):
                if alive[i] and alive[j] and (loss[i, j] < least or least == np.inf):
                    first, second, least = i, j, loss[i, j]
        i, j = first, second
        total = weight[i] + weight[j]
        share = weight[i] * weight[j] / total
        for a in range(d):
            for b in range(d):
                between = share * (mean[i, a] - mean[j, a]) * (mean[i, b] - mean[j, b])
                scatter[i, a, b] += scatter[j, a, b] + between
        for a in range(d):
            mean[i, a] = (weight[i] * mean[i, a] + weight[j] * mean[j, a]) / total
        weight[i], alive[j], left = total, False, left - 1
        volume[i] = _measure_volume(weight[i], scatter[i], ridge)
        for c in range(n):
            ends[c] = i if ends[c] == j else ends[c]
        stale = np.full(1, i)
    return ends
