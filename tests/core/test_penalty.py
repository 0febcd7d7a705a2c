"""What counts as collapsed, and what the default penalty does to clusters that the data determine."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.em import EMState, Outcome, Scheme, StopRule, run_to_end
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import find_undetermined, mstep
from stream_gmm.core.mstep.penalty import PseudoRows, Ridge
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.seeding import collect_hard_stats
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConvergenceWarning

pytestmark = pytest.mark.filterwarnings("ignore::stream_gmm.errors.ConvergenceWarning")


def _broad_and_tight(rng, n: int = 200):
    rows = np.concatenate([rng.normal(0.0, 1.0, n), rng.normal(10.0, 0.05, n)])[:, None]
    return rng.permutation(rows)


@pytest.mark.parametrize("reg_covar", [0.01, 0.1, 1.0])
@pytest.mark.slow
def test_a_tight_cluster_is_admissible_and_wins_whatever_the_ridge(rng, reg_covar):
    result = sg.sweep(_broad_and_tight(rng), [2, 3], ("tied", "full"), reg_covar=reg_covar, prune=False)

    assert result.candidates[result.chosen].name == "full-2"
    assert all(c.admissible for c in result.candidates)
    variances = np.sort(result.best.covariances_.ravel())
    # scikit-learn adds the ridge to the variances of the two groups, which do not overlap.
    np.testing.assert_allclose(variances, [0.05**2 + reg_covar, 1.0 + reg_covar], rtol=0.15)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_a_ridge_larger_than_the_data_is_no_collapse(rng, scale):
    rows = np.vstack([rng.normal(0.0, 1.0, (300, 2)), rng.normal(6.0, 1.0, (300, 2))]) * scale
    result = sg.sweep(rows, [1, 2], "full", reg_covar=1e-6)

    assert all(c.admissible for c in result.candidates)


@given(st.sampled_from(FAMILIES), st.floats(-6.0, 6.0), st.floats(-6.0, 6.0))
def test_what_has_collapsed_depends_on_neither_ridge_nor_units(family, log_scale, log_ridge):
    rng = np.random.default_rng(7)
    rows = np.vstack([rng.normal(size=(60, 2)), rng.normal(5.0, 1e-3, size=(40, 2))]) * 10.0**log_scale
    labels = np.repeat([0, 1], [60, 40])
    for expected, scatter in (((), 1.0), ((1,), 0.0)):
        stats = _hard_stats(rows, labels, family)
        shrunk = np.array(stats.scatter)
        if not family.shared:
            shrunk[1] *= scatter
        stats = SuffStats(100.0, 0.0, 0.0, 0.0, stats.weight, stats.mean, shrunk, family.moments)
        _, report = mstep(stats, family, Ridge(10.0 ** (log_ridge + 2.0 * log_scale)))
        if family.name in ("full", "diag", "spherical"):
            assert report.floored == expected


def _hard_stats(rows, labels, family):
    means = np.array([rows[labels == k].mean(0) for k in (0, 1)])
    centred = [rows[labels == k] - means[k] for k in (0, 1)]
    scatter = family.moments.condense(np.array([c.T @ c for c in centred]))
    scatter = scatter.sum(axis=0, keepdims=True) if family.shared else np.array(scatter)
    return SuffStats(100.0, 0.0, 0.0, 0.0, np.array([60.0, 40.0]), means, scatter, family.moments)


@pytest.mark.parametrize("reg_covar", [None, 1e-6, 1e-3, 0.1])
def test_ten_equal_values_are_a_collapse_and_every_remedy_cures_it(rng, reg_covar):
    rows = np.concatenate([rng.normal(size=50), rng.normal(8.0, 1.0, size=50), np.full(10, 15.0)])[:, None]
    collapsed = sg.fit(rows, 3, reg_covar=reg_covar)
    assert collapsed.outcome is Outcome.DEGENERATE
    assert "on x0 = 15" in collapsed.reason

    cures = {
        "use fewer components": (rows, 1),
        "the rows with the repeated values": (rows[:100], 2),
        "add noise as wide as the step in which they were recorded": (rows + rng.uniform(-0.05, 0.05, rows.shape), 3),
    }
    for remedy, (cured, k) in cures.items():
        assert remedy in collapsed.outcome.value
        assert sg.fit(cured, k, reg_covar=reg_covar).outcome is Outcome.CONVERGED, remedy


def test_dropping_the_column_with_a_repeated_value_cures_the_collapse(rng):
    x = np.concatenate([rng.normal(size=2000), rng.normal(6.0, 1.0, size=2000)])
    rows = np.column_stack([x, np.where(rng.random(4000) < 0.4, 7.25, rng.normal(size=4000))])

    assert sg.fit(rows, 4, n_init=2).outcome is Outcome.DEGENERATE
    assert "drop the column" in Outcome.DEGENERATE.value
    assert sg.fit(rows[:, :1], 2).outcome is Outcome.CONVERGED


def test_a_ridge_does_not_hide_a_repeated_value_inside_a_cluster(rng):
    """The ridge draws neighbouring rows in, so that the scatter is not zero; most rows are equal all the same."""
    rows = np.concatenate([rng.normal(size=1000), np.full(300, 0.3)])[:, None]
    near = MixtureParams([0.8, 0.2], [[0.0], [0.3]], [[[1.0]], [[1e-5]]], family_named("full"))
    model = sg.fit(rows, 2, init=near, reg_covar=1e-6)

    assert model.outcome is Outcome.DEGENERATE
    assert "x0 = 0.3" in model.reason


@pytest.mark.parametrize("ratio", [1e-2, 1e-3, 1e-4])
def test_the_default_penalty_leaves_tight_clusters_as_they_are(rng, ratio):
    """The variance of 100 separate rows is that of numpy, to 5 %, down to 1e-4 of the spread of all rows."""
    tight = rng.normal(0.0, ratio, 100)
    rows = np.concatenate([rng.normal(0.0, 1.0, 500) - 8.0, tight])[:, None] * 10.0
    model = sg.fit(rng.permutation(rows), 2, n_init=3)

    assert model.outcome is Outcome.CONVERGED
    assert model.covariances_.min() == pytest.approx(np.var(10.0 * tight), rel=0.05)


@pytest.mark.parametrize("sd", [0.01, 0.003])
def test_a_tight_cluster_in_a_field_is_found_as_without_a_penalty(rng, sd):
    rows = rng.permutation(np.concatenate([rng.normal(0.0, 10.0, 1500), rng.normal(3.0, sd, 300)])[:, None])
    default, free = (sg.fit(rows, 2, n_init=3, reg_covar=r) for r in (None, 0.0))

    assert default.outcome is Outcome.CONVERGED
    assert default.criteria.bic == pytest.approx(free.criteria.bic, abs=0.1)
    assert default.covariances_.min() == pytest.approx(free.covariances_.min(), rel=1e-3)


@given(st.integers(0, 2**32 - 1), st.sampled_from(FAMILIES))
def test_the_likelihood_stays_bounded_on_repeated_rows(seed, family):
    rng = np.random.default_rng(seed)
    rows = np.vstack([rng.normal(size=(40, 2)), np.zeros((20, 2)), np.full((20, 2), 3.0)])
    penalty, estep = PseudoRows.of(collect_moments(rows)), InMemoryEStep(rows, Scaling.of_rows(rows))
    means = np.array([[0.1, 0.0], [2.9, 3.0], [1.0, -1.0]])
    matrices = np.array([np.eye(2) * s for s in (0.01, 0.01, 1.0)])
    start = MixtureParams.from_matrices(np.full(3, 1 / 3), means, family.moments.condense(matrices), family)
    (state,) = run_to_end([EMState(start)], estep, Scheme(StopRule(1e-9, 20), penalty))

    assert state.outcome is not Outcome.FAILED
    assert np.isfinite(state.history).all()
    assert np.all(np.diff(state.objectives) >= -1e-9 * np.abs(state.objectives[1:]))


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_what_is_undetermined_is_the_report_of_the_m_step(rng, name):
    """Three components: a regular one, one on repeated rows, and one without rows."""
    rows, family = rng.normal(size=(200, 2)), family_named(name)
    rows[150:] = [5.0, 5.0]
    penalty = PseudoRows.of(collect_moments(rows))
    for labels in (np.repeat([0, 1], [150, 50]), np.repeat([0, 2], [150, 50]), np.arange(200) % 2):
        stats = collect_hard_stats(rows, labels, int(labels.max()) + 1)
        scatter = family.moments.condense(stats.scatter)
        scatter = scatter.sum(axis=0, keepdims=True) if family.shared else scatter
        stats = replace(stats, scatter=scatter, moments=family.moments)
        k = len(stats.weight)
        matrices = np.array([np.eye(2)] * k) if family.matrices else np.ones((k, 2))
        at = MixtureParams.from_matrices(np.full(k, 1.0 / k), stats.mean, matrices, family)
        assert find_undetermined(stats, at, penalty) == mstep(stats, family, penalty, at)[1]


def test_a_few_rows_that_lie_close_by_chance_have_collapsed(rng):
    """Three of a thousand rows are expected within 1e-4 of each other somewhere; ten of 110 are not."""
    family = family_named("full")

    def report(n, of, sd):
        scatter = np.array([[[of - n + 0.0]], [[n * sd**2]]])
        stats = SuffStats(of, 0.0, 0.0, 0.0, np.array([of - n + 0.0, n]), np.zeros((2, 1)), scatter, family.moments)
        return mstep(stats, family, PseudoRows(np.eye(1) * 4.0))[1].floored

    assert report(3.0, 1000.0, 5e-4) == (1,)
    assert report(10.0, 110.0, 5e-4) == ()


def test_a_fit_that_has_not_converged_warns(rng):
    rows = np.vstack([rng.normal(size=(300, 2)), rng.normal(1.5, 1.0, size=(300, 2))])
    with pytest.warns(ConvergenceWarning, match="raise max_passes or tol"):
        sg.fit(rows, 3, algorithm="em", max_passes=1, tol=1e-12, sample_rows=50)
    with pytest.warns(ConvergenceWarning, match="use fewer components"):
        sg.GaussianMixture(2).fit(np.concatenate([rng.normal(size=100), np.full(20, 9.0)])[:, None])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sg.fit(rows, 1)
    assert issubclass(ConvergenceWarning, UserWarning)
