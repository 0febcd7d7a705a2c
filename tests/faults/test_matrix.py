"""A slice of ``benchmarks.faults``: real processes that fail at named places, and go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.fault_processes import Cluster, spawn
from benchmarks.faults import (
    CLUSTER,
    CODES,
    FULL,
    INT,
    KILL,
    MOMENTS,
    SCHEDULER,
    SWEEP,
    TERM,
    THREADS,
    TWICE,
    UPDATE,
    WORKER,
    Bench,
    Cell,
    Trial,
    list_cells,
)
from stream_gmm.faults import SITES

CELLS = [
    Cell(SWEEP, "race", 1, KILL),
    Cell(SWEEP, "pass", 1, TERM),
    Cell(SWEEP, "ledger", 2, KILL),
    Cell(SWEEP, "results", 1, FULL),
    Cell(SWEEP, "score", 1, INT),
    Cell(SWEEP, "choice", 1, TWICE),
    Cell(UPDATE, "update", 1, KILL),
    Cell(UPDATE, "statistics", 1, KILL),
    Cell(SWEEP, "task", 2, WORKER, ("--executor", "dask", "--n-workers", "2")),
    Cell(SWEEP, "pass", 1, SCHEDULER, CLUSTER),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("faults"), spawn)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), forks=False)
    yield cluster
    cluster.stop()


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.describe())
def test_a_job_that_fails_and_goes_on_ends_in_the_same_bits(bench, cluster, cell):
    verdict = Trial(bench, cell, cluster if cell.executor == CLUSTER else None).run()

    assert verdict.struck
    assert verdict.documented, verdict
    assert verdict.whole, "a part of the results was visible"
    assert verdict.alone, "a process was left"
    assert verdict.same


def test_sites_cost_nothing_when_off_and_every_one_is_in_the_matrix():
    code = (
        "import os; os.environ.pop('STREAM_GMM_FAULT', None); from stream_gmm.faults import fault_site, _PLAN; "
        "fault_site('pass'); assert not _PLAN"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    cells = list(list_cells())
    assert {c.site for c in cells} == set(SITES) == set(MOMENTS)
    assert {c.fault for c in cells} == set(CODES)
    assert len(set(cells)) == len(cells) > 500
    assert {c.executor for c in cells} >= {THREADS, CLUSTER}
