"""Variational inference: scikit-learn's numbers from the same start, and the same posterior from files."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.mixture import BayesianGaussianMixture as Theirs

import stream_gmm as sg
from stream_gmm.errors import ConfigError, ConvergenceWarning
from tests.oracles import rows_of, standardised

TYPES = ["full", "tied", "diag", "spherical"]
PRIORS = ["dirichlet_process", "dirichlet_distribution"]
ATTRIBUTES = (
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "mean_precision_",
    "degrees_of_freedom_", "weight_concentration_", "weight_concentration_prior_", "mean_precision_prior_",
    "mean_prior_", "degrees_of_freedom_prior_", "covariance_prior_",
)  # fmt: skip


@pytest.fixture(scope="module")
def iris():
    return standardised(rows_of("iris"))


def _compare(ours, theirs, rows):
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    np.testing.assert_allclose(ours.lower_bounds_, np.ravel(theirs.lower_bounds_), rtol=1e-8)
    for name in ATTRIBUTES:
        expected = np.asarray(getattr(theirs, name))
        assert np.shape(getattr(ours, name)) == expected.shape, name
        np.testing.assert_allclose(getattr(ours, name), expected, rtol=1e-8, atol=1e-8, err_msg=name)
    np.testing.assert_array_equal(ours.predict(rows), theirs.predict(rows))
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), atol=1e-8)
    np.testing.assert_allclose(ours.score_samples(rows), theirs.score_samples(rows), rtol=1e-8, atol=1e-8)
    assert ours.score(rows) == pytest.approx(theirs.score(rows), rel=1e-8)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_it_gives_the_numbers_of_scikit_learn(name, kind, init_params, iris):
    options = {
        "n_components": 4, "covariance_type": name, "weight_concentration_prior_type": kind, "random_state": 1,
        "init_params": init_params, "max_iter": 300, "tol": 1e-5,
    }  # fmt: skip
    _compare(sg.BayesianGaussianMixture(**options).fit(iris), Theirs(**options).fit(iris), iris)


@pytest.mark.parametrize(
    ("name", "covariance"), [("full", np.eye(4)), ("tied", 2.0 * np.eye(4)), ("diag", np.ones(4)), ("spherical", 0.5)]
)
def test_priors_can_be_given(name, covariance, iris):
    options = {
        "n_components": 3, "covariance_type": name, "covariance_prior": covariance,
        "mean_prior": [0.5, 0.0, 0.0, -1.0],
        "mean_precision_prior": 2.5, "degrees_of_freedom_prior": 6.5, "weight_concentration_prior": 0.3,
        "reg_covar": 1e-3, "n_init": 3, "random_state": 0, "max_iter": 300,
    }  # fmt: skip
    _compare(sg.BayesianGaussianMixture(**options).fit(iris), Theirs(**options).fit(iris), iris)


def test_a_fit_goes_on_from_an_earlier_one(iris):
    options: dict[str, Any] = {"n_components": 3, "max_iter": 5, "warm_start": True, "random_state": 0, "tol": 1e-9}
    ours, theirs = sg.BayesianGaussianMixture(**options), Theirs(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            _compare(ours.fit(iris), theirs.fit(iris), iris)


@pytest.mark.parametrize("kind", PRIORS)
def test_files_give_the_posterior_of_rows_in_memory(kind, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.permutation(rng.normal(size=(3000, 2)) + 8.0 * np.repeat([[0, 0], [1, 0], [0, 1]], 1000, axis=0))
    for i in range(3):
        part = rows[1000 * i : 1000 * (i + 1)]
        pq.write_table(pa.table({"a": part[:, 0], "b": part[:, 1]}), tmp_path / f"{i}.parquet", row_group_size=300)
    options = {"weight_concentration_prior_type": kind, "random_state": 0, "tol": 1e-6, "max_iter": 300}
    memory = sg.BayesianGaussianMixture(3, **options).fit(rows)
    files = sg.BayesianGaussianMixture(3, sample_rows=500, **options).fit(tmp_path)

    np.testing.assert_allclose(np.sort(files.means_, axis=0), np.sort(memory.means_, axis=0), atol=1e-3)
    pairs = set(zip(files.predict(tmp_path).tolist(), memory.predict(rows).tolist(), strict=True))
    assert len(pairs) == 3
    assert files.feature_names_in_.tolist() == ["a", "b"]
    assert files.lower_bound_ == pytest.approx(memory.lower_bound_, rel=1e-3)


def test_components_that_are_not_needed_get_no_weight():
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) + 9.0])
    gm = sg.BayesianGaussianMixture(6, weight_concentration_prior=1e-3, max_iter=1000, random_state=0).fit(rows)

    assert (gm.weights_ > 0.01).sum() == 2
    drawn, components = gm.sample(1000)
    assert drawn.shape == (1000, 2)
    assert len(np.unique(components)) == 2


def test_weights_count_rows(iris):
    weights = np.arange(150) % 3
    repeated = np.repeat(iris, weights, axis=0)
    one, other = (sg.BayesianGaussianMixture(1, max_iter=50) for _ in range(2))
    one.fit(iris, sample_weight=weights)
    other.fit(repeated)

    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-10)
    assert one.score(iris, sample_weight=weights) == pytest.approx(other.score(repeated))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"covariance_type": "VEV"}, "unknown covariance_type 'VEV'"),
        ({"weight_concentration_prior_type": "dirichlet"}, "did you mean 'dirichlet_"),
        ({"weight_concentration_prior": 0.0}, "weight_concentration_prior must be positive"),
        ({"degrees_of_freedom_prior": 3.0}, "should be greater than 3, but got 3.000"),
        ({"covariance_prior": np.eye(3)}, r"'full covariance_prior' should have the shape of \(4, 4\)"),
        ({"covariance_prior": -np.eye(4)}, "should be symmetric, positive-definite"),
        ({"mean_prior": [0.0]}, r"'means' should have the shape of \(4,\)"),
        ({"tol": None}, "tol must be a number"),
    ],
)
def test_a_wrong_parameter_is_named(params, message, iris):
    with pytest.raises(ConfigError, match=message):
        sg.BayesianGaussianMixture(**params).fit(iris)


def test_a_fit_that_has_not_converged_warns(iris):
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        sg.BayesianGaussianMixture(3, max_iter=2).fit(iris)
