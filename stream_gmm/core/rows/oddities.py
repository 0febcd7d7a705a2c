"""What is odd about a data set: values that many rows share, dependent columns, rows in a telling order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.stats import SuffStats

COLLINEAR = 1e-10
"""Smallest eigenvalue of the correlations, relative to the largest, that is not taken for zero."""
ATOM_SHARE = 0.05
"""Share of rows with one value from which on it is worth a warning."""


@dataclass(frozen=True)
class RowOrder:
    """How alike the rows of one leaf are: ``within (D,)`` sums the leaves' own sums of squares."""

    leaves: int = 0
    rows_squared: float = 0.0
    within: Array | float = 0.0

    @classmethod
    def of(cls, moments: SuffStats) -> RowOrder:
        """Return what one leaf says."""
        return cls(1, moments.rows**2, np.diagonal(moments.scatter[0])) if moments.rows else cls()

    def merge(self, other: RowOrder) -> RowOrder:
        """Return what both say."""
        return RowOrder(
            self.leaves + other.leaves, self.rows_squared + other.rows_squared, self.within + other.within
        )

    def correlations(self, moments: SuffStats) -> Array:
        """Return the intra-class correlation ``(D,)`` of rows of one leaf, by analysis of variance."""
        n, g = moments.rows, self.leaves
        if g < 2 or n <= g:
            return np.zeros(moments.mean.shape[1])
        between = np.maximum(np.diagonal(moments.scatter[0]) - self.within, 0.0) / (g - 1)
        inside = np.asarray(self.within) / (n - g)
        size = (n - self.rows_squared / n) / (g - 1)
        whole = between + (size - 1.0) * inside
        return np.asarray(
            np.clip(np.divide(between - inside, whole, out=np.zeros_like(whole), where=whole > 0), 0, 1)
        )

    def design_effect(self, moments: SuffStats, sample_rows: int) -> float:
        """Return by what a sample from these leaves is less worth than a uniform one, for the worst column (Kish)."""
        return 1.0 + max(sample_rows / max(self.leaves, 1) - 1.0, 0.0) * float(self.correlations(moments).max())


NO_ROW_ORDER = RowOrder()


@dataclass(frozen=True)
class Atom:
    """A value that many rows share."""

    value: float
    share: float


def find_atoms(rows: Array) -> list[Atom]:
    """Return the most frequent value of each column of a sample ``(n, D)``, and the share of rows that have it."""
    out = []
    for column in rows.T:
        values, counts = np.unique(column, return_counts=True)
        out.append(Atom(float(values[counts.argmax()]), float(counts.max() / len(column))))
    return out


def describe_values(columns: tuple[str, ...], sample: Array, spread: Array, constant: list[str]) -> list[str]:
    """Return what to say of columns with an atom, and of columns that others determine."""
    named = [
        f"{name} = {atom.value:g} ({100 * atom.share:.0f} %)"
        for name, atom in zip(columns, find_atoms(sample), strict=True)
        if atom.share >= ATOM_SHARE and len(sample) >= 100 and name not in constant
    ]
    out = []
    if named:
        out.append(
            f"many rows share one value: {', '.join(named)}; a component that collapses onto it is degenerate."
        )
    dependent = find_collinear(columns, spread)
    if dependent:
        out.append(f"columns {dependent} are collinear: one follows from the others; leave one out.")
    return out


def find_collinear(columns: tuple[str, ...], spread: Array) -> list[str]:
    """Return the columns that take part in a linear relation, judged by their correlations."""
    scale = np.sqrt(np.diagonal(spread))
    values, vectors = np.linalg.eigh(spread / np.outer(scale, scale))
    null = np.abs(vectors[:, values < COLLINEAR * values[-1]])
    return [name for name, loading in zip(columns, null, strict=True) if loading.size and loading.max() > 0.1]
