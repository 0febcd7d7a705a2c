from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import stream_gmm as sg
from stream_gmm.errors import ConfigError, InputDataError

COLUMNS = ["x0", "x1", "x2"]


@pytest.fixture(scope="module")
def model(demo_folder):
    return sg.fit(sg.open_dataset(demo_folder, columns=COLUMNS), 3, "full", sample_rows=4_000)


@pytest.fixture(scope="module")
def table(demo_folder):
    return ds.dataset(sorted(demo_folder.glob("*.parquet"))).to_table().slice(0, 3_000)


@pytest.fixture(scope="module")
def scored(model, demo_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "scored"
    sg.score(model, sg.open_dataset(demo_folder, columns=COLUMNS), out)
    return ds.dataset(out).to_table().slice(0, 3_000)


@pytest.mark.parametrize("source", ["table", "reader", "list", "generator"])
def test_record_batches_get_the_scores_of_the_files(model, table, scored, source):
    batches = table.to_batches(max_chunksize=700)
    given = {
        "table": table,
        "reader": pa.RecordBatchReader.from_batches(table.schema, batches),
        "list": batches,
        "generator": iter(batches),
    }[source]
    out = list(sg.score_batches(model, given))

    assert all(isinstance(b, pa.RecordBatch) for b in out)
    got = pa.Table.from_batches(out)
    assert got.column_names == scored.column_names
    assert got.combine_chunks().equals(scored.combine_chunks().cast(got.schema))


def test_record_batches_with_bad_rows_columns_and_options(model, table):
    bad = table.set_column(1, "x0", pa.array([None, *table["x0"].to_pylist()[1:]]))
    with pytest.raises(InputDataError, match=r"record batch 0, row 0, column 'x0': 1 null"):
        list(sg.score_batches(model, bad))
    first = next(sg.score_batches(model, bad, missing="drop", passthrough=["id"], proba="list", prefix="g_"))
    assert first.schema.names[:3] == ["id", "g_component", "g_max_proba"]
    assert first["g_not_scored_reason"][0].as_py() == "null in x0"
    with pytest.raises(InputDataError, match="lacks the columns"):
        list(sg.score_batches(model, table.select(["x0", "x1"])))
    with pytest.raises(ConfigError, match="already has columns"):
        list(sg.score_batches(model, sg.score_batches(model, table)))
    with pytest.raises(ConfigError, match="did you mean 'list'"):
        list(sg.score_batches(model, table, proba="lists"))
    with pytest.raises(InputDataError, match="give pyarrow record batches"):
        list(sg.score_batches(model, [np.zeros((2, 3))]))


@pytest.mark.long
def test_the_command_score_reads_and_writes_arrow_streams(model, table, scored, tmp_path):
    sg.save_model(model, tmp_path / "m.gmm")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1_000)
    command = [sys.executable, "-m", "stream_gmm", "score", "-", "--model", str(tmp_path / "m.gmm")]
    done = subprocess.run(command, input=sink.getvalue().to_pybytes(), capture_output=True, check=True)
    with pa.ipc.open_stream(done.stdout) as reader:
        got = reader.read_all()

    assert got.combine_chunks().equals(scored.combine_chunks().cast(got.schema))
    assert b"3,000 rows in 3 batches" in done.stderr
    empty = pa.BufferOutputStream()
    pa.ipc.new_stream(empty, table.schema).close()
    done = subprocess.run(command, input=empty.getvalue().to_pybytes(), capture_output=True, check=True)
    with pa.ipc.open_stream(done.stdout) as reader:
        assert reader.read_all().schema == got.schema
    done = subprocess.run(command, input=b"no stream", capture_output=True, check=False)
    assert done.returncode == 3
    assert b"Arrow IPC stream" in done.stderr


def test_a_dask_frame_gets_the_scores_lazily_with_its_index(model, table, scored):
    dd = pytest.importorskip("dask.dataframe")
    frame = table.to_pandas().set_index("id")
    lazy = dd.from_pandas(frame, npartitions=3)
    out = sg.score_dask(lazy, model, prefix="g_")
    got = out.compute(scheduler="threads")

    assert out.npartitions == lazy.npartitions
    assert list(out.columns) == list(got.columns)
    assert (out.dtypes == got.dtypes).all()
    pd.testing.assert_frame_equal(got[list(frame.columns)], frame)
    np.testing.assert_array_equal(got["g_component"].to_numpy(np.int32), scored["component"].to_numpy())
    np.testing.assert_array_equal(got["g_log_density"], scored["log_density"].to_numpy())
    with pytest.raises(InputDataError, match="lacks the columns"):
        sg.score_dask(lazy[["x0"]], model)
    with pytest.raises(ConfigError, match="already has columns"):
        sg.score_dask(out, model, prefix="g_")
    with pytest.raises(InputDataError, match="not DataFrame"):
        sg.score_dask(frame, model)


def test_rows_of_a_dask_frame_that_cannot_be_scored_are_missing_with_a_reason(model, table):
    dd = pytest.importorskip("dask.dataframe")
    frame = table.to_pandas()
    frame.loc[5, "x1"] = np.nan
    lazy = dd.from_pandas(frame, npartitions=2)
    got = sg.score_dask(lazy, model, missing="drop").compute(scheduler="sync")

    assert got["component"].isna().sum() == 1
    assert got.loc[5, "not_scored_reason"] == "null in x1"
    assert got["is_outlier"].dtype == "boolean"
    with pytest.raises(InputDataError, match="x1"):
        sg.score_dask(lazy, model).compute(scheduler="sync")
