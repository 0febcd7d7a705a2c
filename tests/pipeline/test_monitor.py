"""Drift: no false alarms beyond the stated rate, small shifts are seen, and the gain of a refit is foretold."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom, ks_2samp

import stream_gmm as sg
from stream_gmm.core.drift import merge_summaries, predict_refit_gain, summarise_rows
from stream_gmm.core.model.moments import DIAGONAL, FULL, ISOTROPIC
from stream_gmm.core.rows.histogram import LogDensityHistogram, count_bins
from stream_gmm.core.rows.sampling import hash_rows
from stream_gmm.errors import ConfigError, DriftError, InputDataError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.store.models import from_bytes, to_bytes
from stream_gmm.pipeline.job.config import validate_config
from stream_gmm.pipeline.job.monitor_stage import monitor_stage
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from stream_gmm.pipeline.job.update.stage import update_stage
from tests.cli.test_commands import run as run_command

MEANS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
WEIGHTS = (0.5, 0.3, 0.2)


def draw(rng, n: int, shift: float = 0.0, weights=WEIGHTS):
    """Draw rows of three components; one column of one of them is shifted."""
    component = rng.choice(3, size=n, p=weights)
    rows = MEANS[component] + rng.normal(size=(n, 2))
    rows[component == 1, 0] += shift
    return rows


@pytest.fixture(scope="module")
def model():
    return sg.fit(draw(np.random.default_rng(1), 20_000), 3)


def summarise(model, rows, pieces: int = 1, capacity: int = 20_000):
    out, first = [], 0
    for part in np.array_split(rows, pieces):
        numbers = np.arange(first, first + len(part))
        first += len(part)
        out.append(
            summarise_rows(
                part, np.ones(len(part)), model.scores(part), hash_rows(0, 0, numbers), rows_read=len(part),
                bad=np.zeros(2), edges=model.training.edges, threshold=model.threshold, centre=model.lower_bound_,
                capacity=capacity,
            )
        )  # fmt: skip
    return merge_summaries(out)


def predict(model, rows, **options):
    return predict_refit_gain(model.params, summarise(model, rows, **options), model.criteria.n_rows)


def write(folder: Path, name: str, rows) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a": rows[:, 0], "b": rows[:, 1]}), folder / name, row_group_size=1_000)
    return folder


@pytest.mark.slow
def test_without_a_change_alarms_are_no_more_frequent_than_stated(model):
    rng, rate, periods = np.random.default_rng(2), 0.05, 200
    p_values = [predict(model, draw(rng, 1_500)).p_value for _ in range(periods)]

    assert sum(p < rate for p in p_values) <= binom.ppf(0.999, periods, rate)


def test_a_shift_of_a_tenth_of_a_standard_deviation_is_seen_and_none_is_not(model):
    rng = np.random.default_rng(3)

    assert predict(model, draw(rng, 60_000, shift=0.1)).p_value < 0.001
    assert predict(model, draw(rng, 60_000)).p_value > 0.001


@pytest.mark.slow
def test_the_predicted_gain_of_a_refit_is_the_gain_of_one():
    ratios = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        family = ("full", "tied", "diag", "spherical", "VEV", "tied_diag")[seed % 6]
        model = sg.fit(draw(rng, 5_000), 3, family)
        shift, weights = rng.uniform(0.1, 1.5), rng.dirichlet([20, 12, 8])
        rows = draw(rng, 8_000, shift, weights)
        refit = sg.fit(rows, 3, family, init=model.params, tol=1e-8)
        gain = predict(model, rows, capacity=2_000)
        ratios.append(gain.total / (refit.score(rows) - model.score(rows)))
        assert gain.step <= gain.total

    assert np.median(np.abs(np.array(ratios) - 1.0)) < 0.2


def test_with_noise_the_predicted_gain_is_that_of_a_refit_and_the_same_rows_have_not_drifted():
    rng = np.random.default_rng(5)
    old, new = (np.where(rng.random((n, 1)) < 0.05, rng.uniform(-8, 8, (n, 2)), draw(rng, n)) for n in (4_000, 3_000))
    model = sg.fit(old, 3, noise=True)
    refit = sg.fit(new, 3, init=model.params, noise=True, tol=1e-8)
    gain = predict(model, new)

    assert gain.p_value > 0.001
    assert gain.total == pytest.approx(refit.score(new) - model.score(new), rel=0.05)


def test_the_unit_of_the_weights_decides_nothing(model):
    summary = summarise(model, draw(np.random.default_rng(6), 3_000))
    heavy = replace(summary, stats=summary.stats.scale(100.0), weight_squares=summary.weight_squares * 1e4)
    one, other = (predict_refit_gain(model.params, s, f * 20_000.0) for s, f in ((summary, 1.0), (heavy, 100.0)))

    assert other.p_value == pytest.approx(one.p_value, rel=1e-6)
    assert other.noise == pytest.approx(one.noise, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [1_000, 20_000])
def test_the_prediction_stays_sound_where_components_overlap_and_the_sample_is_small(capacity):
    ratios = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        old, new = (0.45 * draw(rng, 20_000, shift) + 0.75 * rng.normal(size=(20_000, 2)) for shift in (0.0, 1.0))
        model = sg.fit(old, 3, tol=1e-6, max_passes=500)
        refit = sg.fit(new, 3, init=model.params, tol=1e-7, max_passes=1_000)
        ratios.append(predict(model, new, capacity=capacity).total / (refit.score(new) - model.score(new)))

    assert np.median(np.abs(np.array(ratios) - 1.0)) < 0.2
    assert max(ratios) < 1.5


@pytest.mark.parametrize("family", ["diag", "spherical", "tied_diag", "tied"])
def test_a_summary_that_comes_from_a_worker_is_read_as_one_that_was_made_here(family):
    rows = draw(np.random.default_rng(7), 1_000)
    model = sg.fit(rows, 2, family)
    summary = summarise(model, rows)

    assert predict_refit_gain(model.params, pickle.loads(pickle.dumps(summary)), 1_000.0) == predict_refit_gain(
        model.params, summary, 1_000.0
    )


@pytest.mark.parametrize("kind", [FULL, DIAGONAL, ISOTROPIC])
def test_a_kind_of_moments_is_the_same_object_in_another_process(kind):
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert copy.deepcopy(kind) is kind


def test_summaries_of_parts_merge_to_that_of_the_whole(model):
    rows = draw(np.random.default_rng(4), 3_000)
    whole, parts = summarise(model, rows), summarise(model, rows, pieces=7)

    np.testing.assert_allclose(parts.stats.scatter, whole.stats.scatter, rtol=1e-9)
    np.testing.assert_array_equal(parts.counts, whole.counts)
    np.testing.assert_array_equal(parts.sample.rows, whole.sample.rows)
    assert parts.standard_error == pytest.approx(model.score_samples(rows).std() / np.sqrt(3_000))
    assert parts.outliers == (model.score_samples(rows) < model.threshold).sum()


def test_many_files_are_extrapolated_from_as_many_rows_as_one(model, tmp_path):
    """Of 40 files each sends 1,000 of its rows at most; together they are the rows that one file would send."""
    named, rows = replace(model, columns=("a", "b")), draw(np.random.default_rng(6), 20_000, shift=0.8)
    one = write(tmp_path / "one", "0.parquet", rows)
    for i, part in enumerate(np.array_split(rows, 40)):
        write(tmp_path / "many", f"{i:02}.parquet", part)
    alone, many = (sg.monitor(named, str(p)).total for p in (one, tmp_path / "many"))

    assert many["refit_gain"] == pytest.approx(alone["refit_gain"], rel=1e-6)
    assert many["p_value"] == pytest.approx(alone["p_value"], abs=1e-12)


def test_the_histogram_gives_the_distance_of_two_distributions(rng):
    one, two = rng.normal(size=4_000), rng.normal(0.5, 1.0, size=3_000)
    histogram = LogDensityHistogram.of(one)
    counts = count_bins(histogram.edges, two, np.ones(len(two)))

    assert histogram.compute_ks(counts) == pytest.approx(ks_2samp(one, two).statistic, abs=0.03)
    assert histogram.compute_psi(counts) == pytest.approx(0.25, rel=0.2)  # shift^2 of two normal distributions
    same = count_bins(histogram.edges, rng.normal(size=3_000), np.ones(3_000))
    assert histogram.compute_psi(same) < 3 * histogram.expected_psi(3_000)


def test_a_model_file_carries_the_histogram_and_one_without_it_is_read(model):
    again = from_bytes(to_bytes(model))
    assert again.training is not None
    np.testing.assert_array_equal(again.training.edges, model.training.edges)
    np.testing.assert_array_equal(again.training.shares, model.training.shares)

    older = from_bytes(to_bytes(replace(model, training=None)))
    assert older.training is None
    assert older.digest == model.digest


@pytest.fixture
def job(tmp_path):
    """A run on one night, and a function that returns its configuration for the files of another."""
    rng = np.random.default_rng(6)
    first = write(tmp_path / "first", "x.parquet", draw(rng, 4_000))

    def configure(data: Path, **monitor):
        return validate_config(
            {
                "data": {"paths": str(data), "missing": "drop"},
                "sweep": {"n_components": 3, "covariance_type": "full"},
                "em": {"n_init": 1},
                "cluster": {"executor": "serial"},
                "output": {"folder": str(tmp_path / "run")},
                "monitor": monitor,
            },
            "test",
        )

    config = configure(first)
    sweep_stage(config, SerialExecutor())
    return config, configure, rng, tmp_path


def test_scores_and_data_give_the_same_rows(job):
    config, _, _, tmp_path = job
    before = monitor_stage(config, SerialExecutor(), period="one")
    score_stage(config, SerialExecutor())
    after = monitor_stage(config, SerialExecutor(), period="two")

    assert (before.result.from_scores, after.result.from_scores) == (False, True)
    assert before.result.rows == after.result.rows
    table = pq.read_table(tmp_path / "run" / "monitor.parquet").to_pylist()
    assert [(r["period"], r["file"], r["version"]) for r in table] == [
        (p, f, "v1") for p in ("one", "two") for f in ("x.parquet", "*")
    ]
    assert table[0]["status"] == "same"
    monitor_stage(config, SerialExecutor(), period="two")
    assert pq.read_table(tmp_path / "run" / "monitor.parquet").num_rows == 4


@pytest.mark.parametrize("proba", ["columns", "list"])
def test_scores_with_noise_nulls_and_another_layout_are_read_alike(rng, tmp_path, proba):
    rows = np.vstack([draw(rng, 3_000), rng.uniform(-20.0, 20.0, size=(150, 2))])
    rows[:40, 0] = np.nan
    night = write(tmp_path / "night", "x.parquet", rows)
    noisy = sg.fit(sg.open_dataset(str(night), missing="drop"), 3, noise=True)
    scored = tmp_path / "scored"
    sg.score(noisy, str(night), scored, missing="drop", proba=proba, prefix="p_")
    found = [sg.monitor(noisy, str(night), missing="drop", scored=s) for s in (None, scored)]

    assert [f.from_scores for f in found] == [False, True]
    assert found[0].total["bad_values"] == found[1].total["bad_values"] == [40, 0]
    assert found[0].rows == found[1].rows
    assert found[0].total["status"] == "same"
    assert found[0].total["refit_gain"] < 1e-4
    weights = {"a": draw(rng, 3_000)[:, 0], "b": draw(rng, 3_000)[:, 1], "w": np.repeat([0.0, 2.0], 1_500)}
    pq.write_table(pa.table(weights), tmp_path / "weighted.parquet")
    data = sg.open_dataset(tmp_path / "weighted.parquet", ["a", "b"], weight="w")
    assert sg.monitor(noisy, data).total["rows_scored"] == 3_000.0


def test_the_file_that_drifted_is_named_with_what_has_changed(job):
    _, configure, rng, tmp_path = job
    rows = draw(rng, 3_000, shift=1.0)
    rows[:30, 1] = np.nan
    night = write(tmp_path / "night", "bad.parquet", rows)
    write(night, "good.parquet", draw(rng, 3_000))
    report = monitor_stage(configure(night), SerialExecutor(), period="n")
    bad, good, total = report.result.rows

    assert (bad["file"], bad["status"], good["status"]) == ("bad.parquet", "drifted", "same")
    assert bad["bad_values"] == [0, 30]
    assert (bad["rows"], bad["rows_scored"], total["rows_scored"]) == (3_000, 2_970, 5_970)
    k = int(np.argmin([np.linalg.norm(m - MEANS[1]) for m in sg.load_model(tmp_path / "run/model.gmm").means_]))
    shifts = np.abs(np.array(bad["mean_shift"]))
    assert np.unravel_index(shifts.argmax(), shifts.shape) == (k, 0)
    assert shifts.max() == pytest.approx(1.0, abs=0.25)
    alert = report.alert("x")
    assert alert["drifted_files"] == ["bad.parquet"]
    assert alert["most_shifted_column"] == bad["columns"][0]
    assert alert["column_mean_shift"] == bad["column_mean_shift"][0] > abs(bad["column_mean_shift"][1])
    with pytest.raises(DriftError, match=rf"from v1.*bad.parquet.*of column '{bad['columns'][0]}' has moved.*sweep"):
        report.raise_if_drifted(0.01, "")


def test_on_request_only_files_that_are_new_or_changed_since_the_last_run_are_compared(job):
    _, configure, rng, tmp_path = job
    config = configure(tmp_path / "first", files="new")
    nothing = monitor_stage(config, SerialExecutor(), period="one")
    assert (nothing.alert("x")["status"], nothing.alert("x")["drifted"]) == ("no new files", False)
    nothing.raise_if_drifted(0.01, "")
    assert not (tmp_path / "run" / "monitor.parquet").exists()

    write(tmp_path / "first", "y.parquet", draw(rng, 3_000, shift=1.0))
    found = monitor_stage(config, SerialExecutor(), period="two").result
    assert [(r["file"], r["rows"], r["status"]) for r in found.rows] == [
        ("y.parquet", 3_000, "drifted"), ("*", 3_000, "drifted"),
    ]  # fmt: skip
    (alone,) = (
        r
        for r in monitor_stage(configure(tmp_path / "first"), SerialExecutor()).result.rows
        if r["file"] == "y.parquet"
    )
    assert alone["refit_gain"] == found.rows[0]["refit_gain"]

    update_stage(config, SerialExecutor())
    assert monitor_stage(config, SerialExecutor()).alert("x")["status"] == "no new files"


def test_with_the_folder_alone_the_configuration_of_the_run_is_used(job):
    _, _, rng, tmp_path = job
    rows = draw(rng, 3_000)
    rows[:30, 1] = np.nan  # the run's configuration leaves them out
    night = write(tmp_path / "night", "y.parquet", rows)
    assert "4,000 rows scored" in run_command("score", "--folder", tmp_path / "run")
    printed = run_command("monitor", night, "--folder", tmp_path / "run", "--period", "n")

    line = next(json.loads(text) for text in printed.splitlines() if text.startswith("{"))
    assert (line["status"], line["rows"]) == ("same", 3_000)
    assert "data: is required" in run_command("score", code=2)


def test_the_policies_alert_refit_and_refuse(job):
    config, configure, rng, tmp_path = job
    night = write(tmp_path / "night", "y.parquet", draw(rng, 3_000, shift=2.0))
    options = ["--paths", night, "--executor", "serial", "--folder", tmp_path / "run", "--n-components", "3",
               "--covariance-type", "full", "--period", "tonight"]  # fmt: skip
    printed = run_command("monitor", *options, code=11)
    line = next(json.loads(text) for text in printed.splitlines() if text.startswith("{"))
    assert (line["period"], line["status"], line["drifted"]) == ("tonight", "drifted", True)
    assert "error: the rows of tonight have drifted from v1" in printed

    score_stage(config, SerialExecutor())
    with pytest.raises(DriftError, match="have not been scored"):
        score_stage(configure(night, policy="refuse"), SerialExecutor())
    assert pq.read_table(tmp_path / "run/scored/x.parquet").num_rows == 4_000
    score_stage(configure(tmp_path / "first", policy="refuse"), SerialExecutor())

    assert '"fitted_again": true' in run_command("monitor", *options, "--policy", "refit")
    assert [v.name for v in sg.open_registry(tmp_path / "run").history] == ["v1", "v2"]
    assert '"status": "same"' in run_command("monitor", *options)


def test_what_cannot_be_monitored_is_refused(model, tmp_path):
    with pytest.raises(InputDataError, match="files"):
        sg.monitor(model, draw(np.random.default_rng(0), 10))
    named = replace(model, columns=("a", "b"))
    empty = write(tmp_path / "none", "x.parquet", np.full((5, 2), np.nan))
    with pytest.raises(InputDataError, match="no row that the model can score"):
        sg.monitor(named, empty, missing="drop")
    with pytest.raises(ConfigError, match="max_gain"):
        sg.monitor(named, empty, max_gain=-1.0)
    with pytest.raises(ConfigError, match="not fitted to rows"):
        sg.monitor(replace(named, criteria=replace(named.criteria, n_rows=0.0)), empty)
    few = sg.monitor(replace(named, training=None), write(tmp_path / "few", "x.parquet", model.means_))
    assert few.total["psi"] is None
    assert few.total["status"] == "too few rows"
    assert not few.drifted


def test_the_filter_of_the_data_holds_for_the_monitor_too(rng, tmp_path):
    rows = rng.normal(size=(4_000, 2))
    (tmp_path / "in").mkdir()
    spoilt = np.where(np.arange(4_000) % 4 == 0, 50.0, rows[:, 0])
    pq.write_table(pa.table({"x": spoilt, "y": rows[:, 1]}), tmp_path / "in" / "a.parquet")
    filtered = sg.open_dataset(tmp_path / "in", filter="x < 40")
    model = sg.fit(filtered)
    monitored = sg.monitor(model, filtered)
    (total,) = [row for row in monitored.rows if row["file"] == "all files"] or [monitored.rows[-1]]
    assert total["rows"] == 3_000
    assert total["mean_log_density"] == pytest.approx(model.criteria.loglik / 3_000, rel=1e-9)
