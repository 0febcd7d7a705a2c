"""Fit one mixture: from the sample's best start, or from given parameters."""

from __future__ import annotations

from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.search.sample_search import NOISE_START
from stream_gmm.errors import ConfigError, SingularCovarianceError
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.algorithms import OnPass
from stream_gmm.pipeline.fit.grid import parse_grid
from stream_gmm.pipeline.fit.results import collapsed, finished, provenance_of
from stream_gmm.pipeline.fit.sample import explore
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import first_pass, fit_states, full_pass, open_data
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, silent


def fit(
    source: Source,
    n_components: int,
    covariance_type: str,
    settings: Settings,
    executor: Executor,
    *,
    init: MixtureParams | None = None,
    listener: Listener = silent,
    on_pass: OnPass = lambda _: None,
) -> FitResult:
    """Fit one mixture. Components keep the order of ``init``; else they go by falling weight.

    Raises
    ------
    ConfigError
        If ``init`` contradicts the other arguments.
    SingularCovarianceError
        If no covariance can be estimated.
    """
    ((k, name),) = parse_grid(n_components, covariance_type)
    settings.check_structures([name])
    _check_init(init, k, name, source)
    reading = open_data(source, settings, executor)
    found = first_pass(source, reading, settings, executor, listener)
    if init is not None and settings.noise and init.noise is None:
        init = init.with_noise(found.box, NOISE_START)
    start = EMState(init) if init else _start(k, name, found, settings, executor, listener)
    full = full_pass(reading, found, settings, executor, listener)
    (state,) = fit_states([start], full, found, settings, on_pass)
    if state.outcome is Outcome.FAILED:
        raise SingularCovarianceError(state.reason)
    return finished(collapsed(state, found), found, settings, provenance_of(source, found, settings))


def _start(k: int, name: str, found: Profile, settings: Settings, executor: Executor, listener: Listener) -> EMState:
    (explored,) = explore([(k, name)], found, settings, executor, listener)
    start = explored.fit
    if start.params is None:
        raise SingularCovarianceError(start.reason)
    return EMState(start.params.canonical(), events=start.events)


def _check_init(init: MixtureParams | None, k: int, name: str, source: Source) -> None:
    if init is None:
        return
    expected = (k, name, len(source.columns))
    given = (init.n_components, init.family.name, init.n_features)
    if expected != given:
        raise ConfigError(
            f"init has (components, covariance_type, features) = {given}, and the fit asks for {expected}."
        )
