"""The steps that every fit goes through: open the data, read it for the first time, run over all of it."""

from __future__ import annotations

from stream_gmm.core.fit.em import EMState, Review
from stream_gmm.core.rows.sampling import Holdout
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.algorithms import OnPass, algorithm_named, make_scheme
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.full_pass import FullPass
from stream_gmm.pipeline.passes.profile import Profile, profile
from stream_gmm.pipeline.passes.progress import Listener, silent
from stream_gmm.pipeline.passes.tasks import Reading, open_reading, open_some


def open_data(source: Source, settings: Settings, executor: Executor) -> Reading:
    """Return what the passes over the data read."""
    leaves = algorithm_named(settings.algorithm).leaves(source)
    return open_reading(source, leaves, executor, settings.cache_policy)


def first_pass(
    source: Source, reading: Reading, settings: Settings, executor: Executor, listener: Listener = silent
) -> Profile:
    """Read the data for the first time: keep what is to be kept, and profile it."""
    some = None if settings.profile == "full" else open_some(source, settings.sample_rows, settings.random_state)
    return profile(
        source, some or reading, executor,
        sample_rows=settings.sample_rows, random_state=settings.random_state, holdout=settings.holdout,
        total_rows=sum(reading.rows), listener=listener,
    )  # fmt: skip


def profile_of(source: Source, settings: Settings, executor: Executor, listener: Listener = silent) -> Profile:
    """Profile a data set; nothing is kept for later."""
    return first_pass(source, open_data(source, settings, executor), settings, executor, listener)


def full_pass(
    reading: Reading, found: Profile, settings: Settings, executor: Executor, listener: Listener = silent
) -> FullPass:
    """Return the E-step over the full data."""
    holdout = Holdout(settings.holdout, settings.random_state)
    return FullPass.over(reading, found, executor, holdout, settings.preference, listener)


def fit_states(
    states: list[EMState],
    full: FullPass,
    found: Profile,
    settings: Settings,
    on_pass: OnPass = lambda _: None,
    review: Review = list,
) -> list[EMState]:
    """Run candidates over the full data to their end."""
    run = algorithm_named(settings.algorithm).run
    return run(states, full, make_scheme(settings, found), settings, on_pass, review)
