"""What the sample says of every candidate: a fit, a start for the full data, and whether it is worth one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.search.sample_search import Explorer, SampleFit, Seed
from stream_gmm.errors import InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.pipeline.fit.algorithms import algorithm_named
from stream_gmm.pipeline.fit.grid import Cell
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Meter, silent


@dataclass(frozen=True)
class Explored:
    """A cell as fitted on the sample, the seconds that took, and why it need not go on (or nothing)."""

    fit: SampleFit
    seconds: float = 0.0
    beaten: str = ""

    @property
    def rough(self) -> bool:
        """True if it was given up after the race of its restarts, and is not run to convergence."""
        return bool(self.fit.finalists)


@dataclass(frozen=True)
class _SampleTask:
    explorer: Explorer
    n_init: int
    seed: int


Key = TypeVar("Key", int, Cell)
R = TypeVar("R")
Rungs = tuple[SampleFit, SampleFit | None, SampleFit | None]
"""The fit of a cell, and those with one component less and more."""


def _seed_on_sample(k: int, task: _SampleTask) -> tuple[Seed, ...]:
    return task.explorer.seeds(k, task.n_init, (task.seed, k))


def _race_on_sample(entrant: tuple[str, Sequence[Seed]], task: _SampleTask) -> Explored:
    start = time.perf_counter()
    found = task.explorer.race(family_named(entrant[0]), entrant[1])
    return Explored(found, time.perf_counter() - start)


def _finish_on_sample(raced: SampleFit, task: _SampleTask) -> Explored:
    start = time.perf_counter()
    found = task.explorer.finish(raced)
    return Explored(found, time.perf_counter() - start)


def _climb_on_sample(rungs: Rungs, task: _SampleTask) -> Explored:
    start = time.perf_counter()
    found = task.explorer.climb(*rungs)
    return Explored(found, time.perf_counter() - start)


def explore(
    grid: Sequence[Cell],
    found: Profile,
    settings: Settings,
    executor: Executor,
    listener: Listener = silent,
    known: Mapping[Cell, Explored] | None = None,
    keep: Callable[[dict[Cell, Explored]], None] = lambda _: None,
    give_up: Callable[[list[Explored]], list[Explored]] | None = None,
) -> list[Explored]:
    """Fit every cell of the grid on the sample, but those ``known``; no pass over the data.

    First the restarts of every cell race; ``give_up`` marks cells that are hopeless by then. The
    others run to convergence, and then each is tried from its neighbours: a split of K - 1, a merge of K + 1.
    ``keep`` gets what is fitted when it is.
    """
    _check_rows(grid, found)
    fits: dict[Cell, Explored] = dict(known or {})
    # The largest first: they take longest, and should not be left for the end.
    new = sorted((cell for cell in grid if cell not in fits), key=lambda cell: -cell[0])
    task = _SampleTask(explorer_for(found, settings), settings.n_init, settings.random_state)
    stage = _Stage(task, executor, listener)
    seeds = stage.run(_seed_on_sample, {k: k for k in dict.fromkeys(k for k, _ in new)}, "seed")
    fits |= stage.run(_race_on_sample, {(k, name): (name, seeds[k]) for k, name in new}, "race")
    if give_up and new:
        after = give_up([fits[c] for c in grid])
        fits |= {c: e for c, e in zip(grid, after, strict=True) if e.rough}
    order = [cell for cell in new if not fits[cell].beaten]
    fits |= _longer(fits, stage.run(_finish_on_sample, {c: fits[c].fit for c in order}))
    rungs = {cell: _rungs(cell, fits) for cell in order}
    between = {cell: found for cell, found in rungs.items() if found[1:] != (None, None)}
    fits |= _longer(fits, stage.run(_climb_on_sample, between))
    if new:
        keep(fits)
    return [fits[cell] for cell in grid]


def _longer(before: Mapping[Cell, Explored], after: Mapping[Cell, Explored]) -> dict[Cell, Explored]:
    """Return what came after, with the seconds of both."""
    return {c: Explored(e.fit, before[c].seconds + e.seconds) for c, e in after.items()}


@dataclass(frozen=True)
class _Stage:
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


def _check_rows(grid: Sequence[Cell], found: Profile) -> None:
    largest = max(k for k, _ in grid)
    if largest > len(found.sample.rows):
        raise InputDataError(
            explain(
                f"{largest} components need at least as many rows, and there are {len(found.sample.rows)}",
                remedy="use fewer components or more data",
            )
        )


def explorer_for(found: Profile, settings: Settings) -> Explorer:
    """Return what fits candidates on the sample."""
    # With every row in the sample, going all the way there saves passes and costs none.
    tol = 1e-9 if found.complete and settings.tol is None else settings.tol
    steps = algorithm_named(settings.algorithm).sample_steps
    sample = found.sample
    noise = found.box if settings.noise else None
    return Explorer(sample.rows, found.scaling, settings.penalty_of(found.moments), tol, steps, sample.weights, noise)


def _rungs(cell: Cell, fits: Mapping[Cell, Explored]) -> Rungs:
    k, name = cell
    below, above = fits.get((k - 1, name)), fits.get((k + 1, name))
    return fits[cell].fit, below.fit if below else None, above.fit if above else None














