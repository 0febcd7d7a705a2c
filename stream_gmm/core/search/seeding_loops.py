"""The compiled loops of :mod:`.seeding`, on standardised rows as columns ``rows_t (D, N)``."""

from __future__ import annotations

import numpy as np
from numba import njit

from stream_gmm.core.fit.few_rows_steps import factor_covariances

_BLOCK = 256
_PEAK_SHARE = 0.1
"""A component at a density peak begins with this part of the mean weight."""


@njit(nogil=True, cache=True, error_model="numpy")
def fill_squared_distances(rows_t, start, centre, out):  # type: ignore[no-untyped-def]
    """Fill ``out (b,)`` with the squared distances to a centre ``(D,)`` of the rows that begin at ``start``."""
    out[:] = 0.0
    for i in range(len(rows_t)):
        source, origin = rows_t[i, start : start + len(out)], centre[i]
        for j in range(len(out)):
            delta = source[j] - origin
            out[j] += delta * delta


@njit(nogil=True, cache=True, error_model="numpy")
def draw_by_cost(cost, draws, chosen):  # type: ignore[no-untyped-def]
    """Fill ``chosen`` with places drawn in proportion to their cost, from ``draws`` between 0 and 1."""
    cumulative = np.cumsum(cost)
    for t in range(len(draws)):
        if cumulative[-1] > 0.0:
            place = np.searchsorted(cumulative, draws[t] * cumulative[-1], side="right")
        else:  # every row is a centre already
            place = int(draws[t] * len(cost))
        chosen[t] = min(place, len(cost) - 1)


@njit(nogil=True, cache=True, error_model="numpy")
def draw_centres(rows_t, draws):  # type: ignore[no-untyped-def]
    """Return centres ``(K, D)`` by greedy k-means++, from ``draws (K, trials)`` between 0 and 1."""
    d, n = rows_t.shape
    k, trials = draws.shape
    centres, closest = np.empty((k, d)), np.full(n, np.inf)
    distance, reduced, chosen = np.empty(n), np.empty(n), np.zeros(trials, np.int64)
    for c in range(k):
        if c:
            draw_by_cost(closest, draws[c], chosen)
        else:
            chosen[:] = min(int(draws[0, 0] * n), n - 1)
        least = np.inf
        for t in range(trials if c else 1):
            fill_squared_distances(rows_t, 0, rows_t[:, chosen[t]], distance)
            total = 0.0
            for j in range(n):
                distance[j] = min(distance[j], closest[j])
                total += distance[j]
            if t == 0 or total < least:
                least = total
                reduced[:] = distance
                centres[c] = rows_t[:, chosen[t]]
        closest[:] = reduced
    return centres


@njit(nogil=True, cache=True, error_model="numpy")
def run_lloyd(rows_t, centres, steps):  # type: ignore[no-untyped-def]
    """Return the labels ``(N,)`` after a few k-means steps from ``centres (K, D)``; an empty cluster stays."""
    d, n = rows_t.shape
    k, labels = len(centres), np.zeros(n, np.int64)
    sums, counts = np.empty((k, d)), np.empty(k)
    distance, least, nearest = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for step in range(steps + 1):
        changed = step == 0
        for start in range(0, n, _BLOCK):
            b = min(_BLOCK, n - start)
            for c in range(k):
                fill_squared_distances(rows_t, start, centres[c], distance[:b])
                if c == 0:
                    least[:], nearest[:] = distance, 0.0
                else:
                    for j in range(b):
                        nearest[j] = c if distance[j] < least[j] else nearest[j]
                        least[j] = min(least[j], distance[j])
            for j in range(b):
                label = int(nearest[j])
                changed = changed or label != labels[start + j]
                labels[start + j] = label
        if step == steps or not changed:
            break
        sums[:], counts[:] = 0.0, 0.0
        for j in range(n):
            counts[labels[j]] += 1.0
        for i in range(d):
            for j in range(n):
                sums[labels[j], i] += rows_t[i, j]
        for c in range(k):
            if counts[c] > 0.0:
                centres[c] = sums[c] / counts[c]
    return labels


@njit(nogil=True, cache=True, error_model="numpy")
def sum_clusters(rows_t, row_weights, labels, k):  # type: ignore[no-untyped-def]
    """Return weight ``(K,)``, mean ``(K, D)`` and scatter ``(K, D, D)`` of clusters; weights may be empty."""
    d, n = rows_t.shape
    weight, mean, scatter, delta = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d)), np.empty(d)
    weighted = row_weights.shape[0] > 0
    for j in range(n):
        weight[labels[j]] += row_weights[j] if weighted else 1.0
    for i in range(d):
        for j in range(n):
            mean[labels[j], i] += (row_weights[j] if weighted else 1.0) * rows_t[i, j]
    for c in range(k):
        if weight[c] > 0.0:
            mean[c] /= weight[c]
    for j in range(n):
        c, w = labels[j], row_weights[j] if weighted else 1.0
        for i in range(d):
            delta[i] = rows_t[i, j] - mean[c, i]
        for i in range(d):
            for m in range(i + 1):
                scatter[c, i, m] += w * delta[i] * delta[m]
    for c in range(k):
        for i in range(d):
            for m in range(i):
                scatter[c, m, i] = scatter[c, i, m]
    return weight, mean, scatter


@njit(nogil=True, cache=True, error_model="numpy")
def fit_clusters(rows_t, labels, k):  # type: ignore[no-untyped-def]
    """Return weights, means and covariances of clusters; one of few rows gets a tenth of a row of unit variances."""
    d, n = rows_t.shape
    weight, mean, scatter = sum_clusters(rows_t, np.empty(0), labels, k)
    for c in range(k):
        for i in range(d):
            scatter[c, i, i] += 0.1 if weight[c] < 3 * (d + 1) else 1e-6
        scatter[c] /= max(weight[c], 1e-6)
        weight[c] = max(weight[c], 1e-6) / n
    return weight, mean, scatter


@njit(nogil=True, cache=True, error_model="numpy")
def classify(rows_t, mixture, labels, log_density, distance):  # type: ignore[no-untyped-def]
    """Write for each row the likeliest component, the log-density, and the least squared Mahalanobis distance.

    ``mixture`` is a tuple of weights, means and covariances; False is returned if one of these is singular.
    """
    weights, means, covariances = mixture
    k, d = means.shape
    n = rows_t.shape[1]
    factors, inverses, log_norm = np.zeros((k, d, d)), np.zeros((k, d, d)), np.empty(k)
    if not factor_covariances(covariances, factors, inverses):
        return False
    for c in range(k):
        log_norm[c] = np.log(weights[c]) - 0.5 * d * np.log(2.0 * np.pi)
        for i in range(d):
            log_norm[c] -= np.log(factors[c, i, i])
    y, squared, logp = np.empty(_BLOCK), np.empty(_BLOCK), np.empty((k, _BLOCK))
    for start in range(0, n, _BLOCK):
        b = min(_BLOCK, n - start)
        for c in range(k):
            squared[:] = 0.0
            for i in range(d):
                y[:] = 0.0
                for m in range(i + 1):
                    source, factor, origin = rows_t[m, start : start + b], inverses[c, i, m], means[c, m]
                    for j in range(b):
                        y[j] += factor * (source[j] - origin)
                for j in range(b):
                    squared[j] += y[j] * y[j]
            for j in range(b):
                logp[c, j] = log_norm[c] - 0.5 * squared[j]
                distance[start + j] = squared[j] if c == 0 else min(distance[start + j], squared[j])
        for j in range(b):
            best = 0
            for c in range(1, k):
                best = c if logp[c, j] > logp[best, j] else best
            total = 0.0
            for c in range(k):
                total += np.exp(logp[c, j] - logp[best, j])
            labels[start + j] = best
            log_density[start + j] = logp[best, j] + np.log(total)
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def grow_by_distance(rows_t, draws):  # type: ignore[no-untyped-def]
    """Return a mixture to which components were added at rows ``draws (K,)`` far from those before."""
    d, n = rows_t.shape
    labels, density, distance, chosen = np.zeros(n, np.int64), np.empty(n), np.empty(n), np.zeros(1, np.int64)
    mixture = fit_clusters(rows_t, labels, 1)
    for c in range(1, len(draws)):
        if not classify(rows_t, mixture, labels, density, distance):
            break
        distance /= max(distance.sum(), 1e-300)
        draw_by_cost(0.5 * distance + 0.5 / n, draws[c : c + 1], chosen)
        weights, means, covariances = np.empty(c + 1), np.empty((c + 1, d)), np.empty((c + 1, d, d))
        weights[:c], weights[c] = mixture[0] * (1.0 - 1.0 / (c + 1)), 1.0 / (c + 1)
        means[:c], means[c] = mixture[1], rows_t[:, chosen[0]]
        covariances[:c], covariances[c] = mixture[2], 0.0
        for old in range(c):
            covariances[c] += mixture[0][old] * mixture[2][old] / (c + 1)
        if not classify(rows_t, (weights, means, covariances), labels, density, distance):
            break
        mixture = fit_clusters(rows_t, labels, c + 1)
    return mixture


@njit(nogil=True, cache=True, error_model="numpy")
def grow_by_density(rows_t, local, neighbours, draws, steps):  # type: ignore[no-untyped-def]
    """Return a mixture to which components were added where rows lie most densely beside it.

    ``local (m,)`` are log-densities by the neighbours ``(m, n + 1)``; where no row is denser than the mixture, the
    next component begins at a row drawn by ``draws (K,)``.
    """
    d, n = rows_t.shape
    labels, density, distance = np.zeros(n, np.int64), np.empty(n), np.empty(n)
    mixture = fit_clusters(rows_t, labels, 1)
    for c in range(1, len(draws)):
        if not classify(rows_t, mixture, labels, density, distance):
            break
        peak, most = -1, 0.0
        for j in range(n):
            # Averaged over the neighbours: a single outlier is always denser than a mixture allows for there.
            excess = 0.0
            for other in neighbours[j]:
                excess += local[other] - density[other]
            if excess > most:
                peak, most = j, excess
        if peak < 0:
            members = np.full(1, min(int(draws[c] * n), n - 1))
        else:
            members = neighbours[peak].copy()
        share = _PEAK_SHARE / c
        weights, means, covariances = np.empty(c + 1), np.zeros((c + 1, d)), np.zeros((c + 1, d, d))
        weights[:c], weights[c] = mixture[0] * (1.0 - share), share
        means[:c], covariances[:c] = mixture[1], mixture[2]
        for j in members:
            means[c] += rows_t[:, j] / len(members)
        for i in range(d):
            for m in range(i + 1):
                for j in members:
                    covariances[c, i, m] += (rows_t[i, j] - means[c, i]) * (rows_t[m, j] - means[c, m]) / len(members)
                covariances[c, m, i] = covariances[c, i, m]
            mean_variance = 0.0
            for old in range(c):
                mean_variance += covariances[old, i, i] / c
            covariances[c, i, i] += 1e-3 * covariances[c, i, i] + 1e-9 * mean_variance
        mixture = weights, means, covariances
        for _ in range(steps):
            if not classify(rows_t, mixture, labels, density, distance):
                break
            mixture = fit_clusters(rows_t, labels, c + 1)
    return mixture


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_volume(weight, scatter, ridge):  # type: ignore[no-untyped-def]
    """Return the weight times half the log-determinant of a covariance with a ridge; -inf if that is singular."""
    d = len(ridge)
    factor, total = np.zeros((d, d)), 0.0
    for i in range(d):
        for j in range(i + 1):
            s = scatter[i, j] / weight + ridge[i, j]
            for m in range(j):
                s -= factor[i, m] * factor[j, m]
            if i > j:
                factor[i, j] = s / factor[j, j]
            elif s > 0.0:
                factor[i, i] = np.sqrt(s)
                total += np.log(factor[i, i])
            else:
                return -np.inf
    return weight * total


@njit(nogil=True, cache=True, error_model="numpy")
def merge_clusters(weight, mean, scatter, ridge, wanted):  # type: ignore[no-untyped-def]
    """Return for each cluster which of the ``wanted`` ones it ends in, after merging pair by pair.

    The pair is merged that loses the least log-likelihood of a normal distribution for each cluster.
    """
    n, d = mean.shape
    ends, alive, volume = np.arange(n), np.ones(n, np.bool_), np.empty(n)
    loss, both = np.full((n, n), np.inf), np.empty((d, d))
    for i in range(n):
        volume[i] = _measure_volume(weight[i], scatter[i], ridge)
    first, left = 0, n
    stale = np.arange(n)
    while True:
        for i in stale:
            for j in range(n):
                if j != i and alive[i] and alive[j] and (len(stale) == 1 or j > i):
                    total = weight[i] + weight[j]
                    share = weight[i] * weight[j] / total
                    for a in range(d):
                        for b in range(d):
                            between = share * (mean[i, a] - mean[j, a]) * (mean[i, b] - mean[j, b])
                            both[a, b] = scatter[i, a, b] + scatter[j, a, b] + between
                    value = _measure_volume(total, both, ridge) - volume[i] - volume[j]
                    loss[min(i, j), max(i, j)] = value if value == value else np.inf
        if left <= wanted:
            break
        first, second, least = 0, 1, np.inf
        for i in range(n):
            for j in range(i + 1, n):
                if alive[i] and alive[j] and (loss[i, j] < least or least == np.inf):
                    first, second, least = i, j, loss[i, j]
        i, j = first, second
        total = weight[i] + weight[j]
        share = weight[i] * weight[j] / total
        for a in range(d):
            for b in range(d):
                between = share * (mean[i, a] - mean[j, a]) * (mean[i, b] - mean[j, b])
                scatter[i, a, b] += scatter[j, a, b] + between
        mean[i] = (weight[i] * mean[i] + weight[j] * mean[j]) / total
        weight[i], alive[j], left = total, False, left - 1
        volume[i] = _measure_volume(weight[i], scatter[i], ridge)
        for c in range(n):
            ends[c] = i if ends[c] == j else ends[c]
        stale = np.full(1, i)
    return ends
