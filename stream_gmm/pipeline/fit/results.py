"""From the last state of a candidate to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.kernel_choice import choose_kernel
from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.sample import SampleOutcome
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile

COLLAPSED_SHARE = 1e-3
"""A degenerate component with less than this share of a column's variance is said to have collapsed in it."""


def outlier_threshold(params: MixtureParams, sample: Sample, quantile: float) -> float:
    """Return the quantile of the log-density over sample rows; -inf for quantile 0."""
    if quantile <= 0.0:
        return float("-inf")
    log_density = score_rows(compile_density(params), sample.rows).log_density
    if not len(sample.weights):
        return float(np.quantile(log_density, quantile))
    return float(np.quantile(log_density, quantile, weights=sample.weights, method="inverted_cdf"))


def explain_collapse(state: EMState, profile: Profile) -> EMState:
    """Return the state with the columns and values on which components have collapsed in its reason."""
    if state.outcome is not Outcome.DEGENERATE or not state.report.floored:
        return state
    variances = np.einsum("kjj->kj", state.params.dense_covariances) / np.diagonal(profile.covariance)
    places: dict[str, None] = {}
    for k in state.report.floored:
        j = int(variances[k].argmin())
        flat = variances[k, j] < COLLAPSED_SHARE
        places[f"{profile.columns[j]} = {state.params.means[k, j]:.6g}" if flat else "a combination of columns"] = (
            None
        )
    return replace(state, reason=f"{state.reason}: on {', '.join(places)}")


def make_result(state: EMState, profile: Profile, settings: Settings, provenance: Mapping[str, Any]) -> FitResult:
    """Turn the last state of a candidate into its result."""
    assert state.stats is not None
    assert state.outcome is not None
    warnings = list(profile.warnings)
    choice = choose_kernel(state.params, compile_density(state.params), profile.scaling, settings.preference)
    if state.outcome not in (Outcome.CONVERGED, Outcome.PRUNED):
        warnings.append(f"{state.params.family.name}-{state.params.n_components}: {state.outcome.value}.")
    return FitResult(
        params=state.params,
        outcome=state.outcome,
        criteria=Criteria.from_stats(state.stats, state.params.n_parameters),
        history=state.history,
        n_iter=state.n_iter,
        passes=state.passes,
        rejected=state.rejected,
        columns=profile.columns,
        reason=state.reason,
        threshold=outlier_threshold(state.params, profile.sample, settings.outlier_quantile),
        outlier_quantile=settings.outlier_quantile,
        warnings=tuple(warnings),
        events=state.events,
        provenance={
            **provenance,
            "rows_used": int(state.stats.rows),
            "kernel_used": f"{choice.kernel} {choice.dtype}",
        },
    )


def describe_provenance(source: Source, profile: Profile, settings: Settings) -> dict[str, Any]:
    """Return the data, settings and version that a result comes from; JSON values only."""
    return {
        "data_fingerprint": source.fingerprint,
        "rows": profile.total_rows,
        "missing": source.missing,
        "weight": source.weight,
        **settings.decisive,
        "sample_rows": len(profile.sample.rows),
        "version": version("stream-gmm"),
    }


def _evaluate_params(params: MixtureParams, estep: InMemoryEStep) -> SuffStats:
    return estep.evaluate(params)


def collect_sample_stats(mixtures: Sequence[MixtureParams], profile: Profile, executor: Executor) -> list[SuffStats]:
    """Return the statistics of the sample at each of the mixtures."""
    if not mixtures:
        return []
    estep = InMemoryEStep(profile.sample.rows, profile.scaling, weights=profile.sample.weights)
    return executor.map(_evaluate_params, mixtures, shared=estep, label="sample")


def make_sample_result(
    outcome: SampleOutcome, stats: SuffStats, profile: Profile, provenance: dict[str, Any]
) -> FitResult:
    """Return the result of a candidate that was pruned on the sample; its criteria are those of the sample."""
    params = outcome.fit.params
    assert params is not None
    return FitResult(
        params=params.sort_by_weight(),
        outcome=Outcome.PRUNED,
        criteria=Criteria.from_stats(stats, params.n_parameters),
        history=(stats.mean_loglik,),
        n_iter=0,
        columns=profile.columns,
        reason=outcome.pruned_reason,
        warnings=("fitted on the sample alone.",),
        events=outcome.fit.events,
        provenance={**provenance, "rows_used": int(stats.rows)},
    )


def recover_settings(model: FitResult) -> Settings:
    """Return the settings with which a model was fitted.

    Raises
    ------
    ConfigError
        If the model does not record them.
    """
    known = {f.name for f in fields(Settings)}
    recorded = {k: v for k, v in model.provenance.items() if k in known}
    if "random_state" not in recorded:
        raise ConfigError("the model does not record how it was fitted: use a model that fit or sweep returned.")
    return Settings(**recorded)
