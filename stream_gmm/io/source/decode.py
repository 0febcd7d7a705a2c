"""Arrow columns -> float64 values, with the policy for missing values applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stream_gmm.core.display import shorten_list
from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.frames import LARGEST
from stream_gmm.core.rows.transforms import KINDS as TRANSFORM_KINDS
from stream_gmm.core.rows.transforms import ColumnTransform, Transforms
from stream_gmm.errors import ConfigError, InputDataError, did_you_mean, explain

KINDS = ("null", "nan", "infinite", "oversized")
"""Why a value cannot be used; oversized: beyond 1e150, so that sums of squares overflow."""
_REASONS = ("null", "NaN", "infinite value", "oversized value")

MARGINALISE = "marginalise"
"""The policy by which missing values stay in the rows, as NaN: fits and scores use the values that are there."""
Sentinels = tuple[tuple[str, tuple[float, ...]], ...]
"""Values of columns that stand for a missing one."""
Locate = Callable[[int], str]
"""Returns in words where a row number is."""


@dataclass(frozen=True)
class Decoded:
    """The values ``(D, n)`` of the usable rows of a batch.

    ``keep (N,)`` marks those rows among all of the batch (None: all are usable); ``bad (D, 4)`` counts the values
    of each of ``KINDS``; ``reasons (N,)`` says why a row cannot be used; ``incomplete`` is true if usable rows have
    missing values, which are NaN.
    """

    values: Array
    keep: NDArray[np.bool_] | None
    bad: NDArray[np.int64]
    reasons: NDArray[Any] | None = None
    incomplete: bool = False


def expand_sentinel(given: Mapping[str, float | Sequence[float]], columns: Sequence[str]) -> Sentinels:
    """Return the sentinels of each of the columns.

    Raises
    ------
    ConfigError
        If a name or pattern matches no column, or a value is not a number.
    """
    found: dict[str, set[float]] = {}
    for pattern, values in given.items():
        matches = [c for c in columns if c == pattern or fnmatchcase(c, pattern)]
        if not matches:
            raise ConfigError(
                f"sentinel names '{pattern}'{did_you_mean(pattern, columns)} There is no such column among those "
                f"that are used: {shorten_list(columns)}."
            )
        try:
            numbers = {float(v) for v in (values if isinstance(values, Iterable) else [values])}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sentinel: the values of '{pattern}' must be numbers, not {values!r}.") from error
        for name in matches:
            found.setdefault(name, set()).update(numbers)
    return tuple((name, tuple(sorted(found[name]))) for name in sorted(found))


def decode_values(
    batch: pa.RecordBatch,
    locate: Locate,
    numbers: NDArray[np.int64],
    columns: Sequence[str],
    missing: str,
    explained: bool,
    transforms: Transforms = (),
    sentinels: Sentinels = (),
) -> Decoded:
    """Return the usable rows of a record batch as float64; ``explained``: with the reasons for the others.

    ``numbers (n,)`` are the numbers of its rows in the file, for messages. Nulls, NaN and ``sentinels`` are missing
    values. Columns are transformed by ``transforms``; a value without a transform cannot be used, and counts as NaN.

    Raises
    ------
    InputDataError
        If a value cannot be used and ``missing`` is ``"error"``, or does not fit a float64.
    """
    n, d, functions = batch.num_rows, len(columns), {t.name: t for t in transforms}
    values, clean = np.empty((d, n)), True
    marks, marked = dict(sentinels), np.zeros((d, n) if sentinels else (d, 0), dtype=bool)
    with np.errstate(over="ignore"):
        for j, name in enumerate(columns):
            values[j] = _to_float(batch.column(name), locate, numbers, name)
            if name in marks:
                marked[j] = np.isin(values[j], marks[name])
                values[j, marked[j]] = np.nan
            if name in functions:
                values[j] = functions[name].apply(values[j])
            # One look, while the column is in the cache: NaN and values beyond the limit show in the sum of squares.
            clean = clean and bool(np.einsum("i,i->", values[j], values[j]) < LARGEST**2)
    bad = np.zeros((d, len(KINDS)), np.int64)
    if clean:
        return Decoded(values, None, bad)
    usable = np.abs(values) <= LARGEST
    if usable.all():
        return Decoded(values, None, bad)
    for j, name in enumerate(columns):
        nulls = batch.column(name).null_count + int(marked[j].sum())
        nans, infinities = int(np.isnan(values[j]).sum()), int(np.isinf(values[j]).sum())
        bad[j] = nulls, nans - nulls, infinities, n - int(usable[j].sum()) - nans - infinities
    if missing == "error":
        for j, name in enumerate(columns):
            if name in functions:
                _refuse_outside(batch.column(name), values[j], functions[name], locate, numbers, marked[j])
        raise InputDataError(_describe_missing(locate, columns, values, usable, bad, numbers))
    reasons = _explain_missing(batch, columns, values, marked, missing) if explained else None
    if missing == MARGINALISE:
        usable |= np.isnan(values)
    for name, transform in functions.items():
        if name in columns:
            j = columns.index(name)
            outside = _find_outside(batch.column(name), values[j], marked[j])
            usable[j, outside] = False  # it is there, and not missing
            if reasons is not None:
                reasons[outside] = f"value of {name} without a {transform.kind}"
    keep = np.asarray(usable.all(axis=0))
    values, whole = (values, None) if keep.all() else (np.ascontiguousarray(values[:, keep]), keep)
    return Decoded(values, whole, bad, reasons, incomplete=missing == MARGINALISE)


def _to_float(column: pa.Array, locate: Locate, numbers: NDArray[np.int64], name: str) -> NDArray[Any]:
    column = _plain(column)
    kind = column.type
    if not (pa.types.is_float64(kind) or pa.types.is_float32(kind)):
        try:
            column = pc.cast(column, pa.float64())
        except pa.ArrowInvalid as error:
            raise InputDataError(
                explain(
                    f"{locate(int(numbers[_find_misfit(column)]))}, column '{name}': a value does not fit a "
                    "float64 exactly",
                    why=str(error),
                    remedy="leave the column out (is it an identifier?) or convert it to double",
                )
            ) from error
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _find_outside(column: pa.Array, transformed: Array, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which values ``(n,)`` are numbers without a transform; those ``marked``, if any, are missing."""
    given = pc.is_finite(pc.cast(_plain(column), pa.float64())).fill_null(False).to_numpy(zero_copy_only=False)
    outside = np.asarray(given & np.isnan(transformed))
    return outside & ~marked if marked.size else outside


def _refuse_outside(
    column: pa.Array, transformed: Array, transform: ColumnTransform, locate: Locate, numbers: NDArray[np.int64],
    marked: NDArray[np.bool_],
) -> None:  # fmt: skip
    outside = _find_outside(column, transformed, marked)
    if outside.any():
        first = int(np.argmax(outside))
        row, value = int(numbers[first]), float(_plain(column)[first].as_py())
        raise InputDataError(
            explain(
                f"{locate(row)}, column '{transform.name}': {int(outside.sum())} of these rows have no {transform}, "
                f"the first is row {row} of the input ({value:.6g})",
                why=f"{transform.kind} is defined {TRANSFORM_KINDS[transform.kind].domain}",
                remedy="use missing: drop (data.missing) to leave these rows out, or another transform: yeo_johnson "
                "and asinh take every number",
            )
        )


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _find_misfit(column: pa.Array) -> int:
    """Return the position of the first value that cannot be cast, by bisection."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pc.cast(column[low:middle], pa.float64())
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _describe_missing(
    locate: Locate,
    columns: Sequence[str],
    values: Array,
    usable: NDArray[np.bool_],
    bad: NDArray[np.int64],
    numbers: NDArray[np.int64],
) -> str:
    j = int(np.flatnonzero(bad.sum(axis=1))[0])
    position = int(np.flatnonzero(~usable[j])[0])
    row, value = int(numbers[position]), values[j, position]
    counts = ", ".join(f"{c} {kind}" for kind, c in zip(KINDS, bad[j], strict=True) if c)
    oversized = bad[j, -1] > 0
    example = f" ({value:.6g})" if oversized and np.isfinite(value) else ""
    return explain(
        f"{locate(row)}, column '{columns[j]}': {counts} among these rows, the first at row {row} of the input"
        f"{example}",
        why="squares of values beyond 1e150 overflow; is it a mark for a missing value?"
        if oversized
        else "a Gaussian has no density there",
        remedy="use missing: drop (--missing drop, data.missing, or open_dataset(missing='drop')), or fill the values"
        + ("" if oversized else "; or missing: marginalise, which uses the values that these rows have"),
    )


def _explain_missing(
    batch: pa.RecordBatch, columns: Sequence[str], values: Array, marked: NDArray[np.bool_], missing: str
) -> NDArray[Any]:
    """Say for each row why it cannot be used (the first column that is to blame); None if it can."""
    out = np.full(values.shape[1], None, dtype=object)
    for j in range(len(columns) - 1, -1, -1):
        null = batch.column(columns[j]).is_null().to_numpy(zero_copy_only=False)
        null = null | marked[j] if marked.size else null
        infinite = np.isinf(values[j])
        oversized = (np.abs(values[j]) > LARGEST) & ~infinite
        reasons = [*zip((null, np.isnan(values[j]) & ~null, infinite, oversized), _REASONS, strict=True)]
        for mask, word in reasons[2:] if missing == MARGINALISE else reasons:
            out[mask] = f"{word} in {columns[j]}"
    return out
