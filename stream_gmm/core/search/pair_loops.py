"""The compiled loops over pairs for :mod:`.seeding`: of rows, for their neighbours, and of clusters, to merge."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.search.seeding_loops import fill_squared_distances


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


@compiled(internal=True, error_model="numpy")
def _select_least(values, items, size, wanted):  # type: ignore[no-untyped-def]
    """Bring the ``wanted`` least of so many values and their items to the front, the largest of them last.

    By quickselect (Hoare 1961).
    """
    low, high, place = 0, size - 1, wanted - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                items[i], items[j] = items[j], items[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break


@compiled(error_model="numpy")
def find_neighbours(rows_t, neighbours, radius):  # type: ignore[no-untyped-def]
    """Write each row and its nearest neighbours ``(m, n + 1)``, and the distance to the last of them ``(m,)``.

    The rows are dealt into groups, at least twice as many as neighbours are wanted. As many groups as that have a row
    within that place among the groups' least distances; few others than the neighbours are as near.
    """
    d, m = rows_t.shape
    wanted = neighbours.shape[1]
    groups = min(2 * wanted, m)
    distance, centre, nearest = np.empty(m), np.empty(d), np.empty(groups)
    values, items = np.empty(m + 1), np.empty(m + 1, np.int64)
    for row in range(m):
        for i in range(d):
            centre[i] = rows_t[i, row]
        fill_squared_distances(rows_t, np.int64(0), centre, distance)
        for g in range(groups):
            nearest[g] = distance[g]
        for start in range(groups, m, groups):
            part = distance[start : min(start + groups, m)]
            for g in range(len(part)):
                nearest[g] = min(nearest[g], part[g])
        _select_least(nearest, items, groups, wanted)
        bound, size = nearest[wanted - 1], np.uint64(0)  # an index without a sign needs no look at it
        for j in range(m):
            items[size] = j
            size += np.uint64(distance[j] <= bound)
        for j in range(np.int64(size)):
            values[j] = distance[items[j]]
        _select_least(values, items, np.int64(size), wanted)
        radius[row] = np.sqrt(values[wanted - 1])
        for n in range(wanted):
            neighbours[row, n] = items[n]
