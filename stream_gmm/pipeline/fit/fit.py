"""Fit one mixture: from the sample's best start, or from given parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.search.sample_search import NOISE_START
from stream_gmm.errors import ConfigError, InputDataError, SingularCovarianceError
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.algorithms import OnPass
from stream_gmm.pipeline.fit.grid import CandidateSpec, parse_grid
from stream_gmm.pipeline.fit.results import describe_provenance, explain_collapse, make_result
from stream_gmm.pipeline.fit.sample import explain_too_few_rows, fit_on_sample
from stream_gmm.pipeline.fit.settings import FIT, Settings
from stream_gmm.pipeline.fit.size import check_size
from stream_gmm.pipeline.fit.steps import make_full_pass, run_states
from stream_gmm.pipeline.fit.transforms import open_and_profile
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress


def fit(
    source: Source,
    n_components: int,
    covariance_type: str,
    settings: Settings,
    executor: Executor,
    *,
    init: MixtureParams | Sequence[MixtureParams] | None = None,
    listener: Listener = ignore_progress,
    on_pass: OnPass = lambda _: None,
) -> FitResult:
    """Fit one mixture. Components keep the order of ``init``; else they go by falling weight.

    ``init`` may hold several starts: they share every pass, and the best fit is returned. If they have a mean for
    every column, none is set aside as constant.

    Raises
    ------
    ConfigError
        If ``init`` contradicts the other arguments; or a worker has not the memory that is needed.
    InputDataError
        If there are fewer distinct rows than components, or fewer values than parameters.
    SingularCovarianceError
        If no covariance can be estimated.
    """
    (spec,) = parse_grid(n_components, covariance_type)
    settings.check_structures([spec.covariance_type])
    given = [init] if isinstance(init, MixtureParams) else list(init or ())
    for params in given:
        _check_start(params, spec, len(source.columns), exact=settings.constants == FIT)
    if any(params.n_features == len(source.columns) for params in given):
        settings = replace(settings, constants=FIT)
    if not given:
        check_size(source, [spec], settings, executor)
    tasks, profile, _ = open_and_profile(source, settings, executor, listener)
    for params in given:
        _check_start(params, spec, len(profile.columns))
    if settings.noise:
        given = [p if p.noise is not None else p.with_noise(profile.bounding_box, NOISE_START) for p in given]
    starts = [EMState(params) for params in given]
    if not starts:
        (outcome,) = fit_on_sample([spec], profile, settings, executor, listener)
        if outcome.fit.params is None:
            if too_few := explain_too_few_rows(spec, profile, settings):
                raise InputDataError(too_few)
            raise SingularCovarianceError(outcome.fit.reason)
        starts = [outcome.fit.make_start(profile.sample_is_whole, outcome.fit.params.sort_by_weight())]
    full = make_full_pass(tasks, profile, settings, executor, listener)
    state = max(run_states(starts, full, profile, settings, on_pass), key=_rank_end)
    if state.outcome is Outcome.FAILED:
        raise SingularCovarianceError(state.reason)
    return make_result(
        explain_collapse(state, profile, settings), profile, settings, describe_provenance(source, profile, settings)
    )


def _check_start(init: MixtureParams, spec: CandidateSpec, n_features: int, exact: bool = True) -> None:
    """Refuse a start of another shape; unless ``exact`` it may have fewer features, as columns may be constant."""
    actual = (init.n_components, init.family.name, init.n_features)
    expected = (*spec, n_features if exact or init.n_features > n_features else init.n_features)
    if expected != actual:
        raise ConfigError(
            f"init has (components, covariance_type, features) = {actual}, and the fit asks for {expected}."
        )


def _rank_end(state: EMState) -> tuple[bool, bool, float]:
    """Return how good a finished fit is; of several starts the one with the largest value is kept."""
    sound = state.outcome is not Outcome.DEGENERATE
    return state.outcome is not Outcome.FAILED, sound, state.history[-1] if state.history else -inf
