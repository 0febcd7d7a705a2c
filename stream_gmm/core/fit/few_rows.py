"""EM on a few rows in one compiled loop, for races of restarts: there a step of numpy calls costs more than its rows.

Only for structures whose M-step is an average of scatter matrices, and for penalties that add to that average. The
loop makes the same steps as :func:`stream_gmm.core.mstep.mstep.mstep` up to rounding; what its last point is worth is
judged by the ordinary E-step.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stream_gmm.core.fit.stopping import SLOW_RATE
from stream_gmm.core.model.moments import DIAGONAL, FULL, ISOTROPIC, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import STARVING_ROWS
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.errors import SingularCovarianceError

MOST_WORK = 300_000
"""Rows x components x (D^2 + 8), above which the ordinary kernels are faster."""
AVERAGED = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
"""Structures whose covariances are averages of the scatter of the rows."""
_FORMS = {FULL: 0, DIAGONAL: 1, ISOTROPIC: 2}


def is_small_enough(params: MixtureParams, rows: Array, penalty: Penalty) -> bool:
    """Return True if :func:`run_plain_steps` applies and is worth while."""
    (k, d), n = params.means.shape, len(rows)
    return (
        params.family.name in AVERAGED
        and params.noise is None
        and isinstance(penalty, PseudoRows | Ridge)
        and n * k * (d * d + 8) <= MOST_WORK
    )


def run_plain_steps(
    params: MixtureParams, rows: Array, weights: Array, penalty: Penalty, steps: int, tol: float
) -> MixtureParams:
    """Return the parameters after at most ``steps`` EM steps on ``rows (N, D)`` with ``weights (N,)`` or none.

    It ends early when no more than ``tol`` nats per row are left at a rate of 0.99 per step, and at the last regular
    point before a singular covariance.
    """
    (k, d), family = params.means.shape, params.family
    if isinstance(penalty, PseudoRows):
        prior, prior_rows = penalty.spread * (penalty.rows * k ** (-2.0 / d)), penalty.rows
        ridge = 0.0
    else:
        assert isinstance(penalty, Ridge)
        prior, prior_rows, ridge = np.zeros((d, d)), 0.0, penalty.amount
    origin = rows.mean(axis=0)
    log_weights, means, covariances = _run_loop(
        np.ascontiguousarray(rows - origin), weights if len(weights) else np.ones(len(rows)),
        np.log(np.maximum(params.weights, 1e-300)), params.means - origin, np.array(params.dense_covariances),
        family.shared, _FORMS[family.moments], prior, prior_rows, ridge, steps, tol * (1.0 - SLOW_RATE) / SLOW_RATE,
    )  # fmt: skip
    shares = np.exp(log_weights)
    matrices = covariances if family.matrices else np.einsum("kjj->kj", covariances)
    try:
        out = MixtureParams.from_matrices(shares / shares.sum(), means + origin, matrices, family)
        _ = out.precisions_cholesky
    except SingularCovarianceError:
        return params
    return out


@njit(nogil=True, cache=True)
def _run_loop(  # type: ignore[no-untyped-def]
    rows, row_weights, log_weights, means, covariances, shared, form, prior, prior_rows, ridge, steps, least_gain
):
    """Make EM steps; ``form`` is 0 for matrices, 1 for their diagonals, 2 for the mean of the diagonal."""
    n, d = rows.shape
    k = means.shape[0]
    total = row_weights.sum()
    factors, constants = np.zeros((k, d, d)), np.zeros(k)
    weight, first, second = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    delta, solved, log_joint = np.zeros((k, d)), np.zeros(d), np.zeros(k)
    before = -np.inf
    for made in range(steps + 1):
        for c in range(k):
            constants[c] = log_weights[c] - 0.5 * d * np.log(2.0 * np.pi)
            for i in range(d):
                for j in range(i + 1):
                    s = covariances[c, i, j]
                    for m in range(j):
                        s -= factors[c, i, m] * factors[c, j, m]
                    if i > j:
                        factors[c, i, j] = s / factors[c, j, j]
                    elif s > 0.0:
                        factors[c, i, i] = np.sqrt(s)
                    else:
                        return log_weights, means, covariances
                constants[c] -= np.log(factors[c, i, i])
        weight[:], first[:], second[:], loglik = 0.0, 0.0, 0.0, 0.0
        for r in range(n):
            largest = -np.inf
            for c in range(k):
                squared = 0.0
                for i in range(d):
                    delta[c, i] = rows[r, i] - means[c, i]
                    s = delta[c, i]
                    for j in range(i):
                        s -= factors[c, i, j] * solved[j]
                    solved[i] = s / factors[c, i, i]
                    squared += solved[i] * solved[i]
                log_joint[c] = constants[c] - 0.5 * squared
                largest = max(largest, log_joint[c])
            density = 0.0
            for c in range(k):
                log_joint[c] = np.exp(log_joint[c] - largest)
                density += log_joint[c]
            loglik += row_weights[r] * (largest + np.log(density))
            for c in range(k):
                share = row_weights[r] * log_joint[c] / density
                if share > 0.0:
                    weight[c] += share
                    for i in range(d):
                        first[c, i] += share * delta[c, i]
                        for j in range(i + 1):
                            second[c, i, j] += share * delta[c, i] * delta[c, j]
        loglik /= total
        # With a ridge the log-likelihood can fall on the way.
        if made == steps or abs(loglik - before) <= least_gain or not np.isfinite(loglik):
            return log_weights, means, covariances
        before = loglik
        new_weights, new_means, new = np.empty(k), means.copy(), np.zeros((k, d, d))
        pooled, pooled_weight = np.zeros((d, d)), prior_rows
        for c in range(k):
            starving = weight[c] <= STARVING_ROWS
            new_weights[c] = np.log(max(weight[c], STARVING_ROWS) / total)
            divisor = max(weight[c], STARVING_ROWS)
            for i in range(d):
                if not starving:
                    new_means[c, i] += first[c, i] / divisor
            for i in range(d):
                for j in range(i + 1):
                    s = 0.0 if starving else second[c, i, j] - first[c, i] * first[c, j] / divisor
                    pooled[i, j] += s
                    new[c, i, j] = covariances[c, i, j] if starving else (s + prior[i, j]) / (divisor + prior_rows)
            pooled_weight += divisor
        if shared:
            for c in range(k):
                new[c] = (pooled + prior) / pooled_weight
        for c in range(k):
            if form == 2:
                mean = 0.0
                for i in range(d):
                    mean += new[c, i, i] / d
                for i in range(d):
                    new[c, i, i] = mean
            for i in range(d):
                new[c, i, i] += ridge if weight[c] > STARVING_ROWS or shared else 0.0
                for j in range(i):
                    if form > 0:
                        new[c, i, j] = 0.0
                    new[c, j, i] = new[c, i, j]
        log_weights, means, covariances = new_weights, new_means, new
    return log_weights, means, covariances
