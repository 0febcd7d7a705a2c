"""E-step: many candidates x rows -> statistics, in one go; one candidate x rows -> scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from stream_gmm.core import kernels
from stream_gmm.core.density import QUADRATIC, Batch, Density, Group, Scaling
from stream_gmm.core.moments import Array
from stream_gmm.core.stats import SuffStats

CHUNK_ROWS = 65_536


def accumulate(batch: Batch, rows: Array) -> tuple[SuffStats, ...]:
    """Return the statistics of every candidate for ``rows (N, D)`` of finite values.

    Column-major rows are used without a copy.
    """
    rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
    out: dict[int, SuffStats] = {}
    for group in batch.groups:
        run = _quadratic if group.route == QUADRATIC else _whitened
        out.update(zip(group.index, run(group, batch.scaling, rows_t), strict=True))
    return tuple(out[i] for i in range(batch.n_candidates))


def merge_all(left: Sequence[SuffStats], right: Sequence[SuffStats]) -> tuple[SuffStats, ...]:
    """Merge the statistics of every candidate."""
    return tuple(a.merge(b) for a, b in zip(left, right, strict=True))


def _quadratic(group: Group, scaling: Scaling, rows_t: Array) -> list[SuffStats]:
    offsets = np.array(group.offsets)
    totals, sums = np.zeros_like(group.weights), np.zeros((len(offsets) - 1, 3))
    kernels.quadratic_pass(
        rows_t, scaling.shift, scaling.scale, group.weights, offsets, group.moments.cross, totals, sums
    )
    weight, mean, scatter = group.moments.unpack(totals, len(rows_t))
    mean = scaling.shift + mean * scaling.scale
    scatter = group.moments.rescale(scatter, scaling.scale)
    return _per_candidate(group, rows_t.shape[1], sums, weight, mean, scatter)


def _whitened(group: Group, scaling: Scaling, rows_t: Array) -> list[SuffStats]:
    sums, weight, mean, scatter = group.moments.whitened_sums(
        rows_t, group.means, group.whitener, group.log_norm, np.array(group.offsets)
    )
    return _per_candidate(group, rows_t.shape[1], sums, weight, mean, scatter)


def _per_candidate(group: Group, n: int, sums: Array, weight: Array, mean: Array, scatter: Array) -> list[SuffStats]:
    parts = [slice(a, b) for a, b in zip(group.offsets[:-1], group.offsets[1:], strict=True)]
    return [
        SuffStats(float(n), float(s[0]), float(s[1]), float(s[2]), weight[p], mean[p], scatter[p], group.moments)
        for p, s in zip(parts, sums, strict=True)
    ]


@dataclass(frozen=True)
class Scores:
    """What scoring says of N rows, in the order of the rows."""

    component: np.ndarray[tuple[int], np.dtype[np.int32]]
    proba: Array
    """Responsibilities ``(N, K)``."""
    log_density: Array
    """Log-density of the mixture ``(N,)``, nats."""
    mahalanobis_sq: Array
    """Squared Mahalanobis distance ``(N,)`` to the assigned component."""

    @property
    def max_proba(self) -> Array:
        """Responsibility of the assigned component ``(N,)``."""
        return np.asarray(self.proba.max(axis=1))


def weighted_log_densities(density: Density, rows: Array) -> Array:
    """Return ``log(weight_k) + log N(x | k)`` as ``(N, K)``."""
    rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
    return density.moments.log_densities(rows_t, density.means, density.whitener, density.log_norm).T


def score_rows(density: Density, rows: Array) -> Scores:
    """Score ``rows (N, D)`` of finite values by the route that never cancels."""
    logp = weighted_log_densities(density, rows)
    if not len(logp):
        empty = np.empty(0)
        return Scores(np.empty(0, np.int32), np.empty((0, len(density.log_norm))), empty, empty)
    log_density = np.asarray(logsumexp(logp, axis=1))
    component = logp.argmax(axis=1)
    assigned = logp[np.arange(len(logp)), component]
    return Scores(
        component.astype(np.int32),
        np.exp(logp - log_density[:, None]),
        log_density,
        np.maximum(-2.0 * (assigned - density.log_norm[component]), 0.0),
    )
