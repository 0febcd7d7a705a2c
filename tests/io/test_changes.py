"""Files that are replaced, or hold fewer rows than they say; values that cannot be squared."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import InputDataError
from stream_gmm.io.source.chunks import parquet_chunks


def _read(data) -> np.ndarray:
    return np.concatenate([c.rows for leaf in data.leaves() for c in leaf.chunks()])


def _replace(path: Path, values) -> None:
    """Write other values into a file, and give it the time of change it had."""
    stat = path.stat()
    pq.write_table(pa.table({"x": values}), path, compression="none", use_dictionary=False)
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def file(tmp_path, rng):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.parquet"
    pq.write_table(pa.table({"x": rng.normal(size=5000)}), path, compression="none", use_dictionary=False)
    return path


class TestReplacedFiles:
    def test_a_file_of_the_same_size_and_time_is_noticed_while_it_is_read(self, file, rng):
        data = sg.open_dataset(file)
        _replace(file, rng.normal(size=5000) + 3.0)
        with pytest.raises(InputDataError, match=f"{file} has changed since .*run again"):
            _read(data)

    def test_a_file_that_changes_between_two_chunks_is_noticed(self, tmp_path):
        pq.write_table(pa.table({"x": np.arange(150_000.0)}), tmp_path / "a.parquet")
        data = sg.open_dataset(tmp_path)
        chunks = parquet_chunks(data.parts[0], ("x",), "error")
        next(chunks)
        os.utime(tmp_path / "a.parquet", ns=(1, 1))
        with pytest.raises(InputDataError, match="has changed since"):
            list(chunks)

    @pytest.mark.parametrize("same_footer", [False, True])
    def test_it_does_not_bring_back_the_model_of_the_ledger(self, file, tmp_path, rng, same_footer):
        first = sg.sweep(file, [1], "full", ledger=tmp_path / "ledger")
        before, values = sg.open_dataset(file).fingerprint, pq.read_table(file)["x"].to_numpy()
        # Squeezed towards the least value, with both extremes where they were: the footer keeps its statistics.
        squeezed = np.where((values > values.min()) & (values < values.max()), values * 0.5, values)
        _replace(file, squeezed if same_footer else values + 3.0)
        second = sg.sweep(file, [1], "full", ledger=tmp_path / "ledger")

        assert sg.open_dataset(file).fingerprint != before
        expected = pq.read_table(file)["x"].to_numpy()
        assert second.best.means_[0, 0] == pytest.approx(expected.mean(), abs=1e-9)
        assert second.best.means_[0, 0] != first.best.means_[0, 0]

    def test_a_copy_elsewhere_has_the_same_fingerprint(self, file, tmp_path):
        shutil.copytree(file.parent, tmp_path / "copy" / "in")

        assert sg.open_dataset(tmp_path / "copy" / "in").fingerprint == sg.open_dataset(file.parent).fingerprint

    def test_an_object_that_is_replaced_ends_the_sweep_by_name(self, s3, rng):
        s3.create_dir("bucket-replaced")
        uri, table = "s3://bucket-replaced/in/", pa.table({"x": rng.normal(size=3000)})
        other = pa.table({"x": rng.normal(size=3000) + 5.0})
        pq.write_table(table, "bucket-replaced/in/a.parquet", filesystem=s3)
        data = sg.open_dataset(uri)
        assert data.files[0].version
        np.testing.assert_array_equal(_read(data)[:, 0], table["x"].to_numpy())
        again = sg.open_dataset(uri).fingerprint
        pq.write_table(other, "bucket-replaced/in/a.parquet", filesystem=s3)
        with pytest.raises(InputDataError, match="s3://bucket-replaced/in/a.parquet has changed since"):
            _read(data)

        assert sg.open_dataset(uri).fingerprint != again
        replaced = False

        def replace_once(progress):
            nonlocal replaced
            if progress.stage == "fit" and not replaced:
                replaced = True
                pq.write_table(table, "bucket-replaced/in/a.parquet", filesystem=s3)

        with pytest.raises(InputDataError, match="a.parquet has changed since"):
            sg.sweep(uri, [1, 2, 3], "full", cache="none", progress=replace_once, sample_rows=100, algorithm="em")
        s3.delete_file("bucket-replaced/in/a.parquet")
        with pytest.raises(InputDataError, match="a.parquet has vanished since"):
            _read(data)


class TestRowCounts:
    @pytest.fixture
    def short(self, tmp_path, rng, monkeypatch):
        """A file of 524 rows of whose second row group the reader returns 24 rows too few, without a word."""
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"x": rng.normal(size=524)}), path, row_group_size=262)
        real = pq.ParquetFile.iter_batches

        def shortened(self, *args, row_groups, **options):
            for batch in real(self, *args, row_groups=row_groups, **options):
                yield batch.slice(0, batch.num_rows - 24) if 1 in row_groups else batch

        monkeypatch.setattr(pq.ParquetFile, "iter_batches", shortened)
        return path

    def test_rows_that_are_missing_end_the_pass(self, short):
        with pytest.raises(
            InputDataError, match=r"a.parquet, row groups? .*500 rows were read where .* promises 524"
        ):
            sg.fit(short, 1)

    @pytest.mark.parametrize(
        ("what", "message"),
        [
            ("file", "the footer promises 524 rows, and its row groups hold 500"),
            ("row group", "row group 0: 500 rows were read where the footer promises 524"),
        ],
    )
    def test_a_footer_that_promises_too_much_is_refused(self, tmp_path, rng, what, message):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"x": rng.normal(size=500)}), path, compression="none", use_dictionary=False)
        whole = path.read_bytes()
        start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        # 500 and 524 as Thrift writes them: zigzag, seven bits a byte.
        true, wrong = bytes([0xE8, 0x07]), bytes([0x98, 0x08])
        places = [i for i in range(start, len(whole)) if whole.startswith(true, i)]
        content = bytearray(whole)
        for place in {"file": places[:1], "row group": [places[0], places[-1]]}[what]:
            content[place : place + 2] = wrong
        path.write_bytes(content)
        footer = pq.read_metadata(path)
        assert (footer.num_rows, footer.row_group(0).num_rows) == (524, 500 if what == "file" else 524)
        assert pq.read_table(path).num_rows == 500  # pyarrow does not mind

        with pytest.raises(InputDataError, match=f"a.parquet.*{message}"):
            sg.fit(path, 1)

    @pytest.mark.parametrize("cache", ["none", "memory", "disk"])
    def test_a_leaf_that_loses_rows_ends_the_pass(self, tmp_path, rng, monkeypatch, cache):
        pq.write_table(pa.table({"x": rng.normal(size=524)}), tmp_path / "a.parquet")
        data, real = sg.open_dataset(tmp_path), parquet_chunks

        def shortened(*args):
            for chunk in real(*args):
                yield type(chunk)(chunk.rows[:500], 500, 0, 0, None, chunk.bad)

        monkeypatch.setattr("stream_gmm.io.source.leaf.parquet_chunks", shortened)
        with pytest.raises(InputDataError, match="500 rows were read where .* promise 524"):
            sg.fit(data, 1, cache=cache)


class TestOversizedValues:
    @pytest.mark.parametrize("value", [1e154, -1e154, 1.3e150, np.finfo(float).max, -np.finfo(float).max])
    def test_a_sentinel_is_named_with_its_place(self, tmp_path, rng, value):
        x, y = rng.normal(size=(2, 300))
        y[170] = value
        table = pa.table({"x": x, "y": y})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
        place = f"infinite or beyond 1e150: column 'y': .*{tmp_path / 'a.parquet'}, row group 1"
        with pytest.raises(InputDataError, match=place):
            sg.fit(tmp_path, 1)
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=100, write_statistics=False)
        place = f"{tmp_path / 'a.parquet'}, row group 1, column 'y': 1 oversized .* row 170 "
        with pytest.raises(InputDataError, match=place) as error:
            sg.fit(tmp_path, 1)
        assert f"{value:.6g}" in str(error.value)
        with pytest.raises(InputDataError, match="row 170, column 1"):
            sg.fit(np.column_stack([x, y]), 1)

        dropped = sg.fit(sg.open_dataset(tmp_path, missing="drop"), 1)
        keep = np.arange(300) != 170
        np.testing.assert_allclose(dropped.means_[0], [x.mean(where=keep), y.mean(where=keep)], rtol=1e-12)
        assert any("1 of 300 rows have a missing value (y: 1 oversized)" in w for w in dropped.warnings)
        scored = sg.score(dropped, sg.open_dataset(tmp_path, missing="drop"), tmp_path / "out")
        assert scored.manifest["rows_not_scored"] == 1
        assert pq.read_table(tmp_path / "out")["not_scored_reason"][170].as_py() == "oversized value in y"

    def test_large_values_whose_squares_fit_are_data(self, tmp_path, rng):
        x = rng.normal(size=300) * 1e149
        pq.write_table(pa.table({"x": x}), tmp_path / "a.parquet")

        np.testing.assert_array_equal(_read(sg.open_dataset(tmp_path))[:, 0], x)

    @pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
    @pytest.mark.parametrize("noise", [False, True])
    def test_no_responsibility_is_ever_nan(self, rng, name, noise):
        """At such a distance the nearest component has all; the distances come from fractions of integers."""
        rows = np.vstack([rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) * 3.0 + 20.0]) * 1e-8
        model = sg.fit(rows, 2, name, noise=noise)
        directions = rng.normal(size=(50, 2))
        far = directions / np.abs(directions).max(axis=1)[:, None] * 1e150
        scores = model.scores(far)

        assert not np.isnan(scores.proba).any()
        assert not np.isnan(scores.log_density).any()
        assert not np.isnan(scores.mahalanobis_sq).any()
        if noise:
            assert set(scores.component.tolist()) == {-1}
            assert not scores.proba.any()
            return
        np.testing.assert_array_equal(scores.proba.sum(axis=1), 1.0)
        for x, component in zip(far, scores.component, strict=True):
            exact = [_exact_distance(x, m, _precision(model, k)) for k, m in enumerate(model.means_)]
            assert exact[component] <= min(exact) * (1 + Fraction(1, 10**12))


def _precision(model, k):
    given = model.precisions_
    return {
        "full": lambda: given[k],
        "tied": lambda: given,
        "diag": lambda: np.diag(given[k]),
        "spherical": lambda: given[k] * np.eye(2),
    }[model.covariance_type]()


def _exact_distance(x, mean, precision):
    y = [Fraction(float(a)) - Fraction(float(m)) for a, m in zip(x, mean, strict=True)]
    return sum(Fraction(float(precision[i, j])) * y[i] * y[j] for i in range(2) for j in range(2))
