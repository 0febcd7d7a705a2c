"""A slice of ``benchmarks.faults``: real processes that fail at named places, and are started again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.faults import CODES, Cell, Job, check_cell, list_cells
from stream_gmm import demo

THREADS = ("--executor", "threads", "--n-workers", "2")
CELLS = [
    Cell("race", "kill", 1, THREADS, CODES["kill"]),
    Cell("pass", "term", 1, THREADS, CODES["term"]),
    Cell("ledger", "kill", 2, THREADS, CODES["kill"]),
    Cell("results", "enospc", 1, THREADS, CODES["enospc"]),
    Cell("score", "int", 1, THREADS, CODES["int"]),
    Cell("task", "kill", 2, ("--executor", "dask", "--n-workers", "2"), 0),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    demo.write(folder / "data", rows=3_000, columns=2, files=3, components=3)
    job = Job(folder / "data", folder / "whole")
    assert job.run(fail=False)[0] == 0
    return folder / "data", job.digest()


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"{c.fault} {c.executor[1]}")
def test_a_job_that_fails_and_is_started_again_ends_in_the_same_bits(whole, tmp_path, cell):
    data, expected = whole
    _, _, _, struck, documented, visible, same, _ = check_cell(cell, data, tmp_path / "run", expected)

    assert struck
    assert documented
    assert visible, "a part of the results was visible"
    assert same


def test_sites_cost_nothing_when_off_and_an_unknown_one_is_never_reached():
    code = (
        "import os; os.environ.pop('STREAM_GMM_FAULT', None); from stream_gmm.faults import fault_site, _PLAN; "
        "fault_site('pass'); assert not _PLAN"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert len({c.fault + " ".join(c.executor) for c in list_cells(["threads", "dask"])}) > 100
