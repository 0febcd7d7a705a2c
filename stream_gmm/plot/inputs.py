"""What the plots take: a fit, a sweep, an estimator, the table of a sweep, rows in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stream_gmm.core.estep.marginal.patterns import find_complete
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.frames import as_rows
from stream_gmm.core.rows.transforms import restore_rows
from stream_gmm.errors import ConfigError, InputDataError, explain
from stream_gmm.pipeline.sweep.result import SweepResult

TableRows = Sequence[Mapping[str, Any]]
"""The sweep table, one mapping for each candidate."""

ENOUGH_ROWS = 100
"""With so many complete rows, those with missing values are not drawn."""


def take_sweep(result: Any) -> SweepResult:
    """Return a sweep, or that of a fitted selector.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    found = result if isinstance(result, SweepResult) else getattr(result, "results_", None)
    if not isinstance(found, SweepResult):
        raise ConfigError(f"this plot takes a SweepResult, as sg.sweep returns it, not a {type(result).__name__}.")
    return found


def take_model(result: Any) -> FitResult:
    """Return a fit, the chosen one of a sweep, or that of an estimator.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    found = result.best if isinstance(result, SweepResult) else result
    found = found if isinstance(found, FitResult) else getattr(found, "result_", None)
    if not isinstance(found, FitResult):
        raise ConfigError(
            f"this plot takes a FitResult, a SweepResult or a fitted estimator, not a {type(result).__name__}."
        )
    return found


def take_rows(result: Any, rows: Any) -> Array:
    """Return the given rows as float64 ``(N, D)``; without any, the sample that a sweep keeps.

    Of rows with missing values those are drawn that are complete; if they are few, all, with conditional means in
    place of what is missing.

    Raises
    ------
    ConfigError
        If there are none.
    InputDataError
        If they cannot be used, or do not fit the model.
    """
    model = take_model(result)
    sweep = result if isinstance(result, SweepResult) else getattr(result, "results_", None)
    if rows is None and not isinstance(sweep, SweepResult):
        raise ConfigError(
            explain(
                "this plot needs rows",
                why=f"a {type(result).__name__} keeps none",
                remedy="pass rows=, an array or a data frame; a SweepResult keeps its sample",
            )
        )
    policy = "marginalise" if model.marginalises else "error"
    if rows is None and sweep is not None:
        values = restore_rows(sweep.profile.sample.rows, model.columns, model.transforms)
    else:
        values = as_rows(rows, model.columns, policy)
    if values.shape[1] != model.n_features_in_:
        raise InputDataError(f"the rows have {values.shape[1]} columns, the model {model.n_features_in_}.")
    if not len(values):
        raise InputDataError("there are no rows to draw.")
    complete = find_complete(values)
    if complete is None:
        return values
    return values[complete] if complete.sum() >= ENOUGH_ROWS else model.impute(values)[0]


def take_table(sweep: Any) -> TableRows:
    """Return the table of a sweep; that table itself, as Arrow or as mappings, is accepted, too.

    Raises
    ------
    ConfigError
        If it is something else.
    """
    if hasattr(sweep, "to_pylist"):
        sweep = sweep.to_pylist()
    table = sweep if isinstance(sweep, list | tuple) else take_sweep(sweep).table.to_pylist()
    if not table or not all(isinstance(r, Mapping) and "n_components" in r for r in table):
        raise ConfigError("the table is not that of a sweep: give a SweepResult or its .table.")
    return table


def column_name(model: FitResult, j: int) -> str:
    """Return the name of a column as it was fitted (``log1p(x)``); ``x0``, ``x1`` ... if the model has none."""
    return model.labels[j] if model.columns else f"x{j}"


def column_number(model: FitResult, column: int | str) -> int:
    """Return the position of a column that is given by name or position.

    Raises
    ------
    ConfigError
        If there is no such column.
    """
    names = list(model.columns) or [column_name(model, j) for j in range(model.n_features_in_)]
    if column in names:
        return names.index(str(column))
    if isinstance(column, int) and 0 <= column < len(names):
        return column
    raise ConfigError(f"the model has no column {column!r}; it has {', '.join(names[:20])}.")
