"""Where EM starts: kinds of seeding, each a hard assignment of some standardised rows to clusters.

Five kinds, because each fails on other data: greedy k-means++ on outliers, divisive splits on rings, adaptive
seeding on ties; all three of them, which go by distance, on a small dense cluster inside a broad one, which density
seeding finds; and all of these where there are fewer components than clusters, for which merging is best. Every
restart takes one of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import gammaln, logsumexp

from stream_gmm.core.estep.scores import component_log_densities
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import RIDGE, mstep
from stream_gmm.core.mstep.penalty import Penalty
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats

LLOYD_STEPS = 10
DENSITY_STEPS = 3
SEEDING_ROWS = 20_000
ADAPTIVE_ROWS = 4_000
DENSITY_ROWS = 4_000
NEIGHBOURS = (8, 16, 32)
"""Neighbours that a local density is estimated from; a restart draws one of these numbers."""
MERGING_RIDGE = 0.01
"""Part of the covariance of all rows that keeps the volume of a small cluster from vanishing when clusters merge."""
MOST_WORK = 2e10
"""Multiply-adds, some ten seconds: three of the seedings fit the matrices of 2, 3, ... K components in turn."""
FITTED_ROWS = 3
"""A cluster with fewer rows than this times (D + 1) does not determine a covariance to start from."""

Labels = NDArray[np.int64]
Seeding = Callable[[Array, int, np.random.Generator], Labels]


def squared_distances(rows: Array, centre: Array) -> Array:
    """Return the squared distances ``(N,)`` of rows to a centre."""
    delta = rows - centre
    return np.asarray(np.einsum("nj,nj->n", delta, delta))


def draw_kmeans_plusplus(rows: Array, n_clusters: int, rng: np.random.Generator) -> Array:
    """Return seeds ``(K, D)`` by greedy k-means++ (Arthur & Vassilvitskii 2007)."""
    trials = 2 + int(np.log(n_clusters))
    centres = [rows[rng.integers(len(rows))]]
    closest = squared_distances(rows, centres[0])
    for _ in range(1, n_clusters):
        candidates = _draw_by_cost(closest, trials, rng)
        reduced = [np.minimum(closest, squared_distances(rows, rows[c])) for c in candidates]
        best = int(np.argmin([r.sum() for r in reduced]))
        closest = reduced[best]
        centres.append(rows[candidates[best]])
    return np.array(centres)


def _draw_by_cost(cost: Array, trials: int, rng: np.random.Generator) -> Labels:
    total = cost.sum()
    if total <= 0.0:  # every row is a centre already
        return rng.integers(len(cost), size=trials)
    return rng.choice(len(cost), size=trials, p=cost / total)


def _assign_to_nearest(rows: Array, centres: Array) -> Labels:
    # |x - c|^2 less |x|^2, which is the same for every centre.
    return np.asarray((np.einsum("kj,kj->k", centres, centres) - 2.0 * (rows @ centres.T)).argmin(axis=1))


def run_lloyd(rows: Array, centres: Array, steps: int = LLOYD_STEPS) -> Labels:
    """Return the labels ``(N,)`` after a few k-means steps; an empty cluster keeps its centre."""
    labels = _assign_to_nearest(rows, centres)
    for _ in range(steps):
        counts = np.bincount(labels, minlength=len(centres))
        sums = np.stack([np.bincount(labels, c, len(centres)) for c in rows.T], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        new = _assign_to_nearest(rows, centres)
        if np.array_equal(new, labels):
            break
        labels = new
    return labels


def seed_by_kmeans(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of greedy k-means++ and a few k-means steps."""
    return run_lloyd(rows, draw_kmeans_plusplus(rows, n_clusters, rng))


def seed_by_splits(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of splitting, again and again, the one with most scatter along its longest axis."""
    half = rows[rng.random(len(rows)) < 0.5] if len(rows) > 100 * n_clusters else rows
    parts = [half]
    while len(parts) < n_clusters:
        parts.sort(key=lambda p: float(((p - p.mean(axis=0)) ** 2).sum()))
        widest = parts.pop()
        centred = widest - widest.mean(axis=0)
        axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        above = centred @ axis > 0.0
        if above.all() or not above.any():  # nothing left but repeated rows
            parts += [widest] * (n_clusters - len(parts))
        else:
            parts += [widest[above], widest[~above]]
    return run_lloyd(rows, np.array([p.mean(axis=0) for p in parts]))


def seed_adaptively(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of adding components where the mixture so far fits worst (Bloemer & Bujna 2016).

    It follows elongated components where k-means would cut them.
    """
    family, few = family_named("full"), rows[:ADAPTIVE_ROWS]
    params = _fit_hard_assignment(collect_hard_stats(few, np.zeros(len(few), np.int64), 1), family)
    for k in range(2, n_clusters + 1):
        density = compile_density(params)
        logp = component_log_densities(density, np.ascontiguousarray(few.T))
        distance = np.maximum(-2.0 * (logp - density.log_norm[:, None]), 0.0).min(axis=0)
        seed = few[_draw_by_cost(0.5 * distance / max(distance.sum(), 1e-300) + 0.5 / len(few), 1, rng)]
        narrow = np.einsum("k,kij->ij", params.weights, params.covariances)[None] / k
        grown = MixtureParams(
            np.append(params.weights * (1.0 - 1.0 / k), 1.0 / k), np.vstack([params.means, seed]),
            np.concatenate([params.covariances, narrow]), family,
        )  # fmt: skip
        labels = component_log_densities(compile_density(grown), np.ascontiguousarray(few.T)).argmax(axis=0)
        params = _fit_hard_assignment(collect_hard_stats(few, labels, k), family)
    return np.asarray(component_log_densities(compile_density(params), np.ascontiguousarray(rows.T)).argmax(axis=0))


@dataclass(frozen=True, eq=False)
class LocalDensity:
    """Densities of rows ``(m, D)`` by the distance to their nearest neighbours (Loftsgaarden & Quesenberry 1965)."""

    rows: Array
    log_density: Array
    """Logarithm of the density at each row ``(m,)``; -inf where the neighbours are all equal to the row."""
    neighbours: Labels
    """Each row and its nearest neighbours ``(m, n + 1)``."""

    @classmethod
    def of(cls, rows: Array, n_neighbours: int) -> LocalDensity:
        """Return the densities of at least two rows."""
        m, d = rows.shape
        n = min(n_neighbours, m - 1)
        distances, neighbours = cKDTree(rows).query(rows, n + 1)
        radius = distances[:, -1]
        log_ball = 0.5 * d * np.log(np.pi) - gammaln(0.5 * d + 1.0)
        log_density = np.log(n / m) - log_ball - d * np.log(np.where(radius > 0.0, radius, 1.0))
        return cls(rows, np.where(radius > 0.0, log_density, -np.inf), np.asarray(neighbours, np.int64))

    def find_peak(self, log_mixture: Array) -> Labels | None:
        """Return the neighbourhood whose density most exceeds that of a mixture ``(m,)``, or None if none does.

        Averaged over the neighbours, because a single outlier is always denser than a mixture allows for there.
        """
        excess = (self.log_density - log_mixture)[self.neighbours].mean(axis=1)
        peak = int(np.argmax(excess))
        return self.neighbours[peak] if excess[peak] > 0.0 else None


def add_peak(params: MixtureParams, rows: Array) -> MixtureParams:
    """Return a mixture with one more component, of the mean and covariance of ``rows (n, D)`` and a small weight."""
    centred = rows - rows.mean(axis=0)
    matrix = centred.T @ centred / len(rows)
    matrix += 1e-3 * np.diag(np.diagonal(matrix)) + 1e-9 * np.diag(np.diagonal(params.dense_covariances.mean(axis=0)))
    share = 0.1 / params.n_components
    return MixtureParams.from_matrices(
        np.append(params.weights * (1.0 - share), share), np.vstack([params.means, rows.mean(axis=0)]),
        np.concatenate([params.dense_covariances, matrix[None]]), params.family, params.noise,
    )  # fmt: skip


def seed_by_density(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of adding components where rows lie more densely than the mixture so far explains.

    Density is measured at the local scale, by nearest neighbours, so that a small dense cluster inside a broad one
    is found however few of the rows it has.
    """
    few = rows if len(rows) <= DENSITY_ROWS else rows[rng.choice(len(rows), DENSITY_ROWS, replace=False)]
    n_neighbours, family = int(rng.choice(NEIGHBOURS)), family_named("full")
    params = _fit_hard_assignment(collect_hard_stats(few, np.zeros(len(few), np.int64), 1), family)
    density = LocalDensity.of(few, n_neighbours) if len(few) > 1 and n_clusters > 1 else None
    columns = np.ascontiguousarray(few.T)
    for k in range(2, n_clusters + 1):
        peak = (
            density.find_peak(logsumexp(component_log_densities(compile_density(params), columns), axis=0))
            if density
            else None
        )
        params = add_peak(params, few[rng.integers(len(few), size=1) if peak is None else peak])
        for _ in range(DENSITY_STEPS):
            labels = component_log_densities(compile_density(params), columns).argmax(axis=0)
            params = _fit_hard_assignment(collect_hard_stats(few, labels, k), family)
    return np.asarray(component_log_densities(compile_density(params), np.ascontiguousarray(rows.T)).argmax(axis=0))


def seed_by_merging(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of merging twice as many k-means clusters, pair by pair.

    The pair is merged that loses the least log-likelihood of a normal distribution for each cluster: model-based
    agglomeration (Banfield & Raftery 1993), from small clusters in place of single rows.
    """
    labels = seed_by_kmeans(rows, min(2 * n_clusters + 2, len(rows)), rng)
    _, labels = np.unique(labels, return_inverse=True)
    n = int(labels.max()) + 1
    stats = collect_hard_stats(rows, labels, n)
    weight, mean, scatter = np.array(stats.weight), np.array(stats.mean), np.array(stats.scatter)
    d = rows.shape[1]
    ridge = MERGING_RIDGE * n_clusters ** (-2.0 / d) * (np.cov(rows.T, bias=True).reshape(d, d) + 1e-12 * np.eye(d))

    def log_volume(weight: Array, scatter: Array) -> Array:
        return np.asarray(0.5 * weight * np.linalg.slogdet(scatter / weight[..., None, None] + ridge)[1])

    alive = list(range(n))
    loss = np.full((n, n), np.inf)

    def measure_losses(i: int, others: list[int]) -> None:
        total, delta = weight[i] + weight[others], mean[others] - mean[i]
        between = (weight[i] * weight[others] / total)[:, None, None] * (delta[:, :, None] * delta[:, None, :])
        merged = log_volume(total, scatter[i] + scatter[others] + between)
        loss[i, others] = loss[others, i] = (
            merged - log_volume(weight[i], scatter[i]) - log_volume(weight[others], scatter[others])
        )

    for position, i in enumerate(alive[:-1]):
        measure_losses(i, alive[position + 1 :])
    while len(alive) > n_clusters:
        i, j = divmod(int(loss.argmin()), n)
        total, delta = weight[i] + weight[j], mean[j] - mean[i]
        scatter[i] += scatter[j] + weight[i] * weight[j] / total * np.outer(delta, delta)
        mean[i] += weight[j] / total * delta
        weight[i] = total
        labels[labels == j] = i
        alive.remove(j)
        loss[j] = loss[:, j] = np.inf
        measure_losses(i, [k for k in alive if k != i])
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)


SEEDINGS: dict[str, Seeding] = {
    "k-means++": seed_by_kmeans, "splits": seed_by_splits, "adaptive": seed_adaptively, "density": seed_by_density,
    "merging": seed_by_merging,
}  # fmt: skip
BY_DISTANCE = ("k-means++", "splits")
"""Seedings without covariance matrices."""


def list_seedings(rows: int, n_components: int, n_features: int) -> tuple[str, ...]:
    """Return the names of the seedings to try; those with covariance matrices only while they are cheap enough."""
    work = (min(rows, ADAPTIVE_ROWS) + n_features) * (n_components * n_features) ** 2
    names = tuple(SEEDINGS) if work <= MOST_WORK else BY_DISTANCE
    return names if n_components > 1 else names[:1]


def collect_hard_stats(rows: Array, labels: Labels, n_components: int, weights: Array = UNWEIGHTED) -> SuffStats:
    """Return the statistics of a hard assignment, with scatter matrices."""
    w = weights if len(weights) else np.ones(len(rows))
    weight = np.asarray(np.bincount(labels, w, n_components), np.float64)
    safe = np.where(weight > 0.0, weight, 1.0)[:, None]
    mean = np.stack([np.bincount(labels, w * c, n_components) for c in rows.T], axis=1) / safe
    scatter = np.zeros(FULL.shape(n_components, rows.shape[1]))
    for k in range(n_components):
        mine = labels == k
        scatter[k] = FULL.scatter((rows[mine] - mean[k]) * np.sqrt(w[mine])[:, None])
    return SuffStats(float(w.sum()), 0.0, 0.0, 0.0, weight, mean, scatter, FULL)


def _fit_hard_assignment(
    stats: SuffStats, family: CovarianceFamily, spread: Array | float = 1.0, penalty: Penalty = RIDGE
) -> MixtureParams:
    """Return the M-step of a hard assignment; a cluster of few rows gets a tenth of a row of variances ``spread``."""
    d = stats.mean.shape[1]
    extra = family.moments.from_diagonal(np.broadcast_to(np.asarray(spread, np.float64), (d,)))
    few = np.where(stats.weight < FITTED_ROWS * (d + 1), 0.1, 1e-6)
    own = family.moments.condense(stats.scatter)
    added = few.reshape(-1, *[1] * (own.ndim - 1)) * extra
    return mstep(replace(stats, scatter=own + added, moments=family.moments), family, penalty)[0]


def collect_seed_stats(
    rows: Array,
    n_components: int,
    scaling: Scaling,
    rng: np.random.Generator,
    seeding: Seeding = seed_by_kmeans,
    weights: Array = UNWEIGHTED,
) -> SuffStats:
    """Return the statistics of a seeding on standardised rows: the same for every structure."""
    rows, weights = rows[:SEEDING_ROWS], weights[:SEEDING_ROWS]
    return collect_hard_stats(rows, seeding(scaling.scaled.apply(rows), n_components, rng), n_components, weights)


def start_from_seed(
    stats: SuffStats, family: CovarianceFamily, scaling: Scaling, penalty: Penalty = RIDGE
) -> MixtureParams:
    """Return the start of a fit: one M-step from the statistics of a seeding.

    Raises
    ------
    SingularCovarianceError
        If a covariance cannot be estimated.
    """
    return _fit_hard_assignment(stats, family, scaling.scale**2, penalty)
