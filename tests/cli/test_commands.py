"""The command line: what it prints and with which code it exits."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stream_gmm.cli.commands import main
from stream_gmm.io.store.lease import hold_folder
from stream_gmm.pipeline.job.repeat import config_keys

COLUMNS = ["--columns", "x0,x1,x2"]
THREADS = ["--executor", "threads"]


def run(*arguments, code: int = 0) -> str:
    """Return what a command prints; an import of the package in a process of its own costs three seconds.

    With ``--json`` only standard output: a warning on standard error, such as of a store asked twice, is no JSON.
    """
    printed, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["stream-gmm", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "150"}),
        redirect_stdout(printed),
        redirect_stderr(errors),
    ):
        returned: object = 0
        try:
            main()
        except SystemExit as stop:
            returned = int(stop.code or 0)
    output = printed.getvalue() + errors.getvalue()
    assert returned == code, output
    return printed.getvalue() if "--json" in arguments else output


def run_process(*arguments, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "stream_gmm", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "150"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def swept(demo_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    output = run_process(
        "sweep", "--paths", demo_folder, *COLUMNS, *THREADS, "--n-components", "1:4",
        "--sweep.covariance-type", "diag,full", "--folder", folder, "--truth", demo_folder / "truth.gmm",
    )  # fmt: skip
    return folder, output


def test_sweep_prints_table_model_and_truth(swept):
    folder, output = swept

    for part in ("full-3 *", "CONVERGED", "full, K = 3", "weight", "beside the truth: full, K = 3", "sweep table"):
        assert part in output
    assert (folder / "model.gmm").exists()
    assert len(pq.read_table(folder / "sweep.parquet")) == 8


def test_in_a_log_progress_becomes_plain_lines(swept):
    _, output = swept

    assert "explore" in output
    assert "\x1b[" not in output
    assert any(line[2:3] == ":" and " % · " in line for line in output.splitlines())


@pytest.mark.slow
def test_score_publishes_once_and_report_and_inspect_show_it(swept, demo_folder):
    folder, _ = swept
    arguments = ("score", "--paths", demo_folder, *COLUMNS, *THREADS, "--folder", folder)
    assert "published" in run(*arguments)
    assert "already published" in run(*arguments)
    assert ds.dataset(folder / "scored").count_rows() == 20_000

    output = run("report", folder)
    html = (folder / "report.html").read_text()
    assert "20,000 rows scored" in output
    assert html.count('<svg class="chart"') > 12
    assert "://" not in html

    output = run("inspect", folder / "model.gmm")
    assert "full, K = 3" in output
    assert "data_fingerprint" in output


def test_fit_takes_one_candidate(demo_folder, tmp_path):
    base = ("fit", "--paths", demo_folder, *COLUMNS, *THREADS, "--folder", tmp_path / "r")
    assert "fit takes one candidate and the configuration has 32" in run(*base, code=2)
    output = run(*base, "--n-components", 3, "--covariance-type", "tied", "--algorithm", "minibatch")
    assert "tied, K = 3" in output


def test_help_explains_every_option():
    output = run("sweep", "--help")

    for key in config_keys():
        assert f"--{key.replace('_', '-')}" in output
    assert "Exit codes: 0 done" in run("--help")


def test_flags_override_the_yaml_file(demo_folder, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"name: test\ndata: {{paths: '{demo_folder}', columns: [x0, x1]}}\n"
        f"sweep: {{n_components: 2, covariance_type: diag}}\ncluster: {{executor: serial}}\n"
        f"output: {{folder: '{tmp_path / 'r'}'}}\n"
    )
    run("sweep", config, "--em.random-state", 5, "--max-passes", 3)
    record = json.loads((tmp_path / "r" / "run.json").read_text())

    assert record["config"]["em"]["random_state"] == 5
    assert record["config"]["em"]["max_passes"] == 3
    assert record["config"]["sweep"]["covariance_type"] == ["diag"]


def _null_file(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"x": [1.0, None, 3.0]}), folder / "a.parquet")
    return folder


class TestExitCodes:
    def test_2_configuration(self, demo_folder):
        assert "unknown key; did you mean" in _config_error(demo_folder)
        assert "No such option" in run("sweep", "--no-such-option", 1, code=2)
        assert "data: is required" in run("sweep", code=2)

    @pytest.mark.slow
    def test_3_input_data(self, tmp_path):
        null = ("sweep", "--paths", _null_file(tmp_path / "in"), *THREADS, "--folder", tmp_path / "r")
        output = run_process(*null, code=3)
        assert "column 'x': 1 of " in output
        assert "missing: drop" in output
        assert "Traceback" not in output
        assert "there is no file or folder" in run("sweep", "--paths", tmp_path / "no", *THREADS, code=3)
        assert "is not the folder of a run" in run("report", tmp_path, code=3)

    def test_4_model_file(self, tmp_path, demo_folder):
        (tmp_path / "m.gmm").write_bytes(b"nonsense")
        assert "not a stream-gmm model file" in run("inspect", tmp_path / "m.gmm", code=4)
        run("score", "--paths", demo_folder, *THREADS, "--model", tmp_path / "m.gmm", code=4)

    def test_6_storage(self, swept, demo_folder, tmp_path):
        folder, _ = swept
        (tmp_path / "scored").mkdir()
        (tmp_path / "scored" / "precious.txt").write_text("")
        output = run(
            "score", "--paths", demo_folder, *COLUMNS, *THREADS, "--folder", tmp_path,
            "--model", folder / "model.gmm", code=6,
        )  # fmt: skip
        assert "not an output of stream-gmm" in output

    @pytest.mark.slow
    def test_7_cluster(self, demo_folder, tmp_path):
        output = run(
            "sweep", "--paths", demo_folder, "--address", "tcp://127.0.0.1:1", "--timeout-seconds", 1,
            "--folder", tmp_path, code=7,
        )  # fmt: skip
        assert "no Dask worker at tcp://127.0.0.1:1" in output

    def test_8_no_admissible_model(self, tmp_path):
        (tmp_path / "in").mkdir()
        pq.write_table(pa.table({"x": [1.0] * 50, "y": [2.0] * 50}), tmp_path / "in" / "a.parquet")
        output = run("sweep", "--paths", tmp_path / "in", *THREADS, "--folder", tmp_path / "r", code=8)
        assert "admissible" in output


def _config_error(demo_folder) -> str:
    path = demo_folder / "bad.yaml"
    path.write_text(f"data: {{paths: '{demo_folder}', column: [x0]}}\n")
    return run("sweep", path, code=2)


@pytest.mark.slow
def test_fit_runs_on_an_existing_cluster(dask_cluster, demo_folder, tmp_path):
    output = run(
        "fit", "--paths", demo_folder, *COLUMNS, "--address", dask_cluster.scheduler_address,
        "--n-components", 3, "--covariance-type", "full", "--folder", tmp_path / "r",
    )  # fmt: skip
    assert "full, K = 3" in output


SMALL = ("--em.sample-rows", "2000", "--n-components", "1:3", "--sweep.covariance-type", "full,diag")


def test_plan_prints_the_needs_and_refuses_what_cannot_fit(demo_folder):
    output = run("plan", "--paths", demo_folder, *COLUMNS, *THREADS, *SMALL)
    for part in ("20,000 rows x 3 columns", "candidates: 6", "reads:", "memory", "time:"):
        assert part in output
    refused = run(
        "plan", "--paths", demo_folder, *COLUMNS, "--n-components", "1:3", "--memory-limit", "100MiB", code=2
    )  # fmt: skip
    assert "would need about" in refused
    assert "or fewer workers with more memory" in refused


@pytest.mark.slow
def test_a_second_sweep_reads_nothing_and_fresh_reads_again(demo_folder, tmp_path):
    arguments = ("sweep", "--paths", demo_folder, *COLUMNS, *THREADS, *SMALL, "--folder", tmp_path / "run")
    first = run(*arguments)
    assert "was chosen: it has the lowest BIC of 6 candidates" in first
    again = run(*arguments)
    assert "reads of the data for the whole sweep: 0" in again
    assert "were finished before" in again
    assert "reads of the data for the whole sweep: 0" not in run(*arguments, "--fresh")
    models = {p.stem for p in (tmp_path / "run" / "candidates").iterdir()}
    assert models == {f"{n}-{k}" for n in ("full", "diag") for k in (1, 2, 3)}


@pytest.mark.slow
def test_bootstrap_adds_standard_errors_to_the_run_and_to_the_report(demo_folder, tmp_path):
    data = ("--paths", demo_folder, *COLUMNS, *THREADS, *SMALL, "--folder", tmp_path / "run")
    run("sweep", *data)
    output = run("bootstrap", *data, "--replicates", "5", "--ratio-replicates", "3", "--candidates", "2")

    assert "In 5 bootstrap replicates of all rows, full-3 would be chosen by BIC in 5" in output
    assert "Likelihood-ratio test of 3 against 4 components" in output
    assert " ± " in output
    assert len(pq.read_table(tmp_path / "run" / "bootstrap.parquet")) == 3 * (1 + 2 * 3)
    run("report", tmp_path / "run")
    assert "bootstrap replicates" in (tmp_path / "run" / "report.html").read_text()
    refused = run("bootstrap", *data[:-1], tmp_path / "nowhere", code=3)
    assert "is not the folder of a run" in refused


@pytest.mark.slow
def test_noise_and_prior_are_options_of_the_command_line(demo_folder, tmp_path):
    data = ("--paths", demo_folder, *COLUMNS, *THREADS, "--folder", tmp_path / "run")
    output = run("fit", *data, "--n-components", "3", "--covariance-type", "full", "--noise", "--prior", "mclust")
    assert "noise" in output
    run("score", *data, "--noise")
    names = ds.dataset(tmp_path / "run" / "scored").schema.names
    assert "proba_noise" in names
    run("report", tmp_path / "run")
    assert "</span>noise" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_folder_that_another_run_uses_is_exit_code_5_or_waited_for(demo_folder, tmp_path):
    arguments = [
        "--paths", demo_folder, *COLUMNS, *THREADS, "--n-components", "1", "--covariance-type", "diag",
        "--folder", tmp_path / "run",
    ]  # fmt: skip
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with hold_folder(tmp_path / "run", run="another"):
            taken.set()
            free.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(60)
    for command in ("run", "sweep"):
        output = run(command, *arguments, code=5)
        assert "run is in use: run 'another' of" in output
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lease.json"]
    threading.Timer(0.5, free.set).start()
    run("sweep", *arguments, "--wait")
    thread.join()
    assert (tmp_path / "run" / "model.gmm").exists()
