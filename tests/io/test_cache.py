from __future__ import annotations

import gc
import os
import pickle
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

import stream_gmm as sg
from stream_gmm import errors
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.source.cache import DISK, MEMORY, NONE, RESERVE, DiskLeaf, MemoryLeaf, cache_leaf, cache_mode_of
from stream_gmm.pipeline.passes.tasks import CachePolicy, plan_tasks


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def leaf(write_parquet, rng):
    x = rng.normal(size=1000)
    x[17] = np.nan
    write_parquet("a.parquet", {"x": x, "y": np.arange(1000)}, row_group_size=300)
    (leaf,) = sg.open_dataset(write_parquet("b.parquet", {"x": x, "y": x}).parent, missing="drop").leaves()
    return leaf


def _same(a, b):
    a, b = list(a), list(b)
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        assert one.rows.T.flags.c_contiguous == other.rows.T.flags.c_contiguous
        np.testing.assert_array_equal(one.row_numbers, other.row_numbers)
        np.testing.assert_array_equal(one.bad, other.bad)
        assert (one.size, one.file_index) == (other.size, other.file_index)


@pytest.mark.parametrize("mode", [NONE, MEMORY, DISK])
def test_a_kept_leaf_gives_the_same_chunks_again_and_again(leaf, mode, scratch):
    kept = cache_leaf((leaf, mode), None, str(scratch))

    assert cache_mode_of(kept) == mode
    assert kept.rows == leaf.rows
    for _ in range(2):
        _same(kept.chunks(), leaf.chunks())
    _same(pickle.loads(pickle.dumps(kept)).chunks(), leaf.chunks())


def test_a_scratch_file_ends_with_its_leaf(leaf, scratch):
    kept = cache_leaf((leaf, DISK), None, str(scratch))
    copy = pickle.loads(pickle.dumps(kept))
    assert len(os.listdir(scratch)) == 1

    del copy
    gc.collect()
    assert len(os.listdir(scratch)) == 1  # a copy owns nothing
    del kept
    gc.collect()
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("mode", [MEMORY, DISK])
def test_a_chunk_of_which_every_row_is_dropped_is_kept_too(write_parquet, scratch, mode):
    path = write_parquet("none.parquet", {"x": np.full(50, np.nan), "y": np.arange(50.0)})
    (leaf,) = sg.open_dataset(path, missing="drop").leaves()

    _same(cache_leaf((leaf, mode), None, str(scratch)).chunks(), leaf.chunks())


def test_a_leaf_on_disk_is_small_when_pickled(leaf, scratch):
    kept = cache_leaf((replace(leaf, missing="drop"), DISK), None, str(scratch))

    assert len(pickle.dumps(kept)) < 8 * leaf.rows


def test_without_its_file_a_leaf_is_decoded_again(leaf, scratch):
    kept = cache_leaf((leaf, DISK), None, str(scratch))
    assert isinstance(kept, DiskLeaf)
    os.truncate(kept.path, 4096)
    _same(kept.chunks(), leaf.chunks())
    os.unlink(kept.path)
    _same(kept.chunks(), leaf.chunks())


def test_a_full_disk_is_logged_and_does_no_harm(leaf, scratch, monkeypatch, caplog):
    usage = shutil.disk_usage(scratch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=RESERVE))
    kept = cache_leaf((leaf, DISK), None, str(scratch))

    assert kept is leaf
    assert os.listdir(scratch) == []
    assert "no room" in caplog.text


def _open_full_device(**_):
    return os.open("/dev/full", os.O_WRONLY), "/nowhere/file"


def _refuse_file(**_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("make", [_open_full_device, _refuse_file])
def test_a_disk_that_fills_as_it_is_written_is_logged_and_does_no_harm(leaf, scratch, monkeypatch, caplog, make):
    """Another program may take the room that was there; then writing fails, or making the file."""
    monkeypatch.setattr("tempfile.mkstemp", make)

    assert cache_leaf((leaf, DISK), None, str(scratch)) is leaf
    assert "No space left on device" in caplog.text


def test_an_error_while_decoding_leaves_no_file_behind(leaf, scratch):
    strict = replace(leaf, missing="error")
    with pytest.raises(errors.InputDataError, match="1 nan"):
        cache_leaf((strict, DISK), None, str(scratch))

    assert os.listdir(scratch) == []


def test_dask_can_know_the_size_of_what_is_kept(leaf, scratch):
    kept = cache_leaf((leaf, MEMORY), None, str(scratch))

    assert isinstance(kept, MemoryLeaf)
    assert sys.getsizeof(kept) > 8 * 2 * 1990
    assert all(c.batch is None for c in kept.cached)


def test_no_more_than_the_allowed_bytes_are_kept(demo_folder):
    data, executor = sg.open_dataset(demo_folder, columns=["x0", "x1"]), ThreadsExecutor(2)
    pieces = data.small_leaves()
    reading = plan_tasks(data, pieces, executor, CachePolicy(MEMORY, 16 * pieces[0].rows))

    assert [cache_mode_of(i) for i in reading.items] == [MEMORY] + [NONE] * (len(pieces) - 1)


def test_a_little_data_is_kept_in_memory_and_much_on_disk(demo_folder, monkeypatch):
    data, executor = sg.open_dataset(demo_folder, columns=["x0", "x1"]), ThreadsExecutor(2)

    assert plan_tasks(data, data.leaves(), executor, CachePolicy()).cache_mode == MEMORY
    monkeypatch.setattr("stream_gmm.pipeline.passes.tasks.AUTO_MEMORY_BYTES", 10)
    assert plan_tasks(data, data.leaves(), executor, CachePolicy()).cache_mode == DISK


def test_rows_that_do_not_fit_into_the_cache_are_a_warning_of_the_result(demo_folder):
    data = sg.open_dataset(demo_folder, columns=["x0", "x1"])
    model = sg.fit(data, 2, cache="memory", cache_bytes=0, max_passes=1)

    assert any("only 0 of 20000 rows are cached (memory)" in w for w in model.warnings)
    assert not any("are cached" in w for w in sg.fit(data, 2, max_passes=1).warnings)


@pytest.mark.parametrize("wrong", [{"cache": "disc"}, {"cache_bytes": -1}])
def test_a_wrong_policy_is_refused(demo_folder, wrong):
    with pytest.raises(errors.ConfigError, match="did you mean 'disk'|negative"):
        sg.fit(sg.open_dataset(demo_folder), 1, **wrong)
