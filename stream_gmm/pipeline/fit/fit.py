"""Fit one mixture: from the sample's best start, or from given parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.fit.few_rows import FewRows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.search.sample_search import NOISE_START
from stream_gmm.core.search.superfluous import STALL_GAIN
from stream_gmm.errors import ConfigError, InputDataError, SingularCovarianceError
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.memory import ArrayDataset
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.algorithms import OnPass, algorithm_named
from stream_gmm.pipeline.fit.grid import CandidateSpec, parse_grid
from stream_gmm.pipeline.fit.penalty import make_penalty
from stream_gmm.pipeline.fit.results import describe_provenance, explain_collapse, make_result
from stream_gmm.pipeline.fit.sample import WHOLE_SAMPLE_TOL, explain_too_few_rows, fit_on_sample
from stream_gmm.pipeline.fit.settings import FIT, Settings
from stream_gmm.pipeline.fit.size import check_size
from stream_gmm.pipeline.fit.steps import make_full_pass, run_states
from stream_gmm.pipeline.fit.transforms import open_and_profile
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.passes.tasks import AUTO

CLIMBED_SAMPLES = 4
"""Rows in memory of at most so many samples are climbed on themselves, in place of steps continued on the sample."""


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
        params, left = _climb_all_rows(outcome.fit.params, source, profile, settings)
        start = outcome.fit.make_start(profile.sample_is_whole, params.sort_by_weight())
        starts = [start if left is None else replace(start, left=left)]
    full = make_full_pass(tasks, profile, settings, executor, listener)
    state = max(run_states(starts, full, profile, settings, on_pass), key=_rank_end)
    if state.outcome is Outcome.FAILED:
        raise SingularCovarianceError(state.reason)
    return make_result(
        explain_collapse(state, profile, settings), profile, settings, describe_provenance(source, profile, settings)
    )


def _climb_all_rows(
    params: MixtureParams, source: Source, profile: Profile, settings: Settings
) -> tuple[MixtureParams, float | None]:
    """Return a fit of the sample climbed on to an optimum of all rows, and what is left to gain there, nats per row.

    Only where these are in memory, more than the sample and not many more, and fitted as they are; else the fit
    itself, and None.
    """
    is_default = settings.algorithm == AUTO and settings.accel is None and settings.tol is None
    as_they_are = not (settings.transforms or settings.holdout or profile.places or profile.sample_is_whole)
    if not (is_default and as_they_are and isinstance(source, ArrayDataset)):
        return params, None
    weights = UNWEIGHTED if source.weights is None else source.weights
    few = FewRows(source.values, weights, make_penalty(profile, settings))
    if source.num_rows > CLIMBED_SAMPLES * len(profile.sample.rows) or not few.can_climb(params):
        return params, None
    stall = max(STALL_GAIN / profile.moments.rows, WHOLE_SAMPLE_TOL)
    end = few.climb(params, algorithm_named(AUTO).sample_steps, WHOLE_SAMPLE_TOL, stall)
    return end.params, end.left


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
