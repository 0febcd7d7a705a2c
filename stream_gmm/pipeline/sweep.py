"""The sweep: every (K, covariance structure) from one sample and the same shared passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from stream_gmm.core.covariance import family_named
from stream_gmm.core.criteria import CRITERIA, HELDOUT, Criteria
from stream_gmm.core.density import compile_density
from stream_gmm.core.em import EMState, Outcome
from stream_gmm.core.estep import score_rows
from stream_gmm.core.initialise import SampleFit, fit_sample
from stream_gmm.core.moments import Array
from stream_gmm.core.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.routes import choose_route
from stream_gmm.core.sampling import Holdout
from stream_gmm.core.scaling import Scaling
from stream_gmm.errors import ConfigError, InputDataError, did_you_mean, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.dataset import Source
from stream_gmm.pipeline.passes import FullPass
from stream_gmm.pipeline.profile import Profile, profile
from stream_gmm.pipeline.progress import Listener, Meter, silent
from stream_gmm.pipeline.reading import Reading, open_reading
from stream_gmm.pipeline.selection import Candidate, SweepResult, choose
from stream_gmm.pipeline.settings import OnPass, Settings, algorithm_named


@dataclass(frozen=True)
class _SampleTask:
    rows: Array
    scaling: Scaling
    settings: Settings
    tol: float | None
    steps: int


def _fit_on_sample(cell: tuple[int, str], task: _SampleTask) -> SampleFit:
    k, name = cell
    family = family_named(name)
    s = task.settings
    return fit_sample(
        task.rows, k, family, task.scaling,
        n_init=s.n_init, reg_covar=s.reg_covar, tol=task.tol, max_steps=task.steps,
        seed=(s.random_state, k),
    )  # fmt: skip


def explore(
    grid: Sequence[tuple[int, str]],
    found: Profile,
    settings: Settings,
    executor: Executor,
    listener: Listener = silent,
) -> list[SampleFit]:
    """Fit every cell of the grid on the sample; no pass over the data."""
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
    task = _SampleTask(
        found.sample.rows, found.scaling, settings, tol, algorithm_named(settings.algorithm).sample_steps
    )
    # The largest first: they take longest, and should not be left for the end.
    order = sorted(range(len(grid)), key=lambda i: -grid[i][0])
    meter = Meter(listener, "explore", [grid[i][0] for i in order], unit="components", live=len(grid))
    fits = executor.map(_fit_on_sample, [grid[i] for i in order], shared=task, label="explore", on_done=meter)
    by_cell = dict(zip(order, fits, strict=True))
    return [by_cell[i] for i in range(len(grid))]


def outlier_threshold(params: MixtureParams, rows: Array, quantile: float) -> float:
    """Return the quantile of the log-density over sample rows; -inf for quantile 0."""
    if quantile <= 0.0:
        return float("-inf")
    log_density = score_rows(compile_density(params), rows).log_density
    return float(np.quantile(log_density, quantile))


def finished(state: EMState, found: Profile, settings: Settings, provenance: Mapping[str, Any]) -> FitResult:
    """Turn the last state of a candidate into its result."""
    assert state.stats is not None
    assert state.outcome is not None
    warnings = list(found.warnings)
    choice = choose_route(state.params, compile_density(state.params), found.scaling, settings.preference)
    if state.outcome is not Outcome.CONVERGED:
        warnings.append(f"{state.params.family.name}-{state.params.n_components}: {state.outcome.value}.")
    return FitResult(
        params=state.params,
        outcome=state.outcome,
        criteria=Criteria.from_stats(state.stats, state.params.n_parameters),
        history=state.history,
        n_iter=state.n_iter,
        columns=found.columns,
        reason=state.reason,
        threshold=outlier_threshold(state.params, found.sample.rows, settings.outlier_quantile),
        outlier_quantile=settings.outlier_quantile,
        warnings=tuple(warnings),
        provenance={**provenance, "kernel_used": f"{choice.route} {choice.dtype}"},
    )


def provenance_of(source: Source, found: Profile, settings: Settings) -> dict[str, Any]:
    """Return what a result was made from; JSON values only."""
    return {
        "data_fingerprint": source.fingerprint,
        "rows": found.rows,
        "rows_used": found.used,
        "missing": source.missing,
        "algorithm": settings.algorithm,
        "n_init": settings.n_init,
        "tol": settings.tol,
        "max_passes": settings.max_passes,
        "reg_covar": settings.reg_covar,
        "random_state": settings.random_state,
        "sample_rows": len(found.sample.rows),
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
    found = profile(
        source, reading, executor,
        sample_rows=settings.sample_rows, random_state=settings.random_state, holdout=settings.holdout,
        listener=listener,
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
) -> tuple[list[EMState], int]:
    """Run candidates over the full data to their end; return them and the number of passes."""
    holdout = Holdout(settings.holdout, settings.random_state)
    full = FullPass.over(reading, found, executor, holdout, settings.preference, listener)
    run = algorithm_named(settings.algorithm).run
    return run(states, full, settings, on_pass), full.passes


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
    listener: Listener = silent,
    on_pass: OnPass = lambda _: None,
) -> SweepResult:
    """Fit every candidate and choose one.

    Raises
    ------
    ConfigError
        If the grid or the criterion is malformed.
    InputDataError
        If the data cannot be used.
    NoAdmissibleModelError
        If every candidate failed or is degenerate.
    """
    if criterion not in CRITERIA:
        raise ConfigError(
            f"unknown criterion {criterion!r}{did_you_mean(criterion, CRITERIA)} Known: {', '.join(CRITERIA)}."
        )
    if criterion == HELDOUT and not settings.holdout:
        raise ConfigError("the criterion 'heldout' needs rows held out: set holdout, such as 0.1.")
    grid = parse_grid(n_components, covariance_type)
    reading, found = first_pass(source, settings, executor, listener)
    starts = explore(grid, found, settings, executor, listener)
    states = [EMState(s.params) for s in starts if s.params is not None]
    ended, passes = fit_states(states, reading, found, settings, executor, listener, on_pass)
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
    result = finished(replace(state, params=state.params.canonical()), found, settings, provenance)
    return Candidate(cell[0], family_named(cell[1]), result, result.outcome, result.reason)
