"""EM on a few rows in one compiled loop, for races of restarts: there a step of numpy calls costs more than its rows.

Only for penalties that add to the scatter or to the estimate. The loop makes the same steps as
:func:`stream_gmm.core.mstep.mstep.mstep` up to rounding; what its last point is worth is judged by the ordinary
E-step.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stream_gmm.core.fit.stopping import SLOW_RATE
from stream_gmm.core.model.decomposition import Letters, estimate_covariances
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import STARVING_ROWS
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.errors import ConfigError, SingularCovarianceError

MOST_WORK = 300_000
"""Rows x components x (D^2 + 8), above which the ordinary kernels are faster."""


def is_small_enough(params: MixtureParams, rows: Array, penalty: Penalty) -> bool:
    """Return True if :func:`run_plain_steps` applies and is worth while."""
    (k, d), n = params.means.shape, len(rows)
    return params.noise is None and isinstance(penalty, PseudoRows | Ridge) and n * k * (d * d + 8) <= MOST_WORK


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
        family.shared, *Letters.of(family.mclust), prior, prior_rows, ridge, steps,
        tol * (1.0 - SLOW_RATE) / SLOW_RATE,
    )  # fmt: skip
    shares = np.exp(log_weights)
    values = covariances if family.matrices else np.einsum("kjj->kj", covariances)
    values = values[0] if family.shared else values
    while values.ndim > len(family.shape(k, d)):
        values = values[..., 0]
    try:
        out = MixtureParams(shares / shares.sum(), means + origin, values, family)
        _ = out.precisions_cholesky
    except (SingularCovarianceError, ConfigError):
        return params
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _run_loop(  # type: ignore[no-untyped-def]
    rows, row_weights, log_weights, means, covariances, shared, volume, shape, orientation, prior, prior_rows, ridge,
    steps, least_gain,
):  # fmt: skip
    """Make EM steps; ``volume``, ``shape`` and ``orientation`` are the letters of the structure."""
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
        divisors, scatter = np.empty(k), np.zeros((k, d, d))
        for c in range(k):
            starving = weight[c] <= STARVING_ROWS
            divisor = max(weight[c], STARVING_ROWS)
            new_weights[c] = np.log(divisor / total)
            # A shared covariance has one set of pseudo-rows for all components.
            part = 1.0 / k if shared else 1.0
            divisors[c] = divisor + prior_rows * part
            for i in range(d):
                if not starving:
                    new_means[c, i] += first[c, i] / divisor
                for j in range(i + 1):
                    s = 0.0 if starving else second[c, i, j] - first[c, i] * first[c, j] / divisor
                    scatter[c, i, j] = scatter[c, j, i] = s + prior[i, j] * part
        estimate_covariances(volume, shape, orientation, divisors, scatter, new)
        for c in range(k):
            if weight[c] <= STARVING_ROWS and not shared:
                new[c] = covariances[c]
            else:
                for i in range(d):
                    new[c, i, i] += ridge
        log_weights, means, covariances = new_weights, new_means, new
    return log_weights, means, covariances
