"""Footers of files, and parts: the unit of reading, retrying and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.source.files import NAMED_FILES, SourceFile, UnreadableFileError, inspect_file, redact

PART_BYTES = 64 << 20
"""Bytes of float64 in one part (one scored file); as in a task of a pass, they do not depend on the workers."""


@dataclass(frozen=True)
class Footer:
    """A listed file with its footer."""

    file: SourceFile
    metadata: pq.FileMetaData
    schema: pa.Schema


@dataclass(frozen=True)
class Part:
    """A run of row groups of one file: the unit of reading, retrying and scoring."""

    index: int
    file: SourceFile
    file_index: int
    row_groups: tuple[int, ...]
    group_rows: tuple[int, ...]
    first_row: int
    """Row number, in the file, of the first row."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.group_rows)

    @property
    def path(self) -> str:
        """Path or URI of the file."""
        return self.file.path

    @property
    def id(self) -> str:
        """A stable name: file and row groups."""
        return f"{self.file.relative}#{self.row_groups[0]}-{self.row_groups[-1]}"

    def groups(self) -> Iterator[Part]:
        """Return one part for each row group."""
        first = self.first_row
        for group, rows in zip(self.row_groups, self.group_rows, strict=True):
            yield replace(self, row_groups=(group,), group_rows=(rows,), first_row=first)
            first += rows


def join_neighbours(small_leaves: list[Part]) -> tuple[Part, ...]:
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


def extend_schema(schema: pa.Schema, file: SourceFile) -> pa.Schema:
    """Return the schema of a file with its partition columns."""
    for item, _ in file.partition:
        if item.name not in schema.names:
            schema = schema.append(item)
    return schema


def extend_batch(batch: pa.RecordBatch, file: SourceFile, wanted: Sequence[str]) -> pa.RecordBatch:
    """Return rows of a file with those of its partition columns that are wanted and not in the file."""
    for item, value in file.partition:
        if item.name in wanted and item.name not in batch.schema.names:
            batch = batch.append_column(item, pa.repeat(pa.scalar(value, item.type), batch.num_rows))
    return batch


def read_footers(files: Sequence[SourceFile]) -> list[Footer]:
    """Return listed files with their identities, and their footers.

    Raises
    ------
    InputDataError
        If files are not Parquet, or cannot be opened; names the first ones, and how many they are. If columns of a
        table have other names in a file.
    StorageError
        If a store does not answer.
    """
    found, unreadable = [], []
    with ThreadPoolExecutor(8) as pool:
        for waiting in [pool.submit(inspect_file, file) for file in files]:
            try:
                seen, metadata, schema = waiting.result()
                _refuse_renamed_columns(seen, schema)
                seen = replace(seen, field_names=())  # no task needs them
                found.append(Footer(seen, metadata, extend_schema(schema, seen)))
            except UnreadableFileError as error:
                unreadable.append(error)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    if len(unreadable) > 1:
        raise InputDataError(
            explain(
                f"{len(unreadable)} of {len(files)} files cannot be opened as Parquet",
                why=" ".join(str(error) for error in unreadable[:NAMED_FILES]),
                remedy="remove or rewrite them, or leave them out with data.exclude",
            )
        )
    if unreadable:
        raise unreadable[0]
    return found


def _refuse_renamed_columns(file: SourceFile, schema: pa.Schema) -> None:
    """Refuse a file of a table whose columns go by other names there, or have been dropped since it was written."""
    names = dict(file.field_names)
    numbers = {
        item.name: int(item.metadata[b"PARQUET:field_id"])
        for item in schema
        if names and b"PARQUET:field_id" in (item.metadata or {})
    }
    for name, number in numbers.items():
        if names.get(number) != name:
            now = f"is '{names[number]}' in the table now" if number in names else "has been dropped from the table"
            raise InputDataError(
                explain(
                    f"{redact(file.path)}: the column '{name}' {now}",
                    why="the columns of a table are read by the names that its files have",
                    remedy="write its rows anew, with Spark: CALL catalog.system.rewrite_data_files(table => ..., "
                    "options => map('rewrite-all', 'true')); or read a snapshot from before (data.table_version)",
                )
            )


def cut_parts(
    files: Sequence[SourceFile], footers: list[pq.FileMetaData], n_columns: int, groups: list[set[int]] | None = None
) -> tuple[Part, ...]:
    """Return the parts of all files; with ``groups``, of these row groups of each file."""
    limit = max(1, PART_BYTES // (8 * n_columns))
    out: list[Part] = []
    for file_index, (file, footer) in enumerate(zip(files, footers, strict=True)):
        sizes = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
        if sum(sizes) != footer.num_rows or min(sizes, default=0) < 0:
            raise InputDataError(
                explain(
                    f"{redact(file.path)}: the footer promises {footer.num_rows} rows, and its row groups hold "
                    f"{sum(sizes)}",
                    why="the file is damaged, or was written by a faulty writer",
                    remedy="rewrite the file, or leave it out with data.exclude",
                )
            )
        for run in _cut_runs(sizes, limit, set(range(len(sizes))) if groups is None else groups[file_index]):
            first = sum(sizes[: run.start])
            out.append(Part(len(out), file, file_index, tuple(run), tuple(sizes[g] for g in run), first))
    return tuple(out)


def _cut_runs(sizes: list[int], limit: int, wanted: set[int]) -> list[range]:
    """Cut the wanted row groups into runs of neighbours with at most ``limit`` rows, or of one larger row group."""
    runs: list[range] = []
    rows = 0
    for group, size in enumerate(sizes):
        if group not in wanted:
            continue
        if runs and runs[-1].stop == group and not (rows and rows + size > limit):
            runs[-1] = range(runs[-1].start, group + 1)
            rows += size
        else:
            runs.append(range(group, group + 1))
            rows = size
    return runs
