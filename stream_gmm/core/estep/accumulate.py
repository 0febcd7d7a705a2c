"""E-step: many candidates x rows -> statistics, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from stream_gmm.core.estep.batch import Batch, StackedStats
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.stats import SuffStats

CHUNK_ROWS = 65_536

T = TypeVar("T", StackedStats, SuffStats)


def accumulate_stats(batch: Batch, rows: Array, weights: Array = UNWEIGHTED) -> tuple[StackedStats, ...]:
    """Return the statistics of every group of candidates for ``rows (N, D)`` of finite values.

    ``weights (N,)`` are positive; a row of weight 2 is two rows. Empty: every row counts once.

    Column-major rows are used without a copy. When all rows are in, :func:`complete_stats` makes of them the
    statistics of every candidate.
    """
    rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    return tuple(group.accumulate_stats(rows_t, weights) for group in batch.groups)


def merge_each(left: Sequence[T], right: Sequence[T]) -> tuple[T, ...]:
    """Merge statistics one by one."""
    return tuple(a.merge(b) for a, b in zip(left, right, strict=True))


def complete_stats(
    batch: Batch,
    candidates: Sequence[MixtureParams],
    stacked: Sequence[StackedStats],
    row_moments: SuffStats,
    shift: Array,
) -> list[SuffStats]:
    """Return the statistics of every candidate, once all rows are in.

    Those of linear features are completed from the moments of all their rows, ``row_moments``. With one
    covariance for all components, ``z' precision z`` is the same for all of them: its sum over the rows, and
    the pooled scatter, follow from the scatter of all rows, which no step changes. ``shift`` is the origin of
    the coordinates in which the features were taken.
    """
    return [
        s if len(s.scatter) else _complete_pooled(p, s, row_moments, shift)
        for p, s in zip(candidates, batch.split(stacked), strict=True)
    ]


def _complete_pooled(params: MixtureParams, stats: SuffStats, row_moments: SuffStats, shift: Array) -> SuffStats:
    delta = stats.mean - row_moments.mean[0]
    pooled = row_moments.scatter[0] - (stats.weight * delta.T) @ delta
    loglik = stats.loglik + _shared_term(params, row_moments, shift)
    return replace(stats, loglik=loglik, scatter=params.family.moments.condense(pooled[None]))


def _shared_term(params: MixtureParams, rows: SuffStats, shift: Array) -> float:
    """Return the sum of ``-z' precision z / 2`` over rows of these moments, of a shared covariance."""
    family, (k, d) = params.family, params.means.shape
    off = rows.mean[0] - shift
    about_shift = rows.scatter[0] + rows.rows * np.outer(off, off)
    whitener = np.array(family.expand(params.precisions_cholesky, k, d)[0])
    whitener = whitener if family.matrices else np.diag(whitener)
    return -0.5 * float(np.sum(whitener * (about_shift @ whitener)))


def add_heldout(
    batch: Batch, candidates: Sequence[MixtureParams], stats: Sequence[SuffStats],
    sums: Sequence[Array], heldout: SuffStats, shift: Array,
) -> list[SuffStats]:  # fmt: skip
    """Return the statistics with the log-likelihood of the rows held out.

    ``sums`` holds that of the candidates of each group ``(C,)``, ``heldout`` the moments of those rows.
    """
    out = []
    for i, (params, own, value) in enumerate(zip(candidates, stats, batch.order_values(sums), strict=True)):
        loglik = value + (_shared_term(params, heldout, shift) if batch.uses_linear_features(i) else 0.0)
        out.append(replace(own, heldout_rows=heldout.rows, heldout_loglik=loglik))
    return out
