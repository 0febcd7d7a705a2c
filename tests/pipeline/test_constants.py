"""Columns with a single value: set aside, kept in the model, compared when rows are scored."""

from __future__ import annotations

import struct
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import multivariate_normal

import stream_gmm as sg
from stream_gmm.errors import ConfigError, InputDataError, ModelFileError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.store import models
from stream_gmm.io.store.container import unpack

pd = pytest.importorskip("pandas")


def _clusters(rng, n=900):
    centre = np.repeat([[0.0, 0.0], [6.0, 3.0]], [n // 3, n - n // 3], axis=0)
    return rng.permutation(centre + rng.normal(size=(n, 2)))


@pytest.fixture
def table(rng):
    """Two clusters in x and y; flag is 3 and mode is 1 in all rows."""
    rows = _clusters(rng)
    n = len(rows)
    return {"flag": np.full(n, 3.0), "x": rows[:, 0], "mode": np.ones(n, np.int32), "y": rows[:, 1]}


@pytest.fixture
def folder(table, write_parquet):
    return write_parquet("a.parquet", table).parent


def _same_model(one, other):
    for name in ("weights_", "means_", "covariances_", "threshold"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"holdout": 0.2},
        {"algorithm": "em", "cache": "none"},
        {"algorithm": "minibatch", "max_passes": 3},
        {"noise": True},
        {"prior": "mclust"},
        {"profile": "sample"},
        {"cache": "disk", "reg_covar": 1e-6},
    ],
    ids=str,
)
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_the_fit_is_that_of_the_other_columns(folder, options, covariance_type):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sg.errors.ConvergenceWarning)  # of mini-batches
        model = sg.fit(folder, 2, covariance_type, **options)
        alone = sg.fit(sg.open_dataset(folder, ["x", "y"]), 2, covariance_type, **options)

    assert model.columns == ("x", "y")
    assert model.input_columns == ("flag", "x", "mode", "y")
    _same_model(model, alone)
    assert model.criteria.heldout_loglik == pytest.approx(alone.criteria.heldout_loglik, rel=1e-9)
    assert "flag = 3, mode = 1" in " ".join(model.warnings)
    assert not any("constant" in w for w in alone.warnings)


def test_every_full_candidate_can_win_and_has_the_likelihood_of_scipy(folder, table):
    result = sg.sweep(folder, [1, 2], "full")
    rows = np.column_stack([table["x"], table["y"]])
    expected = multivariate_normal(rows.mean(0), np.cov(rows.T, bias=True)).logpdf(rows).sum()

    assert [row["outcome"] for row in result.table.to_pylist()] == ["CONVERGED", "CONVERGED"]
    assert result.table["loglik"][0].as_py() == pytest.approx(expected, rel=1e-9)
    assert result.best.n_components == 2
    assert any("flag = 3" in w for w in result.warnings)


def test_weights_are_not_taken_for_a_column(table, write_parquet):
    weighted = {**table, "w": np.where(np.arange(900) % 3, 1.0, 2.0)}
    folder = write_parquet("w.parquet", weighted).parent
    model = sg.fit(folder, 1, weight="w")

    rows = np.column_stack([table["x"], table["y"]])
    np.testing.assert_allclose(model.means_[0], np.average(rows, axis=0, weights=weighted["w"]), rtol=1e-12)


def test_a_row_of_weight_zero_does_not_make_a_column_vary(table, write_parquet):
    weights = np.ones(900)
    weights[5] = 0.0
    flag = table["flag"].copy()
    flag[5] = 9.0
    model = sg.fit(write_parquet("w.parquet", {**table, "flag": flag, "w": weights}).parent, 1, weight="w")

    assert [c.name for c in model.constants] == ["flag", "mode"]


@pytest.mark.parametrize("missing", [False, True])
def test_a_scored_row_with_another_value_is_an_outlier_and_says_why(table, folder, tmp_path, write_parquet, missing):
    model = sg.fit(folder, 2)
    other = {name: values.copy() for name, values in table.items()}
    other["flag"][[4, 700]] = [0.0, 2.5]
    other["mode"][9] = 7
    if missing:
        other["x"][20] = np.nan
    new = write_parquet("b.parquet", other, folder="new").parent
    result = sg.score(model, new, tmp_path / "out", missing="drop" if missing else "error")
    scored = pq.read_table(tmp_path / "out").to_pandas()

    unlike = [4, 9, 700]
    assert scored.not_scored_reason[unlike].tolist() == [
        "flag is 0, and 3 in all rows of the fit",
        "mode is 7, and 1 in all rows of the fit",
        "flag is 2.5, and 3 in all rows of the fit",
    ]
    assert scored.is_outlier[unlike].tolist() == [True] * 3
    assert scored.loc[unlike, ["component", "log_density", "proba_0", "mahalanobis_sq"]].isna().all(axis=None)
    usual = scored.drop(index=[*unlike, 20] if missing else unlike)
    features = np.column_stack([other["x"], other["y"]])[usual.index]
    np.testing.assert_array_equal(usual.log_density, model.score_samples(features))
    assert usual.not_scored_reason.isna().all()
    if missing:
        assert scored.not_scored_reason[20] == "NaN in x"
        assert pd.isna(scored.is_outlier[20])
    assert result.outliers == int(scored.is_outlier.fillna(False).sum())
    assert result.manifest["rows_not_scored"] == 3 + missing
    assert sg.score(model, new, tmp_path / "out", missing="drop" if missing else "error").already_published


def test_a_data_set_opened_without_the_constant_is_scored_without_it(folder, tmp_path, caplog):
    model = sg.fit(folder, 2)
    sg.score(model, sg.open_dataset(folder, ["x", "y"]), tmp_path / "out")

    assert "['flag', 'mode'], which the model knows as constant" in caplog.text
    assert pq.read_table(tmp_path / "out")["not_scored_reason"].null_count == 900


def test_rows_in_memory_come_with_the_constants_or_without(folder, table):
    model = sg.fit(folder, 2)
    frame = pd.DataFrame(table)
    features = frame[["x", "y"]].to_numpy()

    for rows in (frame, frame.to_numpy(), frame[["y", "x"]], features, pa.table(table)):
        np.testing.assert_array_equal(model.score_samples(rows), model.score_samples(features))
    frame.loc[3, "flag"] = 4.0
    assert model.score_samples(frame)[3] == -np.inf
    assert model.is_outlier(frame)[3]
    assert model.is_outlier(frame).sum() == model.is_outlier(features).sum() + (not model.is_outlier(features)[3])
    assert model.predict(frame)[3] == model.predict(features)[3]
    with pytest.raises(InputDataError, match="3 columns, the model 2"):
        model.predict(features[:, [0, 1, 1]])


def test_an_array_names_its_columns_by_number(rng):
    rows = np.column_stack([np.full(900, 2.0), _clusters(rng)])
    model = sg.fit(rows, 2)

    assert model.columns == ("x1", "x2")
    assert [(c.name, c.value) for c in model.constants] == [("x0", 2.0)]
    assert not model.is_outlier(rows).all()
    assert model.is_outlier(rows + np.array([1.0, 0.0, 0.0])).all()


def test_estimators_keep_all_columns_as_scikit_learn_does(rng, folder):
    mixture = pytest.importorskip("sklearn.mixture")
    rows = np.column_stack([np.full(900, 2.0), _clusters(rng)])
    start: dict[str, Any] = {"weights_init": [0.4, 0.6], "means_init": [[2.0, 0.0, 0.0], [2.0, 6.0, 3.0]]}
    start["precisions_init"] = np.tile(np.eye(3), (2, 1, 1))
    mine = sg.GaussianMixture(2, reg_covar=1e-6, tol=1e-9, algorithm="em", **start).fit(rows)
    theirs = mixture.GaussianMixture(2, reg_covar=1e-6, tol=1e-9, max_iter=200, **start).fit(rows)

    np.testing.assert_allclose(mine.means_, theirs.means_, atol=1e-4)
    assert mine.n_features_in_ == 3
    by_name = sg.GaussianMixture(2, reg_covar=1e-6).fit(folder)
    assert by_name.means_.shape == (2, 4)
    assert by_name.predict(folder).shape == (900,)


def test_the_model_file_keeps_constants_and_older_versions_refuse_it(folder, tmp_path, rng):
    model = sg.fit(folder, 2)
    loaded = sg.load_model(sg.save_model(model, tmp_path / "m.gmm"))
    content = models.to_bytes(model)
    plain = models.to_bytes(sg.fit(_clusters(rng), 2))

    assert loaded.constants == model.constants
    assert loaded.digest == model.digest
    assert loaded.digest != sg.fit(sg.open_dataset(folder, ["x", "y"]), 2).digest
    version = struct.Struct("<I")
    assert version.unpack_from(content, len(models.MAGIC)) == (2,)
    assert version.unpack_from(plain, len(models.MAGIC)) == (1,)
    with pytest.raises(ModelFileError, match="format 2, and this version reads up to 1. upgrade"):
        unpack(content, models.MAGIC, 1, "model", lambda header, arrays: None)


def test_constant_columns_can_be_fitted_like_others(folder):
    model = sg.fit(folder, 2, constants="fit", reg_covar=1e-3)

    assert model.columns == ("flag", "x", "mode", "y")
    np.testing.assert_allclose(model.covariances_[:, 0, 0], 1e-3, rtol=1e-6)
    with pytest.raises(ConfigError, match="unknown constants 'asid'; did you mean 'aside'"):
        sg.fit(folder, constants="asid")


def test_nothing_changes_where_no_column_is_constant(rng):
    rows = _clusters(rng)
    one, other = sg.sweep(rows, [1, 2], "full").best, sg.sweep(rows, [1, 2], "full", constants="fit").best

    assert one.digest == other.digest
    assert one.history == other.history


def test_a_start_has_a_mean_for_every_column_or_for_those_that_vary(folder):
    model = sg.fit(folder, 2)
    again = sg.fit(folder, 2, init=model)
    np.testing.assert_allclose(again.means_, model.means_, atol=1e-6)
    assert again.constants == model.constants
    whole = sg.fit(folder, 2, constants="fit", reg_covar=1e-3)
    assert sg.fit(folder, 2, init=whole.params, reg_covar=1e-3).columns == whole.columns
    with pytest.raises(ConfigError, match="init has"):
        sg.fit(sg.open_dataset(folder, ["x", "y", "flag"]), 2, init=sg.fit(sg.open_dataset(folder, ["x"]), 2).params)


def test_a_sweep_resumes_from_its_ledger_with_the_same_bits(folder, tmp_path):
    first = sg.sweep(folder, [1, 2], ["full", "diag"], ledger=tmp_path / "ledger")
    second = sg.sweep(folder, [1, 2, 3], ["full", "diag"], ledger=tmp_path / "ledger")

    assert second.reused == 4
    assert second.best.digest == first.best.digest
    assert second.best.constants == first.best.constants


def test_the_bootstrap_reads_the_same_columns(folder):
    model = sg.fit(folder, 2)
    alone = sg.fit(sg.open_dataset(folder, ["x", "y"]), 2)
    errors = sg.bootstrap(model, folder, replicates=4).means_se

    assert errors.shape == (2, 2)
    np.testing.assert_allclose(errors, sg.bootstrap(alone, folder, replicates=4).means_se, rtol=1e-3)
    frame = pd.DataFrame({"flag": 3.0, "mode": 1.0, "x": np.arange(50.0), "y": 0.0})
    with pytest.raises(InputDataError, match=r"\['x'\] vary in these rows"):
        sg.bootstrap(model, frame, replicates=2)


def test_a_column_that_is_constant_only_in_the_rows_first_read_is_an_error(table, write_parquet):
    path = write_parquet("a.parquet", {k: np.tile(v, 8) for k, v in table.items()})
    flag = np.full(7200, 3.0)
    flag[7000:] = np.arange(200)
    write_parquet("a.parquet", {**pq.read_table(path).to_pydict(), "flag": flag})
    # The last row groups are among those that this seed does not draw.
    with pytest.raises(InputDataError, match="flag is .*, and 3 in all rows of the fit .*profile: full"):
        sg.fit(path, 2, profile="sample", sample_rows=60, random_state=1, client=SerialExecutor())


def test_components_are_matched_as_long_as_the_same_columns_vary(folder, table, write_parquet):
    before = sg.sweep(folder, [2], "full").best
    assert sg.sweep(folder, [2], "full", match_to=before).best.digest == before.digest
    tonight = {**table, "flag": np.random.default_rng(1).normal(size=900)}
    result = sg.sweep(write_parquet("b.parquet", tonight, folder="b").parent, [2], "full", match_to=before)

    assert "not numbered after the earlier model" in result.warnings[-1]


def test_missing_values_of_a_constant_column_count(table, write_parquet):
    flag = pa.array([None, *table["flag"][1:]])
    folder = write_parquet("a.parquet", {**table, "flag": flag}).parent
    model = sg.fit(sg.open_dataset(folder, missing="drop"), 1)

    assert model.criteria.n_rows == 899
    assert "1 of 900 rows have a missing value (flag: 1 null)." in model.warnings


@pytest.mark.slow
def test_the_bits_are_the_same_from_every_executor(folder, executor):
    data = sg.open_dataset(folder, filter="x < 7 and flag == 3")
    result = sg.sweep(data, [1, 2], ["full", "diag"], cache="none", client=executor)
    serial = sg.sweep(data, [1, 2], ["full", "diag"], cache="none", client=SerialExecutor())

    assert result.best.columns == ("x", "y")
    assert result.best.digest == serial.best.digest
    assert result.best.history == serial.best.history
