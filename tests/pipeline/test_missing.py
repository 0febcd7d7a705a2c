"""``missing: marginalise`` from the rows to the scored table."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.errors import ConfigError, InputDataError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.source.memory import as_source
from tests.cli.test_commands import run
from tests.oracles import slow_missing_em

COLUMNS = ("x0", "x1", "x2")
MARK = -200.0


def make_rows(n=600, share=0.3, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.array([[0.0, 0.0, 0.0], [5.0, 5.0, 0.0], [0.0, 6.0, 6.0]])[rng.integers(0, 3, n)]
    rows = rows + rng.normal(size=(n, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 0.7]])
    rows[rng.random(rows.shape) < share] = np.nan
    return rows


@pytest.fixture(scope="module")
def rows():
    out = make_rows()
    out[5] = np.nan
    return out


@pytest.fixture(scope="module")
def path(rows, tmp_path_factory):
    """The rows in a file: nulls in x0, NaN in x1, a sentinel in x2, and a column that passes through."""
    path = tmp_path_factory.mktemp("missing") / "rows.parquet"
    x0, x1, x2 = rows.T
    table = {
        "x0": pa.array(x0, mask=np.isnan(x0)),
        "x1": pa.array(x1),
        "x2": pa.array(np.where(np.isnan(x2), MARK, x2)),
        "row": pa.array([f"r{i}" for i in range(len(rows))]),
    }
    pq.write_table(pa.table(table), path, row_group_size=150)
    return path


@pytest.fixture(scope="module")
def model(path):
    data = sg.open_dataset(path, COLUMNS, missing="marginalise", sentinel={"x2": MARK})
    return sg.fit(data, 3, "full", client=SerialExecutor())


def start_of(name):
    matrices = np.tile(np.eye(3), (3, 1, 1))
    family = family_named(name)
    matrices = matrices if family.matrices else np.ones((3, 3))
    means = np.array([[0.0, 1.0, 0.0], [4.0, 4.0, 1.0], [1.0, 5.0, 5.0]])
    return MixtureParams.from_matrices(np.full(3, 1 / 3), means, matrices, family)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_em_makes_the_steps_of_the_slow_loop(name):
    rows, start, steps = make_rows(100), start_of(name), 5
    rows[3] = np.nan
    source = as_source(rows, missing="marginalise")
    with pytest.warns(sg.ConvergenceWarning):
        result = sg.fit(
            source, 3, name, init=start, algorithm="em", max_passes=steps, tol=0.0, reg_covar=0.0,
            client=SerialExecutor(),
        )  # fmt: skip
    history, weights, means, covariances = slow_missing_em(
        start.weights, start.means, start.dense_covariances, rows, name, steps
    )
    np.testing.assert_allclose(result.lower_bounds_[:steps], history, rtol=1e-10)
    np.testing.assert_allclose(result.weights_, weights, rtol=1e-9)
    np.testing.assert_allclose(result.means_, means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.params.dense_covariances, covariances, rtol=1e-9, atol=1e-9)
    assert result.criteria.n_rows == (~np.isnan(rows)).any(axis=1).sum()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_the_log_likelihood_never_falls_and_all_ways_lead_to_one_optimum(family):
    source, start = as_source(make_rows(300), missing="marginalise"), start_of(family.name)
    em = sg.fit(source, 3, family.name, init=start, algorithm="em", tol=1e-7, max_passes=500, client=SerialExecutor())
    assert (np.diff(em.lower_bounds_) > -1e-12).all()
    auto = sg.fit(source, 3, family.name, init=start, tol=1e-7, client=SerialExecutor())
    assert auto.lower_bound_ == pytest.approx(em.lower_bound_, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"noise": True}, {"holdout": 0.2}, {"prior": "mclust"}])
def test_without_missing_values_the_bits_are_those_of_the_plain_fit(options):
    rows = make_rows(400, share=0.0)
    plain, marginal = (
        sg.fit(as_source(rows, missing=policy), 2, "tied", client=SerialExecutor(), **options)
        for policy in ("error", "marginalise")
    )
    assert marginal.digest == plain.digest
    assert marginal.lower_bounds_ == plain.lower_bounds_


@pytest.mark.slow
def test_any_executor_gives_the_same_bits(path, dask_client):
    data = sg.open_dataset(path, COLUMNS, missing="marginalise", sentinel={"x*": MARK})
    fits = [
        sg.sweep(data, [2, 3], ["full", "tied"], client=client, sample_rows=200, cache="none")
        for client in (SerialExecutor(), ThreadsExecutor(3), dask_client)
    ]
    assert len({fit.best.digest for fit in fits}) == 1
    assert len({tuple(c.result.criteria.loglik for c in fit.candidates if c.result) for fit in fits}) == 1


def test_rows_in_files_are_those_in_memory(rows, model):
    own = sg.fit(as_source(rows, missing="marginalise"), 3, "full", client=SerialExecutor())
    np.testing.assert_array_equal(own.means_, model.means_)
    assert model.criteria.n_rows == (~np.isnan(rows)).any(axis=1).sum()
    assert any("lack some of their values" in w and "have no value at all" in w for w in model.warnings)


def test_rows_without_any_value_are_told_alone_where_no_row_lacks_some(rng):
    rows = rng.normal(size=(200, 2))
    rows[:2] = np.nan
    found = sg.fit(as_source(rows, missing="marginalise"), 1, "full", client=SerialExecutor()).warnings
    assert "2 of 200 rows have no value at all, and tell nothing." in found
    assert not any("0 of 200" in w for w in found)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_clusters_are_found_where_leaving_rows_out_has_too_few(share):
    rows = make_rows(1_500, share)
    result = sg.fit(as_source(rows, missing="marginalise"), 3, "full", n_init=2, client=SerialExecutor())
    truth = np.array([[0.0, 0.0, 0.0], [5.0, 5.0, 0.0], [0.0, 6.0, 6.0]])
    nearest = [np.abs(result.means_ - mean).max(axis=1).min() for mean in truth]
    assert max(nearest) < 0.35


def test_values_missing_at_random_do_not_bias_the_mean():
    """x1 is missing where x0 is large: rows that are left out shift the mean, EM does not."""
    rng = np.random.default_rng(1)
    x0 = rng.normal(size=4_000)
    x1 = 0.8 * x0 + 0.6 * rng.normal(size=4_000)
    rows = np.column_stack([x0, np.where(x0 > 0.0, np.nan, x1)])
    result = sg.fit(rows, 1, missing="marginalise", client=SerialExecutor())
    assert np.nanmean(rows[:, 1]) < -0.5
    assert abs(result.means_[0, 1]) < 0.06


@pytest.mark.parametrize("options", [{"algorithm": "minibatch"}, {"profile": "sample", "sample_rows": 60}])
def test_minibatches_and_a_partial_profile_take_rows_with_missing_values(path, model, options):
    data = sg.open_dataset(path, COLUMNS, missing="marginalise", sentinel={"x2": MARK})
    result = sg.fit(data, 3, "full", client=SerialExecutor(), **options)
    assert result.criteria.n_rows == model.criteria.n_rows
    assert result.lower_bound_ == pytest.approx(model.lower_bound_, abs=0.02)


def test_held_out_rows_count_by_the_values_that_they_have(rows):
    result = sg.fit(as_source(rows, missing="marginalise"), 2, "tied", holdout=0.3, client=SerialExecutor())
    fitted = result.criteria
    everything = result.evaluate_criteria(rows)
    assert fitted.n_rows + fitted.heldout_rows == everything.n_rows
    assert fitted.loglik + fitted.heldout_loglik == pytest.approx(everything.loglik, rel=1e-10)


def test_a_constant_column_with_missing_values_is_set_aside(rows, tmp_path):
    rng = np.random.default_rng(2)
    wide = np.column_stack([rows, np.where(rng.random(len(rows)) < 0.5, np.nan, 7.0)])
    result = sg.fit(wide, 2, missing="marginalise", client=SerialExecutor())
    assert [c.value for c in result.constants] == [7.0]
    assert result.criteria.n_rows == (~np.isnan(rows)).any(axis=1).sum()
    other = np.array([[0.0, 0.0, 0.0, np.nan], [0.0, 0.0, 0.0, 8.0], [0.0, np.nan, 0.0, 7.0]])
    assert np.isinf(result.score_samples(other)).tolist() == [False, True, False]


def test_a_column_without_any_value_is_refused_by_name(rows):
    with pytest.raises(InputDataError, match=r"\['x3'\] have no value in any row"):
        sg.fit(np.column_stack([rows, np.full(len(rows), np.nan)]), 2, missing="marginalise")


def test_row_weights_and_the_bootstrap_take_missing_values(rows):
    weights = np.random.default_rng(3).integers(0, 3, len(rows)).astype(float)
    source = as_source(np.repeat(rows, weights.astype(int), axis=0), missing="marginalise")
    weighted = sg.fit(rows, 2, weight=weights, missing="marginalise", client=SerialExecutor())
    repeated = sg.fit(source, 2, init=weighted.params, client=SerialExecutor())
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bounds_[0], rel=1e-10)
    again = sg.bootstrap(weighted, rows, weight=weights, replicates=3, client=SerialExecutor())
    assert (again.weights_se > 0.0).all()


def test_the_scored_table_has_scores_for_every_row_with_a_value(path, rows, model, tmp_path):
    result = sg.score(model, path, tmp_path / "scored", impute=True, client=SerialExecutor())
    table = pq.read_table(tmp_path / "scored").to_pydict()
    scores = model.scores(rows)
    empty = np.isnan(rows).all(axis=1)

    assert result.manifest["rows_scored"] == int((~empty).sum())
    assert table["row"] == [f"r{i}" for i in range(len(rows))]
    for i in range(len(rows)):
        if empty[i]:
            assert table["log_density"][i] is None
            assert table["mahalanobis_sq"][i] is None
            assert table["is_outlier"][i] is False
            assert table["not_scored_reason"][i] == "every value is missing"
            continue
        assert table["log_density"][i] == pytest.approx(scores.log_density[i], rel=1e-12)
        assert table["not_scored_reason"][i] is None
        assert table["is_outlier"][i] == bool(model.is_outlier(rows[i : i + 1])[0])
    np.testing.assert_allclose([table[f"proba_{k}"][5] for k in range(3)], model.weights_)
    mean, deviation = model.impute(rows)
    for j, name in enumerate(COLUMNS):
        np.testing.assert_allclose(table[f"{name}_imputed"], mean[:, j])
        np.testing.assert_allclose(table[f"{name}_sd"], deviation[:, j], atol=1e-12)


def test_a_model_of_complete_rows_scores_incomplete_ones_if_asked(path, tmp_path):
    model = sg.fit(make_rows(share=0.0), 3, client=SerialExecutor())
    data = sg.open_dataset(path, COLUMNS, missing="marginalise", sentinel={"x2": MARK})
    model = type(model)(**{**vars_of(model), "columns": COLUMNS})
    scored = sg.score(model, data, tmp_path / "scored", client=SerialExecutor())
    assert scored.manifest["rows_not_scored"] < 40
    with pytest.raises(InputDataError, match="missing: marginalise"):
        sg.score(model, path, tmp_path / "other", client=SerialExecutor())


def vars_of(result):
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def test_record_batches_are_scored_by_the_values_that_they_have(path, model):
    table = pq.read_table(path)
    marked = np.where(table["x2"].to_numpy() == MARK, np.nan, table["x2"].to_numpy())
    table = table.set_column(2, "x2", pa.array(marked))
    (batch,) = sg.score_batches(model, table.combine_chunks(), missing="marginalise")
    assert batch["not_scored_reason"][5].as_py() == "every value is missing"
    assert batch["log_density"].null_count == batch.num_rows - model.criteria.n_rows
    np.testing.assert_allclose(batch["proba_0"][5].as_py(), model.weights_[0])


@pytest.mark.parametrize("by", ["files", "memory"])
def test_a_missing_value_has_no_slope_where_columns_are_transformed(rows, by, tmp_path):
    """As a fit of the logarithms, with the logarithms of the slopes of the values that are there."""
    values = np.exp(rows / np.nanstd(rows))
    data, logs = values, np.log(values)
    if by == "files":
        names = [f"x{j}" for j in range(values.shape[1])]
        table = pa.table({n: pa.array(values[:, j], from_pandas=True) for j, n in enumerate(names)})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=200)
        data = sg.open_dataset(tmp_path / "a.parquet", missing="marginalise")
    given: Any = {} if by == "files" else {"missing": "marginalise"}
    found = sg.fit(data, 2, transforms="log", client=SerialExecutor(), **given)
    oracle = sg.fit(logs, 2, missing="marginalise", client=SerialExecutor())
    assert found.criteria.loglik == pytest.approx(oracle.criteria.loglik - np.nansum(logs), rel=1e-6)
    np.testing.assert_allclose(
        found.score_samples(values), oracle.score_samples(logs) - np.nansum(logs, axis=1), rtol=1e-3, atol=1e-3
    )
    if by == "files":
        scored = sg.score(found, data, tmp_path / "scored", client=SerialExecutor())
        assert scored.manifest["loglik"] == pytest.approx(found.criteria.loglik, rel=1e-9)
    # Outliers are those of the logarithms, but for slopes; slopes of missing values are those of conditional means.
    assert 0.0 < found.is_outlier(values).mean() < 0.05
    with pytest.raises(ConfigError, match="not imputed by a model of log"):
        found.impute(values)


def test_a_value_without_a_transform_is_not_missing(tmp_path):
    rows = np.exp(make_rows(100, share=0.0))
    rows[3, 0], rows[4, 0] = -1.0, np.nan
    pq.write_table(pa.table(dict(zip(COLUMNS, rows.T, strict=True))), tmp_path / "a.parquet")
    data = sg.open_dataset(tmp_path / "a.parquet", missing="marginalise")
    result = sg.fit(data, 1, transforms={"x0": "log"}, client=SerialExecutor())
    assert result.criteria.n_rows == 99
    sg.score(result, data, tmp_path / "scored", client=SerialExecutor())
    scored = pq.read_table(tmp_path / "scored").to_pydict()
    assert scored["not_scored_reason"][3] == "value of x0 without a log"
    assert scored["log_density"][3] is None
    assert scored["log_density"][4] is not None


def test_a_missing_weight_is_an_error(tmp_path):
    table = {"x": [1.0, 2.0, None], "w": [1.0, None, 2.0]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(InputDataError, match="column 'w': the weight of row 1 is missing"):
        sg.fit(sg.open_dataset(tmp_path / "a.parquet", ["x"], weight="w", missing="marginalise"), 1)


@pytest.mark.parametrize("options", [{"noise": True}, {"resolution": "auto"}, {"reg_covar": 1e-3}])
def test_noise_resolution_and_a_ridge_take_missing_values(options):
    rows = np.round(make_rows(400), 1)
    result = sg.fit(rows, 2, missing="marginalise", client=SerialExecutor(), **options)
    assert result.converged_
    assert result.evaluate_criteria(rows).loglik == pytest.approx(result.criteria.loglik, rel=1e-9)


def test_a_column_that_costs_most_of_the_lost_rows_is_named(tmp_path):
    rows = make_rows(100, share=0.0)
    few, many = rows.copy(), rows.copy()
    few[:20, 1] = np.nan
    many[:40, 1] = np.nan
    for values, told in ((few, False), (many, True)):
        pq.write_table(pa.table(dict(zip(COLUMNS, values.T, strict=True))), tmp_path / "a.parquet")
        model = sg.fit(sg.open_dataset(tmp_path / "a.parquet", missing="drop"), 2, client=SerialExecutor())
        assert any("40 of them lack x1: leave that column out" in w for w in model.warnings) == told


def test_infinities_are_no_missing_values(tmp_path):
    rows = make_rows(100)
    rows[2, 0], rows[4, 1] = np.inf, 1e200
    pq.write_table(pa.table(dict(zip(COLUMNS, rows.T, strict=True))), tmp_path / "a.parquet")
    data = sg.open_dataset(tmp_path / "a.parquet", missing="marginalise")
    result = sg.fit(data, 2, client=SerialExecutor())
    sg.score(result, data, tmp_path / "scored", client=SerialExecutor())
    reasons = pq.read_table(tmp_path / "scored")["not_scored_reason"].to_pylist()
    assert reasons[2] == "infinite value in x0"
    assert reasons[4] == "oversized value in x1"
    assert any("2 of 100 rows have a missing value" in w for w in result.warnings)
    with pytest.raises(InputDataError, match="row 2, column 0 is NaN or infinite"):
        sg.fit(rows, 2, missing="marginalise")


def test_sentinels_are_missing_values_under_every_policy(path):
    with pytest.raises(InputDataError, match="column 'x2'.*null"):
        sg.fit(sg.open_dataset(path, ["x2"], sentinel={"x2": [MARK]}), 1, client=SerialExecutor())
    dropped = sg.open_dataset(path, ["x2"], missing="drop", sentinel={"x?": [MARK, -1e9]})
    table = pq.read_table(path)["x2"].to_numpy()
    assert sg.fit(dropped, 1, client=SerialExecutor()).criteria.n_rows == (table != MARK).sum()
    assert dropped.fingerprint != sg.open_dataset(path, ["x2"], missing="drop").fingerprint


@pytest.mark.parametrize(
    ("sentinel", "message"),
    [({"x9": [1]}, "sentinel names 'x9'; did you mean 'x"), ({"x0": ["a"]}, "must be numbers")],
)
def test_a_sentinel_that_fits_nothing_is_refused(path, sentinel, message):
    with pytest.raises(ConfigError, match=message):
        sg.open_dataset(path, COLUMNS, missing="drop", sentinel=sentinel)


@pytest.mark.slow
def test_the_command_line_fits_and_scores_by_the_policy_of_the_model(path, tmp_path):
    shared = ("--columns", "x0,x1,x2", "--executor", "serial", "--folder", tmp_path / "run")
    out = run(
        "sweep", "--paths", path, *shared, "--missing", "marginalise", "--sentinel", "{x2: -200}",
        "--n-components", "1:3", "--covariance-type", "full",
    )  # fmt: skip
    assert "lack some of their values" in out
    run("score", "--paths", path, *shared, "--impute", "--passthrough", "none")
    run("report", tmp_path / "run")
    scored = pq.read_table(tmp_path / "run" / "scored")
    assert scored["x2_imputed"].null_count == 0
    manifest = json.loads((tmp_path / "run" / "scored" / "_manifest.json").read_text())
    assert scored.num_rows - scored["not_scored_reason"].null_count == manifest["rows_not_scored"]


def test_estimators_take_missing_values_if_they_are_told_to(rows):
    mixture = sg.GaussianMixture(3, missing="marginalise").fit(rows)
    assert mixture.__sklearn_tags__().input_tags.allow_nan
    assert not sg.GaussianMixture().__sklearn_tags__().input_tags.allow_nan
    assert mixture.predict(rows).min() >= 0
    np.testing.assert_allclose(mixture.predict_proba(rows)[5], mixture.weights_)
    assert np.isnan(mixture.score_samples(rows)).tolist() == np.isnan(rows).all(axis=1).tolist()
    assert mixture.score(rows) == pytest.approx(mixture.lower_bound_, rel=1e-10)
    assert mixture.bic(rows) == pytest.approx(mixture.result_.criteria.bic, rel=1e-10)
    chosen = sg.GaussianMixtureSelector([2, 3], covariance_type="full", missing="marginalise").fit(rows)
    assert chosen.best_estimator_.predict(rows).shape == (len(rows),)
    with pytest.raises(InputDataError, match="NaN"):
        sg.GaussianMixture(2).fit(rows)
    with pytest.raises(ConfigError, match="missing"):
        sg.GaussianMixture(2, missing="ignore").fit(rows)
    with pytest.raises(ConfigError, match="needs complete rows"):
        sg.GaussianMixture(2, missing="marginalise", init_params="kmeans").fit(rows)


def test_what_needs_complete_rows_says_so(path, model, rows):
    data = sg.open_dataset(path, COLUMNS, missing="marginalise", sentinel={"x2": MARK})
    with pytest.raises(ConfigError, match="the monitor needs complete rows.*missing: drop"):
        sg.monitor(model, data)
    with pytest.raises(ConfigError, match="likelihood-ratio test needs complete rows"):
        sg.likelihood_ratio_test(data, 2, replicates=1)
    with pytest.raises(ConfigError, match="variational inference needs complete rows"):
        sg.BayesianGaussianMixture(2).fit(data)
    with pytest.raises(ConfigError, match="missing"):
        sg.OnlineGaussianMixture(2, missing="marginalise").fit(rows)
    with pytest.raises(ConfigError, match="score.impute"):
        sg.score(model, sg.open_dataset(path, COLUMNS, missing="drop", sentinel={"x2": MARK}), "out", impute=True)


def test_plots_draw_the_complete_rows(rows):
    sweep = sg.sweep(rows, [3], ["full"], missing="marginalise", client=SerialExecutor())
    sg.plot.pairs(sweep)
    sg.plot.log_density(sweep)
    sparse = make_rows(60, 0.8)
    sg.plot.assignments(sweep.best, sparse[~np.isnan(sparse).all(axis=1)])
