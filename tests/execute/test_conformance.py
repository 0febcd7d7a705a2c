"""The Executor's contract, clause by clause, over every executor."""

from __future__ import annotations

import json
import os
import random
import time

import dask
import pytest
from threadpoolctl import threadpool_info

from stream_gmm.errors import ClusterError, ConfigError, InputDataError
from stream_gmm.execute.serial import SerialExecutor


def _add(item, shared):
    return item + (shared or 0)


def _nested(a, b):
    return (a, b)


def _late(item, shared):
    time.sleep(random.Random(item).random() * 0.02)
    return (item,)


def _blas_threads(item, shared):
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401

    time.sleep(0.02)
    return max(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")


def _fail_first(item, folder):
    marker = os.path.join(folder, str(item))
    if item == 3 and not os.path.exists(marker):
        open(marker, "w").close()
        raise OSError("try again")
    return item


def _data_error(item, folder):
    with open(os.path.join(folder, f"calls-{item}"), "a") as file:
        file.write("x")
    if item == 2:
        raise InputDataError("part 2 is bad")
    return item


def _size(item, shared):
    return len(shared)


def test_no_items_is_an_error(executor):
    with pytest.raises(ValueError, match="empty"):
        executor.map(_add, [])
    with pytest.raises(ValueError, match="empty"):
        executor.map_reduce(_add, _nested, [])


def test_map_keeps_the_order(executor):
    assert executor.map(_add, list(range(20)), shared=100) == list(range(100, 120))


@pytest.mark.parametrize("n", [1, 7, 8, 9, 65])
@pytest.mark.slow
def test_the_result_is_the_fold_over_the_tree_whatever_the_order(executor, n):
    """A merge that is not associative shows the tree itself."""
    items = list(range(n))

    assert executor.map_reduce(_late, _nested, items) == SerialExecutor().map_reduce(_late, _nested, items)


def test_an_os_error_is_retried(executor, tmp_path):
    assert executor.map(_fail_first, [1, 2, 3, 4], shared=str(tmp_path)) == [1, 2, 3, 4]


def test_other_errors_come_back_as_they_are_and_at_once(executor, tmp_path):
    with pytest.raises(InputDataError, match="part 2 is bad"):
        executor.map_reduce(_data_error, _nested, [0, 1, 2, 3], shared=str(tmp_path))

    assert (tmp_path / "calls-2").read_text() == "x"


def test_blas_runs_on_one_thread_inside_tasks(executor):
    assert executor.map(_blas_threads, list(range(6))) == [1] * 6


def test_a_large_shared_value_reaches_every_call(executor):
    assert executor.map(_size, list(range(5)), shared=b"x" * 2_000_000) == [2_000_000] * 5


def test_every_item_is_reported_once(executor):
    seen: list[int] = []
    executor.map_reduce(_late, _nested, list(range(9)), on_done=seen.append)

    assert sorted(seen) == list(range(9))


def test_an_executor_knows_its_workers_and_their_memory(executor):
    assert executor.n_workers >= 1
    assert executor.memory_bytes > 100 << 20


def _note(item, shared, scratch):
    with open(os.path.join(scratch, f"kept-{item}"), "w") as file:
        file.write(str(shared))
    return [item, os.path.join(scratch, f"kept-{item}")]


def _first(kept, shared):
    return kept[0] + (shared or 0)


def _content(kept, shared):
    with open(kept[1]) as file:
        return file.read()


def test_kept_values_stay_and_are_items(executor):
    handles = executor.keep(_note, list(range(9)), shared="there")

    for _ in range(2):
        assert executor.map(_first, handles, shared=10) == list(range(10, 19))
    assert executor.map(_content, handles) == ["there"] * 9
    assert executor.map_reduce(_first, _nested, handles) == SerialExecutor().map_reduce(_add, _nested, list(range(9)))


def test_keeping_no_items_is_an_error(executor):
    with pytest.raises(ValueError, match="empty"):
        executor.keep(_note, [])


@pytest.mark.slow
def test_what_a_dead_worker_kept_is_computed_again():
    from stream_gmm.execute.dask import DaskExecutor
    from stream_gmm.execute.dask_cluster import ClusterSpec, connect

    with connect(ClusterSpec(n_workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        executor = DaskExecutor(client)
        handles = executor.keep(_note, list(range(6)))
        assert executor.map(_first, handles) == list(range(6))
        os.kill(next(iter(client.run(os.getpid).values())), 9)
        assert executor.map(_first, handles) == list(range(6))


class TestConnect:
    def test_a_running_cluster_is_reached_by_its_address(self, dask_cluster):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        with connect(ClusterSpec(address=dask_cluster.scheduler_address)) as client:
            assert DaskExecutor(client).map(_add, [1, 2], shared=1) == [2, 3]

    def test_a_running_cluster_is_reached_by_its_scheduler_file(self, dask_cluster, tmp_path):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        path = tmp_path / "scheduler.json"
        path.write_text(json.dumps({"address": dask_cluster.scheduler_address}))
        with connect(ClusterSpec(scheduler_file=str(path))) as client:
            assert client.submit(lambda: 7).result() == 7

    @pytest.mark.slow
    def test_a_cluster_class_is_started_with_its_options_and_scaled(self):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        options = {"n_workers": 0, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
        spec = ClusterSpec(cluster_class="distributed.LocalCluster", cluster_options=options, scale=1)
        with connect(spec) as client:
            client.wait_for_workers(1, timeout=30)
            assert len(client.nthreads()) == 1

    @pytest.mark.slow
    def test_an_adaptive_cluster_starts_workers_on_demand(self):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        options = {"n_workers": 0, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
        adapt = {"minimum": 1, "maximum": 1}
        spec = ClusterSpec(cluster_class="distributed.LocalCluster", cluster_options=options, adapt=adapt)
        with connect(spec) as client:
            assert client.submit(lambda: 7).result() == 7

    @pytest.mark.slow
    def test_an_embedded_cluster_listens_on_the_loopback_address_only(self):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        with connect(ClusterSpec(n_workers=1)) as client:
            assert client.scheduler.address.startswith("tcp://127.0.0.1:")

    @pytest.mark.slow
    def test_an_address_without_a_cluster_is_a_cluster_error(self):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        spec = ClusterSpec(address="tcp://127.0.0.1:1", timeout_seconds=1)
        with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:1"), connect(spec):
            pass

    def test_an_unknown_cluster_class_is_a_configuration_error(self):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        with (
            pytest.raises(ConfigError, match="dask_nowhere"),
            connect(ClusterSpec(cluster_class="dask_nowhere.Cluster")),
        ):
            pass

    def test_options_that_the_class_does_not_know(self):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        spec = ClusterSpec(cluster_class="concurrent.futures.ThreadPoolExecutor", cluster_options={"nonsense": 1})
        with pytest.raises(ConfigError, match=r"cluster section.*nonsense.*cluster_options"), connect(spec):
            pass

    def test_a_missing_scheduler_file_is_a_cluster_error(self, tmp_path):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        spec = ClusterSpec(scheduler_file=str(tmp_path / "no.json"))
        with pytest.raises(ClusterError, match="no scheduler file"), connect(spec):
            pass


def _die(item, shared):
    os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_a_task_that_kills_every_worker_ends_in_a_cluster_error():
    from stream_gmm.execute.dask import DaskExecutor
    from stream_gmm.execute.dask_cluster import ClusterSpec, connect

    # By default the scheduler tries a task on four workers, and a worker takes seconds to start.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        connect(ClusterSpec(n_workers=1)) as client,
        pytest.raises(ClusterError, match="lost the work twice"),
    ):
        DaskExecutor(client).map(_die, [1])
