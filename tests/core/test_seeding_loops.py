"""The compiled loops of seedings and steps on rows in memory, against scipy and slow sums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal

import stream_gmm as sg
from stream_gmm.core.fit.few_rows_steps import describe_structure, run_estep
from stream_gmm.core.search.pair_loops import find_neighbours, merge_clusters
from stream_gmm.core.search.seeding_loops import classify, run_lloyd, sum_clusters


def _draw_mixture(rng, k: int = 3, d: int = 3):
    matrices = rng.normal(size=(k, d, d))
    weights = rng.dirichlet(np.full(k, 5.0))
    return weights, 2.0 * rng.normal(size=(k, d)), matrices @ np.swapaxes(matrices, 1, 2) + np.eye(d)


@pytest.mark.parametrize(("m", "n", "d"), [(300, 8, 4), (33, 32, 2), (500, 32, 5), (70, 1, 1)])
def test_neighbours_are_those_of_a_tree(rng, m, n, d):
    rows = rng.normal(size=(m, d))
    neighbours, radius = np.zeros((m, n + 1), np.int64), np.empty(m)
    find_neighbours(np.ascontiguousarray(rows.T), neighbours, radius)
    distances, expected = cKDTree(rows).query(rows, n + 1)
    np.testing.assert_array_equal(np.sort(neighbours), np.sort(expected))
    np.testing.assert_allclose(radius, distances[:, -1])


def test_rows_that_are_equal_are_neighbours_too(rng):
    rows = np.repeat(rng.normal(size=(20, 2)), 5, axis=0)
    neighbours, radius = np.zeros((100, 7), np.int64), np.empty(100)
    find_neighbours(np.ascontiguousarray(rows.T), neighbours, radius)
    assert all(len(set(own)) == 7 for own in neighbours.tolist())
    np.testing.assert_allclose(radius, cKDTree(rows).query(rows, 7)[0][:, -1])


def test_rows_go_to_the_likeliest_component(rng):
    weights, means, covariances = mixture = _draw_mixture(rng)
    rows = 3.0 * rng.normal(size=(500, 3))
    labels, density, distance = np.zeros(500, np.int64), np.empty(500), np.empty(500)
    assert classify(np.ascontiguousarray(rows.T), mixture, labels, density, distance)
    parts = np.column_stack(
        [np.log(w) + multivariate_normal(m, c).logpdf(rows) for w, m, c in zip(*mixture, strict=True)]
    )
    np.testing.assert_array_equal(labels, parts.argmax(axis=1))
    np.testing.assert_allclose(density, np.logaddexp.reduce(parts, axis=1), rtol=1e-10)
    pairs = zip(means, covariances, strict=True)
    mahalanobis = [cdist(rows, m[None], "mahalanobis", VI=np.linalg.inv(c))[:, 0] for m, c in pairs]
    np.testing.assert_allclose(distance, np.min(mahalanobis, axis=0) ** 2, rtol=1e-9)
    covariances[1] = 0.0
    assert not classify(np.ascontiguousarray(rows.T), mixture, labels, density, distance)
    assert weights.sum() == pytest.approx(1.0)


def test_k_means_steps_end_at_the_nearest_centres_and_sums_are_those_of_the_clusters(rng):
    rows = np.vstack([rng.normal(size=(200, 2)), 6.0 + rng.normal(size=(100, 2))])
    weights = rng.uniform(0.5, 2.0, 300)
    rows_t = np.ascontiguousarray(rows.T)
    labels = run_lloyd(rows_t, rows[[0, 250]].copy(), 50)
    centres = np.array([rows[labels == c].mean(axis=0) for c in range(2)])
    np.testing.assert_array_equal(labels, cdist(rows, centres).argmin(axis=1))
    weight, mean, scatter = sum_clusters(rows_t, weights, labels, 2)
    for c in range(2):
        mine, own = rows[labels == c], weights[labels == c]
        np.testing.assert_allclose(weight[c], own.sum())
        np.testing.assert_allclose(mean[c], np.average(mine, axis=0, weights=own))
        np.testing.assert_allclose(scatter[c], np.cov(mine.T, aweights=own, ddof=0) * own.sum())


def test_merging_undoes_a_division_of_separated_clusters(rng):
    """Six clusters, each cut into two at its mean: the halves come together again."""
    truth = np.repeat(np.arange(6), 100)
    rows = 20.0 * rng.normal(size=(6, 2))[truth] + rng.normal(size=(600, 2))
    above = [rows[i, 0] > rows[truth == truth[i], 0].mean() for i in range(600)]
    parts = 2 * truth + np.array(above)
    sums = sum_clusters(np.ascontiguousarray(rows.T), np.empty(0), parts, 12)
    ends = merge_clusters(*sums, 0.01 * np.cov(rows.T) / 6.0, 6)
    assert len(set(ends)) == 6
    np.testing.assert_array_equal(ends[0::2], ends[1::2])


@pytest.mark.parametrize("orientation", [1, 2])
def test_both_e_steps_of_the_climb_give_the_same_sums(rng, orientation):
    log_weights, means, covariances = _draw_mixture(rng)
    if orientation == 2:
        covariances *= np.eye(3)
    point = np.log(log_weights), means, covariances
    rows_t = np.ascontiguousarray((3.0 * rng.normal(size=(700, 3))).T)
    structure, out = describe_structure("VVV" if orientation == 1 else "VVI"), []
    for scale in (np.empty(0), rows_t.std(axis=1)):
        factors, inverses, moments = np.zeros((3, 3, 3)), np.zeros((3, 3, 3)), np.zeros((3, 4, 4))
        value = run_estep(rows_t, np.empty(0), scale, point, structure, factors, inverses, moments)
        kept = moments if orientation == 1 else np.einsum("kjj->kj", moments)
        out.append((value, kept, moments[:, :3, 3]))
    for one, other in zip(*out, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-7)
    logp = [w + multivariate_normal(m, c).logpdf(rows_t.T) for w, m, c in zip(*point, strict=True)]
    assert out[0][0] == pytest.approx(np.logaddexp.reduce(logp).sum(), rel=1e-11)


def test_a_fit_of_rows_that_the_sample_holds_is_one_read_after_the_profile(rng):
    rows = np.vstack([rng.normal(size=(400, 2)), 6.0 + rng.normal(size=(300, 2))])
    model = sg.fit(rows, 2)
    assert model.converged_
    assert model.passes == 1
    assert sg.fit(rows, 2, sample_rows=100).passes > 1  # more than four times the sample
