"""Scores of rows: against scipy, against long doubles, and the same bits whatever rows stand beside a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.special import entr, logsumexp

from stream_gmm.core.estep.score_kernels import log_positive
from stream_gmm.core.estep.scores import Scores, component_log_densities, score_rows, summarise_scores
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.density import Density, compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from tests.oracles import weighted_log_densities
from tests.strategies import families, mixtures, random_params, seeds

FIELDS = ("component", "proba", "log_density", "mahalanobis_sq", "entropy", "max_proba", "noise")
EPS = np.finfo(float).eps


def _assert_same_bits(left: Scores, right: Scores) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@given(seeds, st.integers(1, 13), st.integers(1, 9), families, st.integers(1, 700))
@settings(max_examples=60)
def test_scores_are_those_of_scipy(seed, d, k, family, n):
    rng = np.random.default_rng(seed)
    params = random_params(rng, k, d, family)
    rows = np.vstack([draw_rows(params, n, rng)[0], rng.normal(scale=6.0, size=(3, d))])
    expected = weighted_log_densities(params.weights, params.means, params.dense_covariances, rows)
    log_density = logsumexp(expected, axis=1)
    proba = np.exp(expected - log_density[:, None])
    density = compile_density(params)
    scores = score_rows(density, rows)

    np.testing.assert_allclose(scores.log_density, log_density, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(scores.proba, proba, rtol=1e-8, atol=1e-90)
    np.testing.assert_allclose(scores.entropy, entr(proba).sum(axis=1), atol=1e-9)
    np.testing.assert_allclose(scores.max_proba, proba.max(axis=1), rtol=1e-9)
    assert scores.entropy.min() >= 0.0
    best = proba.argmax(axis=1)
    clear = proba.max(axis=1) > 0.5 + 1e-6
    np.testing.assert_array_equal(scores.component[clear], best[clear])
    at_best = -2.0 * (expected[np.arange(len(rows)), best] - density.log_norm[best])
    np.testing.assert_allclose(scores.mahalanobis_sq[clear], at_best[clear], rtol=1e-8, atol=1e-8)


@given(mixtures(max_d=9), st.integers(1, 600), st.floats(0.0, 0.5))
@settings(max_examples=30)
def test_a_row_has_the_same_scores_to_the_last_bit_whatever_is_beside_it(mixture, n, noise):
    """Blocks of 256 rows, remainders of blocks, single rows, either order in memory, views, read-only rows."""
    params, rng = mixture
    rows = rng.normal(scale=3.0, size=(n, params.n_features))
    if noise > 0.1:
        box = np.array([rows.min(axis=0) - 1.0, rows.max(axis=0) + 1.0])
        params = MixtureParams(
            params.weights * (1.0 - noise), params.means, params.covariances, params.family, noise=box
        )
    density = compile_density(params)
    whole = score_rows(density, rows)
    wide = np.repeat(rows, 2, axis=1)[:, ::2]
    locked = rows.copy()
    locked.flags.writeable = False

    for same in (np.asfortranarray(rows), wide, locked, rows[::-1].copy()[::-1]):
        _assert_same_bits(whole, score_rows(density, same))
    some = np.sort(rng.choice(n, size=min(n, 7), replace=False))
    few = score_rows(density, rows[some])
    for name in FIELDS:
        if len(getattr(whole, name)):
            np.testing.assert_array_equal(getattr(few, name), getattr(whole, name)[some], err_msg=name)


@given(mixtures(max_d=11), st.floats(-8, 8), st.floats(-12, 12))
@settings(max_examples=60)
def test_no_digits_cancel_however_far_the_rows_are_from_the_origin(mixture, log_offset, log_scale):
    """The error of a log-density is bounded by the size of the terms of its squares, wherever the rows are."""
    params, rng = mixture
    offset, scale = 10.0**log_offset, 10.0**log_scale
    moved = MixtureParams(
        params.weights, (params.means + offset) * scale, np.array(params.covariances) * scale**2, params.family
    )
    rows = (draw_rows(params, 40, rng)[0] + offset) * scale
    density = compile_density(moved)
    factors = density.whitener if density.whitener.ndim == 3 else np.array([np.diag(u) for u in density.whitener])
    found = component_log_densities(density, np.ascontiguousarray(rows.T))

    centred = rows.astype(np.longdouble)[:, None] - density.means.astype(np.longdouble)
    exact = density.log_norm - 0.5 * np.sum(np.einsum("nkd,kde->nke", centred, factors.astype(np.longdouble)) ** 2, 2)
    size = np.sum(np.einsum("nkd,kde->nke", np.abs(centred), np.abs(factors)) ** 2, 2) + np.abs(density.log_norm)
    assert np.all(np.abs(found.T - exact) <= (params.n_features + 4) * EPS * size)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_structure_whitens_by_a_triangle(family, rng):
    density = compile_density(random_params(rng, 3, 5, family))
    if density.whitener.ndim == 3:
        np.testing.assert_array_equal(density.lower, np.tril(density.lower))


def test_the_logarithm_is_that_of_numpy_to_three_units_in_the_last_place(rng):
    @njit
    def take_logs(values):
        out = np.empty_like(values)
        for i in range(len(values)):
            out[i] = log_positive(values[i])
        return out

    near_one = 1.0 + np.concatenate([10.0 ** rng.uniform(-16, 0, 2000), -(10.0 ** rng.uniform(-16, -0.4, 2000))])
    values = np.concatenate([near_one, np.exp(rng.uniform(-700, 700, 4000)), [1.0, 2.0, 0.5, np.sqrt(2.0)]])

    np.testing.assert_allclose(take_logs(values), np.log(values), rtol=3.0 * EPS, atol=0.0)
    assert take_logs(np.zeros(1))[0] == -np.inf


def test_shares_with_noise_add_up_and_the_largest_one_is_one_of_them(rng):
    params = random_params(rng, 4, 3, family_named("full"))
    rows = rng.normal(scale=4.0, size=(900, 3))
    box = np.array([rows.min(axis=0) - 1.0, rows.max(axis=0) + 1.0])
    noisy = MixtureParams(0.8 * params.weights, params.means, params.covariances, params.family, noise=box)
    scores = score_rows(compile_density(noisy), rows)

    np.testing.assert_allclose(scores.shares.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(scores.max_proba, scores.shares.max(axis=1))
    np.testing.assert_array_equal(scores.component == -1, scores.shares.argmax(axis=1) == 4)
    np.testing.assert_allclose(scores.entropy, entr(scores.shares).sum(axis=1), atol=1e-13)


def test_criteria_of_scores_are_sums_over_the_weights(rng):
    params = random_params(rng, 3, 2, family_named("diag"))
    rows, weights = rng.normal(size=(500, 2)), rng.integers(0, 4, size=500).astype(float)
    scores = score_rows(compile_density(params), rows)
    criteria = summarise_scores(scores, 7, weights)

    assert (criteria.n_parameters, criteria.n_rows) == (7, weights.sum())
    assert criteria.loglik == pytest.approx(float(weights @ scores.log_density), rel=1e-12)
    assert criteria.entropy == pytest.approx(float(weights @ entr(scores.proba).sum(axis=1)), rel=1e-10)
    assert criteria.log_max == pytest.approx(float(weights @ np.log(scores.proba.max(axis=1))), rel=1e-10)


def test_rows_beyond_all_numbers_belong_to_the_nearest_component():
    density = Density(np.log([0.5, 0.5]), np.array([[0.0, 0.0], [1.0, 1.0]]), np.full((2, 2), 1e150))
    scores = score_rows(density, np.array([[1e149, 1e149], [0.0, 0.0], [-1e149, 1e148]]))

    np.testing.assert_array_equal(scores.proba.sum(axis=1), 1.0)
    np.testing.assert_array_equal(scores.max_proba, 1.0)
    np.testing.assert_array_equal(scores.log_density[[0, 2]], -np.inf)
    np.testing.assert_array_equal(scores.entropy, 0.0)
