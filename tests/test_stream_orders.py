"""Streams in which every row counts once: the order in which rows come makes next to no difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

import stream_gmm as sg
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.online import OnlineState, conclude_state, feed_rows, make_online_result
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.core.reservoir import add_rows, empty_reservoir
from stream_gmm.errors import ConfigError
from stream_gmm.execute.protocol import one_blas_thread
from stream_gmm.io.store.states import SavedStream, load_state, save_state

DATA = Path(__file__).parent / "data"
FULL = family_named("full")


def _read(name: str) -> np.ndarray:
    table = ds.dataset(DATA / name, format="parquet", exclude_invalid_files=True).to_table().to_pandas()
    return table.select_dtypes("float").dropna().to_numpy()


def _drawn(name: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    normal = rng.normal(size=(4000, 2))
    labels = rng.integers(0, 4, size=(4000, 1))
    return {
        "two far apart": normal + 8.0 * (labels % 2),
        "small ones": normal * np.where(labels == 3, 0.1, 1.0) + np.array([4.0, -2.0]) * labels,
        "skewed": np.exp(0.7 * normal),
    }[name]


SETS = {"faithful": 2, "iris": 3, "ecoli_cytometry": 3, "two far apart": 2, "small ones": 4, "skewed": 3}


def _orders(rows):
    blocks = sg.OnlineGaussianMixture(2, warmup_rows=len(rows)).fit(rows).predict(rows)
    return {
        "sorted": np.argsort(rows[:, 0], kind="stable"),
        "blocked": np.argsort(blocks, kind="stable"),
        "shuffled": np.random.default_rng(1).permutation(len(rows)),
    }


@pytest.mark.long
@pytest.mark.parametrize("name", SETS)
def test_rows_in_any_order_end_in_the_likelihood_of_batch_em(name):
    rows = (_drawn(name) if " " in name or name == "skewed" else _read(name))[:2000]
    k = SETS[name]
    batch = sg.OnlineGaussianMixture(k, warmup_rows=len(rows)).fit(rows)
    for how, order in _orders(rows).items():
        gm = sg.OnlineGaussianMixture(k, warmup_rows=max(len(rows) // 10, 40), step_rows=max(len(rows) // 40, 10))
        gm.partial_fit(rows[order])
        assert gm.score(rows) > batch.score(rows) - 1e-2, how
        assert gm.effective_rows_ == gm.rows_seen_ - gm._seen.n_pending, how


def test_two_clusters_one_after_the_other_keep_their_weights_with_a_reservoir_of_a_part_of_the_rows():
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.normal(size=(6_000, 2)), rng.normal(size=(6_000, 2)) + 8.0])
    gm = sg.OnlineGaussianMixture(2, reservoir_rows=2_000, n_init=1, warmup_rows=500)
    for part in np.split(rows, 12):
        gm.partial_fit(part)

    np.testing.assert_allclose(gm.weights_, 0.5, atol=0.025)
    assert gm.score(rows) > sg.OnlineGaussianMixture(2, warmup_rows=12_000, n_init=1).fit(rows).score(rows) - 1e-2
    assert gm._seen.reservoir is not None
    assert len(gm._seen.reservoir.rows) == 2_000


def test_steps_without_reviews_are_plain_sums():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 2)) + 3.0
    rule = OnlineRule(1, FULL, warmup_rows=100, step_rows=97, reservoir_rows=0)
    state = feed_rows(OnlineState.start(2), rows, rule)
    used = rows[: len(rows) - state.n_pending]

    assert state.reservoir is None
    assert state.effective_rows == len(used)
    assert state.stats is not None
    np.testing.assert_allclose(state.stats.mean[0], used.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(state.stats.scatter[0], np.asarray(np.cov(used.T, bias=True)), rtol=1e-10)


def test_a_reservoir_is_a_uniform_sample_that_merges_and_does_not_depend_on_cuts():
    rows = np.arange(5000.0)[:, None]
    whole = add_rows(empty_reservoir(1, 400), rows, 0, seed=7)
    cut = empty_reservoir(1, 400)
    for lo, hi in ((0, 3), (3, 1200), (1200, 5000)):
        cut = add_rows(cut, rows[lo:hi], lo, seed=7)
    halves = [
        add_rows(empty_reservoir(1, 400), rows[h], h.start, seed=7) for h in (slice(0, 2500), slice(2500, 5000))
    ]

    for other in (cut, halves[0].merge(halves[1]), halves[1].merge(halves[0])):
        np.testing.assert_array_equal(other.rows, whole.rows)
    assert abs(whole.rows.mean() - 2500) < 3 * 1443 / 20


@pytest.mark.slow
def test_a_stream_with_reviews_resumes_to_the_same_bits_and_asking_for_the_model_changes_nothing(tmp_path):
    rows = _drawn("small ones")[np.argsort(_drawn("small ones")[:, 0])]
    rule = OnlineRule(3, FULL, warmup_rows=300, step_rows=100, n_init=1, reservoir_rows=600)
    with one_blas_thread:
        whole = feed_rows(OnlineState.start(2), rows, rule)
        for cut in (250, 1111, 3900):
            part = feed_rows(OnlineState.start(2), rows[:cut], rule)
            if part.params is not None:
                make_online_result(part, rule)
            save_state(SavedStream(part, rule, ()), tmp_path / "s")
            saved = load_state(tmp_path / "s")
            save_state(replace(saved, state=feed_rows(saved.state, rows[cut:], saved.rule)), tmp_path / "resumed")
            save_state(SavedStream(whole, rule, ()), tmp_path / "whole")
            assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert whole.reviews > 2


def test_the_model_asked_for_knows_rows_that_no_step_has_taken_in_yet():
    rng = np.random.default_rng(0)
    rule = OnlineRule(2, FULL, warmup_rows=500, step_rows=400, n_init=1)
    state = feed_rows(OnlineState.start(1), rng.normal(size=(900, 1)), rule)
    state = feed_rows(state, rng.normal(size=(399, 1)) + 9.0, rule)

    assert state.n_pending == 399
    concluded = conclude_state(state, rule)
    assert concluded.effective_rows == 1299
    assert concluded.params is not None
    assert state.params is not None
    assert concluded.params.means.max() == pytest.approx(9.0, abs=0.5)
    assert state.params.means.max() < 5.0


def test_a_state_of_the_first_format_goes_on_as_it_began():
    rng = np.random.default_rng(5)
    rows = np.round(rng.normal(size=(900, 1)) + 4.0 * rng.integers(0, 2, size=(900, 1)), 3)
    gm = sg.OnlineGaussianMixture.load(DATA / "stream_state_v1.gmm").partial_fit(rows[650:])

    np.testing.assert_allclose(gm.weights_, [0.5381690951758579, 0.46183090482414213], rtol=1e-9)
    np.testing.assert_allclose(gm.means_, [[3.9413923877085724], [-0.10817931055403315]], rtol=1e-9)
    assert (gm.power, gm.reservoir_rows, gm.n_steps_) == (0.6, 0, 8)


def test_a_stream_that_forgets_has_no_reservoir():
    rows = np.random.default_rng(0).normal(size=(3000, 1))
    forgetting = sg.OnlineGaussianMixture(1, half_life=500.0), sg.OnlineGaussianMixture(1, power=0.7)
    for gm in forgetting:
        gm.partial_fit(rows)
        assert gm._seen.reservoir is None
        assert gm.effective_rows_ < 3000
    with pytest.raises(ConfigError, match="reservoir_rows"):
        sg.OnlineGaussianMixture(1, reservoir_rows=-1).partial_fit(rows)
