"""Rows of a file as bounded chunks of float64, with the policy for missing values applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream_gmm.core.estep.accumulate import CHUNK_ROWS, count_chunk_rows
from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.constants import Constant, find_unlike
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.rows.sampling import Holdout
from stream_gmm.core.rows.transforms import Transforms
from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.source.decode import KINDS, MARGINALISE, Locate, Sentinels, decode_values
from stream_gmm.io.source.files import is_uri, open_parquet, open_unchanged, redact
from stream_gmm.io.source.filters import find_matching, parse_filter
from stream_gmm.io.source.parts import Part, extend_batch, extend_schema
from stream_gmm.io.source.schema import conform_batch


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file.

    ``rows (n, D)`` holds the usable ones, column-major. ``keep (N,)`` marks them among the ``size`` rows
    that were read (None: all are usable); ``bad (D, 4)`` counts nulls, NaNs, infinities and oversized values.
    """

    rows: Array
    size: int
    file_index: int
    first_row: int
    keep: NDArray[np.bool_] | None
    bad: NDArray[np.int64]
    batch: pa.RecordBatch | None = None
    reasons: NDArray[Any] | None = None
    weighted: bool = False
    """Whether the last column of ``rows`` holds their weights."""
    matching: NDArray[np.bool_] | None = None
    """Which rows of the file match the filter, of those that were read; the other ones are not among the ``size``."""
    incomplete: bool = False
    """Whether ``rows`` may hold missing values, as NaN."""

    @property
    def features(self) -> Array:
        """The usable rows ``(n, D)`` without their weights."""
        return self.rows[:, :-1] if self.weighted else self.rows

    @property
    def read(self) -> int:
        """Rows that were read, those included that do not match the filter."""
        return self.size if self.matching is None else len(self.matching)

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """Row numbers in the file of the usable rows."""
        if self.matching is None:
            numbers = np.arange(self.first_row, self.first_row + self.size)
        else:
            numbers = self.first_row + np.flatnonzero(self.matching)
        return numbers if self.keep is None else numbers[self.keep]


@dataclass(frozen=True)
class HoldoutSplit:
    """The rows of a chunk to fit and those held out, column-major, with their weights (or none).

    All of them have a value; NaN is a missing one.
    """

    rows: Array
    weights: Array
    numbers: NDArray[np.int64]
    """Row numbers in the file of the rows to fit."""
    heldout: Array
    heldout_weights: Array
    heldout_numbers: NDArray[np.int64]


def split_holdout(chunk: Chunk, holdout: Holdout, columns: Sequence[int] = ()) -> HoldoutSplit:
    """Return the rows to fit and the rows held out. A row of weight zero or without any value is neither.

    ``columns`` are the positions of the columns that are wanted; none: all are.
    """
    numbers, values = chunk.row_numbers, chunk.rows.T
    if columns:
        values = values[[*columns, -1] if chunk.weighted else list(columns)]
    if chunk.weighted and not np.all(values[-1] > 0.0):
        numbers, values = numbers[values[-1] > 0.0], values[:, values[-1] > 0.0]
    if chunk.incomplete:
        some = ~np.isnan(values[:-1] if chunk.weighted else values).all(axis=0)
        if not some.all():
            numbers, values = numbers[some], values[:, some]
    if not holdout.share:
        return HoldoutSplit(
            *_split_weights(values, chunk.weighted),
            numbers,
            *_split_weights(values[:, :0], chunk.weighted),
            numbers[:0],
        )
    out = holdout.mask(chunk.file_index, numbers)
    fit, heldout = _split_weights(values[:, ~out], chunk.weighted), _split_weights(values[:, out], chunk.weighted)
    return HoldoutSplit(*fit, numbers[~out], *heldout, numbers[out])


NONE_UNLIKE = np.zeros(0, dtype=bool)


def set_unlike_aside(chunk: Chunk, constants: Sequence[Constant]) -> tuple[Chunk, NDArray[np.bool_]]:
    """Return a chunk without the rows that differ from a constant, which get a reason, and which these are ``(N,)``.

    The last columns of the chunk are the constant ones; they are left out.
    """
    if not constants:
        return chunk, NONE_UNLIKE
    features, values = chunk.rows[:, : -len(constants)], chunk.rows[:, -len(constants) :]
    differ = find_unlike(values, constants)
    if not differ.any():
        return replace(chunk, rows=features), NONE_UNLIKE
    keep = np.ones(chunk.size, dtype=bool) if chunk.keep is None else chunk.keep.copy()
    places = np.flatnonzero(keep)[differ]
    reasons = np.full(chunk.size, None, dtype=object) if chunk.reasons is None else chunk.reasons.copy()
    for place, found in zip(places, values[differ].tolist(), strict=True):
        reasons[place] = next(c.describe_other(v) for c, v in zip(constants, found, strict=True) if c.differs(v))
    keep[places] = False
    unlike = np.zeros(chunk.size, dtype=bool)
    unlike[places] = True
    return replace(chunk, rows=np.asfortranarray(features[~differ]), keep=keep, reasons=reasons), unlike


def _split_weights(values: Array, weighted: bool) -> tuple[Array, Array]:
    """Return rows and weights of column-major values ``(D, n)`` or ``(D + 1, n)``."""
    return (values[:-1].T, values[-1]) if weighted else (values.T, UNWEIGHTED)


def array_chunks(
    values: Array, first_row: int, weighted: bool = False, missing: str = "error", views_of: int = 0
) -> Iterator[Chunk]:
    """Cut rows in memory into chunks; they have missing values (NaN) only by the policy ``"marginalise"``.

    With ``views_of`` the chunks have so many rows, which are not copied to be column-major.
    """
    step = views_of or count_chunk_rows(8 * values.shape[1])
    for lo in range(0, len(values), step):
        rows = values[lo : lo + step] if views_of else np.asfortranarray(values[lo : lo + step])
        bad = np.zeros((rows.shape[1] - weighted, len(KINDS)), np.int64)
        if missing == MARGINALISE:
            bad[:, KINDS.index("nan")] = np.isnan(rows[:, : len(bad)]).sum(axis=0)
        yield Chunk(
            rows, len(rows), 0, first_row + lo, None, bad, weighted=weighted, incomplete=bool(bad.any())
        )  # fmt: skip


def parquet_chunks(
    part: Part,
    columns: Sequence[str],
    missing: str,
    extra: Sequence[str] = (),
    row_filter: str | None = None,
    transforms: Transforms = (),
    sentinels: Sentinels = (),
    added_bytes: int = 0,
) -> Iterator[Chunk]:
    """Read the row groups of a part in chunks of at most 65,536 rows or 128 MiB; small row groups share a chunk.

    Rows that do not match ``row_filter`` are left out before anything else. The columns in ``rows`` are transformed
    by ``transforms``.

    ``added_bytes`` are what the caller adds to each row, so that with it chunks are no larger.
    ``extra`` columns come along undecoded in ``chunk.batch``, and ``chunk.reasons`` then says why a
    row cannot be used; of those that the file lacks every value is null.

    Raises
    ------
    InputDataError
        If data is damaged, has fewer rows than the footer says, or was replaced; or a value is missing and
        ``missing`` is ``"error"``; names file, row group and column.
    """
    wanted = list(dict.fromkeys([*columns, *extra]))
    row = part.first_row
    locate = partial(_locate_row, part)
    with open_unchanged(part.file) as parquet:
        names, schema = wanted, extend_schema(parquet.schema_arrow, part.file)
        if row_filter is not None:
            parsed = parse_filter(row_filter)
            names = list(dict.fromkeys([*wanted, *parsed.columns]))
            expression = parsed.bind(pa.schema([schema.field(c) for c in parsed.columns]))
        own = set(parquet.schema_arrow.names)
        there = [c for c in names if c in own]
        first_group = parquet.metadata.row_group(part.row_groups[0])
        row_bytes = 8 * len(columns) + added_bytes + _count_row_bytes(first_group, set(extra))
        for batch in _read_batches(parquet, part, there, count_chunk_rows(row_bytes)):
            batch, matching = extend_batch(batch, part.file, names), None
            if row_filter is not None:
                matching = find_matching(batch.select(parsed.columns), expression)
                batch = batch.filter(pa.array(matching))
            chunk = decode_rows(
                batch, locate, row, columns, missing,
                file_index=part.file_index, attach=bool(extra), matching=matching, transforms=transforms,
                sentinels=sentinels,
            )  # fmt: skip
            row += chunk.read
            conform = extra and part.file.conform
            yield replace(chunk, batch=_conform(batch, wanted, part)) if conform else chunk


def _conform(batch: pa.RecordBatch, wanted: Sequence[str], part: Part) -> pa.RecordBatch:
    try:
        return conform_batch(batch, wanted, part.file.conform)
    except (pa.ArrowException, NotImplementedError) as error:
        names = [f.name for f in part.file.conform if f.name in wanted]
        raise InputDataError(
            explain(
                f"{redact(part.path)}: columns {names} cannot be passed through with the types of the other files",
                why=str(error),
                remedy="leave them out of score.passthrough, or write all files with the same types",
            )
        ) from error


def read_ahead(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Return the same chunks; the next one is read by a thread while the caller uses this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="stream-gmm-read") as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk


def _locate_row(part: Part, row: int) -> str:
    """Return file and row group of a row number of the file, in words."""
    ends = part.first_row + np.cumsum(part.group_rows)
    group = part.row_groups[int(np.searchsorted(ends, row, side="right"))]
    return f"{redact(part.path)}, row group {group}"


def _count_row_bytes(group: pq.RowGroupMetaData, names: set[str]) -> float:
    """Return the bytes of a row in some columns, as the footer says."""
    if not names or not group.num_rows:
        return 0.0
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in names) / group.num_rows


def _read_batches(
    parquet: pq.ParquetFile, part: Part, columns: list[str], chunk_rows: int
) -> Iterator[pa.RecordBatch]:
    groups = list(part.row_groups)
    try:
        for run in _group_small_row_groups(part, chunk_rows):
            read = 0
            for batch in parquet.iter_batches(chunk_rows, row_groups=run, columns=columns, use_threads=False):
                read += batch.num_rows
                yield batch
            _check_row_count(part, run, read)
    except (OSError, pa.ArrowException) as error:
        if is_uri(part.path) and isinstance(error, OSError):
            # May be the network: the executor tries again.
            raise OSError(f"{redact(part.path)}, row groups {groups[0]} to {groups[-1]}: {error}") from error
        group, name = _find_damage(part, columns)
        raise InputDataError(
            explain(
                f"{part.path}, row group {group}, column '{name}' is damaged",
                why=str(error).strip(),
                remedy="restore the file, or leave it out with data.exclude",
            )
        ) from error


def _check_row_count(part: Part, groups: Sequence[int], read: int) -> None:
    """Refuse row groups that hold fewer rows than the footer says: the reader itself does not mind."""
    promised = dict(zip(part.row_groups, part.group_rows, strict=True))
    expected = sum(promised[g] for g in groups)
    if read != expected:
        where = f"row group {groups[0]}" if len(groups) == 1 else f"row groups {groups[0]} to {groups[-1]}"
        raise InputDataError(
            explain(
                f"{redact(part.path)}, {where}: {read} rows were read where the footer promises {expected}",
                why="the file is damaged, or was written by a faulty writer",
                remedy="rewrite the file, or leave it out with data.exclude",
            )
        )


def _group_small_row_groups(part: Part, chunk_rows: int) -> Iterator[list[int]]:
    """Return row groups to be read together: as many small ones as make a chunk; memory grows with a run."""
    run, rows = [part.row_groups[0]], part.group_rows[0]
    for group, size in zip(part.row_groups[1:], part.group_rows[1:], strict=True):
        if rows + size > chunk_rows:
            yield run
            run, rows = [], 0
        run, rows = [*run, group], rows + size
    yield run


def _find_damage(part: Part, columns: list[str]) -> tuple[int | str, str]:
    """Return the first row group and column that cannot be decoded."""
    for group in part.row_groups:
        for name in columns:
            try:
                with open_parquet(part.path) as parquet:
                    for _ in parquet.iter_batches(CHUNK_ROWS, row_groups=[group], columns=[name]):
                        pass
            except (OSError, ValueError, pa.ArrowException):
                return group, name
    return "unknown", "unknown"


def decode_rows(
    batch: pa.RecordBatch,
    locate: Locate,
    first_row: int,
    columns: Sequence[str],
    missing: str,
    *,
    file_index: int = 0,
    attach: bool = True,
    matching: NDArray[np.bool_] | None = None,
    transforms: Transforms = (),
    sentinels: Sentinels = (),
) -> Chunk:
    """Return the rows of a record batch, with the policy for missing values applied.

    ``matching`` says which rows of the file, from ``first_row`` on, are those of the batch; None: all in a row.

    Raises
    ------
    InputDataError
        If a value cannot be used and ``missing`` is ``"error"``, or does not fit a float64.
    """
    numbers = np.arange(batch.num_rows) if matching is None else np.flatnonzero(matching)
    decoded = decode_values(batch, locate, first_row + numbers, columns, missing, attach, transforms, sentinels)
    attached = batch if attach else None
    return Chunk(
        decoded.values.T, batch.num_rows, file_index, first_row, decoded.keep, decoded.bad, attached, decoded.reasons,
        matching=matching, incomplete=decoded.incomplete,
    )  # fmt: skip
