"""The compiled loops of :mod:`.seeding`, on standardised rows as columns ``rows_t (D, N)``."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.fit.few_rows_steps import factor_covariances

_BLOCK = 256
_PEAK_SHARE = 0.1
"""A component at a density peak begins with this part of the mean weight."""


@compiled(error_model="numpy")
def fill_squared_distances(rows_t, start, centre, out):  # type: ignore[no-untyped-def]
    """Fill ``out (b,)`` with the squared distances to a centre ``(D,)`` of the rows that begin at ``start``."""
    n, d = len(out), len(rows_t)
    first = d % 4
    for j in range(n):
        out[j] = 0.0
    for i in range(first):
        source, origin = rows_t[i, start : start + n], centre[i]
        for j in range(n):
            delta = source[j] - origin
            out[j] += delta * delta
    for i in range(first, d, 4):  # four columns at once: what has been summed is read and written less often
        a, b = rows_t[i, start : start + n], rows_t[i + 1, start : start + n]
        c, e = rows_t[i + 2, start : start + n], rows_t[i + 3, start : start + n]
        of_a, of_b, of_c, of_e = centre[i], centre[i + 1], centre[i + 2], centre[i + 3]
        for j in range(n):
            u, v, w, x = a[j] - of_a, b[j] - of_b, c[j] - of_c, e[j] - of_e
            out[j] = out[j] + u * u + v * v + w * w + x * x


@compiled(error_model="numpy")
def draw_by_cost(cost, draws, chosen):  # type: ignore[no-untyped-def]
    """Fill ``chosen`` with places drawn in proportion to their cost, from ``draws`` between 0 and 1."""
    n = len(cost)
    cumulative, total = np.empty(n), 0.0
    for j in range(n):
        total += cost[j]
        cumulative[j] = total
    for t in range(len(draws)):
        if total > 0.0:
            place, end = 0, n
            while place < end:
                middle = (place + end) // 2
                if cumulative[middle] <= draws[t] * total:
                    place = middle + 1
                else:
                    end = middle
        else:  # every row is a centre already
            place = int(draws[t] * n)
        chosen[t] = min(place, n - 1)


@compiled(error_model="numpy")
def draw_centres(rows_t, draws):  # type: ignore[no-untyped-def]
    """Return centres ``(K, D)`` by greedy k-means++, from ``draws (K, trials)`` between 0 and 1."""
    d, n = rows_t.shape
    k, trials = draws.shape
    centres, centre, closest = np.empty((k, d)), np.empty(d), np.full(n, np.inf)
    distance, reduced, chosen = np.empty(n), np.empty(n), np.zeros(trials, np.int64)
    for c in range(k):
        if c:
            draw_by_cost(closest, draws[c], chosen)
        else:
            chosen[:] = min(int(draws[0, 0] * n), n - 1)
        least = np.inf
        for t in range(trials if c else 1):
            for i in range(d):
                centre[i] = rows_t[i, chosen[t]]
            fill_squared_distances(rows_t, np.int64(0), centre, distance)
            total = 0.0
            for j in range(n):
                distance[j] = min(distance[j], closest[j])
                total += distance[j]
            if t == 0 or total < least:
                least = total
                for j in range(n):
                    reduced[j] = distance[j]
                for i in range(d):
                    centres[c, i] = centre[i]
        for j in range(n):
            closest[j] = reduced[j]
    return centres


@compiled(error_model="numpy")
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
                    for j in range(b):
                        least[j], nearest[j] = distance[j], 0.0
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
                for i in range(d):
                    centres[c, i] = sums[c, i] / counts[c]
    return labels


@compiled(error_model="numpy")
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
            for i in range(d):
                mean[c, i] /= weight[c]
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


@compiled(error_model="numpy")
def fit_clusters(rows_t, labels, k):  # type: ignore[no-untyped-def]
    """Return weights, means and covariances of clusters; one of few rows gets a tenth of a row of unit variances."""
    d, n = rows_t.shape
    weight, mean, scatter = sum_clusters(rows_t, np.empty(0), labels, k)
    for c in range(k):
        for i in range(d):
            scatter[c, i, i] += 0.1 if weight[c] < 3 * (d + 1) else 1e-6
            for m in range(d):
                scatter[c, i, m] /= max(weight[c], 1e-6)
        weight[c] = max(weight[c], 1e-6) / n
    return weight, mean, scatter


@compiled(error_model="numpy")
def classify(rows_t, mixture, labels, log_density, distance):  # type: ignore[no-untyped-def]
    """Write for each row the likeliest component, the log-density, and the least squared Mahalanobis distance.

    An empty ``log_density`` is not wanted. ``mixture`` is a tuple of weights, means and covariances; False is
    returned if one of these is singular.
    """
    weights, means, covariances = mixture
    k, d = means.shape
    n, with_density = rows_t.shape[1], len(log_density) > 0
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
            labels[start + j] = best
            if with_density:
                total = 0.0
                for c in range(k):
                    total += np.exp(logp[c, j] - logp[best, j])
                log_density[start + j] = logp[best, j] + np.log(total)
    return True


@compiled(internal=True, error_model="numpy")
def _add_component(mixture, share):  # type: ignore[no-untyped-def]
    """Return the mixture with one more component, of this weight, whose mean and covariance are 0."""
    c, d = mixture[1].shape
    weights, means, covariances = np.zeros(c + 1), np.zeros((c + 1, d)), np.zeros((c + 1, d, d))
    weights[c] = share
    for old in range(c):
        weights[old] = mixture[0][old] * (1.0 - share)
        for i in range(d):
            means[old, i] = mixture[1][old, i]
            for m in range(d):
                covariances[old, i, m] = mixture[2][old, i, m]
    return weights, means, covariances


@compiled(error_model="numpy")
def grow_by_distance(rows_t, draws):  # type: ignore[no-untyped-def]
    """Return a mixture to which components were added at rows ``draws (K,)`` far from those before."""
    d, n = rows_t.shape
    labels, density, distance, chosen = np.zeros(n, np.int64), np.empty(0), np.empty(n), np.zeros(1, np.int64)
    mixture = fit_clusters(rows_t, labels, np.int64(1))
    for c in range(1, len(draws)):
        if not classify(rows_t, mixture, labels, density, distance):
            break
        total = 0.0
        for j in range(n):
            total += distance[j]
        for j in range(n):
            distance[j] = 0.5 * distance[j] / max(total, 1e-300) + 0.5 / n
        draw_by_cost(distance, draws[c : c + 1], chosen)
        weights, means, covariances = _add_component(mixture, 1.0 / (c + 1))
        for i in range(d):
            means[c, i] = rows_t[i, chosen[0]]
            for m in range(d):
                for old in range(c):
                    covariances[c, i, m] += mixture[0][old] * covariances[old, i, m] / (c + 1)
        if not classify(rows_t, (weights, means, covariances), labels, density, distance):
            break
        mixture = fit_clusters(rows_t, labels, c + 1)
    return mixture


@compiled(error_model="numpy")
def grow_by_density(rows_t, local, neighbours, draws, steps):  # type: ignore[no-untyped-def]
    """Return a mixture to which components were added where rows lie most densely beside it.

    ``local (m,)`` are log-densities by the neighbours ``(m, n + 1)``; where no row is denser than the mixture, the
    next component begins at a row drawn by ``draws (K,)``.
    """
    d, n = rows_t.shape
    labels, density, distance, one = np.zeros(n, np.int64), np.empty(n), np.empty(n), np.full(1, 0)
    mixture = fit_clusters(rows_t, labels, np.int64(1))
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
            one[0] = min(int(draws[c] * n), n - 1)
            members = one
        else:
            members = neighbours[peak]
        weights, means, covariances = _add_component(mixture, _PEAK_SHARE / c)
        for j in members:
            for i in range(d):
                means[c, i] += rows_t[i, j] / len(members)
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
            if not classify(rows_t, mixture, labels, np.empty(0), distance):
                break
            mixture = fit_clusters(rows_t, labels, c + 1)
    return mixture
