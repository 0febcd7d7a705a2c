"""From the last state of a candidate to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.display import shorten_list
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.kernel_choice import choose_kernel
from stream_gmm.core.estep.scores import score_rows, score_transformed
from stream_gmm.core.fit.em import FIT_ERRORS, EMState, Outcome
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import MStepReport
from stream_gmm.core.mstep.resolution import Resolution
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.frames import LARGEST
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.core.rows.transform_requests import describe_transforms
from stream_gmm.core.rows.transforms import sum_log_jacobians
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.penalty import describe_atoms, make_penalty
from stream_gmm.pipeline.fit.sample import SampleOutcome
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile

_find_version = cache(version)  # which reads a file
COLLAPSED_SHARE = 1e-3
"""A degenerate component with less than this share of a column's variance is said to have collapsed in it."""
ROUNDED = 1e-9
"""The mean of a collapsed component is zero if it is no more than so many standard deviations of the column."""
TIGHT_SHARE = 1e-4
"""Below this share of a column's variance it is checked whether a component consists of one repeated value."""
REPEATED_SHARE = 0.9
"""A tight component has collapsed if this share of its weight is on one value of a column."""


def summarise_log_densities(
    params: MixtureParams, profile: Profile, quantile: float
) -> tuple[float, LogDensityHistogram]:
    """Return a quantile of the log-density over sample rows (-inf for quantile 0), and its histogram.

    They are in nats in the units of the columns. Of a row with missing values it is the log-density of a complete
    row that is as unusual.
    """
    sample, density = profile.sample, compile_density(params)
    log_density = score_transformed(density, sample.rows, profile.columns, profile.transforms).comparable
    histogram = LogDensityHistogram.of(np.maximum(log_density, -LARGEST), sample.weights)
    if quantile <= 0.0:
        return -np.inf, histogram
    if not len(sample.weights):
        return float(np.quantile(log_density, quantile)), histogram
    weighted = np.quantile(log_density, quantile, weights=sample.weights, method="inverted_cdf")
    return float(weighted), histogram


def explain_collapse(state: EMState, profile: Profile, settings: Settings) -> EMState:
    """Return the state, degenerate if a component consists of a repeated value, with the place in its reason.

    With a resolution, a component on a repeated value is as wide as the recording step, and not degenerate.
    """
    if state.outcome in (Outcome.CONVERGED, Outcome.MAX_PASSES):
        if isinstance(make_penalty(profile, settings), Resolution):
            return state
        repeated = _find_repeated_values(state, profile)
        if not repeated:
            return state
        report = MStepReport(floored=tuple(repeated))
        places = dict.fromkeys(f"{profile.columns[j]} = {v:.6g}" for j, v in repeated.values())
        reason = f"{report.describe()}: on {shorten_list(list(places))}"
        return replace(state, outcome=Outcome.DEGENERATE, report=report, reason=reason)
    if state.outcome is not Outcome.DEGENERATE or not state.report.floored:
        return state
    variances = _variances_of_rows(state) / np.diagonal(profile.covariance)
    where: dict[str, None] = {}
    for k in state.report.floored:
        j = int(variances[k].argmin())
        flat, value = variances[k, j] < COLLAPSED_SHARE, state.params.means[k, j]
        value = 0.0 if value**2 <= ROUNDED**2 * profile.covariance[j, j] else value
        where[f"{profile.columns[j]} = {value:.6g}" if flat else "a combination of columns"] = None
    return replace(state, reason=f"{state.reason}: on {shorten_list(list(where))}")


def _variances_of_rows(state: EMState) -> Array:
    """Return the variances ``(K, D)`` of the rows alone; of the model, if components share their scatter."""
    params, stats = state.params, state.stats
    if stats is None or len(stats.scatter) != params.n_components:
        return np.asarray(np.einsum("kjj->kj", params.dense_covariances))
    variances = stats.moments.diagonal(stats.scatter) / np.maximum(stats.weight, 1.0)[:, None]
    return np.broadcast_to(variances, params.means.shape)


def _find_repeated_values(state: EMState, profile: Profile) -> dict[int, tuple[int, float]]:
    """Return the components that consist of one repeated value, with its column and the value.

    A ridge hides from the M-step that a component sits on a repeated value: it draws in neighbouring rows, and the
    scatter is small but not zero. The sample tells: most of the component's rows are equal there.
    """
    params, stats = state.params, state.stats
    if stats is None or len(stats.scatter) != params.n_components:
        return {}
    tight = _variances_of_rows(state) < TIGHT_SHARE * np.diagonal(profile.covariance)
    if not tight.any():
        return {}
    sample = profile.sample
    shares = score_rows(compile_density(params), sample.rows).proba
    shares = shares * sample.weights[:, None] if len(sample.weights) else shares
    out: dict[int, tuple[int, float]] = {}
    for i, j in np.argwhere(tight):
        seen = ~np.isnan(sample.rows[:, j])
        values, index, counts = np.unique(sample.rows[seen, j], return_inverse=True, return_counts=True)
        weight = np.bincount(index, shares[seen, i], len(values))
        most = int(weight.argmax())
        if counts[most] > 1 and weight[most] >= REPEATED_SHARE * weight.sum():
            out.setdefault(int(i), (int(j), float(values[most])))
    return out


def make_result(state: EMState, profile: Profile, settings: Settings, provenance: Mapping[str, Any]) -> FitResult:
    """Turn the last state of a candidate into its result."""
    assert state.stats is not None
    assert state.outcome is not None
    warnings = list(profile.warnings)
    atoms = describe_atoms(state.params, profile, settings)
    warnings += [atoms] if atoms else []
    threshold, training = summarise_log_densities(state.params, profile, settings.outlier_quantile)
    choice = choose_kernel(state.params, compile_density(state.params), profile.scaling, settings.preference)
    if state.outcome not in (Outcome.CONVERGED, Outcome.PRUNED):
        warnings.append(f"{state.params.family.name}-{state.params.n_components}: {state.outcome.value}.")
    return FitResult(
        params=state.params,
        outcome=state.outcome,
        criteria=Criteria.from_stats(state.stats, state.params.n_parameters).shift(
            profile.log_jacobian, profile.heldout_log_jacobian
        ),
        history=tuple(value + profile.log_jacobian / state.stats.rows for value in state.history),
        n_iter=state.n_iter,
        passes=state.passes,
        rejected=state.rejected,
        columns=profile.columns,
        constants=profile.constants,
        reason=state.reason,
        threshold=threshold,
        outlier_quantile=settings.outlier_quantile,
        training=training,
        warnings=tuple(warnings),
        events=state.events,
        transforms=profile.transforms,
        provenance={
            **provenance,
            "rows_used": int(state.stats.rows),
            "kernel_used": f"{choice.kernel} {choice.dtype}",
        },
    )


def describe_provenance(source: Source, profile: Profile, settings: Settings) -> dict[str, Any]:
    """Return the data, settings and version that a result comes from; JSON values only."""
    row_filter, sentinels = getattr(source, "row_filter", None), getattr(source, "sentinels", ())  # of files alone
    tables = [str(table) for table in getattr(source, "tables", ())]
    return {
        "data_fingerprint": source.fingerprint,
        "rows": profile.total_rows,
        "missing": source.missing,
        "weight": source.weight,
        **({"filter": row_filter} if row_filter else {}),
        **({"tables": tables} if tables else {}),
        **({"sentinel": {name: list(values) for name, values in sentinels}} if sentinels else {}),
        **settings.decisive,
        "sample_rows": len(profile.sample.rows),
        "version": _find_version("stream-gmm"),
    }


def sum_sample_log_jacobians(profile: Profile) -> float:
    """Return the sum of the log-Jacobians of the sample's rows, times their weights, nats."""
    return sum_log_jacobians(profile.sample.rows, profile.sample.weights, profile.columns, profile.transforms)


def _evaluate_params(params: MixtureParams, estep: InMemoryEStep) -> SuffStats | None:
    try:
        return estep.evaluate(params)
    except FIT_ERRORS:
        return None


def collect_sample_stats(
    mixtures: Sequence[MixtureParams], profile: Profile, executor: Executor
) -> list[SuffStats | None]:
    """Return the statistics of the sample at each of the mixtures; None for one that has no density."""
    if not mixtures:
        return []
    estep = InMemoryEStep(profile.sample.rows, profile.scaling, weights=profile.sample.weights)
    return executor.map(_evaluate_params, mixtures, shared=estep, label="sample")


def make_sample_result(
    outcome: SampleOutcome, stats: SuffStats, profile: Profile, provenance: dict[str, Any]
) -> FitResult:
    """Return the result of a candidate that was pruned on the sample; its criteria are those of the sample."""
    params, jacobian = outcome.fit.params, sum_sample_log_jacobians(profile)
    assert params is not None
    return FitResult(
        params=params.sort_by_weight(),
        outcome=Outcome.PRUNED,
        criteria=Criteria.from_stats(stats, params.n_parameters).shift(jacobian),
        history=(stats.mean_loglik + jacobian / stats.rows,),
        n_iter=0,
        columns=profile.columns,
        constants=profile.constants,
        reason=outcome.pruned_reason,
        warnings=("fitted on the sample alone.",),
        transforms=profile.transforms,
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
    if model.transforms:  # those of the fit: estimated again, they would be those of the data at hand
        recorded["transforms"] = describe_transforms(model.transforms)
    return Settings(**recorded)
