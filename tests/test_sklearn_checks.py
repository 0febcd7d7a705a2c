"""scikit-learn's own checks of estimators, and its tools: pipelines, searches, routing, copies."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from sklearn import exceptions
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as Theirs
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import stream_gmm as sg
from stream_gmm.errors import ConfigError, ConvergenceWarning, InputDataError, NotFittedError
from stream_gmm.execute.threads import ThreadsExecutor
from tests.oracles import rows_of, standardised

pd = pytest.importorskip("pandas")

# With all 32 candidates of the default grid, weighted and repeated rows (15 in 30 columns) are seeded differently.
SELECTOR = sg.GaussianMixtureSelector((1, 2), covariance_type=("spherical", "full"))
TYPES = ["full", "tied", "diag", "spherical"]


AS_IN_SCIKIT_LEARN = sg.GaussianMixture(2, algorithm="em", init_params="kmeans", tol=1e-3, reg_covar=1e-6)


def _expected_failures(estimator):
    """Nothing fails with the defaults. k-means draws rows by number, so that repeated rows give another start."""
    if estimator is not AS_IN_SCIKIT_LEARN:
        return {}
    return {"check_sample_weight_equivalence_on_dense_data": "k-means of repeated rows draws other seeds"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::stream_gmm.errors.ConvergenceWarning")
@parametrize_with_checks(
    [sg.GaussianMixture(), AS_IN_SCIKIT_LEARN, SELECTOR, sg.OnlineGaussianMixture(), sg.BayesianGaussianMixture()],
    expected_failed_checks=_expected_failures,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    return standardised(rows_of("iris"))


@pytest.mark.parametrize(
    "estimator", [sg.GaussianMixture(4, random_state=0), SELECTOR, sg.OnlineGaussianMixture(2)], ids=repr
)
def test_it_works_at_the_end_of_a_pipeline(estimator, iris):
    frame = pd.DataFrame(10.0 * iris, columns=list("abcd"))
    for output in ("default", "pandas"):
        pipeline = make_pipeline(StandardScaler(), estimator).set_output(transform=output).fit(frame)
        alone = clone(estimator).fit(StandardScaler().fit_transform(frame))
        np.testing.assert_array_equal(pipeline.predict(frame), alone.predict(StandardScaler().fit_transform(frame)))
        assert pipeline.score(frame) == pytest.approx(alone.score(StandardScaler().fit_transform(frame)))
        assert hasattr(pipeline[-1], "feature_names_in_") == (output == "pandas")
    assert "GaussianMixture" in pipeline._repr_html_()


def test_a_grid_search_finds_the_model_of_highest_likelihood(iris):
    grid = {"n_components": [1, 2, 3], "covariance_type": ["full", "spherical"]}
    folds = KFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(sg.GaussianMixture(random_state=0), grid, cv=folds).fit(iris)
    theirs = GridSearchCV(Theirs(random_state=0), grid, cv=folds).fit(iris)

    assert search.best_score_ >= theirs.best_score_ - 0.05
    assert search.best_params_["covariance_type"] == "full"
    scores = cross_val_score(sg.GaussianMixture(1), iris, cv=3)
    np.testing.assert_allclose(scores, cross_val_score(Theirs(1), iris, cv=3), atol=1e-3)


def test_weights_are_routed(iris):
    weights = np.arange(150) % 3.0
    with sklearn.config_context(enable_metadata_routing=True):
        mixture = sg.GaussianMixture(1).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), mixture)
        pipeline.fit(iris, sample_weight=weights)
        score = pipeline.score(iris, sample_weight=weights)
    alone = sg.GaussianMixture(1).fit(StandardScaler().fit_transform(iris), sample_weight=weights)
    np.testing.assert_array_equal(pipeline[-1].means_, alone.means_)
    assert score == alone.score(StandardScaler().fit_transform(iris), sample_weight=weights)
    assert alone.fit_predict(iris, sample_weight=weights).shape == (150,)


@pytest.mark.parametrize(
    "estimator", [sg.GaussianMixture(2), SELECTOR, sg.OnlineGaussianMixture(2, half_life=500)], ids=repr
)
def test_it_is_copied_and_shown(estimator, iris):
    fitted = clone(estimator).fit(iris)
    again = pickle.loads(pickle.dumps(fitted))

    np.testing.assert_array_equal(again.predict_proba(iris), fitted.predict_proba(iris))
    assert clone(fitted).get_params() == estimator.get_params()
    assert type(fitted).__name__ in fitted._repr_html_()
    with pytest.raises(exceptions.NotFittedError, match="instance is not fitted yet"):
        clone(fitted).predict(iris)
    with pytest.raises(NotFittedError, match="instance is not fitted yet"):
        clone(fitted).score(iris)


@pytest.mark.parametrize("name", TYPES)
def test_plain_em_makes_the_steps_of_scikit_learn(name, iris):
    theirs = Theirs(3, covariance_type=name, random_state=5).fit(iris)
    ours = sg.GaussianMixture(
        3, covariance_type=name, random_state=5, init_params="kmeans", algorithm="em", tol=1e-3, reg_covar=1e-6,
    ).fit(iris)  # fmt: skip
    n = theirs.n_iter_

    assert ours.n_iter_ >= n  # a small last step does not end it
    np.testing.assert_allclose(ours.lower_bounds_[:n], theirs.lower_bounds_, rtol=0.0, atol=1e-9)
    stopped = clone(ours).set_params(max_iter=n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        stopped.fit(iris)
    for attribute in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(stopped, attribute), getattr(theirs, attribute), atol=1e-8)
    np.testing.assert_array_equal(stopped.predict(iris), theirs.predict(iris))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_the_starts_are_those_of_scikit_learn(name, init_params, iris):
    options = {"covariance_type": name, "init_params": init_params, "max_iter": 0, "random_state": 3}
    theirs = Theirs(3, **options).fit(iris)
    ours = sg.GaussianMixture(3, reg_covar=1e-6, **options).fit(iris)

    np.testing.assert_allclose(ours.means_, theirs.means_, atol=1e-9)
    np.testing.assert_allclose(ours.weights_, theirs.weights_ / theirs.weights_.sum(), atol=1e-9)
    if name != "tied" or init_params in ("kmeans", "random"):
        # With one row in each component, scikit-learn's tied covariance counts the rows that are in none.
        np.testing.assert_allclose(ours.precisions_cholesky_, theirs.precisions_cholesky_, rtol=1e-6, atol=1e-9)


def test_starts_of_files_come_from_the_sample(demo_folder):
    data = sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"])
    best = sg.GaussianMixture(3, random_state=0).fit(data)
    ours = sg.GaussianMixture(3, init_params="kmeans", n_init=3, sample_rows=2000, random_state=0).fit(data)

    assert ours.lower_bound_ == pytest.approx(best.lower_bound_, abs=1e-3)


def test_a_random_state_of_any_kind_is_taken(iris):
    expected = sg.GaussianMixture(3, random_state=7).fit(iris).means_
    np.testing.assert_array_equal(sg.GaussianMixture(3, random_state=np.int64(7)).fit(iris).means_, expected)
    for state in (np.random.RandomState(7), np.random.default_rng(7)):
        gm = sg.GaussianMixture(random_state=state).set_params(n_components=np.int64(3)).fit(iris)
        assert gm.sample(10)[0].shape == (10, 4)
    np.testing.assert_array_equal(
        sg.GaussianMixture(3).fit(iris).means_, sg.GaussianMixture(3, random_state=0).fit(iris).means_
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_components": None}, "n_components must be a whole number of at least 1, not None"),
        ({"n_components": 2.0}, "n_components must be a whole number"),
        ({"n_components": True}, "n_components must be a whole number"),
        ({"max_iter": -1}, "max_iter must be a whole number of at least 0"),
        ({"tol": "small"}, "tol must be None or a finite number"),
        ({"reg_covar": -1.0}, "reg_covar must be None or a finite number of at least 0"),
        ({"random_state": "seed"}, "random_state must be None, a whole number"),
        ({"random_state": -1}, "random_state must be None, a whole number"),
        ({"init_params": "k-mean"}, "did you mean 'kmeans'"),
        ({"covariance_type": None}, "covariance_type must be the name of a structure"),
        ({"covariance_type": "ful"}, "did you mean 'full'"),
        ({"means_init": [[0.0]]}, r"'means' should have the shape of \(1, 4\), but got \(1, 1\)"),
        ({"weights_init": [0.5]}, r"should be normalized, but got sum\(weights\) = 0.5"),
        ({"precisions_init": -np.eye(4)[None]}, "'full precision' should be symmetric, positive-definite"),
    ],
)
def test_a_wrong_parameter_is_named(params, message, iris):
    with pytest.raises(ConfigError, match=message):
        sg.GaussianMixture(**params).fit(iris)


def test_a_fit_that_has_not_converged_warns_as_in_scikit_learn(iris):
    for kind in (exceptions.ConvergenceWarning, ConvergenceWarning):
        with pytest.warns(kind, match="did not converge.*stopped at max_iter"):
            sg.GaussianMixture(3, algorithm="em", max_iter=1, sample_rows=30).fit(iris)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sg.GaussianMixture(3).fit(iris)


def test_names_of_columns_are_remembered_and_forgotten(iris):
    frame = pd.DataFrame(iris, columns=list("abcd"))
    gm = sg.GaussianMixture(2).fit(frame)
    assert gm.feature_names_in_.tolist() == list("abcd")
    np.testing.assert_array_equal(gm.predict(frame[list("dbca")]), gm.predict(frame))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but GaussianMixture was fitted with"):
        gm.predict(iris)
    gm.fit(iris)
    assert not hasattr(gm, "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but GaussianMixture was fitted without"):
        gm.predict(frame)
    numbered = pd.DataFrame(iris)
    gm.fit(numbered)
    assert not hasattr(gm, "feature_names_in_")
    np.testing.assert_array_equal(gm.predict(numbered[[3, 1, 2, 0]]), gm.predict(numbered))


def test_verbose_fits_print_their_steps(iris, capsys):
    sg.GaussianMixture(3, algorithm="em", sample_rows=30, verbose=2, verbose_interval=2).fit(iris)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  Iteration 2\t log-likelihood -")
    assert [int(line.split()[1]) for line in lines] == list(range(2, 2 * len(lines) + 1, 2))


def test_the_selector_is_the_sweep(iris):
    selector = sg.GaussianMixtureSelector(range(1, 4), covariance_type="full", criterion="icl", random_state=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        selector.fit(iris)
    sweep = sg.sweep(iris, range(1, 4), "full", criterion="icl", random_state=2)

    assert selector.n_components_ == sweep.best.n_components
    assert selector.covariance_type_ == "full"
    assert selector.results_.table.column_names == sweep.table.column_names
    assert selector.best_estimator_.n_components == selector.n_components_
    np.testing.assert_array_equal(selector.predict(iris), sweep.best.predict(iris))
    np.testing.assert_array_equal(selector.best_estimator_.predict_proba(iris), selector.predict_proba(iris))
    assert selector.icl(iris) == pytest.approx(sweep.best.criteria.icl)
    with pytest.raises(ConfigError, match="n_components must be one value or several"):
        selector.set_params(n_components=None).fit(iris)


def test_a_stream_can_be_fitted_at_once_and_go_on(iris):
    few = sg.OnlineGaussianMixture(2, random_state=0).fit(iris)
    assert few.rows_seen_ == 150
    assert few.fit(iris).rows_seen_ == 150
    few.partial_fit(iris)
    assert few.rows_seen_ == 300
    assert few.score(iris) == pytest.approx(sg.GaussianMixture(2).fit(iris).score(iris), abs=0.1)
    with pytest.raises(InputDataError, match="Expected n_samples >= n_components"):
        sg.OnlineGaussianMixture(3).fit(iris[:2])


def test_copies_share_the_client(iris):
    executor = ThreadsExecutor(2)
    gm = sg.GaussianMixture(2, client=executor).fit(iris)
    with sklearn.config_context(enable_metadata_routing=True):
        gm.set_fit_request(sample_weight=True)

    assert clone(gm).client is executor
    assert clone(gm).get_metadata_routing().fit.requests == {"sample_weight": True}
    assert pickle.loads(pickle.dumps(gm)).client is None
    assert cross_val_score(gm, iris, cv=3).shape == (3,)
