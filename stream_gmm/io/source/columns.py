"""Which columns are fitted: those that are named, by name, pattern or type; else all that look like measurements.

Without names, identifiers, row numbers and parts of a date are set aside. That is decided by the names, by the first
rows of the data set and by the ranges in the footers; no other row is read.
"""

from __future__ import annotations

import fnmatch
import functools
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream_gmm.core.display import shorten_list
from stream_gmm.core.estep.accumulate import CHUNK_ROWS
from stream_gmm.errors import ConfigError, InputDataError, did_you_mean, explain
from stream_gmm.io.source.files import name_some, open_unchanged
from stream_gmm.io.source.parts import Footer
from stream_gmm.io.source.schema import (
    Features,
    FileSchema,
    choose_features,
    distinct_schemas,
    group_by_schema,
    is_numeric,
)

log = logging.getLogger(__name__)

_MAGIC = re.compile(r"[*?\[]")
_TYPE = "dtype:"
_TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    "float": pa.types.is_floating,
    "int": pa.types.is_integer,
    "bool": pa.types.is_boolean,
    "decimal": pa.types.is_decimal,
    "number": lambda kind: is_numeric(kind) and not pa.types.is_boolean(kind),
    **{
        name: functools.partial(lambda known, kind: kind.equals(known), getattr(pa, name)())
        for name in (
            "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        )
    },
}  # fmt: skip
"""What may stand behind ``dtype:``: a type of pyarrow, or the kind of several."""

NAMED_COLUMNS, NAMED_PROBLEMS = 100, 5
"""So many columns, and so many problems with columns, are listed in a message."""
MIN_ROWS = 20
"""Fewer first rows tell nothing of a column of integers."""
_IDENTIFIER = re.compile(r"(?i:id|uid|pk|rowid|.*_id)|.*[a-z]I[dD]")
_ROW_NUMBER = re.compile(
    r"(?i)index|idx|unnamed: ?0|seq|sequence|(row|line|record|rec|obs|serial|seq)([_ ]?(no|nr|num|number|index|idx))?"
)
_PARTS_OF_DATE: dict[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys(("year", "yr"), ((0, 99), (1000, 3000))),
    **dict.fromkeys(("quarter",), ((1, 4),)),
    **dict.fromkeys(("month", "mnth", "mon"), ((1, 12),)),
    **dict.fromkeys(("week", "weekofyear", "week_of_year"), ((0, 53),)),
    **dict.fromkeys(("day", "dayofmonth", "day_of_month", "mday"), ((1, 31),)),
    **dict.fromkeys(("dayofyear", "day_of_year", "doy", "yday"), ((1, 366),)),
    **dict.fromkeys(("weekday", "dayofweek", "day_of_week", "dow", "wday"), ((0, 7),)),
    **dict.fromkeys(("hour", "hr", "hourofday", "hour_of_day"), ((0, 24),)),
    **dict.fromkeys(("minute",), ((0, 59),)),
    **dict.fromkeys(("second",), ((0, 60),)),
}
"""Names in lower case, and the ranges that their values have."""


def choose_columns(
    footers: Sequence[Footer], columns: Sequence[str] | None, exclude: Sequence[str], weight: str | None
) -> Features:
    """Return the columns to fit.

    ``columns`` and ``exclude`` hold names, patterns such as ``x*``, and types such as ``dtype:float64``. Without
    ``columns`` all numeric ones are chosen, except identifiers, row numbers and parts of a date.

    Raises
    ------
    InputDataError
        If no column is left, a pattern matches none, or as :func:`~stream_gmm.io.source.schema.choose_features`.
    ConfigError
        If a type is unknown, or a column is named twice.
    """
    schemas = distinct_schemas(FileSchema(f.schema, f.file, f.metadata.num_rows) for f in footers)
    excluded = {
        name for text in exclude for name in _expand_selector(text, schemas, "exclude_columns", numeric=False)
    }
    partitioned = {item.name for f in footers for item, _ in f.file.partition} if not columns else set()
    excluded |= partitioned
    kept = [replace(one, schema=_drop_columns(one.schema, excluded)) for one in schemas] if excluded else schemas
    if columns:
        names: list[str] = []
        for text in columns:
            found = _expand_selector(text, kept, "columns", numeric=True)
            if found == (text,) and text in names:
                raise ConfigError(f"a column is named twice: {list(columns)}.")
            names += [n for n in found if n not in names and (n != weight or found == (text,))]
        names = [n for n in names if n not in excluded]
        if not names:
            raise InputDataError("every column of data.columns is left out by data.exclude_columns.")
        return Features(tuple(names))
    chosen = choose_features(kept, weight)
    if partitioned:
        warning = f"partition columns of the table are not fitted: {sorted(partitioned)}; name them in the columns."
        chosen = replace(chosen, warnings=(*chosen.warnings, warning))
    empty = find_empty(footers, chosen.columns)
    if empty and len(empty) < len(chosen.columns):
        warning = f"columns {list(empty)} hold no value in any file and are not fitted."
        kept_names = tuple(n for n in chosen.columns if n not in empty)
        chosen = Features(kept_names, (*chosen.warnings, warning))
    aside = find_identifiers(footers, chosen.columns)
    if not aside or len(aside) == len(chosen.columns):
        return chosen
    rest = tuple(n for n in chosen.columns if n not in aside)
    described = ", ".join(f"{name} ({why})" for name, why in aside.items())
    warning = (
        f"columns that look like identifiers, row numbers or parts of a date are not fitted: {described}. "
        f"To fit them, name them in the columns: {[*aside, *rest]}."
    )
    _log_once(warning)
    return Features(rest, (*chosen.warnings, warning))


def check_features(files: Sequence[FileSchema], columns: Sequence[str]) -> None:
    """Refuse named columns that are not in every file, or cannot be read as numbers.

    Raises
    ------
    InputDataError
        Names files and columns; all problems at once, those of one kind together.
    """
    groups = group_by_schema(files)
    has_values = {n for g in groups for n in columns if g[0].counts[n] == 1 and is_numeric(g[0].types[n])}
    problems: dict[tuple[str, str], list[FileSchema]] = {}
    for group in groups:
        counts, types = group[0].counts, group[0].types
        for name in columns:
            if name not in counts:
                problems.setdefault((name, "is not there"), []).extend(group)
            elif counts[name] > 1:
                problems.setdefault((name, f"is there {counts[name]} times"), []).extend(group)
            elif not (is_numeric(types[name]) or (pa.types.is_null(types[name]) and name in has_values)):
                problems.setdefault((name, f"is {types[name]}, not a number"), []).extend(group)
    if not problems:
        return
    (name, what), where = next(iter(problems.items()))
    if len(problems) == 1 and len(where) == 1:
        raise InputDataError(_describe_column(name, what, where[0]))
    lines = [
        f"column '{name}' {what} in {len(where)} of {len(files)} files ({name_some([f.place for f in where])})"
        for (name, what), where in list(problems.items())[:NAMED_PROBLEMS]
    ]
    if len(problems) > NAMED_PROBLEMS:
        lines.append(f"and {len(problems) - NAMED_PROBLEMS} more problems with columns")
    raise InputDataError(
        explain(
            "; ".join(lines),
            why=_describe_column(name, what, where[0]),
            remedy="leave these files out with data.exclude, or these columns out of data.columns",
        )
    )


def _describe_column(name: str, what: str, one: FileSchema) -> str:
    """Return what is wrong with a column in one file, and what to do about it."""
    if name not in one.counts:
        have = shorten_list(one.schema.names, NAMED_COLUMNS)
        return f"{one.place}: there is no column '{name}'{did_you_mean(name, one.counts)} It has: {have}."
    if one.counts[name] > 1:
        return explain(f"{one.place}: there are {one.counts[name]} columns '{name}'", remedy="rename them")
    return explain(
        f"{one.place}: column '{name}' {what}",
        remedy="leave it out of data.columns, or convert it where the data is written",
    )


@functools.lru_cache(maxsize=1024)
def _log_once(message: str) -> None:
    """Log a message, once in a process: a job opens its data set several times."""
    log.warning(message)


def _drop_columns(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    return pa.schema([f for f in schema if f.name not in names], schema.metadata)


def _expand_selector(text: str, schemas: Sequence[FileSchema], key: str, *, numeric: bool) -> tuple[str, ...]:
    """Return the columns that a name, a pattern or a type stands for; patterns choose among the numeric ones."""
    names = tuple(dict.fromkeys(n for one in schemas for n in one.schema.names))
    if text in names:
        return (text,)
    if text.startswith(_TYPE):
        kind = text.removeprefix(_TYPE)
        if kind not in _TYPES:
            raise ConfigError(f"{key}: unknown type '{text}'{did_you_mean(kind, _TYPES)} Known: {', '.join(_TYPES)}.")
        found = [n for n in names if _has_type(schemas, n, _TYPES[kind])]
    elif _MAGIC.search(text):
        matching = [n for n in names if fnmatch.fnmatchcase(n, text)]
        found = [n for n in matching if _has_type(schemas, n, is_numeric)] if numeric else matching
    elif numeric:
        return (text,)  # check_features explains that there is no such column
    else:
        raise InputDataError(f"{key}: there is no column '{text}'{did_you_mean(text, names)}")
    if not found:
        what = "numeric column" if numeric else "column"
        raise InputDataError(explain(f"{key}: no {what} matches '{text}'", why=f"there are {', '.join(names)}"))
    return tuple(found)


def _has_type(schemas: Sequence[FileSchema], name: str, test: Callable[[pa.DataType], bool]) -> bool:
    """Return True if a column passes a test of its type in every file, and has values in one of them."""
    kinds = [one.types[name] for one in schemas if name in one.counts]
    kinds = [k.value_type if pa.types.is_dictionary(k) else k for k in kinds if not pa.types.is_null(k)]
    return bool(kinds) and all(test(k) for k in kinds)


def find_identifiers(footers: Sequence[Footer], names: Sequence[str]) -> dict[str, str]:
    """Return the columns that look like identifiers, row numbers or parts of a date, each with the reason."""
    place = next(((f, g) for f in footers for g in range(f.metadata.num_row_groups)
                  if f.metadata.row_group(g).num_rows), None)  # fmt: skip
    if place is None:
        return {}
    first, group = place
    types = FileSchema(first.schema).types
    wanted = [n for n in names if n in types and (pa.types.is_integer(types[n]) or _is_suspicious(n))]
    if not wanted:
        return {}
    try:
        with open_unchanged(first.file) as parquet:
            batches = parquet.iter_batches(CHUNK_ROWS, row_groups=[group], columns=wanted, use_threads=False)
            batch = next(iter(batches), None)
    except (OSError, pa.ArrowException):
        return {}  # the first pass explains what is wrong
    if batch is None:
        return {}
    out = {name: _describe_identifier(name, batch.column(name), footers) for name in wanted}
    return {name: why for name, why in out.items() if why}


def find_empty(footers: Sequence[Footer], names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that hold nothing but nulls, as the statistics in the footers say."""
    left = list(names) if any(f.metadata.num_rows for f in footers) else []
    for footer in footers:
        if not left:
            break
        nulls = {f.name for f in footer.schema if pa.types.is_null(f.type)}
        groups = [footer.metadata.row_group(g) for g in range(footer.metadata.num_row_groups)]
        paths = [groups[0].column(i).path_in_schema for i in range(groups[0].num_columns)] if groups else []
        places = {name: i for i, name in enumerate(paths)}
        for group in groups:
            left = [n for n in left if n in nulls or (n in places and _is_empty(group.column(places[n])))]
    return tuple(left)


def _is_empty(chunk: pq.ColumnChunkMetaData) -> bool:
    known = chunk.statistics
    return known is not None and known.has_null_count and known.null_count == chunk.num_values


def _is_suspicious(name: str) -> bool:
    return bool(_IDENTIFIER.fullmatch(name) or _ROW_NUMBER.fullmatch(name) or name.lower() in _PARTS_OF_DATE)


def _describe_identifier(name: str, column: pa.Array, footers: Sequence[Footer]) -> str:
    """Return why a column with these first values is no measurement, or nothing."""
    values = _to_integers(column)
    if values is None or not len(values):
        return ""
    ranges = _PARTS_OF_DATE.get(name.lower(), ())
    for low, high in ranges:
        if low <= values.min() and values.max() <= high and _stays_within(name, footers, low, high):
            return f"whole numbers from {low} to {high}"
    if _IDENTIFIER.fullmatch(name):
        return "whole numbers, by its name an identifier"
    distinct = len(values) == len(column) and len(np.unique(values)) == len(values)
    if not distinct or len(values) < MIN_ROWS:
        return ""
    if _ROW_NUMBER.fullmatch(name):
        return "distinct whole numbers, by its name a row number"
    steps, sorted_steps = np.diff(values), np.diff(np.sort(values))
    if not all(pa.types.is_integer(f.type) for footer in footers for f in footer.schema if f.name == name):
        return ""
    if np.all(steps > 0) or np.all(steps < 0):
        return "distinct integers that rise from row to row" if steps[0] > 0 else "distinct integers that fall"
    return "distinct integers with equal steps" if np.all(sorted_steps == sorted_steps[0]) else ""


def _to_integers(column: pa.Array) -> NDArray[np.int64] | None:
    """Return the values that are there as integers, or None if one is not whole."""
    values: NDArray[Any] = column.drop_null().to_numpy(zero_copy_only=False)
    if values.dtype.kind == "u":
        return values.astype(np.int64) if not len(values) or values.max() < 1 << 63 else None
    if values.dtype.kind == "i":
        return values.astype(np.int64)
    if values.dtype.kind != "f":
        return None
    values = values[~np.isnan(values)]
    whole = bool(np.all((values == np.floor(values)) & (np.abs(values) < 1 << 53)))
    return values.astype(np.int64) if whole else None


def _stays_within(name: str, footers: Sequence[Footer], low: int, high: int) -> bool:
    """Return False if a row group holds a value out of a range, by the statistics in its footer."""
    for footer in footers:
        if footer.metadata.num_row_groups == 0:
            continue
        paths = [footer.metadata.row_group(0).column(i).path_in_schema for i in range(footer.metadata.num_columns)]
        if name not in paths:
            continue
        for group in range(footer.metadata.num_row_groups):
            statistics = footer.metadata.row_group(group).column(paths.index(name)).statistics
            if (
                statistics is not None
                and statistics.has_min_max
                and not (low <= statistics.min and statistics.max <= high)
            ):
                return False
    return True
