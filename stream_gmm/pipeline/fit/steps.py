"""The steps that every fit goes through: open the data, read it for the first time, run over all of it."""

from __future__ import annotations

from stream_gmm.core.fit.em import EMState, Review
from stream_gmm.core.rows.sampling import Holdout
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.algorithms import OnPass, algorithm_named, make_scheme
from stream_gmm.pipeline.fit.settings import ASIDE, Settings
from stream_gmm.pipeline.passes.constants import set_constants_aside
from stream_gmm.pipeline.passes.full_pass import FullPass
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.profile_pass import profile_rows
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.passes.tasks import PassTasks, draw_tasks, plan_tasks


def open_tasks(source: Source, settings: Settings, executor: Executor) -> PassTasks:
    """Return the tasks of the passes over the data, with the cache that the settings ask for."""
    leaves = algorithm_named(settings.algorithm).leaves(source)
    return plan_tasks(source, leaves, executor, settings.cache_policy)


def make_profile(
    source: Source, tasks: PassTasks, settings: Settings, executor: Executor, listener: Listener = ignore_progress
) -> Profile:
    """Make the first pass: fill the cache, profile the data, and set constant columns aside if that is wanted."""
    some = None if settings.profile == "full" else draw_tasks(source, settings.sample_rows, settings.random_state)
    profile = profile_rows(
        source, some or tasks, executor,
        sample_rows=settings.sample_rows, random_state=settings.random_state, holdout=settings.holdout,
        total_rows=sum(tasks.rows), listener=listener,
    )  # fmt: skip
    return set_constants_aside(profile) if settings.constants == ASIDE else profile


def profile_source(
    source: Source, settings: Settings, executor: Executor, listener: Listener = ignore_progress
) -> Profile:
    """Profile a data set that is not read again."""
    return make_profile(source, open_tasks(source, settings, executor), settings, executor, listener)


def make_full_pass(
    tasks: PassTasks, profile: Profile, settings: Settings, executor: Executor, listener: Listener = ignore_progress
) -> FullPass:
    """Return the E-step over the full data."""
    holdout = Holdout(settings.holdout, settings.random_state)
    return FullPass.for_profile(tasks, profile, executor, holdout, settings.preference, listener)


def run_states(
    states: list[EMState],
    full: FullPass,
    profile: Profile,
    settings: Settings,
    on_pass: OnPass = lambda _: None,
    review: Review = list,
) -> list[EMState]:
    """Advance candidates by passes over the full data until each has an outcome."""
    run = algorithm_named(settings.algorithm).run
    return run(states, full, make_scheme(settings, profile), settings, on_pass, review)
