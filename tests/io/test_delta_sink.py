"""Scores as Delta tables: one transaction, the schema kept, all rows or the partitions or none replaced."""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import ConfigError, MissingPackageError, StorageError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.sink import places
from stream_gmm.io.sink.delta import log
from stream_gmm.io.source.files import _open_filesystem
from stream_gmm.io.store import lease as leases
from tests.cli.test_commands import run
from tests.servers import faulty_s3

deltalake = pytest.importorskip("deltalake")

HERE = SerialExecutor()


def _write_days(folder, days, rng, n=60):
    folder.mkdir(exist_ok=True)
    for day in days:
        rows = {
            "x": rng.normal(size=n), "y": rng.normal(size=n), "row": np.arange(n) + 1000 * day,
            "day": pa.array([dt.date(2026, 3, day)] * n, pa.date32()),
        }  # fmt: skip
        pq.write_table(pa.table(rows), folder / f"{day}.parquet")


@pytest.fixture
def days(tmp_path, rng):
    _write_days(tmp_path / "in", (1, 2), rng)
    return tmp_path / "in"


@pytest.fixture
def models(days):
    data = sg.open_dataset(days, ["x", "y"])
    return [sg.fit(data, k, "diag", n_init=1, client=HERE) for k in (1, 2)]


def _score(model, folder, table, **options):
    data = sg.open_dataset(folder, ["x", "y"])
    return sg.score(model, data, table, client=HERE, **{"sink": "delta", "proba": "list"} | options)


def _rows(table):
    found = deltalake.DeltaTable(table).to_pyarrow_table().sort_by("row")
    return found.column("row").to_pylist(), found


def test_the_table_has_the_rows_of_the_parquet_sink_in_one_version(days, models, tmp_path):
    result = _score(models[1], days, tmp_path / "t")
    sg.score(models[1], sg.open_dataset(days, ["x", "y"]), tmp_path / "plain", client=HERE, proba="list")
    names, found = _rows(tmp_path / "t")
    plain = pq.read_table(tmp_path / "plain").sort_by("row")
    assert len(names) == result.rows == 120
    assert found.select(plain.schema.names).cast(plain.schema).equals(plain)
    assert deltalake.DeltaTable(tmp_path / "t").version() == 0
    actions = pa.table(deltalake.DeltaTable(tmp_path / "t").get_add_actions())
    assert sum(actions["num_records"].to_pylist()) == 120


def test_the_same_job_is_done_once_and_another_model_replaces_all_rows(days, models, tmp_path):
    _score(models[0], days, tmp_path / "t")
    assert _score(models[0], days, tmp_path / "t").already_published
    _score(models[1], days, tmp_path / "t")
    assert not _score(models[0], days, tmp_path / "t").already_published
    table = deltalake.DeltaTable(tmp_path / "t")
    assert table.version() == 2
    assert [deltalake.DeltaTable(tmp_path / "t", version=v).to_pyarrow_table().num_rows for v in (0, 1, 2)] == [
        120
    ] * 3
    assert sg.open_scored(tmp_path / "t").rows == 120
    assert not sg.verify(tmp_path / "t").problems


def test_partitions_that_are_written_are_replaced_and_others_stay(days, models, tmp_path, rng):
    chosen = {"partition_by": ["day"], "write": "partitions"}
    _score(models[0], days, tmp_path / "t", **chosen)
    _write_days(tmp_path / "new", (2, 3), rng, n=10)
    _score(models[1], tmp_path / "new", tmp_path / "t", **chosen)
    rows, found = _rows(tmp_path / "t")
    assert rows == [*range(1000, 1060), *range(2000, 2010), *range(3000, 3010)]
    assert {d.day: set(found.filter(pa.compute.equal(found["day"], d))["component"].to_pylist()) for d in
            set(found["day"].to_pylist())}[1] == {0}  # fmt: skip
    assert _score(models[1], tmp_path / "new", tmp_path / "t", **chosen).already_published
    assert sg.open_scored(tmp_path / "t").rows == 80
    assert not sg.verify(tmp_path / "t").problems


def test_appended_once_whatever_happens_to_the_files_afterwards(days, models, tmp_path, rng):
    _score(models[0], days, tmp_path / "t", write="append")
    _write_days(tmp_path / "new", (3,), rng)
    _score(models[0], tmp_path / "new", tmp_path / "t", write="append")
    assert _score(models[0], days, tmp_path / "t", write="append").already_published
    assert len(_rows(tmp_path / "t")[0]) == 180
    deltalake.DeltaTable(tmp_path / "t").optimize.compact()
    assert _score(models[0], days, tmp_path / "t", write="append").already_published
    assert len(_rows(tmp_path / "t")[0]) == 180


@pytest.mark.parametrize("value", ["a b", "c/d=e", "ä%20", None, "1"])
def test_values_of_partitions_come_back_as_they_were(value, days, models, tmp_path, rng):
    path = days / "1.parquet"
    table = pq.read_table(path).append_column("site", pa.array([value] * 60, pa.string()))
    pq.write_table(table.append_column("flag", pa.array([True, False] * 30)), path)
    _score(models[0], path, tmp_path / "t", partition_by=["site", "flag"])
    rows, found = _rows(tmp_path / "t")
    assert rows == list(range(1000, 1060))
    assert set(found["site"].to_pylist()) == {value}
    assert found["flag"].to_pylist() == [True, False] * 30
    assert sg.open_dataset(tmp_path / "t", ["x"], filter="flag == true").num_rows == 30


def test_types_that_a_delta_table_lacks_are_widened_and_times_have_microseconds(days, models, tmp_path):
    path = days / "1.parquet"
    table = pq.read_table(path)
    big = np.full(60, 2**32 - 1, np.uint32)
    when = np.full(60, np.datetime64("2026-03-01T12:00:00.123456"))
    table = table.append_column("big", pa.array(big)).append_column("when", pa.array(when, pa.timestamp("ns")))
    pq.write_table(table.append_column("word", pa.array(["a"] * 60).dictionary_encode()), path)
    _score(models[0], path, tmp_path / "t")
    found = _rows(tmp_path / "t")[1]
    assert set(found["big"].to_pylist()) == {2**32 - 1}
    assert set(found["when"].to_pylist()) == {dt.datetime(2026, 3, 1, 12, 0, 0, 123456)}
    assert set(found["word"].to_pylist()) == {"a"}
    assert [str(found.schema.field(n).type) for n in ("big", "when", "word")] == ["int64", "timestamp[us]", "string"]


class TestWhatIsRefusedBeforeARowIsRead:
    @pytest.fixture
    def there(self, days, models, tmp_path):
        _score(models[0], days, tmp_path / "t")
        return tmp_path / "t"

    @pytest.fixture(autouse=True)
    def _no_reads(self, there, monkeypatch):
        monkeypatch.setattr("stream_gmm.pipeline.score.score_parts", None)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"entropy": True}, "'entropy' is only in the scores"),
            ({"passthrough": ["row"]}, "'x' is only in the table.*schema of a table is kept"),
            ({"proba": "columns"}, "'proba' is only in the table.*score.proba: list"),
            ({"partition_by": ["day"]}, "is partitioned by nothing, and the scores by day"),
            ({"write": "partitions"}, "there are none.*set score.partition_by"),
        ],
    )
    def test_another_schema(self, there, days, models, options, message):
        version = deltalake.DeltaTable(there).version()
        with pytest.raises(ConfigError, match=message):
            _score(models[0], days, there, **options)
        assert deltalake.DeltaTable(there).version() == version

    def test_another_type(self, there, days, models):
        path = days / "1.parquet"
        table = pq.read_table(path)
        pq.write_table(table.set_column(2, "row", table["row"].cast(pa.string())), path)
        with pytest.raises(ConfigError, match="'row' is int64 there, and string in the scores"):
            _score(models[0], path, there)

    def test_a_type_that_no_delta_table_has(self, days, models, tmp_path):
        path = days / "1.parquet"
        pq.write_table(pq.read_table(path).append_column("t", pa.array([dt.time(1)] * 60)), path)
        with pytest.raises(ConfigError, match=r"column 't' is time64\[us\], which a Delta table does not have"):
            _score(models[0], path, tmp_path / "new")

    def test_a_folder_of_something_else_and_the_input(self, days, models, tmp_path):
        with pytest.raises(StorageError, match="exists and is no Delta table: it holds 1.parquet|holds the input"):
            _score(models[0], days, days)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "a.txt").write_text("")
        with pytest.raises(StorageError, match="exists and is no Delta table: it holds a.txt"):
            _score(models[0], days, tmp_path / "other")

    def test_parquet_where_a_delta_table_is(self, there, days, models):
        with pytest.raises(StorageError, match="exists and is not an output of stream-gmm"):
            _score(models[0], days, there, sink="parquet")

    def test_append_to_parquet(self, days, models, tmp_path):
        with pytest.raises(ConfigError, match="score.write: append is for Delta tables"):
            _score(models[0], days, tmp_path / "t", sink="parquet", write="append")

    def test_without_the_package(self, days, models, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
        with pytest.raises(MissingPackageError, match=r"needs the package deltalake.*stream-gmm\[delta\]"):
            _score(models[0], days, tmp_path / "t")


def test_an_empty_text_is_no_partition(days, models, tmp_path):
    path = days / "1.parquet"
    pq.write_table(pq.read_table(path).append_column("site", pa.array([""] * 60)), path)
    with pytest.raises(StorageError, match="an empty text in 'site'"):
        _score(models[0], path, tmp_path / "t", partition_by=["site"])
    assert not (tmp_path / "t" / "_delta_log").exists()


def test_an_answer_that_was_lost_is_looked_up_in_the_log(days, models, tmp_path, monkeypatch):
    _score(models[0], days, tmp_path / "t")
    make = deltalake.DeltaTable.create_write_transaction

    def lose(*args, **options):
        make(*args, **options)
        raise OSError("connection reset")

    monkeypatch.setattr(deltalake.DeltaTable, "create_write_transaction", lose)
    assert not _score(models[1], days, tmp_path / "t").already_published
    assert deltalake.DeltaTable(tmp_path / "t").version() == 1
    monkeypatch.setattr(deltalake.DeltaTable, "create_write_transaction", mock.Mock(side_effect=OSError("full")))
    with pytest.raises(StorageError, match="cannot commit to the Delta table.*the table is as it was"):
        _score(models[0], days, tmp_path / "t")
    assert len(_rows(tmp_path / "t")[0]) == 120


def test_damage_is_found(days, models, tmp_path):
    _score(models[0], days, tmp_path / "t")
    path = Path(sg.open_scored(tmp_path / "t").files[0])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert [p.what for p in sg.verify(tmp_path / "t").problems] == ["its SHA-256 does not match"]
    assert not _score(models[0], days, tmp_path / "t").already_published
    assert not sg.verify(tmp_path / "t").problems


@pytest.mark.slow
def test_an_update_adds_the_files_of_new_data_and_removes_those_of_data_that_are_gone(days, tmp_path, rng):
    out, table = tmp_path / "run", tmp_path / "t"
    chosen = ("--executor", "serial", "--folder", out, "--scored", table, "--sink", "delta", "--proba", "list",
              "--columns", "x,y")  # fmt: skip
    run("sweep", days, "--n-components", 1, "--covariance-type", "diag", *chosen)
    run("score", days, *chosen)
    before = set(deltalake.DeltaTable(table).file_uris())
    _write_days(days, (3,), rng)
    run("update", "--folder", out)
    after = set(deltalake.DeltaTable(table).file_uris())
    assert before < after
    assert len(after - before) == 1
    assert len(_rows(table)[0]) == 180
    (days / "1.parquet").unlink()
    run("update", "--folder", out)
    assert set(deltalake.DeltaTable(table).file_uris()) < after
    assert _rows(table)[0] == [*range(2000, 2060), *range(3000, 3060)]
    assert json.loads(run("verify", out, "--json"))["intact"]
    assert f"scored rows  {table}" in run("report", out)


@pytest.mark.long
def test_killed_at_any_file_that_it_writes_the_table_has_the_old_version_or_the_new_one(days, models, tmp_path):
    saved = [sg.save_model(m, tmp_path / f"{i}.gmm") for i, m in enumerate(models)]
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import stream_gmm as sg
from stream_gmm.execute.serial import SerialExecutor
model = sg.load_model(sys.argv[1]); data = sg.open_dataset({str(days)!r}, ["x", "y"])
left = int(sys.argv[2])
def count(event, args):
    global left
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and {str(tmp_path / "t")!r} in str(args[0]):
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(count)
sg.score(model, data, {str(tmp_path / "t")!r}, client=SerialExecutor(), sink="delta", proba="list")
"""
    import subprocess
    import sys

    digests = {m.digest for m in models}
    ended, seen = False, []
    for stop in range(0, 400, int(os.environ.get("STREAM_GMM_KILL_STEP", "6"))):
        _score(models[0], days, tmp_path / "t")
        done = subprocess.run([sys.executable, "-c", code, str(saved[1]), str(stop)], check=False)
        rows = _rows(tmp_path / "t")[0]
        assert len(rows) == len(set(rows)) == 120
        digest = sg.open_scored(tmp_path / "t").manifest["model_digest"]
        assert digest in digests
        seen.append(digest == models[1].digest)
        _score(models[1], days, tmp_path / "t")
        assert sg.open_scored(tmp_path / "t").manifest["model_digest"] == models[1].digest
        if done.returncode == 0:
            ended = True
            break
    assert ended
    assert seen[0] is False
    print(f"killed at {len(seen)} of {stop} steps: {seen.count(False)} times the old version, else the new one")


@pytest.fixture
def store(s3, monkeypatch):
    with faulty_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr(places, "FIRST_PAUSE_SECONDS", 0.0)
        _open_filesystem.cache_clear()  # it knows the other address
        s3.create_dir("deltasink")
        yield server
        s3.delete_dir_contents("deltasink")
    _open_filesystem.cache_clear()


def _count_rows(uri):
    state = log.read_state(uri)
    assert state is not None
    return state.version, state.table.to_pyarrow_table().num_rows


@pytest.mark.slow
def test_a_table_in_an_object_store(days, models, store):
    uri = "s3://deltasink/t"
    _score(models[0], days, uri)
    assert _score(models[0], days, uri).already_published
    _score(models[1], days, uri)
    assert _count_rows(uri) == (1, 120)
    assert sg.open_dataset(uri, ["x"]).num_rows == 120
    assert sg.open_scored(uri).rows == 120
    assert not sg.verify(uri).problems


@pytest.mark.long
@pytest.mark.parametrize("fault", ["500", "503", "lost"])
def test_requests_that_fail_now_and_then_do_not_show(fault, days, models, store):
    uri = "s3://deltasink/t"
    store.faults = lambda number, *_: fault if number % 5 == 4 else ""
    _score(models[0], days, uri)
    _score(models[1], days, uri)
    store.faults = lambda *_: ""
    assert _count_rows(uri) == (1, 120)
    assert sg.open_scored(uri).manifest["model_digest"] == models[1].digest
    assert not sg.verify(uri).problems


@pytest.mark.slow
def test_an_answer_to_the_commit_that_was_lost_is_looked_up(days, models, store):
    uri = "s3://deltasink/t"
    _score(models[0], days, uri)
    lost: list[str] = []

    def lose(_, method, path):
        if method == "PUT" and "_delta_log" in path and not lost:
            lost.append(path)
            return "lost"
        return ""

    store.faults = lose
    assert not _score(models[1], days, uri).already_published
    assert lost
    store.faults = lambda *_: ""
    assert _count_rows(uri) == (1, 120)


@pytest.mark.long
@pytest.mark.parametrize("first", ["dead", "last"])
def test_killed_between_any_two_requests_the_old_version_is_current_or_the_new(first, days, models, store):
    digests, seen, ended = {m.digest for m in models}, [], False
    for stop in range(0, 400, int(os.environ.get("STREAM_GMM_KILL_STEP", "17"))):
        uri = f"s3://deltasink/t{stop}"
        _score(models[0], days, uri)
        start = len(store.requests)

        def choose(number, *_, start=start, stop=stop):
            return "" if number - start < stop else (first if number - start == stop else "dead")

        store.faults = choose
        gone = leases.make_owner("killed")
        with (
            mock.patch.object(leases, "make_owner", return_value=replace(gone, started="0")),
            mock.patch.object(log, "find_writer_options", _without_retries),
        ):
            try:
                _score(models[1], days, uri)
                ended = True
            except StorageError:
                ended = False
            finally:
                store.faults = lambda *_: ""
        assert _count_rows(uri)[1] == 120
        digest = sg.open_scored(uri).manifest["model_digest"]
        assert digest in digests
        assert not sg.verify(uri).problems
        seen.append(digest == models[1].digest)
        _score(models[1], days, uri)
        assert sg.open_scored(uri).manifest["model_digest"] == models[1].digest
        if ended:
            break
    assert ended
    assert seen[0] is False
    print(f"killed at {len(seen)} of {stop} requests: {seen.count(False)} times the old version, else the new one")


def _without_retries(table, make=log.find_writer_options):
    return {**make(table), "max_retries": "0", "timeout": "5s"}
