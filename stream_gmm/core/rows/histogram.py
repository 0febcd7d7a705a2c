"""A small histogram of log-densities: what a model remembers of the rows that it was fitted to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.moments import UNWEIGHTED

BINS = 20
_LEVELS, TAIL_OCTAVES = 512, 8
"""Quantiles that are stored: at most one apart by 1 / 512, and closer in both tails."""
_PRIOR_ROWS = 0.5
"""Added to every bin of both histograms, so that an empty one gives no infinity."""


@dataclass(frozen=True)
class LogDensityHistogram:
    """Shares of rows between quantiles of their log-density.

    Attributes
    ----------
    edges
        Inner edges of the B bins ``(B - 1,)``, nats, rising.
    shares
        Share of the rows in each bin ``(B,)``.
    rows
        Number of rows that the shares come from.
    levels, values
        Shares of rows ``(L,)`` and the log-densities ``(L,)``, nats, that they do not exceed; both rise. Empty in
        models of earlier releases.
    """

    edges: Array
    shares: Array
    rows: float
    levels: Array = field(default_factory=lambda: UNWEIGHTED)
    values: Array = field(default_factory=lambda: UNWEIGHTED)

    @classmethod
    def of(cls, log_density: Array, weights: Array = UNWEIGHTED) -> LogDensityHistogram:
        """Return the histogram of log-densities ``(N,)`` between their own quantiles; ``weights (N,)`` or none."""
        n, levels, effective = len(log_density), np.arange(1, BINS) / BINS, float(len(log_density))
        if len(weights):
            order = np.argsort(log_density, kind="stable")
            values, reached = log_density[order], np.cumsum(weights[order])
            effective = weights.sum() ** 2 / np.sum(weights**2)  # Kish 1965
        else:
            values, reached = np.sort(log_density), np.arange(1.0, n + 1.0)
        total, last = reached[-1], np.append(values[1:] != values[:-1], True)
        reached, values = reached[last] / reached[-1], values[last]
        edges = values[np.searchsorted(reached, levels)]
        edges = edges[np.append(True, edges[1:] != edges[:-1])]
        below = np.concatenate([[0.0], reached[np.searchsorted(values, edges)], [1.0]]) * total
        counts = np.diff(below)
        kept = np.unique(np.minimum(np.searchsorted(reached, _list_levels(n)), len(values) - 1))
        return cls(edges, counts / counts.sum(), float(effective), reached[kept], values[kept])

    def find_ranks(self, log_density: Array) -> Array:
        """Return the share of rows with a log-density that is not higher ``(N,)``, between 0 and 1.

        Between the stored levels, which are at most 1 / 512 apart, it is interpolated. Below all rows it is 0.
        Without levels the edges of the bins are used: then the error is up to the share of a bin, 0.05.
        """
        if len(self.levels):
            return np.interp(log_density, self.values, self.levels, left=0.0, right=1.0)
        return np.interp(log_density, self.edges, np.cumsum(self.shares)[:-1], left=0.0, right=1.0)

    def compute_psi(self, counts: Array) -> float:
        """Return the population stability index of other counts ``(B,)``: a symmetric Kullback-Leibler divergence."""
        p, q = self._smooth(self.shares * self.rows), self._smooth(counts)
        return float(np.sum((q - p) * np.log(q / p)))

    def expected_psi(self, rows: float) -> float:
        """Return what the index is on average for so many rows of the same distribution."""
        return (len(self.shares) - 1) * (1.0 / self.rows + 1.0 / rows)

    def compute_ks(self, counts: Array) -> float:
        """Return the largest difference of the two distribution functions at the edges (Kolmogorov-Smirnov)."""
        return float(np.abs(np.cumsum(counts / counts.sum()) - np.cumsum(self.shares)).max())

    def _smooth(self, counts: Array) -> Array:
        smooth = counts + _PRIOR_ROWS
        return np.asarray(smooth / smooth.sum())


@lru_cache(maxsize=8)
def _list_levels(n: int) -> Array:
    """Return the levels that are stored for ``n`` rows."""
    tail = np.geomspace(1.0 / n, 1.0 / _LEVELS, 4 * TAIL_OCTAVES)
    return np.concatenate([tail, np.arange(1, _LEVELS) / _LEVELS, 1.0 - tail[::-1], [1.0]])


def count_bins(edges: Array, log_density: Array, weights: Array) -> Array:
    """Return the weight ``(B,)`` of the values in each bin between ``edges (B - 1,)``; edges belong below."""
    bins = np.searchsorted(edges, log_density, side="left")
    return np.asarray(np.bincount(bins, weights, len(edges) + 1), np.float64)
