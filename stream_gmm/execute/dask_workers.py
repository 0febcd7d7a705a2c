"""What is asked of the workers of a Dask cluster: the versions of the caller, a right answer, and their warnings."""

from __future__ import annotations

import logging
import math
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from distributed import Client, Future, get_worker
from distributed.diagnostics.plugin import ForwardLoggingPlugin

from stream_gmm.errors import ClusterError, explain
from stream_gmm.execute.dask_wait import Deadlines, ask, describe_workers, name_span, wait_for_tasks

log = logging.getLogger(__name__)

TOLERANCE = 1e-9
PACKAGES = ("stream-gmm", "numpy", "scipy", "numba", "pyarrow", "distributed")
SAME = ("python", "stream-gmm")
"""What must be the same on every worker; other differences are told, and the known answer shows if they matter."""
FORWARDED = ("stream_gmm", "distributed.worker.memory")
"""Loggers whose warnings on workers reach the caller's log: of the package, and of memory that runs out."""
WARNINGS = "stream-gmm-warnings-"
"""Names of the topics and plugins that bring them: this, and the identity of the client."""

_lock = threading.Lock()
_passed: set[WorkerCheck] = set()


@cache
def collect_versions() -> Mapping[str, str]:
    """Return the versions of Python and of the packages that compute, in this process."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@dataclass(frozen=True)
class WorkerCheck:
    """A question to every worker, with the answer and the versions of the process that asks."""

    question: Callable[[], Sequence[float]]
    answer: tuple[float, ...]
    versions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, question: Callable[[], Sequence[float]]) -> WorkerCheck:
        """Return a check with the answer of this process."""
        return cls(question, tuple(question()), tuple(collect_versions().items()))

    def examine_this_worker(self) -> None:
        """Compare this process with the caller's, once; every task does so first.

        Raises
        ------
        ClusterError
            If its versions differ where they must not, or its answer is wrong.
        """
        with _lock:
            if self in _passed:
                return
            own, where = collect_versions(), _name_this_worker()
            differing = {n: (own.get(n, "missing"), v) for n, v in self.versions if own.get(n, "missing") != v}
            listed = ", ".join(f"{n} {here} (caller: {there})" for n, (here, there) in differing.items())
            if not differing.keys().isdisjoint(SAME):
                raise ClusterError(
                    explain(
                        f"{where} has other versions: {listed}",
                        why="with another version of the package or of Python a worker may compute something else",
                        remedy="install the same versions on all workers",
                    )
                )
            answer = tuple(self.question())
            if len(answer) != len(self.answer) or not all(
                math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
                for a, b in zip(answer, self.answer, strict=True)
            ):
                raise ClusterError(
                    explain(
                        f"{where} gave a wrong answer to a question whose answer is known",
                        why=f"its packages or its hardware compute something else{': ' + listed if listed else ''}",
                        remedy="take it out of the cluster, or install its packages again",
                    )
                )
            if listed:
                log.warning("%s has other versions, and computes the same: %s", where, listed)
            if answer != self.answer:
                log.warning(
                    "%s rounds differently from the caller (another kind of processor): the last digits of results "
                    "depend on which worker computes what",
                    where,
                )
            _passed.add(self)


def _name_this_worker() -> str:
    try:
        return f"the Dask worker {get_worker().address} on {platform.node()}"
    except ValueError:
        return f"this process on {platform.node()}"


def examine_workers(client: Client, check: WorkerCheck, deadlines: Deadlines) -> None:
    """Examine the workers that are there, before any of them gets work; those that join later examine themselves.

    Raises
    ------
    ClusterError
        As of the check; and if the package is not installed on a worker.
    """
    addresses = list(describe_workers(client, deadlines.lost))

    def submit(function: Callable[..., Any], *arguments: Any) -> list[Future]:
        options = {"allow_other_workers": True, "pure": False, "priority": 100}
        with name_span():
            return [client.submit(function, *arguments, workers=[a], **options) for a in addresses]

    # A function of another package first: a worker that cannot even load a task closes its connection.
    imports = submit(import_module, check.question.__module__)
    try:
        wait_for_tasks(client, imports, None, deadlines)
    except ImportError as error:
        failed = [a for a, future in zip(addresses, imports, strict=True) if future.status == "error"]
        raise ClusterError(
            explain(
                f"this package cannot be imported on the Dask workers {', '.join(failed)}",
                why=f"{type(error).__name__}: {error}",
                remedy="install the same version of stream-gmm on all workers",
            )
        ) from error
    wait_for_tasks(client, submit(check.examine_this_worker), None, deadlines)


@contextmanager
def forward_warnings(client: Client) -> Iterator[None]:
    """Inside the block, warnings that the package logs on any worker reach the loggers of the same name here."""
    topic = WARNINGS + client.id
    name = f"{topic}-{{}}"
    client.subscribe_topic(topic, _hand_to_logger)
    for logger in FORWARDED:
        client.register_plugin(ForwardLoggingPlugin(logger, "WARNING", topic), name.format(logger))
    try:
        yield
    finally:
        with suppress(Exception):  # of a cluster that was lost
            for logger in FORWARDED:
                ask(client, client.scheduler.unregister_worker_plugin, name=name.format(logger))
            client.unsubscribe_topic(topic)


def _hand_to_logger(event: Any) -> None:
    record = logging.makeLogRecord(event[1])
    record.msg = f"{record.msg} [worker {record.__dict__.get('processName') or 'process'} {record.process}]"
    logging.getLogger(record.name).handle(record)
