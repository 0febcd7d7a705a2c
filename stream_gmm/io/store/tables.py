"""Small tables and arrays that belong to a run: the sweep table, the sample behind the report."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stream_gmm.core.model.moments import Array
from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.store.container import write_atomically
from stream_gmm.io.store.folders import lock_folder


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of equal keys as an Arrow table (``.to_pylist()``, ``.to_pandas()``)."""
    return pa.Table.from_pylist([dict(r) for r in rows])


def write_table(table: pa.Table, path: Path) -> Path:
    """Write a table as Parquet, atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return write_atomically(path, buffer.getvalue())


def read_table(path: Path) -> pa.Table:
    """Read a table written by :func:`write_table`.

    Raises
    ------
    InputDataError
        If it is missing or damaged.
    """
    try:
        return pq.read_table(path, partitioning=None, page_checksum_verification=True)
    except (OSError, ValueError) as error:  # Arrow's errors are of these kinds
        raise InputDataError(
            explain(
                f"cannot read the table {path}",
                why=str(error),
                remedy="run 'stream-gmm sweep' again; finished candidates are not fitted again",
            )
        ) from error


def append_rows(rows: Sequence[Mapping[str, Any]], path: Path, keys: Sequence[str]) -> Path:
    """Add rows to a Parquet table, atomically; rows with the same ``keys`` are replaced.

    Raises
    ------
    InputDataError
        If the table that is there is damaged.
    StorageError
        If it cannot be written; the table is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_folder(path.parent, wait=True):
        kept = read_table(path).to_pylist() if path.exists() else []
        new = {tuple(r[k] for k in keys) for r in rows}
        kept = [r for r in kept if tuple(r[k] for k in keys) not in new]
        return write_table(table_of([*kept, *rows]), path)


def write_rows(rows: Array, columns: Sequence[str], path: Path) -> Path:
    """Write rows ``(N, D)`` as Parquet with these column names."""
    return write_table(pa.table({c: rows[:, j] for j, c in enumerate(columns)}), path)
