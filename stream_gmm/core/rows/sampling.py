"""Uniform samples, held-out rows and bootstrap weights that depend on the rows alone.

Every row has a hash of (seed, number of the file, number of the row in the file); the sample consists of the rows
with the smallest hashes. Samples of parts of the data can be merged, and the result is the same for any chunking,
order and number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.rows.resolution import find_steps

Hashes = NDArray[np.uint64]

_HOLDOUT_STREAM = 0x5DEECE66D
_LARGEST_HASH = 2**64 - 1
_POISSON = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 18)]))
"""Distribution function of Poisson(1) at 0 to 17."""


def _mix(values: Hashes) -> Hashes:
    """Return the output function of splitmix64 (Steele, Lea & Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_rows(seed: int, file: int, rows: NDArray[np.int64]) -> Hashes:
    """Return a 64-bit hash ``(n,)`` for each row number ``rows (n,)`` of a file."""
    with np.errstate(over="ignore"):
        golden = np.uint64(0x9E3779B97F4A7C15)
        key = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + golden)
        key = _mix(key ^ (np.uint64(file + 1) * golden))
        return _mix(key + (rows.astype(np.uint64) + np.uint64(1)) * golden)


def draw_poisson_weights(hashes: Hashes, replicate: int) -> Array:
    """Return Poisson(1) weights ``(n,)`` for a bootstrap replicate, from the hashes ``(n,)`` of the rows.

    To count every row that often is the bootstrap for streams (Oza & Russell 2001; Chamandy et al. 2012), in which
    each row is drawn independently of the others.
    """
    with np.errstate(over="ignore"):
        mixed = _mix(hashes + np.uint64(replicate + 1) * np.uint64(0xD1342543DE82EF95))
    uniform = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(_POISSON, uniform, side="right").astype(np.float64)


@dataclass(frozen=True)
class Holdout:
    """Held-out rows, which no fit uses: those whose hash is below ``share`` (0 to 1) of the range of hashes.

    They are the same in every pass and for any chunking, and independent of the sample.
    """

    share: float = 0.0
    seed: int = 0

    def mask(self, file: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows of a file are held out, as booleans ``(n,)``."""
        limit = np.uint64(min(int(self.share * 2.0**64), 2**64 - 1))
        return hash_rows(self.seed + _HOLDOUT_STREAM, file, rows) < limit


@dataclass(frozen=True)
class Sample:
    """The ``capacity`` rows ``(n, D)`` with the smallest hashes ``(n,)``, in the order of their hashes.

    That order is random, so the first m rows of a sample are a uniform sample of m rows. Samples of different
    capacities can be merged: all hold every row whose hash is at most their ``limit``.
    """

    rows: Array
    hashes: Hashes
    capacity: int
    weights: Array = field(default_factory=lambda: UNWEIGHTED)
    """Weights ``(n,)`` of the rows, or none."""
    limit: int = _LARGEST_HASH
    """No row was left out whose hash is as small as this."""

    @cached_property
    def steps(self) -> Array:
        """Recording step of each column ``(D,)``; 0 where the values have none."""
        return find_steps(self.rows)

    @classmethod
    def of(cls, rows: Array, hashes: Hashes, capacity: int, weights: Array = UNWEIGHTED) -> Sample:
        """Return the sample of ``rows (N, D)`` with these hashes ``(N,)``."""
        # Select by the threshold first: sorting all rows would cost more than reading them.
        limit = _LARGEST_HASH
        if len(hashes) > capacity:
            limit = int(np.partition(hashes, capacity - 1)[capacity - 1]) if capacity else 0
            keep = hashes <= limit
            rows, hashes = rows[keep], hashes[keep]
            weights = weights[keep] if len(weights) else weights
        order = np.argsort(hashes)[:capacity]  # no two are equal
        weights = weights[order] if len(weights) else weights
        return cls(np.ascontiguousarray(rows[order]), hashes[order], capacity, weights, limit)

    def split_off(self, capacity: int) -> tuple[Sample, Sample]:
        """Return the sample of the first ``capacity`` rows, and one of the other rows."""
        first, rest = slice(None, capacity), slice(capacity, None)
        return (
            Sample(self.rows[first], self.hashes[first], capacity, self.weights[first]),
            Sample(self.rows[rest], self.hashes[rest], self.capacity - capacity, self.weights[rest]),
        )

    def merge(self, other: Sample) -> Sample:
        """Return the sample of both sets of rows, of the larger capacity, or with fewer rows if a limit is low."""
        capacity = max(self.capacity, other.capacity)
        for one, empty in ((self, other), (other, self)):
            # Nothing was left out of a sample without rows and with the largest limit: the other one is that of both.
            if not len(empty.hashes) and empty.limit == _LARGEST_HASH and one.capacity == capacity:
                return one
        limit = min(self.limit, other.limit)
        parts = [(s.rows[n], s.hashes[n], s.weights[n]) for s in (self, other) for n in [s._within(limit)]]
        rows, hashes, weights = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(hashes, kind="stable")[:capacity]  # which is fast for two runs that are sorted
        if len(hashes) > capacity:
            limit = min(limit, int(hashes[order[-1]]) if capacity else 0)
        return Sample(rows[order], hashes[order], capacity, weights[order] if len(weights) else weights, limit)

    def _within(self, limit: int) -> slice:
        return slice(int(np.searchsorted(self.hashes, np.uint64(limit), side="right")))
