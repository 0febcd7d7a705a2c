"""Scores in an object store: complete or as before, whatever happens in between."""

from __future__ import annotations

import json

import pyarrow.dataset as ds
import pytest

import stream_gmm as sg
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.sink import places
from stream_gmm.io.sink.commits import LATEST
from stream_gmm.io.source.files import _open_filesystem
from stream_gmm.io.source.listing import TRIPWIRE
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


def _count_digest(s3, place):
    """Return the digest of the model whose complete scores are current for a plain reader, or None."""
    try:
        table = _read_latest(s3, place)
    except FileNotFoundError:
        return None
    assert table.num_rows == 20_000
    assert table["log_density"].null_count == 0
    return table.schema.metadata[b"stream_gmm.model_digest"].decode()


def _every(n, fault):
    return lambda number, method, path: fault if number % n == n - 1 else ""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "503", "lost", "reset"])
def test_requests_that_fail_now_and_then_do_not_show(model, data, s3, bucket, faulty, fault, monkeypatch):
    monkeypatch.setattr(places, "FIRST_PAUSE_SECONDS", 0.01)
    faulty.faults = _every(5, fault)
    sg.score(model, data, f"s3://{bucket}/out", client=SerialExecutor())
    faulty.faults = _every(7, fault)
    result = sg.score(model, data, f"s3://{bucket}/out", client=SerialExecutor())

    assert result.already_published
    assert _count_digest(s3, f"{bucket}/out") == model.digest
    with s3.open_input_stream(f"{bucket}/out/{LATEST}") as stream:
        assert json.loads(stream.read())["number"] == 1
