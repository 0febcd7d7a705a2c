"""Parameters, families, sampling, matching, results: the small values."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.matching import bhattacharyya_distances, match_components
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.mstep.penalty import Ridge
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.sampling import Sample, hash_rows
from stream_gmm.core.search.seeding import draw_kmeans_plusplus
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, InputDataError
from tests.strategies import mixtures, random_params, random_stats, seeds


def test_names_and_mclust_codes_name_the_same_structure():
    for family in FAMILIES:
        assert family_named(family.name) is family_named(family.mclust) is family


def test_an_unknown_structure_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'spherical'"):
        family_named("sperical")


@given(mixtures())
def test_precisions_invert_covariances(mixture):
    params, _ = mixture
    family, k, d = params.family, params.n_components, params.n_features
    precisions = family.precisions(params.precisions_cholesky)
    dense = family.moments.dense(np.array(family.expand(precisions, k, d)))

    np.testing.assert_allclose(dense @ params.dense_covariances, np.stack([np.eye(d)] * k), atol=1e-8)
    np.testing.assert_allclose(family.from_precisions(precisions), params.covariances, rtol=1e-8, atol=1e-9)


@given(seeds, st.sampled_from(FAMILIES[:6]))
def test_the_m_step_maximises_the_expected_log_likelihood(seed, family):
    """No small change of the covariances in the family raises Q; checked along random directions."""
    rng = np.random.default_rng(seed)
    k, d = 3, 2
    shapes = rng.normal(size=(k, d, d))
    matrices = shapes @ shapes.transpose(0, 2, 1) + np.eye(d)
    weight = rng.gamma(2.0, 5.0, size=k)
    scatter = family.moments.condense(matrices)
    stats = SuffStats(30, 0, 0, 0, weight, rng.normal(size=(k, d)), scatter, family.moments)
    params, _ = mstep(stats, family, Ridge(0.0))

    def q(covariances):
        dense = family.moments.dense(np.array(family.expand(covariances, k, d)))
        fit = np.einsum("kij,kji->k", np.linalg.inv(dense), matrices)
        return -0.5 * float((weight * np.linalg.slogdet(dense)[1] + fit).sum())

    best = q(params.covariances)
    for _ in range(10):
        change = rng.normal(size=params.covariances.shape)
        if family.matrices:
            change = change + np.swapaxes(change, -1, -2)
        for size in (1e-3, -1e-3):
            assert q(params.covariances + size * change) <= best + 1e-9


def test_the_tied_m_step_agrees_with_a_numerical_optimiser(rng):
    family = family_named("tied_spherical")
    stats = random_stats(rng, 3, 2, family)
    params, _ = mstep(stats, family, Ridge(0.0))
    found = minimize(lambda s: stats.weight.sum() * 2 * s[0] / 2 + 2 * stats.scatter.sum() / np.exp(s[0]) / 2, [0.0])

    assert float(params.covariances) == pytest.approx(np.exp(found.x[0]), rel=1e-4)


def test_a_starving_component_keeps_its_place_and_is_reported(rng):
    family = family_named("full")
    previous = random_params(rng, 3, 2, family)
    stats = random_stats(rng, 3, 2, family)
    weight = np.array([10.0, 0.0, 20.0])
    stats = SuffStats(30, 0, 0, 0, weight, stats.mean, stats.scatter + 10.0 * np.eye(2), stats.moments)
    params, report = mstep(stats, family, Ridge(1e-6), previous)

    assert report.starving == (1,)
    np.testing.assert_array_equal(params.means[1], previous.means[1])
    np.testing.assert_array_equal(params.covariances[1], previous.covariances[1])
    assert "no rows left" in report.describe()


def test_parameters_are_read_only_also_after_pickling(rng):
    params = random_params(rng, 2, 2, family_named("full"))
    again = pickle.loads(pickle.dumps(params))

    np.testing.assert_array_equal(again.means, params.means)
    assert again.family is params.family
    with pytest.raises(ValueError, match="read-only"):
        again.means[0] = 1.0


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        ([0.5, 0.6], [[0.0], [1.0]], [[[1.0]], [[1.0]]], "sum to 1.1"),
        ([-0.5, 1.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]], "negative"),
        ([0.5, 0.5], [[0.0], [np.nan]], [[[1.0]], [[1.0]]], "NaN"),
        ([0.5, 0.5], [[0.0], [1.0]], [[1.0], [1.0]], r"shape \(2, 1, 1\)"),
        ([1.0], [[0.0], [1.0]], [[[1.0]], [[1.0]]], "weights for 2 means"),
    ],
)
def test_what_is_not_a_mixture_is_refused(weights, means, covariances, message):
    with pytest.raises(ConfigError, match=message):
        MixtureParams(weights, means, covariances, family_named("full"))


@given(seeds, st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(1, 500))
def test_the_sample_is_the_same_for_any_chunking(seed, cuts, capacity):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(1000, 2))
    whole = Sample.of(rows, hash_rows(seed, 3, np.arange(1000)), capacity)
    bounds = sorted({0, 1000, *np.minimum(np.cumsum(cuts), 1000).tolist()})
    parts = [
        Sample.of(rows[a:b], hash_rows(seed, 3, np.arange(a, b)), capacity)
        for a, b in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    out = parts[-1]
    for part in parts[:-1]:
        out = part.merge(out)

    np.testing.assert_array_equal(out.rows, whole.rows)
    assert len(out.rows) == min(capacity, 1000)


@given(seeds, st.lists(st.integers(1, 120), min_size=2, max_size=6), st.integers(1, 400))
def test_samples_of_different_capacities_merge_to_all_rows_up_to_a_hash(seed, capacities, together):
    """Parts send few rows; merged in any order they are the same uniform sample, as large as its parts allow."""
    hashes = hash_rows(seed, 0, np.arange(200 * len(capacities)))
    rows = np.arange(len(hashes))[:, None].astype(float)
    parts = [
        replace(Sample.of(rows[p], hashes[p], capacity), capacity=together)
        for i, capacity in enumerate(capacities)
        for p in [slice(200 * i, 200 * (i + 1))]
    ]
    merged, turned = reduce(Sample.merge, parts), reduce(Sample.merge, parts[::-1])
    nested = parts[0].merge(reduce(Sample.merge, parts[1:]))

    everything = np.sort(hashes)
    np.testing.assert_array_equal(merged.hashes, everything[: len(merged.hashes)])
    assert len(merged.hashes) == min(together, np.sum(hashes <= min(p.limit for p in parts)))
    for other in (turned, nested):
        np.testing.assert_array_equal(merged.rows, other.rows)
        assert merged.limit == other.limit


def test_the_sample_is_uniform():
    hits = np.zeros(100)
    for seed in range(400):
        numbers = np.arange(100)
        sample = Sample.of(numbers[:, None].astype(float), hash_rows(seed, 0, numbers), 10)
        hits[sample.rows[:, 0].astype(int)] += 1

    expected = 40.0
    assert ((hits - expected) ** 2 / expected).sum() < 150  # chi-square, 99 degrees of freedom
    assert np.unique(hash_rows(1, 2, np.arange(100_000))).size == 100_000


@given(seeds)
def test_matching_undoes_a_permutation(seed):
    rng = np.random.default_rng(seed)
    params = random_params(rng, 5, 3, family_named("full"))
    order = rng.permutation(5)
    pairs = match_components(params.reorder(order), params)

    assert [j for _, j, _ in pairs] == order.tolist()
    assert max(d for _, _, d in pairs) < 1e-9
    assert np.all(bhattacharyya_distances(params, params) > -1e-12)


def test_canonical_order_is_by_falling_weight(rng):
    for family in FAMILIES:
        params = random_params(rng, 4, 2, family)
        ordered = params.sort_by_weight()
        assert np.all(np.diff(ordered.weights) <= 0)
        np.testing.assert_array_equal(ordered.reorder(rng.permutation(4)).sort_by_weight().means, ordered.means)


def test_k_means_plus_plus_finds_separated_clusters(rng):
    centres = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])
    rows = np.repeat(centres, 50, axis=0) + rng.normal(size=(200, 2))
    seeds_found = draw_kmeans_plusplus(rows, 4, rng)

    assert len({tuple(np.round(s / 100)) for s in seeds_found}) == 4


def test_seeding_survives_fewer_distinct_rows_than_clusters(rng):
    assert draw_kmeans_plusplus(np.ones((10, 2)), 3, rng).shape == (3, 2)


def _result(params: MixtureParams) -> FitResult:
    nothing = Criteria(-1.0, params.n_parameters, 1.0, 0.0, 0.0)
    columns = tuple(f"c{j}" for j in range(params.n_features))
    return FitResult(params, Outcome.CONVERGED, nothing, (-1.0,), 1, columns=columns, threshold=-5.0)


def test_samples_have_the_moments_of_the_mixture(rng):
    params = random_params(rng, 3, 2, family_named("full"))
    rows, labels = draw_rows(params, 200_000, rng)

    np.testing.assert_allclose(np.bincount(labels) / 200_000, params.weights, atol=0.01)
    for k in range(3):
        np.testing.assert_allclose(rows[labels == k].mean(0), params.means[k], atol=0.05)
        np.testing.assert_allclose(np.cov(rows[labels == k].T), params.covariances[k], atol=0.06)


def test_bad_rows_in_memory_are_refused_with_their_place(rng):
    model = _result(random_params(rng, 2, 2, family_named("full")))
    with pytest.raises(InputDataError, match="row 1, column 0"):
        model.predict([[0.0, 1.0], [np.nan, 1.0]])
    with pytest.raises(InputDataError, match="3 columns, the model 2"):
        model.predict(np.zeros((4, 3)))
    with pytest.raises(InputDataError, match=r"shape \(4,\)"):
        model.predict(np.zeros(4))


def test_outliers_lie_below_the_threshold(rng):
    model = _result(random_params(rng, 2, 2, family_named("full")))
    rows = np.array([model.means_[0], [1e3, 1e3]])

    assert model.is_outlier(rows).tolist() == [False, True]
