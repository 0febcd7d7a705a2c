"""Which rows are outliers: by the log-density, or by the distance from the assigned component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, chdtri

from stream_gmm.core.estep.scores import Scores

LOG_DENSITY, DISTANCE = "log_density", "mahalanobis_sq"


@dataclass(frozen=True)
class OutlierTest:
    """Rows with a log-density below ``limit`` (nats) are outliers, or with a squared distance above it.

    For squared distances ``tail`` is the probability that a row of a component is farther away, by a chi-square
    distribution with as many degrees of freedom as the row has values.
    """

    quantity: str = LOG_DENSITY
    limit: float = float("-inf")
    tail: float = 0.0

    @classmethod
    def by_chi_square(cls, level: float, n_features: int) -> OutlierTest:
        """Return the test of the squared distance at a quantile of its chi-square distribution."""
        return cls(DISTANCE, float(chdtri(n_features, 1.0 - level)), 1.0 - level)

    def mark(self, scores: Scores) -> NDArray[np.bool_]:
        """Return which rows are outliers ``(N,)``."""
        if self.quantity == LOG_DENSITY:
            return np.asarray(scores.comparable < self.limit)
        out: NDArray[Any] = scores.mahalanobis_sq > self.limit
        if scores.incomplete is not None:
            places = scores.incomplete.places
            columns = scores.incomplete.columns[scores.incomplete.pattern]
            out[places] = chdtrc(np.maximum(columns, 1), scores.mahalanobis_sq[places]) < self.tail
        return out


_SHIFT = 40
"""Bits of a float64 that a bin leaves out: 12 of its fraction are kept."""
BIN_WIDTH = 2.0**-12
"""Largest width of a bin, relative to the values in it."""


@dataclass(frozen=True)
class FineHistogram:
    """Counts of values in bins that are the same for all data, so that histograms of disjoint rows add up exactly.

    A bin is all numbers with the same sign, exponent and first 12 bits of the fraction: a few ten thousand bins at
    most for log-densities. ``bins (B,)`` are rising.
    """

    bins: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> FineHistogram:
        """Return the histogram of values ``(N,)``; NaN is left out."""
        kept = np.ascontiguousarray(values[~np.isnan(values)]) + 0.0  # -0.0 is 0.0
        bits = kept.view(np.int64)
        ordered = np.where(bits < 0, bits ^ np.int64(0x7FFFFFFFFFFFFFFF), bits)  # in the order of the numbers
        return cls(*np.unique(ordered >> _SHIFT, return_counts=True))

    def merge(self, other: FineHistogram) -> FineHistogram:
        """Return the histogram of the rows of both."""
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.concatenate([self.counts, other.counts])
        total = np.zeros(len(bins), np.int64)
        np.add.at(total, places, counts)
        return FineHistogram(bins, total)

    def find_limit(self, share: float) -> float:
        """Return the largest edge of a bin with at most this share of the rows below it.

        The share below is smaller than ``share`` by at most that of one bin. Without rows: ``-inf``.
        """
        if not len(self.bins):
            return float("-inf")
        below = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        allowed = np.flatnonzero(below <= np.floor(share * self.counts.sum()))
        ordered = np.array([self.bins[allowed[-1]] << _SHIFT])
        bits = np.where(ordered < 0, ordered ^ np.int64(0x7FFFFFFFFFFFFFFF), ordered)
        limit = float(bits.view(np.float64)[0])
        return limit if limit == limit else float("-inf")  # the edge of the bin of -inf is no number
