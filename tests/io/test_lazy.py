"""Data sets of Arrow and data frames of Dask stand for their files, or are refused with what to pass instead."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.dataset as pads
import pytest

import stream_gmm as sg
from stream_gmm.errors import InputTypeError
from stream_gmm.execute.serial import SerialExecutor

dd = pytest.importorskip("dask.dataframe")


@pytest.fixture
def folder(write_parquet, rng):
    for i in range(2):
        path = write_parquet(f"{i}.parquet", {"x": rng.normal(size=200), "y": rng.normal(size=200), "s": ["a"] * 200})
    return path.parent


def _fit(data, **options):
    return sg.fit(data, 1, client=SerialExecutor(), **options)


def test_an_arrow_data_set_is_its_files(folder):
    data = pads.dataset(folder)
    assert _fit(data).digest == _fit(str(folder)).digest
    assert sg.open_dataset(data, ["y"]).columns == ("y",)
    assert _fit(pads.dataset(pa.table({"x": np.arange(9.0)}))).criteria.n_rows == 9


def test_a_dask_frame_of_parquet_files_is_these_files_in_its_columns(folder):
    frame = dd.read_parquet(folder)
    assert _fit(frame).digest == _fit(str(folder)).digest
    assert _fit(frame[["y"]]).columns == ("y",)
    assert sg.GaussianMixture(1).fit(frame).score(frame) == pytest.approx(_fit(str(folder)).lower_bound_)


def test_what_is_computed_is_refused_with_what_to_pass(folder, tmp_path):
    frame = dd.read_parquet(folder)
    for computed in (
        frame[frame.x > 0],
        dd.from_pandas(frame.compute(), 1),
        dd.read_parquet(folder, filters=[("x", ">", 0)]),
    ):
        with pytest.raises(InputTypeError, match=r"a Dask data frame that is computed.*to_parquet"):
            _fit(computed)
    with pytest.raises(InputTypeError, match="with a filter.*filter as a text"):
        _fit(pads.dataset(folder).filter(pads.field("x") > 0))
    csv.write_csv(pa.table({"x": [1.0, 2.0]}), tmp_path / "a.csv")
    with pytest.raises(InputTypeError, match="not one of Parquet files"):
        _fit(pads.dataset(tmp_path / "a.csv", format="csv"))
