"""The sweep: every (K, covariance structure) from one sample and the same shared passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from stream_gmm.core.covariance import family_named
from stream_gmm.core.criteria import CRITERIA, HELDOUT, Criteria
from stream_gmm.core.density import compile_density
from stream_gmm.core.em import EMState, Outcome, Review
from stream_gmm.core.estep import score_rows
from stream_gmm.core.initialise import Explorer, SampleFit
from stream_gmm.core.params import MixtureParams
from stream_gmm.core.pruning import prune as drop_beaten
from stream_gmm.core.result import FitResult
from stream_gmm.core.routes import choose_route
from stream_gmm.core.sampling import Holdout, Sample
from stream_gmm.errors import ConfigError, InputDataError, explain, one_of
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.dataset import Source
from stream_gmm.pipeline.passes import FullPass
from stream_gmm.pipeline.profile import Profile, profile
from stream_gmm.pipeline.progress import Listener, Meter, silent
from stream_gmm.pipeline.reading import Reading, open_reading, open_some
from stream_gmm.pipeline.selection import Candidate, SweepResult, choose
from stream_gmm.pipeline.settings import OnPass, Settings, algorithm_named

FLAT = 1e-3
"""A component with less than this part of a column's variance has collapsed in that column."""


@dataclass(frozen=True)
class _SampleTask:
    explorer: Explorer
    n_init: int
    seed: int


Rungs = tuple[SampleFit, SampleFit | None, SampleFit | None]
"""The fit of a cell, and those with one component less and more."""


def _fit_on_sample(cell: tuple[int, str], task: _SampleTask) -> SampleFit:
    k, name = cell
    return task.explorer.fit(k, family_named(name), task.n_init, (task.seed, k))


def _climb_on_sample(rungs: Rungs, task: _SampleTask) -> SampleFit:
    return task.explorer.climb(*rungs)


def explore(
    grid: Sequence[tuple[int, str]],
    found: Profile,
    settings: Settings,
    executor: Executor,
    listener: Listener = silent,
) -> list[SampleFit]:
    """Fit every cell of the grid on the sample; no pass over the data.

    Then every cell is tried from its neighbours: a split of K - 1, a merge of K + 1.
    """
    largest = max(k for k, _ in grid)
    if largest > len(found.sample.rows):
        raise InputDataError(
            explain(
                f"{largest} components need at least as many rows, and there are {len(found.sample.rows)}",
                remedy="use fewer components or more data",
            )
        )
    # With every row in the sample, going all the way there saves passes and costs none.
    tol = 1e-9 if found.complete and settings.tol is None else settings.tol
    steps = algorithm_named(settings.algorithm).sample_steps
    sample = found.sample
    explorer = Explorer(sample.rows, found.scaling, settings.penalty(found), tol, steps, sample.weights)
    task = _SampleTask(explorer, settings.n_init, settings.random_state)
    # The largest first: they take longest, and should not be left for the end.
    order = sorted(grid, key=lambda cell: -cell[0])
    fits = _on_sample(_fit_on_sample, order, task, order, executor, listener)
    rungs = {cell: _rungs(cell, fits) for cell in order}
    between = [cell for cell in order if rungs[cell][1:] != (None, None)]
    if between:
        fits |= _on_sample(_climb_on_sample, [rungs[c] for c in between], task, between, executor, listener)
    return [fits[cell] for cell in grid]


def _on_sample(
    fn: Callable[[Any, _SampleTask], SampleFit],
    items: Sequence[Any],
    task: _SampleTask,
    cells: Sequence[tuple[int, str]],
    executor: Executor,
    listener: Listener,
) -> dict[tuple[int, str], SampleFit]:
    meter = Meter(listener, "explore", [k for k, _ in cells], unit="components", live=len(cells))
    return dict(zip(cells, executor.map(fn, items, shared=task, label="explore", on_done=meter), strict=True))


def _rungs(cell: tuple[int, str], fits: Mapping[tuple[int, str], SampleFit]) -> Rungs:
    k, name = cell
    return fits[cell], fits.get((k - 1, name)), fits.get((k + 1, name))


def outlier_threshold(params: MixtureParams, sample: Sample, quantile: float) -> float:
    """Return the quantile of the log-density over sample rows; -inf for quantile 0."""
    if quantile <= 0.0:
        return float("-inf")
    log_density = score_rows(compile_density(params), sample.rows).log_density
    if not len(sample.weights):
        return float(np.quantile(log_density, quantile))
    return float(np.quantile(log_density, quantile, weights=sample.weights, method="inverted_cdf"))


def collapsed(state: EMState, found: Profile) -> EMState:
    """Return the state with the columns and values in its reason on which components have collapsed."""
    if state.outcome is not Outcome.DEGENERATE or not state.report.floored:
        return state
    variances = np.einsum("kjj->kj", state.params.dense_covariances) / np.diagonal(found.spread)
    places: dict[str, None] = {}
    for k in state.report.floored:
        j = int(variances[k].argmin())
        flat = variances[k, j] < FLAT
        places[f"{found.columns[j]} = {state.params.means[k, j]:.6g}" if flat else "a combination of columns"] = None
    return replace(state, reason=f"{state.reason}: on {', '.join(places)}")


def finished(state: EMState, found: Profile, settings: Settings, provenance: Mapping[str, Any]) -> FitResult:
    """Turn the last state of a candidate into its result."""
    assert state.stats is not None
    assert state.outcome is not None
    warnings = list(found.warnings)
    choice = choose_route(state.params, compile_density(state.params), found.scaling, settings.preference)
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
        columns=found.columns,
        reason=state.reason,
        threshold=outlier_threshold(state.params, found.sample, settings.outlier_quantile),
        outlier_quantile=settings.outlier_quantile,
        warnings=tuple(warnings),
        events=state.events,
        provenance={
            **provenance,
            "rows_used": int(state.stats.rows),
            "kernel_used": f"{choice.route} {choice.dtype}",
        },
    )


def provenance_of(source: Source, found: Profile, settings: Settings) -> dict[str, Any]:
    """Return what a result was made from; JSON values only."""
    return {
        "data_fingerprint": source.fingerprint,
        "rows": found.total_rows,
        "missing": source.missing,
        "weight": source.weight,
        "algorithm": settings.algorithm,
        "accel": settings.accel,
        "n_init": settings.n_init,
        "tol": settings.tol,
        "max_passes": settings.max_passes,
        "reg_covar": settings.reg_covar,
        "random_state": settings.random_state,
        "sample_rows": len(found.sample.rows),
        "profile": settings.profile,
        "holdout": settings.holdout,
        "kernel": settings.kernel,
        "dtype": settings.dtype,
        "version": version("stream-gmm"),
    }


def first_pass(
    source: Source, settings: Settings, executor: Executor, listener: Listener = silent
) -> tuple[Reading, Profile]:
    """Read the data for the first time: keep what is to be kept, and profile it."""
    leaves = algorithm_named(settings.algorithm).leaves(source)
    reading = open_reading(source, leaves, executor, settings.cache_policy)
    some = None if settings.profile == "full" else open_some(source, settings.sample_rows, settings.random_state)
    found = profile(
        source, some or reading, executor,
        sample_rows=settings.sample_rows, random_state=settings.random_state, holdout=settings.holdout,
        total_rows=sum(reading.rows), listener=listener,
    )  # fmt: skip
    return reading, found


def fit_states(
    states: list[EMState],
    reading: Reading,
    found: Profile,
    settings: Settings,
    executor: Executor,
    listener: Listener = silent,
    on_pass: OnPass = lambda _: None,
    review: Review = list,
) -> tuple[list[EMState], int]:
    """Run candidates over the full data to their end; return them and the number of passes."""
    holdout = Holdout(settings.holdout, settings.random_state)
    full = FullPass.over(reading, found, executor, holdout, settings.preference, listener)
    run = algorithm_named(settings.algorithm).run
    return run(states, full, settings.scheme(found), settings, on_pass, review), full.passes


def parse_grid(n_components: int | Iterable[int], covariance_type: str | Iterable[str]) -> list[tuple[int, str]]:
    """Return the cells ``(K, structure)`` of a grid, by structure and then by K, each once.

    Raises
    ------
    ConfigError
        If a K is not a positive whole number, a structure is unknown, or there is no cell.
    """
    ks = [n_components] if isinstance(n_components, int | np.integer) else list(n_components)
    names = [covariance_type] if isinstance(covariance_type, str) else list(covariance_type)
    for k in ks:
        if not isinstance(k, int | np.integer) or k < 1:
            raise ConfigError(f"n_components must be whole numbers of at least 1, not {k!r}.")
    grid = [(int(k), family_named(n).name) for n in names for k in sorted(ks)]
    if not grid:
        raise ConfigError("the sweep has no candidate: give n_components and covariance_type.")
    return list(dict.fromkeys(grid))


def sweep(
    source: Source,
    n_components: int | Iterable[int],
    covariance_type: str | Iterable[str],
    settings: Settings,
    executor: Executor,
    *,
    criterion: str = "bic",
    prune: bool = True,
    listener: Listener = silent,
    on_pass: OnPass = lambda _: None,
) -> SweepResult:
    """Fit every candidate and choose one.

    With ``prune``, a candidate that cannot win any more takes part in no more passes. It stays in the table.

    Raises
    ------
    ConfigError
        If the grid or the criterion is malformed.
    InputDataError
        If the data cannot be used.
    NoAdmissibleModelError
        If every candidate failed or is degenerate.
    """
    one_of(criterion, CRITERIA, "criterion")
    if criterion == HELDOUT and not settings.holdout:
        raise ConfigError("the criterion 'heldout' needs rows held out: set holdout, such as 0.1.")
    grid = parse_grid(n_components, covariance_type)
    reading, found = first_pass(source, settings, executor, listener)
    starts = explore(grid, found, settings, executor, listener)
    states = [EMState(s.params, events=s.events) for s in starts if s.params is not None]
    review: Review = partial(drop_beaten, criterion=criterion) if prune else list
    ended, passes = fit_states(states, reading, found, settings, executor, listener, on_pass, review)
    provenance = provenance_of(source, found, settings)
    remaining = iter(ended)
    candidates = tuple(
        _failed(cell, start.reason)
        if start.params is None
        else _ended(cell, next(remaining), found, settings, provenance)
        for cell, start in zip(grid, starts, strict=True)
    )
    return choose(candidates, criterion, found, passes + 1)


def _failed(cell: tuple[int, str], reason: str) -> Candidate:
    return Candidate(cell[0], family_named(cell[1]), None, Outcome.FAILED, reason)


def _ended(
    cell: tuple[int, str], state: EMState, found: Profile, settings: Settings, provenance: dict[str, Any]
) -> Candidate:
    if state.outcome is Outcome.FAILED:
        return _failed(cell, state.reason)
    state = collapsed(state, found)
    result = finished(replace(state, params=state.params.canonical()), found, settings, provenance)
    return Candidate(cell[0], family_named(cell[1]), result, result.outcome, result.reason)
