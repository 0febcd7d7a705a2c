"""The E-step: from many candidates and a block of rows to the statistics of every candidate.

Used in three stages: :func:`accumulate_stats` for every chunk of rows, :func:`merge_each` to combine the results,
and :func:`complete_stats` once, when the statistics of all rows are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from stream_gmm.core.estep.batch import Batch, StackedStats
from stream_gmm.core.estep.marginal.patterns import SortedRows
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.stats import SuffStats

CHUNK_ROWS = 65_536
"""Largest number of rows that are handed to the kernels at once."""
CHUNK_BYTES = 128 << 20
"""Largest size of a chunk; it has fewer rows if they are wider than 2 KiB (256 columns of float64)."""
LEAST_CHUNK_ROWS = 256

Statistics = TypeVar("Statistics", StackedStats, SuffStats)


def count_chunk_rows(row_bytes: float) -> int:
    """Return how many rows of so many bytes make a chunk."""
    return int(min(max(CHUNK_BYTES // max(row_bytes, 1.0), LEAST_CHUNK_ROWS), CHUNK_ROWS))


def accumulate_stats(batch: Batch, rows: Array, weights: Array = UNWEIGHTED) -> tuple[StackedStats, ...]:
    """Return the statistics of every group of candidates for ``rows (N, D)`` of finite values.

    ``weights (N,)`` are positive; a row of weight 2 counts as two rows. If they are empty, every row counts once.
    Column-major rows are used without a copy. A batch that was compiled for incomplete rows takes NaN for a missing
    value: complete rows go through the same kernels as ever, and those without any value count for nothing.
    """
    if batch.marginal and np.isnan(rows.sum()):  # values are finite and far from overflow
        rows_t, weights, incomplete = SortedRows.split_off(rows, weights)
        of_rest = tuple(group.accumulate_stats(incomplete) for group in batch.marginal)
    else:
        rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
        of_rest = tuple(StackedStats.zero(1) for _ in batch.marginal)
    if not rows_t.shape[1]:
        return (*(StackedStats.zero(1) for _ in batch.groups), *of_rest)
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    return (*(group.accumulate_stats(rows_t, weights) for group in batch.groups), *of_rest)


def merge_each(left: Sequence[Statistics], right: Sequence[Statistics]) -> tuple[Statistics, ...]:
    """Merge two sequences of statistics element by element."""
    return tuple(a.merge(b) for a, b in zip(left, right, strict=True))


def complete_stats(
    batch: Batch,
    candidates: Sequence[MixtureParams],
    stacked: Sequence[StackedStats],
    row_moments: SuffStats,
    shift: Array,
) -> list[SuffStats]:
    """Return the statistics of every candidate from the merged statistics of all rows.

    Candidates with linear features lack the part that is the same for all components: with one covariance,
    ``z' precision z`` does not depend on the component. Its sum over the rows, and the pooled scatter, follow from
    ``row_moments``, the moments of the same rows as of one component. ``shift (D,)`` is the origin of the coordinates
    in which the features were computed.
    """
    completed = []
    for params, stats in zip(candidates, batch.split(stacked), strict=True):
        if len(stats.scatter):
            completed.append(stats)
            continue
        delta = stats.mean - row_moments.mean[0]
        pooled = row_moments.scatter[0] - (stats.weight * delta.T) @ delta
        loglik = stats.loglik + _shared_term(params, row_moments, shift)
        completed.append(replace(stats, loglik=loglik, scatter=params.family.moments.condense(pooled[None])))
    return completed


def _shared_term(params: MixtureParams, rows: SuffStats, shift: Array) -> float:
    """Return the sum of ``-z' precision z / 2`` in nats, for a shared covariance and rows of these moments."""
    family, (k, d) = params.family, params.means.shape
    delta = rows.mean[0] - shift
    about_shift = rows.scatter[0] + rows.rows * np.outer(delta, delta)
    whitener = np.array(family.expand(params.precisions_cholesky, k, d)[0])
    whitener = whitener if family.matrices else np.diag(whitener)
    return -0.5 * float(np.sum(whitener * (about_shift @ whitener)))


def add_heldout(
    batch: Batch, candidates: Sequence[MixtureParams], stats: Sequence[SuffStats],
    sums: Sequence[Array], heldout: SuffStats, shift: Array,
) -> list[SuffStats]:  # fmt: skip
    """Return the statistics with the number and the log-likelihood of the held-out rows.

    ``sums`` holds, for each group of the batch, the log-likelihoods ``(C,)`` of its candidates as the kernels give
    them; ``heldout`` are the moments of the held-out rows, and ``shift`` is as in :func:`complete_stats`.
    """
    extended = []
    for i, (params, fitted, loglik) in enumerate(zip(candidates, stats, batch.order_values(sums), strict=True)):
        total = loglik + (_shared_term(params, heldout, shift) if batch.uses_linear_features(i) else 0.0)
        extended.append(replace(fitted, heldout_rows=heldout.rows, heldout_loglik=total))
    return extended
