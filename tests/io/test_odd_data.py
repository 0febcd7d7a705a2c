"""Odd but plausible data: the numbers are those of numpy on the same rows, and a fit and its scores agree."""

from __future__ import annotations

import decimal
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import InputDataError
from stream_gmm.execute.serial import SerialExecutor

N = 120
RNG = np.random.default_rng(3)
X = np.concatenate([RNG.normal(0, 1, N // 2), RNG.normal(8, 1, N // 2)])
Y = RNG.normal(size=N) + X
ROUNDED = np.round(X, 6)
DECIMALS = [decimal.Decimal(f"{v:.6f}") for v in X]


def agree(folder, expected, columns=None, **options):
    """Fit one component and score; means, covariance and log-likelihood are those of the expected rows."""
    dataset = sg.open_dataset(folder, columns, **options)
    model = sg.fit(dataset, 1, client=SerialExecutor())
    scale = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(model.means_[0] / scale, expected.mean(axis=0) / scale, atol=1e-12)
    np.testing.assert_allclose(
        model.covariances_[0] / np.outer(scale, scale), np.cov((expected / scale).T, ddof=0), rtol=1e-6, atol=1e-12
    )
    result = sg.score(model, dataset, folder.with_name("scored"), client=SerialExecutor())
    assert result.rows == len(expected)
    log_density = pq.read_table(folder.with_name("scored"))["log_density"].to_numpy()
    np.testing.assert_allclose(log_density.mean(), model.criteria.loglik / len(expected), rtol=1e-12)


@pytest.mark.parametrize(
    ("table", "columns", "expected"),
    [
        ({"x": pa.array(DECIMALS, pa.decimal128(38, 6)), "y": Y}, None, [ROUNDED, Y]),
        ({"x": pa.array(DECIMALS, pa.decimal256(50, 6)), "y": Y}, None, [ROUNDED, Y]),
        ({"t": pa.array(range(N), pa.timestamp("us", "Europe/Berlin")), "x": X, "y": Y}, None, [X, Y]),
        ({"x": pa.array(np.round(X, 1)).dictionary_encode(), "y": Y}, None, [np.round(X, 1), Y]),
        ({"b": X > 4.0, "y": Y}, ["b", "y"], [X > 4.0, Y]),
        ({"x": X.astype(np.float16), "y": Y}, None, [X.astype(np.float16), Y]),
        ({"x": X * 1e140, "y": Y}, None, [X * 1e140, Y]),
        ({"a": pa.array([{"b": None}] * N), "a.b": X, "y": Y}, ["a.b", "y"], [X, Y]),
        ({"größe µ\u202e": X, "n" * 5000: Y}, None, [X, Y]),
    ],
    ids=["decimal128", "decimal256", "zone", "dictionary", "boolean", "half", "1e140", "dotted", "names"],
)  # fmt: skip
def test_odd_types_and_names(tmp_path, table, columns, expected):
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table(table), folder / "a.parquet", row_group_size=50)
    agree(folder, np.column_stack([np.asarray(v, dtype=float) for v in expected]), columns)


def test_files_that_differ_in_types_order_and_columns_among_empty_ones(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    parts = {
        "a b": {"x": np.round(X[:40]).astype(int), "y": Y[:40]},
        "a%20b": {"y": Y[40:80], "extra": ["q"] * 40, "x": X[40:80]},
        "a#b?[c]*": {"x": X[80:].astype(np.float32), "y": Y[80:]},
        "empty": {"x": X[:0], "y": Y[:0]},
    }
    for name, table in parts.items():
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
        os.utime(folder / f"{name}.parquet", (-1e9, 9e9))
    x = np.concatenate([np.asarray(table["x"], dtype=float) for table in parts.values()])
    agree(folder, np.column_stack([x, Y]))
    for name in list(parts)[:3]:
        assert sg.open_dataset(folder / f"{name}.parquet").num_rows == 40


@pytest.mark.parametrize("statistics", [True, False])
def test_whole_numbers_beyond_2_to_the_53_are_refused(tmp_path, statistics):
    top = np.array([2**64 - 1 - 7 * i * i for i in range(N)], np.uint64)
    pq.write_table(pa.table({"u": top, "y": Y}), tmp_path / "a.parquet", write_statistics=statistics)
    with pytest.raises(InputDataError, match=r"float64 exactly.*18,?446,?744,?073,?709,?551,?615"):
        sg.fit(sg.open_dataset(tmp_path, ["u", "y"], missing="drop"), 1, client=SerialExecutor())
