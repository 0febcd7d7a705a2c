"""Component 3 stays component 3."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream_gmm as sg
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.matching import bhattacharyya_distances, trace_components
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import merge_components, remove_component, split_component
from stream_gmm.errors import ConfigError
from tests.strategies import mixtures, seeds

FULL = family_named("full")


def _apart(k=4, d=2):
    """Components far from each other, by rising weight, so that canonical order would turn them round."""
    means = 12.0 * np.eye(k, d) + np.arange(k)[:, None] * 9.0
    weights = np.arange(1.0, k + 1.0)
    return MixtureParams(weights / weights.sum(), means, np.tile(np.eye(d), (k, 1, 1)), FULL)


@given(mixtures(max_k=5, max_d=3), seeds)
def test_any_order_of_components_is_undone(mixture, seed):
    params, _ = mixture
    order = np.random.default_rng(seed).permutation(params.n_components)
    found = trace_components(params.reorder(order), params)
    back = params.reorder(order).reorder(list(found.order))

    np.testing.assert_allclose(np.diagonal(bhattacharyya_distances(back, params)), 0.0, atol=1e-9)
    assert not found.describe() or any(d == 0.0 for *_, d in found.kept)  # equal components may change places


@given(st.integers(0, 3))
def test_a_lost_component_leaves_the_others_their_numbers(lost):
    before = _apart()
    found = trace_components(remove_component(before, lost), before)

    assert found.lost == (lost,)
    assert not found.new
    assert {(i, j) for i, j, _ in found.kept} >= {(j, j) for j in range(3) if j != lost}
    assert f"component {lost} of the earlier model is lost" in found.describe()


def test_a_new_component_gets_the_free_number():
    before = _apart(3)
    weights = np.array([0.5, *(0.5 * before.weights)])
    after = MixtureParams(
        weights, [[-80.0, -80.0], *before.means], [np.eye(2), *before.dense_covariances], FULL
    ).reorder([2, 0, 3, 1])
    found = trace_components(after, before)

    assert found.new == (3,)
    assert [i for i, _, _ in found.kept] == [j for _, j, _ in found.kept] == [0, 1, 2]
    np.testing.assert_allclose(after.reorder(list(found.order)).means[:3], before.means)
    assert found.describe() == ("component 3 is new",)


def test_a_split_and_a_merge_are_named():
    before = _apart()
    after = split_component(before, 2)
    found = trace_components(after, before)
    assert [(j, len(parts)) for j, parts, _ in found.splits] == [(2, 2)]
    assert found.splits[0][2] == pytest.approx(0.0, abs=1e-9)
    assert not found.new
    assert not found.lost
    assert any("component 2 has split into" in t for t in found.describe())

    back = trace_components(before, after)
    assert len(back.merges) == 1
    assert not back.lost
    assert any("have merged into" in t for t in back.describe())


def test_a_merge_of_two_distant_components_is_recognised():
    before = _apart()
    found = trace_components(merge_components(before, 0, 1), before)

    assert [parts for _, parts, _ in found.merges] == [(0, 1)]
    assert not found.lost
    assert not found.new


@pytest.mark.long
def test_a_refit_on_new_data_of_the_same_law_keeps_every_number():
    """Twenty nights: overlapping components of nearly equal weight, whose canonical order is a coin toss."""
    truth = MixtureParams(
        [0.26, 0.25, 0.25, 0.24], [[0.0, 0.0], [3.0, 0.5], [0.5, 3.5], [4.0, 4.0]],
        [[[1.0, 0.5], [0.5, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, 1.5]], [[1.0, -0.4], [-0.4, 0.8]]],
        FULL,
    )  # fmt: skip
    first = sg.fit(draw_rows(truth, 4_000, np.random.default_rng(999))[0], 4, n_init=2)
    kept = turned = 0
    for seed in range(20):
        tonight = sg.fit(draw_rows(truth, 4_000, np.random.default_rng(seed))[0], 4, n_init=2, random_state=seed)
        matched = tonight.match_to(first)
        turned += not np.allclose(matched.means_, tonight.means_)
        kept += np.allclose(matched.means_, first.means_, atol=0.7) and matched.events == tonight.events
        assert matched.score(truth.means) == pytest.approx(tonight.score(truth.means))
    assert kept == 20
    assert turned > 4


def test_other_columns_cannot_be_matched(rng):
    rows = rng.normal(size=(200, 3))
    with pytest.raises(ConfigError, match="cannot match"):
        sg.fit(rows, 2).match_to(sg.fit(rows[:, :2], 2))
