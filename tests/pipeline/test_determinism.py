"""The same bits from every executor, any number of workers, and when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

import stream_gmm as sg
from stream_gmm import demo
from stream_gmm.execute.dask import DaskExecutor
from stream_gmm.execute.dask_cluster import ClusterSpec, connect
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.store.models import to_bytes

NAMES = ["full", "diag", "tied_spherical"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120,000 rows in several leaves, because leaves of less than four megabytes are allowed here."""
    out = tmp_path_factory.mktemp("bits")
    demo.write(out, rows=120_000, columns=4, files=3, components=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream_gmm.io.source.leaf.LEAF_BYTES", (1 << 20, 64 << 20))
        yield out


@pytest.fixture(scope="module")
def data(folder):
    return sg.open_dataset(folder, columns=["x0", "x1", "x2", "x3"])


def _bits(data, executor, algorithm="em", **options):
    result = sg.sweep(
        data, [2, 4], NAMES, client=executor, max_passes=4, sample_rows=2000, algorithm=algorithm, **options
    )
    return [to_bytes(c.result) for c in result.candidates if c.result is not None]


@pytest.fixture(scope="module")
def expected(data):
    return _bits(data, SerialExecutor())


def test_the_data_set_makes_several_tasks(data):
    assert len(data.leaves()) > 2


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits(data, expected, threads):
    assert _bits(data, ThreadsExecutor(threads)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])  # two: test_every_cache_mode_gives_the_same_bits
def test_any_number_of_dask_workers_gives_the_same_bits(data, expected, workers):
    with connect(ClusterSpec(n_workers=workers)) as client:
        client.wait_for_workers(workers, timeout=60)
        assert _bits(data, DaskExecutor(client)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_every_cache_mode_gives_the_same_bits(data, expected, executor, cache):
    assert _bits(data, executor, cache=cache) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["quadratic", "sphered", "whitened"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_kernel_repeats_itself(data, kernel, dtype):
    options = {"kernel": kernel, "dtype": dtype}

    assert _bits(data, ThreadsExecutor(3), **options) == _bits(data, SerialExecutor(), **options)


@pytest.mark.slow
def test_mini_batches_repeat_themselves(data):
    assert _bits(data, ThreadsExecutor(3), "minibatch") == _bits(data, SerialExecutor(), "minibatch")


@pytest.fixture(scope="module")
def two_workers():
    """A cluster whose workers may be killed: others take their place."""
    with connect(ClusterSpec(n_workers=2)) as client:
        yield client


def _kill_one_worker(client, killed: list[int]) -> None:
    """Send signal 9 to a worker process as soon as a pass has begun: what it kept is lost with it."""
    while not any(k for keys in client.processing().values() for k in keys if "e-step" in str(k)):
        time.sleep(0.005)
    pid = next(iter(client.run(os.getpid).values()))
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cache", ["none", pytest.param("memory", marks=pytest.mark.long), pytest.param("disk", marks=pytest.mark.long)]
)
def test_a_worker_killed_with_signal_9_during_a_pass_changes_no_bit(data, expected, two_workers, cache):
    client = two_workers
    client.wait_for_workers(2, timeout=60)
    with connect(ClusterSpec(address=client.scheduler.address)) as watcher:
        killed: list[int] = []
        killer = threading.Thread(target=_kill_one_worker, args=(watcher, killed))
        killer.start()
        bits = _bits(data, DaskExecutor(client), cache=cache)
        killer.join(30)

    assert killed
    assert bits == expected


def test_another_chunking_gives_the_same_numbers(data, expected, monkeypatch):
    first = sg.fit(data, 3, "full", max_passes=5, sample_rows=5000)
    monkeypatch.setattr("stream_gmm.core.estep.accumulate.CHUNK_ROWS", 10_007)
    second = sg.fit(data, 3, "full", max_passes=5, sample_rows=5000)

    assert second.lower_bound_ == pytest.approx(first.lower_bound_, rel=1e-9)
    assert abs(second.means_ - first.means_).max() < 1e-9


def test_the_same_seed_repeats_and_another_differs(data):
    first, again, other = (sg.fit(data, 4, sample_rows=2000, max_passes=1, random_state=s) for s in (1, 1, 2))

    assert to_bytes(first) == to_bytes(again)
    assert to_bytes(first) != to_bytes(other)
