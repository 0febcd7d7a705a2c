"""A uniform sample that depends on which rows there are, and on nothing else.

Every row gets a hash of (seed, file, row in the file); the sample is the rows with the smallest
hashes. It merges, and is the same for any chunking, any order and any number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.moments import UNWEIGHTED

Hashes = NDArray[np.uint64]

_HOLDOUT_STREAM = 0x5DEECE66D
_POISSON = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 18)]))
"""Distribution function of Poisson(1)."""


def _mix(values: Hashes) -> Hashes:
    """Finalise splitmix64 (Steele, Lea & Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_rows(seed: int, file: int, rows: NDArray[np.int64]) -> Hashes:
    """Return a 64-bit hash for each row number ``rows (n,)`` of a file."""
    with np.errstate(over="ignore"):
        golden = np.uint64(0x9E3779B97F4A7C15)
        key = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + golden)
        key = _mix(key ^ (np.uint64(file + 1) * golden))
        return _mix(key + (rows.astype(np.uint64) + np.uint64(1)) * golden)


def draw_poisson_weights(hashes: Hashes, replicate: int) -> Array:
    """Return Poisson(1) weights ``(n,)`` of rows for a bootstrap replicate, from the hashes of the rows.

    Drawing every row so many times is the bootstrap of a stream (Oza & Russell 2001; Chamandy et al. 2012): no
    row needs to know of another.
    """
    with np.errstate(over="ignore"):
        mixed = _mix(hashes + np.uint64(replicate + 1) * np.uint64(0xD1342543DE82EF95))
    uniform = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(_POISSON, uniform, side="right").astype(np.float64)


@dataclass(frozen=True)
class Holdout:
    """Which rows no fit may use: those whose hash of (seed, file, row) is among the lowest ``share``.

    The same rows in every pass, for any chunking; independent of the sample.
    """

    share: float = 0.0
    seed: int = 0

    def mask(self, file: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True for the rows of a file that are held out ``(n,)``."""
        limit = np.uint64(min(int(self.share * 2.0**64), 2**64 - 1))
        return hash_rows(self.seed + _HOLDOUT_STREAM, file, rows) < limit


@dataclass(frozen=True)
class Sample:
    """The ``capacity`` rows with the smallest hashes, in the order of their hashes.

    That order is random: the first m rows of a sample are a uniform sample of m rows.
    """

    rows: Array
    hashes: Hashes
    capacity: int
    weights: Array = field(default_factory=lambda: UNWEIGHTED)
    """Weights of the rows, or none."""

    @classmethod
    def of(cls, rows: Array, hashes: Hashes, capacity: int, weights: Array = UNWEIGHTED) -> Sample:
        """Return the sample of some rows ``(N, D)``."""
        # Narrow down by the threshold first: sorting all the rows would cost more than reading them.
        if len(hashes) > capacity:
            keep = hashes <= np.partition(hashes, capacity - 1)[capacity - 1]
            rows, hashes = rows[keep], hashes[keep]
            weights = weights[keep] if len(weights) else weights
        order = np.argsort(hashes, kind="stable")[:capacity]
        weights = weights[order] if len(weights) else weights
        return cls(np.ascontiguousarray(rows[order]), hashes[order], capacity, weights)

    def split_off(self, capacity: int) -> tuple[Sample, Sample]:
        """Return the sample of ``capacity`` rows, and the other rows, which are a sample, too."""
        first, rest = slice(None, capacity), slice(capacity, None)
        return (
            Sample(self.rows[first], self.hashes[first], capacity, self.weights[first]),
            Sample(self.rows[rest], self.hashes[rest], self.capacity - capacity, self.weights[rest]),
        )

    def merge(self, other: Sample) -> Sample:
        """Return the sample of both sets of rows."""
        return Sample.of(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.hashes, other.hashes]),
            self.capacity,
            np.concatenate([self.weights, other.weights]),
        )
