"""From the cluster section of a configuration to an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from stream_gmm.execute.protocol import Executor
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.pipeline.job.config import ClusterConfig
from stream_gmm.pipeline.job.plan import Workers
from stream_gmm.pipeline.passes.known_answer import answer_known_question


@contextmanager
def open_executor(config: ClusterConfig) -> Iterator[Executor]:
    """Open the executor that a configuration asks for; a cluster that it starts ends with the block.

    Raises
    ------
    ClusterError
        If a cluster cannot be reached or started.
    """
    with _OPENERS[config.executor](config) as executor:
        yield executor


@contextmanager
def running_cluster(config: ClusterConfig) -> Iterator[ClusterConfig]:
    """Start the cluster of a configuration, unless it exists; yield a section that points at the running one.

    Several stages, each opening its own client by address, then share one cluster. Its address is of no use after the
    block, and belongs into no record.

    Raises
    ------
    ClusterError
        If a cluster cannot be reached or started.
    """
    if config.executor != "dask" or config.address or config.scheduler_file:
        yield config
        return
    from stream_gmm.execute.dask_cluster import CA, CERT, KEY, connect

    with connect(_make_spec(config)) as client:
        certificates = {
            name: getattr(client.security, field)
            for name, field in (("tls_ca_file", CA), ("tls_cert_file", CERT), ("tls_key_file", KEY))
            if client.scheduler.address.startswith("tls://")
        }
        yield ClusterConfig(
            address=client.scheduler.address,
            timeout_seconds=config.timeout_seconds,
            stall_seconds=config.stall_seconds,
            allow_insecure=config.allow_insecure,
            **certificates,
        )


def planned_workers(config: ClusterConfig) -> Workers:
    """Return the workers that a configuration would get; nothing is started, but an existing cluster is asked.

    Raises
    ------
    ClusterError
        If it cannot be reached.
    """
    if config.executor == "dask" and not (config.address or config.scheduler_file):
        from stream_gmm.execute.dask_cluster import plan_slots

        return Workers(*plan_slots(_make_spec(config)))
    with open_executor(config) as executor:
        return Workers.of(executor)


@contextmanager
def _open_serial(config: ClusterConfig) -> Iterator[Executor]:
    del config
    yield SerialExecutor()


@contextmanager
def _open_threads(config: ClusterConfig) -> Iterator[Executor]:
    yield ThreadsExecutor(config.n_workers)


@contextmanager
def _open_dask(config: ClusterConfig) -> Iterator[Executor]:
    from stream_gmm.execute.dask import DaskExecutor
    from stream_gmm.execute.dask_cluster import connect
    from stream_gmm.execute.dask_wait import Deadlines
    from stream_gmm.execute.dask_workers import WorkerCheck, forward_warnings

    deadlines = Deadlines(lost=2.0 * config.timeout_seconds, stalled=config.stall_seconds)
    with connect(_make_spec(config)) as client, forward_warnings(client):
        # The workers of an embedded cluster are this installation on this machine.
        executor = DaskExecutor(client, deadlines, None if config.local else WorkerCheck.of(answer_known_question))
        executor.examine_workers()
        yield executor


def _make_spec(config: ClusterConfig):  # type: ignore[no-untyped-def]
    from stream_gmm.execute.dask_cluster import ClusterSpec

    # Not exclude=: older releases of pydantic ignore it where a section has a serializer of its own.
    return ClusterSpec(**{key: value for key, value in config.model_dump().items() if key != "executor"})


_OPENERS: dict[str, Callable[[ClusterConfig], AbstractContextManager[Executor]]] = {
    "serial": _open_serial,
    "threads": _open_threads,
    "dask": _open_dask,
}
