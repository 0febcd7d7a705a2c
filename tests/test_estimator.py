from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as Theirs

import stream_gmm as sg
from stream_gmm.errors import ConfigError, NotFittedError
from tests.oracles import rows_of, standardised

TYPES = ["full", "tied", "diag", "spherical"]


@pytest.mark.parametrize("name", TYPES)
def test_methods_and_attributes_agree_with_scikit_learn(name):
    rows = standardised(rows_of("iris"))
    theirs = Theirs(3, covariance_type=name, random_state=0, tol=1e-10, max_iter=3000).fit(rows)
    start = {"weights_init": theirs.weights_, "means_init": theirs.means_, "precisions_init": theirs.precisions_}
    ours = sg.GaussianMixture(3, covariance_type=name, tol=1e-10, reg_covar=1e-6, **start).fit(rows)

    for attribute in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        expected = getattr(theirs, attribute)
        assert getattr(ours, attribute).shape == expected.shape
        np.testing.assert_allclose(getattr(ours, attribute), expected, rtol=1e-3, atol=1e-4)
    assert ours.converged_
    assert ours.n_features_in_ == 4
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-7)
    assert ours.lower_bounds_[-1] == ours.lower_bound_
    assert ours.bic(rows) == pytest.approx(theirs.bic(rows), abs=1e-3)
    assert ours.aic(rows) == pytest.approx(theirs.aic(rows), abs=1e-3)
    assert ours.score(rows) == pytest.approx(theirs.score(rows), abs=1e-6)
    np.testing.assert_array_equal(ours.predict(rows), theirs.predict(rows))
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), atol=1e-4)
    np.testing.assert_allclose(ours.score_samples(rows), theirs.score_samples(rows), atol=1e-3)


@pytest.mark.parametrize("kind", ["array", "list", "frame", "table", "path", "dataset"])
def test_everything_that_holds_rows_can_be_fitted(kind, demo_folder, rng):
    names = ["x0", "x1", "x2"]
    data = sg.open_dataset(demo_folder, columns=names)
    rows = np.concatenate([c.rows for leaf in data.leaves() for c in leaf.chunks()])
    if kind == "frame":
        pandas = pytest.importorskip("pandas")
        X = pandas.DataFrame(rows, columns=names)
    else:
        X = {
            "array": rows, "list": rows[:50].tolist(), "table": rows, "path": str(demo_folder), "dataset": data,
        }[kind]  # fmt: skip
    gm = sg.GaussianMixture(2, covariance_type="diag", random_state=0).fit(X)

    labels = gm.predict(X)
    assert set(labels.tolist()) == {0, 1}
    assert gm.predict_proba(X).shape == (len(labels), 2)
    assert gm.n_features_in_ == 3
    if kind in ("frame", "dataset"):
        assert gm.feature_names_in_.tolist() == names


def test_it_clones_and_shows_its_parameters():
    gm = sg.GaussianMixture(3, covariance_type="diag", tol=1e-4)
    again = clone(gm)

    assert again.get_params() == gm.get_params()
    assert repr(gm) == "GaussianMixture(covariance_type='diag', n_components=3, tol=0.0001)"
    assert gm.set_params(n_components=4).n_components == 4
    with pytest.raises(ConfigError, match="did you mean 'n_components'"):
        gm.set_params(n_component=4)


def test_an_estimator_without_a_fit_says_so():
    with pytest.raises(NotFittedError, match="Call 'fit' with appropriate arguments"):
        sg.GaussianMixture().predict([[0.0]])


def test_fit_predict_equals_fit_then_predict():
    rows = rows_of("faithful")
    gm = sg.GaussianMixture(2, random_state=3)

    np.testing.assert_array_equal(gm.fit_predict(rows), sg.GaussianMixture(2, random_state=3).fit(rows).predict(rows))


def test_a_warm_start_continues_from_the_last_fit():
    rows = standardised(rows_of("iris"))
    gm = sg.GaussianMixture(4, algorithm="em", max_iter=1, warm_start=True, tol=1e-9, sample_rows=30).fit(rows)
    first = gm.lower_bound_
    gm.fit(rows)

    assert gm.lower_bound_ > first


def test_a_part_of_the_start_can_be_given():
    rows = rows_of("faithful")
    means = np.array([[2.0, 54.0], [4.3, 80.0]])
    gm = sg.GaussianMixture(2, means_init=means).fit(rows)

    np.testing.assert_allclose(gm.means_, means, atol=1.0)


def test_samples_come_from_the_mixture():
    gm = sg.GaussianMixture(2, random_state=0).fit(rows_of("faithful"))
    rows, labels = gm.sample(100)

    assert rows.shape == (100, 2)
    assert set(labels.tolist()) == {0, 1}


def test_a_loaded_model_scores_like_the_fitted_one(tmp_path):
    rows = rows_of("faithful")
    gm = sg.GaussianMixture(2).fit(rows)
    model = sg.load_model(sg.save_model(gm.result_, tmp_path / "m.gmm"))

    np.testing.assert_array_equal(model.predict_proba(rows), gm.predict_proba(rows))
    assert model.bic(rows) == gm.bic(rows)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_scoring_leaves_rows_as_they_are_and_gives_arrays_by_row(order, dtype, rng):
    rows = np.array(300.0 * rng.normal(size=(700, 3)), dtype=dtype, order=order)
    fitted = sg.GaussianMixture(2).fit(rows)
    before = rows.copy()
    rows.flags.writeable = False
    proba, log_density = fitted.predict_proba(rows), fitted.score_samples(rows)

    np.testing.assert_array_equal(rows, before)
    assert proba.flags.c_contiguous
    assert not np.shares_memory(proba, rows)
    np.testing.assert_array_equal(proba.argmax(axis=1), fitted.predict(rows))
    assert fitted.score(rows) == pytest.approx(log_density.mean(), rel=1e-12)
    scores = fitted.result_.scores(rows.astype(float))
    np.testing.assert_array_equal(proba, scores.proba)
    np.testing.assert_array_equal(log_density, scores.log_density)


def test_many_rows_are_scored_in_pieces_with_the_same_bits(rng, monkeypatch):
    rows = rng.normal(size=(5_000, 2)) + 4.0 * rng.integers(0, 2, size=(5_000, 1))
    fitted = sg.GaussianMixture(2).fit(rows)
    whole = fitted.predict_proba(rows), fitted.score_samples(rows), fitted.predict(rows)
    monkeypatch.setattr("stream_gmm.io.source.memory._SCORES_AT_ONCE", 7_000)
    pieces = fitted.predict_proba(rows), fitted.score_samples(rows), fitted.predict(rows)

    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one, other)
    assert fitted.bic(rows) == pytest.approx(fitted.result_.bic(rows), rel=1e-12)
