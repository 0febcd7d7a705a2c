"""The uniform noise component: against a slow loop, in every kernel, and in everything that a mixture does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.kernel_choice import KernelPreference
from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.fit.accelerate import METHODS
from stream_gmm.core.fit.coordinates import Chart
from stream_gmm.core.fit.em import EMState, Scheme, StopRule, run_to_end
from stream_gmm.core.fit.surrogate import guaranteed_gain
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import merge_components, remove_component, split_component
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.mstep.penalty import PseudoRows
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.errors import ConfigError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.uncertainty.ratio import ratio_test
from tests.strategies import random_params

BOX = np.array([[-10.0, -10.0], [10.0, 12.0]])
LOG_VOLUME = np.log(20.0 * 22.0)


@pytest.fixture
def rows(rng):
    blobs = [rng.normal(size=(300, 2)) * 0.6 + c for c in ([-3.0, 0.0], [4.0, 1.0])]
    return np.concatenate([*blobs, rng.uniform(BOX[0], BOX[1], size=(150, 2))])


def _params(rng, family, k=2):
    return random_params(rng, k, 2, family).with_noise(BOX, 0.2)


def _slow(params, rows):
    """Return joint log-densities ``(N, K + 1)``, the noise last."""
    own = [
        np.log(w) + multivariate_normal.logpdf(rows, m, c)
        for w, m, c in zip(params.weights, params.means, params.dense_covariances, strict=True)
    ]
    return np.column_stack([*own, np.full(len(rows), np.log(params.noise_weight) - LOG_VOLUME)])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("kernel", ["quadratic", "sphered", "whitened"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_e_step_is_that_of_a_slow_loop(rng, rows, family, kernel, weighted):
    params = _params(rng, family)
    w = rng.gamma(2.0, size=len(rows)) if weighted else np.ones(len(rows))
    stats = InMemoryEStep(
        rows, Scaling.of_rows(rows), KernelPreference(kernel), w if weighted else np.empty(0)
    ).evaluate(params)
    joint = _slow(params, rows)
    loglik = logsumexp(joint, axis=1)
    r = np.exp(joint - loglik[:, None])

    assert stats.loglik == pytest.approx(w @ loglik, rel=1e-9)
    assert stats.rows == pytest.approx(w.sum())
    assert stats.entropy == pytest.approx(-np.sum(w[:, None] * r * np.log(np.maximum(r, 1e-300))), rel=1e-7)
    assert stats.log_max == pytest.approx(w @ np.log(r.max(axis=1)), rel=1e-7)
    np.testing.assert_allclose(stats.weight, w @ r[:, :2], rtol=1e-8)
    np.testing.assert_allclose(stats.mean, (r[:, :2].T * w) @ rows / (w @ r[:, :2])[:, None], rtol=1e-7)
    new, _ = mstep(stats, family, PseudoRows.of(collect_moments(rows)), params)
    assert new.noise_weight == pytest.approx(w @ r[:, 2] / w.sum(), rel=1e-7)


@pytest.mark.parametrize("dtype", ["float32"])
def test_a_float32_e_step_with_noise_is_near_the_slow_loop(rng, rows, dtype):
    params = _params(rng, FAMILIES[0])
    ours = InMemoryEStep(rows, Scaling.of_rows(rows), KernelPreference("auto", dtype)).evaluate(params)
    assert ours.mean_loglik == pytest.approx(logsumexp(_slow(params, rows), axis=1).mean(), abs=1e-3)


def test_scores_with_noise_are_those_of_a_slow_loop(rng, rows):
    params = _params(rng, FAMILIES[0])
    scores, joint = score_rows(compile_density(params), rows), _slow(params, rows)
    loglik = logsumexp(joint, axis=1)

    np.testing.assert_allclose(scores.log_density, loglik)
    np.testing.assert_allclose(scores.noise, np.exp(joint[:, 2] - loglik))
    np.testing.assert_array_equal(scores.component, np.where(joint.argmax(axis=1) == 2, -1, joint.argmax(axis=1)))
    np.testing.assert_allclose(scores.max_proba, np.exp(joint.max(axis=1) - loglik))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["full", "tied", "diag", "tied_spherical", "VEV"])
def test_the_likelihood_never_falls_and_acceleration_finds_the_same(rows, method, name):
    explorer_start = sg.fit(rows, 2, name, noise=True, max_passes=1).params
    scheme = Scheme(StopRule(1e-10, 400), PseudoRows.of(collect_moments(rows)), METHODS[method])
    values = []
    estep = InMemoryEStep(rows, Scaling.of_rows(rows))
    (state,) = run_to_end(
        [EMState(explorer_start)], estep, scheme, lambda s: values.append(scheme.objective(*s[0].accepted_point))
    )
    assert np.all(np.diff(values) >= -1e-10)
    plain = sg.fit(rows, 2, name, noise=True, init=explorer_start, algorithm="em", tol=1e-10, max_passes=500)
    assert state.history[-1] == pytest.approx(plain.lower_bound_, abs=1e-6)


def test_the_bound_on_a_step_holds_with_noise(rng, rows):
    params = _params(rng, FAMILIES[0])
    estep = InMemoryEStep(rows, Scaling.of_rows(rows))
    stats = estep.evaluate(params)
    new, _ = mstep(stats, params.family, previous=params)
    gain = guaranteed_gain(stats, params, new)

    assert 0.0 < gain <= estep.evaluate(new).mean_loglik - stats.mean_loglik + 1e-12


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_mixture_with_noise_survives_its_coordinates(rng, family):
    a, b = (_params(rng, family) for _ in range(2))
    back = Chart(a).params(Chart(a).vector(b))

    assert back.noise_weight == pytest.approx(b.noise_weight)
    np.testing.assert_allclose(back.weights, b.weights)


def test_splits_merges_and_order_keep_the_noise(rng):
    params = _params(rng, FAMILIES[0], 3)
    for changed in (
        split_component(params, 1),
        merge_components(params, 0, 2),
        remove_component(params, 1),
        params.sort_by_weight(),
    ):
        assert changed.noise_weight == pytest.approx(0.2)
        np.testing.assert_array_equal(changed.noise, BOX)


def test_noise_rows_are_drawn_within_the_box(rng):
    params = _params(rng, FAMILIES[0])
    rows, labels = draw_rows(params, 20_000, rng)

    assert np.mean(labels == -1) == pytest.approx(0.2, abs=0.02)
    stray = rows[labels == -1]
    assert np.all((stray >= BOX[0]) & (stray <= BOX[1]))


def test_it_finds_stray_rows_and_bic_prefers_it(rows):
    without_noise = sg.sweep(rows, range(1, 5), "full", n_init=2)
    with_noise = sg.sweep(rows, range(1, 4), "full", n_init=2, noise=True)
    best = with_noise.best

    assert best.n_components == 2
    assert best.noise_weight_ == pytest.approx(0.2, abs=0.04)
    assert best.weights_.sum() + best.noise_weight_ == pytest.approx(1.0)
    assert best.criteria.bic < without_noise.best.criteria.bic
    assert best.params.n_parameters == 2 - 1 + 4 + 6 + 2
    assert best.icl(rows) == pytest.approx(best.criteria.icl, rel=1e-9)
    assert set(np.unique(best.predict(rows))) == {-1, 0, 1}


def test_it_is_saved_scored_and_reported(demo_folder, tmp_path):
    data = sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"])
    model = sg.fit(data, 3, noise=True)
    sg.save_model(model, tmp_path / "m.gmm")
    back = sg.load_model(tmp_path / "m.gmm")
    assert back.digest == model.digest
    assert back.noise_weight_ == model.noise_weight_

    result = sg.score(back, data, tmp_path / "scored")
    table = ds.dataset(tmp_path / "scored").to_table()
    component, noise = table["component"].to_numpy(), table["proba_noise"].to_numpy()
    proba = np.column_stack([table[f"proba_{k}"].to_numpy() for k in range(3)])
    np.testing.assert_allclose(proba.sum(axis=1) + noise, 1.0)
    assert result.manifest["noise_rows"] == np.sum(component == -1)
    assert sum(result.component_rows) + result.manifest["noise_rows"] == 20_000


def test_noise_works_with_executors_mini_batches_and_bootstrap(rows):
    a, b = (sg.fit(rows, 2, noise=True, client=e) for e in (SerialExecutor(), ThreadsExecutor(3)))
    np.testing.assert_array_equal(a.means_, b.means_)
    small = sg.fit(rows, 2, noise=True, algorithm="minibatch", max_passes=2)
    assert 0.0 < small.noise_weight_ < 0.5
    sure = sg.bootstrap(a, rows, replicates=5)
    assert np.std([p.noise_weight for p in sure.replicates]) > 0.0
    estimator = sg.GaussianMixture(2, noise=True).fit(rows)
    assert estimator.result_.noise_weight_ > 0.1


def test_an_invalid_noise_component_is_refused():
    means, covariances = np.zeros((1, 2)), np.eye(2)[None]
    with pytest.raises(ConfigError, match="no volume"):
        MixtureParams([0.5], means, covariances, FAMILIES[0], [[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ConfigError, match="nothing for the noise"):
        MixtureParams([1.5], means, covariances, FAMILIES[0], BOX)
    nothing: Any = None
    with pytest.raises(ConfigError, match="not defined for mixtures with a noise component"):
        ratio_test(nothing, 1, "full", Settings(noise=True), SerialExecutor())


def test_noise_without_weight_is_still_a_component(rng):
    params = random_params(rng, 2, 2, FAMILIES[0])
    empty = MixtureParams(params.weights / params.weights.sum(), params.means, params.covariances, FAMILIES[0], BOX)
    rows = rng.normal(size=(50, 2))
    scores = score_rows(compile_density(empty), rows)

    assert len(scores.noise) == 50
    np.testing.assert_allclose(scores.log_density, score_rows(compile_density(params), rows).log_density)
