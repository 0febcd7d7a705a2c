"""The compiled loops of :mod:`.few_rows`: EM, and limited-memory BFGS with the EM step as the gradient.

A point is a tuple of logarithms of the weights ``(K,)``, means ``(K, D)`` and covariance matrices ``(K, D, D)``,
whatever the structure; ``structure`` is that of :func:`~.few_rows_steps.describe_structure`. ``prior (D, D)`` and
``prior_rows`` are added to the scatter and the weight of every component (to their sum, if covariances
are ``shared``), ``ridge`` to the diagonals of every estimate.
"""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.fit.coordinates import MAX_LOG_STRETCH, SMALLEST_WEIGHT
from stream_gmm.core.fit.em import CONFIRMING_STEPS
from stream_gmm.core.fit.few_rows_steps import factor_covariances, run_estep, run_mstep
from stream_gmm.core.fit.quasi_newton import LEAST_CURVATURE, PAIRS, SHORTER, TRIES
from stream_gmm.core.fit.stopping import ROUNDING, SLOWEST_RATE, STALL_STEPS, bound_plain_gain
from stream_gmm.core.model.estimators import call_estimator
from stream_gmm.core.model.small_matrices import trace_of_quotient

CONFIRMED = 10.0
"""The climb goes on if these gains leave more than so many tolerances: EM's slowest direction is only bounded."""
FIRST_RADIUS, NEARLY = 1.0, 0.8
"""Longest first step, in the coordinates of :class:`.Chart`; the radius is doubled after a step nearly as long."""
LEAST_SHARE, LARGEST_SHARE = 0.1, 0.5
"""A step that is not accepted is shortened to the top of a parabola, to a part of it between these."""


@compiled(error_model="numpy")
def run_em(rows_t, row_weights, scale, total, point, structure, shared, prior, prior_rows, ridge, steps, least_gain):  # type: ignore[no-untyped-def]
    """Return the point after at most ``steps`` EM steps, its log-likelihood per row, and what the last step gained.

    It ends at a change of ``least_gain`` nats per row.
    """
    k, d = point[1].shape
    factors, inverses, moments = np.zeros((k, d, d)), np.zeros((k, d, d)), np.zeros((k, d + 1, d + 1))
    before, loglik, gain = -np.inf, np.nan, np.inf
    for made in range(steps + 1):
        loglik = run_estep(rows_t, row_weights, scale, point, structure, factors, inverses, moments) / total
        gain = abs(loglik - before)  # with a ridge the log-likelihood can fall on the way
        if made == steps or gain <= least_gain or not np.isfinite(loglik):
            break
        before = loglik
        point = run_mstep(point, moments, total, structure, shared, prior, prior_rows, ridge)
    return point, loglik, gain


@compiled(internal=True, error_model="numpy")
def _evaluate_penalty(factors, shared, prior, prior_rows):  # type: ignore[no-untyped-def]
    """Return the value of the pseudo-rows, nats."""
    value, inner = 0.0, np.empty(prior.shape)
    for c in range(1 if shared else len(factors)):
        for i in range(len(prior)):
            value -= prior_rows * np.log(factors[c, i, i])
        value -= 0.5 * trace_of_quotient(factors[c], prior, inner)
    return value


@compiled(internal=True, error_model="numpy")
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


@compiled(internal=True, error_model="numpy")
def _from_vector(vector, centre, factors, structure):  # type: ignore[no-untyped-def]
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
    call_estimator(structure[3], structure[0], structure[1], structure[2], counts, scatter, out)
    return log_weights, means, out


@compiled(internal=True, error_model="numpy")
def _find_direction(gradient, steps, changes, oldest, n_pairs, direction):  # type: ignore[no-untyped-def]
    """Write the quasi-Newton step by the two-loop recursion (Nocedal 1980); the gradient if it does not ascend."""
    weights = np.empty(PAIRS)
    for i in range(len(direction)):
        direction[i] = gradient[i]
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
        for i in range(len(direction)):
            direction[i] = gradient[i]


@compiled(error_model="numpy")
def climb(rows_t, row_weights, scale, total, point, structure, shared, prior, prior_rows, steps, tol, stall):  # type: ignore[no-untyped-def]
    """Return the last point, whether it is an optimum, what is left to gain, its value, and the number of steps.

    The steps are those of :class:`.QuasiNewton`, with the chart centred at every point: the pairs of earlier steps
    are kept as they are. A step is no longer than a radius that grows and shrinks with success. Where at most
    ``tol`` nats per row are predicted, some EM steps follow, and their gains must leave little more by the rule of
    :func:`.bound_plain_gain`. It ends early where fifty steps have gained less than ``stall``, and at the last
    point with a density. What is left, and the value of the objective, are in nats per row.
    """
    k, d = point[1].shape
    factors, inverses, moments = np.zeros((k, d, d)), np.zeros((k, d, d)), np.zeros((k, d + 1, d + 1))
    at_centre, from_centre = np.zeros((k, d, d)), np.zeros((k, d, d))
    size = k * (1 + d + d * (d + 1) // 2)
    gradient, change, way = np.zeros(size), np.zeros(size), np.zeros(size)
    direction, step = np.zeros(size), np.zeros(size)
    pair_steps, pair_changes = np.zeros((PAIRS, size)), np.zeros((PAIRS, size))
    objectives = np.full(STALL_STEPS, -np.inf)
    oldest, n_pairs, accepted, tries, length, radius = 0, 0, 0, 1, 1.0, FIRST_RADIUS
    is_plain, objective, trial, em = True, -np.inf, point, point
    confirming, last, before, earlier = 0, np.inf, np.inf, np.inf
    for made in range(steps):
        loglik = run_estep(rows_t, row_weights, scale, trial, structure, factors, inverses, moments)
        value = (
            (loglik + _evaluate_penalty(factors, shared, prior, prior_rows)) / total
            if np.isfinite(loglik)
            else np.nan
        )
        if not is_plain and not value >= objective:
            radius = SHORTER * length * np.sqrt(np.dot(direction, direction))
            if tries >= TRIES:
                trial, is_plain, n_pairs = em, True, 0
            else:
                slope = length * np.dot(gradient, direction)
                share = 0.5 * slope / (slope + objective - value) if value == value else 0.0
                length, tries = length * min(max(share, LEAST_SHARE), LARGEST_SHARE), tries + 1
                for i in range(size):
                    step[i] = length * direction[i]
                trial = _from_vector(step, point, at_centre, structure)
            continue
        if not np.isfinite(value):
            return point, False, np.inf, objective, made
        if not is_plain and length * np.sqrt(np.dot(direction, direction)) > NEARLY * radius:
            radius *= 2.0
        is_pair = accepted > 0 and confirming == 0
        if is_pair:
            _to_vector(trial, point, from_centre, factors, way)
        last, before, earlier, point, objective = value - objective, last, before, trial, value
        em = run_mstep(point, moments, total, structure, shared, prior, prior_rows, 0.0)
        if confirming:
            if confirming < CONFIRMING_STEPS:
                confirming, trial = confirming + 1, em
                continue
            left = bound_plain_gain(last, before, earlier) if last > ROUNDING * abs(objective) else 0.0
            if left <= CONFIRMED * tol:
                return point, True, left, objective, made
            confirming = 0
        for c in range(k):
            for i in range(d):
                for j in range(i + 1):
                    at_centre[c, i, j], from_centre[c, i, j] = factors[c, i, j], inverses[c, i, j]
        for i in range(size):
            change[i] = gradient[i]
        if not factor_covariances(em[2], factors, inverses):
            return point, False, np.inf, objective, made
        _to_vector(em, point, from_centre, factors, gradient)
        if is_pair:
            for i in range(size):
                change[i] -= gradient[i]
            product = np.dot(way, change)
            if product > LEAST_CURVATURE * np.sqrt(np.dot(way, way) * np.dot(change, change)):
                p = (oldest + n_pairs) % PAIRS
                for i in range(size):
                    pair_steps[p, i], pair_changes[p, i] = way[i], change[i]
                oldest, n_pairs = (oldest + (n_pairs == PAIRS)) % PAIRS, min(n_pairs + 1, PAIRS)
        gain, tries, length = 0.5 * np.dot(gradient, gradient) / (1.0 - SLOWEST_RATE), 1, 1.0
        if n_pairs:
            _find_direction(gradient, pair_steps, pair_changes, oldest, n_pairs, direction)
            gain = max(gain, 0.5 * np.dot(gradient, direction))
            length = min(1.0, radius / np.sqrt(np.dot(direction, direction)))
            for i in range(size):
                step[i] = length * direction[i]
            trial, is_plain = _from_vector(step, point, at_centre, structure), False
            if gain <= tol:
                confirming, trial, is_plain = 1, em, True
        else:
            trial, is_plain = em, True
        if objective - objectives[accepted % STALL_STEPS] < stall:
            return point, False, np.inf, objective, made
        objectives[accepted % STALL_STEPS] = objective
        accepted += 1
    return point, False, np.inf, objective, steps
