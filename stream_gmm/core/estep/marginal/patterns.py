"""Rows with missing values (NaN), sorted by pattern: the set of columns that a row has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.model.moments import Array

Mask = NDArray[np.bool_]


def find_complete(rows: Array) -> Mask | None:
    """Return which of ``rows (N, D)`` have no missing value, ``(N,)`` booleans; None if all have none."""
    if not np.isnan(rows.sum()):  # values are finite and far from overflow
        return None
    missing = np.isnan(rows)
    return np.asarray(~missing.any(axis=1)) if missing.any() else None


@compiled()
def _mark_missing(rows_t, codes):  # type: ignore[no-untyped-def]
    """Set in ``codes (N,)`` a bit for each of up to 64 columns ``rows_t (D, N)`` whose value is missing."""
    for i in range(len(rows_t)):
        bit, row = np.uint64(1) << np.uint64(i), rows_t[i]
        for j in range(len(row)):
            codes[j] |= bit if row[j] != row[j] else np.uint64(0)


@compiled()
def _sort_codes(codes):  # type: ignore[no-untyped-def]
    """Return the order ``(N,)`` in which codes ascend, where each code begins there, and the ranks ``(N,)``.

    Codes are counted in a hash table, and only the distinct ones are compared: there are far fewer than rows.
    """
    n, bits = len(codes), 4
    while (1 << bits) < 2 * n:
        bits += 1
    mask, down = (1 << bits) - 1, np.uint64(64 - bits)
    table, ranks = np.full(1 << bits, -1, np.int64), np.empty(n, np.int64)
    distinct, counts, p = np.empty(n, np.uint64), np.zeros(n, np.int64), 0
    for j in range(n):
        code = codes[j]
        slot = np.int64((code * np.uint64(0x9E3779B97F4A7C15)) >> down)
        while table[slot] >= 0 and distinct[table[slot]] != code:
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot], distinct[p] = p, code
            p += 1
        ranks[j] = table[slot]
        counts[ranks[j]] += 1
    by_code = np.argsort(distinct[:p])
    starts, rank_of, order = np.zeros(p + 1, np.int64), np.empty(p, np.int64), np.empty(n, np.int64)
    for rank in range(p):
        rank_of[by_code[rank]] = rank
        starts[rank + 1] = starts[rank] + counts[by_code[rank]]
    free = starts[:p].copy()
    for j in range(n):
        ranks[j] = rank_of[ranks[j]]
        order[free[ranks[j]]] = j
        free[ranks[j]] += 1
    return order, starts, ranks


@compiled()
def _gather(rows_t, order, out):  # type: ignore[no-untyped-def]
    """Fill ``out (D, n)`` with the rows of ``rows_t (D, N)`` that ``order (n,)`` names."""
    for i in range(len(out)):
        source, target = rows_t[i], out[i]
        for j in range(len(order)):
            target[j] = source[order[j]]


@dataclass(frozen=True)
class Patterns:
    """Rows sorted by the set of columns that they have, their *pattern*.

    ``order (N,)`` sorts them; the rows of pattern p are then ``starts[p]`` to ``starts[p + 1] - 1``, and
    ``observed (P, D)`` says which columns they have. Complete rows come first, rows without any value last, and the
    rows of a pattern in the order in which they stood.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    observed: Mask

    @classmethod
    def of(cls, rows: Array) -> Patterns:
        """Return the patterns of ``rows (N, D)``; column-major ones are not copied."""
        rows_t, codes = np.asfortranarray(rows, dtype=np.float64).T, np.zeros(len(rows), np.uint64)
        for first in range(0, len(rows_t), 64):
            own = np.zeros(len(rows), np.uint64)
            _mark_missing(rows_t[first : first + 64], own)
            order, starts, ranks = _sort_codes(own)
            if first:  # by the columns before, and among those that are equal there by these
                order, starts, ranks = _sort_codes(codes * np.uint64(len(starts)) + ranks.astype(np.uint64))
            codes = ranks.astype(np.uint64)
        return cls(order, starts, np.ascontiguousarray(~np.isnan(rows[order[starts[:-1]]])))

    def sort(self, rows: Array, places: slice = slice(None)) -> Array:
        """Return ``rows (N, D)`` in this order, or those of some places in it, as ``(D, n)``."""
        order = self.order[places]
        out = np.empty((rows.shape[1], len(order)))
        _gather(np.asfortranarray(rows, dtype=np.float64).T, order, out)
        return out


@dataclass(frozen=True)
class SortedRows:
    """Rows with missing values ``rows_t (D, N)``, sorted by pattern, and their weights ``(N,)`` or none.

    ``starts (P + 1,)`` and ``observed (P, D)`` are as in :class:`Patterns`.
    """

    rows_t: Array
    weights: Array
    starts: NDArray[np.int64]
    observed: Mask

    @classmethod
    def split_off(cls, rows: Array, weights: Array) -> tuple[Array, Array, SortedRows]:
        """Return the complete rows of ``rows (N, D)`` as ``(D, n)``, their weights, and the others, sorted.

        Rows without any value are left out.
        """
        patterns = Patterns.of(rows)
        some = patterns.observed.any(axis=1)
        whole = int(patterns.observed[0].all())
        kept = slice(whole, int(some.sum()))
        first, last = patterns.starts[kept.start], patterns.starts[kept.stop]
        complete, others = slice(0, first), slice(first, last)
        of_complete, of_others = (weights[patterns.order[s]] if len(weights) else weights for s in (complete, others))
        rest = cls(
            patterns.sort(rows, others), of_others, patterns.starts[kept.start : kept.stop + 1] - first,
            patterns.observed[kept],
        )  # fmt: skip
        return patterns.sort(rows, complete), of_complete, rest
