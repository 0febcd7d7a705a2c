"""The compiled loops of :mod:`.few_rows`: EM, and limited-memory BFGS with the EM step as the gradient.

A point is a tuple of logarithms of the weights ``(K,)``, means ``(K, D)`` and covariance matrices ``(K, D, D)``,
whatever the structure; ``letters`` are those of the structure, for
:func:`~stream_gmm.core.model.decomposition.estimate_covariances`. ``prior (D, D)`` and ``prior_rows`` are added to
the scatter and the weight of every component (to their sum, if covariances are ``shared``), ``ridge`` to the
diagonals of every estimate.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stream_gmm.core.estep.whitening import full_pass
from stream_gmm.core.fit.coordinates import MAX_LOG_STRETCH, SMALLEST_WEIGHT
from stream_gmm.core.fit.quasi_newton import CENTRED_STEPS, LEAST_CURVATURE, PAIRS, SHORTER, TRIES
from stream_gmm.core.fit.stopping import SLOWEST_RATE, STALL_STEPS
from stream_gmm.core.model.decomposition import estimate_covariances
from stream_gmm.core.model.small_matrices import trace_of_quotient
from stream_gmm.core.mstep.mstep import STARVING_ROWS


@njit(nogil=True, cache=True, error_model="numpy")
def _factor_covariances(covariances, factors, inverses):  # type: ignore[no-untyped-def]
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


@njit(nogil=True, cache=True, error_model="numpy")
def _run_estep(rows_t, row_weights, point, factors, inverses, moments):  # type: ignore[no-untyped-def]
    """Return the log-likelihood in nats, NaN if a covariance is singular.

    Written are the ``moments (K, D + 1, D + 1)`` of whitened rows.
    """
    log_weights, means, covariances = point
    k, d = means.shape
    if not _factor_covariances(covariances, factors, inverses):
        return np.nan
    log_norm, sums = np.empty(k), np.zeros((1, 2))
    for c in range(k):
        log_norm[c] = max(log_weights[c] - 0.5 * d * np.log(2.0 * np.pi), -1e300)
        for i in range(d):
            log_norm[c] -= np.log(factors[c, i, i])
    moments[:] = 0.0
    offsets, backgrounds = np.array([0, k]), np.array([-1e300])
    full_pass(rows_t, row_weights, means, inverses, log_norm, offsets, backgrounds, moments, sums)
    return sums[0, 0]


@njit(nogil=True, cache=True, error_model="numpy")
def _run_mstep(point, factors, moments, total, letters, shared, prior, prior_rows, ridge):  # type: ignore[no-untyped-def]
    """Return the EM step from a point, with the moments that :func:`_run_estep` has written there."""
    _, means, covariances = point
    k, d = means.shape
    log_weights, new_means, new = np.empty(k), means.copy(), np.zeros((k, d, d))
    divisors, scatter, about, half = np.empty(k), np.zeros((k, d, d)), np.empty((d, d)), np.empty((d, d))
    part = 1.0 / k if shared else 1.0  # a shared covariance has one set of pseudo-rows for all components
    for c in range(k):
        weight = moments[c, d, d]
        divisor = max(weight, STARVING_ROWS)
        log_weights[c] = np.log(divisor / total)
        divisors[c] = divisor + prior_rows * part
        if weight > STARVING_ROWS:
            for i in range(d):
                for j in range(i + 1):
                    new_means[c, i] += factors[c, i, j] * moments[c, j, d] / weight
                for j in range(d):
                    about[i, j] = moments[c, i, j] - moments[c, i, d] * moments[c, j, d] / weight
            for i in range(d):
                for j in range(d):
                    half[i, j] = 0.0
                    for m in range(i + 1):
                        half[i, j] += factors[c, i, m] * about[m, j]
            for i in range(d):
                for j in range(i + 1):
                    for m in range(j + 1):
                        scatter[c, i, j] += half[i, m] * factors[c, j, m]
        for i in range(d):
            for j in range(i + 1):
                scatter[c, i, j] += prior[i, j] * part
                scatter[c, j, i] = scatter[c, i, j]
    estimate_covariances(letters[0], letters[1], letters[2], divisors, scatter, new)
    for c in range(k):
        if moments[c, d, d] <= STARVING_ROWS and not shared:
            new[c] = covariances[c]
        else:
            for i in range(d):
                new[c, i, i] += ridge
    return log_weights, new_means, new


@njit(nogil=True, cache=True, error_model="numpy")
def run_em(rows_t, row_weights, total, point, letters, shared, prior, prior_rows, ridge, steps, least_gain):  # type: ignore[no-untyped-def]
    """Return the point after at most ``steps`` EM steps; it ends at a change of ``least_gain`` nats per row."""
    k, d = point[1].shape
    factors, inverses, moments = np.zeros((k, d, d)), np.zeros((k, d, d)), np.zeros((k, d + 1, d + 1))
    before = -np.inf
    for made in range(steps + 1):
        loglik = _run_estep(rows_t, row_weights, point, factors, inverses, moments) / total
        # With a ridge the log-likelihood can fall on the way.
        if made == steps or abs(loglik - before) <= least_gain or not np.isfinite(loglik):
            break
        before = loglik
        point = _run_mstep(point, factors, moments, total, letters, shared, prior, prior_rows, ridge)
    return point


@njit(nogil=True, cache=True, error_model="numpy")
def _evaluate_penalty(factors, shared, prior, prior_rows):  # type: ignore[no-untyped-def]
    """Return the value of the pseudo-rows, nats."""
    value, inner = 0.0, np.empty(prior.shape)
    for c in range(1 if shared else len(factors)):
        for i in range(len(prior)):
            value -= prior_rows * np.log(factors[c, i, i])
        value -= 0.5 * trace_of_quotient(factors[c], prior, inner)
    return value


@njit(nogil=True, cache=True, error_model="numpy")
def _to_vector(point, centre, inverses, factors, vector):  # type: ignore[no-untyped-def]
    """Write the coordinates of a point about a centre, as :class:`~.coordinates.Chart` has them.

    ``inverses`` are those of the factors of the centre, ``factors`` those of the point.
    """
    k, d = point[1].shape
    at = 0
    for c in range(k):
        share = np.sqrt(max(np.exp(centre[0][c]), 1e-8))
        floor = np.log(SMALLEST_WEIGHT)
        vector[at] = share * (max(point[0][c], floor) - max(centre[0][c], floor))
        at += 1
        for i in range(d):
            moved = 0.0
            for j in range(i + 1):
                moved += inverses[c, i, j] * (point[1][c, j] - centre[1][c, j])
            vector[at] = share * moved
            at += 1
            for j in range(i + 1):
                change = 0.0
                for m in range(j, i + 1):
                    change += inverses[c, i, m] * factors[c, m, j]
                vector[at] = share * (change if j < i else np.sqrt(2.0) * np.log(change))
                at += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _from_vector(vector, centre, factors, letters):  # type: ignore[no-untyped-def]
    """Return the point of a structure at these coordinates; ``factors`` are those of the centre."""
    k, d = centre[1].shape
    log_weights, means, scatter, out = np.empty(k), np.empty((k, d)), np.zeros((k, d, d)), np.zeros((k, d, d))
    change, spread, moved = np.zeros((d, d)), np.zeros((d, d)), np.zeros(d)
    at, largest = 0, -np.inf
    for c in range(k):
        share = np.sqrt(max(np.exp(centre[0][c]), 1e-8))
        log_weights[c] = max(centre[0][c], np.log(SMALLEST_WEIGHT)) + vector[at] / share
        largest = max(largest, log_weights[c])
        at += 1
        for i in range(d):
            moved[i] = vector[at] / share
            at += 1
            for j in range(i + 1):
                value = vector[at] / share
                change[i, j] = (
                    value if j < i else np.exp(min(max(value / np.sqrt(2.0), -MAX_LOG_STRETCH), MAX_LOG_STRETCH))
                )
                at += 1
        for i in range(d):
            means[c, i] = centre[1][c, i]
            for j in range(i + 1):
                means[c, i] += factors[c, i, j] * moved[j]
                spread[i, j] = 0.0
                for m in range(j, i + 1):
                    spread[i, j] += factors[c, i, m] * change[m, j]
        for i in range(d):
            for j in range(i + 1):
                for m in range(j + 1):
                    scatter[c, i, j] += spread[i, m] * spread[j, m]
                scatter[c, j, i] = scatter[c, i, j]
    total = 0.0
    for c in range(k):
        total += np.exp(log_weights[c] - largest)
    counts = np.empty(k)
    for c in range(k):
        log_weights[c] -= largest + np.log(total)
        counts[c] = max(np.exp(log_weights[c]), SMALLEST_WEIGHT)
        for i in range(d):
            for j in range(d):
                scatter[c, i, j] *= counts[c]
    estimate_covariances(letters[0], letters[1], letters[2], counts, scatter, out)
    return log_weights, means, out


@njit(nogil=True, cache=True, error_model="numpy")
def _find_direction(gradient, steps, changes, oldest, n_pairs, direction):  # type: ignore[no-untyped-def]
    """Write the quasi-Newton step by the two-loop recursion (Nocedal 1980); the gradient if it does not ascend."""
    weights = np.empty(PAIRS)
    direction[:] = gradient
    for back in range(n_pairs - 1, -1, -1):
        p = (oldest + back) % PAIRS
        weights[back] = np.dot(steps[p], direction) / np.dot(changes[p], steps[p])
        for i in range(len(direction)):
            direction[i] -= weights[back] * changes[p, i]
    p = (oldest + n_pairs - 1) % PAIRS
    factor = np.dot(steps[p], changes[p]) / np.dot(changes[p], changes[p])
    for i in range(len(direction)):
        direction[i] *= factor
    for back in range(n_pairs):
        p = (oldest + back) % PAIRS
        weight = weights[back] - np.dot(changes[p], direction) / np.dot(changes[p], steps[p])
        for i in range(len(direction)):
            direction[i] += weight * steps[p, i]
    if not np.dot(direction, gradient) > 0.0:
        direction[:] = gradient


@njit(nogil=True, cache=True, error_model="numpy")
def climb(rows_t, row_weights, total, point, letters, shared, prior, prior_rows, steps, tol, stall):  # type: ignore[no-untyped-def]
    """Return the point after at most ``steps`` steps of limited-memory BFGS, and whether its predicted gain is small.

    It ends where ``tol`` nats per row are left to gain, where fifty steps have gained less than ``stall``, and at the
    last point with a density. The steps are those of :class:`.QuasiNewton`.
    """
    k, d = point[1].shape
    factors, inverses, moments = np.zeros((k, d, d)), np.zeros((k, d, d)), np.zeros((k, d + 1, d + 1))
    at_centre, from_centre = np.zeros((k, d, d)), np.zeros((k, d, d))
    size = k * (1 + d + d * (d + 1) // 2)
    here, gradient, there, direction = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    pair_steps, pair_changes = np.zeros((PAIRS, size)), np.zeros((PAIRS, size))
    objectives = np.full(STALL_STEPS, -np.inf)
    oldest, n_pairs, in_chart, accepted, tries, length = 0, 0, CENTRED_STEPS, 0, 1, 1.0
    is_plain, objective, centre, trial, em = True, -np.inf, point, point, point
    for _ in range(steps):
        loglik = _run_estep(rows_t, row_weights, trial, factors, inverses, moments)
        value = (
            (loglik + _evaluate_penalty(factors, shared, prior, prior_rows)) / total
            if np.isfinite(loglik)
            else np.nan
        )
        if not is_plain and not value >= objective:
            if tries >= TRIES:
                trial, is_plain, in_chart = em, True, CENTRED_STEPS
            else:
                length, tries = SHORTER * length, tries + 1
                trial = _from_vector(here + length * direction, centre, at_centre, letters)
            continue
        if not np.isfinite(value):
            return point, False
        point, objective = trial, value
        em = _run_mstep(point, factors, moments, total, letters, shared, prior, prior_rows, 0.0)
        if in_chart >= CENTRED_STEPS:  # centred anew: far from its centre the EM step is a poor gradient
            centre, in_chart, n_pairs, oldest = point, 0, 0, 0
            at_centre[:], from_centre[:] = factors, inverses
            here[:] = 0.0
            if not _factor_covariances(em[2], factors, inverses):
                return point, False
            _to_vector(em, centre, from_centre, factors, gradient)
        else:
            in_chart += 1
            _to_vector(point, centre, from_centre, factors, there)
            if not _factor_covariances(em[2], factors, inverses):
                return point, False
            p = (oldest + n_pairs) % PAIRS
            _to_vector(em, centre, from_centre, factors, direction)  # as scratch
            for i in range(size):
                new = direction[i] - there[i]
                pair_steps[p, i], pair_changes[p, i] = there[i] - here[i], gradient[i] - new
                here[i], gradient[i] = there[i], new
            product = np.dot(pair_steps[p], pair_changes[p])
            lengths = np.dot(pair_steps[p], pair_steps[p]) * np.dot(pair_changes[p], pair_changes[p])
            if product > LEAST_CURVATURE * np.sqrt(lengths):
                n_pairs, oldest = min(n_pairs + 1, PAIRS), (oldest + (n_pairs == PAIRS)) % PAIRS
        squared = np.dot(gradient, gradient)
        gain, tries, length = 0.5 * squared / (1.0 - SLOWEST_RATE), 1, 1.0
        if n_pairs:
            _find_direction(gradient, pair_steps, pair_changes, oldest, n_pairs, direction)
            gain = max(gain, 0.5 * np.dot(gradient, direction))
            trial, is_plain = _from_vector(here + direction, centre, at_centre, letters), False
            if gain <= tol:
                return point, True
        else:
            trial, is_plain = em, True
        if objective - objectives[accepted % STALL_STEPS] < stall:
            return point, False
        objectives[accepted % STALL_STEPS] = objective
        accepted += 1
    return point, False
