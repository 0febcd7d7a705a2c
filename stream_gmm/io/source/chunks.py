"""Rows of a file as bounded chunks of float64, with the policy for missing values applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream_gmm.core.estep.accumulate import CHUNK_ROWS
from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.rows.sampling import Holdout
from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.source.files import check_unchanged, is_uri, open_parquet, redact
from stream_gmm.io.source.parts import Part

KINDS = ("null", "nan", "infinite")


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file.

    ``rows (n, D)`` holds those that can be used, column-major. ``keep (N,)`` tells which of the
    ``size`` rows those are (None: all); ``bad (D, 3)`` counts nulls, NaNs and infinities.
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

    @property
    def features(self) -> Array:
        """The usable rows ``(n, D)`` without their weights."""
        return self.rows[:, :-1] if self.weighted else self.rows

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """Row numbers in the file of the usable rows."""
        numbers = np.arange(self.first_row, self.first_row + self.size)
        return numbers if self.keep is None else numbers[self.keep]


@dataclass(frozen=True)
class HoldoutSplit:
    """The rows of a chunk to fit and those held out, column-major, with their weights (or none)."""

    rows: Array
    weights: Array
    numbers: NDArray[np.int64]
    """Row numbers in the file of the rows to fit."""
    heldout: Array
    heldout_weights: Array
    heldout_numbers: NDArray[np.int64]


def split_holdout(chunk: Chunk, holdout: Holdout) -> HoldoutSplit:
    """Return the rows to fit and the rows held out. A row of weight zero is neither."""
    numbers, values = chunk.row_numbers, chunk.rows.T
    if chunk.weighted and not np.all(values[-1] > 0.0):
        numbers, values = numbers[values[-1] > 0.0], values[:, values[-1] > 0.0]
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


def _split_weights(values: Array, weighted: bool) -> tuple[Array, Array]:
    """Return rows and weights of column-major values ``(D, n)`` or ``(D + 1, n)``."""
    return (values[:-1].T, values[-1]) if weighted else (values.T, UNWEIGHTED)


def array_chunks(values: Array, first_row: int, weighted: bool = False) -> Iterator[Chunk]:
    """Cut rows in memory into chunks."""
    for lo in range(0, len(values), CHUNK_ROWS):
        rows = np.asfortranarray(values[lo : lo + CHUNK_ROWS])
        bad = np.zeros((rows.shape[1] - weighted, len(KINDS)), np.int64)
        yield Chunk(rows, len(rows), 0, first_row + lo, None, bad, weighted=weighted)


def parquet_chunks(part: Part, columns: Sequence[str], missing: str, extra: Sequence[str] = ()) -> Iterator[Chunk]:
    """Read the row groups of a part in chunks of at most 65,536 rows; small row groups share a chunk.

    ``extra`` columns come along undecoded in ``chunk.batch``, and ``chunk.reasons`` then says why a
    row cannot be used.

    Raises
    ------
    InputDataError
        If data is damaged, or a value is missing and ``missing`` is ``"error"``; names file, row
        group and column.
    """
    check_unchanged(part.file)
    wanted = list(dict.fromkeys([*columns, *extra]))
    row = part.first_row
    with open_parquet(part.path) as parquet:
        for batch in _read_batches(parquet, part, wanted):
            locate = partial(_locate_row, part)
            chunk = decode_rows(batch, locate, row, columns, missing, file_index=part.file_index, attach=bool(extra))
            row += chunk.size
            yield chunk


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


def _read_batches(parquet: pq.ParquetFile, part: Part, columns: list[str]) -> Iterator[pa.RecordBatch]:
    groups = list(part.row_groups)
    try:
        for run in _group_small_row_groups(part):
            yield from parquet.iter_batches(CHUNK_ROWS, row_groups=run, columns=columns, use_threads=False)
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


def _group_small_row_groups(part: Part) -> Iterator[list[int]]:
    """Return row groups to be read together: as many small ones as make a chunk; memory grows with a run."""
    run, rows = [part.row_groups[0]], part.group_rows[0]
    for group, size in zip(part.row_groups[1:], part.group_rows[1:], strict=True):
        if rows + size > CHUNK_ROWS:
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


Locate = Callable[[int], str]
"""What says in words where a row number is."""


def _to_float(column: pa.Array, locate: Locate, first_row: int, name: str) -> NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not (pa.types.is_float64(kind) or pa.types.is_float32(kind)):
        try:
            column = pc.cast(column, pa.float64())
        except pa.ArrowInvalid as error:
            raise InputDataError(
                explain(
                    f"{locate(first_row + _find_misfit(column))}, column '{name}': a value does not fit a "
                    "float64 exactly",
                    why=str(error),
                    remedy="leave the column out (is it an identifier?) or convert it to double",
                )
            ) from error
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _find_misfit(column: pa.Array) -> int:
    """Return the position of the first value that cannot be cast, by bisection."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pc.cast(column[low:middle], pa.float64())
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def decode_rows(
    batch: pa.RecordBatch,
    locate: Locate,
    first_row: int,
    columns: Sequence[str],
    missing: str,
    *,
    file_index: int = 0,
    attach: bool = True,
) -> Chunk:
    """Return the rows of a record batch, with the policy for missing values applied.

    Raises
    ------
    InputDataError
        If a value cannot be used and ``missing`` is ``"error"``, or does not fit a float64.
    """
    n, d = batch.num_rows, len(columns)
    values, clean = np.empty((d, n)), True
    for j, name in enumerate(columns):
        values[j] = _to_float(batch.column(name), locate, first_row, name)
        # Any NaN or infinity makes the sum one; and the column is in the cache now.
        clean = clean and bool(np.isfinite(values[j].sum()))
    bad = np.zeros((d, len(KINDS)), np.int64)
    attached = batch if attach else None
    if clean:
        return Chunk(values.T, n, file_index, first_row, None, bad, attached)
    finite = np.isfinite(values)
    if finite.all():
        return Chunk(values.T, n, file_index, first_row, None, bad, attached)
    for j, name in enumerate(columns):
        nulls = batch.column(name).null_count
        bad[j] = nulls, np.isnan(values[j]).sum() - nulls, np.isinf(values[j]).sum()
    if missing == "error":
        raise InputDataError(_describe_missing(locate, columns, finite, bad, first_row))
    keep = np.asarray(finite.all(axis=0))
    reasons = _explain_missing(batch, columns, values) if attach else None
    kept = np.ascontiguousarray(values[:, keep])
    return Chunk(kept.T, n, file_index, first_row, keep, bad, attached, reasons)


def _describe_missing(
    locate: Locate, columns: Sequence[str], finite: NDArray[np.bool_], bad: NDArray[np.int64], first_row: int
) -> str:
    j = int(np.flatnonzero(bad.sum(axis=1))[0])
    row = first_row + int(np.flatnonzero(~finite[j])[0])
    counts = ", ".join(f"{c} {kind}" for kind, c in zip(KINDS, bad[j], strict=True) if c)
    return explain(
        f"{locate(row)}, column '{columns[j]}': {counts} among these rows, the first at row {row} of the input",
        why="a Gaussian has no density there",
        remedy="use missing: drop (data.missing, or open_dataset(missing='drop')), or fill the values",
    )


def _explain_missing(batch: pa.RecordBatch, columns: Sequence[str], values: Array) -> NDArray[Any]:
    """Say for each row why it cannot be used (the first column that is to blame); None if it can."""
    out = np.full(values.shape[1], None, dtype=object)
    for j in range(len(columns) - 1, -1, -1):
        null = batch.column(columns[j]).is_null().to_numpy(zero_copy_only=False)
        nan, infinite = np.isnan(values[j]) & ~null, np.isinf(values[j])
        for mask, word in ((null, "null"), (nan, "NaN"), (infinite, "infinite value")):
            out[mask] = f"{word} in {columns[j]}"
    return out
