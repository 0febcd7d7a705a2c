"""Laws of what happens on the sample: penalties, seedings, splits, merges, the ladder; and of pruning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import minimize

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.em import EMState, Outcome, Scheme, StopRule, run_pass, run_to_end
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import (
    find_closest_pair,
    merge_components,
    rank_pairs,
    remove_component,
    split_component,
)
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.mstep.penalty import PseudoRows, Ridge
from stream_gmm.core.rows.moments import UNWEIGHTED, collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.evidence import SampleCandidate, SamplePruning
from stream_gmm.core.search.pruning import prune_states
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.core.search.seeding import SEEDINGS, collect_seed_stats, list_seedings, start_from_seed
from stream_gmm.errors import InputDataError
from tests.strategies import families, mixtures, random_params, random_stats, seeds


def _moments(params: MixtureParams):
    mean = params.weights @ params.means
    delta = params.means - mean
    return mean, np.einsum("k,kij->ij", params.weights, params.dense_covariances + delta[:, :, None] * delta[:, None])


@given(mixtures(max_k=4, max_d=4))
def test_a_split_and_a_merge_keep_the_moments(mixture):
    params, _ = mixture
    if params.family.name != "full":
        params = MixtureParams.from_matrices(
            params.weights, params.means, params.dense_covariances, family_named("full")
        )
    grown = split_component(params, params.n_components - 1)
    for changed in (grown, merge_components(grown, 0, grown.n_components - 1)):
        for ours, expected in zip(_moments(changed), _moments(params), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@given(mixtures(max_k=4, max_d=3))
def test_every_structure_splits_merges_and_loses_a_component(mixture):
    params, _ = mixture
    grown = split_component(params, 0)
    assert grown.n_components == params.n_components + 1
    assert (
        merge_components(grown, 0, 1).n_components == remove_component(grown, 0).n_components == params.n_components
    )
    assert np.isfinite(grown.precisions_cholesky).all()
    assert grown.weights.sum() == pytest.approx(1.0)


def test_two_equal_components_are_the_closest_pair(rng):
    params = random_params(rng, 4, 2, family_named("full"))
    twins = _twins(params, 1)
    loss, i, j = find_closest_pair(twins)

    assert (i, j) == (1, 4)
    assert loss == pytest.approx(0.0, abs=1e-12)


def test_pairs_are_ranked_by_the_bound_of_runnalls(rng):
    params = random_params(rng, 5, 3, family_named("full"))
    pairs = rank_pairs(params)
    assert len(pairs) == 10
    assert pairs == sorted(pairs)
    for loss, i, j in pairs:
        merged, (wi, wj) = merge_components(params, i, j), params.weights[[i, j]]
        log_dets = [np.linalg.slogdet(c)[1] for c in (merged.covariances[-1], *params.covariances[[i, j]])]
        expected = 0.5 * ((wi + wj) * log_dets[0] - wi * log_dets[1] - wj * log_dets[2])
        assert loss == pytest.approx(expected, abs=1e-10)


def _twins(params: MixtureParams, component: int) -> MixtureParams:
    order = [*range(params.n_components), component]
    weights = params.weights[order]
    return MixtureParams(weights / weights.sum(), params.means[order], params.covariances[order], params.family)


def test_a_duplicate_component_is_moved_to_where_it_is_needed(rng):
    truth = MixtureParams([1 / 3] * 3, [[0, 0], [8, 0], [0, 8]], [np.eye(2)] * 3, family_named("full"))
    rows = rng.permutation(draw_rows(truth, 3000, rng)[0])
    search = SampleSearch(rows, Scaling.of_rows(rows), PseudoRows(np.cov(rows.T)))
    twins = MixtureParams(
        [0.3, 0.3, 0.4], [[0, 0], [0, 0], [4, 4]], [np.eye(2), np.eye(2), 20 * np.eye(2)], truth.family
    )
    found = search._fit_to_convergence([("twins", twins)])

    assert found.params is not None
    assert any("were one" in e for e in found.events)
    assert np.sort(found.params.weights) == pytest.approx([1 / 3] * 3, abs=0.05)


@pytest.mark.parametrize("seeding", SEEDINGS.values(), ids=SEEDINGS)
@given(seeds, families)
def test_every_seeding_gives_a_valid_start(seeding, seed, family):
    rng = np.random.default_rng(seed)
    rows = np.vstack([rng.normal(size=(60, 2)), np.zeros((20, 2)), 5.0 + rng.normal(size=(40, 2))])
    for k in (1, 2, 7):
        scaling = Scaling.of_rows(rows)
        params = start_from_seed(collect_seed_stats(rows, k, scaling, rng, seeding), family, scaling, Ridge(1e-6))
        assert params.n_components == k
        assert np.isfinite(params.precisions_cholesky).all()


@given(seeds, families)
def test_pseudo_rows_give_the_maximum_of_the_penalised_objective(seed, family):
    rng = np.random.default_rng(seed)
    stats, penalty = random_stats(rng, 3, 2, family), PseudoRows(np.eye(2) + 0.3, 2.0)
    stats = replace(stats, weight=stats.weight + 1.0)
    params, _ = mstep(stats, family, penalty)

    def objective(covariances):
        moved = MixtureParams(params.weights, params.means, covariances, family)
        return _expected(stats, moved) + penalty.value(moved)

    best = objective(params.covariances)
    for factor in (0.999, 1.001):
        assert objective(params.covariances * factor) <= best + 1e-9 * abs(best)


def _expected(stats, params):
    whole = np.array(params.family.expand(params.covariances, *params.means.shape))
    dense = params.family.moments.dense(whole)
    log_dets = np.linalg.slogdet(dense)[1]
    shared = dense[:1] if len(stats.scatter) < len(dense) else dense
    scatter = params.family.moments.dense(np.broadcast_to(stats.scatter, (len(stats.scatter), *whole.shape[1:])))
    trace = np.einsum("kij,kji->", np.linalg.inv(shared), scatter)
    return -0.5 * float(stats.weight @ log_dets + trace)


def test_the_tied_penalty_agrees_with_a_numerical_optimiser(rng):
    family, penalty = family_named("tied_spherical"), PseudoRows(3.0 * np.eye(2), 5.0)
    stats = random_stats(rng, 3, 2, family)
    params, _ = mstep(stats, family, penalty)

    def loss(log_variance):
        moved = MixtureParams(params.weights, params.means, np.exp(log_variance[0]), family)
        return -_expected(stats, moved) - penalty.value(moved)

    assert float(params.covariances) == pytest.approx(np.exp(minimize(loss, [0.0]).x[0]), rel=1e-4)


@given(seeds)
def test_pseudo_rows_do_not_depend_on_units(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    units = np.array([1e6, 1e-5])
    start = random_params(rng, 2, 2, family_named("full"))
    moved = replace(start, means=start.means * units, covariances=start.covariances * np.outer(units, units))
    out = []
    for x, s in ((rows, start), (rows * units, moved)):
        scheme = Scheme(StopRule(1e-9, 20), PseudoRows(np.cov(x.T)))
        (state,) = run_to_end([EMState(s)], InMemoryEStep(x, Scaling.of_rows(x)), scheme)
        out.append(state.params)

    np.testing.assert_allclose(out[1].means / units, out[0].means, rtol=1e-4, atol=1e-6)


def test_a_split_of_one_less_rescues_a_bad_fit(rng):
    truth = MixtureParams([0.4, 0.3, 0.3], [[0, 0], [9, 0], [0, 9]], [np.eye(2)] * 3, family_named("full"))
    rows = rng.permutation(draw_rows(truth, 4000, rng)[0])
    search = SampleSearch(rows, Scaling.of_rows(rows), PseudoRows(np.cov(rows.T)))
    below = search.fit(2, truth.family, n_init=2)
    means = np.array([[4.0, 4.0], [0.0, 0.0], [0.5, 0.5]])
    covariances = np.array([30 * np.eye(2), np.eye(2), np.eye(2)])
    bad = MixtureParams([0.5, 0.25, 0.25], means, covariances, truth.family)
    stuck = search._fit_to_convergence([("bad", bad)])
    climbed = search.improve_from_neighbours(stuck, below, None)

    assert climbed.rank >= stuck.rank
    assert climbed.params is not None
    assert np.sort(climbed.params.weights) == pytest.approx([0.3, 0.3, 0.4], abs=0.03)


@pytest.mark.slow
def test_a_candidate_that_cannot_win_is_pruned_and_the_winner_never(rng):
    truth = MixtureParams([0.5, 0.5], [[0, 0], [6, 0]], [np.eye(2)] * 2, family_named("full"))
    rows = rng.permutation(draw_rows(truth, 20_000, rng)[0])
    scaling, penalty = Scaling.of_rows(rows), PseudoRows(np.cov(rows.T))
    search, estep = SampleSearch(rows[:1000], scaling, penalty), InMemoryEStep(rows, scaling)
    starts = [search.fit(k, f).params for k in (1, 2, 3) for f in FAMILIES[:6]]
    states = [EMState(p) for p in starts if p is not None]
    whole = run_to_end(states, estep, Scheme(penalty=penalty))
    pruned = run_to_end(states, estep, Scheme(penalty=penalty), review=lambda s: prune_states(s, "bic"))

    def bic(s):
        return -2 * s.stats.loglik + s.params.n_parameters * np.log(s.stats.rows)

    best = min(range(len(whole)), key=lambda i: bic(whole[i]))
    assert pruned[best].outcome is Outcome.CONVERGED
    assert bic(pruned[best]) == bic(whole[best])
    assert sum(s.outcome is Outcome.PRUNED for s in pruned) > 2
    assert all("cannot win" in s.reason for s in pruned if s.outcome is Outcome.PRUNED)
    assert sum(s.passes for s in pruned) < sum(s.passes for s in whole)
    first = run_pass(states, estep, Scheme(penalty=penalty))
    assert prune_states(first, "icl") == first


def _field_with_a_dense_cluster(rng, n: int = 6000, dense: int = 90):
    return rng.permutation(
        np.vstack([rng.normal(0.0, 10.0, (n - dense, 2)), rng.normal([4.0, 3.0], 0.1, (dense, 2))])
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_small_dense_cluster_inside_a_broad_one_is_found(seed):
    rows = _field_with_a_dense_cluster(np.random.default_rng(seed))
    search = SampleSearch(rows, Scaling.of_rows(rows), PseudoRows.of(collect_moments(rows)))
    fit = search.fit(2, family_named("full"), seed=(seed,))

    assert fit.params is not None
    small = int(fit.params.weights.argmin())
    assert fit.params.weights[small] == pytest.approx(0.015, rel=0.1)
    np.testing.assert_allclose(fit.params.means[small], [4.0, 3.0], atol=0.1)
    # What the rows of the cluster themselves give, without a mixture.
    mine = rows[np.linalg.norm(rows - [4.0, 3.0], axis=1) < 0.35]
    np.testing.assert_allclose(np.diagonal(fit.params.covariances[small]), mine.var(axis=0), rtol=0.3)


def test_the_best_merge_keeps_a_dense_cluster_that_the_bound_would_merge_away(rng):
    rows = _field_with_a_dense_cluster(rng)
    family = family_named("full")
    halves = [[-6.0, 0.0], [6.0, 0.0], [4.0, 3.0]]
    params = MixtureParams([0.4925, 0.4925, 0.015], halves, [np.diag([64.0, 100.0])] * 2 + [0.01 * np.eye(2)], family)
    search = SampleSearch(rows, Scaling.of_rows(rows), PseudoRows.of(collect_moments(rows)))
    _, i, j = find_closest_pair(params)
    assert 2 in (i, j)

    merged = search.merge_best(params)
    assert merged.n_components == 2
    assert merged.covariances.min(axis=0).max() < 1.0


def test_a_poor_local_optimum_is_not_pruned_on_the_sample(rng):
    """K = 2 fits no better than K = 1, while K = 3 gains: K = 2 has missed an optimum."""
    base = rng.normal(-7.0, 1.0, 4000)

    def candidate(k, gain):
        return SampleCandidate(f"full-{k}", k, 6 * k - 1, float("nan"), base + gain, structure="full")

    others = [candidate(k, g) for k, g in ((3, 0.2), (4, 0.2), (5, 0.2))]
    pruning = SamplePruning("bic", 1e6, 10_000, 0.0, UNWEIGHTED)
    poor = pruning.find_reasons([candidate(1, 0.0), candidate(2, 0.0 + 1e-9), *others])
    fair = pruning.find_reasons([candidate(1, 0.0), candidate(2, 0.12), *others])

    assert not poor[1]
    assert fair[1]


def test_a_number_of_components_beyond_the_rows_ends_only_itself(rng):
    rows = np.repeat(rng.normal(size=(30, 2)), 2, axis=0)
    result = sg.sweep(rows, [1, 2, 31, 61], "spherical")
    by_k = {c.n_components: c for c in result.candidates}

    assert result.best.n_components in (1, 2)
    assert by_k[31].outcome is by_k[61].outcome is Outcome.FAILED
    assert "only 30 of the 60 are distinct" in by_k[31].reason
    assert "61 components need at least as many rows, and there are 60" in by_k[61].reason
    with pytest.raises(InputDataError, match="use at most 30 components"):
        sg.fit(rows, 31, "spherical")


@pytest.mark.parametrize("options", [{}, {"reg_covar": 1e-3}])
def test_more_parameters_than_values_are_refused_unless_they_are_regularised(rng, options):
    """60 rows of 20 columns hold 1,200 values; six full components have 1,385 parameters."""
    rows = rng.normal(size=(60, 20))
    if options:
        assert sg.fit(rows, 6, "full", **options).n_components == 6
        return
    with pytest.raises(InputDataError, match=r"1,385 parameters, and 60 rows of 20 columns hold 1,200 values"):
        sg.fit(rows, 6, "full")
    table = sg.sweep(rows, [1, 6], ["full", "diag"]).table.to_pylist()
    assert {c["candidate"]: c["outcome"] for c in table}["full-6"] == "FAILED"
    assert "1,385 parameters" in next(c["reason"] for c in table if c["candidate"] == "full-6")


def test_seedings_with_matrices_are_left_out_where_they_would_take_minutes():
    assert len(list_seedings(20_000, 20, 50)) == 5
    assert list_seedings(1_477, 100, 284) == ("k-means++", "splits")
    assert list_seedings(1_477, 1, 284) == ("k-means++",)
