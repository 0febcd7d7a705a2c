"""Weight, mean and scatter of rows in memory, as of one component; and the weights of rows."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.stats import SuffStats

UNWEIGHTED = np.empty(0)
"""Weights of rows that count once each: none."""


def total_weight(rows_t: Array, weights: Array) -> float:
    """Return the sum of the weights of ``rows_t (D, N)``, or N if ``weights`` is empty."""
    return float(weights.sum()) if len(weights) else float(rows_t.shape[1])


def collect_moments(rows: Array, weights: Array = UNWEIGHTED) -> SuffStats:
    """Return the statistics of ``rows (N, D)`` as of one component, with ``weights (N,)`` or none.

    The log-likelihood and the other sums of log-densities are 0.
    """
    n, d = rows.shape
    if not n:
        return SuffStats.zero(1, d, FULL)
    # The mean of a column far from zero is rounded; the mean of the centred rows corrects it.
    if len(weights):
        total = float(weights.sum())
        mean = weights @ rows / total
        centred = rows - mean
        rest = weights @ centred / total
        scatter = (centred.T * weights) @ centred - total * np.outer(rest, rest)
    else:
        total = float(n)
        mean = rows.mean(axis=0)
        centred = rows - mean
        rest = centred.mean(axis=0)
        scatter = centred.T @ centred - n * np.outer(rest, rest)
    return SuffStats(total, 0.0, 0.0, 0.0, np.array([total]), (mean + rest)[None], scatter[None], FULL)


def pool_moments(stats: SuffStats, rows: Array) -> SuffStats:
    """Return :func:`collect_moments` of ``rows (N, D)``, computed from their ``stats`` where those hold all scatter.

    That saves a pass over the rows; it is possible if the scatter is one matrix for each component.
    """
    if stats.moments is not FULL or len(stats.scatter) != len(stats.weight) or not len(rows):
        return collect_moments(rows)
    total = stats.weight.sum()
    mean = stats.weight @ stats.mean / total
    delta = stats.mean - mean
    scatter = stats.scatter.sum(axis=0) + (stats.weight * delta.T) @ delta
    return SuffStats(stats.rows, 0.0, 0.0, 0.0, np.array([total]), mean[None], scatter[None], FULL)
