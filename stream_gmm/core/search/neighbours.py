"""Nearest neighbours of rows in many columns, by comparing all pairs of them: compiled."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.search.seeding_loops import fill_squared_distances


@compiled(internal=True, error_model="numpy")
def _sink(values, items, size, value, item):  # type: ignore[no-untyped-def]
    """Put a value and its item in place of the largest ones, at the top of a binary heap of so many values."""
    place, child = 0, 1
    while child < size:
        if child + 1 < size and values[child + 1] > values[child]:
            child += 1
        if values[child] <= value:
            break
        values[place], items[place] = values[child], items[child]
        place, child = child, 2 * child + 1
    values[place], items[place] = value, item


@compiled(error_model="numpy")
def find_neighbours(rows_t, neighbours, radius):  # type: ignore[no-untyped-def]
    """Write each row and its nearest neighbours ``(m, n + 1)``, and the distance to the last of them ``(m,)``."""
    m = rows_t.shape[1]
    wanted = neighbours.shape[1]
    distance, nearest, centre = np.empty(m), np.empty(wanted), np.empty(len(rows_t))
    for row in range(m):
        for i in range(len(rows_t)):
            centre[i] = rows_t[i, row]
        fill_squared_distances(rows_t, np.int64(0), centre, distance)
        items = neighbours[row]
        nearest[:] = np.inf
        for j in range(m):
            if distance[j] < nearest[0]:
                _sink(nearest, items, wanted, distance[j], j)
        radius[row] = np.sqrt(nearest[0])
        for last in range(wanted - 1, 0, -1):  # the largest of those that are left goes to their end
            value, item = nearest[last], items[last]
            nearest[last], items[last] = nearest[0], items[0]
            _sink(nearest, items, last, value, item)
