"""A data set: an ordered, frozen manifest of Parts, checked before the first row is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream_gmm.errors import ConfigError, InputDataError, did_you_mean, explain
from stream_gmm.io.source.chunks import Chunk, parquet_chunks, read_ahead
from stream_gmm.io.source.files import SourceFile, drop_excluded, find_files, is_uri, open_parquet, redact
from stream_gmm.io.source.parts import Part

# Bytes of float64 in one part (one scored file), and in one task of a pass. They depend on the data
# alone: were they to depend on the workers, so would the bits of the result.
PART_BYTES = 64 << 20
LEAF_BYTES = (4 << 20, 64 << 20)
LEAVES = 64
MISSING = ("error", "drop")


@dataclass(frozen=True)
class ParquetLeaf:
    """Row groups of one file, or of several small ones."""

    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    missing: str
    weight: str | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(p.rows for p in self.parts)

    def chunks(self) -> Iterator[Chunk]:
        """Read, one bounded chunk at a time."""
        for part in self.parts:
            read = self._weighted_chunks(part) if self.weight else parquet_chunks(part, self.columns, self.missing)
            # The network makes a reader wait, the disk hardly: there the next chunk comes while this one is used.
            yield from read_ahead(read) if is_uri(part.path) else read

    def _weighted_chunks(self, part: Part) -> Iterator[Chunk]:
        assert self.weight is not None
        for chunk in parquet_chunks(part, (*self.columns, self.weight), self.missing):
            if np.any(chunk.rows[:, -1] < 0.0):
                row = int(chunk.row_numbers[np.argmax(chunk.rows[:, -1] < 0.0)])
                raise InputDataError(
                    f"{redact(part.path)}, column '{self.weight}': the weight of row {row} is negative."
                )
            yield replace(chunk, weighted=True, bad=chunk.bad[:-1])


def rows_per_leaf(n_rows: int, n_columns: int) -> int:
    """Return the rows of one task of a pass; a function of the data alone."""
    row_bytes = 8 * n_columns
    low, high = LEAF_BYTES
    return max(1, int(np.clip(n_rows * row_bytes // LEAVES, low, high)) // row_bytes)


@dataclass(frozen=True)
class Dataset:
    """Parquet files with the columns to be used; made by :func:`open_dataset`."""

    files: tuple[SourceFile, ...]
    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    missing: str
    schema: pa.Schema
    """Schema of the first file; pass-through columns are taken from it."""
    weight: str | None = None
    """Column with the weights of the rows."""

    resident: ClassVar[bool] = False

    @property
    def num_rows(self) -> int:
        """Rows in all files, before any policy drops some."""
        return sum(p.rows for p in self.parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the manifest (paths, sizes, times of change, rows), columns and policy."""
        weight = (self.weight,) if self.weight else ()
        sha = hashlib.sha256(repr((self.columns, self.missing, *weight)).encode())
        for part in self.parts:
            f = part.file
            sha.update(repr((f.relative, f.size, f.modified, part.row_groups, part.rows)).encode())
        return sha.hexdigest()

    def leaves(self) -> list[ParquetLeaf]:
        """Return the tasks of a pass: row groups, collected in order up to a size in bytes."""
        target = rows_per_leaf(self.num_rows, len(self.columns))
        runs: list[list[Part]] = [[]]
        rows = 0
        for piece in (g for p in self.parts for g in p.groups()):
            if rows and rows + piece.rows > target:
                runs.append([])
                rows = 0
            runs[-1].append(piece)
            rows += piece.rows
        return [ParquetLeaf(_join_neighbours(r), self.columns, self.missing, self.weight) for r in runs]

    def small_leaves(self) -> list[ParquetLeaf]:
        """Return one leaf for each row group."""
        groups = (g for p in self.parts for g in p.groups())
        return [ParquetLeaf((g,), self.columns, self.missing, self.weight) for g in groups]


def _join_neighbours(small_leaves: list[Part]) -> tuple[Part, ...]:
    """Put neighbouring row groups of one file back into one part: the file is opened once."""
    out: list[Part] = []
    for piece in small_leaves:
        last = out[-1] if out else None
        if last and last.file_index == piece.file_index and last.row_groups[-1] + 1 == piece.row_groups[0]:
            out[-1] = replace(
                last,
                row_groups=last.row_groups + piece.row_groups,
                group_rows=last.group_rows + piece.group_rows,
            )
        else:
            out.append(piece)
    return tuple(out)


def open_dataset(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    columns: Sequence[str] | None = None,
    *,
    missing: str = "error",
    exclude: Sequence[str] = (),
    weight: str | None = None,
) -> Dataset:
    """Open Parquet files as one data set; reads footers only.

    Parameters
    ----------
    paths
        A file, a folder (searched recursively), a glob pattern (``**`` crosses folders), a URI such
        as ``s3://bucket/prefix/``, or several of them.
    columns
        The numeric columns to be used, in this order. None: all numeric columns of the first file.
    missing
        What to do about rows with a null, NaN or infinity in ``columns``: ``"error"`` stops and
        names the place; ``"drop"`` leaves them out of the fit, counts them, and scores them as null.
    exclude
        Shell patterns of relative paths to leave out.
    weight
        Column with the weights of the rows: a row of weight 2 is two rows, one of weight 0 is none.

    Raises
    ------
    InputDataError
        If nothing is found, a file is not Parquet, or a column is missing or not numeric in a file.
    ConfigError
        If ``missing`` is unknown.
    """
    if missing not in MISSING:
        raise ConfigError(f"missing must be one of {MISSING}, not {missing!r}{did_you_mean(missing, MISSING)}")
    chosen = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = drop_excluded(find_files(os.fspath(p) for p in chosen), exclude)
    if not files:
        raise InputDataError("every file is excluded by data.exclude.")
    with ThreadPoolExecutor(8) as pool:
        footers = list(pool.map(_read_footer, files))
    schema = footers[0][1]
    names = tuple(columns) if columns else tuple(c for c in numeric_columns(schema) if c != weight)
    if len(set(names)) != len(names):
        raise ConfigError(f"a column is named twice: {list(names)}.")
    for file, (_, own) in zip(files, footers, strict=True):
        _check_columns(file, own, names if weight is None else (*names, weight))
    parts = _cut_parts(files, [f[0] for f in footers], len(names))
    return Dataset(tuple(files), parts, names, missing, schema, weight)


def _read_footer(file: SourceFile) -> tuple[pq.FileMetaData, pa.Schema]:
    with open_parquet(file.path) as parquet:
        return parquet.metadata, parquet.schema_arrow


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_numeric(kind: pa.DataType) -> bool:
    """Return True for the types that can be read as float64."""
    kind = _value_type(kind)
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def numeric_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns that can be fitted.

    Raises
    ------
    InputDataError
        If there is none.
    """
    names = tuple(f.name for f in schema if is_numeric(f.type))
    if not names:
        raise InputDataError(f"the data set has no numeric column; it has {schema.names}.")
    return names


def _check_columns(file: SourceFile, schema: pa.Schema, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in schema.names:
            raise InputDataError(
                f"{redact(file.path)}: there is no column '{name}'{did_you_mean(name, schema.names)} "
                f"It has: {', '.join(schema.names)}."
            )
        kind = schema.field(name).type
        if not is_numeric(kind):
            raise InputDataError(
                explain(
                    f"{redact(file.path)}: column '{name}' is {kind}, not a number",
                    remedy="leave it out of data.columns, or convert it where the data is written",
                )
            )


def _cut_parts(files: list[SourceFile], footers: list[pq.FileMetaData], n_columns: int) -> tuple[Part, ...]:
    limit = max(1, PART_BYTES // (8 * n_columns))
    out: list[Part] = []
    for file_index, (file, footer) in enumerate(zip(files, footers, strict=True)):
        sizes = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
        for run in _cut_runs(sizes, limit):
            first = sum(sizes[: run.start])
            out.append(Part(len(out), file, file_index, tuple(run), tuple(sizes[g] for g in run), first))
    return tuple(out)


def _cut_runs(sizes: list[int], limit: int) -> list[range]:
    """Cut row groups into runs of at most ``limit`` rows (a larger row group is a run of its own)."""
    cuts, rows = [0], 0
    for group, size in enumerate(sizes):
        if rows and rows + size > limit:
            cuts.append(group)
            rows = 0
        rows += size
    ends = [*cuts[1:], len(sizes)]
    return [range(lo, hi) for lo, hi in zip(cuts, ends, strict=True) if hi > lo]
