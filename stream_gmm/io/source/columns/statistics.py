"""Nulls and ranges of columns by the statistics in the footers, and what is refused because of them.

A footer may hold no statistics, and it never tells of NaN: then the first pass says what is wrong. With a filter
nothing is known, because it may leave out the very rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream_gmm.core.display import shorten_list
from stream_gmm.core.rows.frames import LARGEST
from stream_gmm.core.rows.transforms import KINDS, ColumnTransform, Transforms
from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.source.files import redact
from stream_gmm.io.source.parts import Footer

LARGEST_WHOLE = 1 << 53
"""Beyond it Arrow takes no whole number for a float64, as not all of them are one."""
NAMED_COLUMNS, NAMED_GROUPS = 8, 3
"""So many columns, and so many row groups of each, are named in a message."""


@dataclass(frozen=True)
class StoredNulls:
    """The nulls of a column, in how many row groups, and the first of these in words."""

    column: str
    nulls: int = 0
    rows: int = 0
    groups: int = 0
    places: tuple[str, ...] = ()

    def add(self, nulls: int, rows: int, place: str) -> StoredNulls:
        """Return the nulls with those of one more row group."""
        named = nulls > 0 and len(self.places) < NAMED_GROUPS
        places = (*self.places, f"{place}: {nulls:,}") if named else self.places
        return StoredNulls(self.column, self.nulls + nulls, self.rows + rows, self.groups + (nulls > 0), places)

    def __str__(self) -> str:
        more = self.groups - len(self.places)
        others = f"; and {more:,} more row groups" if more else ""
        return f"column '{self.column}': {self.nulls:,} of {self.rows:,} values ({'; '.join(self.places)}{others})"


@dataclass(frozen=True)
class StoredRange:
    """The smallest and the largest value of a column, each with the row group that holds it in words."""

    column: str
    low: tuple[Any, str]
    high: tuple[Any, str]

    def add(self, low: Any, high: Any, place: str) -> StoredRange:
        """Return the range with that of one more row group."""
        return StoredRange(
            self.column,
            (low, place) if low < self.low[0] else self.low,
            (high, place) if high > self.high[0] else self.high,
        )

    def find(self, is_wrong: Callable[[Any], bool]) -> list[str]:
        """Return in words which end of the range is wrong."""
        ends = dict.fromkeys((self.low, self.high))
        return [f"column '{self.column}': {value:,} ({place})" for value, place in ends if is_wrong(value)]


@dataclass(frozen=True)
class FooterFacts:
    """What the footers tell about the values of columns; of a column that is not there, nothing is known."""

    nulls: tuple[StoredNulls, ...] = ()
    """Of columns that have some."""
    ranges: tuple[StoredRange, ...] = ()

    def refuse_unusable(
        self, columns: Collection[str], missing: str, weight: str | None, transforms: Transforms
    ) -> None:
        """Refuse values that no pass can use under the policy ``missing``; all of one kind together.

        The values of ``columns`` are transformed by ``transforms``.

        Raises
        ------
        InputDataError
            Names columns, counts, files and row groups, and says how to go on.
        """
        ranges = [r for r in self.ranges if r.column in columns or r.column == weight]
        _refuse_whole_numbers(ranges)
        _refuse_negative_weights([r for r in ranges if r.column == weight])
        if missing != "error":
            return
        functions = {t.name: t for t in transforms}
        _refuse_missing(
            [n for n in self.nulls if n.column in columns or n.column == weight],
            [r for r in ranges if r.column not in functions],
            columns,
        )
        _refuse_outside(ranges, functions.values())


NO_FACTS = FooterFacts()


def _refuse_whole_numbers(ranges: Iterable[StoredRange]) -> None:
    found = [where for r in ranges for where in r.find(lambda v: isinstance(v, int) and abs(v) > LARGEST_WHOLE)]
    if found:
        raise InputDataError(
            explain(
                f"whole numbers do not fit a float64 exactly, by the footers of the files: {_join(found)}",
                why="beyond 2^53 not every whole number is one of type float64",
                remedy="leave these columns out (data.exclude_columns; are they identifiers?), or convert them to "
                "double where the data are written",
            )
        )


def _refuse_negative_weights(ranges: Iterable[StoredRange]) -> None:
    found = [where for r in ranges for where in r.find(lambda v: v < 0)]
    if found:
        raise InputDataError(
            explain(
                f"the weight of a row is negative, by the footers of the files: {_join(found)}",
                remedy="choose another column for data.weight, or leave these rows out by data.filter",
            )
        )


def _refuse_missing(nulls: Sequence[StoredNulls], ranges: Iterable[StoredRange], columns: Collection[str]) -> None:
    outside = [where for r in ranges for where in r.find(lambda v: not abs(v) <= LARGEST)]
    found = [f"missing values: {_join(nulls)}"] if nulls else []
    found += [f"values that are infinite or beyond 1e150: {_join(outside)}"] if outside else []
    if not found:
        return
    lacking = {n.column for n in nulls}
    whole = [name for name in columns if name not in lacking]
    others = f"; or other columns: in {shorten_list(whole, NAMED_COLUMNS)} nothing is null" if whole and nulls else ""
    raise InputDataError(
        explain(
            f"by the footers of the files, there are {'; and '.join(found)}",
            why="a Gaussian has no density there" if nulls else "are they marks for missing values?",
            remedy="use missing: drop (--missing drop, data.missing, or open_dataset(missing='drop')), which leaves "
            "these rows out, or fill the values"
            + ("; or missing: marginalise, which uses the values that these rows have" if nulls else "")
            + others,
        )
    )


def _refuse_outside(ranges: Iterable[StoredRange], transforms: Iterable[ColumnTransform]) -> None:
    known = {r.column: r for r in ranges}
    for t in transforms:
        found = known[t.name].find(partial(_has_no_image, t)) if t.name in known else []
        if found:
            raise InputDataError(
                explain(
                    f"values have no {t}, by the footers of the files: {_join(found)}",
                    why=f"{t.kind} is defined {KINDS[t.kind].domain}",
                    remedy="use missing: drop (data.missing) to leave these rows out, or another transform: "
                    "yeo_johnson and asinh take every number",
                )
            )


def _has_no_image(transform: ColumnTransform, value: Any) -> bool:
    with np.errstate(all="ignore"):
        return not abs(float(transform.apply(np.array([float(value)]))[0])) <= LARGEST


def _join(found: Sequence[object]) -> str:
    more = [f"and {len(found) - NAMED_COLUMNS} more columns"] if len(found) > NAMED_COLUMNS else []
    return "; ".join([*map(str, found[:NAMED_COLUMNS]), *more])


def collect_facts(footers: Sequence[Footer], columns: Sequence[str]) -> FooterFacts:
    """Return what the footers tell about the values of columns."""
    nulls = {name: StoredNulls(name) for name in columns}
    ranges: dict[str, StoredRange] = {}
    for footer in footers:
        fixed = {item.name: value for item, value in footer.file.partition}
        empty = {item.name for item in footer.schema if pa.types.is_null(item.type)}
        places = locate_columns(footer)
        for group in range(footer.metadata.num_row_groups):
            found = footer.metadata.row_group(group)
            where = f"{redact(footer.file.path)}, row group {group}"
            for name in columns:
                if name in empty or name in fixed:
                    lacking = name in empty or fixed[name] is None
                    nulls[name] = nulls[name].add(found.num_rows if lacking else 0, found.num_rows, where)
                elif name in places:
                    chunk = found.column(places[name])
                    nulls[name] = nulls[name].add(_count_nulls(chunk), found.num_rows, where)
                    if low_high := _read_range(chunk):
                        known = ranges.get(name, StoredRange(name, (low_high[0], where), (low_high[1], where)))
                        ranges[name] = known.add(*low_high, where)
    return FooterFacts(tuple(n for n in nulls.values() if n.nulls), tuple(ranges.values()))


def locate_columns(footer: Footer) -> dict[str, int]:
    """Return the position of each column of numbers in the row groups; none for a name that several could have."""
    if not footer.metadata.num_row_groups:
        return {}
    first = footer.metadata.row_group(0)
    paths = [first.column(i).path_in_schema for i in range(first.num_columns)]
    counts = Counter(paths)
    return {path: i for i, path in enumerate(paths) if counts[path] == 1}


def _count_nulls(chunk: pq.ColumnChunkMetaData) -> int:
    """Return the nulls of a column in a row group; 0 if the footer does not say, or cannot be right."""
    known = chunk.statistics
    if known is None or not known.has_null_count:
        return 0
    return int(known.null_count) if 0 <= known.null_count <= chunk.num_values else 0


def _read_range(chunk: pq.ColumnChunkMetaData) -> tuple[Any, Any] | None:
    """Return the smallest and the largest number of a column in a row group; None if the footer does not say."""
    known = chunk.statistics
    if known is None or not known.has_min_max:
        return None
    low, high = known.min, known.max
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
    return (low, high) if numbers and low <= high else None
