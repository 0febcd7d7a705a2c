"""Which columns are features, and what the files of a data set must have in common.

Nothing here depends on the order of the files, except the order of the columns, which is that of the first file.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa

from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.source.files import SourceFile, open_unchanged, redact
from stream_gmm.io.source.parts import extend_schema

_INDEX_NAME = re.compile(r"__index_level_\d+__")


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_numeric(kind: pa.DataType) -> bool:
    """Return True for the types that can be read as float64."""
    kind = _value_type(kind)
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def is_vector(kind: pa.DataType) -> bool:
    """Return True for lists of numbers, tensors, and Spark's vectors (a struct with a list of numbers)."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_vector(kind.storage_type)
    if pa.types.is_struct(kind):
        return any(is_vector(f.type) for f in kind)
    is_list = any(
        test(kind)
        for test in (
            pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list,
            pa.types.is_list_view, pa.types.is_large_list_view,
        )
    )  # fmt: skip
    return is_list and (is_numeric(kind.value_type) or is_vector(kind.value_type))


def index_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns that hold the index of a pandas frame."""
    stored: list[object] = []
    with contextlib.suppress(ValueError, AttributeError):
        stored = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    return tuple(n for n in schema.names if n in stored or _INDEX_NAME.fullmatch(n))


@dataclass(frozen=True)
class FileSchema:
    """The columns of one file; ``file`` is None for a record batch of a stream."""

    schema: pa.Schema
    file: SourceFile | None = None
    rows: int = 0

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each column is there; schemas of Arrow search their columns from the first to the last."""
        return Counter(self.schema.names)

    @cached_property
    def types(self) -> dict[str, pa.DataType]:
        """Type of each column; of one that is there several times, that of the last."""
        return {item.name: item.type for item in self.schema}

    @property
    def place(self) -> str:
        """The file, for messages."""
        return "the record batch" if self.file is None else redact(self.file.path)


def numeric_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns of a stream that can be fitted: numeric, and not the index of a pandas frame.

    Raises
    ------
    InputDataError
        If there is none, or a column holds vectors.
    """
    return choose_features([FileSchema(schema)]).columns


@dataclass(frozen=True)
class Features:
    """The chosen columns, and what a reader of the result should know about the choice."""

    columns: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def choose_features(files: Sequence[FileSchema], weight: str | None = None) -> Features:
    """Return the columns to fit where none are named: those that are numeric in every file.

    A column without any value (of type null) in some files counts as numeric there, and its rows as missing.

    Raises
    ------
    InputDataError
        If there is none, if a column is numeric in some files only, or holds vectors; names file and column.
    """
    schemas = distinct_schemas(files)
    _refuse_vectors(schemas)
    numeric: dict[str, FileSchema] = {}
    for one in schemas:
        for item in one.schema:
            if is_numeric(item.type):
                numeric.setdefault(item.name, one)
    indices = {n for one in schemas for n in index_columns(one.schema)}
    names = tuple(n for n in numeric if n != weight and n not in indices)
    if not names:
        have = ", ".join(dict.fromkeys(n for one in schemas for n in one.schema.names)) or "no column"
        raise InputDataError(
            explain("the data set has no numeric column", why=f"it has {have}", remedy="name data.columns")
        )
    _refuse_partly_numeric(schemas, {n: numeric[n] for n in names})
    warnings = []
    left_out = sorted(n for n in indices if n in numeric and n != weight)
    if left_out:
        warnings.append(
            f"columns {left_out} hold the index of a pandas frame and are not fitted; name them in the columns to "
            "fit them."
        )
    empty = sorted({f.name for one in schemas for f in one.schema if pa.types.is_null(f.type)} - numeric.keys())
    if empty:
        warnings.append(f"columns {empty} hold no value in any file and are not fitted.")
    return Features(names, tuple(warnings))


def _refuse_vectors(schemas: Sequence[FileSchema]) -> None:
    for one in schemas:
        for item in one.schema:
            if is_vector(item.type):
                raise InputDataError(
                    explain(
                        f"{one.place}: column '{item.name}' is {item.type}, a vector in each row",
                        why="features are columns with one number in each row",
                        remedy="write every entry as a column of its own, or name the columns to fit in data.columns",
                    )
                )


def _refuse_partly_numeric(schemas: Sequence[FileSchema], numeric: Mapping[str, FileSchema]) -> None:
    """Refuse columns that are numbers in one file (``numeric`` says in which) and something else in another."""
    for name, example in numeric.items():
        for one in schemas:
            times = one.counts[name]
            kind = one.types[name] if times == 1 else None
            if kind is not None and (is_numeric(kind) or pa.types.is_null(kind)):
                continue
            here = f"is {kind}" if times == 1 else "is not there" if not times else f"is there {times} times"
            raise InputDataError(
                explain(
                    f"{one.place}: column '{name}' {here}",
                    why=f"it is a number in {example.place}",
                    remedy="name the columns to fit in data.columns, or leave the file out by data.exclude",
                )
            )


def group_by_schema(files: Iterable[FileSchema]) -> list[list[FileSchema]]:
    """Return files that have the same schema together: a data set has many files and few schemas."""
    out: dict[str, list[list[FileSchema]]] = {}
    for one in files:
        alike = out.setdefault(",".join(one.schema.names), [])
        known = next((group for group in alike if one.schema.equals(group[0].schema)), None)
        if known is None:
            alike.append([one])
        else:
            known.append(one)
    return [group for alike in out.values() for group in alike]


def distinct_schemas(files: Iterable[FileSchema]) -> list[FileSchema]:
    """Return one file for each schema."""
    return [group[0] for group in group_by_schema(files)]


@dataclass(frozen=True)
class CommonSchema:
    """All columns of all files, each with a type that holds the values of every file."""

    schema: pa.Schema
    clashes: Mapping[str, str] = field(default_factory=dict)
    """Columns whose types have nothing in common, with a message that names the files."""
    warnings: tuple[str, ...] = ()


def unite_schemas(files: Sequence[FileSchema]) -> CommonSchema:
    """Return the columns of all files. A file that lacks one, or has another type, is conformed when it is read."""
    groups = group_by_schema(files)
    schemas = [group[0] for group in groups]
    fields: dict[str, pa.Field] = {}
    sources: dict[str, FileSchema] = {}
    clashes: dict[str, str] = {}
    for one in schemas:
        for item in one.schema:
            times = one.counts[item.name]
            if times > 1:
                clashes[item.name] = explain(
                    f"{one.place}: there are {times} columns '{item.name}'",
                    why="which of them is meant cannot be told by the name",
                    remedy="rename them, or leave them out of the pass-through columns (score.passthrough)",
                )
            known = fields.setdefault(item.name, item)
            sources.setdefault(item.name, one)
            if known.type == item.type:
                continue
            common = _common_type(known.type, item.type)
            if common is not None:
                fields[item.name] = known.with_type(common).with_nullable(True)
            elif item.name not in clashes:
                clashes[item.name] = explain(
                    f"{one.place}: column '{item.name}' is {item.type}, and {known.type} in "
                    f"{sources[item.name].place}",
                    why="one output column cannot hold both",
                    remedy="leave it out of the pass-through columns (score.passthrough)",
                )
    for name in fields:
        if not all(name in one.counts for one in schemas):
            fields[name] = fields[name].with_nullable(True)
    warnings = []
    if len(schemas) > 1:
        for name in fields:
            lacking = [f for g in groups if name not in g[0].counts for f in g]
            if lacking:
                warnings.append(
                    f"column '{name}' is not in {len(lacking)} of {len(files)} files (such as {lacking[0].place}): "
                    f"their {sum(f.rows for f in lacking)} rows have null there if it is passed through."
                )
    return CommonSchema(pa.schema(list(fields.values()), files[0].schema.metadata), clashes, tuple(warnings))


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    one, other = _value_type(one), _value_type(other)
    try:
        pair = [pa.schema([pa.field("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(pair, promote_options="permissive").field("x").type
    except (pa.ArrowException, TypeError):
        return None


def conform_to(common: CommonSchema, one: FileSchema) -> tuple[pa.Field, ...]:
    """Return the columns that a file lacks or has with another type, as they are to be passed through."""
    own = {item.name: item.type for item in one.schema}
    return tuple(f for f in common.schema if own.get(f.name) != f.type)


def conform_batch(batch: pa.RecordBatch, wanted: Sequence[str], conform: Sequence[pa.Field]) -> pa.RecordBatch:
    """Return the wanted columns of a batch, with nulls for those that its file lacks.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a value does not fit the common type.
    """
    differing = {f.name: f for f in conform}
    arrays, fields = [], []
    for name in wanted:
        if name not in differing:
            arrays.append(batch.column(name))
            fields.append(batch.schema.field(name))
        else:
            target = differing[name]
            there = name in batch.schema.names
            column = batch.column(name) if there else pa.nulls(batch.num_rows, target.type)
            arrays.append(column.cast(target.type) if there else column)
            fields.append(target)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def with_conform(file: SourceFile, common: CommonSchema, schema: pa.Schema) -> SourceFile:
    """Return a file that knows how its columns differ from those of the data set."""
    conform = conform_to(common, FileSchema(schema))
    return replace(file, conform=conform) if conform else file


def read_schema(file: SourceFile, columns: Sequence[str]) -> pa.Schema:
    """Return the columns of a file as they are passed through.

    Raises
    ------
    InputDataError
        If the file cannot be opened, or was replaced.
    """
    with open_unchanged(file) as parquet:
        batch = pa.RecordBatch.from_pylist([], schema=extend_schema(parquet.schema_arrow, file))
    return conform_batch(batch, columns, file.conform).schema
