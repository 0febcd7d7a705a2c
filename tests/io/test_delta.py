"""Delta tables: through their log, at a version, with partition columns; what their files do not say is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import ConfigError, InputDataError, MissingPackageError
from stream_gmm.execute.serial import SerialExecutor
from tests.cli.test_commands import run

deltalake = pytest.importorskip("deltalake")


def _rows(rng, n, **more):
    return pa.table({"x": rng.normal(size=n), "y": rng.normal(size=n), **more})


@pytest.fixture
def table(tmp_path, rng):
    """Version 0: a thousand rows; 1: overwritten by a hundred; 2: fifty more."""
    path = tmp_path / "table"
    for n, mode in ((1000, "error"), (100, "overwrite"), (50, "append")):
        deltalake.write_deltalake(path, _rows(rng, n), mode=mode)
    return path


@pytest.fixture
def partitioned(tmp_path, rng):
    path = tmp_path / "parts"
    n = 300
    site = ["a b", "c/d", None] * (n // 3)
    deltalake.write_deltalake(
        path,
        _rows(rng, n, site=site, year=pa.array([2020, 2021] * (n // 2), pa.int32())),
        partition_by=["site", "year"],
    )
    return path


def test_rows_are_those_of_the_latest_version_or_of_the_one_that_is_asked_for(table):
    latest = sg.open_dataset(table)
    assert latest.num_rows == 150
    assert sg.fit(latest, 1, client=SerialExecutor()).criteria.n_rows == 150
    rows = np.sort(np.concatenate([c.rows[:, 0] for leaf in latest.leaves() for c in leaf.chunks()]))
    oracle = deltalake.DeltaTable(table).to_pyarrow_table()["x"].to_numpy()
    np.testing.assert_array_equal(rows, np.sort(oracle))
    assert [sg.open_dataset(table, table_version=v).num_rows for v in (0, 1, 2)] == [1000, 100, 150]


def test_the_version_is_in_fingerprint_provenance_record_and_manifest(table, tmp_path):
    first, last = (sg.open_dataset(table, table_version=v) for v in (1, 2))
    assert first.fingerprint != last.fingerprint
    assert last.fingerprint == sg.open_dataset(table).fingerprint
    out = tmp_path / "out"
    chosen = ("--table-version", "1", "--executor", "serial", "--folder", out)
    run("sweep", table, "--n-components", "1,2", "--covariance-type", "diag", *chosen)
    run("score", table, *chosen)
    record = json.loads((out / "run.json").read_text())
    assert record["data"]["tables"] == [f"Delta table {table}, version 1"]
    assert json.loads((out / "scored" / "_manifest.json").read_text())["tables"] == record["data"]["tables"]
    assert pq.read_table(out / "scored").num_rows == 100


def test_an_unchanged_job_goes_on_after_the_table_was_written_to(table, tmp_path, rng):
    """Files that a later version removes stay on the disk: a pinned version reads the same rows."""
    before = sg.open_dataset(table, table_version=2)
    deltalake.write_deltalake(table, _rows(rng, 10), mode="overwrite")
    assert sg.open_dataset(table, table_version=2).fingerprint == before.fingerprint
    assert sg.fit(before, 1, client=SerialExecutor()).criteria.n_rows == 150


def test_partition_columns_are_columns(partitioned, tmp_path):
    dataset = sg.open_dataset(partitioned)
    assert dataset.columns == ("x", "y")
    assert any("partition columns of the table are not fitted: ['site', 'year']" in w for w in dataset.warnings)
    model = sg.fit(dataset, 1, client=SerialExecutor())
    sg.score(model, dataset, tmp_path / "scored", client=SerialExecutor())
    files = sorted((tmp_path / "scored").rglob("*.parquet"))
    scored = pa.concat_tables([pq.ParquetFile(f).read() for f in files])
    oracle = deltalake.DeltaTable(partitioned).to_pyarrow_table()
    by_x = {r["x"]: (r["site"], r["year"]) for r in oracle.to_pylist()}
    assert len(by_x) == scored.num_rows == 300
    assert all(by_x[r["x"]] == (r["site"], r["year"]) for r in scored.to_pylist())


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("site == 'a b'", 100),
        ("site is null and year == 2021", 50),
        ("year > 2020", 150),
        ("site in ['c/d', 'a b']", 200),
    ],
)
def test_a_filter_takes_partition_columns_and_opens_only_their_files(partitioned, text, rows):
    dataset = sg.open_dataset(partitioned, ["x", "year"], filter=text)
    assert dataset.num_rows == rows
    assert sum(len(c.rows) for leaf in dataset.leaves() for c in leaf.chunks()) == rows


def test_only_partition_columns_can_be_asked_for(partitioned):
    dataset = sg.open_dataset(partitioned, ["year"])
    assert sorted({v for leaf in dataset.leaves() for c in leaf.chunks() for v in c.rows[:, 0]}) == [2020.0, 2021.0]
    assert sum(len(c.rows) for leaf in dataset.leaves() for c in leaf.chunks()) == 300


class TestWhatIsRefused:
    def test_a_version_that_there_is_not(self, table):
        with pytest.raises(InputDataError, match="cannot read the Delta table .* at version 9"):
            sg.open_dataset(table, table_version=9)

    def test_a_version_of_no_table(self, write_parquet, rng):
        with pytest.raises(ConfigError, match=r"table_version is 1, and none of data.paths is a Delta or Iceberg"):
            sg.open_dataset(write_parquet("a.parquet", {"x": rng.normal(size=9)}), table_version=1)

    def test_a_file_that_was_vacuumed(self, table):
        gone = Path(deltalake.DeltaTable(table, version=1).file_uris()[0])
        gone.unlink()
        with pytest.raises(InputDataError, match=r"belongs to the Delta table .*, and is not there.*table_version"):
            sg.open_dataset(table, table_version=1)

    @pytest.mark.parametrize(
        ("features", "configuration", "message"),
        [
            (["deletionVectors"], {}, "deletion vectors mark as deleted.*PURGE"),
            (["columnMapping"], {"delta.columnMapping.mode": "name"}, "maps its columns to other names"),
        ],
        ids=["deletion vector", "column mapping"],
    )
    def test_files_that_do_not_hold_the_rows_as_they_are(self, table, features, configuration, message):
        (file,) = (f for f in deltalake.DeltaTable(table).file_uris()[:1])
        name, size = Path(file).name, Path(file).stat().st_size
        deleted = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4, "sizeInBytes": 40,
                   "cardinality": 1}  # fmt: skip
        first = [json.loads(line) for line in (table / "_delta_log" / f"{0:020d}.json").read_text().splitlines()]
        (meta,) = (a["metaData"] for a in first if "metaData" in a)
        schema = json.loads(meta["schemaString"])
        for i, field in enumerate(schema["fields"]):
            field["metadata"] = {"delta.columnMapping.id": i + 1, "delta.columnMapping.physicalName": f"col-{i}"}
        if configuration:
            meta["schemaString"] = json.dumps(schema)
        actions = [
            {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features,
                          "writerFeatures": features}},
            {"metaData": {**meta, "configuration": configuration}},
            {"remove": {"path": name, "deletionTimestamp": 1, "dataChange": True}},
            {"add": {"path": name, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": True,
                     **({"deletionVector": deleted} if "deletionVectors" in features else {})}},
        ]  # fmt: skip
        (table / "_delta_log" / f"{3:020d}.json").write_text("\n".join(map(json.dumps, actions)))
        with pytest.raises(InputDataError, match=message):
            sg.open_dataset(table)
        assert sg.open_dataset(table, table_version=2).num_rows == 150

    def test_a_damaged_log(self, table):
        (table / "_delta_log" / f"{2:020d}.json").write_text("{")
        with pytest.raises(InputDataError, match="cannot read the Delta table"):
            sg.open_dataset(table)

    def test_without_the_package(self, table, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
        with pytest.raises(MissingPackageError, match=r"deltalake, which is not installed.*stream-gmm\[delta\]"):
            sg.open_dataset(table)


def test_a_table_in_an_object_store_is_read_through_its_log(s3, s3_endpoint, rng):
    s3.create_dir("lake")
    options = {
        "AWS_ENDPOINT_URL": s3_endpoint, "AWS_ALLOW_HTTP": "true", "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
        "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
    }  # fmt: skip
    for n, mode in ((80, "error"), (30, "overwrite")):
        site = ["a b"] * (n // 2) + ["c"] * (n - n // 2)
        deltalake.write_deltalake(
            "s3://lake/t", _rows(rng, n, site=site), mode=mode, storage_options=options, partition_by=["site"]
        )
    dataset = sg.open_dataset("s3://lake/t/", filter="site == 'a b'")
    assert (dataset.num_rows, [t.version for t in dataset.tables]) == (15, [1])
    assert sg.fit(dataset, 1, client=SerialExecutor()).criteria.n_rows == 15
