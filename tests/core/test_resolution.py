"""Covariances at or above the recording step: steps by hand, maxima by a general optimiser, EM that never falls."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_ndtr
from scipy.stats import multivariate_normal

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.accelerate import METHODS
from stream_gmm.core.fit.em import EMState, Scheme, StopRule, run_to_end
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import PseudoRows
from stream_gmm.core.mstep.resolution import Resolution, find_lack, raise_to_bound
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.resolution import find_steps
from stream_gmm.core.rows.scaling import Scaling


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (np.arange(30.0), 1.0),
        (np.arange(30.0) * 5.0 - 20.0, 5.0),
        (np.arange(300) / 10.0, 0.1),
        (np.round(np.random.default_rng(0).normal(size=200), 2), 0.01),
        (np.random.default_rng(0).normal(size=200), 0.0),
        (np.random.default_rng(0).normal(size=200).astype(np.float32).astype(float), 2.0**-22),
        (np.zeros(20), 1.0),
        (1e9 + np.arange(20.0) * 3.0, 1.0),
    ],
)
def test_the_step_of_a_column(values, step):
    assert find_steps(values[:, None])[0] == pytest.approx(step, rel=1e-12)


def _constrained_maximum(covariance, bound):
    """Minimise log|Sigma| + tr(C Sigma^-1) over Sigma = diag(bound) + L L' with a general optimiser."""
    d = len(bound)
    places = np.tril_indices(d)

    def sigma(vector):
        lower = np.zeros((d, d))
        lower[places] = vector
        return np.diag(bound) + lower @ lower.T

    def loss(vector):
        s = sigma(vector) + 1e-12 * np.eye(d)
        return np.linalg.slogdet(s)[1] + np.trace(np.linalg.solve(s, covariance))

    rng = np.random.default_rng(0)
    found = [minimize(loss, rng.normal(size=len(places[0])), method="BFGS", options={"gtol": 1e-9}) for _ in range(6)]
    best = min(found, key=lambda f: f.fun)
    return sigma(best.x), best.fun


@pytest.mark.parametrize("bound", [[1.0, 1.0, 1.0], [0.2, 3.0, 0.5], [0.0, 0.5, 2.0], [0.0, 0.0, 4.0]], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_constrained_maximum_is_that_of_a_general_optimiser(bound, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3)) * [0.3, 1.0, 1.0]
    covariance = root @ root.T
    raised, _, _ = raise_to_bound(covariance[None], np.array(bound), np.ones(3))
    expected, least = _constrained_maximum(covariance, np.array(bound))

    value = np.linalg.slogdet(raised[0])[1] + np.trace(np.linalg.solve(raised[0], covariance))
    assert value == pytest.approx(least, abs=1e-6)
    np.testing.assert_allclose(raised[0], expected, atol=2e-3)
    assert np.linalg.eigvalsh(raised[0] - np.diag(bound)).min() > -1e-12
    assert find_lack(raised, np.array(bound)) < 1e-12


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"])
def test_a_bound_that_does_not_bind_changes_no_bit(name, rng):
    rows = rng.normal(size=(200, 3))
    stats, family = collect_moments(rows), family_named(name)
    scatter = family.moments.condense(stats.scatter)
    stats = sg.core.stats.SuffStats(200.0, 0.0, 0.0, 0.0, stats.weight, stats.mean, scatter, family.moments)
    base = PseudoRows.of(collect_moments(rows))
    covariances, collapsed = Resolution.of(base, np.full(3, 1e-3)).estimate(family, stats)

    np.testing.assert_array_equal(covariances, base.estimate(family, stats)[0])
    assert not collapsed.any()


def _log_mass(values, mean, deviation, step):
    """Logarithm of what a normal distribution gives the interval of values that are recorded as this one."""
    high, low = ((values + half - mean) / deviation for half in (0.5 * step, -0.5 * step))
    turned = low > 0.0  # in the upper tail the difference of two ones would be left
    high, low = np.where(turned, -low, high), np.where(turned, -high, low)
    return log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high)))


@pytest.mark.parametrize(("step", "error"), [(0.25, 1e-6), (0.5, 1e-5), (1.0, 1e-4), (2.0, 5e-3)])
def test_the_log_likelihood_of_rounded_values_is_that_of_their_intervals(step, error):
    """Steps in standard deviations of the unrounded values; errors in nats per row. The maxima are compared, too."""
    values = np.round(np.random.default_rng(0).normal(size=4_000) / step) * step
    ours = sg.fit(values[:, None], 1, resolution={"x0": step}).lower_bound_ + np.log(step)

    def loss(vector):
        return -_log_mass(values, vector[0], np.exp(vector[1]), step).mean()

    best = minimize(loss, [0.1, -0.2], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert abs(ours + best.fun) < error


@pytest.mark.parametrize(("step", "error"), [(0.25, 1e-5), (0.5, 1e-4), (1.0, 5e-4)])
def test_the_log_likelihood_of_a_rounded_mixture_is_that_of_the_rectangles(step, error):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(600, 2)) @ [[1.0, 0.6], [0.0, 0.8]], rng.normal(size=(900, 2)) * [1.5, 0.7]
    rows = np.round(np.concatenate([one + np.array([4.0, 0.0]), other]) / step) * step
    model = sg.fit(rows, 2, resolution={"x0": step, "x1": step})

    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    mass = np.zeros(len(distinct))
    for weight, mean, matrix in zip(model.weights_, model.means_, model.covariances_, strict=True):
        unrounded = multivariate_normal(mean, matrix - step**2 / 12.0 * np.eye(2))
        mass += weight * unrounded.cdf(distinct + 0.5 * step, lower_limit=distinct - 0.5 * step)
    exact = counts @ np.log(mass) / len(rows)
    assert abs(model.lower_bound_ + 2.0 * np.log(step) - exact) < error


def test_an_atom_is_at_most_a_third_of_a_nat_above_its_interval():
    """All values are one: the interval has mass 1, and the density at the centre is that of variance d^2 / 12."""
    values = np.concatenate([np.zeros(500), np.random.default_rng(0).normal(20.0, 3.0, 500).round()])
    model = sg.fit(values[:, None], 2, resolution={"x0": 1.0})
    at_atom = model.score_samples([[0.0]])[0] - np.log(0.5)
    assert at_atom == pytest.approx(0.5 * np.log(12.0 / (2.0 * np.pi)), abs=1e-3)


def _counters(rng, n=1200):
    """A column that is 0 in half of the rows, one of flags, and one that is continuous."""
    on = rng.random(n) < 0.5
    count = np.where(on, np.round(rng.lognormal(3.0, 0.5, n)), 0.0)
    return np.column_stack([count, (rng.random(n) < 0.3) * 1.0, rng.normal(size=n) + 2.0 * on])


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"])
@pytest.mark.parametrize("algorithm", ["em", "auto"])
def test_the_objective_never_falls_and_every_covariance_is_at_or_above_the_bound(rng, covariance_type, algorithm):
    rows = _counters(rng)
    model = sg.fit(rows, 3, covariance_type, algorithm=algorithm, resolution="auto", max_passes=60)

    assert np.all(np.diff(model.history) > -1e-9)
    bound = np.array([1.0, 1.0, 0.0]) / 12.0
    for matrix in model.params.dense_covariances:
        assert np.linalg.eigvalsh(matrix - np.diag(bound)).min() > -1e-9
    assert model.outcome is not sg.Outcome.DEGENERATE


def _run_from_the_same_start(rows, method):
    bound, spread = np.array([1.0, 1.0, 0.0]), np.cov(rows.T)
    start = MixtureParams.from_matrices(np.full(3, 1 / 3), rows[:3], np.array([spread] * 3), family_named("full"))
    penalty = Resolution.of(PseudoRows.of(collect_moments(rows)), bound)
    scheme = Scheme(StopRule(1e-7, 600), penalty, METHODS[method])
    (end,) = run_to_end([EMState(start)], InMemoryEStep(rows, Scaling.of_rows(rows)), scheme)
    return end


def test_an_accelerated_fit_goes_along_the_bound_and_not_against_it():
    """Without a restriction 59 of 115 steps were refused, since they led below the bound of an atom."""
    rows = _counters(np.random.default_rng(1))
    plain, fast = _run_from_the_same_start(rows, "none"), _run_from_the_same_start(rows, "lbfgs")
    assert fast.outcome is sg.Outcome.CONVERGED
    assert fast.objectives[-1] == pytest.approx(plain.objectives[-1], abs=1e-7)
    assert fast.passes < plain.passes
    assert 3 * len(fast.rejected) < fast.passes


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"])
def test_what_is_above_the_bound_stays_and_what_is_below_is_raised(name, rng):
    rows = _counters(rng)
    penalty = Resolution.of(PseudoRows.of(collect_moments(rows)), np.array([1.0, 2.0, 0.0]))
    for factor in (1.0, 1e-4):
        matrices = np.array([np.cov(rows.T) * factor * scale + 1e-3 * np.eye(3) for scale in (1.0, 2.0)])
        matrices = matrices if family_named(name).matrices else np.einsum("kjj->kj", matrices)
        given = MixtureParams.from_matrices(np.array([0.4, 0.6]), rows[:2], matrices, family_named(name))
        found = penalty.restrict(given)
        least = np.full(3, 4.0 / 12.0) if "spherical" in name else np.array([1.0, 4.0, 0.0]) / 12.0
        expected = [raise_to_bound(c[None], least, np.ones(3))[0][0] for c in given.dense_covariances]
        np.testing.assert_allclose(found.dense_covariances, expected, rtol=1e-9, atol=1e-12)
        assert all(np.linalg.eigvalsh(c - np.diag(least)).min() > -1e-9 for c in found.dense_covariances)
        np.testing.assert_array_equal(found.means, given.means)


def test_a_component_on_a_repeated_value_is_an_atom_and_is_reported(rng):
    rows = _counters(rng)
    without = sg.sweep(rows, [1, 2, 3, 4], ["full", "diag"])
    result = sg.sweep(rows, [1, 2, 3, 4], ["full", "diag"], resolution="auto")

    assert all(r["outcome"] != "DEGENERATE" for r in result.table.to_pylist())
    assert any(r["outcome"] == "DEGENERATE" for r in without.table.to_pylist())
    assert result.best.n_components >= 2
    atoms = [w for w in result.best.warnings if "as narrow as the recording step" in w]
    assert "x0 = 0" in atoms[0]
    assert atoms[0] in result.warnings
    k = int(result.best.predict([[0.0, 0.0, 0.0]])[0])
    assert f"component {k}: " in atoms[0]


def test_collinear_columns_are_degenerate_as_without_a_resolution(rng):
    x = rng.normal(size=400)
    rows = np.column_stack([x, 2.0 * x, np.where(rng.random(400) < 0.5, 0.0, rng.integers(1, 50, 400))])
    model = sg.fit(rows, 2, resolution="auto")

    assert model.outcome is sg.Outcome.DEGENERATE
    assert "combination of columns" in model.reason


def test_steps_can_be_given_by_column(rng):
    rows = _counters(rng)
    model = sg.fit(rows, 2, resolution={"x0": 6.0})
    assert model.covariances_[:, 0, 0].min() >= 3.0 - 1e-9
    with pytest.raises(sg.errors.ConfigError, match="resolution names 'x9'"):
        sg.fit(rows, 2, resolution={"x9": 1.0})
    for wrong in ({"resolution": "off"}, {"resolution": {"x0": -1.0}}, {"resolution": "auto", "reg_covar": 1e-6}):
        with pytest.raises(sg.errors.ConfigError, match="resolution"):
            sg.fit(rows, 2, **wrong)
    with pytest.raises(sg.errors.ConfigError, match="resolution is defined for full"):
        sg.fit(rows, 2, "VEV", resolution="auto")


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "minibatch", "max_passes": 3},
        {"noise": True},
        {"holdout": 0.2},
        {"sample_rows": 300, "accel": "squarem"},
        {"sample_rows": 300, "accel": "anderson"},
    ],
    ids=str,
)
def test_other_options_keep_the_bound_too(rng, options):
    rows = _counters(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sg.errors.ConvergenceWarning)  # of mini-batches
        model = sg.fit(rows, 3, "full", resolution="auto", **options)

    bound = np.array([1.0, 1.0, 0.0]) / 12.0
    for matrix in model.params.dense_covariances:
        assert np.linalg.eigvalsh(matrix - np.diag(bound)).min() > -1e-9
    assert model.outcome in (sg.Outcome.CONVERGED, sg.Outcome.MAX_PASSES)


def test_a_single_row_is_no_atom_however_fine_the_step():
    """Velocities of galaxies: 82 distinct numbers in steps of 1, over 25,000. A component on one row gains 8 nats."""
    rng = np.random.default_rng(5)
    x = np.unique(np.rint(np.concatenate([rng.normal(9700, 400, 8), rng.normal(21400, 2200, 72), [26690, 26995]])))
    chosen = [sg.sweep(x[:, None], range(1, 8), "full", resolution=r).best for r in ("none", "auto")]
    assert chosen[0].n_components == chosen[1].n_components
    assert chosen[1].criteria.bic == pytest.approx(chosen[0].criteria.bic, abs=0.01)
    assert np.all(chosen[1].weights_ * len(x) > 2.0)


@pytest.mark.parametrize(("rows", "collapsed"), [(1, (1,)), (4, (1,)), (5, ()), (40, ())])
def test_a_component_at_the_bound_is_an_atom_from_five_rows_on(rows, collapsed):
    from stream_gmm.core.mstep.mstep import mstep
    from stream_gmm.core.stats import SuffStats

    many = np.random.default_rng(0).normal(size=(60, 2)) * 100.0
    weight, mean = np.array([60.0, rows]), np.array([many.mean(axis=0), [3.0, 4.0]])
    family = family_named("diag")
    scatter = np.array([60.0 * many.var(axis=0), np.zeros(2)])
    stats = SuffStats(60.0 + rows, -1.0, 0.0, 0.0, weight, mean, scatter, family.moments)
    _, report = mstep(stats, family, Resolution.of(PseudoRows.of(collect_moments(many)), np.ones(2)))
    assert report.floored == collapsed
