"""Columns go by name wherever they have names; weights and left-out rows count where they should.

The right values come from scikit-learn, from arrays in the right order, and from repeated rows.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.mixture import GaussianMixture as SkGaussianMixture

import stream_gmm as sg
from stream_gmm.errors import ConfigError, InputDataError

pd = pytest.importorskip("pandas")

NAMES = ["height", "weight", "age"]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    one = rng.normal(size=(300, 3)) * np.array([1.0, 5.0, 0.3]) + np.array([10.0, 100.0, 0.0])
    other = rng.normal(size=(200, 3)) + np.array([0.0, 50.0, 9.0])
    return np.vstack([one, other])[rng.permutation(500)]


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("by-name")
    for i in range(2):
        part = slice(250 * i, 250 * (i + 1))
        columns = {n: rows[part, j] for j, n in enumerate(NAMES)}
        pq.write_table(pa.table({**columns, "w": np.arange(500)[part] % 3}), out / f"{i}.parquet", row_group_size=60)
    return out


@pytest.fixture(scope="module")
def fitted(folder):
    return sg.GaussianMixture(2, random_state=0).fit(sg.open_dataset(folder, columns=NAMES))


def _views(rows, folder):
    """The same rows with their columns in other orders, and with others beside them."""
    turned = pd.DataFrame(rows, columns=NAMES)[["age", "height", "weight"]]
    return {
        "dataset": sg.open_dataset(folder, columns=["age", "weight", "height"]),
        "dataset with more columns": sg.open_dataset(folder, columns=["w", "age", "weight", "height"]),
        "path": folder,
        "frame": turned,
        "frame with more columns": turned.assign(other="text"),
        "table": pa.Table.from_pandas(turned),
    }


@pytest.mark.parametrize(
    "view", ["dataset", "dataset with more columns", "path", "frame", "frame with more columns", "table"]
)
def test_the_estimator_takes_columns_by_name(fitted, rows, folder, view):
    theirs = SkGaussianMixture(2)
    theirs.weights_, theirs.means_, theirs.covariances_ = fitted.weights_, fitted.means_, fitted.covariances_
    theirs.precisions_cholesky_ = fitted.precisions_cholesky_
    X = _views(rows, folder)[view]

    np.testing.assert_array_equal(fitted.predict(X), theirs.predict(rows))
    np.testing.assert_allclose(fitted.predict_proba(X), theirs.predict_proba(rows), atol=1e-9)
    np.testing.assert_allclose(fitted.score_samples(X), theirs.score_samples(rows), rtol=1e-9)
    assert fitted.score(X) == pytest.approx(theirs.score(rows), rel=1e-9)
    assert fitted.bic(X) == pytest.approx(theirs.bic(rows), rel=1e-9)
    assert fitted.aic(X) == pytest.approx(theirs.aic(rows), rel=1e-9)
    assert fitted.icl(X) == pytest.approx(theirs.bic(rows) - 2 * np.log(theirs.predict_proba(rows).max(1)).sum())


def test_tables_and_frames_are_fitted_by_name(rows):
    frame = pd.DataFrame(rows, columns=NAMES)
    expected = sg.GaussianMixture(2).fit(rows)
    for X in (frame, pa.Table.from_pandas(frame), frame.rename(columns=dict(zip(NAMES, range(3), strict=True)))):
        gm = sg.GaussianMixture(2).fit(X)
        np.testing.assert_array_equal(gm.means_, expected.means_)
        assert gm.predict(X).shape == (500,)
    with pytest.raises(InputDataError, match="column 'name' cannot be read as numbers"):
        sg.GaussianMixture(2).fit(frame.assign(name="text"))


def test_a_lacking_column_is_an_error(fitted, rows, folder):
    with pytest.raises(InputDataError, match=r"opened with \['age', 'height'\]; \['weight'\] are missing"):
        fitted.predict(sg.open_dataset(folder, columns=["age", "height"]))
    with pytest.raises(InputDataError, match=r"lacks columns \['weight'\]"):
        fitted.predict(pd.DataFrame(rows[:, :2], columns=["age", "height"]))
    with pytest.raises(InputDataError, match="X has 2 features, but GaussianMixture is expecting 3"):
        fitted.predict(rows[:, :2])


def test_the_bootstrap_reads_by_name(fitted, folder, rows):
    turned = sg.open_dataset(folder, columns=["weight", "age", "height"])
    one, other = (sg.bootstrap(fitted, data, 10) for data in (sg.open_dataset(folder, columns=NAMES), turned))
    np.testing.assert_array_equal(one.means_se, other.means_se)
    assert (one.means_se > 0).all()
    # The standard error of a mean of well separated components, sd / sqrt(n).
    sizes = np.bincount(fitted.predict(rows))
    expected = np.sqrt(np.einsum("kjj->kj", fitted.covariances_) / sizes[:, None])
    assert (np.abs(np.log(one.means_se / expected)) < 1.0).all()

    rival = sg.fit(turned, 1)
    with pytest.raises(ConfigError, match="a rival has the columns"):
        sg.bootstrap(fitted, turned, 2, rivals=[rival])


def test_a_start_from_a_model_is_matched_by_name(fitted, folder):
    turned = sg.open_dataset(folder, columns=["weight", "age", "height"])
    again = sg.fit(turned, 2, init=fitted.result_, max_passes=1)

    assert again.columns == tuple(NAMES)
    np.testing.assert_allclose(again.means_, fitted.means_, atol=0.05)
    warm = sg.GaussianMixture(2, warm_start=True).fit(sg.open_dataset(folder, columns=NAMES)).fit(turned)
    np.testing.assert_allclose(warm.means_, fitted.means_, atol=0.05)


def test_weights_of_a_data_set_count_in_every_criterion(fitted, rows, folder):
    weights = np.arange(500) % 3
    repeated = np.repeat(rows, weights, axis=0)
    data = sg.open_dataset(folder, columns=["age", "weight", "height"], weight="w")
    for name in ("score", "bic", "aic", "icl"):
        expected = getattr(fitted, name)(repeated)
        assert getattr(fitted, name)(data) == pytest.approx(expected, rel=1e-12)
        assert getattr(fitted, name)(rows, sample_weight=weights) == pytest.approx(expected, rel=1e-12)
    assert fitted.bic(data) != pytest.approx(fitted.bic(rows), rel=1e-3)
    with pytest.raises(InputDataError, match="every weight is 0"):
        fitted.bic(rows, sample_weight=np.zeros(500))


def test_every_row_has_an_answer_where_rows_are_dropped(fitted, rows, tmp_path):
    holes = rows.copy()
    missing = np.zeros(500, dtype=bool)
    missing[[0, 3, 250, 499]] = True
    holes[missing, [0, 1, 2, 0]] = np.nan
    columns = {n: holes[:, j] for j, n in enumerate(NAMES)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=60)
    data = sg.open_dataset(tmp_path, missing="drop")

    np.testing.assert_array_equal(fitted.predict(data), np.where(missing, -2, fitted.predict(rows)))
    np.testing.assert_array_equal(np.isnan(fitted.score_samples(data)), missing)
    np.testing.assert_array_equal(fitted.score_samples(data)[~missing], fitted.score_samples(rows)[~missing])
    np.testing.assert_array_equal(np.isnan(fitted.predict_proba(data)), np.repeat(missing[:, None], 2, axis=1))
    assert fitted.score(data) == pytest.approx(fitted.score(rows[~missing]), rel=1e-12)
    assert fitted.bic(data) == pytest.approx(fitted.bic(rows[~missing]), rel=1e-12)
    assert sg.GaussianMixture(2).fit_predict(data).shape == (500,)
    with pytest.raises(InputDataError, match="row group 0, column 'height': 2 nan"):
        fitted.predict(tmp_path)


def test_streams_take_frames_by_name(rows):
    frame = pd.DataFrame(np.tile(rows, (4, 1)), columns=NAMES)
    straight = sg.OnlineGaussianMixture(2, warmup_rows=500, step_rows=500).partial_fit(frame)
    turned = sg.OnlineGaussianMixture(2, warmup_rows=500, step_rows=500, missing="drop").partial_fit(frame[:500])
    for lo in (500, 1000, 1500):
        part = frame[lo : lo + 500][["age", "height", "weight"]]
        turned.partial_fit(pa.Table.from_pandas(part, preserve_index=True) if lo == 1000 else part)

    np.testing.assert_array_equal(turned.means_, straight.means_)
    np.testing.assert_array_equal(turned.predict(frame[["age", "weight", "height"]]), straight.predict(frame))
    with pytest.raises(InputDataError, match=r"lacks columns \['age'\]"):
        turned.partial_fit(frame[["height", "weight"]])
