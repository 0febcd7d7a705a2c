"""Iceberg tables: through their metadata, at a snapshot; what their files do not say is refused."""

from __future__ import annotations

import datetime as dt
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

pytest.importorskip("pyiceberg")


def _rows(rng, n, **more):
    return pa.table({"x": rng.normal(size=n), "y": rng.normal(size=n), **more})


def _make_catalog(folder, name="lake", **properties):
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog(name, uri=f"sqlite:///{folder}/catalog.db", **properties)
    catalog.create_namespace_if_not_exists("ns")
    return catalog


@pytest.fixture
def catalog(tmp_path):
    return _make_catalog(tmp_path, warehouse=f"file://{tmp_path}/lake")


@pytest.fixture
def table(catalog, rng):
    """A thousand rows; overwritten by a hundred; fifty more."""
    rows = _rows(rng, 1000)
    made = catalog.create_table("ns.t", schema=rows.schema)
    made.append(rows)
    made.overwrite(_rows(rng, 100))
    made.append(_rows(rng, 50))
    return made


def _root(table):
    return Path(table.location().removeprefix("file://"))


def _read(dataset):
    return np.sort(np.concatenate([c.rows[:, 0] for leaf in dataset.leaves() for c in leaf.chunks()]))


def test_rows_are_those_of_the_current_snapshot_or_of_the_one_that_is_asked_for(table):
    latest = sg.open_dataset(_root(table))
    assert latest.num_rows == 150
    assert sg.fit(latest, 1, client=SerialExecutor()).criteria.n_rows == 150
    np.testing.assert_array_equal(_read(latest), np.sort(table.scan().to_arrow()["x"].to_numpy()))
    counts = {s.snapshot_id: table.scan(snapshot_id=s.snapshot_id).count() for s in table.snapshots()}
    rows = {s: sg.open_dataset(_root(table), table_version=s).num_rows for s, n in counts.items() if n}
    assert rows == {s: n for s, n in counts.items() if n}  # overwriting makes a snapshot without rows, too
    assert {1000, 150} <= set(rows.values())


@pytest.mark.slow
def test_the_snapshot_is_in_fingerprint_record_and_manifest(table, tmp_path):
    first = table.snapshots()[0].snapshot_id
    old, new = sg.open_dataset(_root(table), table_version=first), sg.open_dataset(_root(table))
    assert old.fingerprint != new.fingerprint
    out = tmp_path / "out"
    chosen = ("--table-version", first, "--executor", "serial", "--folder", out)
    run("sweep", _root(table), "--n-components", "1,2", "--covariance-type", "diag", *chosen)
    run("score", _root(table), *chosen)
    named = [f"Iceberg table {_root(table)}, snapshot {first}"]
    assert json.loads((out / "run.json").read_text())["data"]["tables"] == named
    assert json.loads((out / "scored" / "_manifest.json").read_text())["tables"] == named
    assert sum(pq.ParquetFile(f).metadata.num_rows for f in (out / "scored").rglob("*.parquet")) == 1000


def test_a_metadata_file_and_a_table_of_a_catalog_can_be_named(table, catalog, tmp_path, monkeypatch):
    assert sg.open_dataset(table.metadata_location.removeprefix("file://")).num_rows == 150
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__TYPE", "sql")
    from pyiceberg.utils.config import Config

    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
    dataset = sg.open_dataset("iceberg://lake/ns.t")
    assert dataset.num_rows == 150
    assert str(dataset.tables[0]).startswith("Iceberg table iceberg://lake/ns.t, snapshot")


def test_a_snapshot_stays_what_it_was_after_the_table_was_written_to(table, rng):
    before = sg.open_dataset(_root(table))
    table.overwrite(_rows(rng, 10))
    assert sg.open_dataset(_root(table)).num_rows == 10
    assert sg.open_dataset(_root(table), table_version=before.tables[0].version).fingerprint == before.fingerprint


def test_partition_columns_are_columns_though_no_file_has_them(catalog, rng):
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.transforms import IdentityTransform
    from pyiceberg.types import DateType, DoubleType, NestedField, StringType

    schema = Schema(
        NestedField(1, "x", DoubleType()), NestedField(2, "site", StringType()), NestedField(3, "day", DateType())
    )
    spec = PartitionSpec(
        PartitionField(2, 1000, IdentityTransform(), "site"), PartitionField(3, 1001, IdentityTransform(), "day")
    )
    table = catalog.create_table("ns.p", schema=schema, partition_spec=spec)
    n, day = 60, dt.date(2026, 3, 1)
    table.append(
        pa.table(
            {
                "x": rng.normal(size=n), "site": ["a b", "c/d", None] * (n // 3),
                "day": pa.array([day, day + dt.timedelta(1)] * (n // 2), pa.date32()),
            }
        )
    )  # fmt: skip
    oracle = {r["x"]: (r["site"], r["day"]) for r in table.scan().to_arrow().to_pylist()}
    for task in table.scan().plan_files():  # as files that were taken over from Hive are
        path = task.file.file_path.removeprefix("file://")
        pq.write_table(pq.ParquetFile(path).read(["x"]), path)
    dataset = sg.open_dataset(_root(table), ["x"])
    model = sg.fit(dataset, 1, client=SerialExecutor())
    sg.score(model, dataset, _root(table).parent / "scored", client=SerialExecutor())
    files = (_root(table).parent / "scored").rglob("*.parquet")
    scored = [row for f in files for row in pq.ParquetFile(f).read().to_pylist()]
    assert len(scored) == n
    assert all(oracle[r["x"]] == (r["site"], r["day"]) for r in scored)
    assert sg.open_dataset(_root(table), ["x"], filter="site == 'c/d'").num_rows == 20


class TestWhatIsRefused:
    def test_a_snapshot_that_there_is_not(self, table):
        with pytest.raises(InputDataError, match="cannot read the Iceberg table .* at snapshot 9. there is no such"):
            sg.open_dataset(_root(table), table_version=9)

    def test_a_snapshot_of_no_table(self, write_parquet, rng):
        with pytest.raises(ConfigError, match="none of data.paths is a Delta or Iceberg table"):
            sg.open_dataset(write_parquet("a.parquet", {"x": rng.normal(size=9)}), table_version=1)

    def test_a_file_that_is_gone(self, table):
        Path(next(iter(table.scan().plan_files())).file.file_path.removeprefix("file://")).unlink()
        with pytest.raises(InputDataError, match="belongs to the Iceberg table .*, and is not there.*table_version"):
            sg.open_dataset(_root(table))

    def test_delete_files(self, table, monkeypatch):
        from pyiceberg.table import DataScan

        plan = DataScan.plan_files

        def with_deletes(scan):
            for task in plan(scan):
                task.delete_files.add(task.file)
                yield task

        monkeypatch.setattr(DataScan, "plan_files", with_deletes)
        with pytest.raises(InputDataError, match=r"1 delete files hide rows of .*rewrite_data_files"):
            sg.open_dataset(_root(table))

    def test_a_renamed_column(self, table):
        with table.update_schema() as update:
            update.rename_column("x", "z")
        with pytest.raises(InputDataError, match="the column 'x' is 'z' in the table now.*rewrite_data_files"):
            sg.open_dataset(_root(table))

    def test_a_dropped_column_and_one_of_the_same_name_that_followed_it(self, table):
        with table.update_schema() as update:
            update.delete_column("y")
        with pytest.raises(InputDataError, match="the column 'y' has been dropped from the table"):
            sg.open_dataset(_root(table))
        from pyiceberg.types import DoubleType

        with table.update_schema() as update:
            update.add_column("y", DoubleType())
        with pytest.raises(InputDataError, match="the column 'y' has been dropped from the table"):
            sg.open_dataset(_root(table))

    def test_two_newest_metadata_files(self, table):
        newest = Path(table.metadata_location.removeprefix("file://"))
        newest.with_name(newest.name[:6] + "other" + newest.name[6:]).write_text("{}")
        with pytest.raises(InputDataError, match="2 newest metadata files.*only its catalog knows"):
            sg.open_dataset(_root(table))
        assert sg.open_dataset(newest).num_rows == 150

    def test_damaged_metadata(self, table):
        Path(table.metadata_location.removeprefix("file://")).write_text("{")
        with pytest.raises(InputDataError, match="cannot read the Iceberg table"):
            sg.open_dataset(_root(table))

    def test_a_catalog_that_is_not_configured(self):
        with pytest.raises(InputDataError, match="cannot read the Iceberg table iceberg://nowhere/ns.t"):
            sg.open_dataset("iceberg://nowhere/ns.t")

    def test_without_the_package(self, table, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyiceberg", None)
        with pytest.raises(MissingPackageError, match=r"pyiceberg, which is not installed.*stream-gmm\[iceberg\]"):
            sg.open_dataset(_root(table))


def test_a_table_in_an_object_store_is_read_through_its_metadata(s3, s3_endpoint, tmp_path, rng):
    s3.create_dir("icelake")
    store = {"s3.endpoint": s3_endpoint, "s3.region": "us-east-1"}
    catalog = _make_catalog(tmp_path, warehouse="s3://icelake/w", **store)
    table = catalog.create_table("ns.t", schema=_rows(rng, 1).schema)
    table.append(_rows(rng, 80))
    table.overwrite(_rows(rng, 30))
    uri = table.location()
    dataset = sg.open_dataset(uri)
    assert (dataset.num_rows, [t.form for t in dataset.tables]) == (30, ["Iceberg"])
    assert sg.fit(dataset, 1, client=SerialExecutor()).criteria.n_rows == 30
    assert sg.open_dataset(table.metadata_location).num_rows == 30
