"""Every command and snippet of the README runs; those of Prefect in tests/flows/test_flow.py."""

from __future__ import annotations

import shlex
import time

import pytest

from stream_gmm.pipeline.job.config import ClusterConfig, validate_config
from tests.readme import ROOT, blocks, commands, run, start, stop
from tests.servers import free_port


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [c.split()[1] for c in commands() if c.startswith("make ")]

    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert f"\n{target}:" in makefile


@pytest.mark.slow
def test_the_commands_for_own_data_run(here):
    for command in commands():
        elsewhere = {"--address", "<", "&"} & set(command.split())
        if command.startswith("stream-gmm") and not elsewhere:
            run(command, here)
    assert (here / "runs/mine/report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_python_snippet_runs(here, number, monkeypatch, capsys):
    monkeypatch.chdir(here)
    exec(compile(blocks("python")[number], f"README, snippet {number}", "exec"), {})


@pytest.mark.slow
def test_the_commands_for_a_stream_score_every_row(here, monkeypatch):
    monkeypatch.chdir(here)
    (snippet,) = (b for b in blocks("python") if "batches.arrows" in b)
    exec(compile(snippet, "README, stream", "exec"), {})
    (command,) = (c for c in commands() if "batches.arrows" in c)
    run(f"bash -c {shlex.quote(command)}", here)

    import pyarrow as pa

    assert pa.ipc.open_stream((here / "scored.arrows").read_bytes()).read_all().num_rows == 20_000
    assert (here / "online-model.gmm").exists()


def test_the_yaml_snippets_are_valid():
    whole, cluster = (block for block in blocks("yaml"))
    import yaml

    assert validate_config(yaml.safe_load(whole), "README").sweep.n_components == list(range(1, 13))
    assert ClusterConfig.model_validate(yaml.safe_load(cluster)["cluster"]).adapt


@pytest.mark.slow
def test_the_commands_for_a_cluster_run(here):
    port = str(free_port())
    scheduler, worker, sweep = (c.replace("8786", port) for c in commands() if "8786" in c)
    started = [start(scheduler, here)]
    time.sleep(2)
    started.append(start(worker, here))
    try:
        assert "full" in run(sweep, here)
    finally:
        stop(*started[::-1])
