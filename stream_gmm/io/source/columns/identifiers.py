"""Columns of numbers that are no measurements: identifiers, row numbers, parts of a date, labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream_gmm.core.estep.accumulate import count_chunk_rows
from stream_gmm.io.source.columns.statistics import locate_columns
from stream_gmm.io.source.files import open_unchanged
from stream_gmm.io.source.parts import Footer
from stream_gmm.io.source.schema import FileSchema

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
_LABEL = re.compile(
    r"(?i)(.*[_. -])?(class|klass|labels?|cluster|category|species|cultivar)([_ ]?(no|nr|num|number|code|index))?"
    r"|target|outcome|diagnosis|y_(true|pred|train|test)|is_.+"
)
RESTARTS = 0.05
"""A column numbers rows within groups if it rises by 1 from row to row, except for so large a share of restarts."""
_COORDINATE = "y"
"""A label by its name if its type is not a float, unless it stands beside a column ``x``."""
LABELS, LABEL_RANGE = 30, (-1, 99)
"""A column of labels holds at most so many different whole numbers, in this range; one named ``is_...`` two."""


def find_identifiers(footers: Sequence[Footer], names: Sequence[str]) -> dict[str, str]:
    """Return the columns that look like identifiers, row numbers, parts of a date or labels, each with the reason."""
    place = next(_list_row_groups(footers), None)
    if place is None:
        return {}
    first, group = place
    types = FileSchema(first.schema).types
    labels = {n for n in names if _LABEL.fullmatch(n)}
    if not {"x", "X"} & set(names):
        labels |= {n for n in names if n.lower() == _COORDINATE and not pa.types.is_floating(types.get(n, pa.null()))}
    odd = {n for n in names if n in labels or _is_suspicious(n)}
    wanted = [n for n in names if n in types and (pa.types.is_integer(types[n]) or n in odd)]
    if not wanted:
        return {}
    batch = _read_first_rows(first, group, wanted)
    if batch is None:
        return {}
    of_groups = _describe_groups(batch)
    latest, its_group = next(_list_row_groups(footers, -1))
    if of_groups and (latest is not first or its_group != group):
        there = FileSchema(latest.schema).types
        last = _read_first_rows(latest, its_group, [name for name in of_groups if name in there])
        of_groups = {} if last is None else {n: w for n, w in of_groups.items() if n in _describe_groups(last, batch)}
    out = {
        name: _describe_identifier(name, batch.column(name), footers)
        or (_describe_label(name, batch.column(name), footers) if name in labels else "")
        for name in wanted
    }
    out = {name: why or of_groups.get(name, "") for name, why in out.items()}
    return {name: why for name, why in out.items() if why}


def _list_row_groups(footers: Sequence[Footer], step: int = 1) -> Iterator[tuple[Footer, int]]:
    """Return the row groups that hold rows, from the first one on, or with a step of -1 from the last one."""
    for footer in footers[::step]:
        for group in range(footer.metadata.num_row_groups)[::step]:
            if footer.metadata.row_group(group).num_rows:
                yield footer, group


def _read_first_rows(footer: Footer, group: int, names: list[str]) -> pa.RecordBatch | None:
    """Return the first rows of a row group; None if they cannot be read, as the first pass will explain."""
    try:
        with open_unchanged(footer.file) as parquet:
            rows = count_chunk_rows(8 * len(names))
            batches = parquet.iter_batches(rows, row_groups=[group], columns=names, use_threads=False)
            return next(iter(batches), None)
    except (OSError, pa.ArrowException):
        return None


def find_empty(footers: Sequence[Footer], names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that hold nothing but nulls, as the statistics in the footers say."""
    left = list(names) if any(f.metadata.num_rows for f in footers) else []
    for footer in footers:
        if not left:
            break
        nulls = {f.name for f in footer.schema if pa.types.is_null(f.type)}
        groups = [footer.metadata.row_group(g) for g in range(footer.metadata.num_row_groups)]
        places = locate_columns(footer)
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


def _describe_groups(batch: pa.RecordBatch, first: pa.RecordBatch | None = None) -> dict[str, str]:
    """Return the columns that number the rows within groups, and those that number the groups.

    The rows of a batch begin a group; those of a later one than the ``first`` may begin within one.
    """
    values = {
        name: whole for name in batch.schema.names
        if pa.types.is_integer(batch.schema.field(name).type)
        and (whole := _to_integers(batch.column(name))) is not None and len(whole) == len(batch)
        and (first is not None or len(batch) >= MIN_ROWS)
    }  # fmt: skip
    out = {}
    for name, counted in values.items():
        restarts, start = np.diff(counted) != 1, (batch if first is None else first).column(name)[0].as_py()
        if restarts.sum() > RESTARTS * len(restarts) or np.any(counted[1:][restarts] != start):
            continue
        if first is None and not restarts.any():  # a row number, if anything
            continue
        out[name] = "integers that number the rows of groups"
        for other, group in values.items():
            if np.array_equal(np.diff(group) != 0, restarts) and len(np.unique(group)) == restarts.sum() + 1:
                out[other] = f"an integer for each of the groups whose rows {name} numbers"
    return out


def _describe_label(name: str, column: pa.Array, footers: Sequence[Footer]) -> str:
    """Return why a column with these first values, and a name of a label, holds labels; or nothing."""
    values = _to_integers(column)
    if values is None or len(values) < MIN_ROWS:
        return ""
    low, high = (0, 1) if name.lower().startswith("is_") else LABEL_RANGE
    distinct = len(np.unique(values))
    few = distinct <= min(LABELS, len(values) // 2) and low <= values.min() and values.max() <= high
    if not few or not _stays_within(name, footers, low, high):
        return ""
    return f"{distinct} different whole numbers in the first rows, by its name a label"


def _to_integers(column: pa.Array) -> NDArray[np.int64] | None:
    """Return the values that are there as integers, or None if one is not whole."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    values: NDArray[Any] = column.drop_null().to_numpy(zero_copy_only=False)
    if values.dtype.kind == "b":
        return values.astype(np.int64)
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
        places = locate_columns(footer)
        for group in range(footer.metadata.num_row_groups) if name in places else ():
            statistics = footer.metadata.row_group(group).column(places[name]).statistics
            if (
                statistics is not None
                and statistics.has_min_max
                and not (low <= statistics.min and statistics.max <= high)
            ):
                return False
    return True
