from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.accelerate import METHODS
from stream_gmm.core.fit.em import EMState, Outcome, Scheme, StopRule, advance, em_step, run_to_end
from stream_gmm.core.fit.stepwise import PowerDecay, StepwiseState, take_stepwise_step
from stream_gmm.core.fit.stopping import bound_remaining_gain, extrapolate_gains
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import COLLAPSED_STEPS
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.core.mstep.prior import ConjugatePrior
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.errors import SingularCovarianceError
from tests.oracles import rows_of, standardised
from tests.strategies import families, mixtures, random_params, seeds

SETS = ("iris", "faithful", "wine", "ecoli_cytometry")
SKLEARN = ("full", "tied", "diag", "spherical")


def _scaling(rows):
    return Scaling.of_rows(rows)


def _sklearn_start(rows, name: str, k: int = 3, **options) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(k, covariance_type=name, random_state=0, **options).fit(rows)


def _params(model: GaussianMixture) -> MixtureParams:
    family = family_named(model.covariance_type)
    return MixtureParams(model.weights_, model.means_, model.covariances_, family)


@pytest.mark.parametrize("name", SKLEARN)
@pytest.mark.parametrize("data", SETS)
def test_one_step_equals_scikit_learn(data, name):
    rows = standardised(rows_of(data))
    start = _sklearn_start(rows, name, max_iter=2)
    params, stats, _ = em_step(_params(start), InMemoryEStep(rows, _scaling(rows)))
    loglik, log_r = start._e_step(rows)
    start._m_step(rows, log_r)

    scale = np.abs(start.covariances_).max()
    assert stats.mean_loglik == pytest.approx(loglik, rel=1e-9)
    np.testing.assert_allclose(params.weights, start.weights_, rtol=1e-9)
    np.testing.assert_allclose(params.means, start.means_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(params.covariances, start.covariances_, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(
        params.precisions_cholesky, start.precisions_cholesky_, rtol=1e-8,
        atol=1e-8 * np.abs(start.precisions_cholesky_).max(),
    )  # fmt: skip


@pytest.mark.parametrize("name", SKLEARN)
@pytest.mark.parametrize("data", SETS)
def test_a_converged_fit_reaches_the_log_likelihood_of_scikit_learn(data, name):
    rows = standardised(rows_of(data))
    k = 2 if data == "wine" else 3
    start = _sklearn_start(rows, name, k, max_iter=2)
    parameters = {
        "weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_,
    }  # fmt: skip
    theirs = _sklearn_start(rows, name, k, max_iter=5000, tol=1e-13, **parameters)
    (ours,) = run_to_end(
        [EMState(_params(start))], InMemoryEStep(rows, _scaling(rows)), Scheme(StopRule(1e-10, 5000))
    )

    assert ours.history[-1] == pytest.approx(theirs.score(rows), abs=1e-7)


@given(mixtures(max_k=4, max_d=4), st.integers(50, 400))
def test_the_penalised_log_likelihood_never_falls(mixture, n):
    params, rng = mixture
    rows = draw_rows(params, n, rng)[0]
    start = random_params(rng, params.n_components, params.n_features, params.family)
    penalty, values = PseudoRows(np.atleast_2d(np.cov(rows.T, bias=True))), []

    def note(states):
        values.append(Scheme(penalty=penalty).objective(*states[0].accepted_point))

    run_to_end([EMState(start)], InMemoryEStep(rows, _scaling(rows)), Scheme(StopRule(0.0, 25), penalty), note)

    assert np.all(np.diff(values) >= -1e-10 * np.maximum(1.0, np.abs(values[1:])))


@settings(max_examples=15)
@given(mixtures(max_k=3, max_d=3), st.integers(1, 20))
def test_resuming_from_a_pickled_state_equals_never_having_stopped(mixture, stop):
    params, rng = mixture
    rows = draw_rows(params, 200, rng)[0]
    estep, scheme = InMemoryEStep(rows, _scaling(rows)), Scheme(StopRule(1e-9, 40))
    state = EMState(random_params(rng, params.n_components, params.n_features, params.family))
    (whole,) = run_to_end([state], estep, scheme)
    for _ in range(stop):
        if state.live:
            state = advance(state, estep([state.params])[0], scheme)
    (resumed,) = run_to_end([pickle.loads(pickle.dumps(state))], estep, scheme)

    assert resumed.history == whole.history
    np.testing.assert_array_equal(resumed.params.covariances, whole.params.covariances)


@given(seeds, families)
def test_a_rotation_of_components_changes_nothing(seed, family):
    rng = np.random.default_rng(seed)
    params = random_params(rng, 4, 3, family)
    rows = draw_rows(params, 300, rng)[0]
    order = rng.permutation(4)
    estep = InMemoryEStep(rows, _scaling(rows))
    direct, _, _ = em_step(params, estep)
    turned, _, _ = em_step(params.reorder(order), estep)

    np.testing.assert_allclose(turned.means, direct.means[order], rtol=1e-10, atol=1e-12)


def test_one_component_is_done_after_one_step(rng):
    rows = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 5.0
    for family in FAMILIES:
        start = random_params(rng, 1, 3, family)
        (state,) = run_to_end([EMState(start)], InMemoryEStep(rows, _scaling(rows)), Scheme(penalty=Ridge(0.0)))
        assert state.outcome is Outcome.CONVERGED
        assert len(state.history) == 2
        np.testing.assert_allclose(state.params.means[0], rows.mean(0), rtol=1e-12)


def test_max_passes_ends_with_an_evaluated_model(rng):
    rows = rng.normal(size=(400, 2))
    start = random_params(rng, 5, 2, family_named("full"))
    estep = InMemoryEStep(rows, _scaling(rows))
    (state,) = run_to_end([EMState(start)], estep, Scheme(StopRule(1e-12, 3)))

    assert state.outcome is Outcome.MAX_PASSES
    assert (state.n_iter, len(state.history)) == (3, 4)
    assert estep([state.params])[0].mean_loglik == state.history[-1]


def test_a_geometric_tail_is_predicted_with_caution():
    gains = [0.5**t for t in range(1, 6)]

    assert extrapolate_gains(gains[-1], gains[-2], gains[-3]) == pytest.approx(0.5**5, rel=1e-12)
    # At least what is left at a rate of 0.99, as slower directions may lie behind.
    assert bound_remaining_gain([0.0, *np.cumsum(gains)]) == pytest.approx(99.0 * 0.5**5)
    assert bound_remaining_gain([-2.0, -1.0]) == np.inf
    assert bound_remaining_gain([-2.0, -1.0, -1.0]) == 0.0


def test_gains_that_stop_shrinking_are_no_end():
    # Seen beside a saddle: the next gain was larger than the last, and 200 more steps gained 50,000 times as much.
    gains = [22.34, 14.031, 13.493, 13.341]

    assert extrapolate_gains(*gains[:0:-1]) > 900.0 * gains[-1]
    assert bound_remaining_gain([-1e4, *(-1e4 + np.cumsum(gains))]) > 900.0 * gains[-1]
    assert extrapolate_gains(1.0, 1.0, 1.0) == extrapolate_gains(1.1, 1.0, 2.0) == np.inf
    # A flat valley, whose gains shrink as 1 / t^2, has an end: about t gains are left.
    valley = [1.0 / t**2 for t in (198, 199, 200)]
    assert extrapolate_gains(*valley[::-1]) == pytest.approx(0.5 / 200, rel=0.1)


def test_the_default_tolerance_is_a_tenth_of_the_statistical_error():
    assert StopRule().tolerance(100, 1e6) == pytest.approx(0.1 * 100 / 2e6)
    assert StopRule(1e-3).tolerance(100, 1e6) == 1e-3


def test_a_collapsed_component_is_degenerate_and_says_so(rng):
    rows = np.vstack([rng.normal(size=(200, 2)), np.zeros((50, 2)) + 7.0])
    start = MixtureParams([0.8, 0.2], [[0.0, 0.0], [7.0, 7.0]], [np.eye(2)] * 2, family_named("full"))
    (state,) = run_to_end([EMState(start)], InMemoryEStep(rows, _scaling(rows)), Scheme())

    assert state.outcome is Outcome.DEGENERATE
    assert state.report.floored == (1,)
    assert "have collapsed" in state.reason


def test_a_constant_column_without_regularisation_fails_with_a_remedy(rng):
    rows = np.column_stack([rng.normal(size=100), np.ones(100)])
    fit = SampleSearch(rows, _scaling(rows), Ridge(0.0)).fit(2, family_named("full"))

    assert fit.params is None or np.isfinite(fit.params.covariances).all()


def test_bic_aic_and_icl_of_scikit_learn_and_mclust():
    rows = rows_of("faithful")
    theirs = _sklearn_start(rows, "tied", 3, tol=1e-10, max_iter=2000)
    (stats,) = InMemoryEStep(rows, _scaling(rows))([_params(theirs)])
    criteria = Criteria.from_stats(stats, _params(theirs).n_parameters)
    proba = theirs.predict_proba(rows)

    assert criteria.bic == pytest.approx(theirs.bic(rows), rel=1e-10)
    assert criteria.aic == pytest.approx(theirs.aic(rows), rel=1e-10)
    assert criteria.icl == pytest.approx(theirs.bic(rows) - 2 * np.log(proba.max(1)).sum(), rel=1e-9)
    assert criteria.entropy == pytest.approx(-(proba * np.log(proba)).sum(), rel=1e-8)


@pytest.mark.parametrize("name", SKLEARN)
def test_parameters_are_counted_as_scikit_learn_does(name, rng):
    for k, d in ((1, 1), (3, 2), (4, 5)):
        theirs = _sklearn_start(rng.normal(size=(50, d)), name, k, max_iter=1)
        assert _params(theirs).n_parameters == theirs._n_parameters()


@settings(max_examples=20)
@given(seeds, families)
def test_stepwise_statistics_never_leave_the_valid_cone(seed, family):
    rng = np.random.default_rng(seed)
    params = random_params(rng, 3, 2, family)
    state = StepwiseState(random_params(rng, 3, 2, family))
    for _ in range(8):
        rows = draw_rows(params, 60, rng)[0] * 10.0 ** rng.integers(-1, 2)
        (batch,) = InMemoryEStep(rows, _scaling(rows))([state.params])
        state = take_stepwise_step(state, batch, lambda _: float(rng.random()))

    assert state.stats is not None
    assert np.all(family.moments.smallest_variance(state.stats.scatter) >= -1e-9)
    assert state.params.weights.sum() == pytest.approx(1.0)


def test_stepwise_em_with_step_size_one_is_exact_em(rng):
    rows = rows_of("faithful")
    estep = InMemoryEStep(rows, _scaling(rows))
    start = random_params(rng, 2, 2, family_named("full"), spread=1.0)
    start = MixtureParams(start.weights, rows[:2] + start.means * 0.1, np.stack([np.cov(rows.T)] * 2), start.family)
    exact, state = start, StepwiseState(start)
    for _ in range(5):
        exact, _, _ = em_step(exact, estep)
        state = take_stepwise_step(state, estep([state.params])[0], lambda _: 1.0)

    np.testing.assert_allclose(state.params.means, exact.means, rtol=1e-12)
    np.testing.assert_allclose(state.params.covariances, exact.covariances, rtol=1e-9)


def test_step_sizes_fall_as_published():
    assert PowerDecay()(0) == pytest.approx(2**-0.6)
    assert PowerDecay()(8) == pytest.approx(10**-0.6)


@dataclass(frozen=True)
class _FailingPenalty(PseudoRows):
    """A penalty whose M-step fails after so many calls."""

    allowed: int = 0
    calls: list[int] = field(default_factory=list)

    def estimate(self, family, stats):
        self.calls.append(1)
        if len(self.calls) > self.allowed:
            raise SingularCovarianceError("no covariance here")
        return super().estimate(family, stats)


@pytest.mark.parametrize("method", ["none", "anderson", "squarem", "lbfgs"])
@pytest.mark.parametrize("allowed", [0, 1, 3, 6])
def test_an_m_step_that_fails_ends_its_candidate_alone(rng, method, allowed):
    rows = np.vstack([rng.normal(size=(300, 2)), rng.normal(1.0, 1.0, size=(300, 2))])
    penalty = _FailingPenalty(np.eye(2), allowed=allowed)
    scheme = Scheme(StopRule(1e-12, 50), penalty, METHODS[method])
    start = random_params(rng, 3, 2, family_named("full"))
    (state,) = run_to_end([EMState(start)], InMemoryEStep(rows, _scaling(rows)), scheme)

    assert state.outcome is Outcome.FAILED
    assert state.reason == "no covariance here"


@pytest.mark.parametrize("name", ["full", "tied"])
@pytest.mark.parametrize("penalty", ["default", "ridge", "large ridge", "mclust"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_converged_means_that_plain_em_gains_no_more_than_the_tolerance(rng, name, penalty, method):
    centres = np.repeat([[0.0, 0.0], [2.5, 0.0], [0.0, 2.5]], 100, axis=0)
    rows = (centres + rng.normal(size=(300, 2))) * [1e-3, 1e3]
    moments = collect_moments(rows)
    penalties: dict[str, Penalty] = {
        "default": PseudoRows.of(moments), "ridge": Ridge(1e-9), "large ridge": Ridge(0.1e-6),
        "mclust": ConjugatePrior.of(moments),
    }  # fmt: skip
    scheme = Scheme(StopRule(1e-4, 2000), penalties[penalty], METHODS[method])
    estep, family = InMemoryEStep(rows, _scaling(rows)), family_named(name)
    matrices = np.array([np.diag(rows.var(axis=0)) / 4.0] * 3)
    means = rows.reshape(3, 100, 2).mean(axis=1) + 0.3 * rows.std(axis=0)
    start = MixtureParams.from_matrices(np.full(3, 1 / 3), means, family.moments.condense(matrices), family)
    (state,) = run_to_end([EMState(start)], estep, scheme)
    assert state.outcome is Outcome.CONVERGED
    params = state.params
    before = scheme.objective(params, estep.evaluate(params))
    for _ in range(200):
        params, _, _ = em_step(params, estep, scheme.penalty)

    assert abs(scheme.objective(params, estep.evaluate(params)) - before) <= 1e-4


def test_a_fit_with_a_collapsed_component_ends_soon(rng):
    """A component on a value that repeats never comes back; the others would go on for hundreds of steps."""
    rows = np.concatenate([np.zeros((60, 2)), rng.normal((4.0, 0.0), size=(300, 2))])
    start = MixtureParams(
        np.array([0.2, 0.4, 0.4]), np.array([[0.0, 0.0], [3.9, 0.1], [4.1, -0.1]]),
        np.array([1e-3 * np.eye(2), np.eye(2), 1.1 * np.eye(2)]), family_named("full"),
    )  # fmt: skip
    penalty = PseudoRows.of(collect_moments(rows))
    estep = InMemoryEStep(rows, _scaling(rows))
    (end,) = run_to_end([EMState(start)], estep, Scheme(StopRule(0.0, 1000), penalty))
    assert end.outcome is Outcome.DEGENERATE
    assert "components [0] have collapsed" in end.reason
    assert COLLAPSED_STEPS < end.passes <= COLLAPSED_STEPS + 10
