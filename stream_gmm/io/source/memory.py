"""Rows in memory seen as a data set, and anything that holds rows as a source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.frames import as_rows, column_names
from stream_gmm.core.rows.transforms import Transforms, label_columns, refuse_untransformed, transform_rows
from stream_gmm.errors import ConfigError, InputDataError, explain
from stream_gmm.io.source.chunks import Chunk, array_chunks
from stream_gmm.io.source.dataset import Dataset, open_dataset
from stream_gmm.io.source.decode import MARGINALISE
from stream_gmm.io.source.leaf import rows_per_leaf
from stream_gmm.io.source.parts import Part
from stream_gmm.io.source.protocols import Source
from stream_gmm.io.source.tables.lazy import FilesOfFrame, resolve_lazy

SMALL_LEAF_ROWS = 1024
_SCORES_AT_ONCE = 2**24


@dataclass(frozen=True)
class ArrayLeaf:
    """Rows in memory."""

    values: Array = field(repr=False)
    first_row: int
    weighted: bool = False
    missing: str = "error"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.values)

    def chunks(self) -> Iterator[Chunk]:
        """Return views, one bounded chunk at a time."""
        return array_chunks(self.values, self.first_row, self.weighted, self.missing)


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Rows in memory, seen as a data set."""

    values: Array = field(repr=False)
    columns: tuple[str, ...]
    missing: str = "error"
    weights: Array | None = field(default=None, repr=False)
    """Weights ``(N,)`` of the rows."""
    transforms: Transforms = ()
    """Transforms that were applied to ``values``."""
    resident: ClassVar[bool] = True
    warnings: ClassVar[tuple[str, ...]] = ()

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.values)

    @property
    def parts(self) -> tuple[Part, ...]:
        """An array has no files."""
        return ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the values."""
        return hashlib.sha256(np.ascontiguousarray(self._values).data).hexdigest()

    @property
    def weight(self) -> str | None:
        """Name of the weights, if there are any."""
        return None if self.weights is None else "sample_weight"

    def with_transforms(self, transforms: Transforms) -> ArrayDataset:
        """Return the data set with its columns transformed.

        Raises
        ------
        InputDataError
            If a value has no transform; names row and column.
        """
        assert not self.transforms
        values = transform_rows(self.values, self.columns, transforms)
        refuse_untransformed(values, label_columns(self.columns, transforms), self.values)
        return replace(self, values=values, transforms=transforms)

    def with_columns(self, columns: Sequence[str]) -> ArrayDataset:
        """Return the data set with some of its columns, in the given order.

        Raises
        ------
        InputDataError
            If it lacks one of them; names both lists.
        """
        absent = [c for c in columns if c not in self.columns]
        if absent:
            raise InputDataError(
                explain(
                    f"the model has the columns {list(columns)}, and the data have {list(self.columns)}",
                    remedy="pass data with the model's columns",
                )
            )
        if tuple(columns) == self.columns:
            return self
        order = [self.columns.index(c) for c in columns]
        return replace(self, values=self.values[:, order], columns=tuple(columns))

    @cached_property
    def _values(self) -> Array:
        return self.values if self.weights is None else np.column_stack([self.values, self.weights])

    def cut_chunks(self, scores: int) -> Iterator[Chunk]:
        """Return views of the rows, not column-major, of which so many scores each take no more than 128 MiB."""
        step = max(_SCORES_AT_ONCE // scores, 1)
        return array_chunks(self._values, 0, self.weights is not None, self.missing, views_of=step)

    def leaves(self) -> list[ArrayLeaf]:
        """Return the tasks of a pass."""
        return self._cut_leaves(rows_per_leaf(self.num_rows, len(self.columns)))

    def small_leaves(self) -> list[ArrayLeaf]:
        """Return leaves of about a thousand rows."""
        return self._cut_leaves(SMALL_LEAF_ROWS)

    def _cut_leaves(self, step: int) -> list[ArrayLeaf]:
        starts = range(0, max(self.num_rows, 1), step)
        weighted = self.weights is not None
        return [ArrayLeaf(self._values[lo : lo + step], lo, weighted, self.missing) for lo in starts]


def as_source(
    data: Any, columns: tuple[str, ...] = (), missing: str = "error", weight: Any = None, copy: bool = True
) -> Source:
    """Return anything that holds rows as a source: a data set, a path, an array, a data frame, an Arrow table.

    An Arrow data set and a Dask data frame of Parquet files stand for these files.

    With ``columns``, the source has these columns in this order: whatever has names is taken by name. An array has
    none, and its columns must be in that order. ``weight`` is the name of a column of files, or an array ``(N,)``
    beside rows in memory. ``missing`` is the policy for paths, as in :func:`open_dataset`; of rows in memory,
    ``"marginalise"`` alone accepts missing values. An open data set keeps its own. ``copy`` is that of
    :func:`~stream_gmm.core.rows.frames.as_rows`.

    Raises
    ------
    ConfigError
        If the weights do not fit the rows.
    InputDataError
        If a column is missing, or a value in memory cannot be used.
    """
    if isinstance(data, Dataset | ArrayDataset):
        if weight is not None:
            raise ConfigError("an open data set has its weights already: open_dataset(weight=...).")
        return data.with_columns(columns) if columns else data
    data = resolve_lazy(data)
    if isinstance(data, FilesOfFrame):
        known = open_dataset(data.paths, columns or None, missing=missing, weight=weight)
        chosen = [c for c in known.columns if c in data.columns] if data.columns and not columns else known.columns
        return known.with_columns(chosen)
    if isinstance(data, str | os.PathLike):
        if not isinstance(weight, str | None):
            raise ConfigError("files take the weights of their rows from a column: weight is its name.")
        return open_dataset(data, columns or None, missing=missing, weight=weight)
    policy = missing if missing == MARGINALISE else "error"
    rows = as_rows(data, columns, policy, copy)
    names = columns or column_names(data) or tuple(f"x{j}" for j in range(rows.shape[1]))
    if len(names) != rows.shape[1]:
        raise InputDataError(f"the rows have {rows.shape[1]} columns, the model has {len(names)}: {list(names)}.")
    weights = None if weight is None else _check_weights(weight, len(rows))
    return ArrayDataset(rows, names, policy, weights)


def require_complete_rows(missing: str, what: str) -> None:
    """Refuse rows with missing values where only complete ones will do.

    Raises
    ------
    ConfigError
        If the policy of a source is ``"marginalise"``.
    """
    if missing == MARGINALISE:
        raise ConfigError(
            explain(
                f"{what} needs complete rows, and the data have the policy missing: marginalise",
                remedy="open them with missing: drop, which leaves out rows with missing values",
            )
        )


def _check_weights(weight: Any, n: int) -> Array:
    if isinstance(weight, str):
        raise ConfigError("rows in memory take their weights as an array, not by the name of a column.")
    try:
        weights = np.asarray(weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError("sample_weight cannot be read as numbers.") from error
    if weights.shape != (n,) or not np.isfinite(weights).all() or np.any(weights < 0.0):
        raise ConfigError(f"sample_weight must be {n} finite numbers, none of them negative.")
    return weights
