"""The choice of columns and rows on the command line, from the sweep to the scored table."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from tests.cli.test_commands import run

EXECUTOR = ("--executor", "serial")
SWEEP = ("--n-components", "1:3", "--covariance-type", "full", *EXECUTOR)


@pytest.fixture
def folder(write_parquet, rng):
    """Two clusters at two stations, beside a row number, a month, a constant and a bad station."""
    n = 1500
    station = rng.choice(["A", "B", "bad"], n)
    centre = np.where(station == "A", 0.0, 8.0)
    columns = {
        "row_no": np.arange(n), "month": 1 + np.arange(n) % 12, "unit": np.full(n, 2.0), "station": station,
        "x": rng.normal(size=n) + centre, "y": rng.normal(size=n) + centre, "drift": rng.normal(size=n),
    }  # fmt: skip
    columns["x"][station == "bad"] = -999.0
    return write_parquet("a.parquet", columns, row_group_size=500).parent


def test_a_sweep_without_columns_says_what_it_has_left_out(folder, tmp_path):
    chosen = ("--paths", folder, "--exclude-columns", "dr*", "--filter", "x > -200 and station != 'bad'")
    out = run("sweep", *chosen, *SWEEP, "--folder", tmp_path / "run")
    model = sg.load_model(tmp_path / "run" / "model.gmm")

    assert model.columns == ("x", "y")
    assert model.n_components == 2
    for part in ("row_no (", "month (", "unit = 2", "the filter has left out"):
        assert part in out, part
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["constants"] == {"unit": 2.0}
    kept = pq.read_table(folder).to_pandas().query("station != 'bad'")
    assert record["data"]["rows"] == len(kept)
    assert "constant in the fit, and not among its columns: unit = 2" in run(
        "inspect", tmp_path / "run" / "model.gmm"
    )

    run("score", *chosen, *EXECUTOR, "--folder", tmp_path / "run")
    scored = pq.read_table(tmp_path / "run" / "scored").to_pandas()
    assert scored.row_no.tolist() == kept.row_no.tolist()
    assert "reused" not in out
    assert "3 candidates were finished before" in run("sweep", *chosen, *SWEEP, "--folder", tmp_path / "run")


def test_a_profile_takes_the_same_choice(folder):
    out = run("profile", folder, "--exclude-columns", "drift,un*", "--filter", "station == 'A'")
    kept = pq.read_table(folder).to_pandas().query("station == 'A'")

    assert f"{len(kept):,} rows read" in out
    assert f"{kept.x.mean():.5g}" in out
    assert "drift" not in out.split("warning")[0]


def test_without_a_filter_all_rows_are_scored(folder, tmp_path):
    data = ("--paths", folder, "--columns", "[xy],unit")
    run("sweep", *data, "--data.filter", "station in ['A', 'B']", *SWEEP, "--folder", tmp_path / "run")
    run("score", *data, *EXECUTOR, "--folder", tmp_path / "run")
    scored = pq.read_table(tmp_path / "run" / "scored").to_pandas()

    assert len(scored) == 1500
    assert scored.is_outlier[scored.station == "bad"].all()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--columns", "x", "--filter", "x >"], 2, "the filter 'x >' cannot be read"),
        (["--columns", "x", "--filter", "z > 1"], 3, "the filter needs one column 'z'"),
        (["--columns", "dtype:flaot"], 2, "unknown type 'dtype:flaot'; did you mean 'float'"),
        (["--columns", "q*"], 3, "columns: no column matches 'q"),
        (["--columns", "x", "--exclude-columns", "xx"], 3, "there is no column 'xx'; did you mean 'x'"),
    ],
)
def test_a_mistake_is_one_message_with_its_exit_code(folder, tmp_path, options, code, message):
    out = run("sweep", "--paths", folder, *options, *SWEEP, "--folder", tmp_path / "run", code=code)

    assert message in out
    assert "Traceback" not in out


def test_profile_counts_missing_values_and_sentinels_by_every_policy(tmp_path, rng):
    x, y = rng.normal(size=(2, 50))
    x[:5], y[3:9] = np.nan, -200.0
    pq.write_table(pa.table({"x": pa.array(x, from_pandas=True), "y": y}), tmp_path / "a.parquet")
    for policy, mean in (("marginalise", np.nanmean(x)), ("drop", x[9:].mean())):
        out = run("profile", tmp_path, "--missing", policy, "--sentinel", "{y: -200}", "--json", "--quiet")
        found = json.loads(out[out.index("{") : out.rindex("}") + 1])["columns"]
        assert (found["x"]["null"], found["y"]["null"]) == (5, 6)
        assert np.isclose(found["x"]["mean"], mean, atol=0.1 if policy == "marginalise" else 1e-9)
