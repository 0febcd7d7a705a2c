"""What a source of rows is, whether files or memory; what one task of a pass reads, and that it reads all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from stream_gmm.core.rows.transforms import Transforms
from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.source.chunks import Chunk


class Leaf(Protocol):
    """What one task of a pass reads: picklable, and small when pickled."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    def chunks(self) -> Iterator[Chunk]:
        """Read, one bounded chunk at a time."""


def read_completely(leaf: Leaf) -> Iterator[Chunk]:
    """Return the chunks of a leaf, and make sure at its end that they were all of its rows.

    Raises
    ------
    InputDataError
        If rows are missing: no sum over the data may silently miss some.
    """
    read = 0
    for chunk in leaf.chunks():
        read += chunk.read
        yield chunk
    if read != leaf.rows:
        raise InputDataError(
            explain(
                f"{read} rows were read where the footers of the files promise {leaf.rows}",
                why=f"the task was {leaf!r:.300}",
                remedy="rewrite the damaged file, or leave it out with data.exclude",
            )
        )


class Source(Protocol):
    """Rows to fit: a Parquet data set, or an array in memory."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features."""

    @property
    def num_rows(self) -> int:
        """Rows, before any policy drops some."""

    @property
    def missing(self) -> str:
        """Policy for rows with missing values."""

    @property
    def weight(self) -> str | None:
        """Name of the rows' weights; None: every row counts once."""

    @property
    def fingerprint(self) -> str:
        """Identity of the rows."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of any result should know about the choice of files and columns."""

    @property
    def resident(self) -> bool:
        """True if the rows are in memory anyway."""

    @property
    def transforms(self) -> Transforms:
        """Transforms of columns, applied wherever rows are read."""

    def with_transforms(self, transforms: Transforms) -> Source:
        """Return the source with these transforms of its columns.

        Raises
        ------
        InputDataError
            If a value in memory has no transform.
        """

    def with_columns(self, columns: Sequence[str]) -> Source:
        """Return the source with some of its columns, in the given order.

        Raises
        ------
        InputDataError
            If it lacks one of them.
        """

    def leaves(self) -> Sequence[Leaf]:
        """Return the tasks of a pass, in order; a function of the data alone."""

    def small_leaves(self) -> Sequence[Leaf]:
        """Return the smallest units of reading (row groups), of which mini-batches are made."""
