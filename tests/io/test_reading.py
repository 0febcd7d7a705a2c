from __future__ import annotations

import os
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import ConfigError, InputDataError
from stream_gmm.io.source.memory import as_source
from tests.oracles import DATA


def _all(dataset) -> np.ndarray:
    return np.concatenate([c.rows for leaf in dataset.leaves() for c in leaf.chunks()])


class TestFinding:
    def test_a_file_a_folder_a_pattern_and_a_list_can_be_opened(self, write_parquet, tmp_path):
        for name in ("b/2.parquet", "a/1.parquet", "a/deep/3.parquet"):
            write_parquet(name, {"x": [1.0, 2.0]})
        root = tmp_path / "in"

        def names(paths):
            return [f.relative for f in sg.open_dataset(paths).files]

        assert names(root) == ["a/1.parquet", "a/deep/3.parquet", "b/2.parquet"]
        assert names(root / "a" / "1.parquet") == ["1.parquet"]
        assert names(f"{root}/*/*.parquet") == ["a/1.parquet", "b/2.parquet"]
        assert names(f"{root}/**/*.parquet") == ["a/1.parquet", "a/deep/3.parquet", "b/2.parquet"]
        assert names(f"{root}/[ab]/?.parquet") == ["a/1.parquet", "b/2.parquet"]
        assert len(names([root / "a", root / "b"])) == 3

    def test_hidden_and_staging_files_are_skipped_and_others_can_be_excluded(self, write_parquet, tmp_path):
        for name in ("1.parquet", "_tmp/2.parquet", ".3.parquet", "old/4.parquet"):
            write_parquet(name, {"x": [1.0]})

        assert sg.open_dataset(tmp_path / "in", exclude=["old/*"]).num_rows == 1

    def test_a_folder_that_links_to_itself_does_not_repeat_rows(self, write_parquet, tmp_path):
        path = write_parquet("1.parquet", {"x": [1.0, 2.0]})
        os.symlink(path.parent, path.parent / "again")
        os.symlink(path, path.parent / "same.parquet")

        assert sg.open_dataset(tmp_path / "in").num_rows == 2

    def test_a_path_without_parquet_files_is_refused(self, tmp_path):
        with pytest.raises(InputDataError, match="no Parquet file matches"):
            sg.open_dataset(tmp_path)
        with pytest.raises(InputDataError, match="there is no file or folder"):
            sg.open_dataset(tmp_path / "nowhere")

    def test_an_unknown_scheme_is_refused(self):
        with pytest.raises(InputDataError, match="cannot read from http"):
            sg.open_dataset("http://127.0.0.1/x.parquet")

    def test_an_object_store_is_read_and_fitted(self, s3):
        s3.create_dir("bucket-read")
        table = pa.table({"x": np.arange(1000.0), "y": np.arange(1000.0) ** 2})
        for name in ("day=1/a", "day=2/b"):
            pq.write_table(table, f"bucket-read/in/{name}.parquet", filesystem=s3, row_group_size=300)

        data = sg.open_dataset("s3://bucket-read/in/", columns=["y", "x"])
        assert [f.relative for f in data.files] == ["day=1/a.parquet", "day=2/b.parquet"]
        np.testing.assert_array_equal(_all(data)[:, 1], np.tile(np.arange(1000.0), 2))
        assert sg.open_dataset("s3://bucket-read/in/*/b.parquet").num_rows == 1000
        model = sg.fit(data, 2, "diag", n_init=2)
        assert model.criteria.n_rows == 2000

    def test_secrets_of_a_uri_are_not_shown(self, s3, s3_endpoint):
        uri = f"s3://testing:topsecret@bucket-none/x/?endpoint_override={s3_endpoint[7:]}&scheme=http"
        with pytest.raises(InputDataError) as error:
            sg.open_dataset(uri)
        assert "topsecret" not in str(error.value)


class TestSchema:
    def test_an_open_data_set_knows_its_columns_rows_and_parts(self, demo_folder):
        data = sg.open_dataset(demo_folder)

        assert data.columns == ("x0", "x1", "x2")  # id is an identifier
        assert data.num_rows == 20_000
        assert [p.rows for p in data.parts] == [5000] * 4
        assert data.parts[0].id == "part-000.parquet#0-0"

    def test_a_missing_column_names_file_and_nearest(self, write_parquet, tmp_path):
        write_parquet("1.parquet", {"amount": [1.0]})
        bad = write_parquet("2.parquet", {"amuont": [1.0]})
        with pytest.raises(InputDataError, match=f"{bad}.*no column 'amount'.*did you mean 'amuont'"):
            sg.open_dataset(tmp_path / "in", columns=["amount"])

    def test_a_column_that_is_no_number_is_refused_not_cast(self, write_parquet, tmp_path):
        write_parquet("1.parquet", {"x": [1.0]})
        bad = write_parquet("2.parquet", {"x": ["1.0"]})
        with pytest.raises(InputDataError, match=f"{bad}: column 'x' is string"):
            sg.open_dataset(tmp_path / "in", columns=["x"])

    def test_numeric_types_are_read_exactly(self, write_parquet, tmp_path):
        write_parquet(
            "1.parquet",
            {
                "i": pa.array([1, -2], pa.int16()),
                "u": pa.array([1, 2**40], pa.uint64()),
                "h": pa.array(np.array([0.5, 2.0], np.float16)),
                "f": pa.array([0.25, -1.0], pa.float32()),
                "b": pa.array([True, False]),
                "d": pa.array([Decimal("1.25"), Decimal("-3.50")]),
                "c": pa.array([7, 9]).dictionary_encode(),
                "s": ["a", "b"],
            },
        )
        data = sg.open_dataset(tmp_path / "in")

        assert data.columns == ("i", "u", "h", "f", "b", "d", "c")
        np.testing.assert_array_equal(_all(data), [[1, 1, 0.5, 0.25, 1, 1.25, 7], [-2, 2**40, 2, -1, 0, -3.5, 9]])

    def test_an_integer_that_no_float_holds_is_refused(self, write_parquet, tmp_path):
        """By its statistics before any row is read, or when it is read."""
        for statistics, message in (
            (True, "column 'x': 9,007,199,254,740,993 .*group 0"),
            (False, "row group 0, col"),
        ):
            write_parquet("1.parquet", {"x": [2**53 + 1, 0]}, write_statistics=statistics)
            with pytest.raises(InputDataError, match=message):
                _all(sg.open_dataset(tmp_path / "in", missing="drop"))

    def test_repeated_columns_and_an_unknown_policy_are_refused(self, demo_folder):
        with pytest.raises(ConfigError, match="twice"):
            sg.open_dataset(demo_folder, columns=["x0", "x0"])
        with pytest.raises(ConfigError, match="did you mean 'drop'"):
            sg.open_dataset(demo_folder, missing="dorp")


class TestPlan:
    def test_leaves_hold_every_row_once_in_order(self, demo_folder):
        data = sg.open_dataset(demo_folder, columns=["id"])
        np.testing.assert_array_equal(_all(data)[:, 0], np.arange(20_000))

    def test_a_large_file_becomes_several_parts(self, write_parquet, tmp_path, monkeypatch):
        monkeypatch.setattr("stream_gmm.io.source.parts.PART_BYTES", 8 * 1000)
        monkeypatch.setattr("stream_gmm.io.source.leaf.LEAF_BYTES", (8 * 1500, 8 * 1500))
        write_parquet("1.parquet", {"x": np.arange(2500.0)}, row_group_size=400)
        write_parquet("2.parquet", {"x": np.arange(10.0)})
        data = sg.open_dataset(tmp_path / "in")

        assert [p.rows for p in data.parts] == [800, 800, 900, 10]
        assert [p.first_row for p in data.parts] == [0, 800, 1600, 0]
        assert [leaf.rows for leaf in data.leaves()] == [1200, 1310]
        assert len(data.leaves()[0].parts) == 1

    def test_one_giant_row_group_is_read_in_bounded_chunks(self, write_parquet, tmp_path):
        write_parquet("1.parquet", {"x": np.arange(200_000.0)}, row_group_size=200_000)
        sizes = [c.size for leaf in sg.open_dataset(tmp_path / "in").leaves() for c in leaf.chunks()]

        assert max(sizes) <= 65_536
        assert sum(sizes) == 200_000

    def test_the_fingerprint_follows_the_files_and_the_columns(self, write_parquet, tmp_path):
        path = write_parquet("1.parquet", {"x": [1.0], "y": [2.0]})
        first = sg.open_dataset(tmp_path / "in").fingerprint

        assert sg.open_dataset(tmp_path / "in").fingerprint == first
        assert sg.open_dataset(tmp_path / "in", columns=["x"]).fingerprint != first
        os.utime(path, ns=(1, 1))
        assert sg.open_dataset(tmp_path / "in").fingerprint != first

    def test_an_array_is_a_source(self, rng):
        rows = rng.normal(size=(5000, 2))
        source = as_source(rows)

        assert source.columns == ("x0", "x1")
        np.testing.assert_array_equal(_all(source), rows)
        assert sum(p.rows for p in source.small_leaves()) == 5000


class TestMissing:
    COLUMNS = {
        "x": [1.0, None, 3.0, float("nan"), 5.0, 6.0],
        "y": [1.0, 2.0, 3.0, float("inf"), None, 6.0],
        "key": list("abcdef"),
    }

    def test_the_error_names_file_row_group_column_and_row(self, write_parquet, tmp_path):
        path = write_parquet("1.parquet", self.COLUMNS, row_group_size=3, write_statistics=False)
        with pytest.raises(InputDataError, match=f"{path}, row group 0, column 'x': 1 null.*row 1 of"):
            _all(sg.open_dataset(tmp_path / "in"))

    def test_dropped_rows_are_counted_by_column_and_kind(self, write_parquet, tmp_path):
        write_parquet("1.parquet", self.COLUMNS, row_group_size=6)
        (leaf,) = sg.open_dataset(tmp_path / "in", missing="drop").leaves()
        (chunk,) = leaf.chunks()

        np.testing.assert_array_equal(chunk.rows, [[1, 1], [3, 3], [6, 6]])
        np.testing.assert_array_equal(chunk.row_numbers, [0, 2, 5])
        np.testing.assert_array_equal(chunk.bad, [[1, 1, 0, 0], [1, 0, 1, 0]])

    def test_penguins_with_nulls_fit_and_say_so(self):
        data = sg.open_dataset(
            DATA / "penguins", columns=["bill_length_mm", "bill_depth_mm", "flipper_length_mm"], missing="drop"
        )
        model = sg.fit(data, 3, "full", n_init=3)

        assert model.criteria.n_rows == 342
        assert any("2 of 344 rows have a missing value" in w for w in model.warnings)

    def test_a_data_set_with_every_row_dropped_is_refused(self, write_parquet, tmp_path):
        write_parquet("1.parquet", {"x": pa.array([None, None], pa.float64())})
        with pytest.raises(InputDataError, match="2 rows were read, and all were dropped"):
            sg.fit(sg.open_dataset(tmp_path / "in", missing="drop"), 1)

    def test_empty_files_are_legal_but_not_alone(self, write_parquet, tmp_path):
        write_parquet("1.parquet", {"x": pa.array([], pa.float64())})
        with pytest.raises(InputDataError, match="it is empty"):
            sg.fit(tmp_path / "in", 1)
        write_parquet("2.parquet", {"x": [1.0, 2.0, 4.0]})
        assert sg.fit(tmp_path / "in", 1).criteria.n_rows == 3


class TestDamage:
    def test_a_file_that_is_not_parquet_is_refused(self, tmp_path):
        path = tmp_path / "x.parquet"
        path.write_bytes(b"hello")
        with pytest.raises(InputDataError, match=f"cannot open {path} as Parquet"):
            sg.open_dataset(path)

    def test_a_flipped_byte_names_file_row_group_and_column(self, write_parquet, tmp_path):
        path = write_parquet(
            "1.parquet", {"a": np.arange(1000.0), "b": np.arange(1000.0) * 3}, row_group_size=500,
            compression="none", use_dictionary=False, write_page_checksum=True,
        )  # fmt: skip
        data = sg.open_dataset(path)
        column = pq.read_metadata(path).row_group(1).column(1)
        content = bytearray(path.read_bytes())
        content[column.data_page_offset + 400] ^= 4
        stat = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(InputDataError, match=f"{path}, row group 1, column 'b' is damaged"):
            _all(data)

    def test_a_file_that_changes_during_a_run_is_refused(self, write_parquet, tmp_path):
        path = write_parquet("1.parquet", {"x": [1.0]})
        data = sg.open_dataset(path)
        write_parquet("1.parquet", {"x": [1.0, 2.0]})
        with pytest.raises(InputDataError, match="has changed since"):
            _all(data)
        path.unlink()
        with pytest.raises(InputDataError, match="has vanished"):
            _all(data)
