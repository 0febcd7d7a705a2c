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
from scipy.special import gammaln

from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import RIDGE, mstep
from stream_gmm.core.mstep.penalty import Penalty
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.pair_loops import find_neighbours, merge_clusters
from stream_gmm.core.search.seeding_loops import (
    classify,
    draw_centres,
    grow_by_density,
    grow_by_distance,
    run_lloyd,
    sum_clusters,
)
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import SingularCovarianceError

LLOYD_STEPS = 10
DENSITY_STEPS = 3
SEEDING_ROWS = 20_000
LEAST_ROWS, ROWS_PER_PARAMETER = 4_000, 20
"""A seeding takes so many rows for each parameter of full covariances, between this least number and the most."""
ADAPTIVE_ROWS = 2_000
DENSITY_ROWS = 4_000
PEAK_ROWS = 1_000
"""Seeds at density peaks come from so many rows, and a twentieth of the others."""
TREE_COLUMNS, TREE_ROWS = 3, 1_500
"""Up to so many columns and from so many rows on a tree finds nearest neighbours, else a comparison of all pairs."""
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


def draw_kmeans_plusplus(rows: Array, n_clusters: int, rng: np.random.Generator) -> Array:
    """Return seeds ``(K, D)`` by greedy k-means++ (Arthur & Vassilvitskii 2007)."""
    trials = 2 + int(np.log(n_clusters))
    return np.asarray(draw_centres(_as_columns(rows), rng.random((n_clusters, trials))))


def _as_columns(rows: Array) -> Array:
    return np.array(rows.T, np.float64, order="C", copy=None if rows.flags.writeable else True)


def seed_by_kmeans(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of greedy k-means++ and a few k-means steps."""
    centres = draw_kmeans_plusplus(rows, n_clusters, rng)
    return np.asarray(run_lloyd(_as_columns(rows), centres, LLOYD_STEPS))


def seed_by_splits(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of splitting, again and again, the one with most scatter along its longest axis."""
    half = rows[rng.random(len(rows)) < 0.5] if len(rows) > 100 * n_clusters else rows

    def measure(part: Array) -> tuple[float, Array, Array]:
        centred = part - part.mean(axis=0)
        scatter = centred.T @ centred
        return float(np.trace(scatter)), part, centred @ np.linalg.eigh(scatter)[1][:, -1]

    parts = [measure(half)]
    while len(parts) < n_clusters:
        widest = max(range(len(parts)), key=lambda i: parts[i][0])
        scatter, part, along = parts.pop(widest)
        above = along > 0.0
        if above.all() or not above.any():  # nothing left but repeated rows
            parts += [(scatter, part, along)] * (n_clusters - len(parts))
        else:
            parts += [measure(part[above]), measure(part[~above])]
    centres = np.array([p.mean(axis=0) for _, p, _ in parts])
    return np.asarray(run_lloyd(_as_columns(rows), centres, LLOYD_STEPS))


def _classify(rows: Array, mixture: tuple[Array, Array, Array]) -> Labels:
    """Return the likeliest components.

    Raises
    ------
    SingularCovarianceError
        If a covariance has no Cholesky factor.
    """
    labels = np.zeros(len(rows), np.int64)
    if not classify(_as_columns(rows), mixture, labels, np.empty(0), np.empty(len(rows))):
        raise SingularCovarianceError("a component of a seeding is singular.")
    return labels


def seed_adaptively(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of adding components where the mixture so far fits worst (Bloemer & Bujna 2016).

    It follows elongated components where k-means would cut them.
    """
    few = _as_columns(rows[:ADAPTIVE_ROWS])
    return _classify(rows, grow_by_distance(few, rng.random(n_clusters)))


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
        if d > TREE_COLUMNS or m < TREE_ROWS:
            neighbours, radius = np.zeros((m, n + 1), np.int64), np.empty(m)
            find_neighbours(_as_columns(rows), neighbours, radius)
        else:
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
    few, n_neighbours = rows[: min(PEAK_ROWS + len(rows) // 20, DENSITY_ROWS)], int(rng.choice(NEIGHBOURS))
    draws = rng.random(n_clusters)
    if len(few) < 2 or n_clusters < 2:
        return np.zeros(len(rows), np.int64)
    density = LocalDensity.of(few, n_neighbours)
    mixture = grow_by_density(_as_columns(few), density.log_density, density.neighbours, draws, DENSITY_STEPS)
    return _classify(rows, mixture)


def seed_by_merging(rows: Array, n_clusters: int, rng: np.random.Generator) -> Labels:
    """Return the clusters of merging twice as many k-means clusters, pair by pair.

    The pair is merged that loses the least log-likelihood of a normal distribution for each cluster: model-based
    agglomeration (Banfield & Raftery 1993), from small clusters in place of single rows.
    """
    labels = seed_by_kmeans(rows, min(2 * n_clusters + 2, len(rows)), rng)
    labels = _number_consecutively(labels)
    weight, mean, scatter = sum_clusters(_as_columns(rows), np.empty(0), labels, int(labels.max()) + 1)
    d, delta = rows.shape[1], mean - weight @ mean / len(rows)
    covariance = (scatter.sum(axis=0) + (weight * delta.T) @ delta) / len(rows)
    ridge = MERGING_RIDGE * n_clusters ** (-2.0 / d) * (covariance + 1e-12 * np.eye(d))
    ends = merge_clusters(weight, mean, scatter, ridge, n_clusters)
    return _number_consecutively(ends[labels])


def _number_consecutively(labels: Labels) -> Labels:
    """Return labels of small whole numbers with all numbers in use, in the same order."""
    present = np.bincount(labels) > 0
    return np.asarray((np.cumsum(present) - 1)[labels], np.int64)


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
    weight, mean, scatter = sum_clusters(_as_columns(rows), np.array(weights), labels, n_components)
    total = float(weights.sum()) if len(weights) else float(len(rows))
    return SuffStats(total, 0.0, 0.0, 0.0, weight, mean, scatter, FULL)


def widen_clusters(stats: SuffStats, spread: Array) -> SuffStats:
    """Return the clusters of a seeding; one of few rows gets a tenth of a row of variances ``spread (D,)``."""
    few = np.where(stats.weight < FITTED_ROWS * (len(spread) + 1), 0.1, 1e-6)
    return replace(stats, scatter=stats.scatter + few[:, None, None] * np.diag(spread))


@dataclass(frozen=True, eq=False)
class RowsToSeed:
    """Rows ``(N, D)`` as they are and standardised, column-major, with their weights: for all kinds of seeding."""

    rows: Array
    standardised: Array
    weights: Array

    @classmethod
    def of(cls, rows: Array, n_components: int, scaling: Scaling, weights: Array = UNWEIGHTED) -> RowsToSeed:
        """Return the first of some rows, enough to seed so many components."""
        d = rows.shape[1]
        size = int(np.clip(ROWS_PER_PARAMETER * n_components * (1 + d + d * (d + 1) // 2), LEAST_ROWS, SEEDING_ROWS))
        few = np.asfortranarray(rows[:size])
        return cls(few, np.asfortranarray(scaling.scaled.apply(few)), weights[:size])

    def collect_stats(self, n_components: int, rng: np.random.Generator, seeding: Seeding) -> SuffStats:
        """Return the statistics of a seeding, which are the same for every structure."""
        return collect_hard_stats(
            self.rows, seeding(self.standardised, n_components, rng), n_components, self.weights
        )


def collect_seed_stats(
    rows: Array,
    n_components: int,
    scaling: Scaling,
    rng: np.random.Generator,
    seeding: Seeding = seed_by_kmeans,
    weights: Array = UNWEIGHTED,
) -> SuffStats:
    """Return the statistics of a seeding on standardised rows: the same for every structure."""
    return RowsToSeed.of(rows, n_components, scaling, weights).collect_stats(n_components, rng, seeding)


def start_from_seed(
    stats: SuffStats, family: CovarianceFamily, scaling: Scaling, penalty: Penalty = RIDGE
) -> MixtureParams:
    """Return the start of a fit: one M-step from the statistics of a seeding.

    Raises
    ------
    SingularCovarianceError
        If a covariance cannot be estimated.
    """
    widened = widen_clusters(stats, scaling.scale**2)
    scatter = family.moments.condense(widened.scatter)
    scatter = scatter.sum(axis=0, keepdims=True) if family.shared else scatter
    return mstep(replace(widened, scatter=scatter, moments=family.moments), family, penalty)[0]
