"""EM on a few rows in compiled loops: there a step of numpy calls costs more than its rows.

Plain EM is for races of restarts; limited-memory BFGS (:mod:`.quasi_newton`) brings their winners close to an
optimum. Only for penalties that add to the scatter or to the estimate. A step here is that of the ordinary driver up
to rounding; what the last point is worth, and whether it has converged, is judged by the driver.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_gmm.core.fit.few_rows_loops import climb, run_em
from stream_gmm.core.fit.stopping import SLOW_RATE
from stream_gmm.core.model.decomposition import Letters
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.errors import ConfigError, SingularCovarianceError

MOST_WORK = 300_000
"""Rows x components x (D^2 + 8), above which the ordinary kernels are faster for a batch of restarts."""
MOST_WORK_OF_CLIMB = 2_000_000
"""The same for two finalists: there the arithmetic of the driver is shared by fewer."""

Point = tuple[Array, Array, Array]


def is_small_enough(params: MixtureParams, rows: Array, penalty: Penalty, most_work: int = MOST_WORK) -> bool:
    """Return True if :func:`run_plain_steps` applies and is worth while."""
    (k, d), n = params.means.shape, len(rows)
    return params.noise is None and isinstance(penalty, PseudoRows | Ridge) and n * k * (d * d + 8) <= most_work


def run_plain_steps(
    params: MixtureParams, rows: Array, weights: Array, penalty: Penalty, steps: int, tol: float
) -> MixtureParams:
    """Return the parameters after at most ``steps`` EM steps on ``rows (N, D)`` with ``weights (N,)`` or none.

    It ends early when no more than ``tol`` nats per row are left at a rate of 0.99 per step, and at the last regular
    point before a singular covariance.
    """
    origin, arguments = _prepare(params, rows, weights, penalty)
    ridge = penalty.amount if isinstance(penalty, Ridge) else 0.0
    least_gain = tol * (1.0 - SLOW_RATE) / SLOW_RATE
    return _restore(run_em(*arguments, ridge, steps, least_gain), origin, params)


def can_climb(params: MixtureParams, rows: Array, penalty: Penalty) -> bool:
    """Return True if :func:`run_quasi_newton` applies and is worth while."""
    return penalty.has_objective and is_small_enough(params, rows, penalty, MOST_WORK_OF_CLIMB)


def run_quasi_newton(
    params: MixtureParams, rows: Array, weights: Array, penalty: Penalty, steps: int, tol: float, stall: float
) -> tuple[MixtureParams, bool]:
    """Return the parameters after limited-memory BFGS, and True if it predicts no more than ``tol`` left to gain.

    It ends early, too, after fifty steps that have gained no more than ``stall`` nats per row.
    """
    origin, arguments = _prepare(params, rows, weights, penalty)
    point, is_flat = climb(*arguments, steps, tol, stall)
    return _restore(point, origin, params), is_flat


def _prepare(params: MixtureParams, rows: Array, weights: Array, penalty: Penalty) -> tuple[Array, tuple[Any, ...]]:
    """Return the origin of the rows in the loops, and the arguments that the loops share."""
    (k, d), family, origin = params.means.shape, params.family, rows.mean(axis=0)
    prior, prior_rows = np.zeros((d, d)), 0.0
    if isinstance(penalty, PseudoRows):
        prior, prior_rows = penalty.spread * (penalty.rows * k ** (-2.0 / d)), penalty.rows
    point = np.log(np.maximum(params.weights, 1e-300)), params.means - origin, np.array(params.dense_covariances)
    total = float(weights.sum()) if len(weights) else float(len(rows))
    row_weights = np.array(weights) if len(weights) else np.array(UNWEIGHTED)
    rows_t = np.ascontiguousarray((rows - origin).T)
    return origin, (
        rows_t, row_weights, total, point, tuple(Letters.of(family.mclust)), family.shared, prior, prior_rows,
    )  # fmt: skip


def _restore(point: Point, origin: Array, before: MixtureParams) -> MixtureParams:
    """Return the parameters at a point, or those before if it has no density."""
    (log_weights, means, covariances), family = point, before.family
    shares, (k, d) = np.exp(log_weights), means.shape
    values = covariances if family.matrices else np.einsum("kjj->kj", covariances)
    values = values[0] if family.shared else values
    while values.ndim > len(family.shape(k, d)):
        values = values[..., 0]
    try:
        out = MixtureParams(shares / shares.sum(), means + origin, values, family)
        _ = out.precisions_cholesky
    except (SingularCovarianceError, ConfigError):
        return before
    return out
