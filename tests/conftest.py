"""One Dask cluster, one Prefect API and one S3 server for the whole session.

Under pytest-xdist (--dist loadfile) a session is a worker process. All tests that need the Prefect API are in one
file, so that it starts once; a Dask cluster and an S3 server are started by each worker that meets a test for them.
"""

from __future__ import annotations

import os

# Before prefect or distributed is imported anywhere.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from stream_gmm import demo
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=40, suppress_health_check=list(HealthCheck)
)
settings.register_profile("quick", settings.get_profile("ci"), max_examples=10)
settings.load_profile("ci")


def pytest_collection_modifyitems(config, items):
    """In a worker of pytest-xdist take the files with long tests first, so that no worker ends late."""
    if hasattr(config, "workerinput"):
        waiting, long = ({t.path for t in items if t.get_closest_marker(name)} for name in ("prefect", "slow"))
        items.sort(key=lambda t: (t.path not in waiting, t.path not in long))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def dask_cluster():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit="2GiB"
    ) as cluster:
        yield cluster


@pytest.fixture
def dask_client(dask_cluster):
    from distributed import Client

    with Client(dask_cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(params=["serial", "threads", "dask"])
def executor(request):
    if request.param == "serial":
        return SerialExecutor()
    if request.param == "threads":
        return ThreadsExecutor(3)
    from stream_gmm.execute.dask import DaskExecutor

    return DaskExecutor(request.getfixturevalue("dask_client"))


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory):
    """A real Prefect server on the loopback address, with a database of its own."""
    from tests.servers import prefect_server

    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="session")
def s3_endpoint():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint, monkeypatch):
    """Credentials in the environment, as a worker would find them; returns the file system."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    import pyarrow.fs as pafs

    return pafs.S3FileSystem(
        endpoint_override=s3_endpoint, allow_bucket_creation=True,
        access_key="testing", secret_key="testing", region="us-east-1",
    )  # fmt: skip


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """20,000 rows x 3 columns of a three-component mixture in four files."""
    folder = tmp_path_factory.mktemp("demo")
    demo.write(folder, rows=20_000, columns=3, files=4, components=3)
    return folder


@pytest.fixture
def write_parquet(tmp_path):
    """Write columns as one Parquet file below a folder of the test's own."""

    def write(name: str, columns: dict, row_group_size: int = 100, folder: str = "in", **options):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=row_group_size, **options)
        return path

    return write
