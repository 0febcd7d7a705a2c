"""The compiled steps on few rows are the ordinary EM steps; what decides between restarts is what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture

import stream_gmm as sg
from stream_gmm.core.criteria import estimate_optimism
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.em import EMState, Outcome, Scheme, StopRule, em_step, run_to_end
from stream_gmm.core.fit.few_rows import FewRows
from stream_gmm.core.fit.quasi_newton import QUASI_NEWTON, Curvature
from stream_gmm.core.fit.stopping import STALL_STEPS
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import PseudoRows, Ridge
from stream_gmm.core.rows.moments import UNWEIGHTED, collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.pruning import bound_final_gain
from stream_gmm.core.search.seeding import collect_hard_stats, start_from_seed, widen_clusters
from stream_gmm.core.search.superfluous import end_stalled


def _rows(rng, n: int = 120):
    return np.vstack([rng.normal(size=(n // 2, 3)), 3.0 + rng.normal(size=(n // 2, 3)) @ np.diag([1.0, 2.0, 0.5])])


def _start(rows, name):
    matrices = np.array([np.cov(rows.T), 0.5 * np.cov(rows.T)])
    family = family_named(name)
    values = matrices if family.matrices else np.einsum("kjj->kj", matrices)
    return MixtureParams.from_matrices(np.array([0.4, 0.6]), rows[[0, -1]], values, family)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ridge", [None, 0.0, 0.1])
@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_compiled_steps_are_em_steps(rng, name, ridge, weighted):
    rows = _rows(rng) + np.array([1e4, 0.0, -50.0])
    weights = rng.integers(0, 4, len(rows)).astype(float) if weighted else UNWEIGHTED
    penalty = PseudoRows.of(collect_moments(rows, weights), 0.5) if ridge is None else Ridge(ridge)
    start = slow = _start(rows, name)
    estep = InMemoryEStep(rows, Scaling.of_rows(rows), weights=weights)
    few = FewRows(rows, weights, penalty)
    assert few.can_step(start)
    fast = few.run_plain_steps(start, 7, 0.0).params
    for _ in range(7):
        slow, _, _ = em_step(slow, estep, penalty)
    np.testing.assert_allclose(fast.weights, slow.weights, rtol=1e-8)
    np.testing.assert_allclose(fast.means, slow.means, rtol=1e-8, atol=1e-7)
    np.testing.assert_allclose(fast.covariances, slow.covariances, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_the_compiled_climb_ends_where_the_ordinary_one_does(rng, name, weighted):
    """From two starts of overlapping clusters, or at a better optimum; from where that ends it stays."""
    rows = 0.6 * _rows(rng, 300) + np.array([1e3, 0.0, -50.0])
    weights = rng.integers(0, 4, len(rows)).astype(float) if weighted else UNWEIGHTED
    penalty = PseudoRows.of(collect_moments(rows, weights))
    estep, scheme = InMemoryEStep(rows, Scaling.of_rows(rows), weights=weights), Scheme(StopRule(1e-10, 500), penalty)
    start = _start(rows, name)
    few = FewRows(rows, weights, penalty)
    assert few.can_climb(start)
    (slow,) = run_to_end([EMState(start)], estep, Scheme(StopRule(1e-10, 500), penalty, QUASI_NEWTON))
    climbed = few.climb(start, 500, 1e-10, 0.0)
    end = climbed.params
    objective = scheme.objective(end, estep.evaluate(end))
    assert climbed.is_optimum
    assert climbed.left <= 1e-9
    assert climbed.objective == pytest.approx(objective, abs=1e-9)
    assert objective >= slow.objectives[-1] - 1e-8
    assert few.climb(slow.params, 500, 1e-10, 0.0).objective == pytest.approx(slow.objectives[-1], abs=1e-8)
    after, _, _ = em_step(end, estep, penalty)
    np.testing.assert_allclose(after.means, end.means, rtol=1e-7, atol=1e-4)


def test_the_compiled_climb_stops_where_nothing_is_gained_and_never_falls(rng):
    """Six components on one cluster: after any number of steps the objective is at least that after fewer."""
    rows = rng.normal(size=(400, 2))
    penalty, estep = PseudoRows.of(collect_moments(rows, UNWEIGHTED)), InMemoryEStep(rows, Scaling.of_rows(rows))
    start = MixtureParams(np.full(6, 1 / 6), rows[:6], np.array([np.cov(rows.T)] * 6), family_named("full"))
    reached = []
    for steps in (0, 1, 2, 5, 20, 60, 200):
        end = FewRows(rows, UNWEIGHTED, penalty).climb(start, steps, 1e-12, 0.0).params
        reached.append(Scheme(penalty=penalty).objective(end, estep.evaluate(end)))
    assert np.all(np.diff(reached) >= -1e-12), reached
    stalled = FewRows(rows, UNWEIGHTED, penalty).climb(start, 10_000, 0.0, 1e-3)
    assert not stalled.is_optimum
    assert Scheme(penalty=penalty).objective(stalled.params, estep.evaluate(stalled.params)) > reached[3]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_the_statistics_at_the_end_of_compiled_steps_are_those_of_the_ordinary_e_step(rng, name, weighted):
    rows = _rows(rng) + np.array([1e4, 0.0, -50.0])
    weights = rng.integers(0, 4, len(rows)).astype(float) if weighted else UNWEIGHTED
    few = FewRows(rows, weights, PseudoRows.of(collect_moments(rows, weights), 0.5))
    estep = InMemoryEStep(rows, Scaling.of_rows(rows), weights=weights)
    start = _start(rows, name)
    for end in (few.run_plain_steps(start, 3, 0.0), few.climb(start, 500, 1e-9, 0.0)):
        known, stats = end.stats, estep.evaluate(end.params)
        assert known is not None
        assert known.mean_loglik == pytest.approx(stats.mean_loglik, abs=1e-10)
        assert known.rows == stats.rows
        np.testing.assert_allclose(known.weight, stats.weight, rtol=1e-8)
        np.testing.assert_allclose(known.mean, stats.mean, rtol=1e-8, atol=1e-6)
        np.testing.assert_allclose(known.scatter, stats.scatter, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("penalty", [0.3, Ridge(0.01)], ids=["pseudo-rows", "ridge"])
@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_steps_from_the_clusters_of_a_seeding_begin_at_their_m_step(rng, name, penalty):
    rows = _rows(rng) + np.array([1e4, 0.0, -50.0])
    moments, family = collect_moments(rows, UNWEIGHTED), family_named(name)
    penalty = penalty if isinstance(penalty, Ridge) else PseudoRows.of(moments, penalty)
    scaling = Scaling.of_rows(rows)
    labels = np.r_[np.zeros(60), np.ones(55), np.full(5, 2)].astype(int)  # the last is widened, as one of few rows
    seed = collect_hard_stats(rows, labels, 3)
    expected = start_from_seed(seed, family, scaling, penalty)
    few = FewRows(rows, UNWEIGHTED, penalty)
    start = few.run_steps_from(widen_clusters(seed, scaling.scale**2), family, 0, 0.0).params
    np.testing.assert_allclose(start.weights, expected.weights, rtol=1e-9)
    np.testing.assert_allclose(start.means, expected.means, rtol=1e-9)
    np.testing.assert_allclose(start.covariances, expected.covariances, rtol=1e-6)


def test_a_singular_covariance_ends_the_compiled_steps_at_the_last_regular_point(rng):
    rows = np.vstack([np.zeros((20, 2)), 9.0 + rng.normal(size=(20, 2))])
    start = MixtureParams([0.5, 0.5], rows[[0, -1]], np.array([np.eye(2)] * 2), family_named("full"))
    end = FewRows(rows, UNWEIGHTED, Ridge(0.0)).run_plain_steps(start, 50, 0.0).params
    assert np.isfinite(end.precisions_cholesky).all()


def test_the_excess_of_one_component_is_that_of_simulated_rows():
    """For one normal distribution: in-sample less expected log-likelihood, by 4,000 simulations."""
    rng, n, d = np.random.default_rng(0), 20, 2
    excess = []
    for _ in range(4_000):
        rows = rng.normal(size=(n, d))
        mean, cov = rows.mean(0), np.cov(rows.T, bias=True)
        # The log-determinant is common to both; the quadratic form of new rows has an expectation in closed form.
        new = np.trace(np.linalg.solve(cov, np.eye(d))) + mean @ np.linalg.solve(cov, mean)
        excess.append(0.5 * (new - d))
    stats = InMemoryEStep(rows, Scaling.of_rows(rows)).evaluate(
        MixtureParams([1.0], [np.zeros(d)], [np.eye(d)], family_named("full"))
    )
    assert estimate_optimism(family_named("full"), stats) == pytest.approx(np.mean(excess), rel=0.05)


def test_a_component_of_few_rows_has_a_larger_excess(rng):
    rows = _rows(rng, 400)
    few = np.r_[np.zeros(394), np.ones(6)].astype(int)
    halves = np.repeat([0, 1], 200)
    stats = [collect_hard_stats(rows, labels, 2) for labels in (few, halves)]
    assert estimate_optimism(family_named("full"), stats[0]) > 2.0 * estimate_optimism(family_named("full"), stats[1])


def test_quasi_newton_solves_a_quadratic_in_as_many_pairs_as_it_has_directions(rng):
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    hessian = basis @ np.diag([0.01, 0.1, 0.3, 0.7, 1.0]) @ basis.T
    optimum, point = rng.normal(size=5), np.zeros(5)
    memory = Curvature(None, point, hessian @ (optimum - point))  # type: ignore[arg-type]
    for _ in range(12):
        direction = memory.compute_direction()
        # An exact line search, with which the method ends after five steps on a quadratic.
        point = point + direction * (direction @ memory.gradient) / (direction @ hessian @ direction)
        memory = memory.move_to(point, hessian @ (optimum - point))
        if np.linalg.norm(memory.gradient) < 1e-9:
            break
    np.testing.assert_allclose(point, optimum, atol=1e-6)
    assert memory.steps <= 6


def _state(objectives, predicted):
    params = MixtureParams([1.0], [[0.0]], [[[1.0]]], family_named("full"))
    stats = InMemoryEStep(np.arange(4.0)[:, None], Scaling.of_rows(np.arange(4.0)[:, None])).evaluate(params)
    return EMState(params, accepted=params, stats=stats, objectives=tuple(objectives), predicted_gains=(predicted,))


def test_the_final_gain_is_bounded_by_what_the_last_passes_gained():
    assert bound_final_gain(_state([-3.0], 0.5), 10.0) == 1.5
    assert bound_final_gain(_state([-3.0, -2.999], 0.5), 10.0) == pytest.approx(0.01)
    assert bound_final_gain(_state([-2.999, -3.0], 0.5), 10.0) == pytest.approx(0.01)  # with a ridge
    assert bound_final_gain(_state([-3.0, -2.0], 0.5), 10.0) == 1.5
    rejected = replace(_state([-3.0, -2.999], 0.5), passes=6, rejected=(1, 5, 6))
    assert bound_final_gain(rejected, 30.0) == pytest.approx(0.01)  # of three passes, two have gained nothing


def test_a_fit_that_gains_nothing_for_long_is_ended_and_one_that_gains_goes_on():
    flat, rising = np.full(STALL_STEPS + 1, -3.0), np.linspace(-3.0, -2.0, STALL_STEPS + 1)
    ended = end_stalled([_state(flat, 1.0), _state(rising, 1.0), _state(flat[1:], 1.0)], 1e-6)
    assert [s.outcome for s in ended] == [Outcome.MAX_PASSES, None, None]


@pytest.mark.parametrize("seed", range(4))
def test_three_components_for_four_blobs_find_the_optimum_of_scikit_learn(seed):
    rows, _ = make_blobs(400, centers=4, cluster_std=0.6, random_state=0)
    theirs = GaussianMixture(3, random_state=0).fit(rows).bic(rows)
    assert sg.fit(rows, 3, random_state=seed).criteria.bic <= theirs + 0.1


@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")
@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_of_more_rows_in_memory_than_the_sample_ends_where_em_gains_nothing(rng, weighted):
    """Whichever rows are the sample; EM from there is scikit-learn's, and with weights that of the rows repeated."""
    rows = 0.6 * _rows(rng, 1_200)
    counts = rng.integers(1, 3, len(rows)) if weighted else np.ones(len(rows), int)
    found = sg.fit(rows, 3, weight=counts.astype(float) if weighted else None, sample_rows=400)
    repeated = np.repeat(rows, counts, axis=0)
    theirs = GaussianMixture(
        3, reg_covar=0.0, tol=1e-12, max_iter=20, weights_init=found.weights_, means_init=found.means_,
        precisions_init=found.precisions_,
    )  # fmt: skip
    theirs.fit(repeated)
    ours = found.criteria.loglik / len(repeated)
    assert found.converged_
    assert found.passes == 1
    assert ours == pytest.approx(theirs.score(repeated), abs=1e-5)
