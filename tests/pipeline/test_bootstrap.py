"""How sure is it? Replicates against their laws, and against the truth by simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import stream_gmm as sg
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.sampling import draw_poisson_weights, hash_rows
from stream_gmm.errors import ConfigError, InputDataError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.source.memory import as_source
from tests.oracles import rows_of

MCLUST = json.loads((Path(__file__).parent.parent / "data" / "mclust.json").read_text())
TRUTH = MixtureParams(
    [0.4, 0.6], [[0.0, 0.0], [3.0, 0.0]], [[[1.0, 0.3], [0.3, 1.0]], [[1.5, 0.0], [0.0, 0.5]]], family_named("full")
)


def _rows(seed, n=4_000):
    rng = np.random.default_rng(seed)
    return rng.permutation(draw_rows(TRUTH, n, rng)[0])


@pytest.fixture(scope="module")
def model():
    return sg.fit(_rows(0), 2, "full", n_init=2)


def test_weights_are_poisson_and_independent():
    hashes = hash_rows(0, 0, np.arange(200_000))
    a, b = draw_poisson_weights(hashes, 0), draw_poisson_weights(hashes, 1)
    counts = np.bincount(a.astype(int), minlength=6)[:6] / len(a)

    np.testing.assert_allclose(counts, np.exp(-1.0) / np.array([1, 1, 2, 6, 24, 120]), atol=0.004)
    assert a.var() == pytest.approx(1.0, abs=0.02)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.01
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.01
    np.testing.assert_array_equal(
        draw_poisson_weights(hashes[1000:2000], 7), draw_poisson_weights(hashes, 7)[1000:2000]
    )


@pytest.mark.slow
def test_a_single_gaussian_has_the_standard_errors_of_the_text_books():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(2_000, 3)) * [1.0, 2.0, 5.0]
    found = sg.bootstrap(sg.fit(rows, 1, "full"), rows, replicates=400)

    np.testing.assert_allclose(found.means_se[0], rows.std(0) / 2_000**0.5, rtol=0.12)
    variances = rows.var(0)
    np.testing.assert_allclose(np.diagonal(found.covariances_se[0]), variances * (2 / 2_000) ** 0.5, rtol=0.12)
    logliks = sg.fit(rows, 1, "full").score_samples(rows)
    assert found.loglik_se == pytest.approx(logliks.std() / 2_000**0.5, rel=0.12)


def test_the_log_likelihood_of_transformed_columns_is_that_of_their_values():
    """Of the logarithm alone, the standard error would be a quarter of this."""
    rows = np.exp(3.0 * np.random.default_rng(3).normal(size=(1_000, 1)))
    model = sg.fit(rows, 1, transforms="log")
    found = sg.bootstrap(model, rows, replicates=100)

    assert found.loglik_se == pytest.approx(model.score_samples(rows).std() / 1_000**0.5, rel=0.25)
    assert np.mean(found.jacobians) == pytest.approx(-np.log(rows).mean(), abs=0.05)


@pytest.mark.long
def test_standard_errors_are_those_of_new_data(model):
    found = sg.bootstrap(model, _rows(0), replicates=100)
    fits = [sg.fit(_rows(seed), 2, "full").match_to(model) for seed in range(1, 101)]

    np.testing.assert_allclose(found.weights_se, np.std([f.weights_ for f in fits], axis=0), rtol=0.3)
    np.testing.assert_allclose(found.means_se, np.std([f.means_ for f in fits], axis=0), rtol=0.35)
    rows = found.table.to_pylist()
    truth = {("weight", k, ""): TRUTH.weights[k] for k in range(2)}
    order = model.match_to(sg.fit(_rows(0), 2, "full", init=TRUTH))
    assert len(rows) == 2 * (1 + 2 + 2)
    assert all(r["low"] <= r["estimate"] <= r["high"] for r in rows)
    assert len(truth) == order.n_components


def test_a_replicate_is_the_fit_of_its_weighted_rows(model):
    rows = _rows(0)
    found = sg.bootstrap(model, rows, replicates=2)
    weights = draw_poisson_weights(hash_rows(0xB007, 0, np.arange(len(rows))), 1)
    alone = sg.fit(rows[weights > 0], 2, "full", weight=weights[weights > 0], init=model, tol=1e-9)

    np.testing.assert_allclose(found.replicates[1].means, alone.means_, atol=2e-3)
    assert found.fits[1][0].accepted_point[1].rows == weights.sum()


def test_replicates_share_the_reads_and_executors_the_bits(model):
    few = sg.bootstrap(model, _rows(0), replicates=4, client=SerialExecutor())
    many = sg.bootstrap(model, _rows(0), replicates=12, client=ThreadsExecutor(3))

    for a, b in zip(few.replicates, many.replicates[:4], strict=True):
        np.testing.assert_array_equal(a.means, b.means)
    assert many.passes <= few.passes + 6


@pytest.mark.slow
def test_a_bootstrap_counts_how_often_each_candidate_would_be_chosen(model):
    rows = _rows(0)
    rivals = [sg.fit(rows, 1, "full"), sg.fit(rows, 2, "tied"), sg.fit(rows, 3, "full")]
    found = sg.bootstrap(model, rows, replicates=10, rivals=rivals)

    assert next(iter(found.chosen)) == "full-2"
    assert found.chosen["full-2"] >= 8
    assert sum(found.chosen_k.values()) == 10
    close = sg.bootstrap(
        rivals[0], rows[:100], replicates=20, rivals=[sg.fit(rows[:100], 1, "diag")], criterion="aic"
    )
    assert sum(close.chosen.values()) == 20
    assert sg.bootstrap(model, rows, replicates=2, criterion="elbow").criterion == "bic"


@pytest.mark.parametrize("name", ["tied", "spherical", "EEI"])
def test_every_kind_of_structure_has_standard_errors(name):
    rows = _rows(3, 2_000)
    found = sg.bootstrap(sg.fit(rows, 2, name), rows, replicates=5)
    assert np.all(found.weights_se > 0.0)
    assert np.all(np.isfinite(found.covariances_se))


def test_weights_and_held_out_rows_are_respected(model):
    rows = _rows(0, 3_000)
    weighted = sg.fit(rows, 2, "full", weight=np.full(len(rows), 2.0))
    found = sg.bootstrap(weighted, rows, replicates=5, weight=np.full(len(rows), 2.0))
    assert found.fits[0][0].accepted_point[1].rows == pytest.approx(6_000, rel=0.1)
    held = sg.fit(rows, 2, "full", holdout=0.5)
    assert sg.bootstrap(held, rows, replicates=3).fits[0][0].accepted_point[1].rows == pytest.approx(1_500, rel=0.2)


def test_wrong_requests_are_refused(model):
    with pytest.raises(ConfigError, match="at least 2"):
        sg.bootstrap(model, _rows(0), replicates=1)
    with pytest.raises(ConfigError, match="did you mean 'bic'"):
        sg.bootstrap(model, _rows(0), criterion="bicc")


class TestRatio:
    """The likelihood-ratio test of K against K + 1."""

    @pytest.mark.slow
    def test_two_components_are_more_than_one(self):
        found = sg.likelihood_ratio_test(_rows(1), 1, replicates=9, rows=500)
        assert found.p_value == 0.1
        assert found.statistic > max(found.simulated)

    @pytest.mark.slow
    def test_under_the_null_it_rarely_rejects(self):
        """Level 0.1 on five data sets of one Gaussian each: more than two rejections have a chance of 9e-3."""
        rejected = sum(
            sg.likelihood_ratio_test(
                np.random.default_rng(seed).normal(size=(300, 1)), 1, replicates=9, random_state=seed
            ).p_value <= 0.1
            for seed in range(5)
        )  # fmt: skip
        assert rejected <= 2

    def test_it_is_the_same_on_any_executor(self):
        a, b = (sg.likelihood_ratio_test(_rows(1), 1, replicates=3, rows=300, client=e)
                for e in (SerialExecutor(), ThreadsExecutor(2)))  # fmt: skip
        assert a == b

    def test_weighted_rows_are_refused(self):
        rows = _rows(0, 500)
        with pytest.raises(InputDataError, match="not for weighted rows"):
            sg.likelihood_ratio_test(as_source(rows, weight=np.ones(500)), 1, replicates=3)

    @pytest.mark.slow
    def test_its_statistics_are_those_of_the_mclust_book(self):
        """Faithful, VVV: 319.0654 (p = 0.001) for 1 against 2, 6.1305 (p = 0.572) for 2 against 3."""
        (oracle,) = (p for p in MCLUST["published"] if p["id"] == "faithful_book_lrt")
        one, two = (
            sg.likelihood_ratio_test(rows_of("faithful"), k, "VVV", replicates=n, n_init=2)
            for k, n in ((1, 9), (2, 5))
        )

        assert one.statistic == pytest.approx(oracle["lrts"]["1 vs 2"], abs=0.02)
        assert one.p_value == 0.1
        # A better optimum with three components than mclust's, here and in the simulated data.
        assert two.statistic >= oracle["lrts"]["2 vs 3"] - 0.02
        assert np.median(two.simulated) > oracle["lrts"]["2 vs 3"]
