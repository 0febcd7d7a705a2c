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

HARDLY = 1e-3
"""The climb has ended where an EM step gains no more than this part of the tolerance: the rest would need more than a
thousand such steps to matter."""
CONFIRMED = 10.0
"""The climb goes on if these gains leave more than so many tolerances: EM's slowest direction is only bounded."""
FIRST_RADIUS, NEARLY = 1.0, 0.8
"""Longest first step, in the coordinates of :class:`.Chart`; the radius is doubled after a step nearly as long."""
LEAST_SHARE, LARGEST_SHARE = 0.1, 0.5
"""A step that is not accepted is shortened to the top of a parabola, to a part of it between these."""


@compiled(internal=True, error_model="numpy")
def _copy_point(point, out):  # type: ignore[no-untyped-def]
    k, d = point[1].shape
    for c in range(k):
        out[0][c] = point[0][c]
        for i in range(d):
            out[1][c, i] = point[1][c, i]
            for j in range(d):
                out[2][c, i, j] = point[2][c, i, j]


@compiled(error_model="numpy")
def run_em(  # type: ignore[no-untyped-def]
    rows_t, row_weights, scale, total, start, structure, shared, prior, prior_rows, moments, ridge, steps, least_gain,
    begin,
):  # fmt: skip
    """Make at most ``steps`` EM steps; return the log-likelihood per row at the end, and what the last step gained.

    It ends at a change of ``least_gain`` nats per row. The end is written over the start, and its moments into
    ``moments``; to ``begin`` with, these are those of clusters about the means of the start, which then is their
    M-step.
    """
    point = start
    k, d = point[1].shape
    factors, inverses = np.zeros((k, d, d)), np.zeros((k, d, d))
    before, loglik, gain = -np.inf, np.nan, np.inf
    if begin:
        point = run_mstep(point, moments, total, structure, shared, prior, prior_rows, ridge)
    for made in range(steps + 1):
        loglik = run_estep(rows_t, row_weights, scale, point, structure, factors, inverses, moments) / total
        gain = abs(loglik - before)  # with a ridge the log-likelihood can fall on the way
        if made == steps or gain <= least_gain or not np.isfinite(loglik):
            break
        before = loglik
        point = run_mstep(point, moments, total, structure, shared, prior, prior_rows, ridge)
    _copy_point(point, start)
    return loglik, gain


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
def climb(  # type: ignore[no-untyped-def]
    rows_t, row_weights, scale, total, start, structure, shared, prior, prior_rows, moments, steps, tol, stall
):  # fmt: skip
    """Return if it is an optimum, what is left, its value, the steps, if it has moments, and its log-likelihood.

    The end is written over the start, and if it has them, its moments into ``moments``. The steps are those of
    :class:`.QuasiNewton`, with the chart centred at every point: the pairs of earlier steps are kept as they are. A
    step is no longer than a radius that grows and shrinks with success. Where at most ``tol`` nats per row are
    predicted, some EM steps follow, and their gains must leave little more by the rule of :func:`.bound_plain_gain`.
    It ends early where fifty steps have gained less than ``stall``, and at the last point with a density. What is
    left, the value of the objective and the log-likelihood are in nats per row.
    """
    point = start
    k, d = point[1].shape
    factors, inverses = np.zeros((k, d, d)), np.zeros((k, d, d))
    at_centre, from_centre = np.zeros((k, d, d)), np.zeros((k, d, d))
    size = k * (1 + d + d * (d + 1) // 2)
    gradient, change, way = np.zeros(size), np.zeros(size), np.zeros(size)
    direction, step = np.zeros(size), np.zeros(size)
    pair_steps, pair_changes = np.zeros((PAIRS, size)), np.zeros((PAIRS, size))
    objectives = np.full(STALL_STEPS, -np.inf)
    accepted, tries, length, radius, made, is_optimum, is_current = 0, 1, 1.0, FIRST_RADIUS, 0, False, False
    oldest, n_pairs = 0, 0
    is_plain, objective, reached, trial, em = True, -np.inf, -np.inf, point, point
    confirming, last, before, earlier, left = 0, np.inf, np.inf, np.inf, np.inf
    for made in range(steps):  # noqa: B007
        is_current = False
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
            break
        if not is_plain and length * np.sqrt(np.dot(direction, direction)) > NEARLY * radius:
            radius *= 2.0
        is_pair = accepted > 0 and confirming == 0
        if is_pair:
            _to_vector(trial, point, from_centre, factors, way)
        last, before, earlier, point, objective = value - objective, last, before, trial, value
        is_current, reached = True, loglik / total
        em = run_mstep(point, moments, total, structure, shared, prior, prior_rows, 0.0)
        if confirming:
            is_rounding, hardly = last <= ROUNDING * abs(objective), last <= HARDLY * tol
            if confirming < CONFIRMING_STEPS and not (is_rounding or hardly):
                confirming, trial = confirming + 1, em
                continue
            if is_rounding:
                left = 0.0
            else:
                left = last / HARDLY if hardly else bound_plain_gain(last, before, earlier)
            is_optimum = left <= CONFIRMED * tol
            if is_optimum:
                break
            confirming, left = 0, np.inf
        for c in range(k):
            for i in range(d):
                for j in range(i + 1):
                    at_centre[c, i, j], from_centre[c, i, j] = factors[c, i, j], inverses[c, i, j]
        for i in range(size):
            change[i] = gradient[i]
        if not factor_covariances(em[2], factors, inverses):
            break
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
            break
        objectives[accepted % STALL_STEPS] = objective
        accepted += 1
    else:
        made = steps
    _copy_point(point, start)
    return is_optimum, left, objective, made, is_current, reached
