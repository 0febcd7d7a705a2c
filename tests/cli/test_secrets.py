"""Credentials in paths reach no file of a run, no output and no error."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from stream_gmm.cli.commands import cli
from stream_gmm.errors import ConfigError, redact_error, redact_text, redact_value, remove_credentials
from stream_gmm.pipeline.job.config import validate_config

CANARY = "CANARY0SECRET"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("cannot open s3://key:se/cr+et@1@bucket/x now", "cannot open s3://***@bucket/x now"),
        ("['s3://a:b@c/d', 's3://e:f@g/h']", "['s3://***@c/d', 's3://***@g/h']"),
        ("gs://token@bucket/x", "gs://***@bucket/x"),
        ("tls://user:pass@host:8786", "tls://***@host:8786"),
        ("https://host/x?region=eu&secret_key=abc&sig=def", "https://host/x?region=eu&secret_key=***&sig=***"),
        ("s3://bucket/mail@example.org/x", "s3://bucket/mail@example.org/x"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("write to me@example.org: 3 rows", "write to me@example.org: 3 rows"),
    ],
)
def test_credentials_are_removed_and_nothing_else(text, expected):
    assert redact_text(text) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://key:se/cr+et@1@bucket/x", "s3://bucket/x"),
        ("gs://token@bucket/x?endpoint_override=a", "gs://bucket/x?endpoint_override=a"),
        ("s3://b/x?secret_key=abc", "s3://b/x"),
        ("https://host/x?sig=abc&region=eu;access_key=b&scheme=http", "https://host/x?region=eu&scheme=http"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("in/part-?;a&b.parquet", "in/part-?;a&b.parquet"),
    ],
)
def test_a_uri_is_written_without_credentials(uri, expected):
    assert remove_credentials(uri) == expected


@pytest.mark.slow
def test_a_new_configuration_has_no_credentials(s3, s3_endpoint, demo_folder, tmp_path):
    _upload(s3, demo_folder)
    place = s3_endpoint.removeprefix("http://").replace(":", "%3A")
    options = f"scheme=http&endpoint_override={place}&region=us-east-1"
    path, target = f"s3://key:{CANARY}@canary/in?{options}", tmp_path / "a.yaml"
    made = CliRunner().invoke(cli, ["init", path, "--output", str(target)])

    assert made.exit_code == 0, made.output
    assert "set them in the environment" in made.stderr
    assert assert_no_canary(tmp_path) == 1
    assert yaml.safe_load(target.read_text())["data"]["paths"] == [f"s3://canary/in?{options}"]


def test_values_below_secret_names_are_removed():
    value = {"password": "x", "n": [{"auth_token": "y", "cores": 3}], "path": "s3://k:s@b"}
    assert redact_value(value) == {"password": "***", "n": [{"auth_token": "***", "cores": 3}], "path": "s3://***@b"}


def _fail_to_read(path: str) -> None:
    try:
        raise FileNotFoundError(2, "No such file", path)
    except OSError as cause:
        raise RuntimeError(f"cannot read {path}") from cause


def test_errors_and_their_causes_have_none():
    path = f"s3://key:{CANARY}@bucket"
    assert CANARY not in str(ConfigError(f"cannot read {path}"))
    with pytest.raises(RuntimeError) as raised:
        _fail_to_read(path)
    redact_error(raised.value)
    assert CANARY not in "".join(traceback.format_exception(raised.value))


def test_a_configuration_shows_none_and_still_has_them():
    config = validate_config(
        {
            "data": {"paths": f"s3://key:{CANARY}@bucket/in"},
            "cluster": {"cluster_class": "a.B", "cluster_options": {"password": CANARY}},
        },
        "test",
    )
    for shown in (repr(config), str(config), repr(config.data), config.model_dump_json(), f"{config.cluster}"):
        assert CANARY not in shown
    assert CANARY in config.data.paths[0]
    assert config.cluster.cluster_options == {"password": CANARY}
    with pytest.raises(ConfigError) as error:
        validate_config({"data": {"paths": [f"s3://key:{CANARY}@b", 5], "column": f"s3://k:{CANARY}@b"}}, "test")
    assert CANARY not in str(error.value)


def _upload(s3, demo_folder) -> None:
    s3.create_dir("canary")
    for path in sorted(demo_folder.glob("*.parquet")):
        with s3.open_output_stream(f"canary/in/{path.name}") as out:
            out.write(path.read_bytes())


def _run(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stream_gmm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def assert_no_canary(folder: Path) -> int:
    """Look for the canary in the bytes of all files, and in the decoded content of tables."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            assert CANARY not in f"{table.schema.metadata}"
            for column in table.columns:
                if pa.types.is_string(column.type):
                    assert not any(CANARY in (v or "") for v in column.to_pylist()), path
    return len(files)


@pytest.mark.prefect
@pytest.mark.long
def test_a_whole_run_from_an_object_store_leaves_none(s3, s3_endpoint, prefect_api, demo_folder, tmp_path):
    """Files, output, errors, and all that the Prefect API has stored: parameters, states, logs, artifacts."""
    from tests.flows.test_flow import ask

    _upload(s3, demo_folder)
    place = s3_endpoint.removeprefix("http://").replace(":", "%3A")
    path = f"s3://key:{CANARY}@canary/in?scheme=http&endpoint_override={place}&region=us-east-1"
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "PREFECT_LOGGING_TO_API_ENABLED": "true"}
    common = (
        "--paths", path, "--folder", tmp_path / "run", "--n-components", "1:2", "--sweep.covariance-type", "full",
        "--em.sample-rows", 2000, "--n-init", 1, "--name", "canary",
    )  # fmt: skip
    whole = _run(environment, "run", *common, "--columns", "x0,x1,x2", "--n-workers", 1)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "published" not in whole.stderr
    bad = _run(environment, "run", *common, "--executor", "threads", "--weight", "x0", "--columns", "x1")

    assert bad.returncode == 3, bad.stdout + bad.stderr
    assert "is negative" in bad.stderr
    for output in (whole.stdout, whole.stderr, bad.stdout, bad.stderr):
        assert CANARY not in output
        assert "Traceback" not in output
    assert assert_no_canary(tmp_path) > 10
    assert "127.0.0.1" not in (tmp_path / "run" / "run.json").read_text().replace(place, "")
    for what in ("flow_runs", "task_runs", "artifacts", "logs"):
        stored = ask(prefect_api, f"/{what}/filter")
        assert stored or what == "logs"
        assert CANARY not in str(stored), what
