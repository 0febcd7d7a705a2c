"""Streams with a run folder: a version and a comparison with the one before for every period, also after a kill."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.errors import ConfigError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.source.dataset import open_dataset
from stream_gmm.io.store.states import save_state
from stream_gmm.io.store.tables import read_table
from stream_gmm.pipeline.drift_rule import DRIFTED
from stream_gmm.pipeline.job.monitor_stage import MONITOR
from stream_gmm.pipeline.job.update.stream_versions import StreamFolder, StreamVersions
from stream_gmm.pipeline.monitor import monitor
from stream_gmm.pipeline.stream import StreamOptions, run_stream
from stream_gmm.report.html import write_report

PERIOD, BATCH = 2_000, 500
RULE = OnlineRule(3, family_named("full"), n_init=1)
OPTIONS = StreamOptions(save_rows=PERIOD)


@pytest.fixture(scope="module")
def rows():
    """Three periods; in the last one a component has moved."""
    rng = np.random.default_rng(4)
    component = rng.choice(3, size=3 * PERIOD, p=(0.5, 0.3, 0.2))
    out = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])[component] + rng.normal(size=(3 * PERIOD, 2))
    out[(component == 1) & (np.arange(len(out)) >= 2 * PERIOD), 0] += 1.0
    return out


def as_stream(rows) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("a", pa.float64()), ("b", pa.float64())])) as writer:
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            writer.write_batch(pa.record_batch({"a": part[:, 0], "b": part[:, 1]}))
    return sink.getvalue()


def follow(rows, folder, state, rule=RULE, options=OPTIONS, **given):
    versions = StreamVersions(StreamFolder(folder, **given))
    run_stream(io.BytesIO(as_stream(rows)), state, rule, options, follower=versions)
    return versions


@pytest.fixture(scope="module")
def followed(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream") / "run"
    return folder, follow(rows, folder, folder.parent / "s.gmm")


@pytest.mark.slow
def test_every_period_is_a_version_that_holds_the_model_of_the_rows_so_far(rows, followed):
    registry = sg.open_registry(followed[0])

    assert [v.rows for v in registry.history] == [PERIOD, 2 * PERIOD, 3 * PERIOD]
    assert registry.find("champion").name == "v3"
    for version in registry.history:
        gm = sg.OnlineGaussianMixture(3, n_init=1).partial_fit(rows[: version.rows])
        np.testing.assert_array_equal(registry.load(version.name).means_, gm.means_)
    assert registry.roll_back().name == "v2"
    registry.promote("v3")
    write_report(followed[0])


def test_a_period_is_compared_as_the_monitor_compares_files(rows, followed, tmp_path):
    """The monitor reads the same rows from Parquet, and compares them with the version before."""
    folder, versions = followed
    registry = sg.open_registry(folder)
    found = read_table(folder / MONITOR).to_pylist()

    assert [r["period"] for r in found] == [
        f"rows {PERIOD + 1} to {2 * PERIOD}",
        f"rows {2 * PERIOD + 1} to {3 * PERIOD}",
    ]
    assert [r["status"] == DRIFTED for r in found] == [False, True]
    assert [r.result.drifted for r in versions.reports] == [False, True]
    for number, row in enumerate(found, 1):
        part = rows[number * PERIOD : (number + 1) * PERIOD]
        pq.write_table(pa.table({"a": part[:, 0], "b": part[:, 1]}), tmp_path / "period.parquet")
        dataset = open_dataset([str(tmp_path / "period.parquet")])
        expected = monitor(registry.load(f"v{number}"), dataset, SerialExecutor()).total
        assert row["version"] == f"v{number}"
        for name in ("mean_log_density", "standard_error", "psi", "ks", "outlier_rate", "step_gain"):
            assert row[name] == pytest.approx(expected[name], rel=1e-9), name
        assert row["refit_gain"] == pytest.approx(expected["refit_gain"], rel=0.1)  # samples in another order


@pytest.mark.slow
@pytest.mark.parametrize("after", ["monitor", "publish"])
def test_a_killed_period_is_replayed_to_the_same_versions_and_rows(rows, followed, tmp_path, monkeypatch, after):
    """The kill comes between the row of the monitor and the version, or between the version and the state."""
    folder, state = tmp_path / "run", tmp_path / "s.gmm"
    where = {
        "monitor": "stream_gmm.pipeline.job.update.stream_versions.publish_results",
        "publish": "stream_gmm.pipeline.stream.save_state",
    }[after]
    follow(rows[:PERIOD], folder, state)
    saved = state.read_bytes()

    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(where, kill)
        with pytest.raises(KeyboardInterrupt):
            follow(rows, folder, state, options=StreamOptions(save_rows=PERIOD, replay=True))
    assert state.read_bytes() == saved
    assert len(read_table(folder / MONITOR)) == 1
    follow(rows, folder, state, options=StreamOptions(save_rows=PERIOD, replay=True))

    whole = sg.open_registry(followed[0])
    assert [v.model_digest for v in sg.open_registry(folder).history] == [v.model_digest for v in whole.history]
    assert read_table(folder / MONITOR).to_pylist() == read_table(followed[0] / MONITOR).to_pylist()


def test_a_stream_that_forgets_is_compared_with_rows_of_its_last_period(rows, tmp_path):
    rule = OnlineRule(3, family_named("full"), half_life=1_500.0, n_init=1)
    versions = follow(rows, tmp_path / "run", tmp_path / "s.gmm", rule)

    assert [r.result.total["psi"] is not None for r in versions.reports] == [True, True]
    training = sg.open_registry(tmp_path / "run").load().training
    assert training is not None
    assert training.rows == pytest.approx(PERIOD)


@pytest.mark.slow
def test_a_challenger_is_not_in_use_until_it_is_promoted(rows, tmp_path):
    follow(rows, tmp_path / "run", tmp_path / "s.gmm", challenger=True, keep=2)
    registry = sg.open_registry(tmp_path / "run")

    assert (registry.find("champion").name, registry.find("challenger").name) == ("v1", "v3")
    assert {r["version"] for r in read_table(tmp_path / "run" / MONITOR).to_pylist()} == {"v1"}
    registry.promote("challenger")
    assert registry.find("champion").name == "v3"


def test_a_folder_with_a_model_of_other_columns_is_refused_before_the_first_batch(rows, tmp_path):
    folder = tmp_path / "run"
    follow(rows[:PERIOD], folder, tmp_path / "s.gmm")
    before = sg.open_registry(folder).history
    versions = StreamVersions(StreamFolder(folder))

    with pytest.raises(ConfigError, match=r"holds a model of the columns \['a', 'b'\].*the stream has \['a'\]"):
        run_stream(
            io.BytesIO(as_stream(rows)), tmp_path / "t.gmm", OnlineRule(2, family_named("full")),
            StreamOptions(columns=("a",)), follower=versions,
        )  # fmt: skip
    assert sg.open_registry(folder).history == before
    assert not (tmp_path / "t.gmm").exists()


def test_before_the_first_fit_there_is_nothing_to_publish(rows, tmp_path):
    versions = follow(rows[:600], tmp_path / "run", tmp_path / "s.gmm")

    assert not versions.reports
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_says_a_line_for_every_period_and_ends_with_exit_code_11(rows, tmp_path):
    options = [
        "--state",
        "s.gmm",
        "--n-components",
        "3",
        "--save-rows",
        str(PERIOD),
        "--folder",
        "run",
        "--no-scores",
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "stream_gmm", "stream", *options],
        input=as_stream(rows),
        cwd=tmp_path,
        capture_output=True,
    )
    said = ended.stderr.decode().splitlines()
    lines = [json.loads(line) for line in said if line.startswith("{")]

    assert ended.returncode == 11, said
    assert [line["drifted"] for line in lines] == [False, True]
    assert "the stream has learnt from them, and goes on" in said[-1]
    assert len(sg.open_registry(tmp_path / "run").history) == 3


def test_a_state_from_before_goes_on_in_a_folder_that_is_new(rows, tmp_path):
    """The folder begins with what the stream had learnt before, and the first period has nothing to compare with."""
    plain = run_stream(io.BytesIO(as_stream(rows[:PERIOD])), tmp_path / "s.gmm", RULE, OPTIONS).saved
    save_state(plain, tmp_path / "s.gmm")
    versions = follow(rows[PERIOD : 2 * PERIOD], tmp_path / "run", tmp_path / "s.gmm")

    assert not versions.reports
    assert [v.rows for v in sg.open_registry(tmp_path / "run").history] == [2 * PERIOD]
