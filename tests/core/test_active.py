"""The kernel that skips negligible components: what it skips, and that its statistics are those of the dense one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_gmm.core.estep.accumulate import accumulate_stats
from stream_gmm.core.estep.active.loops import NEGLIGIBLE, active_pass
from stream_gmm.core.estep.active.screen import Screen, choose_screen
from stream_gmm.core.estep.batch import FeatureGroup, compile_batch
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.kernel_choice import QUADRATIC, SPHERED, KernelPreference
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.features import QUADRATIC_FEATURES
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling
from tests.oracles import slow_stats, weighted_log_densities
from tests.strategies import seeds

FULL = family_named("full")


def _many_components(seed, k, d):
    """Components near and far, wide and narrow, some equal, some of weight zero or nearly so."""
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(rng.normal(size=(k, d, d)))[0]
    spread = 10.0 ** rng.uniform(-rng.uniform(0.0, 2.0), 0.5, size=(k, d))
    means = rng.normal(scale=10.0 ** rng.uniform(-1.0, 1.0), size=(k, d))
    means[rng.random(k) < 0.1] = means[0]
    weights = 10.0 ** rng.uniform(-rng.choice([0.5, 20.0]), 0.0, size=k)
    weights[rng.random(k) < 0.05] = 0.0
    weights[0] = 1.0
    params = MixtureParams(
        weights / weights.sum(), means, (turns * spread[:, None, :]) @ np.swapaxes(turns, 1, 2), FULL
    )
    return params, rng


def _skipping_batch(params, scaling, kernel=QUADRATIC):
    """The batch of one candidate, with a screen although it may not pay."""
    batch = compile_batch([params], scaling, KernelPreference(kernel))
    (group,) = batch.groups
    assert isinstance(group, FeatureGroup)
    screen = Screen.of(params.weights, compile_density(params), group.coordinates)
    return replace(batch, groups=(replace(group, screen=screen),))


def _skip(params, rows):
    """The sums of the features, how many components a row evaluates and sums, and the estimate of the former."""
    (group,) = _skipping_batch(params, Scaling.of_rows(rows)).groups
    c, s = group.coordinates, group.screen
    totals = np.zeros(group.weights.shape)
    evaluated, summed = active_pass(
        np.ascontiguousarray(rows.T), np.empty(0), c.shift, 1.0 / c.scale, c.inverse_root, group.weights, s.log_norm,
        s.label_weights, s.directions, -1e300, totals, np.zeros((1, 2)),
    )  # fmt: skip
    return totals, evaluated / len(rows), summed / len(rows), s.active


@given(seeds, st.integers(2, 60), st.integers(1, 12))
@settings(max_examples=20)
@pytest.mark.slow
def test_no_component_is_skipped_that_adds_more_than_its_bound(seed, k, d):
    """Eight rows are one group: a component without weight in the sums was skipped for all of them."""
    params, rng = _many_components(seed, k, d)
    rows = draw_rows(params, 400, rng)[0]
    rows[::7] *= rng.uniform(1.0, 30.0, size=(len(rows[::7]), 1))
    with np.errstate(divide="ignore"):
        logp = weighted_log_densities(params.weights, params.means, params.dense_covariances, rows)
    logp -= logp.max(axis=1, keepdims=True)
    shares = np.exp(logp) / np.exp(logp).sum(axis=1, keepdims=True)
    for lo in range(0, 400, 8):
        totals, *_ = _skip(params, rows[lo : lo + 8])
        skipped = totals[:, 0] == 0.0

        assert (shares[lo : lo + 8, skipped] < NEGLIGIBLE).all()


@pytest.mark.parametrize("kernel", [QUADRATIC, SPHERED])
@pytest.mark.parametrize("noisy", [False, True])
@given(seeds, st.integers(2, 40), st.integers(1, 8), st.integers(1, 700), st.booleans())
@settings(max_examples=20)
def test_statistics_are_those_of_the_dense_kernel(kernel, noisy, seed, k, d, n, weighted):
    params, rng = _many_components(seed, k, d)
    rows = draw_rows(params, n, rng)[0]
    if noisy:
        box = np.array([rows.min(axis=0) - 1.0, rows.max(axis=0) + 1.0])
        params = replace(params, noise=box, weights=params.weights * 0.9)
    w = rng.uniform(0.5, 3.0, size=n) if weighted else np.empty(0)
    batch = compile_batch([params], Scaling.of_rows(rows), KernelPreference(kernel))
    (dense,) = batch.split(accumulate_stats(batch, rows, w))
    (found,) = batch.split(accumulate_stats(_skipping_batch(params, Scaling.of_rows(rows), kernel), rows, w))

    assert found.rows == dense.rows
    assert found.loglik == pytest.approx(dense.loglik, rel=1e-12, abs=1e-11)
    assert found.entropy == pytest.approx(dense.entropy, rel=1e-8, abs=1e-8)
    assert found.log_max == pytest.approx(dense.log_max, rel=1e-11, abs=1e-11)
    np.testing.assert_allclose(found.weight, dense.weight, rtol=1e-10, atol=1e-12 * n)
    size = np.abs(dense.scatter).max()
    np.testing.assert_allclose(found.scatter, dense.scatter, rtol=1e-9, atol=1e-11 * size)


@given(seeds, st.integers(2, 30), st.integers(1, 6))
@settings(max_examples=15)
def test_statistics_are_those_of_the_slow_loop(seed, k, d):
    params, rng = _many_components(seed, k, d)
    params = MixtureParams(np.full(k, 1.0 / k), params.means, params.covariances, FULL)
    rows = draw_rows(params, 300, rng)[0]
    batch = _skipping_batch(params, Scaling.of_rows(rows))
    (stats,) = batch.split(accumulate_stats(batch, rows))
    expected = slow_stats(params.weights, params.means, params.dense_covariances, rows)

    assert stats.loglik == pytest.approx(expected[0], rel=1e-9, abs=1e-7)
    np.testing.assert_allclose(stats.weight, expected[3], rtol=1e-6, atol=1e-6)


def _separated(rng, k=50, d=6, distance=30.0):
    means = rng.normal(scale=distance, size=(k, d))
    return MixtureParams(np.full(k, 1.0 / k), means, np.tile(np.eye(d), (k, 1, 1)), FULL)


def test_of_separated_components_almost_all_are_skipped(rng):
    params = _separated(rng)
    rows = draw_rows(params, 20_000, rng)[0]
    _, _, summed, _ = _skip(params, rows)

    assert summed < 5.0


def test_skipping_is_chosen_where_it_pays(rng):
    def choose(params, n_rows, dtype="float64"):
        density = compile_density(params)
        return choose_screen(params.weights, density, QUADRATIC_FEATURES, Scaling.identity(6), dtype, n_rows)

    apart, together = _separated(rng), _separated(rng, distance=0.1)

    assert choose(apart, 1e6) is not None
    assert choose(together, 1e6) is None
    assert choose(apart, 1000.0) is None
    assert choose(apart, 1e6, "float32") is None
    assert choose(_separated(rng, k=5), 1e6) is None


def test_the_estimate_of_active_components_is_what_the_pass_evaluates(rng):
    params = _separated(rng, k=40, distance=6.0)
    rows = draw_rows(params, 30_000, rng)[0]
    _, evaluated, _, estimate = _skip(params, rows)

    assert estimate == pytest.approx(evaluated, rel=0.4)


def test_candidates_that_skip_share_a_pass_with_others(rng):
    rows = draw_rows(_separated(rng), 60_000, rng)[0]
    scaling = Scaling.of_rows(rows)
    candidates = [_separated(rng), _separated(rng, k=3), _separated(rng, k=60)]
    batch = compile_batch(candidates, scaling, n_rows=1e6)
    together = batch.split(accumulate_stats(batch, rows))

    assert [getattr(group, "screen", None) is not None for group in batch.groups] == [False, True, True]
    for params, stats in zip(candidates, together, strict=True):
        (alone,) = InMemoryEStep(rows[:], scaling, KernelPreference(QUADRATIC))([params])
        assert stats.loglik == pytest.approx(alone.loglik, rel=1e-10)
        np.testing.assert_allclose(stats.weight, alone.weight, rtol=1e-9, atol=1e-9)


def test_rows_far_outside_are_evaluated_as_by_the_dense_kernel(rng):
    params = _separated(rng)
    rows = np.vstack([draw_rows(params, 500, rng)[0], rng.normal(scale=1e4, size=(50, 6))])
    batch = compile_batch([params], Scaling.identity(6), KernelPreference(QUADRATIC))
    (dense,) = batch.split(accumulate_stats(batch, rows))
    (found,) = batch.split(accumulate_stats(_skipping_batch(params, Scaling.identity(6)), rows))

    assert found.loglik == pytest.approx(dense.loglik, rel=1e-12)
    np.testing.assert_allclose(found.weight, dense.weight, atol=1e-6)
