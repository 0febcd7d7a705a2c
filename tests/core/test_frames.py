"""Rows in memory that cannot be used are refused with one clear error, which names row and column and no value."""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import stream_gmm as sg
from stream_gmm.core.rows.frames import as_rows
from stream_gmm.errors import ConfigError, InputDataError

pd = pytest.importorskip("pandas")

SECRET = "Miller-4711"
ROWS = np.arange(12.0).reshape(6, 2)


class Lazy:
    """Stands for a frame of polars or Spark whose rows are not there yet."""

    columns = ("a",)

    def collect(self):
        return pd.DataFrame({"a": [1.0, 2.0]})


def _with(column):
    return pd.DataFrame({"a": np.arange(len(column), dtype=float), "b": column})


BAD = {
    "text": (_with(["1", SECRET]), r"column 'b' cannot be read as numbers: it holds text at row 0, column 'b'"),
    "text later": (_with(np.array([1.0, SECRET], object)), "it holds text at row 1, column 'b'"),
    "text array": (np.array([["1", SECRET]]), "the array cannot be read as numbers: it holds text"),
    "dates": (_with(pd.date_range("2020-01-01", periods=3)), "column 'b' cannot be read as numbers: it holds dates"),
    "spans": (_with(pd.to_timedelta([1, 2], unit="s")), "column 'b' .* it holds time differences"),
    "NA": (_with(pd.array([1, None, 3], dtype="Int64")), "row 1, column 'b' is NaN or infinite"),
    "None": (np.array([[1.0, 2.0], [None, 1.0]], object), "row 1, column 0 is NaN or infinite"),
    "infinity": (_with([1.0, np.inf]), "row 1, column 'b' is NaN or infinite"),
    "oversized": (_with([1.0, 4.711e200]), "row 1, column 'b' is oversized"),
    "masked": (np.ma.masked_array(ROWS, ROWS > 10.0), "row 5, column 1 is NaN"),
    "twice": (pd.DataFrame(ROWS, columns=["a", "a"]), r"the frame has columns \['a'\] more than once"),
    "sparse": (sparse.csr_array(ROWS), "sparse input is not supported"),
    "complex": (ROWS + 1j, "Complex data not supported"),
    "complex objects": (np.array([[1.0, 1j]], object), "Complex data not supported: row 0, column 1"),
    "dict": (np.array([[1.0, {"name": SECRET}]], object), "row 0, column 1 is of type dict"),
    "lists": (pa.table({"v": [[1.0, 2.0], [3.0, 4.0]]}), "row 0, column 'v' is an array"),
    "ragged": ([[1.0, 2.0], [3.0]], "their lengths differ"),
    "identifiers": (_with(np.array([1, 2**60 + 1])), "row 1, column 'b': a value does not fit a float64 exactly"),
    "long integers": (np.array([[1, 2**70 + 1]], object), "row 0, column 1: a value does not fit a float64 exactly"),
    "lazy": (Lazy(), "the rows are a Lazy, which holds none yet"),
    "flat": (ROWS[:, 0], r"shape \(6,\)\. Reshape your data"),
    "deep": (ROWS[None], r"shape \(1, 6, 2\)"),
    "no column": (ROWS[:, :0], r"0 feature\(s\) \(shape=\(6, 0\)\)"),
    "timestamps": (pa.table({"t": pa.array([1, 2], pa.timestamp("s"))}), "column 't' .* it holds dates"),
    "nulls": (pa.table({"n": pa.array([1, 2, None])}), "row 2, column 'n' is NaN"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("reader", [as_rows, sg.fit, sg.GaussianMixture().fit, sg.OnlineGaussianMixture().fit])
def test_bad_rows_are_refused(kind, reader):
    data, message = BAD[kind]
    # Record batches of a stream are decoded as files are.
    decoded = isinstance(data, pa.Table) and isinstance(getattr(reader, "__self__", None), sg.OnlineGaussianMixture)
    with pytest.raises(InputDataError, match=None if decoded else message) as caught:
        reader(data)
    assert isinstance(caught.value, ValueError)
    assert "4711" not in str(caught.value)
    assert "4.711" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        ROWS, ROWS.tolist(), ROWS.astype(np.float32), ROWS.astype(np.int64), ROWS.astype(object), ROWS > 3.0,
        pd.DataFrame(ROWS), pd.DataFrame(ROWS, columns=["a", "b"]).convert_dtypes(), pa.table({"a": ROWS[:, 0]}),
        pa.record_batch({"a": ROWS[:, 0], "b": ROWS[:, 1]}), _with([decimal.Decimal(x) for x in range(6)]),
        pa.table({"a": pa.array(range(6)).dictionary_encode()}), np.array([[2**60, -(2**62)]]),
    ],
)  # fmt: skip
def test_numbers_of_every_type_are_read(data):
    rows = as_rows(data)

    assert rows.dtype == np.float64
    assert rows.ndim == 2
    assert np.isfinite(rows).all()


def test_frames_and_tables_are_fitted_by_the_functions_too():
    rows = np.random.default_rng(0).normal(size=(200, 2))
    expected = sg.fit(rows, 2)
    for data in (pd.DataFrame(rows), pa.table({"0": rows[:, 0], "1": rows[:, 1]})):
        model = sg.fit(data, 2)
        assert model.columns == ("0", "1")
        np.testing.assert_array_equal(model.means_, expected.means_)
        np.testing.assert_array_equal(model.predict(data), expected.predict(rows))


def test_no_row_and_no_weight_are_refused():
    for reader in (
        sg.fit,
        sg.GaussianMixture().fit,
        sg.GaussianMixtureSelector().fit,
        sg.OnlineGaussianMixture().fit,
    ):
        for empty in (ROWS[:0], pd.DataFrame({"a": []}), pa.table({"a": pa.array([], pa.float64())})):
            with pytest.raises(InputDataError):
                reader(empty)
    with pytest.raises(InputDataError, match="every sample weight is zero"):
        sg.GaussianMixture().fit(ROWS, sample_weight=np.zeros(6))
    with pytest.raises(ConfigError, match="cannot be read as numbers"):
        sg.GaussianMixture().fit(ROWS, sample_weight=["heavy"] * 6)
    with pytest.raises(ConfigError, match="weight is its name"):
        sg.GaussianMixture().fit("folder", sample_weight=np.ones(6))
    fitted = sg.GaussianMixture().fit(np.random.default_rng(0).normal(size=(50, 2)))
    assert fitted.predict(ROWS[:0]).shape == (0,)
    with pytest.raises(InputDataError, match="no row to judge the model by"):
        fitted.score(ROWS[:0])


def test_open_dataset_says_that_it_opens_files():
    some: list[Any] = [pd.DataFrame(ROWS, columns=["CD4", "CD8"]), ROWS, pa.table({"a": [1.0]}), 5]
    for data in some:
        with pytest.raises(TypeError, match="open_dataset opens files, and was given a"):
            sg.open_dataset(data)


def test_a_fit_in_memory_leaves_nothing_open(recwarn):
    sg.fit(np.random.default_rng(0).normal(size=(100, 2)), 1)

    assert not [w for w in recwarn if w.category is ResourceWarning]


def test_results_are_shown_in_a_line(demo_folder):
    data = sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"])
    sweep = sg.sweep(data, [1, 2], ["spherical", "full"], sample_rows=2000)
    for thing, start in (
        (data, "Dataset(4 files, 20,000 rows, 3 columns: x0, x1, x2, missing='error')"),
        (sweep, "SweepResult(4 candidates: full-2 chosen by bic, 20,000 rows, "),
        (
            sweep.best,
            "FitResult(full, 2 components, columns x0, x1, x2: CONVERGED, 20,000 rows, mean log-likelihood -",
        ),
    ):
        assert repr(thing).startswith(start)
        assert len(repr(thing)) < 200
        assert "<table" in thing._repr_html_()
        assert "x1" in thing._repr_html_() or thing is sweep
