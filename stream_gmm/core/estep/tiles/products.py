"""Products of chosen rows of a matrix with a group of rows, and sums over rows, by tiles.

A *group* is as many rows of data as two vector registers have lanes. Its features are feature-major, ``(F, group)``,
for log-densities, and row-major for sums. Matrices that a tile writes are as wide as a whole number of vectors
(:func:`pad_columns`).
"""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.tiles.vectors import (
    TILE_ROWS,
    VECTOR_BYTES,
    copy_tile,
    make_dot_tile,
    make_sum_tile,
    product_tile,
    transpose_tile,
)

_dot_1, _dot_2, _dot_3, _dot_4, _dot_5, _dot_6 = (make_dot_tile(i) for i in range(1, TILE_ROWS + 1))
_sum_1, _sum_2, _sum_3, _sum_4, _sum_5, _sum_6 = (make_sum_tile(i, 2) for i in range(1, TILE_ROWS + 1))
_tail_1, _tail_2, _tail_3, _tail_4, _tail_5, _tail_6 = (make_sum_tile(i, 1) for i in range(1, TILE_ROWS + 1))
_LINE_BYTES = 64


@compiled()
def count_lanes(item_bytes):  # type: ignore[no-untyped-def]
    """Return how many numbers of this size fill a vector register; a group has twice as many rows."""
    return VECTOR_BYTES // item_bytes


@compiled()
def pad_columns(n, item_bytes):  # type: ignore[no-untyped-def]
    """Return the lowest multiple of the number of lanes that is at least ``n``."""
    lanes = VECTOR_BYTES // item_bytes
    return (n + lanes - 1) // lanes * lanes


@compiled()
def allocate(n, m, like):  # type: ignore[no-untyped-def]
    """Return zeros ``(n, m)`` of the type of the array ``like``, beginning at the start of a line of the cache."""
    memory = np.zeros(n * m + _LINE_BYTES // like.itemsize, like.dtype)
    offset = (-memory.ctypes.data % _LINE_BYTES) // like.itemsize
    return memory[offset : offset + n * m].reshape((n, m))


@compiled(inline="always")
def multiply_group(weights, chosen, count, group, out, column):  # type: ignore[no-untyped-def]
    """Fill the rows 0 to ``count - 1`` of ``out``, from ``column`` on, with ``weights[chosen] @ group``.

    ``weights (M, F)`` may have fewer columns than ``group (>= F, lanes)`` has rows; ``chosen`` holds row numbers.
    """
    f = weights.shape[1]
    done, tiles = 0, (count + TILE_ROWS - 1) // TILE_ROWS
    for tile in range(tiles):
        size = (count - done) // (tiles - tile)
        if size == 6:
            _dot_6(weights, chosen, done, group, f, out, column)
        elif size == 5:
            _dot_5(weights, chosen, done, group, f, out, column)
        elif size == 4:
            _dot_4(weights, chosen, done, group, f, out, column)
        elif size == 3:
            _dot_3(weights, chosen, done, group, f, out, column)
        elif size == 2:
            _dot_2(weights, chosen, done, group, f, out, column)
        else:
            _dot_1(weights, chosen, done, group, f, out, column)
        done += size


@compiled()
def add_products(shares, chosen, count, features, n_rows, totals):  # type: ignore[no-untyped-def]
    """Add ``shares[:count, :n_rows] @ features[:n_rows]`` to the rows ``chosen`` of ``totals (M, >= F)``."""
    lanes = VECTOR_BYTES // totals.itemsize
    wide = totals.shape[1]
    tiles = (count + TILE_ROWS - 1) // TILE_ROWS
    for column in range(0, wide, 2 * lanes):
        two, done = column + lanes < wide, 0
        for tile in range(tiles):
            size = (count - done) // (tiles - tile)
            if two:
                if size == 6:
                    _sum_6(shares, chosen, done, features, n_rows, totals, column)
                elif size == 5:
                    _sum_5(shares, chosen, done, features, n_rows, totals, column)
                elif size == 4:
                    _sum_4(shares, chosen, done, features, n_rows, totals, column)
                elif size == 3:
                    _sum_3(shares, chosen, done, features, n_rows, totals, column)
                elif size == 2:
                    _sum_2(shares, chosen, done, features, n_rows, totals, column)
                else:
                    _sum_1(shares, chosen, done, features, n_rows, totals, column)
            elif size == 6:
                _tail_6(shares, chosen, done, features, n_rows, totals, column)
            elif size == 5:
                _tail_5(shares, chosen, done, features, n_rows, totals, column)
            elif size == 4:
                _tail_4(shares, chosen, done, features, n_rows, totals, column)
            elif size == 3:
                _tail_3(shares, chosen, done, features, n_rows, totals, column)
            elif size == 2:
                _tail_2(shares, chosen, done, features, n_rows, totals, column)
            else:
                _tail_1(shares, chosen, done, features, n_rows, totals, column)
            done += size


@compiled(inline="always")
def transpose_group(group, target, row):  # type: ignore[no-untyped-def]
    """Copy ``group (F, 2 lanes)`` to rows of ``target (N, F)`` from ``row`` on; F is a multiple of the lanes."""
    lanes = VECTOR_BYTES // target.itemsize
    for f in range(0, target.shape[1], lanes):
        transpose_tile(group, f, 0, target, row, f)
        transpose_tile(group, f, lanes, target, row + lanes, f)


@compiled(inline="always")
def copy_group(rows, column, group, first):  # type: ignore[no-untyped-def]
    """Copy a group of the columns of ``rows (D, N)``, from ``column`` on, to ``group`` from its row ``first`` on."""
    copy_tile(rows, column, rows.shape[0], group, first)


@compiled(inline="always")
def multiply_rows(group, factor, first, count, target):  # type: ignore[no-untyped-def]
    """Fill ``count`` rows of ``group`` from ``target`` on with its row ``factor`` times those from ``first`` on."""
    product_tile(group, factor, first, count, target)
