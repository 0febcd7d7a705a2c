"""What the sample says of every candidate: a fit, a start for the full data, and whether it is worth one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.search.sample_search import SampleFit, SampleSearch, Seed
from stream_gmm.errors import explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.pipeline.fit.algorithms import algorithm_named
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress


@dataclass(frozen=True)
class SampleOutcome:
    """A cell as fitted on the sample, the seconds that took, and why it need not go on (or nothing)."""

    fit: SampleFit
    seconds: float = 0.0
    pruned_reason: str = ""

    @property
    def is_unfinished(self) -> bool:
        """True if it was given up after the race of its restarts, and is not run to convergence."""
        return bool(self.fit.finalists)


@dataclass(frozen=True)
class _SampleTask:
    search: SampleSearch
    n_init: int
    seed: int


Key = TypeVar("Key", int, CandidateSpec)
R = TypeVar("R")
Neighbours = tuple[SampleFit, SampleFit | None, SampleFit | None]
"""The fit of a cell, and those with one component less and more."""


def _draw_seeds(k: int, task: _SampleTask) -> tuple[Seed, ...]:
    return task.search.draw_seeds(k, task.n_init, (task.seed, k))


def _race_restarts(entrant: tuple[str, Sequence[Seed]], task: _SampleTask) -> SampleOutcome:
    start = time.perf_counter()
    fitted = task.search.race_restarts(family_named(entrant[0]), entrant[1])
    return SampleOutcome(fitted, time.perf_counter() - start)


def _fit_finalists(raced: SampleFit, task: _SampleTask) -> SampleOutcome:
    start = time.perf_counter()
    fitted = task.search.fit_finalists(raced)
    return SampleOutcome(fitted, time.perf_counter() - start)


def _improve_from_neighbours(neighbours: Neighbours, task: _SampleTask) -> SampleOutcome:
    start = time.perf_counter()
    fitted = task.search.improve_from_neighbours(*neighbours)
    return SampleOutcome(fitted, time.perf_counter() - start)


def fit_on_sample(
    grid: Sequence[CandidateSpec],
    fitted: Profile,
    settings: Settings,
    executor: Executor,
    listener: Listener = ignore_progress,
    known: Mapping[CandidateSpec, SampleOutcome] | None = None,
    keep: Callable[[dict[CandidateSpec, SampleOutcome]], None] = lambda _: None,
    prune_on_sample: Callable[[list[SampleOutcome]], list[SampleOutcome]] | None = None,
) -> list[SampleOutcome]:
    """Fit every cell of the grid on the sample, but those ``known``; no pass over the data.

    First the restarts of every cell race; ``prune_on_sample`` marks cells that are hopeless by then. The
    others run to convergence, and then each is tried from its neighbours: a split of K - 1, a merge of K + 1.
    ``keep`` gets what is fitted when it is.
    """
    fits: dict[CandidateSpec, SampleOutcome] = dict(known or {})
    too_large = {spec: SampleFit(None, reason=why) for spec in grid if (why := explain_too_few_rows(spec[0], fitted))}
    fits |= {spec: SampleOutcome(fit) for spec, fit in too_large.items()}
    # The largest first: they take longest, and should not be left for the end.
    new = sorted((spec for spec in grid if spec not in fits), key=lambda spec: -spec[0])
    task = _SampleTask(make_sample_search(fitted, settings), settings.n_init, settings.random_state)
    stage = _SampleStage(task, executor, listener)
    seeds = stage.run(_draw_seeds, {k: k for k in dict.fromkeys(k for k, _ in new)}, "seed")
    fits |= stage.run(_race_restarts, {(k, name): (name, seeds[k]) for k, name in new}, "race")
    if prune_on_sample and new:
        after = prune_on_sample([fits[c] for c in grid])
        fits |= {c: e for c, e in zip(grid, after, strict=True) if e.is_unfinished}
    order = [spec for spec in new if not fits[spec].pruned_reason]
    fits |= _add_seconds(fits, stage.run(_fit_finalists, {c: fits[c].fit for c in order}))
    neighbours = {spec: _find_neighbours(spec, fits) for spec in order}
    between = {spec: fitted for spec, fitted in neighbours.items() if fitted[1:] != (None, None)}
    fits |= _add_seconds(fits, stage.run(_improve_from_neighbours, between))
    if new:
        keep(fits)
    return [fits[spec] for spec in grid]


def _add_seconds(
    before: Mapping[CandidateSpec, SampleOutcome], after: Mapping[CandidateSpec, SampleOutcome]
) -> dict[CandidateSpec, SampleOutcome]:
    """Return what came after, with the seconds of both."""
    return {c: SampleOutcome(e.fit, before[c].seconds + e.seconds) for c, e in after.items()}


@dataclass(frozen=True)
class _SampleStage:
    task: _SampleTask
    executor: Executor
    listener: Listener

    def run(
        self, fn: Callable[[Any, _SampleTask], R], items: Mapping[Key, Any], label: str = "explore"
    ) -> dict[Key, R]:
        """Run a function over cells or numbers of components."""
        if not items:
            return {}
        sizes = [key if isinstance(key, int) else key[0] for key in items]
        meter = Meter(self.listener, label, sizes, unit="components", live=len(items))
        done = self.executor.map(fn, list(items.values()), shared=self.task, label=label, on_done=meter)
        return dict(zip(items, done, strict=True))


def explain_too_few_rows(n_components: int, fitted: Profile) -> str:
    """Return why so many components cannot be fitted to the sample, or nothing if they can."""
    rows = fitted.sample.rows
    few = rows[: 10 * n_components]
    if n_components == 1 or (len(few) >= n_components and len(np.unique(few, axis=0)) >= n_components):
        return ""
    distinct = len(np.unique(rows, axis=0))
    if distinct >= n_components:
        return ""
    what = (
        f"there are {len(rows)}" if len(rows) < n_components else f"only {distinct} of the {len(rows)} are distinct"
    )
    return explain(
        f"{n_components} components need at least as many rows, and {what}",
        remedy=f"use at most {distinct} components, or more data",
    )


def make_sample_search(fitted: Profile, settings: Settings) -> SampleSearch:
    """Return what fits candidates on the sample."""
    # With every row in the sample, going all the way there saves passes and costs none.
    tol = 1e-9 if fitted.sample_is_whole and settings.tol is None else settings.tol
    steps = algorithm_named(settings.algorithm).sample_steps
    sample = fitted.sample
    noise = fitted.bounding_box if settings.noise else None
    return SampleSearch(
        sample.rows, fitted.scaling, settings.penalty_of(fitted.moments), tol, steps, sample.weights, noise
    )


def _find_neighbours(spec: CandidateSpec, fits: Mapping[CandidateSpec, SampleOutcome]) -> Neighbours:
    k, name = spec
    below, above = fits.get((k - 1, name)), fits.get((k + 1, name))
    return fits[spec].fit, below.fit if below else None, above.fit if above else None
