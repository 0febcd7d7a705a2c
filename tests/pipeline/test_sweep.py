from __future__ import annotations

import numpy as np
import pytest

import stream_gmm as sg
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.core.rows.sampling import Holdout
from stream_gmm.errors import ConfigError, InputDataError, NoAdmissibleModelError, SingularCovarianceError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.source.chunks import split_holdout
from stream_gmm.pipeline.passes.profile_pass import profile_rows
from stream_gmm.pipeline.passes.progress import Progress
from stream_gmm.pipeline.passes.tasks import CachePolicy, plan_tasks
from tests.oracles import rows_of


@pytest.fixture(scope="module")
def data(demo_folder):
    return sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"])


@pytest.fixture(scope="module")
def swept(data):
    return sg.sweep(data, range(1, 6), ["diag", "full"])


def test_a_sweep_recovers_the_true_mixture(swept, demo_folder):
    truth = sg.load_model(demo_folder / "truth.gmm")

    assert (swept.best.n_components, swept.best.covariance_type) == (3, "full")
    np.testing.assert_allclose(swept.best.weights_, truth.weights_, atol=0.02)
    np.testing.assert_allclose(swept.best.means_, truth.means_, atol=0.1)


def test_the_table_has_a_row_for_every_candidate(swept):
    rows = swept.table.to_pylist()

    assert [r["candidate"] for r in rows] == [f"{n}-{k}" for n in ("diag", "full") for k in range(1, 6)]
    assert [r["chosen"] for r in rows].count(True) == 1
    assert min(r["delta"] for r in rows) == 0.0
    for row in rows:
        n = 20_000
        assert row["bic"] == pytest.approx(-2 * row["loglik"] + row["n_parameters"] * np.log(n))
        assert row["mean_loglik"] == pytest.approx(row["loglik"] / n)


def test_the_reported_log_likelihood_is_that_of_the_returned_parameters(swept, data):
    gm = sg.GaussianMixture()
    gm.result_ = swept.best

    assert gm.score(data) == pytest.approx(swept.best.lower_bound_, rel=1e-12)
    assert gm.bic(data) == pytest.approx(swept.best.criteria.bic, rel=1e-12)
    assert gm.icl(data) == pytest.approx(swept.best.criteria.icl, rel=1e-10)


@pytest.mark.slow
def test_all_candidates_share_the_passes(data):
    result = sg.sweep(data, range(1, 6), ["diag", "full"])
    longest = max(c.result.passes for c in result.candidates if c.result)

    assert result.passes == longest + 1  # and the profile


def test_a_candidate_of_a_sweep_is_what_fit_gives_alone(swept, data):
    alone = sg.fit(data, 3, "full", n_init=2)

    assert alone.lower_bound_ == pytest.approx(swept.best.lower_bound_, abs=1e-6)
    np.testing.assert_allclose(alone.means_, swept.best.means_, atol=1e-3)


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl"])
@pytest.mark.slow
def test_the_criterion_chooses(data, criterion):
    result = sg.sweep(data, [1, 2, 3], "full", criterion=criterion)
    rows = result.table.to_pylist()

    assert min(rows, key=lambda r: r[criterion])["chosen"]


def test_a_misspelt_option_is_refused_with_the_nearest(data):
    with pytest.raises(ConfigError, match="did you mean 'bic'"):
        sg.sweep(data, [1], criterion="bicc")
    with pytest.raises(ConfigError, match="did you mean 'full'"):
        sg.sweep(data, [1], "ful")
    with pytest.raises(ConfigError, match="did you mean 'minibatch'"):
        sg.fit(data, 2, algorithm="mini-batch")
    with pytest.raises(ConfigError, match="at least 1"):
        sg.sweep(data, [0, 1])
    with pytest.raises(ConfigError, match="n_init must be at least 1; tol must not be negative"):
        sg.fit(data, 2, n_init=0, tol=-1.0)


def test_more_components_than_rows_are_refused():
    with pytest.raises(InputDataError, match="5 components need at least as many rows, and there are 3"):
        sg.fit(np.arange(6.0).reshape(3, 2), 5)


def test_identical_rows_have_no_admissible_model_but_are_fitted():
    rows = np.ones((100, 2))
    with pytest.raises(NoAdmissibleModelError, match="none of the 4 candidates"):
        sg.sweep(rows, [1, 2], ["full", "diag"])
    model = sg.fit(rows, 1)
    assert model.outcome is Outcome.DEGENERATE
    assert any("constant" in w for w in model.warnings)
    with pytest.raises(SingularCovarianceError):
        sg.fit(rows, 1, reg_covar=0.0)


def test_choosing_the_largest_k_is_a_warning(data):
    result = sg.sweep(data, [1, 2], "full")

    assert any("largest tried" in w for w in result.warnings)


def test_init_sets_the_start_and_the_order(data, demo_folder):
    truth = sg.load_model(demo_folder / "truth.gmm")
    turned = truth.params.reorder([2, 0, 1])
    model = sg.fit(data, 3, "full", init=turned)

    np.testing.assert_allclose(model.means_, turned.means, atol=0.1)
    with pytest.raises(ConfigError, match="init has"):
        sg.fit(data, 4, "full", init=turned)


def test_minibatch_comes_near_exact_em(data):
    exact = sg.fit(data, 3, "full", n_init=2)
    steps = sg.fit(data, 3, "full", n_init=2, algorithm="minibatch", max_passes=5)

    assert steps.outcome in (Outcome.CONVERGED, Outcome.MAX_PASSES)
    assert steps.n_iter_ <= 5
    assert steps.lower_bound_ > exact.lower_bound_ - 0.01
    gm = sg.GaussianMixture()
    gm.result_ = steps
    assert gm.score(data) == pytest.approx(steps.lower_bound_, rel=1e-12)


@pytest.mark.slow
def test_minibatch_sweeps_all_structures(data):
    result = sg.sweep(data, [1, 2, 3], [f.name for f in FAMILIES], algorithm="minibatch", max_passes=2)

    assert (result.best.n_components, result.best.covariance_type) == (3, "full")


def _reading(data):
    return plan_tasks(data, data.leaves(), SerialExecutor(), CachePolicy())


def test_the_profile_is_exact(data, rng):
    found = profile_rows(data, _reading(data), SerialExecutor(), sample_rows=1000)
    rows = np.concatenate([c.rows for leaf in data.leaves() for c in leaf.chunks()])

    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variances, rows.var(0), rtol=1e-12)
    np.testing.assert_array_equal(found.low, rows.min(0))
    assert found.sample.rows.shape == (1000, 3)
    assert not found.sample_is_whole


def test_the_threshold_cuts_off_the_requested_share(swept, data):
    log_density = np.concatenate([swept.best.score_samples(c.rows) for leaf in data.leaves() for c in leaf.chunks()])

    assert np.mean(log_density < swept.best.threshold) == pytest.approx(0.01, abs=1e-4)
    assert sg.fit(rows_of("iris"), 1, outlier_quantile=0.0).threshold == -np.inf


def test_progress_is_reported_stage_by_stage(data):
    told: list[Progress] = []
    sg.sweep(data, [1, 2], "diag", progress=told.append)

    assert [p.stage for p in told if p.finished][:4] == ["profile", "seed", "race", "explore"]
    last = [p for p in told if p.stage == "fit"][-1]
    assert last.finished
    assert last.rows_per_second > 0
    assert last.live >= 1


class TestHoldout:
    """Rows that no fit uses, and the likelihood that every candidate gives them."""

    @pytest.mark.parametrize("kernel", ["auto", "whitened"])
    def test_the_held_out_likelihood_is_that_of_the_rows_held_out(self, data, kernel):
        names = ["full", "diag", "spherical", "tied", "tied_diag", "tied_spherical"]
        result = sg.sweep(data, [1, 3], names, holdout=0.2, kernel=kernel, max_passes=3)
        holdout = Holdout(0.2)
        parts = [split_holdout(c, holdout) for leaf in data.leaves() for c in leaf.chunks()]
        kept, out = np.concatenate([p.rows for p in parts]), np.concatenate([p.heldout for p in parts])

        assert len(out) == pytest.approx(0.2 * data.num_rows, rel=0.05)
        for candidate in result.candidates:
            model = candidate.result
            assert model is not None
            assert model.criteria.heldout_rows == len(out)
            assert model.criteria.n_rows == len(kept)
            assert model.criteria.heldout == pytest.approx(model.score(out), rel=1e-9)
            assert model.lower_bound_ == pytest.approx(model.score(kept), rel=1e-9)

    @pytest.mark.slow
    def test_the_held_out_likelihood_can_choose(self, data):
        result = sg.sweep(data, [1, 2, 3, 4], "full", criterion="heldout", holdout=0.2)
        rows = result.table.to_pylist()

        assert max(rows, key=lambda r: r["heldout"])["chosen"]
        assert all(r["delta"] >= 0.0 for r in rows)

    def test_without_held_out_rows_it_cannot_choose(self, data):
        with pytest.raises(ConfigError, match="set holdout"):
            sg.sweep(data, [1, 2], "full", criterion="heldout")

    def test_the_held_out_rows_depend_on_the_seed_and_not_on_the_chunking(self):
        rows = np.arange(10_000)
        whole = Holdout(0.3, 5).mask(2, rows)

        assert whole.mean() == pytest.approx(0.3, abs=0.02)
        np.testing.assert_array_equal(np.concatenate([Holdout(0.3, 5).mask(2, r) for r in np.split(rows, 5)]), whole)
        assert (Holdout(0.3, 6).mask(2, rows) != whole).any()
        assert not Holdout(0.0).mask(2, rows).any()


@pytest.mark.slow
def test_no_candidate_is_worse_than_that_with_a_component_less():
    """On these rows full-4 improves in the same round as full-5, which then has to start from it once more."""
    rng = np.random.default_rng(9)
    parts = [
        rng.normal(scale=4.0, size=3) + rng.normal(size=(1_000, 3)) @ (np.eye(3) + 0.3 * rng.normal(size=(3, 3)))
        for _ in range(2)
    ]
    result = sg.sweep(rng.permutation(np.vstack(parts)), range(1, 7), "full", random_state=9)
    logliks = [c.result.criteria.loglik for c in sorted(result.candidates, key=lambda c: c.n_components) if c.result]
    assert all(np.diff(logliks) > 0.0), logliks
