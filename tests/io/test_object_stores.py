"""Scores in an object store: complete or as before, whatever happens in between."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from unittest import mock

import pyarrow.dataset as ds
import pytest

import stream_gmm as sg
from stream_gmm.errors import FolderInUseError, StorageError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.sink import places
from stream_gmm.io.sink.objects.commits import LATEST
from stream_gmm.io.sink.objects.lease import hold_prefix
from stream_gmm.io.source.files import _open_filesystem
from stream_gmm.io.source.listing import TRIPWIRE
from stream_gmm.io.store import lease as leases
from tests.cli.test_commands import run as run_command
from tests.servers import faulty_s3


@pytest.fixture(scope="module")
def model(demo_folder):
    return sg.fit(sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"]), 3, "full")


@pytest.fixture
def data(demo_folder):
    return sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"])


@pytest.fixture
def bucket(s3, tmp_path):
    name = tmp_path.name.replace("_", "-").lower()[:60].strip("-")
    s3.create_dir(name)
    return name


def _read_latest(s3, place):
    with s3.open_input_stream(f"{place}/{LATEST}") as stream:
        folder = json.loads(stream.read())["folder"]
    return ds.dataset(f"{place}/{folder}", filesystem=s3).to_table()


def test_scores_are_written_to_a_bucket_and_read_by_plain_readers(model, data, s3, bucket, tmp_path):
    uri = f"s3://{bucket}/out"
    first = sg.score(model, data, uri)
    sg.score(model, data, tmp_path / "scored")

    assert first.path == uri
    assert _read_latest(s3, f"{bucket}/out").equals(ds.dataset(tmp_path / "scored").to_table())
    opened = sg.open_scored(uri)
    assert opened.to_dataset().to_table().equals(sg.open_scored(tmp_path / "scored").to_dataset().to_table())
    assert len(opened.files) == 4
    assert opened.rows == 20_000
    assert sg.score(model, data, uri).already_published
    other = sg.score(sg.fit(data, 2, "diag"), data, uri)
    assert not other.already_published
    assert _read_latest(s3, f"{bucket}/out").num_rows == 20_000
    with pytest.raises(ValueError, match=TRIPWIRE):
        ds.dataset(f"{bucket}/out", filesystem=s3, format="parquet").to_table()


@pytest.fixture
def faulty(s3, monkeypatch):
    with faulty_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        _open_filesystem.cache_clear()  # it knows the other address
        yield server
    _open_filesystem.cache_clear()


def _find_digest(s3, place, rows=20_000):
    """Return the digest of the model whose complete scores are current for a plain reader, or None."""
    try:
        table = _read_latest(s3, place)
    except FileNotFoundError:
        return None
    assert table.num_rows == rows
    assert table["log_density"].null_count == 0
    return table.schema.metadata[b"stream_gmm.model_digest"].decode()


def _every(n, fault):
    return lambda number, method, path: fault if number % n == n - 1 else ""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "503", "lost"])
def test_requests_that_fail_now_and_then_do_not_show(model, data, s3, bucket, faulty, fault, monkeypatch):
    monkeypatch.setattr(places, "FIRST_PAUSE_SECONDS", 0.01)
    faulty.faults = _every(5, fault)
    sg.score(model, data, f"s3://{bucket}/out", client=SerialExecutor())
    faulty.faults = _every(7, fault)
    result = sg.score(model, data, f"s3://{bucket}/out", client=SerialExecutor())

    assert result.already_published
    assert _find_digest(s3, f"{bucket}/out") == model.digest
    with s3.open_input_stream(f"{bucket}/out/{LATEST}") as stream:
        assert json.loads(stream.read())["number"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "503", pytest.param("reset", marks=pytest.mark.long), "stall"])
def test_input_from_a_store_that_fails_now_and_then_gives_the_same_bits(demo_folder, s3, bucket, faulty, fault):
    with s3.open_output_stream(f"{bucket}/in/a.parquet") as out:
        out.write((demo_folder / "part-000.parquet").read_bytes())
    faulty.stall_seconds = 0.5
    plain = sg.fit(
        sg.open_dataset(f"s3://{bucket}/in", columns=["x0", "x1"]), 2, "diag", n_init=1, client=SerialExecutor()
    )
    faulty.faults = _every(3, fault)
    again = sg.fit(
        sg.open_dataset(f"s3://{bucket}/in", columns=["x0", "x1"]), 2, "diag", n_init=1, client=SerialExecutor()
    )
    assert again.digest == plain.digest


@pytest.mark.long
def test_closed_connections_and_late_answers_do_not_show(model, data, s3, bucket, faulty, monkeypatch):
    monkeypatch.setattr(places, "FIRST_PAUSE_SECONDS", 0.01)
    faulty.faults = lambda number, *_: {11: "reset", 29: "stall", 50: "stall", 71: "reset"}.get(number, "")
    sg.score(model, data, f"s3://{bucket}/out", client=SerialExecutor())

    assert _find_digest(s3, f"{bucket}/out") == model.digest


def _publish_until(model, data, uri, faulty, stop, faults):
    """Publish as a process that is killed at a request: the store sees no more of it; returns if it ended before."""
    start = len(faulty.requests)
    faulty.faults = lambda number, *_: "" if number - start < stop else faults[min(number - start - stop, 1)]
    gone = leases.make_owner("killed")
    with mock.patch.object(leases, "make_owner", return_value=replace(gone, started="0")):
        try:
            sg.score(model, data, uri, client=SerialExecutor())
        except StorageError:
            return False
        finally:
            faulty.faults = lambda *_: ""
    return True


@pytest.mark.long
@pytest.mark.parametrize("first", ["dead", "done"])
def test_killed_between_any_two_requests_the_old_scores_are_current_or_the_new(
    data, demo_folder, s3, bucket, faulty, first, monkeypatch
):
    monkeypatch.setattr(places, "FIRST_PAUSE_SECONDS", 0.0)
    one_file = sg.open_dataset(demo_folder / "part-000.parquet", columns=["x0", "x1", "x2"])
    models = [sg.fit(one_file, k, "diag", n_init=1) for k in (1, 2)]
    digests = {m.digest for m in models}
    seen: list[bool] = []
    faults = ("last", "dead") if first == "done" else ("dead", "dead")
    for stop in range(0, 1000, int(os.environ.get("STREAM_GMM_KILL_STEP", "9"))):
        uri = f"s3://{bucket}/out{stop}"
        sg.score(models[0], one_file, uri, client=SerialExecutor())
        ended = _publish_until(models[1], one_file, uri, faulty, stop, faults)
        current = sg.open_scored(uri)
        assert current.to_dataset().count_rows() == one_file.num_rows
        assert current.manifest["model_digest"] in digests
        assert _find_digest(s3, f"{bucket}/out{stop}", one_file.num_rows) in digests
        sg.score(models[1], one_file, uri, client=SerialExecutor())  # started again, it ends well
        assert _find_digest(s3, f"{bucket}/out{stop}", one_file.num_rows) == models[1].digest
        names = places.ObjectPlace(uri).list()
        assert len({n.split("/")[0] for n in names if n.startswith("v-")}) == 2
        assert not [n for n in names if n.startswith("_lease/")]
        seen.append(current.manifest["model_digest"] == models[1].digest)
        if ended:
            break
    assert ended
    assert seen[0] is False
    print(f"killed at {len(seen)} of {stop} requests: {seen.count(False)} times the old scores, else the new")


@pytest.mark.slow
def test_a_run_publishes_its_scores_to_a_bucket(demo_folder, s3, bucket, tmp_path):
    uri = f"s3://{bucket}/scored"
    with s3.open_output_stream(f"{bucket}/in/a.parquet") as out:
        out.write((demo_folder / "part-000.parquet").read_bytes())
    options = ["--columns", "x0,x1,x2", "--executor", "threads", "--folder", tmp_path / "run", "--scored", uri]
    source = f"s3://{bucket}/in"
    run_command("sweep", source, *options, "--n-components", 2, "--covariance-type", "diag")
    printed = run_command("score", source, *options)
    assert f"published: {uri}" in printed
    assert sg.open_scored(uri).rows == 5_000
    assert f"scored rows  {uri}" in run_command("report", tmp_path / "run")
    assert json.loads(run_command("verify", tmp_path / "run", "--json"))["files"] == 1
    assert run_command("clean", uri) == "nothing to remove\n"
    line = json.loads(run_command("monitor", source, *options).splitlines()[0])
    assert line["rows"] == 5_000
    again = ["--model", tmp_path / "run" / "model.gmm", "--folder", f"s3://{bucket}/other"]
    run_command("score", source, "--columns", "x0,x1,x2", "--executor", "threads", *again)
    assert sg.open_scored(f"s3://{bucket}/other/scored").rows == 5_000
    assert "inside of each other" in run_command("sweep", source, "--folder", f"s3://{bucket}/in/run", code=2)


@pytest.mark.slow
def test_damage_in_a_bucket_is_found_and_what_is_left_over(model, data, s3, bucket):
    uri = f"s3://{bucket}/out"
    for k in (1, 2):
        sg.score(sg.fit(data, k, "diag"), data, uri)
    table = sg.open_scored(uri)
    left = [x.path for x in sg.clean(uri)]
    assert len(left) == 2
    assert not any(x in table.files[0] for x in left)
    sg.clean(uri, remove=True)
    assert sg.clean(uri) == ()
    assert not sg.verify(uri).problems

    path = table.files[1].removeprefix("s3://")
    with s3.open_input_stream(path) as stream:
        content = bytearray(stream.read())
    content[len(content) // 2] ^= 1
    with s3.open_output_stream(path) as stream:
        stream.write(bytes(content))
    assert [p.what for p in sg.verify(uri).problems] == ["its SHA-256 does not match"]
    assert not sg.score(sg.fit(data, 2, "diag"), data, uri).already_published
    assert not sg.verify(uri).problems


@pytest.mark.slow
def test_of_two_writers_one_holds_the_prefix(model, data, s3, bucket):
    uri = f"s3://{bucket}/out"
    held, ends = threading.Event(), []

    def hold() -> None:
        with hold_prefix(places.ObjectPlace(uri), run="another"):
            held.set()
            time.sleep(2.0)
        ends.append("released")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    with pytest.raises(FolderInUseError, match=r"out is in use: run 'another' of"):
        sg.score(model, data, uri)
    sg.score(model, data, uri, wait=30)
    assert ends == ["released"]
    thread.join()


@pytest.mark.slow
def test_the_lease_of_a_prefix_is_never_held_twice(s3, bucket):
    place, inside, most, held = places.ObjectPlace(f"s3://{bucket}/out"), [], [], []

    def take_turns() -> None:
        for _ in range(3):
            with hold_prefix(place, wait=120):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()
                held.append(1)

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(held) == 12
