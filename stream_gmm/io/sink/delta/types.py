"""The types of columns that a Delta table has, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from stream_gmm.errors import ConfigError, explain
from stream_gmm.io.source.dataset import Dataset

_WIDER = {
    pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.float16(): pa.float32(),
    pa.date64(): pa.date32(), pa.large_string(): pa.string(), pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(), pa.binary_view(): pa.binary(),
}  # fmt: skip
_PLAIN = (
    pa.types.is_signed_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_boolean, pa.types.is_string,
    pa.types.is_binary, pa.types.is_date32, pa.types.is_decimal128,
)  # fmt: skip
PARTITION_TYPES = (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date)


def find_delta_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of a type in a Delta table, and is written to its files; None: none does.

    Unsigned integers get a wider type, and times microseconds: finer ones end the job where that would lose digits.
    """
    kind = _WIDER.get(kind.value_type if pa.types.is_dictionary(kind) else kind, kind)
    if pa.types.is_dictionary(kind):
        return find_delta_type(kind.value_type)
    if any(test(kind) for test in _PLAIN):
        return kind
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = find_delta_type(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [(f.name, find_delta_type(f.type)) for f in kind]
        return None if any(t is None for _, t in fields) else pa.struct(fields)
    return None


def conform_columns(dataset: Dataset, names: Sequence[str], partition_by: Sequence[str]) -> Dataset:
    """Return a data set whose columns to pass through are read with the types that a Delta table has.

    Raises
    ------
    ConfigError
        If it has none for a column, or one to partition by is neither text, whole numbers, truth values nor dates.
    """
    fields = {}
    for name in names:
        field = dataset.schema.field(name)
        kind = find_delta_type(field.type)
        if kind is None:
            raise ConfigError(
                explain(
                    f"column '{name}' is {field.type}, which a Delta table does not have",
                    remedy="leave it out of the pass-through columns (score.passthrough)",
                )
            )
        if name in partition_by and not any(test(kind) for test in PARTITION_TYPES):
            raise ConfigError(
                f"score.partition_by names '{name}' of type {kind}: with sink: delta take text, whole numbers, truth "
                "values or dates."
            )
        if kind != field.type:
            fields[name] = field.with_type(kind).with_nullable(True)
    if not fields:
        return dataset
    schema = pa.schema([fields.get(f.name, f) for f in dataset.schema], metadata=dataset.schema.metadata)
    made = {}
    for part in dataset.parts:
        if part.file_index not in made:
            others = [f for f in part.file.conform if f.name not in fields]
            made[part.file_index] = replace(part.file, conform=(*others, *fields.values()))
    parts = tuple(replace(part, file=made[part.file_index]) for part in dataset.parts)
    return replace(dataset, parts=parts, schema=schema)
