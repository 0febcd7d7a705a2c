"""Starts with one component more, from parameters that all the rows have determined: a component is split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.fit.em import FIT_ERRORS, Outcome
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import split_component
from stream_gmm.core.search.sample_fit import is_regular
from stream_gmm.core.search.sample_search import SampleSearch

HALVING_STEPS = 15
"""EM steps of the two halves on the sample."""
NEGLIGIBLE_SHARE = 1e-3
"""Rows of which a component has no more than this share say nothing of how it is to be split."""


def split_by_sample(search: SampleSearch, params: MixtureParams, component: int) -> MixtureParams | None:
    """Return the mixture with a component replaced by two, fitted to its share of the sample; None if that fails.

    The other components stay where they are: EM steps of them on the sample would lead to the optimum of the sample,
    which is further from that of all rows than what a split gains.
    """
    try:
        whole, pair = split_component(params, component), [component, params.n_components]
        share = score_rows(compile_density(params), search.rows).proba[:, component]
        near = share > NEGLIGIBLE_SHARE
        weights = share[near] * (search.weights[near] if len(search.weights) else 1.0)
        halves = MixtureParams.from_matrices(
            np.array([0.5, 0.5]), whole.means[pair], whole.dense_covariances[pair], params.family
        )
        fitted = replace(search, rows=search.rows[near], weights=weights).run_briefly(halves, HALVING_STEPS)
        if fitted.outcome is Outcome.FAILED:
            return None
        shares, means, matrices = np.array(whole.weights), np.array(whole.means), np.array(whole.dense_covariances)
        shares[pair] = fitted.params.weights * params.weights[component]
        means[pair], matrices[pair] = fitted.params.means, fitted.params.dense_covariances
        out = MixtureParams.from_matrices(shares, means, matrices, params.family, params.noise)
    except FIT_ERRORS:
        return None
    return out if is_regular(out) else None


def measure_on_sample(search: SampleSearch, params: MixtureParams) -> float:
    """Return the mean log-likelihood of the sample, nats per row."""
    log_density = score_rows(compile_density(params), search.rows).log_density
    return float(np.average(log_density, weights=search.weights if len(search.weights) else None))
