"""How each column of a scored file is encoded and compressed: chosen by a look at its first values.

Half of the time of a scoring job goes into encoding. A codec needs three times as long as copying for floats of full
precision, of which it saves a tenth; and of row numbers, differences are a hundredth in a third of the time.
``BYTE_STREAM_SPLIT``, which saves a little more, is left out: the vectorised reader of Spark does not know it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream_gmm.core.estep.accumulate import CHUNK_ROWS

AUTO = "auto"
"""Compress with zstd those columns that it makes much smaller, and the others not at all."""
_ZSTD_LEVEL = -1
"""The default level of Arrow, 1, makes files of scores 3 % smaller and takes a third more time to write them."""
_BLOCKS, _BLOCK_ROWS = 8, 256
_WORTHWHILE = 0.7
"""A codec, or differences in place of integers, must leave no more of the bytes than this share."""
_PAGE_BYTES = 1 << 20


def choose_encoding(first: pa.Table, compression: str) -> dict[str, Any]:
    """Return the keywords of a Parquet writer for a table, of which ``first`` has the first rows.

    A dictionary is for columns of which values come again: one of full-precision floats, or of row numbers, makes
    files larger and slower to write and to read. Integers and times that rise evenly are written as differences.
    """
    coded, differences, compressed = [], [], []
    sample = _take_sample(first)
    for field in first.schema:
        values = sample.column(field.name)
        if pa.types.is_nested(field.type):
            of_floats = pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type)
            if not of_floats or _shrinks(pc.list_flatten(values)):
                compressed += _find_leaves(field)
            continue
        if _repeats(values):
            coded.append(field.name)
        elif _rises_evenly(first.column(field.name).slice(0, _BLOCK_ROWS)):
            differences.append(field.name)
        elif not _shrinks(values):
            continue
        compressed.append(field.name)
    widest = max((column.nbytes for column in first.columns), default=0)
    return {
        "use_dictionary": coded,
        "column_encoding": dict.fromkeys(differences, "DELTA_BINARY_PACKED") or None,
        "write_page_checksum": True,
        # Many values at once; but a page ends only after a batch.
        "write_batch_size": int(np.clip(_PAGE_BYTES * first.num_rows // max(widest, 1), 1024, CHUNK_ROWS)),
        **_choose_codecs(compression, compressed),
    }


def _choose_codecs(compression: str, compressed: list[str]) -> dict[str, Any]:
    if compression == AUTO:
        levels = dict.fromkeys(compressed, _ZSTD_LEVEL)
        return {"compression": dict.fromkeys(compressed, "zstd"), "compression_level": levels}
    return {"compression": compression, **({"compression_level": _ZSTD_LEVEL} if compression == "zstd" else {})}


def _take_sample(first: pa.Table) -> pa.Table:
    """Return evenly spaced blocks of rows."""
    if first.num_rows <= _BLOCKS * _BLOCK_ROWS:
        return first
    starts = np.linspace(0, first.num_rows - _BLOCK_ROWS, _BLOCKS).astype(int)
    return pa.concat_tables([first.slice(start, _BLOCK_ROWS) for start in starts])


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_temporal(kind) or pa.types.is_decimal(kind))


def _repeats(values: pa.ChunkedArray) -> bool:
    """Return True if a dictionary pays: for texts always, for whole numbers if most values come again."""
    if pa.types.is_floating(values.type):
        return False
    if not _is_whole(values.type):
        return True
    return bool(pc.count_distinct(values).as_py() <= len(values) // 2 + 1)


def _rises_evenly(values: pa.ChunkedArray) -> bool:
    """Return True if the differences of neighbours need far fewer bits than the values of an integer column."""
    width = 0 if pa.types.is_decimal(values.type) or not _is_whole(values.type) else values.type.bit_width
    if width not in (32, 64):
        return False
    numbers = _join(pc.drop_null(values)).view(pa.int64() if width == 64 else pa.int32()).to_numpy()
    steps = np.diff(numbers)  # wraps around, as the encoding does
    return len(steps) > 0 and float(steps.max()) - float(steps.min()) < 2.0 ** (_WORTHWHILE * width)


def _shrinks(values: pa.ChunkedArray) -> bool:
    """Return True if a codec makes the values much smaller."""
    known = _join(pc.drop_null(values))
    if not len(known) or pa.types.is_boolean(known.type):
        return True
    width = known.type.bit_width // 8
    plain = known.buffers()[-1].slice(known.offset * width, len(known) * width)
    return bool(pa.Codec("zstd", _ZSTD_LEVEL).compress(plain).size <= _WORTHWHILE * plain.size)


def _join(values: pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)


def _find_leaves(field: pa.Field) -> list[str]:
    """Return the names that Parquet gives to the columns within a nested one."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.schema([field]).empty_table(), buffer)
    leaves = pq.read_metadata(pa.BufferReader(buffer.getvalue())).schema
    return [leaves.column(i).path for i in range(len(leaves))]
