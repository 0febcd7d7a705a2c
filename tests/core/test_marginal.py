"""Rows with missing values: statistics, scores and conditional means against slow and obvious ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from stream_gmm.core.estep.accumulate import accumulate_stats, complete_stats, merge_each
from stream_gmm.core.estep.batch import compile_batch
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.marginal.density import MarginalDensity, have_close_means
from stream_gmm.core.estep.marginal.patterns import Patterns, SortedRows, find_complete
from stream_gmm.core.estep.scores import impute_rows, score_rows
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.moments import FULL
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.incomplete import estimate_moments, take_whole_rows
from stream_gmm.core.stats import SuffStats
from tests.oracles import slow_missing_stats

D, K = 4, 3


def make_rows(rng, n=160, share=0.3, d=D):
    rows = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3.0 * rng.integers(0, 2, size=(n, 1)) + 50.0
    rows[rng.random((n, d)) < share] = np.nan
    rows[:2] = np.nan
    return rows


def make_mixture(family, rng, rows, noisy=False, k=K):
    d = rows.shape[1]
    matrices = np.stack([np.cov(rng.normal(size=(4 * d, d)).T).reshape(d, d) for _ in range(k)])
    box = np.array([np.nanmin(rows, axis=0) - 1.0, np.nanmax(rows, axis=0) + 1.0]) if noisy else None
    weights = rng.dirichlet(np.full(k, 5.0)) * (0.9 if noisy else 1.0)
    means = np.nanmean(rows, axis=0) + rng.normal(size=(k, d))
    return MixtureParams.from_matrices(
        weights, means, matrices if family.matrices else np.einsum("kjj->kj", matrices), family, box
    )


def slow_scores(params, row):
    there = ~np.isnan(row)
    return [
        np.log(w) + multivariate_normal(m[there], c[np.ix_(there, there)]).logpdf(row[there])
        for w, m, c in zip(params.weights, params.means, params.dense_covariances, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("noisy", [False, True])
def test_the_statistics_are_those_of_the_slow_loop(family, noisy, rng):
    rows = make_rows(rng, 70)
    params = make_mixture(family, rng, rows, noisy)

    stats = InMemoryEStep(rows, Scaling.identity(D)).evaluate(params)
    n, loglik, entropy, log_max, weight, mean, scatter = slow_missing_stats(
        params.weights, params.means, params.dense_covariances, rows, box=params.noise
    )
    scatter = family.moments.condense(scatter)
    scatter = scatter.sum(axis=0, keepdims=True) if family.shared else scatter

    assert stats.rows == n < len(rows) - 1  # without those that have no value
    assert stats.loglik == pytest.approx(loglik, rel=1e-11)
    assert stats.entropy == pytest.approx(entropy, rel=1e-9)
    assert stats.log_max == pytest.approx(log_max, rel=1e-9)
    np.testing.assert_allclose(stats.weight, weight, rtol=1e-10)
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(stats.scatter, scatter, atol=1e-9 * np.abs(scatter).max())


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_any_number_of_patterns_and_row_weights(share, rng):
    """Few rows of each pattern and many take different ways through the kernel; 70 columns need two words a row."""
    rows = make_rows(rng, 60, share, 70 if share == 0.5 else D)
    weights = rng.uniform(0.5, 3.0, size=len(rows))
    params = make_mixture(family_named("full"), rng, rows)
    own = InMemoryEStep(rows, Scaling.identity(rows.shape[1]), weights=weights).evaluate(params)
    slow = slow_missing_stats(params.weights, params.means, params.dense_covariances, rows, weights)
    for value, expected in zip(
        (own.rows, own.loglik, own.weight, own.mean, own.scatter), (*slow[:2], *slow[4:]), strict=True
    ):
        value, expected = np.asarray(value), np.asarray(expected)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("noisy", [False, True])
def test_a_shared_covariance_is_factored_once_to_the_same_sums(noisy, rng):
    """One whitening for all components against one for each; two candidates, row weights, a few rows of a pattern."""
    rows = make_rows(rng, 900, d=6)
    rows[:500, 2:4] = np.nan
    weights = rng.uniform(0.5, 3.0, size=len(rows))
    mixtures = [make_mixture(family_named("tied"), rng, rows, noisy, k) for k in (2, 4)]
    densities = [compile_density(p) for p in mixtures]
    assert all(have_close_means(density) for density in densities)
    _, _, gaps = SortedRows.split_off(rows, weights)
    offsets = np.array([0, 2, 6])
    own, general = (MarginalDensity.of(densities, shared).sum_rows(gaps, offsets) for shared in (True, False))

    sums, expected, of_noise, weight, mean, scatter = own
    np.testing.assert_allclose(sums, general[0], rtol=1e-12)
    np.testing.assert_allclose(np.add.reduceat(expected, [0, 2]), np.add.reduceat(general[1], [0, 2]), rtol=1e-11)
    np.testing.assert_allclose(of_noise, general[2], rtol=1e-9)
    np.testing.assert_allclose(weight, general[3], rtol=1e-11)
    np.testing.assert_allclose(mean, general[4], rtol=1e-11)
    pooled, expected = np.add.reduceat(scatter, [0, 2]), np.add.reduceat(general[5], [0, 2])
    np.testing.assert_allclose(pooled, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["full", "tied"])
def test_a_column_that_follows_from_others_to_rounding_ends_no_pass(name, rng):
    """One order of the columns has a Cholesky factor, and another leaves a variance of 0 or less."""
    root = rng.normal(size=(3, 2))
    matrix = np.vstack([root, root[:1] + root[1:2]])
    covariance = matrix @ matrix.T - 1e-15 * np.eye(4)
    rows = rng.normal(size=(40, 2)) @ matrix.T
    rows[::2, 0] = rows[1::3, 3] = np.nan
    params = MixtureParams([0.5, 0.5], np.zeros((2, 4)), np.stack([np.eye(4)] * 2), family_named("full"))
    density = compile_density(params)
    marginal = replace(MarginalDensity.of([density], name == "tied"), covariances=np.stack([covariance] * 2))
    _, _, gaps = SortedRows.split_off(rows, np.empty(0))
    assert np.isfinite(marginal.sum_rows(gaps, np.array([0, 2]))[0]).all()


def test_means_far_apart_are_whitened_one_by_one(rng):
    rows = make_rows(rng, 60)
    params = make_mixture(family_named("tied"), rng, rows)
    far = MixtureParams(params.weights, params.means + 1e6 * np.arange(K)[:, None], params.covariances, params.family)
    near_batch, far_batch = (compile_batch([p], Scaling.identity(D), incomplete=True) for p in (params, far))
    assert [g.density.is_shared for g in (*near_batch.marginal, *far_batch.marginal)] == [True, False]


def test_patterns_sort_rows_by_the_columns_that_they_have(rng):
    rows = rng.normal(size=(500, 9))
    rows[rng.random(rows.shape) < 0.4] = np.nan
    rows[::7] = 1.0
    patterns = Patterns.of(rows)
    assert sorted(patterns.order) == list(range(500))
    assert patterns.observed[0].all()  # complete rows come first
    assert all((np.diff(patterns.order[lo:hi]) > 0).all() for lo, hi in pairwise(patterns.starts))
    assert len(np.unique(patterns.observed, axis=0)) == len(patterns.observed)
    for p, (lo, hi) in enumerate(zip(patterns.starts[:-1], patterns.starts[1:], strict=True)):
        assert (~np.isnan(rows[patterns.order[lo:hi]]) == patterns.observed[p]).all()


def test_complete_rows_take_the_usual_way_to_the_same_bits(rng):
    rows = make_rows(rng, share=0.0)[2:]
    assert find_complete(rows) is None
    for family in FAMILIES:
        params, scaling = [make_mixture(family, rng, rows)], Scaling.of_rows(rows)
        plain, marginal = compile_batch(params, scaling), compile_batch(params, scaling, incomplete=True)
        if plain.uses_linear_features(0):
            continue
        (a,), (b,) = plain.split(accumulate_stats(plain, rows)), marginal.split(accumulate_stats(marginal, rows))
        assert (a.weight == b.weight).all()
        assert (a.mean == b.mean).all()
        assert (a.scatter == b.scatter).all()
        assert a.loglik == b.loglik


def test_statistics_of_disjoint_rows_add_up_whatever_is_missing(rng):
    """Merge law: chunks with complete rows only, with none, and with rows without any value."""
    rows = make_rows(rng, 300)
    rows = np.concatenate([rows, rng.normal(size=(40, D)) + 50.0, np.full((5, D), np.nan)])
    params = [make_mixture(f, rng, rows) for f in FAMILIES]
    batch = compile_batch(params, Scaling.identity(D), incomplete=True)
    zero = SuffStats.zero(1, 1, FULL)

    def complete(parts):
        total = batch.no_stats
        for part in parts:
            total = merge_each(total, accumulate_stats(batch, part))
        return complete_stats(batch, params, total, zero, np.zeros(D))

    for a, b in zip(complete([rows]), complete([rows[340:], rows[:7], rows[7:300], rows[300:340]]), strict=True):
        assert a.rows == b.rows
        assert a.loglik == pytest.approx(b.loglik, rel=1e-12)
        np.testing.assert_allclose(a.mean, b.mean, rtol=1e-11)
        np.testing.assert_allclose(a.scatter, b.scatter, atol=1e-9 * np.abs(a.scatter).max())


@pytest.mark.parametrize("name", ["full", "diag", "tied_spherical", "VEV"])
@pytest.mark.parametrize("noisy", [False, True])
def test_scores_are_those_of_the_marginal_densities(name, noisy, rng):
    rows = make_rows(rng, 80)
    params = make_mixture(family_named(name), rng, rows, noisy)
    scores = score_rows(compile_density(params), rows)
    for i in range(2, len(rows)):
        logp = slow_scores(params, rows[i])
        there = ~np.isnan(rows[i])
        if not there.any():
            continue
        noise = (
            [np.log(params.noise_weight) - np.log(params.noise[1] - params.noise[0])[there].sum()] if noisy else []
        )
        density = np.exp([*logp, *noise])
        assert scores.log_density[i] == pytest.approx(np.log(density.sum()), rel=1e-10)
        np.testing.assert_allclose(scores.shares[i], density / density.sum(), atol=1e-10)
        best = int(np.argmax(logp))
        delta = (rows[i] - params.means[best])[there]
        matrix = params.dense_covariances[best][np.ix_(there, there)]
        assert scores.mahalanobis_sq[i] == pytest.approx(delta @ np.linalg.solve(matrix, delta), rel=1e-8)
    np.testing.assert_allclose(scores.proba[0], params.weights)
    assert np.isnan(scores.log_density[0])
    assert np.isnan(scores.mahalanobis_sq[0])


def test_complete_rows_among_others_have_the_scores_that_they_have_alone(rng):
    rows = make_rows(rng)
    density = compile_density(make_mixture(family_named("full"), rng, rows))
    complete = find_complete(rows)
    own, alone = score_rows(density, rows), score_rows(density, rows[complete])
    assert (own.log_density[complete] == alone.log_density).all()
    assert (own.proba[complete] == alone.proba).all()
    assert (own.comparable[complete] == alone.log_density).all()


def test_conditional_means_and_deviations_are_those_of_the_mixture(rng):
    rows = make_rows(rng, 50) + 1e5
    params = make_mixture(family_named("full"), rng, rows)
    scores = score_rows(compile_density(params), rows)
    mean, deviation = impute_rows(compile_density(params), rows, scores)
    for i, row in enumerate(rows):
        there = ~np.isnan(row)
        assert (mean[i, there] == row[there]).all()
        assert (deviation[i, there] == 0.0).all()
        means, variances = [], []
        for m, c in zip(params.means, params.dense_covariances, strict=True):
            slope = (
                c[np.ix_(~there, there)] @ np.linalg.pinv(c[np.ix_(there, there)])
                if there.any()
                else np.zeros(((~there).sum(), 0))
            )
            means.append(m[~there] + slope @ (row - m)[there])
            variances.append(np.diag(c[np.ix_(~there, ~there)] - slope @ c[np.ix_(there, ~there)]))
        r, centres = scores.proba[i][:, None], np.array(means)
        expected = (r * centres).sum(axis=0)
        np.testing.assert_allclose(mean[i, ~there], expected, rtol=1e-9)
        spread = (r * (np.array(variances) + (centres - expected) ** 2)).sum(axis=0)
        np.testing.assert_allclose(deviation[i, ~there], np.sqrt(spread), rtol=1e-6)


def test_a_row_that_is_surely_noise_is_filled_in_by_its_nearest_component():
    means, covariance = np.array([[0.0, 0.0], [10.0, 30.0]]), np.array([[1.0, 0.5], [0.5, 2.0]])
    box = np.array([[-100.0, -100.0], [100.0, 100.0]])
    params = MixtureParams([0.4, 0.4], means, [covariance, covariance], family_named("full"), box)
    row = np.array([[60.0, np.nan]])
    scores = score_rows(compile_density(params), row)
    assert scores.component[0] == -1
    assert (scores.proba == 0.0).all()  # both are below 1e-100
    mean, deviation = impute_rows(compile_density(params), row, scores)
    np.testing.assert_allclose(mean, [[60.0, 30.0 + 0.5 * (60.0 - 10.0)]], rtol=1e-12)
    np.testing.assert_allclose(deviation, [[0.0, np.sqrt(2.0 - 0.5**2)]], rtol=1e-12)


@pytest.mark.parametrize("distance", [0.5, 5.0])
def test_incomplete_rows_are_outliers_about_as_often_as_complete_ones(distance, rng):
    means = distance * rng.normal(size=(2, 3))
    params = MixtureParams(
        [0.4, 0.6], means, np.stack([np.cov(rng.normal(size=(30, 3)).T) for _ in range(2)]), family_named("full")
    )
    density = compile_density(params)
    rows, _ = draw_rows(params, 40_000, rng)
    threshold = np.quantile(score_rows(density, rows).log_density, 0.01)
    for missing in (1, 2):
        fewer = rows.copy()
        places = rng.permuted(np.tile(np.arange(3), (len(rows), 1)), axis=1)[:, :missing]
        np.put_along_axis(fewer, places, np.nan, axis=1)
        share = float((score_rows(density, fewer).comparable < threshold).mean())
        assert 0.004 < share < 0.0115  # never much more than complete rows; fewer where components overlap


def test_one_component_is_compared_by_the_same_tail_probability(rng):
    """For one normal distribution the comparison is exact: equal chi-square tails."""
    density = compile_density(MixtureParams([1.0], np.zeros((1, 2)), np.eye(2)[None], family_named("full")))
    scores = score_rows(density, np.array([[np.nan, 2.0], [-np.inf, 0.0]])[:1])
    tail = 0.04550026389635842  # P(|z| > 2); of two columns exp(-d^2 / 2)
    assert scores.comparable[0] == pytest.approx(np.log(tail) - np.log(2.0 * np.pi), abs=1e-4)


def test_moments_of_all_rows_are_the_normal_distribution_of_greatest_likelihood(rng):
    covariance = np.array([[4.0, 3.0, 0.0], [3.0, 9.0, -1.0], [0.0, -1.0, 1.0]])
    rows = rng.multivariate_normal([1e3, -5.0, 0.0], covariance, 4_000)
    rows[(rng.random(len(rows)) < 0.6) & (rows[:, 0] > 1e3), 1] = np.nan  # missing at random: by an observed value
    moments = estimate_moments(rows, np.empty(0), 10.0)
    assert moments.rows == 10.0
    covariance = moments.scatter[0] / 10.0
    assert moments.mean[0, 1] == pytest.approx(-5.0, abs=0.25)
    assert np.nanmean(rows[:, 1]) < -5.4  # what leaving rows out would give
    assert covariance[0, 1] == pytest.approx(3.0, abs=0.3)


def test_rows_for_seedings_are_complete_ones_or_have_random_draws(rng):
    rows = make_rows(rng, 2_000, 0.05)
    whole, _ = take_whole_rows(rows, np.empty(0), 3, None, rng)
    complete = find_complete(rows)
    assert complete is not None
    assert len(whole) == int(complete.sum())
    rows = make_rows(rng, 2_000, 0.6)
    whole, _ = take_whole_rows(rows, np.empty(0), 3, None, rng)
    assert len(whole) == len(rows)
    assert not np.isnan(whole).any()
    assert (whole[~np.isnan(rows)] == rows[~np.isnan(rows)]).all()
    moments = estimate_moments(rows, np.empty(0), 1.0)
    np.testing.assert_allclose(
        np.cov(whole.T, bias=True), moments.scatter[0], atol=0.15 * np.abs(moments.scatter).max()
    )
