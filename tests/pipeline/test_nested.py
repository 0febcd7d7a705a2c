"""A candidate that full passes show to be worse than one with a component less starts again from a split of that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import stream_gmm as sg
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import PseudoRows
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.nested import split_by_sample
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.source.memory import as_source
from stream_gmm.io.store.models import to_bytes
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.sweep.ledger import Ledger
from stream_gmm.pipeline.sweep.sweep import sweep

SAMPLE = 2_000
"""So few rows hardly tell four components that overlap from three."""


class Killed(Exception):
    """Stands for a process that dies between two passes."""


@pytest.fixture(scope="module")
def drawn():
    """40,000 rows of four components that overlap, and the log-likelihood of the mixture that they are drawn from."""
    rng = np.random.default_rng(8)
    weights = rng.dirichlet(np.full(4, 3.0))
    means, labels = 0.5 * rng.normal(size=(4, 3)), rng.choice(4, size=40_000, p=weights)
    rows, axes = np.empty((len(labels), 3)), []
    for j in range(4):
        z = rng.normal(size=(int((labels == j).sum()), 3))
        axes.append(np.linalg.qr(rng.normal(size=(3, 3)))[0] * np.exp(0.5 * rng.normal(size=3)))
        rows[labels == j] = means[j] + z @ axes[j].T
    log_density = [
        np.log(w) + multivariate_normal(m, a @ a.T).logpdf(rows)
        for w, m, a in zip(weights, means, axes, strict=True)
    ]
    return rows, float(logsumexp(log_density, axis=0).sum())


def _sweep(rows, executor, folder=None, die_after=None, prune=True):
    settings, source, passes = Settings(sample_rows=SAMPLE, random_state=1), as_source(rows), 0

    def on_pass(_):
        nonlocal passes
        passes += 1
        if passes == die_after:
            raise Killed

    ledger = Ledger.open(Path(folder), source, settings) if folder else Ledger()
    return sweep(source, [3, 4], "full", settings, executor, prune=prune, ledger=ledger, on_pass=on_pass)


def _bits(result):
    return [to_bytes(c.result) for c in result.candidates], result.passes, result.why


@pytest.fixture(scope="module")
def swept(drawn):
    return _sweep(drawn[0], ThreadsExecutor(2))


@pytest.mark.slow
def test_the_known_number_of_components_is_found_although_the_sample_leads_to_a_poor_optimum(drawn, swept):
    _, loglik_of_the_truth = drawn

    assert swept.best.n_components == 4
    assert swept.best.criteria.loglik > loglik_of_the_truth
    assert any("started again from a split of full-3" in event for event in swept.best.events)
    three = next(c for c in swept.candidates if c.n_components == 3)
    assert swept.best.criteria.loglik > three.result.criteria.loglik
    assert swept.passes <= Settings().max_passes + 2


@pytest.mark.slow
def test_without_pruning_the_same_candidate_starts_again(drawn, swept):
    unpruned = _sweep(drawn[0], ThreadsExecutor(2), prune=False)

    assert to_bytes(unpruned.best) == to_bytes(swept.best)


@pytest.mark.slow
def test_a_sweep_killed_beside_further_starts_resumes_to_the_same_bits_on_other_workers(
    drawn, swept, executor, tmp_path
):
    for passes in (3, 5):  # as the starts are made, and while they are in the passes
        with pytest.raises(Killed):
            _sweep(drawn[0], ThreadsExecutor(2), tmp_path, passes)
    resumed = _sweep(drawn[0], executor, tmp_path)

    assert _bits(resumed) == _bits(swept)
    again = _sweep(drawn[0], ThreadsExecutor(1), tmp_path)
    assert (again.passes, to_bytes(again.best)) == (0, to_bytes(swept.best))


def test_where_the_sample_holds_all_rows_no_candidate_starts_again(rng):
    rows = np.vstack([rng.normal(m, 1.0, (150, 2)) for m in (0.0, 4.0)])
    result = sg.sweep(rows, [1, 2, 3], "full")

    assert not any("started again" in e for c in result.candidates if c.result for e in c.result.events)


@pytest.mark.parametrize("name", ["full", "diag", "VVE"])
def test_a_split_separates_two_clusters_that_shared_a_component_and_leaves_the_others(rng, name):
    truth = MixtureParams([0.4, 0.3, 0.3], [[0, 0], [9, 0], [9, 6]], [np.eye(2)] * 3, family_named("full"))
    rows = rng.permutation(draw_rows(truth, 6_000, rng)[0])
    both = rows[rows[:, 0] > 4.5]
    matrices = np.stack([np.eye(2), np.cov(both.T)])
    params = MixtureParams.from_matrices(
        np.array([0.4, 0.6]), np.stack([np.zeros(2), both.mean(axis=0)]),
        np.einsum("kjj->kj", matrices) if name == "diag" else matrices, family_named(name),
    )  # fmt: skip
    search = SampleSearch(rows, Scaling.of_rows(rows), PseudoRows.of(collect_moments(rows)))
    split = split_by_sample(search, params, 1)

    assert split is not None
    assert split.n_components == 3
    assert (split.weights[0], *split.means[0]) == (0.4, 0.0, 0.0)
    halves = split.means[1:][np.argsort(split.means[1:, 1])]
    expected = [both[both[:, 1] < 3].mean(axis=0), both[both[:, 1] > 3].mean(axis=0)]
    np.testing.assert_allclose(halves, expected, atol=0.05)
    np.testing.assert_allclose(split.weights.sum(), 1.0)
