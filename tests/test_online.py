"""Streams: bounded, resumable to the same bits, forgetting what is old."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stream_gmm as sg
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.online import OnlineState, feed_rows
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.errors import ConfigError, InputDataError, ModelFileError, NotFittedError
from stream_gmm.io.store.states import SavedStream, load_state, save_state
from stream_gmm.pipeline.stream import StreamOptions, run_stream
from tests.strategies import families, random_params, seeds


def _rows(seed=0, n=6000, k=3, d=2, spread=5.0, family="full"):
    rng = np.random.default_rng(seed)
    params = random_params(rng, k, d, family_named(family), spread=spread)
    return params, rng.permutation(draw_rows(params, n, rng)[0])


def _fed(rows, rule, cuts):
    state = OnlineState.start(rows.shape[1])
    for part in np.split(rows, sorted(cuts)):
        state = feed_rows(state, part, rule)
    return state


def _same(a: OnlineState, b: OnlineState) -> None:
    assert a.params is not None
    assert b.params is not None
    for name in ("weights", "means", "covariances"):
        np.testing.assert_array_equal(getattr(a.params, name), getattr(b.params, name))
    np.testing.assert_array_equal(a.pending_rows, b.pending_rows)
    assert (a.step, a.rows_seen, a.effective_rows, a.loglik, a.threshold) == (
        b.step, b.rows_seen, b.effective_rows, b.loglik, b.threshold
    )  # fmt: skip


@settings(max_examples=15)
@given(families, st.lists(st.integers(1, 5999), max_size=12))
@pytest.mark.slow
def test_how_a_stream_is_cut_changes_no_bit(family, cuts):
    _, rows = _rows()
    rule = OnlineRule(3, family, step_rows=700, warmup_rows=1000, n_init=1)

    _same(_fed(rows, rule, cuts), _fed(rows, rule, []))


@settings(max_examples=15)
@given(seeds, families, st.floats(50.0, 1e5) | st.none())
@pytest.mark.slow
def test_no_step_leaves_the_valid_parameters(seed, family, half_life):
    rng = np.random.default_rng(seed)
    rule = OnlineRule(3, family, half_life, step_rows=200, warmup_rows=500, n_init=1)
    state = OnlineState.start(2)
    for _ in range(6):
        rows = rng.normal(size=(300, 2)) * 10.0 ** rng.integers(-2, 3) + 50.0 * rng.normal(size=2)
        state = feed_rows(state, rows, rule)

    assert state.params is not None
    assert np.isfinite(state.params.precisions_cholesky).all()
    assert state.stats is not None
    assert state.stats.weight.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "tied_spherical"])
@pytest.mark.slow
def test_a_saved_state_resumes_to_the_same_bits(tmp_path, name):
    _, rows = _rows(family=name)
    rule = OnlineRule(3, family_named(name), half_life=5000.0, n_init=1)
    for cut in (0, 500, 1234, 4000):
        state = feed_rows(OnlineState.start(2), rows[:cut], rule)
        save_state(SavedStream(state, rule, ("a", "b"), 7), tmp_path / "s.gmm")
        saved = load_state(tmp_path / "s.gmm")
        assert (saved.rule, saved.columns, saved.batches) == (rule, ("a", "b"), 7)
        _same(feed_rows(saved.state, rows[cut:], saved.rule), feed_rows(state, rows[cut:], rule))


def test_a_damaged_state_is_refused(tmp_path):
    path = tmp_path / "s.gmm"
    save_state(SavedStream(OnlineState.start(2), OnlineRule(2, family_named("full")), ()), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match="damaged"):
        load_state(path)
    path.write_bytes(b"something else")
    with pytest.raises(ModelFileError, match="not a stream-gmm state file"):
        load_state(path)
    with pytest.raises(ModelFileError, match="cannot read"):
        sg.OnlineGaussianMixture.load(tmp_path / "absent")


@pytest.mark.slow
def test_a_stream_reaches_the_likelihood_of_a_fit():
    truth, rows = _rows(n=60_000)
    online = sg.OnlineGaussianMixture(3).partial_fit(rows)
    fitted = sg.fit(rows, 3)

    assert online.score(rows) == pytest.approx(fitted.lower_bound_, abs=2e-3)
    np.testing.assert_allclose(np.sort(online.weights_), np.sort(truth.weights), atol=0.02)
    assert online.rows_seen_ == 60_000
    assert online.predict(rows).shape == (60_000,)
    assert online.result_.outcome is sg.Outcome.STREAMED
    share = (online.score_samples(rows) < online.result_.threshold).mean()
    assert 0.005 < share < 0.02


@pytest.mark.slow
def test_with_a_half_life_a_stream_follows_a_shift():
    _, before = _rows(1, n=40_000)
    _, after = _rows(2, n=40_000)
    follows, keeps = (
        sg.OnlineGaussianMixture(3, half_life=h).partial_fit(before).partial_fit(after) for h in (4000.0, None)
    )
    best = sg.fit(after, 3).lower_bound_

    assert follows.score(after) > best - 0.1
    assert follows.score(after) > keeps.score(after) + 0.1
    assert follows.effective_rows_ < 20_000 < keeps.effective_rows_


@pytest.mark.slow
def test_batches_of_every_kind_are_accepted():
    pd = pytest.importorskip("pandas")
    _, rows = _rows()
    table = pa.table({"a": rows[:, 0], "b": rows[:, 1]})
    expected = sg.OnlineGaussianMixture(3).partial_fit(rows).means_
    for batches in ([table], table.to_batches(max_chunksize=500), [pd.DataFrame(rows, columns=["a", "b"])]):
        np.testing.assert_array_equal(sg.OnlineGaussianMixture(3).fit_stream(batches).means_, expected)


def test_rows_that_cannot_be_used_are_refused_or_dropped():
    _, rows = _rows()
    spoilt = np.vstack([rows, [[np.nan, 1.0], [np.inf, 2.0]]])
    with pytest.raises(InputDataError, match="row 6000, column 0"):
        sg.OnlineGaussianMixture(3).partial_fit(spoilt)
    dropped = sg.OnlineGaussianMixture(3, missing="drop").partial_fit(spoilt)
    assert dropped.rows_dropped_ == 2
    assert dropped.rows_seen_ == 6000
    with pytest.raises(InputDataError, match="X has 3 features, but OnlineGaussianMixture is expecting 2"):
        dropped.partial_fit(np.ones((5, 3)))
    with pytest.raises(NotFittedError, match="nothing to save"):
        sg.OnlineGaussianMixture(3).save("nowhere")
    with pytest.raises(NotFittedError, match="the first fit needs"):
        _ = sg.OnlineGaussianMixture(3).partial_fit(rows[:10]).means_
    with pytest.raises(ConfigError, match="half_life must be positive"):
        sg.OnlineGaussianMixture(3, half_life=-1.0).partial_fit(rows)


def _ipc(rows, step=500, truncate=0):
    sink = io.BytesIO()
    table = pa.table({"id": np.arange(len(rows)), "a": rows[:, 0], "b": rows[:, 1]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=step)
    content = sink.getvalue()
    return content[: len(content) - truncate]


OPTIONS = StreamOptions(columns=("a", "b"))


def test_every_batch_is_scored_before_it_is_learnt_from(tmp_path):
    _, rows = _rows()
    rule = OnlineRule(3, family_named("full"), warmup_rows=1000)
    tables: list[pa.Table] = []
    report = run_stream(io.BytesIO(_ipc(rows)), tmp_path / "s", rule, OPTIONS, tables.append)
    out = pa.concat_tables(tables)

    assert out["id"].to_pylist() == list(range(6000))
    assert out["not_scored_reason"].to_pylist()[:1000] == ["no model yet"] * 1000
    assert out["component"].null_count == 1000
    state = feed_rows(OnlineState.start(2), rows[:1000], rule)
    assert state.params is not None
    gm = sg.OnlineGaussianMixture(3, warmup_rows=1000).partial_fit(rows[:1000])
    np.testing.assert_array_equal(out["log_density"].to_numpy()[1000:1500], gm.score_samples(rows[1000:1500]))
    assert report.rows == 6000


@pytest.mark.slow
def test_a_stream_resumes_from_its_state_and_replays_without_counting_twice(tmp_path):
    _, rows = _rows()
    rule = OnlineRule(3, family_named("full"))
    whole = run_stream(io.BytesIO(_ipc(rows)), tmp_path / "a", rule, OPTIONS).saved
    run_stream(io.BytesIO(_ipc(rows[:2500])), tmp_path / "b", rule, OPTIONS)
    went_on = run_stream(io.BytesIO(_ipc(rows[2500:])), tmp_path / "b", rule, OPTIONS).saved
    run_stream(io.BytesIO(_ipc(rows[:2500])), tmp_path / "c", rule, OPTIONS)
    replay = StreamOptions(columns=("a", "b"), replay=True)
    replayed = run_stream(io.BytesIO(_ipc(rows)), tmp_path / "c", rule, replay)

    _same(went_on.state, whole.state)
    _same(replayed.saved.state, whole.state)
    assert (replayed.skipped, replayed.rows) == (5, 3500)
    with pytest.raises(ConfigError, match="other options"):
        run_stream(io.BytesIO(_ipc(rows)), tmp_path / "a", OnlineRule(4, family_named("full")), OPTIONS)


def test_a_stream_that_is_malformed_or_cut_off_is_refused(tmp_path):
    _, rows = _rows()
    rule = OnlineRule(3, family_named("full"))
    for content in (b"no arrow here", _ipc(rows, truncate=3000)):
        with pytest.raises(InputDataError, match="not a whole Arrow IPC stream"):
            run_stream(io.BytesIO(content), tmp_path / "s", rule, StreamOptions(columns=("a", "b"), save_rows=500))
    assert load_state(tmp_path / "s").state.rows_seen >= 5000
    with pytest.raises(InputDataError, match=r"record batch 0 lacks the columns \['z'\]"):
        run_stream(io.BytesIO(_ipc(rows)), tmp_path / "t", rule, StreamOptions(columns=("z",)))


def test_a_bad_third_batch_leaves_the_two_before_it_in_the_state(tmp_path):
    _, rows = _rows()
    bad = rows.copy()
    bad[1200, 1] = np.nan
    rule, strict = OnlineRule(3, family_named("full")), StreamOptions(columns=("a", "b"), missing="error")
    with pytest.raises(InputDataError, match=r"record batch 2, row 200.*holds the 2 batches before.*--replay"):
        run_stream(io.BytesIO(_ipc(bad)), tmp_path / "s", rule, strict)
    assert load_state(tmp_path / "s").state.rows_seen == 1000

    replay = StreamOptions(columns=("a", "b"), missing="error", replay=True)
    mended = run_stream(io.BytesIO(_ipc(rows)), tmp_path / "s", rule, replay).saved
    _same(mended.state, run_stream(io.BytesIO(_ipc(rows)), tmp_path / "whole", rule, strict).saved.state)

    def fail_at_the_third(table):
        if table["id"][0].as_py() >= 1000:
            raise BrokenPipeError("nobody reads the scores")

    with pytest.raises(BrokenPipeError):
        run_stream(io.BytesIO(_ipc(rows)), tmp_path / "pipe", rule, strict, fail_at_the_third)
    assert load_state(tmp_path / "pipe").state.rows_seen == 1000


def test_a_table_is_learnt_whole_or_not_at_all():
    _, rows = _rows()
    bad = rows.copy()
    bad[-1, 0] = np.nan
    tables = [pa.table({"a": r[:, 0], "b": r[:, 1]}) for r in (rows, bad)]
    cut = pa.Table.from_batches(tables[1].to_batches(max_chunksize=500))
    gm = sg.OnlineGaussianMixture(3).partial_fit(tables[0])
    before = gm.rows_seen_, gm.means_
    with pytest.raises(InputDataError, match="record batch 11"):
        gm.partial_fit(cut)
    assert gm.rows_seen_ == before[0]
    np.testing.assert_array_equal(gm.means_, before[1])
    with pytest.raises(InputDataError):
        sg.OnlineGaussianMixture(3).fit_stream([rows[:3000], bad[3000:]])


def _command(*arguments):
    return [sys.executable, "-m", "stream_gmm", "stream", "--columns", "a,b", "--n-components", "3", *arguments]


@pytest.mark.long
def test_the_stream_command_killed_and_replayed_ends_in_the_same_bits(tmp_path):
    _, rows = _rows(n=60_000)
    content = _ipc(rows, step=2000)
    whole = subprocess.run(
        _command("--state", str(tmp_path / "whole"), "--model", str(tmp_path / "m.gmm")),
        input=content, capture_output=True, check=True,
    )  # fmt: skip
    killed = subprocess.Popen(
        _command("--state", str(tmp_path / "s"), "--save-rows", "10000", "--no-scores"), stdin=subprocess.PIPE
    )
    assert killed.stdin is not None
    half = len(content) // 2
    killed.stdin.write(content[:half])
    killed.stdin.flush()
    deadline = time.monotonic() + 60
    while not (tmp_path / "s").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert 0 < load_state(tmp_path / "s").state.rows_seen < 60_000
    again = subprocess.run(
        _command("--state", str(tmp_path / "s"), "--replay", "--no-scores"),
        input=content,
        capture_output=True,
        check=True,
    )

    assert again.stdout == b""
    assert b"batches skipped" in again.stderr
    assert (tmp_path / "s").read_bytes() == (tmp_path / "whole").read_bytes()
    scored = pa.ipc.open_stream(whole.stdout).read_all()
    assert scored.num_rows == 60_000
    assert {"id", "component", "log_density", "is_outlier"} <= set(scored.schema.names)
    assert sg.load_model(tmp_path / "m.gmm").n_components == 3
