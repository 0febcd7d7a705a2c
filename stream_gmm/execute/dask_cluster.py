"""Opens a Dask cluster: an embedded one, one that a class starts, or one that runs already; in clear or by TLS."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # read when distributed is imported

import dask
from dask.utils import parse_bytes
from distributed import Client, LocalCluster
from distributed.security import Security

from stream_gmm.errors import ClusterError, ConfigError, StorageError, StreamGMMError, explain
from stream_gmm.execute.addresses import EXPOSED, is_encrypted, is_exposed
from stream_gmm.execute.interrupts import close_quietly, delay_signals, is_no_cancellation, shorten
from stream_gmm.execute.protocol import machine_memory
from stream_gmm.execute.threads import available_cores
from stream_gmm.extras import import_extra

log = logging.getLogger(__name__)

WORKER_SECONDS = 120
"""A worker of an embedded cluster that was silent for so long is given up, and its tasks go to others."""
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
CLOSE_SECONDS = 60.0
"""A cluster that was started here has so long to close."""
CA, CERT, KEY = "tls_ca_file", "tls_client_cert", "tls_client_key"


@dataclass(frozen=True)
class ClusterSpec:
    """Which cluster to use; the default is an embedded one on the loopback address."""

    address: str | None = None
    scheduler_file: str | None = None
    cluster_class: str | None = None
    cluster_options: Mapping[str, Any] = field(default_factory=dict)
    scale: int | None = None
    adapt: Mapping[str, int] | None = None
    n_workers: int | None = None
    threads_per_worker: int = 1
    memory_limit: str | None = None
    timeout_seconds: float = 30.0
    stall_seconds: float = 600.0
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    encrypt: bool = False
    allow_insecure: bool = False
    performance_report: str | None = None


def plan_slots(spec: ClusterSpec) -> tuple[int, int | None]:
    """Return task slots, and bytes of memory of each (None: not known), of a cluster that is not started yet.

    Raises
    ------
    ConfigError
        If the memory is not a size.
    """
    if spec.cluster_class:
        workers = spec.scale or (spec.adapt or {}).get("maximum", 1)
        slots = int(spec.cluster_options.get("cores", spec.cluster_options.get("threads_per_worker", 1)))
        given = spec.cluster_options.get("memory", spec.cluster_options.get("memory_limit"))
    else:
        workers, slots, given = spec.n_workers or available_cores(), spec.threads_per_worker, spec.memory_limit
    if given in (None, "auto"):
        return workers * slots, None if spec.cluster_class else machine_memory() // (workers * slots)
    try:
        return workers * slots, int(parse_bytes(given)) // slots
    except ValueError as error:
        raise ConfigError(f"{given!r} is not a size of memory: write it as '2GiB'.") from error


@contextmanager
def connect(spec: ClusterSpec) -> Iterator[Client]:
    """Connect to a cluster, or start one that ends with the ``with`` block.

    The certificates of the client, where it has any, are files: ``client.security`` names them.

    Raises
    ------
    ConfigError
        If its class, its options or its certificates cannot be used, or its scheduler is exposed to others.
    ClusterError
        If it cannot be reached or started, or no worker comes up in time.
    StorageError
        If it cannot be started because its temporary files cannot be written.
    """
    # A client that is closed while it looks for a scheduler that it has lost.
    logging.getLogger("distributed.client").addFilter(is_no_cancellation)
    logging.getLogger("distributed.diskutils").addFilter(shorten)
    with ExitStack() as stack:
        try:
            client = _open_client(spec, stack)
            client.wait_for_workers(1, timeout=spec.timeout_seconds)
        except (OSError, TimeoutError, RuntimeError) as error:
            _refuse_storage(error)
            where = spec.address or spec.scheduler_file or spec.cluster_class or "embedded cluster"
            raise ClusterError(
                explain(
                    f"no Dask worker at {where} within {spec.timeout_seconds:g} s",
                    why=str(error) or type(error).__name__,
                    remedy="check the address, that workers are up, the certificates, and cluster.timeout_seconds",
                )
            ) from error
        except StreamGMMError:
            raise
        except (TypeError, ValueError, AttributeError, ImportError) as error:  # from constructors
            raise ConfigError(
                explain(
                    "the cluster section cannot be used",
                    why=f"{type(error).__name__}: {error}",
                    remedy="check cluster.address, cluster.cluster_class and cluster.cluster_options",
                )
            ) from error
        with close_quietly(), _report_performance(client, spec.performance_report):
            yield client


def _refuse_storage(error: BaseException) -> None:
    """Raise a StorageError if a cluster did not start because its temporary files cannot be written."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _STORAGE:
            raise StorageError(
                explain(
                    "a Dask cluster cannot be started here, because its temporary files cannot be written",
                    why=str(cause),
                    remedy="make space there, or name another folder: DASK_TEMPORARY_DIRECTORY=/path",
                )
            ) from error
        cause = cause.__cause__ or cause.__context__


def _open_client(spec: ClusterSpec, stack: ExitStack) -> Client:
    if spec.performance_report:
        import_extra("bokeh", "cluster.performance_report")
    security = _load_security(spec, stack)
    timeout = f"{spec.timeout_seconds}s"
    if spec.scheduler_file:
        try:
            known = json.loads(Path(spec.scheduler_file).read_text())
            _refuse_exposed(str(known["address"]), spec)
        except FileNotFoundError as error:
            raise ClusterError(f"there is no scheduler file {spec.scheduler_file}.") from error
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ClusterError(f"{spec.scheduler_file} is not the file of a Dask scheduler: {error}.") from error
        return stack.enter_context(Client(scheduler_file=spec.scheduler_file, timeout=timeout, security=security))
    if spec.address:
        _refuse_exposed(spec.address, spec)
        if is_encrypted(spec.address) and not security and not dask.config.get("distributed.comm.tls.ca-file"):
            needed = "cluster.tls_ca_file and cluster.tls_cert_file"
            raise ConfigError(f"cluster.address {spec.address} needs certificates: give {needed}.")
        return stack.enter_context(Client(spec.address, timeout=timeout, security=security))
    cluster = _start_by_class(spec, security) if spec.cluster_class else _start_embedded(spec, security)
    stack.callback(_close_cluster, cluster)
    _refuse_exposed(cluster.scheduler_address, spec)
    if spec.scale is not None:
        cluster.scale(spec.scale)
    if spec.adapt:
        cluster.adapt(**spec.adapt)
    security = _keep_in_files(getattr(cluster, "security", None), stack)
    return stack.enter_context(Client(cluster, timeout=timeout, security=security))


def _refuse_exposed(address: str, spec: ClusterSpec) -> None:
    if is_exposed(address) and not spec.allow_insecure:
        raise ConfigError(f"cluster: {EXPOSED.format(address)}.")


def _load_security(spec: ClusterSpec, stack: ExitStack) -> Security | None:
    """Return the certificates of a configuration; None: those of Dask's own configuration, if it has any."""
    if spec.encrypt:
        try:
            return _keep_in_files(Security.temporary(), stack)
        except ImportError as error:
            raise ConfigError("cluster.encrypt needs cryptography: pip install cryptography.") from error
    if not spec.tls_ca_file:
        return None
    certificate, key = spec.tls_cert_file, spec.tls_key_file or spec.tls_cert_file
    roles = {f"tls_{r}_{what}": x for r in ("client", "scheduler", "worker")
             for what, x in (("cert", certificate), ("key", key))}  # fmt: skip
    security = Security(tls_ca_file=spec.tls_ca_file, require_encryption=True, **roles)
    try:
        security.get_connection_args("client")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            explain(
                f"the certificates {spec.tls_ca_file}, {certificate} and {key} cannot be used",
                why=str(error),
                remedy="check cluster.tls_ca_file, cluster.tls_cert_file and cluster.tls_key_file: PEM files, "
                "the key without a password",
            )
        ) from error
    return security


def _keep_in_files(security: Security | None, stack: ExitStack) -> Security | None:
    """Return certificates as files of this user's own, so that a second client can be given them by name."""
    if security is None or "\n" not in str(getattr(security, CA, None)):
        return security
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-gmm-tls-")))  # others cannot read it
    names = [n for n in Security.__slots__ if "\n" in str(getattr(security, n, None))]
    for name in names:
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(getattr(security, name))
    return Security(require_encryption=True, **{name: str(folder / name) for name in names})


def _start_embedded(spec: ClusterSpec, security: Security | None) -> Any:
    options: dict[str, Any] = {"memory_limit": spec.memory_limit} if spec.memory_limit else {}
    # A dashboard or a port on all interfaces lets anyone run code here.
    with delay_signals(), dask.config.set({"distributed.scheduler.worker-ttl": f"{WORKER_SECONDS} s"}):
        return LocalCluster(
            n_workers=spec.n_workers or available_cores(),
            threads_per_worker=spec.threads_per_worker,
            host="127.0.0.1",
            protocol="tls://" if security else "tcp://",
            security=security,
            dashboard_address="127.0.0.1:0",
            preload="stream_gmm.execute.interrupts",
            **options,
        )


def _start_by_class(spec: ClusterSpec, security: Security | None) -> Any:
    path = spec.cluster_class or ""
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            explain(
                f"cluster.cluster_class {path!r} cannot be imported",
                why=str(error),
                remedy="give the dotted path of a Dask cluster class, such as dask_jobqueue.SLURMCluster",
            )
        ) from error
    return cls(**({"security": security} if security else {}), **spec.cluster_options)


def _close_cluster(cluster: Any) -> None:
    """Close a cluster that was started here; one that does not close in time is left to the end of the process.

    A worker that is slow to end is killed, which costs nothing any more and is no news for anyone.
    """
    nanny = logging.getLogger("distributed.nanny")
    level = nanny.level
    nanny.setLevel(logging.ERROR)
    try:
        cluster.close(timeout=CLOSE_SECONDS)
    except TimeoutError:
        log.warning("the Dask cluster did not close within %.0f s: it ends with this process", CLOSE_SECONDS)
    finally:
        nanny.setLevel(level)


@contextmanager
def _report_performance(client: Client, path: str | None) -> Iterator[None]:
    """Write Dask's report of what is done inside the block, if a path is given; it never fails the work."""
    if path is None:
        yield
        return
    from distributed import performance_report

    report = performance_report(filename=path, mode="inline")  # scripts are in the page
    with client.as_current():
        report.__enter__()
    try:
        yield
    finally:
        try:
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
            with client.as_current():
                client.sync(report.__aexit__, None, None, None, code="", callback_timeout=CLOSE_SECONDS)
        except Exception as error:
            log.warning("the performance report %s was not written: %s", path, error)
