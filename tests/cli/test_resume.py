"""A job that was cut off goes on by its folder or its id alone, and ends in the bits of one that was not."""

from __future__ import annotations

import json
import os
import re
import shutil

import pyarrow.dataset as ds
import pytest

from stream_gmm import demo, faults
from stream_gmm.io.store.container import seal, unseal
from stream_gmm.io.store.jobs import JOB
from stream_gmm.io.store.models import load_model
from stream_gmm.pipeline.sweep.sweep import sweep
from tests.cli.test_commands import run

GRID = ("--n-components", "1:3", "--covariance-type", "diag,full", "--sample-rows", "1000", "--prune", "false")
COMMON = ("--columns", "x0,x1", "--executor", "serial", "--quiet")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with data in it, and another one beside it."""
    (tmp_path / "job").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    demo.write(tmp_path / "job" / "data", rows=3_000, columns=2, files=3, components=3)
    return tmp_path / "job"


@pytest.fixture
def fault(monkeypatch):
    """Make the n-th visit of a site fail as of a full disk, for commands of this process."""

    def plan(text: str) -> None:
        monkeypatch.setattr(faults, "_PLAN", text)
        monkeypatch.setattr(faults, "_visits", 0)

    return plan


def _results(folder):
    scored = ds.dataset(folder / "scored").to_table() if (folder / "scored").exists() else None
    return (folder / "model.gmm").read_bytes(), scored and scored.to_pylist()


def _cut(fault, site, *command) -> str:
    """Run a command that fails at a site; return what it says."""
    fault(f"{site}:enospc")
    said = run(*command, code=6)
    fault("")
    return said


@pytest.mark.parametrize("site", ["profile", "race", "pass:enospc:2", "ledger:enospc:4", "choice", "results"])
def test_a_sweep_goes_on_from_another_working_folder_to_the_same_bits(place, fault, monkeypatch, site):
    run("sweep", "data", *COMMON, *GRID, "--folder", "whole")
    said = _cut(fault, site, "sweep", "data", *COMMON, *GRID, "--folder", "runs/a")
    assert re.search(r"to go on: stream-gmm resume runs/a \(run [0-9a-f]{8}\)$", said.strip())

    monkeypatch.chdir(place.parent / "elsewhere")
    run("resume", "../job/runs/a", "--quiet")

    assert _results(place / "runs" / "a") == _results(place / "whole")
    record, whole = (json.loads((place / f / "run.json").read_bytes()) for f in ("runs/a", "whole"))
    assert record["chosen"] == whole["chosen"]
    assert record["config"]["output"]["folder"] == "runs/a"


def test_what_was_finished_is_not_done_again(place, fault, monkeypatch):
    seen = []

    def watch(*arguments, ledger, **options):
        seen.append(len(ledger.read().outcomes))
        return sweep(*arguments, ledger=ledger, **options)

    monkeypatch.setattr("stream_gmm.pipeline.job.stages.sweep", watch)
    _cut(fault, "pass", "sweep", "data", *COMMON, *GRID, "--folder", "run", "--fresh")
    run("resume", "run", "--quiet")

    assert seen == [0, 6], "resume started over"


def test_an_id_stands_for_the_folder(place, fault):
    said = _cut(fault, "pass", "sweep", "data", *COMMON, *GRID, "--folder", "runs/deep/a")
    (name,) = re.findall(r"\(run ([0-9a-f]{8})\)", said)
    assert name in _cut(fault, "choice", "resume", name), "it is the same run until it has ended"
    run("resume", name, "--quiet")

    assert (place / "runs/deep/a/model.gmm").exists()
    assert "nothing to resume: the sweep" in run("resume", name)
    assert "there is no run ffffffff" in run("resume", "ffffffff", code=3)
    shutil.copytree("runs/deep/a", "runs/b")
    assert "is in several folders" in run("resume", name, code=2)


def test_scoring_and_bootstrap_go_on_with_their_options(place, fault):
    for folder in ("run", "whole"):
        run("sweep", "data", *COMMON, *GRID, "--folder", folder)
    run("score", "data", *COMMON, "--folder", "whole", "--proba", "list")
    shutil.copy("run/model.gmm", "kept.gmm")
    score = ("score", "data", *COMMON, "--folder", "run", "--proba", "list", "--model", "kept.gmm")
    assert "resume run" in _cut(fault, "score", *score)
    os.remove("run/model.gmm")  # that of the command is used
    shutil.copy("kept.gmm", "run/model.gmm")
    run("resume", "run", "--quiet")
    assert _results(place / "run") == _results(place / "whole")

    bootstrap = ("bootstrap", "data", *COMMON, "--folder", "run", "--replicates", "7", "--ratio-replicates", "0")
    _cut(fault, "results", *bootstrap)
    run("resume", "run", "--quiet")
    assert json.loads((place / "run/run.json").read_bytes())["bootstrap"]["replicates"] == 7


def test_an_update_goes_on(place, fault):
    for folder in ("run", "whole"):
        run("sweep", "data", *COMMON, *GRID, "--folder", folder)
        run("score", "data", *COMMON, "--folder", folder)
    shutil.copy("data/part-000.parquet", "data/part-009.parquet")
    run("update", "--folder", "whole", "--quiet")
    assert "resume run" in _cut(fault, "score", "update", "--folder", "run", "--quiet")
    run("resume", "run", "--quiet")

    assert _results(place / "run") == _results(place / "whole")


def test_a_folder_that_was_moved_goes_on_where_it_is(place, fault):
    run("sweep", "data", *COMMON, *GRID, "--folder", "whole")
    _cut(fault, "pass", "sweep", "data", *COMMON, *GRID, "--folder", "run")
    shutil.move("run", "moved")
    run("resume", "moved", "--quiet")

    assert not (place / "run").exists()
    assert _results(place / "moved") == _results(place / "whole")


def test_another_cluster_may_go_on(place, fault):
    """The address of a cluster may be another one by then; other keys are not options of resume."""
    run("sweep", "data", *COMMON, *GRID, "--folder", "whole")
    _cut(fault, "pass", "sweep", "data", *COMMON, *GRID, "--folder", "run")
    assert "No such option" in run("resume", "run", "--tol", "1e-3", code=2)
    run("resume", "run", "--executor", "threads", "--cluster.n-workers", "2", "--quiet")

    assert _results(place / "run") == _results(place / "whole")


def test_what_cannot_go_on_says_why(place, fault, monkeypatch):
    assert "no job has been begun in data" in run("resume", "data", code=3)
    _cut(fault, "pass", "sweep", "data", *COMMON, *GRID, "--folder", "run")
    kept = (place / "run" / JOB).read_bytes()

    def change(**values):
        (place / "run" / JOB).write_bytes(seal(unseal(kept) | values))

    change(written_by="0.0.1")
    assert "was begun by stream-gmm 0.0.1" in run("resume", "run", code=2)
    change(config=unseal(kept)["config"] | {"data": {"paths": ["s3://***@bucket/x"]}})
    assert "without the credentials" in run("resume", "run", code=2)
    change(directory=str(place / "gone"))
    assert "which is not there" in run("resume", "run", code=2)
    (place / "run" / JOB).write_bytes(kept.replace(b'"sweep"', b'"score"'))
    assert "its SHA-256 does not match" in run("resume", "run", code=4)
    (place / "run" / JOB).write_bytes(kept)
    shutil.copy("data/part-000.parquet", "data/part-009.parquet")
    assert "the data are not those" in run("resume", "run", code=3)
    os.remove("data/part-009.parquet")
    run("resume", "run", "--quiet")
    assert load_model(place / "run" / "model.gmm").n_components == 3


def test_credentials_are_stored_nowhere_and_the_whole_command_is_given_instead(place, fault):
    secret = ("--name", "s3://key:canary-1@bucket")
    said = _cut(fault, "pass", "sweep", "data", *COMMON, *GRID, "--folder", "run", *secret)

    assert "to go on: stream-gmm sweep data" in said
    assert b"canary" not in (place / "run" / JOB).read_bytes()
