"""mclust's conjugate prior: its published formulas, the posterior's mode, and EM that climbs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import minimize
from scipy.stats import invgamma, invwishart, multivariate_normal

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.em import EMState, Scheme, StopRule, run_to_end
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.mstep.prior import STRUCTURES, ConjugatePrior
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.errors import ConfigError
from tests.oracles import rows_of
from tests.strategies import random_params, random_stats, seeds


def _setting(seed, name, k=3, d=2, n=200):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * [1.0, 3.0][:d] + rng.integers(k, size=n)[:, None] * 2.0
    family = family_named(name)
    stats = InMemoryEStep(rows, Scaling.of_rows(rows)).evaluate(random_params(rng, k, d, family))
    return rows, stats, family


@pytest.mark.parametrize("name", STRUCTURES)
def test_estimates_are_the_formulas_of_fraley_and_raftery(name):
    """Written out from mclust's documentation, with its default values."""
    rows, stats, family = _setting(1, name)
    n, d, k = len(rows), 2, 3
    prior = ConjugatePrior.of(collect_moments(rows))
    params, _ = mstep(stats, family, prior)
    cov, mu, kappa, nu = np.cov(rows.T), rows.mean(0), 0.01, d + 2
    n_k, mean = stats.weight, stats.mean
    expected_means = (n_k[:, None] * mean + kappa * mu) / (n_k + kappa)[:, None]
    np.testing.assert_allclose(params.means, expected_means)
    np.testing.assert_allclose(params.weights, n_k / n)

    delta = mean - mu
    shrunk = (kappa * n_k / (kappa + n_k))[:, None] * delta
    scale, pooled = k ** (-2 / d) * np.diagonal(cov).mean(), k ** (-2 / d) * cov
    w, s = stats.scatter, family.moments
    if name == "full":
        expected = np.array([
            (pooled + w[j] + np.outer(shrunk[j], delta[j])) / (nu + n_k[j] + d + 2) for j in range(k)
        ])  # fmt: skip
    elif name == "tied":
        expected = (pooled + w[0] + shrunk.T @ delta) / (nu + n + k + d + 1)
    elif name == "diag":
        expected = (scale + w + shrunk * delta) / (nu + n_k + 3)[:, None]
    elif name == "spherical":
        traces = d * w[:, 0] + (shrunk * delta).sum(1)
        expected = (scale + traces) / (nu + (n_k + 1) * d + 2)
    elif name == "tied_diag":
        expected = (scale + w.sum(0) + (shrunk * delta).sum(0)) / (nu + n + k + 2)
    else:
        expected = (scale + d * w.sum() + (shrunk * delta).sum()) / (nu + (n + k) * d + 2)
    np.testing.assert_allclose(params.covariances, expected, rtol=1e-9)
    assert s is stats.moments


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_value_is_the_log_density_of_the_prior(name):
    """Up to a constant: differences between two mixtures, by scipy's laws."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(100, 2)) * [1.0, 2.0]
    prior, family = ConjugatePrior.of(collect_moments(rows)), family_named(name)
    mixtures = [random_params(rng, 3, 2, family) for _ in range(2)]
    ours, theirs = ([f(p) for p in mixtures] for f in (prior.value, lambda p: _log_prior(p, prior)))

    assert ours[0] - ours[1] == pytest.approx(theirs[0] - theirs[1], rel=1e-8)


def _log_prior(params, prior):
    k, d = params.means.shape
    out = sum(
        multivariate_normal.logpdf(m, prior.mean, c / 0.01)
        for m, c in zip(params.means, params.dense_covariances, strict=True)
    )
    own = params.dense_covariances[:1] if params.family.shared else params.dense_covariances
    scale = k ** (-2 / d) * np.diagonal(prior.covariance).mean()
    for c in own:
        if params.family.matrices:
            out += invwishart.logpdf(c, d + 2, k ** (-2 / d) * prior.covariance)
        else:
            variances = np.diagonal(c)
            single = params.family.name in ("spherical", "tied_spherical")
            variances = variances[:1] if single else variances
            out += invgamma.logpdf(variances, (d + 2) / 2, scale=scale / 2).sum()
    return out


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_step_reaches_the_mode(name):
    """No change of means or covariances gives a larger penalised expected log-likelihood."""
    rows, stats, family = _setting(2, name)
    prior = ConjugatePrior.of(collect_moments(rows))
    best, _ = mstep(stats, family, prior)

    def value(params):
        # Expected complete log-likelihood, by the statistics, without the prior's preparation.
        out = prior.value(params)
        for j in range(3):
            delta = stats.mean[j] - params.means[j]
            matrices = family.moments.dense(stats.scatter)
            own = matrices[j] if len(matrices) == 3 else None
            c = params.dense_covariances[j]
            inverse = np.linalg.inv(c)
            scatter = stats.weight[j] * np.outer(delta, delta) + (own if own is not None else 0.0)
            out += -0.5 * stats.weight[j] * np.linalg.slogdet(c)[1] - 0.5 * np.sum(inverse * scatter)
            if own is None:
                out -= 0.5 * np.sum(inverse * matrices[0]) / 3.0
        return out

    top = value(best)
    rng = np.random.default_rng(0)
    for _ in range(40):
        step = 1e-3 * rng.normal()
        assert value(replace_covariances(best, best.covariances * (1.0 + step))) <= top + 1e-9
        assert value(replace_means(best, best.means + 1e-3 * rng.normal(size=(3, 2)))) <= top + 1e-9
    found = minimize(lambda t: -value(replace_covariances(best, best.covariances * np.exp(t[0]))), [0.2])
    assert abs(found.x[0]) < 1e-4


def replace_covariances(params, covariances):
    return MixtureParams(params.weights, params.means, covariances, params.family)


def replace_means(params, means):
    return MixtureParams(params.weights, means, params.covariances, params.family)


@pytest.mark.parametrize("name", STRUCTURES)
def test_em_climbs_and_no_component_collapses(name):
    rows = np.concatenate([rows_of("faithful"), np.tile([[3.0, 60.0]], (20, 1))])  # an atom
    prior, scaling = ConjugatePrior.of(collect_moments(rows)), Scaling.of_rows(rows)
    start = MixtureParams.from_matrices(
        np.array([0.4, 0.4, 0.2]), np.array([[2.0, 55.0], [4.3, 80.0], [3.0, 60.0]]),
        np.tile(np.eye(2), (3, 1, 1)) if family_named(name).matrices else np.ones((3, 2)), family_named(name),
    )  # fmt: skip
    scheme, values = Scheme(StopRule(1e-10, 300), prior), []
    estep = InMemoryEStep(rows, scaling)
    run_to_end([EMState(start)], estep, scheme, lambda s: values.append(scheme.objective(*s[0].accepted_point)))

    assert np.all(np.diff(values) >= -1e-10)
    fitted = sg.fit(rows, 3, name, prior="mclust")
    assert fitted.converged_
    assert not fitted.reason


@given(seeds)
def test_the_prior_vanishes_with_many_rows(rng):
    stats = random_stats(np.random.default_rng(rng if isinstance(rng, int) else 0), 2, 2, family_named("full"))
    stats = replace(stats, weight=stats.weight + 1.0)
    prior = ConjugatePrior(np.zeros(2), np.eye(2))
    many = stats.scale(1e9)
    with_prior, without = mstep(many, family_named("full"), prior)[0], mstep(many, family_named("full"))[0]
    np.testing.assert_allclose(with_prior.means, without.means, atol=1e-6)


def test_every_interface_takes_the_prior(demo_folder):
    data = sg.open_dataset(demo_folder, columns=["x0", "x1"])
    model = sg.fit(data, 3, prior="mclust")
    assert model.provenance["prior"] == "mclust"
    swept = sg.sweep(rows_of("iris"), [1, 2, 3], ["full", "diag"], prior="mclust")
    assert swept.best.converged_
    estimator = sg.GaussianMixture(2, prior="mclust").fit(rows_of("iris"))
    assert estimator.result_.provenance["prior"] == "mclust"


def test_wrong_requests_are_refused():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(ConfigError, match="exclude each other"):
        sg.fit(rows, 1, prior="mclust", reg_covar=1e-6)
    with pytest.raises(ConfigError, match="not for VEV"):
        sg.sweep(rows, 2, ["full", "VEV"], prior="mclust")
    with pytest.raises(ConfigError, match="prior must be none or mclust"):
        sg.fit(rows, 1, prior="bayes")
