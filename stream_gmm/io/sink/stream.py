"""Record batches of an Arrow IPC stream or a table: reading, scoring and writing them one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from stream_gmm.core.estep.accumulate import CHUNK_ROWS
from stream_gmm.core.estep.scores import Scores, score_rows, score_transformed
from stream_gmm.core.model.density import Density
from stream_gmm.core.outliers import OutlierTest
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transforms import Transforms
from stream_gmm.errors import ConfigError, InputDataError, explain
from stream_gmm.io.sink.columns import (
    REASON,
    Layout,
    choose_passthrough,
    make_scored_table,
    score_columns,
)
from stream_gmm.io.source.chunks import Chunk, decode_rows, set_unlike_aside
from stream_gmm.io.source.memory import require_complete_rows

NO_MODEL = "no model yet"


def record_batches(source: BinaryIO, least: int = 0) -> Iterator[pa.RecordBatch]:
    """Read an Arrow IPC stream to its end, one record batch in memory at a time.

    If it has fewer than ``least`` batches, an empty one follows.

    Raises
    ------
    InputDataError
        If it is not an Arrow IPC stream, or is truncated.
    """
    try:
        with pa.ipc.open_stream(source) as reader:
            found = 0
            for batch in reader:
                found += 1
                yield batch
            if found < least:
                yield pa.RecordBatch.from_pylist([], schema=reader.schema)
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


def decode_batch(
    batch: pa.RecordBatch, number: int, columns: tuple[str, ...], missing: str, transforms: Transforms = ()
) -> Chunk:
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
    return decode_rows(
        batch, lambda row: f"record batch {number}, row {row}", 0, columns, missing, transforms=transforms
    )


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
    columns = score_columns(k, layout, test=OutlierTest(limit=threshold))
    clash = sorted({c.name for c in columns} & set(layout.passthrough))
    if clash:
        raise ConfigError(f"the stream already has columns named {clash}: do not pass its columns through.")
    if density is not None:
        return make_scored_table(chunk, score_rows(density, chunk.rows), columns, layout, {})
    no_rows, reasons = np.zeros(chunk.size, dtype=bool), np.full(chunk.size, NO_MODEL, dtype=object)
    unscored = Chunk(
        chunk.rows[:0], chunk.size, chunk.file_index, chunk.first_row, no_rows, chunk.bad, chunk.batch, reasons
    )
    nothing = Scores(np.empty(0, np.int32), np.empty((0, k)), np.empty(0), np.empty(0))
    return make_scored_table(unscored, nothing, columns, layout, {})


def score_record_batch(
    model: FitResult, batch: pa.RecordBatch, number: int, *,
    passthrough: str | Sequence[str], layout: Layout, test: OutlierTest, missing: str,
) -> pa.RecordBatch:  # fmt: skip
    """Return a record batch with its scores; ``number`` names it in messages, ``layout`` says which columns to add.

    Raises
    ------
    InputDataError
        If a column of the model is not there, or a value cannot be used.
    ConfigError
        If two columns would have one name.
    """
    constants = tuple(c for c in model.constants if c.name in batch.schema.names)
    columns = (*model.columns, *(c.name for c in constants))
    kept = choose_passthrough(passthrough, batch.schema.names)
    absent = [c for c in kept if c not in batch.schema.names]
    if absent:
        raise ConfigError(f"passthrough names {absent}, and record batch {number} has {batch.schema.names}.")
    layout = replace(layout, passthrough=kept)
    wanted = score_columns(model.n_components, layout, model.density.noisy, test, model.training)
    names = [*(c.name for c in wanted), layout.prefix + REASON]
    clash = sorted(set(names) & set(layout.passthrough))
    if clash:
        remedy = "give a prefix, such as 'gmm_', or do not pass the columns through"
        raise ConfigError(explain(f"the input already has columns named {clash}", remedy=remedy))
    if model.transforms:
        require_complete_rows(missing, "a model with transforms")
    chunk, unlike = set_unlike_aside(decode_batch(batch, number, columns, missing, model.transforms), constants)
    scores = score_transformed(model.density, chunk.rows, model.columns, model.transforms)
    metadata = {"stream_gmm.model_digest": model.digest}
    table = make_scored_table(chunk, scores, wanted, layout, metadata, unlike)
    if not table.num_rows:
        return pa.RecordBatch.from_pylist([], schema=table.schema)
    return table.combine_chunks().to_batches()[0]


def score_record_batches(model: FitResult, source: Any, **options: Any) -> Iterator[pa.RecordBatch]:
    """Yield scored record batches of a reader, a table, a record batch or an iterable; options as above.

    A batch of more than 65,536 rows is scored in slices, which bounds the memory.
    """
    for number, batch in enumerate(arrow_batches(source) or source):
        if not isinstance(batch, pa.RecordBatch):
            raise InputDataError(f"record batch {number} is a {type(batch).__name__}: give pyarrow record batches.")
        for start in range(0, max(batch.num_rows, 1), CHUNK_ROWS):
            yield score_record_batch(model, batch.slice(start, CHUNK_ROWS), number, **options)


class StreamWriter:
    """Writes tables to a sink as one Arrow IPC stream; the first table sets the schema."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._writer: Any = None

    def __call__(self, table: Any) -> None:
        """Write one table or record batch."""
        if self._writer is None:
            self._writer = pa.ipc.new_stream(self._sink, table.schema)
        self._writer.write(table)

    def close(self) -> None:
        """End the stream; a sink that got no table stays empty."""
        if self._writer is not None:
            self._writer.close()


WriteTable = Callable[[Any], None]
