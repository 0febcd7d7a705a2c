"""Footers of files, and parts: the unit of reading, retrying and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.source.files import NAMED_FILES, SourceFile, UnreadableFileError, inspect_file


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


def read_footers(files: Sequence[SourceFile]) -> list[Footer]:
    """Return listed files with their identities, and their footers.

    Raises
    ------
    InputDataError
        If files are not Parquet, or cannot be opened; names the first ones, and how many they are.
    StorageError
        If a store does not answer.
    """
    found, unreadable = [], []
    with ThreadPoolExecutor(8) as pool:
        for waiting in [pool.submit(inspect_file, file) for file in files]:
            try:
                found.append(Footer(*waiting.result()))
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
