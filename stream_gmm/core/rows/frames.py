"""Arrays, data frames and Arrow tables as rows of float64, or an error that names row and column.

No message holds a value of the data. What cannot be a number without a loss is refused: text, dates, complex numbers,
sparse matrices, whole numbers that a float64 cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.moments import Array
from stream_gmm.errors import InputDataError, InputTypeError, explain

LARGEST = 1e150
"""Largest absolute value that can be used: a sum of the squares of larger ones overflows."""
_EXACT = 2**53
"""Up to here every whole number is a float64."""
_MISSING = ("NoneType", "NAType", "NaTType")
"""Types of the values that stand for a missing one: None, pandas.NA and pandas.NaT."""
_KINDS = {"U": "text", "S": "bytes", "T": "text", "M": "dates", "m": "time differences", "V": "records"}

Locate = Callable[[int], str]
"""Returns in words where a position of the flattened values is."""


def column_names(data: Any) -> tuple[str, ...]:
    """Return the names of the columns of a data frame or Arrow table; none for anything else."""
    names = data.column_names if hasattr(data, "column_names") else getattr(data, "columns", ())
    return tuple(str(name) for name in names)


def as_rows(data: Any, columns: tuple[str, ...] = (), missing: str = "error", copy: bool = True) -> Array:
    """Return an array, a data frame or an Arrow table as float64 rows ``(N, D)``.

    The columns of frames and tables go by name; those that are not in ``columns`` are left out. With ``missing``
    ``"drop"``, rows with a value that cannot be used are left out; with ``"marginalise"``, missing values are NaN.
    Without ``copy``, an array of float64 is returned as it is: for who looks at the rows and does not keep them.

    Raises
    ------
    InputDataError
        If a column is missing, there twice or not numeric, the shape is wrong, or a value is NaN, infinite, beyond
        1e150, or not exactly a float64. It is also a TypeError where the type is to blame.
    """
    if hasattr(data, "collect"):
        raise InputTypeError(
            explain(
                f"the rows are a {type(data).__name__}, which holds none yet",
                remedy="collect them, or write them to Parquet and pass the path",
            )
        )
    names = column_names(data)
    if names:
        names = _select_columns(names, columns)
        rows = np.column_stack([_read_column(data, name) for name in names])
    else:
        rows = _read_array(data, copy)
    if rows.shape[1] == 0:
        raise InputDataError(
            explain(
                f"found data with 0 feature(s) (shape={rows.shape}) while a minimum of 1 is required",
                remedy="pass at least one column",
            )
        )
    with np.errstate(over="ignore"):
        # One look instead of three: NaN and values beyond the limit show in the sum of squares.
        if np.einsum("ij,ij->", rows, rows) < LARGEST**2:
            return rows
    usable = np.abs(rows) <= LARGEST
    if missing == "marginalise":
        usable |= np.isnan(rows)
    if missing == "drop":
        return rows[usable.all(axis=1)]
    if not usable.all():
        raise InputDataError(_describe_unusable(rows, usable, names))
    return rows


def _select_columns(names: tuple[str, ...], columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns to read: those asked for, or all."""
    wanted = columns or names
    twice = sorted({c for c in wanted if names.count(c) > 1})
    if twice:
        raise InputDataError(
            explain(f"the frame has columns {twice} more than once", remedy="rename them, or leave them out")
        )
    absent = [c for c in wanted if c not in names]
    if absent:
        raise InputDataError(
            explain(
                f"the frame lacks columns {absent}",
                why=f"the model has {list(wanted)}",
                remedy=f"pass a frame with these columns; this one has {list(names)}",
            )
        )
    return wanted


def _read_column(data: Any, name: str) -> Array:
    index = column_names(data).index(name)
    if hasattr(data, "column_names"):
        column = data.column(index)
    elif hasattr(data, "iloc"):
        column = data.iloc[:, index]
    else:
        column = data[name]
    return _to_float64(column, f"column '{name}'", lambda row: f"row {row}, column '{name}'")


def _read_array(data: Any, copy: bool) -> Array:
    if hasattr(data, "tocsr") and hasattr(data, "nnz"):
        raise InputTypeError(
            explain(
                "the rows are a sparse matrix, and sparse input is not supported",
                why="the means and covariances of its columns are dense",
                remedy="pass a dense array, such as X.toarray()",
            )
        )
    try:
        array = data if np.ma.isMaskedArray(data) else np.asarray(data)
    except ValueError as error:
        raise InputDataError(
            explain("the rows cannot be read as numbers: their lengths differ", remedy="pass a table of numbers")
        ) from error
    n_columns = max(array.shape[-1], 1) if array.ndim > 1 else 1
    rows = _to_float64(array, "the array", lambda i: f"row {i // n_columns}, column {i % n_columns}", copy)
    if rows.ndim != 2:
        raise InputDataError(
            explain(
                f"expected rows of shape (N, D), found an array of shape {rows.shape}",
                remedy="Reshape your data with .reshape(-1, 1) if it is one column, .reshape(1, -1) if it is one row",
            )
        )
    return rows


def _to_float64(values: Any, what: str, locate: Locate, copy: bool = True) -> Array:
    """Return values as float64, NaN for those that are missing.

    Raises
    ------
    InputDataError
        If they are not numbers, or not exactly float64.
    """
    if np.ma.isMaskedArray(values):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    array = np.asarray(values)
    if array.dtype.kind in _KINDS:
        kind = _KINDS[array.dtype.kind]
        raise InputDataError(
            explain(f"{what} cannot be read as numbers: it holds {kind}", remedy="leave it out, or convert it")
        )
    if array.dtype.kind == "c":
        raise InputDataError(explain(f"Complex data not supported: {what} is complex", remedy="pass real numbers"))
    if array.dtype.kind == "O":
        return _read_objects(array, what, locate)
    with np.errstate(over="ignore"):
        out = array.astype(np.float64, copy=copy)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        large = np.flatnonzero((array > _EXACT) | (array < -_EXACT))
        _refuse_inexact(array.ravel()[large], large, locate)
    return out


def _read_objects(array: NDArray[Any], what: str, locate: Locate) -> Array:
    """Return values of any Python type as float64."""
    out, flat = np.full(array.size, np.nan), array.ravel()
    whole: list[int] = []
    for i, value in enumerate(flat):
        if type(value).__name__ in _MISSING:
            continue
        if isinstance(value, np.ndarray):
            raise InputTypeError(
                explain(f"{locate(i)} is an array", remedy="write every entry as a column of its own")
            )
        if isinstance(value, str | bytes):
            raise InputDataError(
                explain(
                    f"{what} cannot be read as numbers: it holds text at {locate(i)}",
                    remedy="leave it out, or convert it to numbers",
                )
            )
        if isinstance(value, complex | np.complexfloating):
            raise InputDataError(explain(f"Complex data not supported: {locate(i)}", remedy="pass real numbers"))
        try:
            out[i] = float(value)
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                explain(
                    f"{what} cannot be read as numbers: {locate(i)} is of type {type(value).__name__}",
                    why=str(error) if isinstance(error, TypeError) else "",
                    remedy="leave it out, or convert it to numbers",
                )
            ) from error
        except OverflowError:
            out[i] = np.inf
        if isinstance(value, int | np.integer):
            whole.append(i)
    _refuse_inexact(flat[whole], np.array(whole, dtype=np.int64), locate)
    return out.reshape(array.shape)


def _refuse_inexact(values: NDArray[Any], positions: NDArray[np.int64], locate: Locate) -> None:
    """Refuse whole numbers that a float64 does not hold exactly; they are at these positions."""
    for value, position in zip(values, positions, strict=True):
        if abs(int(value)) > _EXACT and int(float(value)) != int(value):
            raise InputDataError(
                explain(
                    f"{locate(int(position))}: a value does not fit a float64 exactly",
                    why="it is a whole number beyond 2**53",
                    remedy="leave the column out (is it an identifier?) or convert it to float64",
                )
            )


def _describe_unusable(rows: Array, usable: NDArray[np.bool_], names: tuple[str, ...]) -> str:
    row, column = (int(i) for i in np.argwhere(~usable)[0])
    oversized = bool(np.isfinite(rows[row, column]))
    place = f"column '{names[column]}'" if names else f"column {column}"
    return explain(
        f"row {row}, {place} is {'oversized' if oversized else 'NaN or infinite'} "
        f"({int((~usable).sum())} such values)",
        why=f"squares of values beyond {LARGEST:g} overflow" if oversized else "",
        remedy="drop or fill these rows, or pass a data set opened with missing='drop'",
    )
