"""Columns with a single value: they take no part in a fit, and the model keeps their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.moments import Array
from stream_gmm.errors import InputDataError


@dataclass(frozen=True)
class Constant:
    """A column that has one ``value`` in all rows of a fit; ``position`` is its place among the columns read."""

    name: str
    value: float
    position: int

    def differs(self, value: float) -> bool:
        """Return True if a row has another value; a missing one (NaN) is none."""
        return value != self.value and value == value

    def describe_other(self, value: float) -> str:
        """Return in words that a row has another value."""
        return f"{self.name} is {value:.6g}, and {self.value:.6g} in all rows of the fit"


def insert_constants(columns: Sequence[str], constants: Sequence[Constant]) -> tuple[str, ...]:
    """Return all columns in the order in which they were read: those that were fitted, and the constant ones."""
    names = list(columns)
    for constant in sorted(constants, key=lambda c: c.position):
        names.insert(constant.position, constant.name)
    return tuple(names)


def split_columns(rows: Array, n_features: int, constants: Sequence[Constant]) -> tuple[Array, NDArray[np.bool_]]:
    """Return the features ``(N, D)`` of rows, and which rows differ from a constant ``(N,)``.

    Raises
    ------
    InputDataError
        If the rows have neither all columns of the fit nor only the features.
    """
    places = [c.position for c in constants]
    if places and rows.shape[1] == n_features + len(places):
        return np.delete(rows, places, axis=1), find_unlike(rows[:, places], constants)
    if rows.shape[1] != n_features:
        raise InputDataError(f"the rows have {rows.shape[1]} columns, the model {n_features}.")
    return rows, np.zeros(len(rows), dtype=bool)


def find_unlike(values: Array, constants: Sequence[Constant]) -> NDArray[np.bool_]:
    """Return which rows differ from a constant, ``(N,)`` booleans; ``values (N, C)`` are their constant columns.

    A missing value (NaN) differs from nothing.
    """
    return np.asarray(((values != np.array([c.value for c in constants])) & ~np.isnan(values)).any(axis=1))
