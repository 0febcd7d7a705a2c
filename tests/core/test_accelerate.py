"""Laws of acceleration: what it may never do, whatever it proposes; and that it is worth having."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.accelerate import METHODS, Auto, Secants
from stream_gmm.core.fit.coordinates import Chart
from stream_gmm.core.fit.em import EMState, Outcome, Scheme, StopRule, advance, em_step, run_to_end
from stream_gmm.core.fit.surrogate import MomentsAbout, guaranteed_gain, run_inner_steps
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.mstep.penalty import PseudoRows, Ridge
from stream_gmm.core.mstep.prior import ConjugatePrior
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.sample_search import SampleSearch
from tests.strategies import families, mixtures, random_params, seeds

NAMES = ("none", "anderson", "squarem", "lbfgs", "auto")


def _spread(rows):
    return np.atleast_2d(np.cov(rows.T, bias=True))


def _method(name, rows):
    if name == "auto":
        return Auto(InMemoryEStep(rows[: max(len(rows) // 5, 20)], Scaling.of_rows(rows)))
    return METHODS[name]


def _case(seed, family, n=400, k=3, d=2):
    rng = np.random.default_rng(seed)
    params = random_params(rng, k, d, family)
    rows = draw_rows(params, n, rng)[0]
    return rng, rows, random_params(rng, k, d, family)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(seeds, families)
@pytest.mark.slow
def test_the_penalised_log_likelihood_of_accepted_points_never_falls(name, seed, family):
    _, rows, start = _case(seed, family)
    scheme = Scheme(StopRule(0.0, 25), PseudoRows(_spread(rows)), _method(name, rows))
    values, state = [], EMState(start)
    estep = InMemoryEStep(rows, Scaling.of_rows(rows))
    while state.live:
        state = advance(state, estep.evaluate(state.params), scheme)
        values.append(scheme.objective(*state.accepted_point))

    assert np.all(np.diff(values) >= -1e-10 * np.maximum(1.0, np.abs(values[1:])))
    assert state.passes == len(state.history) + len(state.rejected) <= 26
    assert estep.evaluate(state.params).mean_loglik == pytest.approx(state.history[-1], abs=1e-10)


@given(mixtures(max_k=4, max_d=4), st.floats(0.1, 1e3))
def test_any_vector_is_a_valid_mixture(mixture, size):
    params, rng = mixture
    chart = Chart(params)
    far = chart.params(chart.vector(params) + size * rng.normal(size=len(chart.vector(params))))

    assert far.weights.sum() == pytest.approx(1.0)
    assert np.isfinite(far.precisions_cholesky).all()


@given(seeds, families)
def test_a_mixture_survives_its_coordinates(seed, family):
    rng = np.random.default_rng(seed)
    chart, other = Chart(random_params(rng, 3, 3, family)), random_params(rng, 3, 3, family)
    back = chart.params(chart.vector(other))

    np.testing.assert_allclose(back.weights, other.weights, rtol=1e-9)
    np.testing.assert_allclose(back.means, other.means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(back.covariances, other.covariances, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(chart.vector(chart.reference), 0.0, atol=1e-12)


@given(seeds)
def test_lengths_near_the_reference_do_not_depend_on_units(seed):
    rng = np.random.default_rng(seed)
    family = family_named("full")
    chart = Chart(random_params(rng, 3, 2, family))
    near = chart.params(1e-4 * rng.normal(size=len(chart.vector(chart.reference))))
    turn = rng.normal(size=(2, 2)) + 3.0 * np.eye(2)

    def moved(p):
        return replace(p, means=p.means @ turn.T + 7.0, covariances=turn @ p.covariances @ turn.T)

    here, there = chart.vector(near), Chart(moved(chart.reference)).vector(moved(near))
    assert here @ here == pytest.approx(there @ there, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anderson", "squarem", "lbfgs", "auto"])
@settings(max_examples=10)
@given(seeds, families)
def test_where_acceleration_ends_em_ends_too(name, seed, family):
    _, rows, start = _case(seed, family, n=200)
    estep, penalty = InMemoryEStep(rows, Scaling.of_rows(rows)), PseudoRows(_spread(rows), 1.0)
    (state,) = run_to_end([EMState(start)], estep, Scheme(StopRule(1e-10, 300), penalty, _method(name, rows)))
    moved, stats, _ = em_step(state.params, estep, penalty)
    (end,) = run_to_end([EMState(state.params)], estep, Scheme(StopRule(1e-10, 300), penalty))

    assert stats.mean_loglik == state.history[-1]
    if state.outcome is Outcome.CONVERGED:
        np.testing.assert_allclose(moved.weights, state.params.weights, atol=1e-3)
        assert end.history[-1] == pytest.approx(state.history[-1], abs=1e-5)


@given(seeds, families)
def test_the_surrogate_of_all_rows_is_em_itself(seed, family):
    """With the sample equal to the data there is nothing to correct."""
    _, rows, start = _case(seed, family)
    estep, penalty = InMemoryEStep(rows, Scaling.of_rows(rows)), PseudoRows(_spread(rows))
    found = run_inner_steps(start, estep.evaluate(start), estep.evaluate, penalty, 4)
    direct, ours = start, estep.evaluate(found.params).mean_loglik
    apart = []
    for _ in range(found.steps + 1):
        direct, _, _ = em_step(direct, estep, penalty)
        apart.append(abs(estep.evaluate(direct).mean_loglik - ours))

    # The last step is left out where it would shrink a variance too far.
    assert min(apart[-2:]) <= 1e-6


def test_predicted_values_with_noise_are_the_likelihood(rng):
    """Without a correction they differ by constants; noise is what the components leave of it, and not of 1."""
    rows = np.concatenate([rng.normal(size=(380, 2)), rng.uniform(-9.0, 9.0, size=(20, 2))])
    start = random_params(rng, 2, 2, family_named("full")).with_noise(np.array([rows.min(0), rows.max(0)]), 0.3)
    estep, penalty = InMemoryEStep(rows, Scaling.of_rows(rows)), PseudoRows(_spread(rows))
    values = run_inner_steps(start, estep.evaluate(start), estep.evaluate, penalty, 6).values
    params, expected = start, []
    for _ in values:
        expected.append(estep.evaluate(params).mean_loglik)
        params, _, _ = em_step(params, estep, penalty)

    np.testing.assert_allclose(np.diff(values), np.diff(expected), rtol=1e-5, atol=1e-8)


@given(seeds, families)
def test_an_em_step_gains_what_is_guaranteed(seed, family):
    _, rows, start = _case(seed, family)
    estep = InMemoryEStep(rows, Scaling.of_rows(rows))
    stats = estep.evaluate(start)
    new, _ = mstep(stats, family, Ridge(0.0), start)
    promised = guaranteed_gain(stats, start, new)

    assert promised >= -1e-10
    assert estep.evaluate(new).mean_loglik - stats.mean_loglik >= promised - 1e-9


@given(seeds, families)
def test_moments_about_any_origin_say_the_same(seed, family):
    rng, rows, params = _case(seed, family)
    stats = InMemoryEStep(rows, Scaling.of_rows(rows)).evaluate(params)
    origins = params.means + rng.normal(size=params.means.shape)
    back = MomentsAbout.of(stats, origins).stats(stats)
    here, there = (MomentsAbout.of(stats, o).expected(params, stats) for o in (origins, params.means))

    assert here == pytest.approx(there, rel=1e-9, abs=1e-9)
    if back is not None:
        np.testing.assert_allclose(back.mean, stats.mean, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(back.scatter, stats.scatter, rtol=1e-6, atol=1e-6 * rows.var() * len(rows))


def test_anderson_solves_a_linear_map_in_as_many_steps_as_it_has_directions(rng):
    chart = Chart(random_params(rng, 1, 2, family_named("full")))
    matrix, goal = np.diag([0.9, 0.5, 0.95, 0.2, 0.7]), rng.normal(size=5)
    secants, x = Secants(chart), np.zeros(5)
    for _ in range(7):
        image = goal + matrix @ (x - goal)
        secants = replace(secants, points=(*secants.points, x), images=(*secants.images, image))
        x = secants.extrapolate()

    plain = goal - np.linalg.matrix_power(matrix, 7) @ goal
    assert np.linalg.norm(x - goal) < 0.1 * np.linalg.norm(plain - goal)


@pytest.mark.parametrize("name", NAMES)
def test_resuming_from_a_pickled_state_equals_never_having_stopped(name):
    _, rows, start = _case(7, family_named("full"))
    estep = InMemoryEStep(rows, Scaling.of_rows(rows))
    scheme = Scheme(StopRule(1e-9, 40), PseudoRows(_spread(rows)), _method(name, rows))
    (whole,) = run_to_end([EMState(start)], estep, scheme)
    state = EMState(start)
    while state.live:
        state = advance(
            pickle.loads(pickle.dumps(state)), estep.evaluate(state.params), pickle.loads(pickle.dumps(scheme))
        )

    assert state.history == whole.history
    np.testing.assert_array_equal(state.params.covariances, whole.params.covariances)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.slow
def test_auto_needs_far_fewer_passes_than_em_from_the_same_start(seed):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(draw_rows(random_params(rng, 5, 3, family_named("full"), spread=2.0), 60_000, rng)[0])
    scaling, penalty = Scaling.of_rows(rows), PseudoRows(_spread(rows))
    start = SampleSearch(rows[:6000], scaling, penalty).fit(5, family_named("full"), n_init=2, seed=(seed,)).params
    assert start is not None
    estep = InMemoryEStep(rows, scaling)
    ended = {
        name: run_to_end([EMState(start)], estep, Scheme(StopRule(), penalty, method))[0]
        for name, method in (("none", METHODS["none"]), ("auto", Auto(InMemoryEStep(rows[:6000], scaling))))
    }

    assert ended["auto"].outcome is Outcome.CONVERGED
    assert ended["auto"].passes <= min(6, ended["none"].passes)
    assert ended["auto"].history[-1] >= ended["none"].history[-1] - 1e-4


@pytest.mark.slow
def test_every_structure_can_be_accelerated(rng):
    rows = np.vstack([rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + 4.0])
    for family in FAMILIES:
        start = random_params(rng, 2, 2, family)
        for name in NAMES:
            scheme = Scheme(StopRule(1e-6, 1000), PseudoRows(_spread(rows)), _method(name, rows))
            (state,) = run_to_end([EMState(start)], InMemoryEStep(rows, Scaling.of_rows(rows)), scheme)
            assert state.outcome is Outcome.CONVERGED, (family.name, name)


def test_a_fit_beside_a_saddle_has_not_converged():
    """From this seed the gains of the last steps shrink, and grow again: 500 plain steps then gained 7 nats."""
    rng = np.random.default_rng(343)
    centres = rng.normal(scale=1.5, size=(3, 2))
    rows = centres[rng.integers(3, size=400)] + rng.normal(size=(400, 2)) * rng.uniform(0.5, 1.5, size=(400, 1))
    model = sg.fit(
        rows, 3, noise=True, prior="mclust", accel="lbfgs", sample_rows=200, random_state=343, max_passes=400
    )
    estep, penalty = InMemoryEStep(rows, Scaling.of_rows(rows)), ConjugatePrior.of(collect_moments(rows))
    scheme, moved = Scheme(penalty=penalty), model.params
    for _ in range(100):
        moved = em_step(moved, estep, penalty)[0]

    assert model.outcome is Outcome.CONVERGED
    before, after = (scheme.objective(params, estep.evaluate(params)) for params in (model.params, moved))
    assert after - before <= scheme.rule.tolerance(moved.n_parameters, len(rows))
