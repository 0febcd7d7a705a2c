"""What one task of a pass over files reads: row groups, and how many of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.rows.transforms import Transforms
from stream_gmm.errors import InputDataError
from stream_gmm.io.source.chunks import Chunk, parquet_chunks, read_ahead
from stream_gmm.io.source.decode import Sentinels
from stream_gmm.io.source.files import is_uri, redact
from stream_gmm.io.source.parts import Part

# Bytes of float64 in one task of a pass. They depend on the data alone: were they to depend on the workers, so would
# the bits of the result.
LEAF_BYTES = (4 << 20, 64 << 20)
LEAVES = 64


@dataclass(frozen=True)
class ParquetLeaf:
    """Row groups of one file, or of several small ones."""

    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    missing: str
    weight: str | None = None
    row_filter: str | None = None
    transforms: Transforms = ()
    sentinels: Sentinels = ()

    @property
    def rows(self) -> int:
        """Number of rows, before the filter leaves some out."""
        return sum(p.rows for p in self.parts)

    def chunks(self) -> Iterator[Chunk]:
        """Read, one bounded chunk at a time."""
        for part in self.parts:
            read = self._weighted_chunks(part) if self.weight else self._read(part, self.columns)
            # The network makes a reader wait, the disk hardly: there the next chunk comes while this one is used.
            yield from read_ahead(read) if is_uri(part.path) else read

    def _read(self, part: Part, columns: Sequence[str]) -> Iterator[Chunk]:
        return parquet_chunks(part, columns, self.missing, (), self.row_filter, self.transforms, self.sentinels)

    def _weighted_chunks(self, part: Part) -> Iterator[Chunk]:
        assert self.weight is not None
        for chunk in self._read(part, (*self.columns, self.weight)):
            if not np.all(chunk.rows[:, -1] >= 0.0):
                row = int(np.argmin(chunk.rows[:, -1] >= 0.0))
                what = "negative" if chunk.rows[row, -1] < 0.0 else "missing"
                where = f"{redact(part.path)}, column '{self.weight}': the weight of row {chunk.row_numbers[row]}"
                raise InputDataError(f"{where} is {what}.")
            yield replace(chunk, weighted=True, bad=chunk.bad[:-1])


def rows_per_leaf(n_rows: int, n_columns: int) -> int:
    """Return the rows of one task of a pass; a function of the data alone."""
    row_bytes = 8 * n_columns
    low, high = LEAF_BYTES
    return max(1, int(np.clip(n_rows * row_bytes // LEAVES, low, high)) // row_bytes)
