"""What a source of rows is, whether files or memory; and what one task of a pass reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from stream_gmm.io.source.chunks import Chunk


class Leaf(Protocol):
    """What one task of a pass reads: picklable, and small when pickled."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    def chunks(self) -> Iterator[Chunk]:
        """Read, one bounded chunk at a time."""


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
    def resident(self) -> bool:
        """True if the rows are in memory anyway."""

    def leaves(self) -> Sequence[Leaf]:
        """Return the tasks of a pass, in order; a function of the data alone."""

    def small_leaves(self) -> Sequence[Leaf]:
        """Return the smallest units of reading (row groups), of which mini-batches are made."""
