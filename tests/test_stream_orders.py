"""Streams in which every row counts once: the order in which rows come makes next to no difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from scipy.stats import ks_2samp

import stream_gmm as sg
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.online import OnlineState, conclude_state, feed_rows, make_online_result
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.core.reservoir import Reservoir, calibrate_weights
from stream_gmm.core.rows.moments import collect_moments
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


@pytest.mark.slow
@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_a_few_rows_far_out_are_not_lost_from_a_reservoir_of_a_tenth_of_the_rows(order):
    """A uniform sample holds one or two of the twenty, and a model of it finds the others all but impossible."""
    rng = np.random.default_rng(2)
    rows = np.vstack(
        [rng.normal(size=(4_000, 2)), rng.normal(size=(3_980, 2)) + 5.0, 60.0 * rng.normal(size=(20, 2))]
    )
    rows = rows[np.argsort(rows[:, 0]) if order == "sorted" else rng.permutation(len(rows))]
    gm = sg.OnlineGaussianMixture(3, reservoir_rows=800, n_init=1).partial_fit(rows)

    assert gm.score(rows) > sg.OnlineGaussianMixture(3, warmup_rows=8_000, n_init=1).fit(rows).score(rows) - 1e-2
    reservoir = gm._seen.reservoir
    assert reservoir is not None
    assert (np.abs(reservoir.rows).max(axis=1) > 12.0).sum() >= 10


def _keep(rows, importance, capacity: int, pieces: int = 1) -> Reservoir:
    out, first = Reservoir.empty(rows.shape[1], capacity), 0
    for part, of_part in zip(np.array_split(rows, pieces), np.array_split(importance, pieces), strict=True):
        shares = np.column_stack([part[:, 0] < 0.0, part[:, 0] >= 0.0]).astype(np.float64)
        out = out.add_rows(part, first, 11, of_part, shares)
        first += len(part)
    return out


def test_important_rows_are_likelier_to_be_kept_and_count_the_less():
    rng = np.random.default_rng(0)
    rows = rng.standard_t(4, size=(20_000, 1))
    importance = 0.5 + 0.5 * np.abs(rows[:, 0]) / np.abs(rows[:, 0]).mean()
    kept = _keep(rows, importance, 2_000)
    cut = _keep(rows, importance, 2_000, pieces=7)
    np.testing.assert_array_equal(cut.rows, kept.rows)
    np.testing.assert_array_equal(cut.shares, kept.shares)

    far = np.abs(rows[:, 0]) > 4.0
    assert (np.abs(kept.rows[:, 0]) > 4.0).mean() > 2.0 * far.mean()
    assert kept.weights.mean() == pytest.approx(1.0)
    assert kept.weights.max() < 2.0
    weighted = kept.weights / kept.weights.sum()
    assert weighted @ (np.abs(kept.rows[:, 0]) > 4.0) == pytest.approx(far.mean(), rel=0.15)
    assert weighted @ kept.rows[:, 0] ** 2 == pytest.approx((rows[:, 0] ** 2).mean(), rel=0.1)
    uniform = kept.take_uniform_rows()
    assert 900 < len(uniform) < 1_500
    assert ks_2samp(uniform[:, 0], rows[:, 0]).pvalue > 0.01


def test_calibrated_weights_give_the_statistics_of_all_rows():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(10_000, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]])
    kept = _keep(rows, np.ones(len(rows)), 500)
    parts = [collect_moments(rows[side]) for side in (rows[:, 0] < 0.0, rows[:, 0] >= 0.0)]
    weight, mean, scatter = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("weight", "mean", "scatter")
    )
    seen = replace(parts[0], rows=10_000.0, weight=weight, mean=mean, scatter=scatter)
    assert kept.shares is not None
    for weights, precision in ((kept.weights, 0.2), (calibrate_weights(kept, seen), 0.01)):
        for k in (0, 1):
            sample = collect_moments(kept.rows, weights * kept.shares[:, k] / 500.0)
            errors = [
                abs(sample.weight[0] / weight[k] * 10_000.0 - 1.0),
                np.abs(sample.mean[0] - mean[k]).max(),
                np.abs(sample.scatter[0] / sample.rows - scatter[k] / weight[k]).max(),
            ]
            assert max(errors) < precision
    np.testing.assert_array_equal(calibrate_weights(kept, None), kept.weights)


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
    whole = Reservoir.empty(1, 400).add_rows(rows, 0, seed=7)
    cut = Reservoir.empty(1, 400)
    for lo, hi in ((0, 3), (3, 1200), (1200, 5000)):
        cut = cut.add_rows(rows[lo:hi], lo, seed=7)
    halves = [Reservoir.empty(1, 400).add_rows(rows[h], h.start, seed=7) for h in (slice(0, 2500), slice(2500, 5000))]

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


def test_a_state_whose_rows_were_equally_important_goes_on(tmp_path):
    rng = np.random.default_rng(5)
    rows = np.round(rng.normal(size=(900, 1)) + 4.0 * rng.integers(0, 2, size=(900, 1)), 3)
    gm = sg.OnlineGaussianMixture.load(DATA / "stream_state_v2.gmm").partial_fit(rows[650:])

    assert gm.rows_seen_ == 900
    assert gm.score(rows) > sg.OnlineGaussianMixture(2, warmup_rows=900).fit(rows).score(rows) - 5e-2
    gm.save(tmp_path / "s.gmm")
    assert sg.OnlineGaussianMixture.load(tmp_path / "s.gmm").result_.digest == gm.result_.digest


def test_a_stream_that_forgets_has_no_reservoir():
    rows = np.random.default_rng(0).normal(size=(3000, 1))
    forgetting = sg.OnlineGaussianMixture(1, half_life=500.0), sg.OnlineGaussianMixture(1, power=0.7)
    for gm in forgetting:
        gm.partial_fit(rows)
        assert gm._seen.reservoir is None
        assert gm.effective_rows_ < 3000
    with pytest.raises(ConfigError, match="reservoir_rows"):
        sg.OnlineGaussianMixture(1, reservoir_rows=-1).partial_fit(rows)
