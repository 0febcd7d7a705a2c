"""Footers: problems of one kind together, damaged names, wide files, many files, big row groups, a silent store."""

from __future__ import annotations

import os
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import InputDataError, StorageError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import profile_source
from tests.cli.test_commands import run
from tests.servers import free_port


@pytest.fixture
def folder(write_parquet, rng):
    """Twenty files, of which fourteen lack x and three have a text for y."""
    for i in range(20):
        columns = {"x": rng.normal(size=10), "y": rng.normal(size=10)}
        if i >= 6:
            del columns["x"]
        if i in (1, 2, 3):
            columns["y"] = ["a"] * 10
        path = write_parquet(f"{i:02d}.parquet", columns)
    return path.parent


def test_problems_of_one_kind_are_one_sentence_with_the_first_files_and_the_number(folder):
    with pytest.raises(InputDataError) as caught:
        sg.open_dataset(folder, ["x", "y"])
    text = str(caught.value)
    assert re.search(
        r"column 'x' is not there in 14 of 20 files \(\S*06.parquet, \S*07.parquet, \S*08.parquet and 11 more\)", text
    )
    assert re.search(
        r"column 'y' is string, not a number in 3 of 20 files \(\S*01.parquet, \S*02.parquet, \S*03", text
    )
    assert len(text) < 2000


def test_unreadable_files_are_named_together_and_counted(folder):
    for i in range(5, 9):
        (folder / f"{i:02d}.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(
        InputDataError, match=r"4 of 20 files cannot be opened as Parquet.*05.*06.*07.*data.exclude"
    ) as caught:
        sg.open_dataset(folder, ["y"])
    assert "08.parquet" not in str(caught.value)


class TestNames:
    """A footer in which bytes of the names were changed."""

    @pytest.fixture
    def file(self, write_parquet, rng):
        return write_parquet(
            "a.parquet", {"xa": rng.normal(size=50), "xb": rng.normal(size=50), "k": np.arange(50.0)}
        )

    def _change(self, file, old, new):
        content = file.read_bytes()
        start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        file.write_bytes(content[:start] + content[start:].replace(old, new))

    def test_columns_of_one_name_are_refused_by_file_and_name(self, file, tmp_path):
        model = sg.fit(sg.open_dataset(file, ["k"]), 1, client=SerialExecutor())
        self._change(file, b"xb", b"xa")
        for columns in (None, ["xa"], ["xa", "k"]):
            with pytest.raises(
                InputDataError, match=r"a.parquet: (there are 2 columns 'xa'|column 'xa' is there 2 times)"
            ):
                sg.open_dataset(file, columns)
        with pytest.raises(InputDataError, match="there are 2 columns 'xa'.*passthrough"):
            sg.score(model, sg.open_dataset(file, ["k"]), tmp_path / "scored", client=SerialExecutor())
        assert (
            sg.score(
                model, sg.open_dataset(file, ["k"]), tmp_path / "scored", client=SerialExecutor(), passthrough=["k"]
            ).rows
            == 50
        )

    def test_a_name_that_is_no_text_is_refused_by_file(self, file):
        self._change(file, b"xb", b"x\xff")
        with pytest.raises(InputDataError, match="a.parquet: the name of column .* is damaged"):
            sg.open_dataset(file)

    def test_a_damaged_footer_is_refused_by_file(self, file):
        content = bytearray(file.read_bytes())
        content[-6] ^= 0xFF
        file.write_bytes(content)
        with pytest.raises(InputDataError, match="a.parquet"):
            sg.fit(sg.open_dataset(file, ["k"]), 1, client=SerialExecutor())


TRICKY = Path(__file__).parents[1] / "data" / "tricky"


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("int32_decimal", 24),
        ("byte_stream_split.zstd", 300),
        ("float16_nonzeros_and_nans", 6),
        ("nested_lists.snappy", 3),
        ("single_nan", "no usable row"),
        ("damaged_type", "cannot open .*damaged_type.parquet as Parquet.*more than 64 bits"),
    ],
)
def test_files_of_other_writers_are_read_or_refused_in_words(name, outcome):
    """Decimals, float16, split bytes, nested lists and nulls, from the test files of the format."""
    path = TRICKY / f"{name}.parquet"
    if isinstance(outcome, str):
        with pytest.raises(InputDataError, match=outcome):
            profile_source(sg.open_dataset(path, missing="drop"), Settings(cache="none"), SerialExecutor())
        return
    dataset = sg.open_dataset(path, missing="drop")
    profile = profile_source(dataset, Settings(cache="none", constants="fit"), SerialExecutor())
    oracle = pq.read_table(path).select(list(dataset.columns)).to_pandas().astype(float).dropna()
    assert profile.fit_rows == outcome == len(oracle)
    np.testing.assert_allclose(profile.mean, oracle.mean())


@pytest.mark.slow
def test_a_file_of_ten_thousand_columns_opens_in_about_the_time_of_its_footer(tmp_path):
    path = tmp_path / "wide.parquet"
    names = [f"c{i}" for i in range(10_000)]
    pq.write_table(pa.table({n: np.arange(40.0) % 7 for n in names}), path)
    start = time.perf_counter()
    pq.read_metadata(path).schema.to_arrow_schema()
    footer = time.perf_counter() - start
    start = time.perf_counter()
    assert sg.open_dataset(path, ["c1", "c2", "c9999"]).num_rows == 40
    few = time.perf_counter() - start
    start = time.perf_counter()
    assert len(sg.open_dataset(path).columns) == 10_000
    every = time.perf_counter() - start
    # Anything quadratic takes a thousand footers here.
    assert few < 100 * footer
    assert every < 200 * footer
    with pytest.raises(InputDataError) as caught:
        sg.open_dataset(path, ["c10000"])
    assert len(str(caught.value)) < 3000


@pytest.mark.slow
def test_two_thousand_tiny_files_are_a_data_set(tmp_path):
    """Few tasks read them, and no error is lost among them."""
    table = pa.table({"x": np.random.default_rng(0).normal(size=5)})
    pq.write_table(table, tmp_path / "0000.parquet")
    content = (tmp_path / "0000.parquet").read_bytes()
    for i in range(1, 2000):
        (tmp_path / f"{i:04d}.parquet").write_bytes(content)
    dataset = sg.open_dataset(tmp_path)
    assert (len(dataset.files), dataset.num_rows) == (2000, 10_000)
    assert len(dataset.leaves()) < 100
    assert sg.fit(dataset, 1, client=SerialExecutor()).criteria.n_rows == 10_000


@pytest.mark.slow
def test_memory_does_not_grow_with_a_row_group(tmp_path):
    """One row group of 48 MB decoded: allocations of a pass stay at some chunks of 65,536 rows."""
    path = tmp_path / "one.parquet"
    rows = 1_500_000
    block = np.random.default_rng(0).normal(size=rows)
    pq.write_table(pa.table({f"x{i}": block for i in range(4)}), path, row_group_size=rows)
    dataset = sg.open_dataset(path)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    (leaf,) = dataset.leaves()
    arrow = 0
    for chunk in leaf.chunks():
        arrow = max(arrow, pa.total_allocated_bytes() - before)
        assert len(chunk.rows) <= 65_536
    numbers = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    chunk_bytes = 8 * 4 * 65_536
    assert numbers < 4 * chunk_bytes
    assert arrow < 16 * chunk_bytes


class TestAStoreThatDoesNotAnswer:
    @pytest.fixture
    def uri(self, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        endpoint = f"http://127.0.0.1:{free_port()}"
        return f"s3://bucket/data/a.parquet?endpoint_override={endpoint}&scheme=http&region=us-east-1"

    @pytest.mark.long
    def test_it_is_storage_and_not_the_data(self, uri, tmp_path):
        assert StorageError.exit_code == 6
        out = run("sweep", uri, "--executor", "serial", "--folder", tmp_path / "out", code=6)
        assert re.search(r"the store of s3://bucket/data/a.parquet does not answer.*NETWORK", out)
        assert not os.path.exists(tmp_path / "out" / "model.gmm")

    @pytest.mark.long
    def test_one_that_stops_between_two_passes_is_storage_too(self, rng, monkeypatch, tmp_path):
        """The footer was read; then the server ends, and the tasks try again before they give up."""
        from moto.server import ThreadedMotoServer
        from pyarrow import fs

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        store = fs.S3FileSystem(
            endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True, region="us-east-1",
            access_key="testing", secret_key="testing",
        )  # fmt: skip
        try:
            store.create_dir("halting")
            pq.write_table(pa.table({"x": rng.normal(size=100)}), "halting/a.parquet", filesystem=store)
            uri = f"s3://halting/a.parquet?endpoint_override=http://{host}:{port}&scheme=http&region=us-east-1"
            dataset = sg.open_dataset(uri)
        finally:
            server.stop()
        with pytest.raises(OSError, match="halting/a.parquet.*NETWORK_CONNECTION"):
            sg.fit(dataset, 1, client=SerialExecutor())
