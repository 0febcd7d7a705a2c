"""Record batches of an Arrow IPC stream or a table: reading, scoring and writing them one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from stream_gmm.core.estep.scores import Scores, score_rows
from stream_gmm.core.model.density import Density
from stream_gmm.errors import ConfigError, InputDataError, explain
from stream_gmm.io.sink.scores import Layout, make_scored_table, score_columns
from stream_gmm.io.source.chunks import Chunk, decode_rows

NO_MODEL = "no model yet"


def record_batches(source: BinaryIO) -> Iterator[pa.RecordBatch]:
    """Read an Arrow IPC stream to its end, one record batch in memory at a time.

    Raises
    ------
    InputDataError
        If it is not an Arrow IPC stream, or is truncated.
    """
    try:
        with pa.ipc.open_stream(source) as reader:
            yield from reader
    except (pa.ArrowException, OSError) as error:
        raise InputDataError(
            explain(
                "the input is not a whole Arrow IPC stream",
                why=str(error).strip(),
                remedy="write it with pyarrow.ipc.new_stream",
            )
        ) from error


def arrow_batches(data: Any) -> list[pa.RecordBatch] | None:
    """Return the record batches of an Arrow table or record batch; None for anything else."""
    if isinstance(data, pa.RecordBatch):
        return [data]
    return list(data.to_batches()) if isinstance(data, pa.Table) else None


def decode_batch(batch: pa.RecordBatch, number: int, columns: tuple[str, ...], missing: str) -> Chunk:
    """Return the rows of a record batch, with the policy for missing values applied.

    Raises
    ------
    InputDataError
        If a column is not there, or a value cannot be used; names batch, row and column.
    """
    absent = [c for c in columns if c not in batch.schema.names]
    if absent:
        raise InputDataError(
            explain(f"record batch {number} lacks the columns {absent}", why=f"the model has {list(columns)}")
        )
    return decode_rows(batch, lambda row: f"record batch {number}, row {row}", 0, columns, missing)


def score_batch(
    chunk: Chunk, density: Density | None, k: int, threshold: float, passthrough: bool, proba: str
) -> Any:
    """Return a batch with its scores as a table; before the first model (None) every score is null, with the reason.

    Raises
    ------
    ConfigError
        If two columns would have one name.
    """
    assert chunk.batch is not None
    layout = Layout(tuple(chunk.batch.schema.names) if passthrough else (), proba)
    columns = score_columns(k, layout)
    clash = sorted({n for n, _, _ in columns} & set(layout.passthrough))
    if clash:
        raise ConfigError(f"the stream already has columns named {clash}: do not pass its columns through.")
    if density is not None:
        return make_scored_table(chunk, score_rows(density, chunk.rows), columns, layout, threshold, {})
    no_rows, reasons = np.zeros(chunk.size, dtype=bool), np.full(chunk.size, NO_MODEL, dtype=object)
    unscored = Chunk(
        chunk.rows[:0], chunk.size, chunk.file_index, chunk.first_row, no_rows, chunk.bad, chunk.batch, reasons
    )
    nothing = Scores(np.empty(0, np.int32), np.empty((0, k)), np.empty(0), np.empty(0))
    return make_scored_table(unscored, nothing, columns, layout, threshold, {})


class StreamWriter:
    """Writes tables to a sink as one Arrow IPC stream; the first table sets the schema."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._writer: Any = None

    def __call__(self, table: Any) -> None:
        """Write one table."""
        if self._writer is None:
            self._writer = pa.ipc.new_stream(self._sink, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """End the stream; a sink that got no table stays empty."""
        if self._writer is not None:
            self._writer.close()


WriteTable = Callable[[Any], None]
