"""One EM step over rows in memory, compiled: an E-step by whichever kernel is precise enough, and the M-step.

A point, and ``structure``, ``prior``, ``prior_rows`` and ``ridge``, are as in :mod:`.few_rows_loops`.
``rows_t (D, N)`` are the rows less their mean, ``scale (D,)`` their standard deviations; an empty ``scale`` says that
features do not pay.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import types

from stream_gmm.core.compiled.calls import address_of, make_call
from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.estep.kernel_choice import ALLOWED, ERROR_RATIO
from stream_gmm.core.estep.kernels import feature_pass
from stream_gmm.core.estep.whitening import full_pass
from stream_gmm.core.model.decomposition import IDENTITY, Letters
from stream_gmm.core.model.estimators import ESTIMATION, call_estimator, find_estimator
from stream_gmm.core.model.features import DIAGONAL_ORDER, QUADRATIC_ORDER
from stream_gmm.core.mstep.mstep import STARVING_ROWS

_VECTOR, _MATRIX, _MATRICES, _NUMBERS = (
    types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1], types.int64[::1],
)  # fmt: skip
FEATURE_PASS = types.void(
    _MATRIX, _VECTOR, _VECTOR, _VECTOR, _MATRIX, types.int64, _MATRIX, _NUMBERS, _VECTOR, _MATRIX, _MATRIX
)
FULL_PASS = types.void(_MATRIX, _VECTOR, _MATRIX, _MATRICES, _VECTOR, _NUMBERS, _VECTOR, _MATRICES, _MATRIX)
call_feature_pass, call_full_pass = make_call(FEATURE_PASS), make_call(FULL_PASS)

_MOST_MAGNITUDE = 0.1 * ALLOWED["float64"] / (ERROR_RATIO * float(np.finfo(np.float64).eps))
"""Above this sum of absolute terms features lose too many digits (:func:`~.kernel_choice.bound_rounding_error`); a
climb compares values closer to each other than passes over files do."""


@cache
def describe_structure(code: str) -> tuple[int, ...]:
    """Return what the loops take as ``structure``: letters, and the addresses of what is not compiled into them.

    These are those of the M-step, and of the kernels by features and by whitened rows.
    """
    letters = Letters.of(code)
    return (
        *letters, address_of(find_estimator(letters), ESTIMATION),
        address_of(feature_pass, FEATURE_PASS), address_of(full_pass, FULL_PASS),
    )  # fmt: skip


@compiled(error_model="numpy")
def factor_covariances(covariances, factors, inverses):  # type: ignore[no-untyped-def]
    """Write Cholesky factors and their inverses ``(K, D, D)``; return False if a matrix has none."""
    k, d = covariances.shape[0], covariances.shape[1]
    for c in range(k):
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
                    return False
            inverses[c, i, i] = 1.0 / factors[c, i, i]
            for j in range(i):
                s = 0.0
                for m in range(j, i):
                    s -= factors[c, i, m] * inverses[c, m, j]
                inverses[c, i, j] = s / factors[c, i, i]
    return True


@compiled(internal=True, error_model="numpy")
def _pack_densities(point, log_norm, inverses, scale, diagonal, weights):  # type: ignore[no-untyped-def]
    """Write the weights ``(K, F)`` of features of scaled rows; return the largest sum of absolute terms."""
    _, means, covariances = point
    k, d = means.shape
    precision, size = np.empty((d, d)), np.empty((d, d))
    largest = 0.0
    for c in range(k):
        for i in range(d):
            for j in range(i, d):
                s, t = 0.0, 0.0
                for m in range(j, d):
                    product = inverses[c, m, i] * inverses[c, m, j]
                    s += product
                    t += abs(product)
                precision[i, j] = precision[j, i] = s
                size[i, j] = size[j, i] = t
        constant, terms, at = log_norm[c], abs(log_norm[c]) + d, 1 + d
        for i in range(d):
            linear, linear_size, quadratic_size = 0.0, 0.0, 0.0
            for j in range(d):
                if diagonal and j != i:
                    continue
                linear += precision[i, j] * means[c, j]
                linear_size += size[i, j] * abs(means[c, j])
                quadratic_size += size[i, j] * np.sqrt(means[c, j] * means[c, j] + covariances[c, j, j])
            z = np.sqrt(means[c, i] * means[c, i] + covariances[c, i, i])
            terms += linear_size * (z + 0.5 * abs(means[c, i])) + 0.5 * quadratic_size * z
            constant -= 0.5 * linear * means[c, i]
            weights[c, 1 + i] = linear * scale[i]
            for j in range(i, i + 1 if diagonal else d):
                weights[c, at] = (-0.5 if i == j else -1.0) * precision[i, j] * scale[i] * scale[j]
                at += 1
        weights[c, 0] = constant
        largest = max(largest, terms) if terms == terms else np.inf
    return largest


@compiled(error_model="numpy")
def run_estep(rows_t, row_weights, scale, point, structure, factors, inverses, moments):  # type: ignore[no-untyped-def]
    """Return the log-likelihood in nats, NaN if a covariance is singular.

    Written are the Cholesky ``factors`` of the covariances, their ``inverses``, and ``moments (K, D + 1, D + 1)``:
    the sums over rows of responsibility times ``[x - mean, 1] [x - mean, 1]'``, about the means of the point.
    """
    log_weights, means, covariances = point
    k, d = means.shape
    if not factor_covariances(covariances, factors, inverses):
        return np.nan
    log_norm, sums = np.empty(k), np.zeros((1, 2))
    for c in range(k):
        log_norm[c] = max(log_weights[c] - 0.5 * d * np.log(2.0 * np.pi), -1e300)
        for i in range(d):
            log_norm[c] -= np.log(factors[c, i, i])
    offsets, backgrounds = np.zeros(2, np.int64), np.full(1, -1e300)
    offsets[1] = k
    if scale.shape[0]:
        diagonal = structure[2] == IDENTITY
        size = 1 + 2 * d if diagonal else 1 + d + d * (d + 1) // 2
        weights, totals = np.empty((k, size)), np.zeros((k, size))
        if _pack_densities(point, log_norm, inverses, scale, diagonal, weights) <= _MOST_MAGNITUDE:
            order = DIAGONAL_ORDER if diagonal else QUADRATIC_ORDER
            inverse_scale = np.empty(d)
            for i in range(d):
                inverse_scale[i] = 1.0 / scale[i]
            call_feature_pass(
                structure[4], rows_t, row_weights, np.zeros(d), inverse_scale, np.empty((0, 0)), order,
                weights, offsets, backgrounds, totals, sums,
            )  # fmt: skip
            for c in range(k):
                weight, at = totals[c, 0], 1 + d
                moments[c, d, d] = weight
                for i in range(d):
                    moments[c, i, d] = moments[c, d, i] = scale[i] * totals[c, 1 + i] - weight * means[c, i]
                for i in range(d):
                    for j in range(i, i + 1 if diagonal else d):
                        # The sum about the means, from that about the origin.
                        value = scale[i] * scale[j] * totals[c, at] - weight * means[c, i] * means[c, j]
                        value -= means[c, i] * moments[c, j, d] + means[c, j] * moments[c, i, d]
                        moments[c, i, j] = moments[c, j, i] = value
                        at += 1
            return sums[0, 0]
    whitened, half = np.zeros((k, d + 1, d + 1)), np.empty((d, d))
    call_full_pass(structure[5], rows_t, row_weights, means, inverses, log_norm, offsets, backgrounds, whitened, sums)
    for c in range(k):
        moments[c, d, d] = whitened[c, d, d]
        for i in range(d):
            first = 0.0
            for j in range(i + 1):
                first += factors[c, i, j] * whitened[c, j, d]
            moments[c, i, d] = moments[c, d, i] = first
            for j in range(d):
                half[i, j] = 0.0
                for m in range(i + 1):
                    half[i, j] += factors[c, i, m] * whitened[c, m, j]
        for i in range(d):
            for j in range(i + 1):
                second = 0.0
                for m in range(j + 1):
                    second += half[i, m] * factors[c, j, m]
                moments[c, i, j] = moments[c, j, i] = second
    return sums[0, 0]


@compiled(internal=True, error_model="numpy")
def run_mstep(point, moments, total, structure, shared, prior, prior_rows, ridge):  # type: ignore[no-untyped-def]
    """Return the EM step from a point, with the moments that :func:`run_estep` has written there."""
    _, means, covariances = point
    k, d = means.shape
    log_weights, new_means, new = np.empty(k), means.copy(), covariances.copy()
    divisors, scatter = np.empty(k), np.zeros((k, d, d))
    part = 1.0 / k if shared else 1.0  # a shared covariance has one set of pseudo-rows for all components
    for c in range(k):
        weight = moments[c, d, d]
        divisor = max(weight, STARVING_ROWS)
        log_weights[c] = np.log(divisor / total)
        divisors[c] = divisor + prior_rows * part
        if weight > STARVING_ROWS:
            for i in range(d):
                new_means[c, i] += moments[c, i, d] / weight
                for j in range(i + 1):
                    scatter[c, i, j] = moments[c, i, j] - moments[c, i, d] * moments[c, j, d] / weight
        for i in range(d):
            for j in range(i + 1):
                scatter[c, i, j] += prior[i, j] * part
                scatter[c, j, i] = scatter[c, i, j]
    call_estimator(structure[3], structure[0], structure[1], structure[2], divisors, scatter, new)
    for c in range(k):
        if moments[c, d, d] <= STARVING_ROWS and not shared:
            for i in range(d):
                for j in range(d):
                    new[c, i, j] = covariances[c, i, j]
        else:
            for i in range(d):
                new[c, i, i] += ridge
    return log_weights, new_means, new
