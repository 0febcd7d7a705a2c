"""Scores rows by one mixture: log-densities, responsibilities and assigned components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stream_gmm.core.estep import whitening
from stream_gmm.core.estep.kernels import complete_scores
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import FULL, Array, divide_by_weight
from stream_gmm.core.rows.transforms import Transforms, log_jacobians
from stream_gmm.core.stats import SuffStats

_BLOCK_ROWS = 8192
"""Rows whose log-densities are in the cache together."""
NO_NOISE = np.empty(0)
"""Probabilities of being noise, of a mixture without a noise component."""


@dataclass(frozen=True)
class Scores:
    """The scores of N rows, in the order of the rows."""

    component: np.ndarray[tuple[int], np.dtype[np.int32]]
    """Component of highest responsibility ``(N,)``; -1 for noise."""
    proba: Array
    """Responsibilities ``(N, K)``."""
    log_density: Array
    """Log-density of the mixture ``(N,)``, nats."""
    mahalanobis_sq: Array
    """Squared Mahalanobis distance ``(N,)`` to the assigned component; for noise, to the most likely component."""
    noise: Array = field(default_factory=lambda: NO_NOISE)
    """Probability ``(N,)`` of being noise; empty if the mixture has no noise component."""

    @property
    def shares(self) -> Array:
        """Responsibilities ``(N, K)``, or ``(N, K + 1)`` with the noise in the last column."""
        return np.column_stack([self.proba, self.noise]) if len(self.noise) else self.proba

    @property
    def max_proba(self) -> Array:
        """Largest responsibility of each row ``(N,)``, that of the noise included."""
        return np.asarray(self.shares.max(axis=1))


def component_log_densities(density: Density, rows_t: Array) -> Array:
    """Return ``log(weight_k) + log N(x | k)`` as ``(K, N)`` in nats, of contiguous ``rows_t (D, N)``."""
    out = np.empty((len(density.log_norm), rows_t.shape[1]))
    if density.whitener.ndim == 2:
        whitening.diagonal_log_densities(rows_t, density.means, density.whitener, density.log_norm, out)
    else:
        whitening.full_log_densities(rows_t, density.means, density.lower, density.log_norm, out)
    return out


def weighted_log_densities(density: Density, rows: Array) -> Array:
    """Return ``log(weight_k) + log N(x | k)`` as ``(N, K)`` in nats, of ``rows (N, D)``."""
    rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
    return component_log_densities(density, rows_t).T


def score_rows(density: Density, rows: Array) -> Scores:
    """Return the scores of ``rows (N, D)`` of finite values, computed by the whitened kernel, which never cancels.

    Responsibilities below 1e-100 are 0. Where even the log-density of every component underflows (a squared distance
    above 1.8e308), it is ``-inf``, and the row belongs to the component of smallest Mahalanobis distance (to
    rounding), with responsibility 1, or to the noise.
    """
    n, k = len(rows), len(density.log_norm)
    component, proba = np.empty(n, np.int32), np.empty((n, k))
    log_density, distance = np.empty(n), np.empty(n)
    noise = np.empty(n) if density.noisy else NO_NOISE
    for start in range(0, n, _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        logp = component_log_densities(density, np.ascontiguousarray(rows[block].T, dtype=np.float64))
        complete_scores(
            logp, density.log_norm, density.background, density.noisy,
            component[block], proba[block], log_density[block], distance[block], noise[block],
        )  # fmt: skip
    remote = np.isinf(distance)
    if remote.any() and not density.noisy:
        component[remote] = _nearest_components(density, rows[remote])
        proba[remote, component[remote]] = 1.0
    return Scores(component, proba, log_density, distance, noise)


def score_transformed(density: Density, rows: Array, columns: Sequence[str], transforms: Transforms) -> Scores:
    """Return the scores of transformed ``rows (N, D)``; log-densities are those of the values themselves."""
    scores = score_rows(density, rows)
    if not transforms:
        return scores
    return replace(scores, log_density=scores.log_density + log_jacobians(rows, columns, transforms))


def _nearest_components(density: Density, rows: Array) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the component of smallest Mahalanobis distance for rows at which every squared distance overflows."""
    whitener = density.whitener / np.abs(density.whitener).max()
    size = np.maximum(np.abs(rows).max(axis=1), np.abs(density.means).max())[:, None, None]
    offset = rows[:, None, :] / size - density.means / size
    if whitener.ndim == 2:
        whitened = offset * whitener
    else:
        whitened = np.einsum("nkd,kde->nke", offset, whitener)
    return np.asarray(np.linalg.norm(whitened, axis=2).argmin(axis=1))


def collect_scored_stats(rows: Array, weights: Array, scores: Scores) -> SuffStats:
    """Return the statistics, with full second moments, of ``rows (N, D)`` with positive ``weights (N,)``.

    The scatter is symmetric to the last bit.
    """
    (n, d), k = rows.shape, scores.proba.shape[1]
    if not n:
        return SuffStats.zero(k, d, FULL)
    shares = scores.proba * weights[:, None]
    weight = shares.sum(axis=0)
    mean = divide_by_weight(shares.T @ rows, weight)
    scatter = np.empty((k, d, d))
    for i in range(k):
        centred = rows - mean[i]
        product = (shares[:, i, None] * centred).T @ centred
        scatter[i] = 0.5 * (product + product.T)
    every = scores.shares
    entropy = -float(weights @ np.sum(every * np.log(np.maximum(every, 1e-300)), axis=1))
    log_max = float(weights @ np.log(scores.max_proba))
    loglik = float(weights @ scores.log_density)
    return SuffStats(float(weights.sum()), loglik, entropy, log_max, weight, mean, scatter, FULL)
