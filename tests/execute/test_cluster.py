"""Dask in production: TLS, exposed schedulers, cluster classes, examined workers, their warnings, deadlines."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import types
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest

from stream_gmm.errors import ClusterError, ConfigError, StorageError
from stream_gmm.execute.addresses import is_encrypted, is_exposed
from stream_gmm.pipeline.job.config import validate_config
from stream_gmm.pipeline.passes.known_answer import answer_known_question
from tests.servers import wait_for

ROOT = Path(__file__).parents[2]


def _add(item, shared):
    return item + (shared or 0)


def _sleep(item, shared):
    time.sleep(item)
    return item


def _read_cluster(**section):
    return validate_config({"data": {"paths": "x"}, "cluster": section}, "test").cluster


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "exposed"),
        [
            ("tcp://127.0.0.1:8786", False), ("127.0.0.1:8786", False), ("tcp://localhost:8786", False),
            ("tcp://[::1]:8786", False), ("tcp://127.8.9.1:1", False), ("inproc://10.0.0.1/1/1", False),
            ("tls://host:8786", False), ("wss://host:8786", False), ("tcp://10.0.0.5:8786", True),
            ("host:8786", True), ("tcp://0.0.0.0:8786", True), ("ws://host:1", True), ("ucx://host:1", True),
            ("tcp://[fe80::1%eth0]:8786", True), ("tcp://localhost.example.org:1", True),
        ],
    )  # fmt: skip
    def test_a_scheduler_in_clear_beyond_the_loopback_address_is_exposed(self, address, exposed):
        assert is_exposed(address) is exposed

    def test_only_tls_and_wss_are_encrypted(self):
        assert [is_encrypted(f"{p}://h:1") for p in ("tls", "wss", "tcp", "ws")] == [True, True, False, False]

    def test_an_exposed_scheduler_is_refused_unless_allowed(self):
        with pytest.raises(ConfigError, match=r"tcp://host:8786.*runs code there.*allow_insecure"):
            _read_cluster(address="tcp://host:8786")
        assert _read_cluster(address="tcp://host:8786", allow_insecure=True).address == "tcp://host:8786"

    def test_an_exposed_scheduler_of_a_file_is_refused_before_anything_is_sent(self, tmp_path):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            server.settimeout(0.2)
            file = tmp_path / "scheduler.json"
            file.write_text(json.dumps({"address": f"tcp://0.0.0.0:{server.getsockname()[1]}"}))
            with pytest.raises(ConfigError, match="not encrypted"), connect(ClusterSpec(scheduler_file=str(file))):
                pass
            with pytest.raises(TimeoutError):
                server.accept()
        file.write_text("{}")
        with pytest.raises(ClusterError, match="not the file of a"), connect(ClusterSpec(scheduler_file=str(file))):
            pass

    @pytest.mark.parametrize(
        ("section", "said"),
        [
            ({"tls_ca_file": "a"}, "both tls_ca_file and tls_cert_file"),
            ({"tls_ca_file": "a", "tls_cert_file": "b", "address": "tcp://127.0.0.1:1"}, "begins with 'tls://'"),
            ({"encrypt": True, "address": "tls://host:1"}, "started here"),
            ({"encrypt": True, "tls_ca_file": "a", "tls_cert_file": "b"}, "leave the tls files out"),
        ],
    )
    def test_sections_that_contradict_themselves_are_refused(self, section, said):
        with pytest.raises(ConfigError, match=said):
            _read_cluster(**section)


def _write_certificates(folder: Path, name: str):
    """Write an authority of its own and one certificate; return the section of a configuration that uses them."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    made: dict = {}
    for what in ("authority", "own"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {what}")])
        issuer, signer = made.get("authority", (subject, key))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=what == "authority", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
            .sign(signer, hashes.SHA256())
        )
        made[what] = subject, key
        (folder / f"{name}-{what}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}-{what}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return {
        "tls_ca_file": str(folder / f"{name}-authority.pem"),
        "tls_cert_file": str(folder / f"{name}-own.pem"),
        "tls_key_file": str(folder / f"{name}-own.key"),
    }


@contextmanager
def _started_cluster(folder: Path, *options: str, workers: int = 1, nanny: bool = False, **environment: str):
    """Yield the address of a scheduler in a process of its own, and the processes: scheduler, workers."""
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", *options]
    commands = [
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *common, "--port", "0", "--dashboard-address",
         "127.0.0.1:0"],
        *[[sys.executable, "-m", "distributed.cli.dask_worker", *common, "--nthreads", "1", "--no-dashboard",
           *([] if nanny else ["--no-nanny"])]] * workers,
    ]  # fmt: skip
    logs = open(folder / "dask.log", "ab")
    processes = [
        subprocess.Popen(
            c, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, stdout=logs, stderr=logs, cwd=folder
        )
        for c in commands
    ]
    try:
        wait_for(file.exists, 60, "the scheduler file")
        yield json.loads(file.read_text())["address"], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
        logs.close()


@pytest.fixture(scope="module")
def tls_cluster(tmp_path_factory):
    """A scheduler with a worker that speak TLS only, with certificates of an authority of their own."""
    folder = tmp_path_factory.mktemp("tls")
    own = _write_certificates(folder, "own")
    options = ["--protocol", "tls"]
    for key, path in own.items():
        options += [f"--{key.replace('_', '-').replace('cert-file', 'cert').replace('key-file', 'key')}", path]
    with _started_cluster(folder, *options) as (address, _):
        yield address, own, folder


@pytest.mark.slow
class TestTLS:
    def test_a_cluster_is_reached_with_a_certificate_of_its_authority(self, tls_cluster):
        from stream_gmm.pipeline.job.cluster import open_executor

        address, own, _ = tls_cluster
        assert address.startswith("tls://")
        with open_executor(_read_cluster(address=address, **own)) as executor:
            assert executor.map(_add, [1, 2], shared=1) == [2, 3]

    def test_it_is_not_reached_without_a_certificate_or_with_a_foreign_one(self, tls_cluster, tmp_path):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        address, own, _ = tls_cluster
        foreign = _write_certificates(tmp_path, "foreign")
        for files in (foreign, {**foreign, "tls_ca_file": own["tls_ca_file"]}):
            with (
                pytest.raises(ClusterError, match="no Dask worker"),
                connect(ClusterSpec(address=address, timeout_seconds=1.5, **files)),
            ):
                pass
        with pytest.raises(ConfigError, match="needs certificates"), connect(ClusterSpec(address=address)):
            pass

    def test_files_that_are_no_certificates_are_named(self, tls_cluster, tmp_path):
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        address, own, _ = tls_cluster
        (tmp_path / "text").write_text("no certificate")
        for broken in ("missing", "text"):
            spec = ClusterSpec(address=address, **{**own, "tls_key_file": str(tmp_path / broken)})
            with pytest.raises(ConfigError, match=rf"{broken} cannot be used.*tls_key_file"), connect(spec):
                pass

    def test_an_embedded_cluster_with_certificates_of_its_own_serves_two_clients_and_no_other(self):
        from distributed import Client

        from stream_gmm.pipeline.job.cluster import open_executor, running_cluster

        with running_cluster(_read_cluster(encrypt=True, n_workers=1)) as section:
            address, key = str(section.address), Path(str(section.tls_key_file))
            assert address.startswith("tls://127.0.0.1:")
            assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
            with open_executor(section) as executor:
                assert executor.map(_add, [1], shared=1) == [2]
            with pytest.raises((OSError, TimeoutError, RuntimeError, TypeError)):
                Client(address.replace("tls", "tcp"), timeout="2s")
        assert not key.exists()


SBATCH = """#!{python}
import subprocess, sys
job = subprocess.Popen(["/bin/sh", sys.argv[-1]], start_new_session=True, stdout=subprocess.DEVNULL,
                       stderr=open("{folder}/jobs.log", "ab"))
open("{folder}/jobs", "a").write(str(job.pid) + "\\n")
print("Submitted batch job", job.pid)
"""
SCANCEL = """#!{python}
import os, signal, sys
open("{folder}/cancelled", "a").write(sys.argv[-1] + "\\n")
try:
    os.killpg(int(sys.argv[-1]), signal.SIGTERM)
except ProcessLookupError:
    pass
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """sbatch and scancel of a cluster that is this machine; returns the folder with its lists of jobs."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text.format(python=sys.executable, folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "cancelled").touch()
    return tmp_path


SLURM = {
    "cores": 1, "memory": "1GiB", "queue": "normal", "walltime": "00:10:00", "death_timeout": 60,
    "scheduler_options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}, "job_extra_directives": ["--x"],
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("way", "security"),
    [({"scale": 2}, {}), ({"adapt": {"minimum": 1, "maximum": 2}}, {"encrypt": True})],
    ids=["scale", "adapt, TLS"],
)
def test_jobs_of_slurm_are_submitted_work_and_are_cancelled(slurm, way, security):
    pytest.importorskip("dask_jobqueue")
    from stream_gmm.execute.dask import DaskExecutor
    from stream_gmm.pipeline.job.cluster import open_executor

    section = _read_cluster(
        cluster_class="dask_jobqueue.SLURMCluster", cluster_options=SLURM | {"log_directory": str(slurm)}, **way,
        timeout_seconds=60, **security,
    )  # fmt: skip
    with open_executor(section) as executor:
        assert isinstance(executor, DaskExecutor)
        assert executor.client.scheduler.address.startswith("tls://" if security else "tcp://")
        assert executor.map(_add, list(range(20)), shared=1) == list(range(1, 21))
        jobs = (slurm / "jobs").read_text().split()
        assert jobs
    wait_for(lambda: set((slurm / "jobs").read_text().split()) <= set((slurm / "cancelled").read_text().split()), 30,
             "all jobs are cancelled")  # fmt: skip


class _StandIn:
    """Has the face of dask_kubernetes.KubeCluster, and workers on this machine."""

    def __init__(self, name, namespace="default", image="", n_workers=0, env=None):
        from distributed import LocalCluster

        del name, namespace, image, env
        self.local = LocalCluster(
            n_workers=n_workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        )
        self.asked: list = []

    def __getattr__(self, name):
        return getattr(self.local, name)

    def scale(self, n):
        self.asked.append(("scale", n))
        return self.local.scale(n)

    def adapt(self, minimum=0, maximum=1):
        self.asked.append(("adapt", minimum, maximum))
        return self.local.adapt(minimum=minimum, maximum=maximum)

    def close(self, timeout=3600):
        self.asked.append("close")
        return self.local.close(timeout=timeout)


@pytest.mark.long
@pytest.mark.parametrize("way", [{"scale": 2}, {"adapt": {"minimum": 1, "maximum": 2}}], ids=["scale", "adapt"])
def test_any_class_with_the_face_of_a_dask_cluster_is_started_scaled_and_closed(monkeypatch, way):
    from stream_gmm.pipeline.job.cluster import open_executor

    made = []

    def make(**options):
        made.append(_StandIn(**options))
        return made[-1]

    monkeypatch.setitem(sys.modules, "kube_stand_in", types.SimpleNamespace(KubeCluster=make))
    section = _read_cluster(
        cluster_class="kube_stand_in.KubeCluster", cluster_options={"name": "gmm", "image": "img:1"}, **way
    )
    with open_executor(section) as executor:
        assert executor.map(_add, [1, 2, 3], shared=1) == [2, 3, 4]
    assert made[0].asked == [("scale", 2) if "scale" in way else ("adapt", 1, 2), "close"]


@pytest.mark.slow
def test_a_class_whose_scheduler_is_exposed_gets_no_workers():
    from stream_gmm.execute.dask_cluster import ClusterSpec, connect

    options = {"n_workers": 0, "dashboard_address": "127.0.0.1:0", "host": "0.0.0.0"}
    spec = ClusterSpec(cluster_class="distributed.LocalCluster", cluster_options=options, scale=1)
    with pytest.raises(ConfigError, match="not on the loopback address"), connect(spec):
        pass


def _answer_wrongly():
    """Give another answer in every process but the first that asks."""
    return (1.0, 2.0 + 1e-6 * (os.environ.get("ASKING") is None))


def _answer_nearly():
    return (1.0, 2.0 + 1e-14 * (os.environ.get("ASKING") is None))


class TestExaminedWorkers:
    def test_the_known_answer_is_that_of_scipy(self):
        from scipy.special import logsumexp
        from scipy.stats import multivariate_normal

        index = np.arange(257.0)
        rows = np.column_stack([np.sin(index), np.cos(1.7 * index) + 0.3 * np.sin(index)])
        rows[::2] += 2.5
        joint = np.column_stack(
            [multivariate_normal(m, [[0.6, 0.1], [0.1, 0.7]]).logpdf(rows) for m in ([0.0, 0.1], [2.4, 2.6])]
        ) + np.log(0.5)
        assert answer_known_question()[0] == pytest.approx(logsumexp(joint, axis=1).sum(), rel=1e-9)

    def test_workers_that_answer_right_are_asked_once(self, dask_client):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_workers import WorkerCheck

        executor = DaskExecutor(dask_client, check=WorkerCheck.of(answer_known_question))
        executor.examine_workers()
        assert executor.map(_add, list(range(8)), shared=1) == list(range(1, 9))

    def test_a_worker_with_other_versions_is_named_and_ends_the_run(self, dask_client):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_workers import WorkerCheck

        check = WorkerCheck.of(answer_known_question)
        older = replace(check, versions=(*(v for v in check.versions if v[0] != "stream-gmm"), ("stream-gmm", "0.0")))
        for act in (DaskExecutor(dask_client, check=older).examine_workers,
                    lambda: DaskExecutor(dask_client, check=older).map(_add, [1])):  # fmt: skip
            with pytest.raises(ClusterError, match=r"worker tcp://127.*other versions: stream-gmm .*caller: 0\.0"):
                act()

    def test_a_worker_that_computes_something_else_ends_the_run(self, dask_client, monkeypatch):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_workers import WorkerCheck

        monkeypatch.setenv("ASKING", "1")
        with pytest.raises(ClusterError, match="wrong answer"):
            DaskExecutor(dask_client, check=WorkerCheck.of(_answer_wrongly)).map_reduce(_add, _first, [1, 2])

    def test_other_packages_and_other_rounding_are_told_and_nothing_else(self, dask_client, monkeypatch, caplog):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_workers import WorkerCheck, forward_warnings

        monkeypatch.setenv("ASKING", "1")
        check = WorkerCheck.of(_answer_nearly)
        other = replace(check, versions=(*(v for v in check.versions if v[0] != "numpy"), ("numpy", "1.0")))
        with caplog.at_level(logging.WARNING), forward_warnings(dask_client):
            DaskExecutor(dask_client, check=other).examine_workers()
            wait_for(lambda: "rounds differently" in caplog.text, 20, "the warning of the worker")
        assert "other versions, and computes the same: numpy" in caplog.text

    def test_a_worker_without_the_package_is_told_apart_from_a_defect(self, dask_client):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_workers import WorkerCheck

        module = types.ModuleType("only_here")
        exec("def answer(): return (1.0,)", module.__dict__)
        sys.modules["only_here"] = module
        try:
            executor = DaskExecutor(dask_client, check=WorkerCheck.of(module.answer))
            with pytest.raises(ClusterError, match="cannot be imported on the Dask workers tcp://127.*only_here"):
                executor.examine_workers()
        finally:
            del sys.modules["only_here"]


def _first(a, b):
    return a


def _warn(item, shared):
    logging.getLogger("stream_gmm.test").warning("no room at s3://key:secret@bucket, %s", item)
    logging.getLogger("stream_gmm.test").info("not told")
    return item


def test_warnings_of_workers_reach_the_log_here_once_and_only_while_asked_for(dask_cluster, caplog):
    from stream_gmm.pipeline.job.cluster import open_executor

    with caplog.at_level(logging.DEBUG, logger="stream_gmm"):
        with open_executor(_read_cluster(address=dask_cluster.scheduler_address)) as executor:
            executor.map(_warn, [1, 2, 3])
            wait_for(lambda: caplog.text.count("no room at") == 3, 20, "the warnings of the workers")
        with open_executor(_read_cluster(address=dask_cluster.scheduler_address)) as executor:
            executor.map(_warn, [4])
            wait_for(lambda: "bucket, 4" in caplog.text, 20, "the warning of the second run")
    assert caplog.text.count("no room at") == 4
    assert "[worker" in caplog.text
    assert "not told" not in caplog.text


@pytest.mark.slow
class TestDeadlines:
    @pytest.mark.long
    def test_stopped_workers_are_waited_for_so_long_and_no_longer(self, tmp_path):
        from distributed import Client

        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_wait import Deadlines

        with _started_cluster(tmp_path) as (address, processes), Client(address) as client:
            client.wait_for_workers(1, timeout=60)
            assert DaskExecutor(client).map(_add, [1]) == [1]
            executor = DaskExecutor(client, Deadlines(lost=60.0, stalled=3.0))
            processes[1].send_signal(signal.SIGSTOP)
            started = time.monotonic()
            with pytest.raises(ClusterError, match="no worker of the Dask cluster was at work.*with 4 of 4 tasks"):
                executor.map(_add, [1, 2, 3, 4])
            assert time.monotonic() - started < 40.0
            processes[0].send_signal(signal.SIGSTOP)
            executor = DaskExecutor(client, Deadlines(lost=1.0))
            for ask in (lambda: executor.n_workers, lambda: executor.memory_bytes, lambda: executor.map(_add, [1])):
                with pytest.raises(ClusterError, match="did not answer"):
                    ask()
            for process in processes:
                process.send_signal(signal.SIGCONT)

    @pytest.mark.long
    def test_a_task_that_hangs_ends_the_run_and_one_that_computes_does_not(self, dask_client):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_wait import Deadlines

        executor = DaskExecutor(dask_client, Deadlines(stalled=4.0))
        assert executor.map(_compute, [7.0]) == [7.0]
        with pytest.raises(ClusterError, match=r"at work on the tasks for 4 s.*hang.*stall_seconds"):
            executor.map(_sleep, [20.0])

    def test_tasks_that_the_scheduler_forgot_are_not_waited_for(self, dask_client):
        from stream_gmm.execute.dask_wait import Deadlines, wait_for_tasks

        futures = dask_client.map(_sleep, [30.0], [None])
        other = dask_client.submit(_add, 1, 1, pure=False)
        wait_for_tasks(dask_client, [other], None, Deadlines())

        def forget(dask_scheduler, keys, client):
            dask_scheduler.report = lambda *_, **__: None  # the message to the client is lost
            try:
                dask_scheduler.client_releases_keys(keys=keys, client=client, stimulus_id="test")
            finally:
                del dask_scheduler.report

        dask_client.run_on_scheduler(forget, keys=[f.key for f in futures], client=dask_client.id)
        with pytest.raises(ClusterError, match="had nothing to do"):
            wait_for_tasks(dask_client, futures, None, Deadlines(lost=1.0))


def _compute(seconds, shared):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass
    return seconds


@pytest.mark.long
def test_a_performance_report_is_written_on_request_and_loads_no_script_from_elsewhere(tmp_path):
    pytest.importorskip("bokeh")
    from stream_gmm.pipeline.job.cluster import open_executor

    path, before = tmp_path / "new" / "performance.html", _find_exposed_ports()
    with open_executor(_read_cluster(n_workers=1, performance_report=str(path))) as executor:
        assert executor.map(_add, [1, 2], shared=1) == [2, 3]
        assert "dashboard http://127.0.0.1:" in executor.place
        ports = _find_exposed_ports() - before
    text = path.read_text()
    assert "Task Stream" in text or "task-stream" in text.lower()
    assert not re.findall(r"<script[^>]+src=", text), "scripts are in the page; only the icon is Dask's"
    assert not ports


def _find_exposed_ports() -> set[str]:
    """Return the addresses beyond the loopback one on which this process and its children listen."""
    this = psutil.Process()
    return {
        f"{connection.laddr} {process.cmdline()}"
        for process in (this, *this.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.ip not in ("127.0.0.1", "::1")
    }


def test_a_performance_report_without_bokeh_is_refused_before_anything_starts(monkeypatch):
    from stream_gmm.execute.dask_cluster import ClusterSpec, connect

    monkeypatch.setitem(sys.modules, "bokeh", None)
    spec = ClusterSpec(performance_report="x.html")
    with pytest.raises(ConfigError, match=r"pip install 'stream-gmm\[dashboard\]'"), connect(spec):
        pass


def test_the_test_of_ports_sees_an_open_one():
    before = _find_exposed_ports()
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert len(_find_exposed_ports() - before) == 1


_HELD: list[bytearray] = []


def _fill_memory(share, shared):
    """Hold memory until the process has this share of 500 MiB."""
    this = psutil.Process()
    while this.memory_info().rss < share * (500 << 20):
        _HELD.append(bytearray(os.urandom(1 << 20) * 4))
    return this.memory_info().rss


def _read_status(dask_worker):
    return dask_worker.status.name


@pytest.mark.long
class TestMemory:
    def test_workers_that_are_paused_because_their_memory_is_full_end_the_run(self, caplog):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect
        from stream_gmm.execute.dask_wait import Deadlines
        from stream_gmm.execute.dask_workers import forward_warnings

        with connect(ClusterSpec(n_workers=1, memory_limit="500MiB")) as client, forward_warnings(client):
            DaskExecutor(client).map(_fill_memory, [0.87])
            until = time.monotonic() + 30.0  # Dask looks at the memory five times a second
            while time.monotonic() < until and set(client.run(_read_status).values()) != {"paused"}:
                time.sleep(0.05)
            executor = DaskExecutor(client, Deadlines(stalled=4.0))
            with pytest.raises(ClusterError, match=r"at work.*1 of 1 workers are paused.*raise cluster.memory_limit"):
                executor.map(_add, [1, 2])
        assert "distributed.worker.memory" in caplog.text
        assert "Pausing worker" in caplog.text

    def test_a_task_that_needs_more_memory_than_a_worker_has_ends_the_run(self):
        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_cluster import ClusterSpec, connect

        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 0}),
            connect(ClusterSpec(n_workers=1, memory_limit="500MiB")) as client,
            pytest.raises(ClusterError, match=r"lost the work twice.*ran out of memory"),
        ):
            DaskExecutor(client).map(_fill_memory, [3.0])


@pytest.mark.long
def test_plan_record_and_report_name_a_cluster_that_stays(dask_cluster, demo_folder, tmp_path):
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.stages import sweep_stage
    from stream_gmm.report.html import write_report

    content = {
        "data": {"paths": str(demo_folder), "columns": ["x0"]},
        "sweep": {"n_components": [1], "covariance_type": ["full"]},
        "em": {"sample_rows": 1000},
        "cluster": {"address": dask_cluster.scheduler_address},
        "output": {"folder": str(tmp_path / "run")},
    }
    config = validate_config(content, "test")
    plans: list = []
    with open_executor(config.cluster) as executor:
        sweep_stage(config, executor, on_plan=plans.append)
    (line,) = (line for line in plans[0].describe() if line.startswith("workers: "))
    place = f"Dask scheduler {dask_cluster.scheduler_address}"
    assert place in line
    assert json.loads((tmp_path / "run" / "run.json").read_text())["workers"]["place"].startswith(place)
    assert place in write_report(config.folder).read_text()


def test_a_task_that_was_cancelled_is_no_error_in_the_log_of_the_client(dask_cluster, caplog):
    """A client whose connection was lost as its job was done looks for the scheduler until it is closed."""
    from stream_gmm.execute.dask_cluster import ClusterSpec, connect

    def log_error(error: BaseException) -> None:
        try:
            raise error
        except (OSError, asyncio.CancelledError):
            logging.getLogger("distributed.client").exception("")

    with connect(ClusterSpec(address=dask_cluster.scheduler_address)), caplog.at_level(logging.ERROR):
        log_error(asyncio.CancelledError())
        log_error(OSError("the network"))
    assert [str(r.exc_info[1]) for r in caplog.records] == ["the network"]


def test_a_cluster_that_cannot_write_its_temporary_files_is_a_matter_of_storage(monkeypatch):
    from stream_gmm.execute import dask_cluster
    from stream_gmm.execute.dask_cluster import ClusterSpec, connect

    def fail(*_):
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/dask-scratch-space")
        except OSError as error:
            raise RuntimeError("Cluster failed to start") from error

    monkeypatch.setattr(dask_cluster, "_open_client", fail)
    with pytest.raises(StorageError, match="dask-scratch-space.*DASK_TEMPORARY_DIRECTORY"), connect(ClusterSpec()):
        pass


def test_a_worker_without_room_to_spill_says_so_in_one_line(caplog):
    from stream_gmm.execute.interrupts import shorten

    log = logging.getLogger("distributed.spill")
    log.addFilter(shorten)
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        log.error("Spill to disk failed; keeping %s in memory", "data", exc_info=True)
    finally:
        log.removeFilter(shorten)
    assert caplog.messages == ["Spill to disk failed; keeping data in memory: [Errno 28] No space left on device"]
    assert "Traceback" not in caplog.text


DELAY = "distributed.scheduler.events-cleanup-delay"


class TestLongLivedClusters:
    """Schedulers and workers that run for months: what a pass leaves on them is forgotten."""

    def test_passes_leave_nothing_on_workers_and_on_a_scheduler_with_upkeep(self):
        from distributed import Client, LocalCluster

        from stream_gmm.execute.dask import DaskExecutor
        from stream_gmm.execute.dask_wait import Deadlines
        from stream_gmm.execute.dask_workers import WorkerCheck, examine_workers, forward_warnings
        from stream_gmm.execute.scheduler_upkeep import dask_setup, forget

        options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
        with (
            dask.config.set({"distributed.admin.low-level-log-length": 1_000, DELAY: "1h"}),
            LocalCluster(**options) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            scheduler, (worker,) = cluster.scheduler, cluster.workers.values()
            executor, spans = DaskExecutor(client), cluster.scheduler.extensions["spans"].spans

            def sum_five_times() -> None:
                for _ in range(5):
                    assert executor.map_reduce(_add, lambda a, b: a + b, [1, 2, 3], shared=1) == 9

            sum_five_times()
            examine_workers(client, WorkerCheck.of(answer_known_question), Deadlines())
            counts = len(spans), len(worker.digests_total)
            sum_five_times()
            examine_workers(client, WorkerCheck.of(answer_known_question), Deadlines())
            assert (len(spans), len(worker.digests_total)) == counts

            with dask.annotate(span={"name": ("mine",), "ids": ("mine",)}):
                sum_five_times()
            assert "mine" in spans, "a span of the caller's stays"

            async def set_up() -> None:
                dask_setup(scheduler)

            with Client(cluster, set_as_default=False) as other:
                killed = forward_warnings(other)
                killed.__enter__()
            assert [n for n in scheduler.worker_plugins if n.startswith("stream-gmm-warnings")]
            with forward_warnings(client):
                cluster.sync(set_up)
                cluster.sync(forget, scheduler)
                left = [n for n in scheduler.worker_plugins if n.startswith("stream-gmm-warnings")]
                assert left
                assert all(client.id in n for n in left), "those of the client that is gone are forgotten"
            assert not [group for span in spans.values() for group in span.groups]

    def test_a_scheduler_with_upkeep_keeps_few_messages_and_no_log_of_clients_that_are_gone(self):
        from distributed import Client, LocalCluster

        from stream_gmm.execute.scheduler_upkeep import MESSAGES, dask_setup, forget

        options = {"n_workers": 0, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
        with (
            dask.config.set({"distributed.admin.low-level-log-length": 1_000, DELAY: "10 ms"}),
            LocalCluster(**options) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            scheduler = cluster.scheduler

            async def set_up() -> None:
                dask_setup(scheduler)

            cluster.sync(set_up)
            cluster.scale(1)
            client.wait_for_workers(1)
            (stream,) = scheduler.stream_comms.values()
            assert stream.recent_message_log.maxlen == MESSAGES
            with Client(cluster, set_as_default=False) as other:
                assert other.submit(_add, 1, 2).result() == 3
                gone = other.id
            assert gone in scheduler._broker._topics
            deadline = time.monotonic() + 10.0
            while gone in scheduler._broker._topics and time.monotonic() < deadline:
                cluster.sync(forget, scheduler)
                time.sleep(0.05)
            assert gone not in scheduler._broker._topics
            assert dask.utils.key_split.cache_info().currsize < 10
            assert client.id in scheduler._broker._topics
