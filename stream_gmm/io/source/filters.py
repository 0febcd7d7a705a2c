"""Filters of rows: a text such as ``"temperature > -200 and station == 'A'"`` as an Arrow expression.

The text is parsed by Python's own parser and translated node by node; nothing in it is ever run.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from numpy.typing import NDArray

from stream_gmm.errors import ConfigError, InputDataError, did_you_mean, explain
from stream_gmm.io.source.files import SourceFile, is_uri, locate
from stream_gmm.io.source.schema import FileSchema

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_WORDS: dict[str, Any] = {"null": None, "true": True, "false": False}
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`([^`]+)`")
_PLACE = "_quoted_column_{}_"
GRAMMAR = (
    "write comparisons of a column with numbers or texts (==, !=, <, <=, >, >=, in [..], is null), joined by and, "
    "or, not, such as \"temperature > -200 and station == 'A'\"; a name with other characters in backticks"
)


@dataclass(frozen=True)
class RowFilter:
    """A parsed filter; ``columns`` are those that it looks at.

    A comparison with a missing value is neither true nor false, as in SQL; rows for which the whole is true match.
    """

    text: str
    tree: ast.expr
    quoted: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the filter looks at."""
        names = [self._name(n) for n in ast.walk(self.tree) if isinstance(n, ast.Name)]
        return tuple(dict.fromkeys(n for n in names if n.lower() not in _WORDS))

    def bind(self, schema: pa.Schema) -> Any:
        """Return the filter as an expression for rows of a schema.

        Raises
        ------
        ConfigError
            If a column cannot be compared with its value.
        """
        expression = self._translate(self.tree, schema)
        try:
            found = _evaluate(expression, pa.RecordBatch.from_pylist([], schema=schema))
        except (pa.ArrowException, NotImplementedError) as error:
            raise self._refuse(str(error).strip()) from error
        if not pa.types.is_boolean(found.type):
            raise self._refuse(f"it gives {found.type}, not true or false")
        return expression

    def _refuse(self, why: str) -> ConfigError:
        return ConfigError(explain(f"the filter {self.text!r} cannot be used", why=why, remedy=GRAMMAR))

    def _name(self, node: ast.Name) -> str:
        found = re.fullmatch(_PLACE.format(r"(\d+)"), node.id)
        return self.quoted[int(found[1])] if found else node.id

    def _translate(self, node: ast.expr, schema: pa.Schema) -> Any:
        if isinstance(node, ast.BoolOp):
            join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            return functools.reduce(join, [self._translate(v, schema) for v in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self._translate(node.operand, schema)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            parts = [
                self._compare(left, op, right, schema)
                for left, op, right in zip(sides, node.ops, sides[1:], strict=False)
            ]
            return functools.reduce(operator.and_, parts)
        if self._is_column(node):
            return pc.field(self._name(node))  # type: ignore[arg-type]
        raise self._refuse(f"'{ast.unparse(node)}' is not a comparison")

    def _is_column(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and self._name(node).lower() not in _WORDS

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr, schema: pa.Schema) -> Any:
        columns = [self._name(n) for n in (left, right) if isinstance(n, ast.Name) and self._is_column(n)]
        if not columns:
            raise self._refuse(
                f"'{ast.unparse(left)}' is compared with '{ast.unparse(right)}', and neither is a column"
            )
        kind = schema.field(columns[0]).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if isinstance(op, ast.In | ast.NotIn):
            found = pc.field(columns[0]).isin(self._read_list(right, kind))
            return ~found & pc.field(columns[0]).is_valid() if isinstance(op, ast.NotIn) else found
        sides = [
            pc.field(self._name(n)) if isinstance(n, ast.Name) and self._is_column(n) else self._read_value(n)
            for n in (left, right)
        ]
        if any(side is None for side in sides):
            column = pc.field(columns[0])
            if isinstance(op, ast.Eq | ast.Is):
                return column.is_null()
            if isinstance(op, ast.NotEq | ast.IsNot):
                return column.is_valid()
        if type(op) not in _COMPARE or any(side is None for side in sides):
            raise self._refuse(f"'{type(op).__name__}' cannot be used between these values")
        sides = [side if isinstance(side, pc.Expression) else self._cast(side, kind) for side in sides]
        return _COMPARE[type(op)](*sides)

    def _read_value(self, node: ast.expr) -> Any:
        """Return the number, text or truth value of a literal; None for null."""
        if isinstance(node, ast.Name):
            return _WORDS[node.id.lower()]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._read_value(node.operand)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
            return node.value
        raise self._refuse(f"'{ast.unparse(node)}' is neither a column nor a number nor a text")

    def _read_list(self, node: ast.expr, kind: pa.DataType) -> pa.Array:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set):
            raise self._refuse(f"'in' needs a list, such as ['A', 'B'], not '{ast.unparse(node)}'")
        try:
            return pa.array([self._read_value(n) for n in node.elts]).cast(kind)
        except (pa.ArrowException, TypeError) as error:
            raise self._refuse(str(error).strip()) from error

    def _cast(self, value: Any, kind: pa.DataType) -> Any:
        """Return a literal; a text that is compared with a date or a time as one of those."""
        if not (isinstance(value, str) and pa.types.is_temporal(kind)):
            return pc.scalar(value)
        try:
            return pc.scalar(pa.scalar(value).cast(kind))
        except pa.ArrowException as error:
            raise self._refuse(str(error).strip()) from error


@functools.lru_cache(maxsize=64)
def parse_filter(text: str) -> RowFilter:
    """Return a filter.

    Raises
    ------
    ConfigError
        If the text cannot be read, with what is allowed.
    """
    quoted: list[str] = []

    def replace_quoted(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        quoted.append(found[1])
        return _PLACE.format(len(quoted) - 1)

    try:
        tree = ast.parse(_QUOTED.sub(replace_quoted, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(explain(f"the filter {text!r} cannot be read", why=str(error), remedy=GRAMMAR)) from error
    out = RowFilter(text, tree, tuple(quoted))
    if not out.columns:
        raise ConfigError(explain(f"the filter {text!r} names no column", remedy=GRAMMAR))
    return out


def check_filter(text: str, schemas: Sequence[FileSchema]) -> None:
    """Refuse a filter that cannot be used on the rows of some file.

    Raises
    ------
    ConfigError
        If it cannot be read, or a column cannot be compared with its value.
    InputDataError
        If a file lacks one of its columns, or has it twice; names both.
    """
    parsed = parse_filter(text)
    for one in schemas:
        for name in parsed.columns:
            if one.schema.names.count(name) != 1:
                raise InputDataError(
                    f"{one.place}: the filter needs one column '{name}'{did_you_mean(name, one.schema.names)} "
                    f"It has: {', '.join(one.schema.names)}."
                )
        parsed.bind(one.schema)


def find_matching(batch: pa.RecordBatch, expression: Any) -> NDArray[np.bool_]:
    """Return which rows match, as booleans ``(n,)``."""
    matching: NDArray[np.bool_] = _evaluate(expression, batch).fill_null(False).to_numpy()
    return matching


def _evaluate(expression: Any, batch: pa.RecordBatch) -> pa.ChunkedArray:
    import pyarrow.dataset as pads  # it imports pandas where that is installed

    scanner = pads.Scanner.from_batches(
        [batch], schema=batch.schema, columns={"match": expression}, use_threads=False
    )
    return scanner.to_table()["match"]


def find_row_groups(file: SourceFile, text: str, schema: pa.Schema) -> set[int]:
    """Return the row groups of a file in which a row may match, by the statistics in its footer."""
    import pyarrow.dataset as pads

    if is_uri(file.path):
        place = locate(file.path)
        filesystem, path = place.filesystem, place.path
    else:
        filesystem, path = pafs.LocalFileSystem(), file.path
    known = [pc.is_null(pc.field(f.name)) if v is None else pc.field(f.name) == pa.scalar(v, f.type)
             for f, v in file.partition]  # fmt: skip
    guarantee = functools.reduce(operator.and_, known) if known else None
    fragment = pads.ParquetFileFormat().make_fragment(path, filesystem, guarantee)
    return {group.id for group in fragment.subset(parse_filter(text).bind(schema), schema=schema).row_groups}
