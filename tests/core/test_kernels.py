from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_gmm.core.estep import kernels, whitening
from stream_gmm.core.estep.accumulate import accumulate_stats, merge_each
from stream_gmm.core.estep.batch import compile_batch
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.kernel_choice import QUADRATIC, SPHERED, WHITENED, KernelPreference
from stream_gmm.core.estep.kernels import exp_row
from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling
from tests.oracles import slow_stats, weighted_log_densities
from tests.strategies import families, mixtures, random_params

KERNELS = (QUADRATIC, SPHERED, WHITENED)


def _estep(params, rows, kernel="auto", dtype="float64"):
    (stats,) = InMemoryEStep(rows, Scaling.of_rows(rows), KernelPreference(kernel, dtype))([params])
    return stats


def _scatter(params: MixtureParams, matrices):
    """The oracle's scatter (K, D, D) as the structure keeps it."""
    kept = params.family.moments.condense(matrices)
    return kept.sum(0, keepdims=True) if params.family.shared else kept


def test_what_exp_cannot_tell_from_nothing_is_zero_and_not_subnormal():
    for dtype, low in (("float64", [-230.1, -1e5, -1e300]), ("float32", [-60.1, -1e5, -1e38])):
        e = np.array(low, dtype)
        exp_row(e, np.zeros(3, dtype), np.zeros(3, dtype))

        np.testing.assert_array_equal(e, 0.0)


def test_exp_is_that_of_numpy_to_a_few_units_in_the_last_place(rng):
    for dtype, lowest, rtol in (("float64", -230.0, 1e-15), ("float32", -60.0, 3e-7)):
        x = -np.append(rng.gamma(1.0, 40.0, size=5000), [0.0, -lowest - 0.1]).astype(dtype)
        x = x[x > lowest]
        e, total = x.copy(), np.ones_like(x)
        exp_row(e, np.zeros_like(x), total)

        np.testing.assert_allclose(e, np.exp(x.astype(float)), rtol=rtol)
        np.testing.assert_allclose(total, 1.0 + np.exp(x.astype(float)), rtol=rtol)


@pytest.mark.parametrize("kernel", KERNELS)
@given(mixtures(), st.integers(1, 900))
def test_statistics_are_those_of_the_slow_loop(kernel, mixture, n):
    params, rng = mixture
    rows = np.vstack([draw_rows(params, n, rng)[0], rng.normal(scale=4.0, size=(5, params.n_features))])
    stats = _estep(params, rows, kernel)
    expected = slow_stats(params.weights, params.means, params.dense_covariances, rows)

    size = np.abs(expected[5]).max()
    assert stats.loglik == pytest.approx(expected[0], rel=1e-10, abs=1e-9)
    assert stats.entropy == pytest.approx(expected[1], rel=1e-9, abs=1e-9)
    assert stats.log_max == pytest.approx(expected[2], rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(stats.weight, expected[3], rtol=1e-9, atol=1e-12)
    heavy = expected[3] > 1e-9
    np.testing.assert_allclose(stats.mean[heavy], expected[4][heavy], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(stats.scatter, _scatter(params, expected[5]), rtol=1e-8, atol=1e-9 * size)


@pytest.mark.parametrize("kernel", KERNELS)
@given(mixtures(), st.integers(1, 900))
def test_float32_statistics_are_those_of_the_slow_loop_to_its_bound(kernel, mixture, n):
    params, rng = mixture
    rows = draw_rows(params, n, rng)[0]
    stats = _estep(params, rows, kernel, "float32")
    expected = slow_stats(params.weights, params.means, params.dense_covariances, rows)

    assert stats.loglik == pytest.approx(expected[0], abs=1e-3 * n)
    np.testing.assert_allclose(stats.weight, expected[3], atol=1e-3 * n)
    size = np.abs(expected[5]).max()
    np.testing.assert_allclose(stats.scatter, _scatter(params, expected[5]), rtol=1e-3, atol=3e-3 * size + 1e-3)


@given(mixtures(max_k=4), st.floats(-8, 8), st.floats(-12, 12))
def test_the_chosen_kernel_holds_the_bound_far_from_the_origin(mixture, log_offset, log_scale):
    """Offsets up to 1e8 standard deviations, scales from 1e-12 to 1e12: the guard must see to it."""
    params, rng = mixture
    family, offset, scale = params.family, 10.0**log_offset, 10.0**log_scale
    moved = MixtureParams(
        params.weights, (params.means + offset) * scale, np.array(params.covariances) * scale**2, family
    )
    rows = (draw_rows(params, 300, rng)[0] + offset) * scale
    near = rows / scale - offset  # exactly what the rows hold, after rounding
    stats = _estep(moved, rows)
    expected = slow_stats(params.weights, params.means, params.dense_covariances, near)

    shift = -len(rows) * params.n_features * np.log(scale)
    slack = 1e-8 + 1e-14 * offset  # the rows themselves are rounded at this offset
    assert stats.loglik == pytest.approx(expected[0] + shift, rel=10 * slack, abs=len(rows) * 10 * slack)
    np.testing.assert_allclose(stats.weight, expected[3], rtol=1e-6, atol=300 * slack)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 64), families)
@settings(max_examples=25)
@pytest.mark.slow
def test_large_shapes_and_heavy_tails_give_the_statistics_of_the_slow_loop(seed, d, k, family):
    rng = np.random.default_rng(seed)
    params = random_params(rng, k, d, family)
    rows = draw_rows(params, 400, rng)[0]
    rows = rows * rng.standard_t(2.0, size=(len(rows), 1)) ** 2
    stats = _estep(params, rows)
    expected = slow_stats(params.weights, params.means, params.dense_covariances, rows)

    assert stats.loglik == pytest.approx(expected[0], rel=1e-9, abs=1e-6)
    np.testing.assert_allclose(stats.weight, expected[3], rtol=1e-9, atol=1e-7)
    size = np.abs(expected[5]).max()
    np.testing.assert_allclose(stats.scatter, _scatter(params, expected[5]), rtol=1e-7, atol=1e-9 * size)


def test_many_candidates_in_one_batch_equal_each_alone(rng):
    rows = rng.normal(size=(3000, 4)) @ rng.normal(size=(4, 4))
    scaling = Scaling.of_rows(rows)
    names = ("full", "diag", "tied", "spherical", "tied_diag", "tied_spherical")
    candidates = [random_params(rng, k, 4, family_named(n)) for n in names for k in (1, 3, 7)]
    candidates.append(MixtureParams([0.5, 0.5], np.zeros((2, 4)), [1e-12, 1.0], family_named("spherical")))
    together = InMemoryEStep(rows, scaling)(candidates)

    for params, stats in zip(candidates, together, strict=True):
        (alone,) = InMemoryEStep(rows, scaling)([params])
        assert stats.loglik == pytest.approx(alone.loglik, rel=1e-12)
        assert stats.entropy == pytest.approx(alone.entropy, rel=1e-9, abs=1e-9)
        assert stats.moments is params.family.moments
        np.testing.assert_allclose(stats.scatter, alone.scatter, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_chunks_merge_to_the_whole(kernel, rng):
    params = random_params(rng, 4, 3, family_named("full"))
    params = MixtureParams(params.weights, params.means + 1e4, params.covariances, params.family)
    rows = draw_rows(params, 5000, rng)[0]
    batch = compile_batch([params], Scaling.of_rows(rows), KernelPreference(kernel))
    (whole,) = batch.split(accumulate_stats(batch, rows))
    out = accumulate_stats(batch, rows[:17])
    for lo, hi in ((17, 18), (18, 1042), (1042, 5000)):
        out = merge_each(out, accumulate_stats(batch, rows[lo:hi]))
    (merged,) = batch.split(out)

    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    assert merged.loglik == pytest.approx(whole.loglik, rel=1e-12)
    assert merged.rows == 5000


@given(mixtures())
def test_scores_are_those_of_scipy(mixture):
    params, rng = mixture
    rows = draw_rows(params, 200, rng)[0]
    scores = score_rows(compile_density(params), rows)
    logp = weighted_log_densities(params.weights, params.means, params.dense_covariances, rows)

    density = np.log(np.exp(logp - logp.max(1, keepdims=True)).sum(1)) + logp.max(1)
    np.testing.assert_allclose(scores.log_density, density, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scores.proba.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(scores.component, logp.argmax(1))
    delta = rows - params.means[scores.component]
    inverse = np.linalg.inv(params.dense_covariances)[scores.component]
    distance = np.einsum("nj,njk,nk->n", delta, inverse, delta)
    np.testing.assert_allclose(scores.mahalanobis_sq, distance, rtol=1e-7, atol=1e-9)


def test_a_row_far_from_everything_is_scored_without_overflow():
    params = MixtureParams([0.3, 0.7], [[0.0], [1.0]], [[[1.0]], [[2.0]]], family_named("full"))
    scores = score_rows(compile_density(params), np.array([[1e8]]))

    assert np.isfinite(scores.log_density).all()
    np.testing.assert_array_equal(scores.component, [1])
    assert scores.max_proba[0] == 1.0


def test_an_empty_block_has_no_scores():
    params = MixtureParams([1.0], [[0.0]], [[[1.0]]], family_named("full"))

    assert len(score_rows(compile_density(params), np.empty((0, 1))).component) == 0


@pytest.mark.parametrize("kernel", ["quadratic", "whitened"])
@pytest.mark.parametrize("name", ["full", "diag"])
def test_read_only_arrays_run_the_same_code(kernel, name, rng):
    """Rows that are mapped or came over a network: no other code is compiled for them, so no other bits."""
    params = random_params(rng, 3, 4, family_named(name))
    rows = np.asfortranarray(draw_rows(params, 20_000, rng)[0])
    batch = compile_batch([params], Scaling.of_rows(rows), KernelPreference(kernel))
    (expected,) = accumulate_stats(batch, rows)
    known = [len(f.signatures) for f in (kernels.feature_pass, whitening.full_pass, whitening.diagonal_pass)]
    frozen = np.frombuffer(rows.tobytes(order="F"), np.float64).reshape(4, -1).T
    assert not frozen.flags.writeable
    (group,) = batch.groups
    stiff = getattr(group, "weights", np.empty(0))
    stiff.flags.writeable = False
    (found,) = accumulate_stats(batch, frozen)

    np.testing.assert_array_equal(found.stats.scatter, expected.stats.scatter)
    assert [len(f.signatures) for f in (kernels.feature_pass, whitening.full_pass, whitening.diagonal_pass)] == known
