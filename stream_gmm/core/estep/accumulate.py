"""E-step: many candidates x rows -> statistics, in one go; one candidate x rows -> scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from scipy.special import logsumexp

from stream_gmm.core.estep.batch import UNWEIGHTED, Batch, Stacked
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.stats import SuffStats

CHUNK_ROWS = 65_536
NO_NOISE = np.empty(0)

T = TypeVar("T", Stacked, SuffStats)


def accumulate(batch: Batch, rows: Array, weights: Array = UNWEIGHTED) -> tuple[Stacked, ...]:
    """Return the statistics of every group of candidates for ``rows (N, D)`` of finite values.

    ``weights (N,)`` are positive; a row of weight 2 is two rows. Empty: every row counts once.

    Column-major rows are used without a copy. When all rows are in, :func:`finish` makes of them the
    statistics of every candidate.
    """
    rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    return tuple(group.accumulate(rows_t, weights) for group in batch.groups)


def merge_all(left: Sequence[T], right: Sequence[T]) -> tuple[T, ...]:
    """Merge statistics one by one."""
    return tuple(a.merge(b) for a, b in zip(left, right, strict=True))


def moments_of(rows: Array, weights: Array = UNWEIGHTED) -> SuffStats:
    """Return weight, mean and scatter of rows ``(N, D)``, as of one component."""
    n, d = rows.shape
    if not n:
        return SuffStats.zero(1, d, FULL)
    if len(weights):
        return _weighted_moments(rows, weights)
    mean = rows.mean(axis=0)
    centred = rows - mean
    # The mean of a column far from zero is rounded; what is left over is put right here.
    rest = centred.mean(axis=0)
    scatter = centred.T @ centred - n * np.outer(rest, rest)
    return SuffStats(float(n), 0.0, 0.0, 0.0, np.array([float(n)]), (mean + rest)[None], scatter[None], FULL)


def _weighted_moments(rows: Array, weights: Array) -> SuffStats:
    total = weights.sum()
    mean = weights @ rows / total
    centred = rows - mean
    rest = weights @ centred / total
    scatter = (centred.T * weights) @ centred - total * np.outer(rest, rest)
    return SuffStats(float(total), 0.0, 0.0, 0.0, np.array([total]), (mean + rest)[None], scatter[None], FULL)


def total_moments(stats: SuffStats, rows: Array) -> SuffStats:
    """Return :func:`moments_of` the rows; from their statistics, where those say as much."""
    if stats.moments is not FULL or len(stats.scatter) != len(stats.weight) or not len(rows):
        return moments_of(rows)
    total = stats.weight.sum()
    mean = stats.weight @ stats.mean / total
    delta = stats.mean - mean
    scatter = stats.scatter.sum(axis=0) + (stats.weight * delta.T) @ delta
    return SuffStats(stats.rows, 0.0, 0.0, 0.0, np.array([total]), mean[None], scatter[None], FULL)


def finish(
    batch: Batch, candidates: Sequence[MixtureParams], stacked: Sequence[Stacked], everything: SuffStats, shift: Array
) -> list[SuffStats]:
    """Return the statistics of every candidate, once all rows are in.

    Those of linear features are completed from the moments of all their rows, ``everything``. With one
    covariance for all components, ``z' precision z`` is the same for all of them: its sum over the rows, and
    the pooled scatter, follow from the scatter of all rows, which no step changes. ``shift`` is the origin of
    the coordinates in which the features were taken.
    """
    return [
        s if len(s.scatter) else _completed(p, s, everything, shift)
        for p, s in zip(candidates, batch.split(stacked), strict=True)
    ]


def _completed(params: MixtureParams, stats: SuffStats, everything: SuffStats, shift: Array) -> SuffStats:
    delta = stats.mean - everything.mean[0]
    pooled = everything.scatter[0] - (stats.weight * delta.T) @ delta
    loglik = stats.loglik + _common(params, everything, shift)
    return replace(stats, loglik=loglik, scatter=params.family.moments.condense(pooled[None]))


def _common(params: MixtureParams, rows: SuffStats, shift: Array) -> float:
    """Return the sum of ``-z' precision z / 2`` over rows of these moments, of a shared covariance."""
    family, (k, d) = params.family, params.means.shape
    off = rows.mean[0] - shift
    about_shift = rows.scatter[0] + rows.rows * np.outer(off, off)
    whitener = np.array(family.expand(params.precisions_cholesky, k, d)[0])
    whitener = whitener if family.matrices else np.diag(whitener)
    return -0.5 * float(np.sum(whitener * (about_shift @ whitener)))


def with_heldout(
    batch: Batch, candidates: Sequence[MixtureParams], stats: Sequence[SuffStats],
    sums: Sequence[Array], heldout: SuffStats, shift: Array,
) -> list[SuffStats]:  # fmt: skip
    """Return the statistics with the log-likelihood of the rows held out.

    ``sums`` holds that of the candidates of each group ``(C,)``, ``heldout`` the moments of those rows.
    """
    out = []
    for i, (params, own, value) in enumerate(zip(candidates, stats, batch.in_order(sums), strict=True)):
        loglik = value + (_common(params, heldout, shift) if batch.linear(i) else 0.0)
        out.append(replace(own, heldout_rows=heldout.rows, heldout_loglik=loglik))
    return out


@dataclass(frozen=True)
class Scores:
    """What scoring says of N rows, in the order of the rows."""

    component: np.ndarray[tuple[int], np.dtype[np.int32]]
    proba: Array
    """Responsibilities ``(N, K)``."""
    log_density: Array
    """Log-density of the mixture ``(N,)``, nats."""
    mahalanobis_sq: Array
    """Squared Mahalanobis distance ``(N,)`` to the assigned component; of noise, to the likeliest one."""
    noise: Array = field(default_factory=lambda: NO_NOISE)
    """Probability ``(N,)`` of being noise; empty if there is no such component. What is noise has component -1."""

    @property
    def shares(self) -> Array:
        """Responsibilities ``(N, K)``; with a last column for the noise, if there is any."""
        return np.column_stack([self.proba, self.noise]) if len(self.noise) else self.proba

    @property
    def max_proba(self) -> Array:
        """Responsibility of the assigned component ``(N,)``."""
        return np.asarray(self.shares.max(axis=1))


def weighted_log_densities(density: Density, rows: Array) -> Array:
    """Return ``log(weight_k) + log N(x | k)`` as ``(N, K)``."""
    rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
    return density.log_densities(rows_t).T


def score_rows(density: Density, rows: Array) -> Scores:
    """Score ``rows (N, D)`` of finite values by the route that never cancels."""
    logp = weighted_log_densities(density, rows)
    if not len(logp):
        empty = np.empty(0)
        return Scores(np.empty(0, np.int32), np.empty((0, len(density.log_norm))), empty, empty)
    log_density = np.asarray(logsumexp(logp, axis=1))
    component = logp.argmax(axis=1)
    assigned = logp[np.arange(len(logp)), component]
    distance = np.maximum(-2.0 * (assigned - density.log_norm[component]), 0.0)
    if density.noisy:
        log_density = np.logaddexp(log_density, density.background)
        component = np.where(density.background > assigned, -1, component)
    noise = np.exp(density.background - log_density) if density.noisy else NO_NOISE
    return Scores(component.astype(np.int32), np.exp(logp - log_density[:, None]), log_density, distance, noise)
