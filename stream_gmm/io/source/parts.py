"""A part: the unit of reading, retrying and scoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from stream_gmm.io.source.files import SourceFile


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
