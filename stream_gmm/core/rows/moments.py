"""Weight, mean and scatter of rows in memory, and how rows carry their weights."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.stats import SuffStats

UNWEIGHTED = np.empty(0)
"""Weights of rows that count once each."""


def total_weight(rows_t: Array, weights: Array) -> float:
    """Return the sum of the weights of rows ``(D, N)``, their number without weights."""
    return float(weights.sum()) if len(weights) else float(rows_t.shape[1])


def collect_moments(rows: Array, weights: Array = UNWEIGHTED) -> SuffStats:
    """Return weight, mean and scatter of rows ``(N, D)``, as of one component."""
    n, d = rows.shape
    if not n:
        return SuffStats.zero(1, d, FULL)
    if len(weights):
        return _collect_weighted_moments(rows, weights)
    mean = rows.mean(axis=0)
    centred = rows - mean
    # The mean of a column far from zero is rounded; what is left over is put right here.
    rest = centred.mean(axis=0)
    scatter = centred.T @ centred - n * np.outer(rest, rest)
    return SuffStats(float(n), 0.0, 0.0, 0.0, np.array([float(n)]), (mean + rest)[None], scatter[None], FULL)


def _collect_weighted_moments(rows: Array, weights: Array) -> SuffStats:
    total = weights.sum()
    mean = weights @ rows / total
    centred = rows - mean
    rest = weights @ centred / total
    scatter = (centred.T * weights) @ centred - total * np.outer(rest, rest)
    return SuffStats(float(total), 0.0, 0.0, 0.0, np.array([total]), (mean + rest)[None], scatter[None], FULL)


def pool_moments(stats: SuffStats, rows: Array) -> SuffStats:
    """Return :func:`collect_moments` the rows; from their statistics, where those say as much."""
    if stats.moments is not FULL or len(stats.scatter) != len(stats.weight) or not len(rows):
        return collect_moments(rows)
    total = stats.weight.sum()
    mean = stats.weight @ stats.mean / total
    delta = stats.mean - mean
    scatter = stats.scatter.sum(axis=0) + (stats.weight * delta.T) @ delta
    return SuffStats(stats.rows, 0.0, 0.0, 0.0, np.array([total]), mean[None], scatter[None], FULL)
