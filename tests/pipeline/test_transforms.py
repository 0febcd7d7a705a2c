"""Transforms from the option to the scored table: every density is one of the columns themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import integrate, stats

import stream_gmm as sg
from stream_gmm.core.rows.transforms import ColumnTransform
from stream_gmm.errors import ConfigError, InputDataError, ModelFileError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.store import models
from stream_gmm.io.store.container import pack
from tests.cli.test_commands import run

GOLDEN = Path(__file__).parents[1] / "data" / "models" / "format-3-transforms.gmm"
ALL = {
    "a": "log", "b": {"asinh": {"cofactor": 0.5}}, "c": "yeo_johnson", "d": "standardize", "e": "none",
}  # fmt: skip


def _table(rng, n=1200):
    """Two clusters, seen through the inverses of transforms."""
    z = rng.normal(size=(n, 5)) + 3.0 * rng.integers(0, 2, (n, 1))
    return {
        "a": np.exp(0.5 * z[:, 0]), "b": np.sinh(z[:, 1]), "c": np.exp(0.3 * z[:, 2]) - 2.0,
        "d": 100.0 + 7.0 * z[:, 3], "e": z[:, 4],
    }  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return _table(np.random.default_rng(3))


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    import pyarrow as pa

    path = tmp_path_factory.mktemp("transforms")
    for i in range(3):
        part = {k: v[i * 400 : (i + 1) * 400] for k, v in table.items()}
        pq.write_table(pa.table(part), path / f"{i}.parquet", row_group_size=150)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return sg.fit(str(folder), 2, client=SerialExecutor(), transforms=ALL)


def test_the_density_of_lognormal_rows_is_that_of_scipy(rng):
    x = rng.lognormal(1.0, 0.7, (3000, 1))
    fitted = sg.fit(x, 1, transforms="log")
    mean, sd = np.log(x).mean(), np.log(x).std()
    oracle = stats.lognorm.logpdf(x[:, 0], sd, scale=np.exp(mean))

    np.testing.assert_allclose(fitted.score_samples(x), oracle, rtol=1e-7)
    assert fitted.criteria.loglik == pytest.approx(oracle.sum(), rel=1e-9)
    assert fitted.criteria.bic == pytest.approx(2 * np.log(len(x)) - 2 * oracle.sum(), rel=1e-9)
    assert fitted.lower_bound_ == pytest.approx(oracle.mean(), rel=1e-9)
    assert fitted.threshold == pytest.approx(np.quantile(oracle, 0.01), rel=1e-6)
    assert fitted.medians_[0, 0] == pytest.approx(np.exp(mean))
    assert fitted.criteria.bic < min(sg.fit(x, k).criteria.bic for k in (1, 2))


@pytest.mark.parametrize("transform", ["log1p", "asinh", "yeo_johnson", "standardize", "log"])
def test_densities_integrate_to_one(transform, rng):
    x = rng.gamma(2.0, 1.0, (500, 1))
    fitted = sg.fit(x, 2, transforms=transform)
    low = {"log": 1e-9, "log1p": -1.0 + 1e-9}.get(transform, -60.0)
    mass, _ = integrate.quad(
        lambda v: float(np.exp(fitted.score_samples(np.array([[v]])))[0]),
        low,
        200.0,
        points=[0.0, 1.0, 5.0],
        limit=400,
    )
    assert mass == pytest.approx(1.0, abs=1e-5)


def test_one_step_of_the_pipeline_is_a_fit_of_transformed_rows(model, table):
    """The same mixture as of rows that were transformed beforehand, and criteria that differ by the log-Jacobian."""
    by_name = {t.name: t for t in model.transforms}
    assert by_name["d"].parameters == pytest.approx((table["d"].mean(), table["d"].std()))
    assert by_name["c"].parameters[0] == pytest.approx(stats.yeojohnson_normmax(table["c"]), abs=2e-3)
    z = np.column_stack([by_name[n].apply(v) if n in by_name else v for n, v in table.items()])
    slopes = {
        "a": -np.log(table["a"]),
        "b": -0.5 * np.log(table["b"] ** 2 + 0.25),
        "c": (by_name["c"].parameters[0] - 1) * np.sign(table["c"]) * np.log1p(np.abs(table["c"])),
        "d": np.full(len(z), -np.log(table["d"].std())),
    }
    jacobian = sum(slopes.values())

    plain = sg.fit(z, 2, init=model.params)

    np.testing.assert_allclose(model.means_, plain.means_, rtol=1e-3, atol=1e-3)
    assert model.criteria.loglik == pytest.approx(plain.criteria.loglik + jacobian.sum(), rel=1e-7)
    np.testing.assert_allclose(
        model.score_samples(np.column_stack(list(table.values()))),
        sg.FitResult.score_samples(sg.fit(z, 2, init=model.params, max_passes=0), z) + jacobian,
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"profile": "sample"}, {"holdout": 0.3}, {"cache": "disk", "algorithm": "em"}, {"noise": True}],
    ids=str,
)
def test_criteria_are_sums_over_the_scored_rows(options, folder, tmp_path):
    fitted = sg.fit(str(folder), 2, client=SerialExecutor(), transforms={"a": "log", "c": "yeo_johnson"}, **options)
    scored = sg.score(fitted, str(folder), tmp_path / "scored", client=SerialExecutor())
    total = fitted.criteria.loglik + fitted.criteria.heldout_loglik
    assert scored.manifest["loglik"] == pytest.approx(total, rel=1e-9)
    rows = pq.read_table(tmp_path / "scored")
    np.testing.assert_allclose(
        rows["log_density"].to_numpy(), fitted.score_samples(rows.select(list(fitted.columns))), rtol=1e-9
    )
    assert (rows["is_outlier"].to_numpy() == (rows["log_density"].to_numpy() < fitted.threshold)).all()


def test_weighted_rows_weigh_their_jacobians(rng):
    x, weights = rng.lognormal(size=(300, 1)), rng.integers(0, 3, 300).astype(float)
    repeated = np.repeat(x, weights.astype(int), axis=0)
    weighted, plain = (
        sg.fit(x, 1, weight=weights, transforms="yeo_johnson"),
        sg.fit(repeated, 1, transforms="yeo_johnson"),
    )
    assert weighted.criteria.loglik == pytest.approx(plain.criteria.loglik, rel=1e-9)


def test_the_same_bits_from_any_executor_and_a_resumed_sweep(folder, tmp_path, monkeypatch):
    grid = ([1, 2], ["diag", "full"])

    def run(client, ledger):
        return sg.sweep(str(folder), *grid, client=client, transforms=ALL, ledger=ledger, random_state=1)

    one, two = run(SerialExecutor(), tmp_path / "one"), run(ThreadsExecutor(3), None)
    assert [c.result.digest for c in one.candidates] == [c.result.digest for c in two.candidates]

    calls = []

    def fail(self, *args):
        calls.append(args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("stream_gmm.pipeline.passes.full_pass.FullPass.__call__", fail)
        with pytest.raises(KeyboardInterrupt):
            run(SerialExecutor(), tmp_path / "two")
    resumed = run(SerialExecutor(), tmp_path / "two")
    assert calls
    assert [c.result.digest for c in one.candidates] == [c.result.digest for c in resumed.candidates]
    assert resumed.table.drop_columns("seconds") == one.table.drop_columns("seconds")


def test_other_transforms_are_another_ledger(folder, tmp_path):
    for transforms in (None, {"a": "log"}, {"a": "log1p"}):
        sg.sweep(str(folder), [1], ["diag"], client=SerialExecutor(), transforms=transforms, ledger=tmp_path)
    assert len(list(tmp_path.glob("*.gmm"))) == 3


def test_a_model_file_keeps_transforms_in_a_format_of_its_own(model, folder, tmp_path):
    again = sg.load_model(sg.save_model(model, tmp_path / "m.gmm"))
    assert (again.transforms, again.digest) == (model.transforms, model.digest)
    assert again.digest != sg.fit(str(folder), 2, client=SerialExecutor()).digest
    header = {**models._make_header(model), "transforms": [["a", "cosine", []]]}
    with pytest.raises(ModelFileError, match="'cosine', which this version does not know"):
        models.from_bytes(
            pack(models.MAGIC, 3, header, models.params_to_arrays(model.params) | {"history": np.zeros(1)})
        )


def test_the_golden_file_of_format_3_is_read():
    golden = sg.load_model(GOLDEN)
    assert golden.transforms == (
        ColumnTransform("a", "log1p"), ColumnTransform("b", "asinh", (5.0,)),
        ColumnTransform("c", "yeo_johnson", (0.25,)), ColumnTransform("d", "standardize", (2.0, 3.0)),
        ColumnTransform("e", "clip", (0.0, 4.0)),
    )  # fmt: skip
    assert golden.score_samples(np.full((1, 5), 1.5))[0] == pytest.approx(-10.35368015, abs=1e-6)


def test_monitor_sees_no_drift_in_the_rows_of_the_fit(model, folder, tmp_path):
    found = sg.monitor(model, str(folder))
    assert not found.drifted
    assert found.total["mean_log_density"] == pytest.approx(model.lower_bound_)
    sg.score(model, str(folder), tmp_path / "scored", client=SerialExecutor())
    published = sg.monitor(model, str(folder), scored=tmp_path / "scored")
    assert published.from_scores or published.total["mean_log_density"] == pytest.approx(model.lower_bound_)


def test_the_bootstrap_refits_in_the_space_of_the_model(folder):
    fitted = sg.fit(str(folder), 1, "diag", client=SerialExecutor(), transforms={"a": "log", "d": "standardize"})
    out = sg.bootstrap(fitted, str(folder), 3, client=SerialExecutor())
    np.testing.assert_allclose(np.mean([p.means for p in out.replicates], axis=0), fitted.means_, atol=0.2)
    with pytest.raises(ConfigError, match="a rival was fitted to"):
        sg.bootstrap(fitted, str(folder), 3, rivals=[sg.fit(str(folder), 1, "diag")])


def test_the_estimator_takes_rows_as_they_are(table):
    x = np.column_stack([table["a"], table["d"]])
    fitted = sg.GaussianMixture(2, transforms={"x0": "log"}, random_state=0).fit(x)
    assert fitted.score(x) == pytest.approx(fitted.lower_bound_)
    assert fitted.bic(x) == pytest.approx(fitted.result_.criteria.bic)
    drawn = fitted.sample(2000)[0]
    assert drawn.min(axis=0)[0] > 0.0
    assert np.median(drawn[:, 0]) == pytest.approx(np.median(x[:, 0]), rel=0.3)
    again = fitted.set_params(warm_start=True, max_iter=3).fit(x)
    assert again.result_.transforms == (ColumnTransform("x0", "log"),)
    with pytest.raises(ConfigError, match="init_params='auto'"):
        sg.GaussianMixture(2, transforms="log", init_params="kmeans").fit(x)
    assert (
        sg.GaussianMixtureSelector([1, 2], covariance_type="diag", transforms={"x0": "log"}).fit(x).result_.transforms
    )


def test_a_model_to_start_from_brings_its_transforms(model, folder):
    more = sg.fit(str(folder), 2, client=SerialExecutor(), init=model)
    assert more.transforms == model.transforms
    with pytest.raises(ConfigError, match="brings its own transforms"):
        sg.fit(str(folder), 2, client=SerialExecutor(), init=model, transforms="asinh")


class TestOutsideTheDomain:
    @pytest.fixture
    def path(self, write_parquet, rng):
        values = rng.lognormal(size=400)
        values[310] = -2.0
        table = {"x": values, "y": rng.normal(size=400)}
        return write_parquet("odd.parquet", table, row_group_size=100, write_statistics=False)

    def test_the_footer_is_enough(self, write_parquet):
        path = write_parquet("told.parquet", {"x": np.arange(-2.0, 398.0)}, row_group_size=100)
        with pytest.raises(InputDataError, match=r"no log1p\(x\), by the footers.*-2.0 .*told.parquet, row group 0"):
            sg.fit(path, 1, client=SerialExecutor(), transforms={"x": "log1p"})

    def test_the_error_names_file_row_group_column_and_value(self, path):
        with pytest.raises(InputDataError, match=r"odd.parquet, row group 3, column 'x'.*log1p\(x\).*row 310.*-2\)"):
            sg.fit(path, 1, client=SerialExecutor(), transforms={"x": "log1p"})

    def test_the_row_is_left_out_and_scored_as_null_with_the_reason(self, path, tmp_path):
        dataset = sg.open_dataset(path, missing="drop")
        fitted = sg.fit(dataset, 1, client=SerialExecutor(), transforms={"x": "log1p"})
        assert fitted.criteria.n_rows == 399
        sg.score(fitted, dataset, tmp_path / "scored", client=SerialExecutor())
        rows = pq.read_table(tmp_path / "scored")
        assert rows["not_scored_reason"][310].as_py() == "value of x without a log1p"
        assert rows["x"][310].as_py() == -2.0
        assert rows["log_density"].null_count == 1

    def test_rows_in_memory_are_named_too(self):
        with pytest.raises(InputDataError, match=r"row 1: the value has no log\(x0\)"):
            sg.fit([[1.0], [-1.0], [2.0]], 1, transforms="log")
        with pytest.raises(InputDataError, match=r"row 0: the value has no log\(x0\)"):
            sg.fit([[1.0], [3.0], [2.0]], 1, transforms="log").score_samples([[0.0]])


def test_constant_columns_are_set_aside_as_they_are(write_parquet, rng, tmp_path):
    path = write_parquet("c.parquet", {"x": rng.lognormal(size=300), "k": np.full(300, 5.0)})
    for transforms in ("log1p", {"*": "standardize"}):
        fitted = sg.fit(path, 1, client=SerialExecutor(), transforms=transforms)
        assert [(c.name, c.value) for c in fitted.constants] == [("k", 5.0)]
        assert [t.name for t in fitted.transforms] == ["x"]
        assert not np.isinf(fitted.score_samples(np.array([[1.0, 5.0]]))).any()
    with pytest.raises(ConfigError, match=r"clip\(x, 100, 200\) has the same value in all rows"):
        sg.fit(path, 1, client=SerialExecutor(), transforms={"x": {"clip": {"lower": 100, "upper": 200}}})


def test_clipped_columns_come_with_a_caution(rng):
    x = rng.normal(size=(300, 1))
    fitted = sg.fit(x, 1, transforms={"x0": {"clip": {"lower": -1, "upper": 1}}})
    assert any("not comparable" in w for w in fitted.warnings)
    assert fitted.score_samples([[5.0]])[0] == fitted.score_samples([[1.0]])[0]


def test_auto_adopts_what_clearly_gains_and_shows_it(rng, write_parquet):
    n = 3000
    path = write_parquet("auto.parquet", {"wide": rng.lognormal(0.0, 1.0, n), "plain": rng.normal(size=n)})
    fitted = sg.fit(path, 1, client=SerialExecutor(), transforms="auto")
    assert [(t.name, t.kind) for t in fitted.transforms] == [("wide", "log")]
    assert any("transform tried: log(wide): +" in w and "adopted" in w for w in fitted.warnings)


def test_resolution_and_transforms_of_one_column_exclude_each_other(rng):
    x = np.round(rng.lognormal(2.0, 1.0, (300, 2)))
    with pytest.raises(ConfigError, match="resolution gives steps for columns that are transformed: x0"):
        sg.fit(x, 1, transforms={"x0": "log1p"}, resolution={"x0": 1.0})
    assert sg.fit(x, 1, transforms={"x0": "log1p"}, resolution="auto").converged_


@pytest.mark.slow
def test_the_command_line_fits_plans_scores_inspects_and_reports(folder, tmp_path):
    """From a configuration and from an option; the report and the record name the transforms."""
    config = tmp_path / "job.yaml"
    config.write_text(
        f"data: {{paths: {folder}}}\nsweep: {{n_components: [1, 2], covariance_type: [full]}}\n"
        f"em: {{transforms: {{a: log, 'b*': {{asinh: {{cofactor: 0.5}}}}}}}}\n"
        f"cluster: {{executor: serial}}\noutput: {{folder: {tmp_path / 'out'}}}\n"
    )

    assert "transforms: a: log; d: standardize (mean, sd from a read of its own)" in run(
        "plan", str(config), "--transforms", "{a: log, d: standardize}"
    )
    run("sweep", str(config))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"]["transforms"] == {"a": {"log": {}}, "b": {"asinh": {"cofactor": 0.5}}}
    run("score", str(config))
    shown = run("inspect", str(tmp_path / "out" / "model.gmm"))
    assert "medians of component 0: a = " in shown.replace("\n", " ")
    model = json.loads(run("inspect", str(tmp_path / "out" / "model.gmm"), "--json"))
    assert model["transforms"]["a"] == {"log": {}}
    run("report", str(tmp_path / "out"))
    assert "log(a)" in (tmp_path / "out" / "report.html").read_text()
    sample = pq.read_table(tmp_path / "out" / "sample.parquet")
    assert sample["a"].to_numpy().min() > 0.0
    assert "log(a)" in run("profile", str(folder), "--transforms", "{a: log}")
