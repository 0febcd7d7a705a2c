"""Which columns are fitted: those that are named, by name, pattern or type; else all that look like measurements.

Without names, identifiers, row numbers, parts of a date and labels are set aside. That is decided by the names, by
the first rows of the data set and by the ranges in the footers; no other row is read.
"""

from __future__ import annotations

import fnmatch
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pyarrow as pa

from stream_gmm.core.display import shorten_list
from stream_gmm.errors import ConfigError, InputDataError, did_you_mean, explain
from stream_gmm.io.source.columns.identifiers import find_empty, find_identifiers
from stream_gmm.io.source.columns.names import MAGIC, NAMED_COLUMNS, TYPE
from stream_gmm.io.source.files import name_some
from stream_gmm.io.source.parts import Footer
from stream_gmm.io.source.schema import (
    Features,
    FileSchema,
    choose_features,
    distinct_schemas,
    group_by_schema,
    is_numeric,
)

log = logging.getLogger(__name__)

_TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    "float": pa.types.is_floating,
    "int": pa.types.is_integer,
    "bool": pa.types.is_boolean,
    "decimal": pa.types.is_decimal,
    "number": lambda kind: is_numeric(kind) and not pa.types.is_boolean(kind),
    **{
        name: functools.partial(lambda known, kind: kind.equals(known), getattr(pa, name)())
        for name in (
            "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        )
    },
}  # fmt: skip
"""What may stand behind ``dtype:``: a type of pyarrow, or the kind of several."""

NAMED_PROBLEMS = 5
"""So many problems with columns are listed in a message."""


def choose_columns(
    footers: Sequence[Footer], columns: Sequence[str] | None, exclude: Sequence[str], weight: str | None
) -> Features:
    """Return the columns to fit.

    ``columns`` and ``exclude`` hold names, patterns such as ``x*``, and types such as ``dtype:float64``. Without
    ``columns`` all numeric ones are chosen, except identifiers, row numbers, parts of a date and labels.

    Raises
    ------
    InputDataError
        If no column is left, a pattern matches none, or as :func:`~stream_gmm.io.source.schema.choose_features`.
    ConfigError
        If a type is unknown, or a column is named twice.
    """
    schemas = distinct_schemas(FileSchema(f.schema, f.file, f.metadata.num_rows) for f in footers)
    excluded = {
        name for text in exclude for name in _expand_selector(text, schemas, "exclude_columns", numeric=False)
    }
    partitioned = {item.name for f in footers for item, _ in f.file.partition} if not columns else set()
    excluded |= partitioned
    kept = [replace(one, schema=_drop_columns(one.schema, excluded)) for one in schemas] if excluded else schemas
    if columns:
        names: list[str] = []
        for text in columns:
            found = _expand_selector(text, kept, "columns", numeric=True)
            if found == (text,) and text in names:
                raise ConfigError(f"a column is named twice: {list(columns)}.")
            names += [n for n in found if n not in names and (n != weight or found == (text,))]
        names = [n for n in names if n not in excluded]
        if not names:
            raise InputDataError("every column of data.columns is left out by data.exclude_columns.")
        return Features(tuple(names))
    chosen = choose_features(kept, weight)
    if partitioned:
        warning = f"partition columns of the table are not fitted: {sorted(partitioned)}; name them in the columns."
        chosen = replace(chosen, warnings=(*chosen.warnings, warning))
    empty = find_empty(footers, chosen.columns)
    if empty and len(empty) < len(chosen.columns):
        warning = f"columns {list(empty)} hold no value in any file and are not fitted."
        kept_names = tuple(n for n in chosen.columns if n not in empty)
        chosen = Features(kept_names, (*chosen.warnings, warning))
    aside = find_identifiers(footers, chosen.columns)
    if not aside or len(aside) == len(chosen.columns):
        return chosen
    rest = tuple(n for n in chosen.columns if n not in aside)
    described = ", ".join(f"{name} ({why})" for name, why in aside.items())
    warning = (
        f"columns that look like identifiers, row numbers, parts of a date or labels are not fitted: {described}. "
        f"To fit them, name them in the columns: {[*aside, *rest]}."
    )
    _log_once(warning)
    return Features(rest, (*chosen.warnings, warning))


def check_features(files: Sequence[FileSchema], columns: Sequence[str]) -> None:
    """Refuse named columns that are not in every file, or cannot be read as numbers.

    Raises
    ------
    InputDataError
        Names files and columns; all problems at once, those of one kind together.
    """
    groups = group_by_schema(files)
    has_values = {n for g in groups for n in columns if g[0].counts[n] == 1 and is_numeric(g[0].types[n])}
    problems: dict[tuple[str, str], list[FileSchema]] = {}
    for group in groups:
        counts, types = group[0].counts, group[0].types
        for name in columns:
            if name not in counts:
                problems.setdefault((name, "is not there"), []).extend(group)
            elif counts[name] > 1:
                problems.setdefault((name, f"is there {counts[name]} times"), []).extend(group)
            elif not (is_numeric(types[name]) or (pa.types.is_null(types[name]) and name in has_values)):
                problems.setdefault((name, f"is {types[name]}, not a number"), []).extend(group)
    if not problems:
        return
    (name, what), where = next(iter(problems.items()))
    if len(problems) == 1 and len(where) == 1:
        raise InputDataError(_describe_column(name, what, where[0]))
    lines = [
        f"column '{name}' {what} in {len(where)} of {len(files)} files ({name_some([f.place for f in where])})"
        for (name, what), where in list(problems.items())[:NAMED_PROBLEMS]
    ]
    if len(problems) > NAMED_PROBLEMS:
        lines.append(f"and {len(problems) - NAMED_PROBLEMS} more problems with columns")
    raise InputDataError(
        explain(
            "; ".join(lines),
            why=_describe_column(name, what, where[0]),
            remedy="leave these files out with data.exclude, or these columns out of data.columns",
        )
    )


def _describe_column(name: str, what: str, one: FileSchema) -> str:
    """Return what is wrong with a column in one file, and what to do about it."""
    if name not in one.counts:
        have = shorten_list(one.schema.names, NAMED_COLUMNS)
        return f"{one.place}: there is no column '{name}'{did_you_mean(name, one.counts)} It has: {have}."
    if one.counts[name] > 1:
        return explain(f"{one.place}: there are {one.counts[name]} columns '{name}'", remedy="rename them")
    return explain(
        f"{one.place}: column '{name}' {what}",
        remedy="leave it out of data.columns, or convert it where the data is written",
    )


@functools.lru_cache(maxsize=1024)
def _log_once(message: str) -> None:
    """Log a message, once in a process: a job opens its data set several times."""
    log.warning(message)


def _drop_columns(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    return pa.schema([f for f in schema if f.name not in names], schema.metadata)


def _expand_selector(text: str, schemas: Sequence[FileSchema], key: str, *, numeric: bool) -> tuple[str, ...]:
    """Return the columns that a name, a pattern or a type stands for; patterns choose among the numeric ones."""
    names = tuple(dict.fromkeys(n for one in schemas for n in one.schema.names))
    if text in names:
        return (text,)
    if text.startswith(TYPE):
        kind = text.removeprefix(TYPE)
        if kind not in _TYPES:
            raise ConfigError(f"{key}: unknown type '{text}'{did_you_mean(kind, _TYPES)} Known: {', '.join(_TYPES)}.")
        found = [n for n in names if _has_type(schemas, n, _TYPES[kind])]
    elif MAGIC.search(text):
        matching = [n for n in names if fnmatch.fnmatchcase(n, text)]
        found = [n for n in matching if _has_type(schemas, n, is_numeric)] if numeric else matching
    elif numeric:
        return (text,)  # check_features explains that there is no such column
    else:
        raise InputDataError(f"{key}: there is no column '{text}'{did_you_mean(text, names)}")
    if not found:
        what = "numeric column" if numeric else "column"
        raise InputDataError(explain(f"{key}: no {what} matches '{text}'", why=f"there are {', '.join(names)}"))
    return tuple(found)


def _has_type(schemas: Sequence[FileSchema], name: str, test: Callable[[pa.DataType], bool]) -> bool:
    """Return True if a column passes a test of its type in every file, and has values in one of them."""
    kinds = [one.types[name] for one in schemas if name in one.counts]
    kinds = [k.value_type if pa.types.is_dictionary(k) else k for k in kinds if not pa.types.is_null(k)]
    return bool(kinds) and all(test(k) for k in kinds)
