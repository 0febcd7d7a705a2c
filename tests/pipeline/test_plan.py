"""What a run will need, before it is started."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import stream_gmm as sg
from stream_gmm.cli.commands import cli
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.errors import ConfigError
from stream_gmm.execute.dask_cluster import ClusterSpec, plan_slots
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.source.memory import as_source
from stream_gmm.pipeline.fit.grid import parse_grid
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.size import estimate_worker_bytes
from stream_gmm.pipeline.job import plan
from stream_gmm.pipeline.job.cluster import planned_workers
from stream_gmm.pipeline.job.config import ClusterConfig
from stream_gmm.pipeline.job.plan import Workers, make_plan
from stream_gmm.pipeline.passes import full_pass as passes
from stream_gmm.pipeline.passes.full_pass import count_statistics_bytes, pack_candidates

GRID = parse_grid(range(1, 5), ["full", "diag", "tied"])
TWO = Workers(2, 4 << 30)


@pytest.fixture(scope="module")
def data(demo_folder):
    return sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"])


def test_planned_sizes_follow_from_the_data_and_the_grid(data):
    plan = make_plan(data, GRID, Settings(), TWO)

    assert (plan.rows, plan.columns, plan.data_bytes) == (20_000, 3, 20_000 * 3 * 8)
    assert (plan.candidates, plan.components) == (12, 30)
    assert plan.tasks == len(data.leaves())
    expected = 8 * (10 * (1 + 3 + 9) + 10 * (1 + 3 + 3) + 10 * (1 + 3) + 4 * 9 + 0)
    assert plan.statistics_bytes == pytest.approx(expected, rel=0.7)
    assert plan.passes[0] <= plan.passes[1] <= plan.passes[2]
    plan.refuse_if_too_large()


def test_planned_time_follows_from_measured_speeds(data, monkeypatch):
    clock = SimpleNamespace(perf_counter=itertools.count(0.0, 0.001).__next__)  # what is measured takes a millisecond
    monkeypatch.setattr("stream_gmm.pipeline.job.plan.time", clock)
    one, two = (make_plan(data, GRID, Settings(), Workers(n)) for n in (1, 10))

    assert one.decode_ns > 0.0
    assert one.estep_ns > 0.0
    assert one.seconds > 2.0 * two.seconds
    assert one.seconds >= one.explore_seconds
    assert Workers(4, cores=2).power == Workers(2).power < Workers(4).power


def test_a_few_rows_are_planned_in_seconds_whatever_a_call_costs(rng, monkeypatch):
    """82 rows of one column were said to take 13 minutes, and took one second."""
    measured, clock = [], itertools.count()
    monkeypatch.setattr(plan, "accumulate_stats", lambda batch, rows: measured.append(len(rows)))
    # Every look at the clock is 10 ms after the last one.
    monkeypatch.setattr(plan, "time", SimpleNamespace(perf_counter=lambda: 0.01 * next(clock)))
    found = make_plan(as_source(rng.normal(size=(82, 1))), GRID, Settings(), Workers(1))
    assert set(measured) == {plan.TRIAL_ROWS}
    assert found.explore_seconds < 10.0
    full = make_plan(as_source(rng.normal(size=(8200, 1))), GRID, Settings(), Workers(1))
    assert full.explore_seconds > 5.0 * found.explore_seconds


def test_the_reads_of_a_sweep_lie_within_those_planned(data):
    plan = make_plan(data, GRID, Settings(sample_rows=3_000), TWO)
    found = sg.sweep(data, range(1, 5), ["full", "diag", "tied"], sample_rows=3_000)

    assert plan.passes[0] <= found.passes + 1 <= plan.passes[2]


@pytest.mark.slow
def test_what_cannot_fit_is_refused_with_number_and_remedy():
    rows = np.random.default_rng(0).normal(size=(500, 300))
    plan = make_plan(as_source(rows), parse_grid(range(1, 31), "full"), Settings(), Workers(2, 1 << 30))

    assert plan.packs > 1
    with pytest.raises(ConfigError, match=r"a worker would need about \d.* GiB and has 1.0 GiB.*300 columns"):
        plan.refuse_if_too_large()
    assert f"in {plan.packs} packs" in " ".join(plan.describe())


def test_the_printed_plan_holds_rows_candidates_reads_workers_and_time(data):
    text = "\n".join(make_plan(data, GRID, Settings(), TWO).describe())
    for words in ("20,000 rows x 3 columns", "12 with 30 components", "reads:", "workers: 2", "ns a row", "time:"):
        assert words in text


def test_unusable_rows_and_constant_columns_do_not_stop_a_plan(write_parquet):
    values = np.full(300, np.nan)
    path = write_parquet("a.parquet", {"x": values, "y": values})
    data = sg.open_dataset(path.parent, missing="drop")
    assert make_plan(data, GRID, Settings(), TWO).rows == 300
    constant = np.column_stack([np.ones(100), np.arange(100.0), np.arange(100.0)])
    assert make_plan(as_source(constant), GRID, Settings(), TWO).estep_ns > 0.0


def test_planned_workers_are_those_of_the_configuration():
    assert planned_workers(ClusterConfig(executor="serial")).count == 1
    assert planned_workers(ClusterConfig(executor="threads", n_workers=3)).count == 3
    found = planned_workers(ClusterConfig(n_workers=2, threads_per_worker=2, memory_limit="2GiB"))
    assert found == Workers(4, 1 << 30)
    spec = ClusterSpec(cluster_class="a.B", cluster_options={"cores": 16, "memory": "64GiB"}, adapt={"maximum": 20})
    assert plan_slots(spec) == (320, 4 << 30)
    assert plan_slots(ClusterSpec(cluster_class="a.B", scale=3)) == (3, None)
    with pytest.raises(ConfigError, match="not a size of memory"):
        plan_slots(ClusterSpec(memory_limit="lots"))


def _params(k, d, name):
    family = family_named(name)
    matrices = np.tile(np.eye(d), (k, 1, 1)) if family.matrices else np.ones((k, d))
    return MixtureParams.from_matrices(
        np.full(k, 1.0 / k), np.arange(k * d, dtype=float).reshape(k, d), matrices, family
    )


def test_candidates_are_packed_in_order_by_bytes(monkeypatch):
    candidates = [_params(k, 3, "full") for k in (5, 5, 5, 1, 1)]
    size = count_statistics_bytes(5, 3, family_named("full"))
    assert [len(p) for p in pack_candidates(candidates)] == [5]
    monkeypatch.setattr(passes, "STATISTICS_BYTES", 2 * size)
    assert [len(p) for p in pack_candidates(candidates)] == [2, 3]
    monkeypatch.setattr(passes, "STATISTICS_BYTES", 1)
    assert [len(p) for p in pack_candidates(candidates)] == [1] * 5


def test_packs_read_more_often_and_say_the_same(data, monkeypatch):
    whole = sg.sweep(data, [1, 2, 3], "full", sample_rows=3_000, prune=False, client=SerialExecutor())
    monkeypatch.setattr(passes, "STATISTICS_BYTES", count_statistics_bytes(3, 3, family_named("full")))
    packs = sg.sweep(data, [1, 2, 3], "full", sample_rows=3_000, prune=False, client=SerialExecutor())

    assert packs.passes > whole.passes
    for a, b in zip(packs.candidates, whole.candidates, strict=True):
        assert a.result is not None
        assert b.result is not None
        assert a.result.criteria.loglik == pytest.approx(b.result.criteria.loglik, rel=1e-9)


def test_what_the_listing_leaves_out_is_said_by_the_plan_and_by_the_scores(rng, write_parquet, tmp_path):
    folder = write_parquet("a.parquet", {"x": rng.normal(size=200), "y": rng.normal(size=200)}).parent
    write_parquet("b.data", {"x": rng.normal(size=10), "y": rng.normal(size=10)})  # Parquet by another name
    data = sg.open_dataset(folder)
    (warning,) = data.warnings
    planned = make_plan(data, parse_grid([1], "full"), Settings(), Workers(1))
    assert f"warning: {warning}" in planned.describe()
    assert sg.score(sg.fit(data), data, tmp_path / "out").manifest["warnings"] == [warning]


class _Unread:
    """A source whose rows nobody may read."""

    num_rows, missing, weight, resident, warnings, parts = 20_000, "error", None, False, (), ()

    def __init__(self, n_columns):
        self.columns = tuple(f"x{j}" for j in range(n_columns))

    def __getattr__(self, name):
        raise AssertionError(f"{name} was used before the size was checked")


@pytest.mark.parametrize("act", [sg.fit, sg.sweep])
def test_columns_that_cannot_fit_are_refused_before_the_first_read(act, monkeypatch):
    """Full covariances of 10,000 columns: 800 MB a matrix. The numbers and what would fit are in the message."""
    monkeypatch.setattr("stream_gmm.execute.serial.SerialExecutor.memory_bytes", 16 << 30, raising=False)
    monkeypatch.setattr("stream_gmm.api.as_source", lambda source, *args, **options: source)
    message = r"full with 3 components and 10,000 columns would need about \d+.*16.0 GiB"
    with pytest.raises(ConfigError, match=message) as found:
        act(_Unread(10_000), 3, "full", client=SerialExecutor())
    text = str(found.value)
    assert "one matrix of these columns takes 762.9 MiB" in text
    assert "sample_rows" in text
    (found_most,) = re.findall(r"up to ([\d,]+) fit with this grid", text)
    most = int(found_most.replace(",", ""))
    grid = parse_grid(3, "full")
    assert estimate_worker_bytes(grid, most, 20_000, Settings()) <= 16 << 30
    assert estimate_worker_bytes(grid, most + 1, 20_000, Settings()) > 16 << 30
    with pytest.raises(AssertionError, match="before the size was checked"):  # what fits is not refused
        act(_Unread(most), 3, "full", client=SerialExecutor())


def test_columns_that_take_hours_are_said_to(caplog, monkeypatch):
    monkeypatch.setattr("stream_gmm.api.as_source", lambda source, *args, **options: source)
    monkeypatch.setattr("stream_gmm.execute.serial.SerialExecutor.memory_bytes", 1 << 40, raising=False)
    with pytest.raises(AssertionError):
        sg.fit(_Unread(10_000), 3, "full", client=SerialExecutor())
    assert "10,000 columns: the fits on the sample alone will take about" in caplog.text
    caplog.clear()
    with pytest.raises(AssertionError):
        sg.fit(_Unread(50), 3, "full", client=SerialExecutor())
    assert not caplog.text


def test_many_columns_are_refused_by_the_command_line_too(tmp_path, monkeypatch):
    monkeypatch.setattr("stream_gmm.execute.local.machine_memory", lambda: 1 << 30)
    monkeypatch.setattr("stream_gmm.pipeline.job.stages.machine_memory", lambda: 1 << 30)
    pq.write_table(pa.table({f"x{j}": np.arange(20.0) for j in range(2_000)}), tmp_path / "wide.parquet")
    for command in ("plan", "fit", "sweep"):
        found = CliRunner().invoke(
            cli, [command, str(tmp_path / "wide.parquet"), "--n-components", "3", "--covariance-type", "full",
                  "--executor", "serial", "--folder", str(tmp_path / "out")],
        )  # fmt: skip
        assert isinstance(found.exception, ConfigError), (command, found.output)
        assert "full with 3 components and 2,000 columns would need about" in str(found.exception), command
    assert not (tmp_path / "out" / "model.gmm").exists()


def test_chunks_of_wide_rows_have_fewer_rows_and_the_same_scores(tmp_path, monkeypatch):
    """Also where only the columns that are passed through are wide."""
    n, rng = 3_000, np.random.default_rng(0)
    table = pa.table({f"x{j}": rng.normal(size=n) for j in range(2)} | {"text": ["a" * 1000] * n})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    data = sg.open_dataset(tmp_path / "a.parquet", columns=["x0", "x1"])
    model = sg.fit(data, 2, "diag", client=SerialExecutor())
    sizes = []
    for limit in (64 << 20, 1 << 20):
        monkeypatch.setattr("stream_gmm.core.estep.accumulate.CHUNK_BYTES", limit)
        sg.score(model, data, tmp_path / f"s{limit}", client=SerialExecutor())
        file = pq.ParquetFile(tmp_path / f"s{limit}" / "a.parquet")
        sizes.append([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)])
    assert sizes[0] == [n]
    assert sum(sizes[1]) == n
    assert 900 < max(sizes[1]) < 1_050
    first, second = (pq.read_table(tmp_path / f"s{limit}" / "a.parquet") for limit in (64 << 20, 1 << 20))
    assert first.equals(second)
