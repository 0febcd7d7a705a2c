"""Fit every candidate on the sample, at no pass over the data: that is where its full passes start."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from stream_gmm.core.fit.em import FIT_ERRORS
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.search.sample_fit import SampleFit
from stream_gmm.core.search.sample_search import SampleSearch, Seed
from stream_gmm.errors import explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.pipeline.fit.algorithms import algorithm_named
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.penalty import make_penalty
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress

WHOLE_SAMPLE_GAIN, WHOLE_SAMPLE_TOL = 1e-2, 1e-6
"""A fit on a sample that holds every row stops when so many nats are left to gain, in all or per row, whichever is
less: no choice depends on them."""
OVERTAKEN_ROUNDS = 5
"""At most so often fits are started again from a neighbour that has overtaken them."""
Key = TypeVar("Key", int, CandidateSpec)


@dataclass(frozen=True)
class SampleOutcome:
    """How a candidate did on the sample.

    Attributes
    ----------
    fit
        Its fit there.
    seconds
        Time that the fit took, on one core.
    pruned_reason
        Why it takes part in no pass over the data; empty if it does.
    """

    fit: SampleFit
    seconds: float = 0.0
    pruned_reason: str = ""

    @property
    def is_unfinished(self) -> bool:
        """True if it was pruned after the race of its restarts, before it was fitted to convergence."""
        return bool(self.fit.finalists)


@dataclass(frozen=True)
class _SampleTask:
    """What every task on the sample needs. Arithmetic that fails ends the candidate of the task, and no other."""

    search: SampleSearch
    n_init: int
    seed: int

    def draw_seeds(self, k: int) -> tuple[Seed, ...]:
        return self.search.draw_seeds(k, self.n_init, (self.seed, k))

    def race_restarts(self, entrant: tuple[str, Sequence[Seed]]) -> SampleFit:
        try:
            return self.search.race_restarts(family_named(entrant[0]), entrant[1])
        except FIT_ERRORS as error:
            return SampleFit(None, reason=str(error))

    def fit_finalists(self, raced: SampleFit) -> SampleFit:
        try:
            return self.search.fit_finalists(raced)
        except FIT_ERRORS as error:
            return SampleFit(None, reason=str(error))

    def improve_from_neighbours(self, fits: tuple[SampleFit, SampleFit | None, SampleFit | None]) -> SampleFit:
        try:
            return self.search.improve_from_neighbours(*fits)
        except FIT_ERRORS as error:
            event = f"on the sample, starts from neighbouring K failed: {error}"
            return replace(fits[0], events=(*fits[0].events, event))


Method = Callable[[_SampleTask, Any], Any]


def _run_timed(call: tuple[Method, Any], task: _SampleTask) -> tuple[Any, float]:
    """Call a method of the task with an argument; return its result and the seconds it took."""
    method, argument = call
    start = time.perf_counter()
    result = method(task, argument)
    return result, time.perf_counter() - start


RACED, CONVERGED = "race", "finalists"
"""Stages of :func:`fit_on_sample` after which it can be resumed."""


def fit_on_sample(
    grid: Sequence[CandidateSpec],
    profile: Profile,
    settings: Settings,
    executor: Executor,
    listener: Listener = ignore_progress,
    known: Mapping[CandidateSpec, SampleOutcome] | None = None,
    save: Callable[[dict[CandidateSpec, SampleOutcome]], None] = lambda _: None,
    prune_raced: Callable[[list[SampleOutcome]], list[SampleOutcome]] | None = None,
    resumed: tuple[str, Mapping[CandidateSpec, SampleOutcome]] = ("", {}),
    save_stage: Callable[[str, dict[CandidateSpec, SampleOutcome]], None] = lambda *_: None,
) -> list[SampleOutcome]:
    """Fit every candidate of the grid on the sample, except those that are ``known``.

    First the restarts of every candidate race each other; ``prune_raced`` may mark candidates that are hopeless by
    then. The others are fitted to convergence. Then each is tried from its neighbours with the same structure: a
    split of the fit with K - 1 components, a merge of the fit with K + 1. ``save`` is called with all outcomes;
    ``save_stage`` after the race and after the fits to convergence, with the name of the stage and the new outcomes,
    which as ``resumed`` are not made again.
    A candidate with more components than the sample has distinct rows, or with more parameters than the rows have
    values, fails with the reason in its fit.
    """
    outcomes: dict[CandidateSpec, SampleOutcome] = dict(known or {})
    for spec in grid:
        if too_few := explain_too_few_rows(spec, profile, settings):
            outcomes[spec] = SampleOutcome(SampleFit(None, reason=too_few))
    # The largest first: they take longest, and should not be left for the end.
    new = sorted((spec for spec in grid if spec not in outcomes), key=lambda spec: -spec.n_components)
    task = _SampleTask(make_sample_search(profile, settings), settings.n_init, settings.random_state)

    def run(method: Method, arguments: Mapping[Key, Any], label: str) -> dict[Key, tuple[Any, float]]:
        if not arguments:
            return {}
        sizes = [key if isinstance(key, int) else key.n_components for key in arguments]
        meter = Meter(listener, label, sizes, unit="components", live=len(arguments))
        calls = [(method, argument) for argument in arguments.values()]
        return dict(
            zip(arguments, executor.map(_run_timed, calls, shared=task, label=label, on_done=meter), strict=True)
        )

    def refit(method: Method, arguments: Mapping[CandidateSpec, Any]) -> None:
        for spec, (fit, seconds) in run(method, arguments, "explore").items():
            outcomes[spec] = SampleOutcome(fit, outcomes[spec].seconds + seconds)

    stage = resumed[0] if set(resumed[1]) == set(new) else ""
    if stage:
        outcomes |= resumed[1]
    else:
        seeds = run(_SampleTask.draw_seeds, {k: k for k in dict.fromkeys(spec.n_components for spec in new)}, "seed")
        entrants = {spec: (spec.covariance_type, seeds[spec.n_components][0]) for spec in new}
        for spec, (fit, seconds) in run(_SampleTask.race_restarts, entrants, "race").items():
            outcomes[spec] = SampleOutcome(fit, seconds)
        if new:
            save_stage(RACED, {spec: outcomes[spec] for spec in new})
    if prune_raced and new and stage != CONVERGED:
        pruned = prune_raced([outcomes[spec] for spec in grid])
        outcomes |= {spec: after for spec, after in zip(grid, pruned, strict=True) if after.is_unfinished}
    going_on = [spec for spec in new if not outcomes[spec].pruned_reason]
    if going_on and stage != CONVERGED:
        refit(_SampleTask.fit_finalists, {spec: outcomes[spec].fit for spec in going_on})
        save_stage(CONVERGED, {spec: outcomes[spec] for spec in new})

    neighbours = {}
    for spec in going_on:
        k, name = spec
        below, above = outcomes.get(CandidateSpec(k - 1, name)), outcomes.get(CandidateSpec(k + 1, name))
        if below or above:
            neighbours[spec] = (outcomes[spec].fit, below.fit if below else None, above.fit if above else None)
    refit(_SampleTask.improve_from_neighbours, neighbours)
    # A fit that its neighbour has overtaken in the same moment starts from it once more.
    for _ in range(OVERTAKEN_ROUNDS):
        overtaken = {}
        for spec in going_on:
            own, below = outcomes[spec], outcomes.get(CandidateSpec(spec.n_components - 1, spec.covariance_type))
            if below and own.fit.params and below.fit.history and own.fit.history[-1] < below.fit.history[-1]:
                overtaken[spec] = (own.fit, below.fit, None)
        refit(_SampleTask.improve_from_neighbours, overtaken)
        if not any(outcomes[spec].fit.rank > own.rank for spec, (own, _, _) in overtaken.items()):
            break
    if new:
        save(outcomes)
    return [outcomes[spec] for spec in grid]


def explain_too_few_rows(spec: CandidateSpec, profile: Profile, settings: Settings) -> str:
    """Return why a candidate cannot be fitted to these rows, or nothing if it can."""
    n_components, rows = spec.n_components, profile.sample.rows
    few = rows[: 10 * n_components]
    if n_components == 1:
        return ""
    some_are_distinct = any(len({v for v in c.tolist() if v == v}) >= n_components for c in few.T)
    if not some_are_distinct and (len(few) < n_components or len(np.unique(few, axis=0)) < n_components):
        distinct = len(np.unique(rows, axis=0))
        if distinct < n_components:
            count = f"only {distinct} of the {len(rows)} are distinct"
            return explain(
                f"{n_components} components need at least as many rows, and "
                + (f"there are {len(rows)}" if len(rows) < n_components else count),
                remedy=f"use at most {distinct} components, or more data",
            )
    d, n = len(profile.columns), profile.moments.rows
    parameters = (
        n_components - 1 + n_components * d + family_named(spec.covariance_type).n_parameters(n_components, d)
    )
    if parameters > n * d and settings.reg_covar is None and settings.prior is None:
        return explain(
            f"{spec.name} has {parameters:,} parameters, and {n:,.0f} rows of {d} columns hold {n * d:,.0f} values",
            why="the likelihood of such a model is largest where its components have collapsed onto single rows",
            remedy="use fewer components or columns, a structure with fewer parameters such as 'diag', or reg_covar",
        )
    return ""


def make_sample_search(profile: Profile, settings: Settings) -> SampleSearch:
    """Return what fits candidates on the sample of a profile."""
    # If the sample holds every row, going all the way there saves passes and costs none.
    is_whole = profile.sample_is_whole and settings.tol is None
    tol = min(WHOLE_SAMPLE_GAIN / profile.moments.rows, WHOLE_SAMPLE_TOL) if is_whole else settings.tol
    steps = algorithm_named(settings.algorithm).sample_steps
    sample = profile.sample
    noise = profile.bounding_box if settings.noise else None
    return SampleSearch(
        sample.rows, profile.scaling, make_penalty(profile, settings), tol, steps, sample.weights, noise,
        profile.moments if profile.incomplete_rows else None,
    )  # fmt: skip
