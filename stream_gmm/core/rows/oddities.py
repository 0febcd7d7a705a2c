"""Oddities of a data set: values that many rows share, long tails, collinear columns, rows ordered by values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.display import shorten_list
from stream_gmm.core.model.moments import Array
from stream_gmm.core.stats import SuffStats

COLLINEAR = 1e-10
"""Eigenvalues of the correlation matrix below this part of the largest count as zero."""
ATOM_SHARE = 0.05
"""Share of rows with the same value from which there is a warning."""
LIMIT_ROWS, LIMIT_RATIO = 10, 10.0
"""A limit of measurement holds so many rows, and so many times those of any of the next ``LIMIT_VALUES`` values."""
LIMIT_VALUES = 20
SCREENED_ROWS = 1_000
"""A value of ``ATOM_SHARE`` of the rows is there twice among so many, but for a chance of 1e-20."""
CODES, CODE_ROWS = 10, 100
"""A column of at most so many different whole numbers, in so many rows or more, may hold labels or codes."""
NAMED = 20
"""So many columns are named in a warning."""
SCREENED_VALUES = 1 << 20
"""Values of several columns that are looked at together."""
SKEWED, TAMED = 1.0, 1.0 / 3.0
"""A column is skewed from this skewness on, and a transform helps that leaves at most this part of it."""
TRANSFORMS: Mapping[str, Callable[[Array], Array]] = {
    "logarithm": np.log, "cube root": np.cbrt, "square root": np.sqrt
}  # fmt: skip
"""The transforms of Box & Cox (1964) with exponents 0, 1/3 and 1/2, for values above zero."""


Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class RowOrder:
    """How similar the rows of one leaf are to each other, as in files that are sorted by a column.

    A leaf is a block of consecutive rows that one task of a pass reads.

    Attributes
    ----------
    leaves
        Number of leaves.
    rows_squared
        Sum over the leaves of the squared number of rows.
    within
        Sum over the leaves of the sums of squares ``(D,)`` about the mean of the leaf.
    """

    leaves: int = 0
    rows_squared: float = 0.0
    within: Array | float = 0.0

    @classmethod
    def of(cls, moments: SuffStats) -> RowOrder:
        """Return the sums of one leaf, from its moments as of one component."""
        return cls(1, moments.rows**2, np.diagonal(moments.scatter[0])) if moments.rows else cls()

    def merge(self, other: RowOrder) -> RowOrder:
        """Return the sums of both sets of leaves."""
        return RowOrder(
            self.leaves + other.leaves, self.rows_squared + other.rows_squared, self.within + other.within
        )

    def correlations(self, moments: SuffStats) -> Array:
        """Return the intra-class correlation ``(D,)`` of the rows of a leaf, by one-way analysis of variance.

        ``moments`` are those of all rows. 0 means that leaves are random samples, 1 that they are constant.
        """
        n, leaves = moments.rows, self.leaves
        if leaves < 2 or n <= leaves:
            return np.zeros(moments.mean.shape[1])
        between = np.maximum(np.diagonal(moments.scatter[0]) - self.within, 0.0) / (leaves - 1)
        within = np.asarray(self.within) / (n - leaves)
        leaf_rows = (n - self.rows_squared / n) / (leaves - 1)
        total = between + (leaf_rows - 1.0) * within
        return np.asarray(
            np.clip(np.divide(between - within, total, out=np.zeros_like(total), where=total > 0), 0, 1)
        )

    def design_effect(self, moments: SuffStats, sample_rows: int) -> float:
        """Return the design effect of a sample of whole leaves, for the column where it is largest (Kish 1965).

        ``sample_rows`` rows drawn that way are worth as much as ``sample_rows / design_effect`` uniform ones.
        """
        return 1.0 + max(sample_rows / max(self.leaves, 1) - 1.0, 0.0) * float(self.correlations(moments).max())


NO_ROW_ORDER = RowOrder()


@dataclass(frozen=True)
class Atom:
    """A value that many rows share."""

    value: float
    share: float


def find_atoms(rows: Array) -> list[Atom]:
    """Return the most frequent value of each column of a sample ``(n, D)``, and the share of rows that have it."""
    atoms = []
    for column in rows.T:
        values, counts = np.unique(_drop_missing(column), return_counts=True)
        if not len(values):
            atoms.append(Atom(float("nan"), 0.0))
            continue
        atoms.append(Atom(float(values[counts.argmax()]), float(counts.max() / counts.sum())))
    return atoms


def describe_values(columns: tuple[str, ...], sample: Array, spread: Array, constant: list[str]) -> list[str]:
    """Return warnings about columns whose values no mixture of normal distributions describes well.

    These are values that many rows share, values piled up at a limit, long tails, and collinear columns.

    ``sample (n, D)`` are rows of the data in random order, ``spread (D, D)`` is the covariance (or the scatter) of
    all rows, and ``constant`` names the columns with one value, which need no warning here.
    """
    sample = np.asfortranarray(sample)
    step = max(SCREENED_VALUES // max(len(sample), 1), 1)
    blocks = [_screen_columns(sample[:, lo : lo + step]) for lo in range(0, sample.shape[1], step)]
    shared, limited, tailed = (np.concatenate(flags) for flags in zip(*blocks, strict=True))
    named = [
        f"{name} = {atom.value:g} ({100 * atom.share:.0f} %)"
        for name, column, suspect in zip(columns, sample.T, shared, strict=True)
        if len(column) >= 100 and suspect and name not in constant
        for atom in find_atoms(column[:, None])
        if atom.share >= ATOM_SHARE
    ]
    warnings = []
    if codes := find_codes(columns, sample):
        found = [f"{name} ({count})" for name, count in codes.items()]
        warnings.append(
            f"few different whole numbers, by column: {shorten_list(found, NAMED)}; a mixture puts components "
            "on such values and so finds them again. If they are labels or codes and no measurements, leave them "
            f"out: exclude_columns: [{shorten_list(list(codes), NAMED)}]."
        )
    if named:
        warnings.append(
            f"many rows share one value: {', '.join(named)}; a component that collapses onto it is degenerate."
        )
    limits, tails = [], []
    for j, name in enumerate(columns):
        if name in constant or not (limited[j] or tailed[j]):
            continue
        column = _drop_missing(sample[:, j])
        limits += [f"{name} = {limit:g} ({count} of {len(column)})" for limit, count in find_limits(column)]
        if (tail := describe_tail(column)) is not None:
            before, transform, after = tail
            tails.append(f"{name} (skewness {before:.1f}; of its {transform} {after:.1f})")
    if limits:
        warnings.append(
            f"sample rows at the end of a range, as if a limit of measurement had cut off what lies beyond: "
            f"{shorten_list(limits, NAMED)}; they can make components of their own. Leave these rows out, or say by "
            "sentinel, with missing: marginalise, which of the numbers stand for missing values."
        )
    if tails:
        warnings.append(
            f"long tails, which take several components to cover: {shorten_list(tails, NAMED)}; fit these functions "
            "instead, or let transforms: auto choose."
        )
    dependent = find_collinear(columns, spread)
    if dependent:
        warnings.append(f"columns {dependent} are collinear: one follows from the others; leave one out.")
    return warnings


def find_codes(columns: tuple[str, ...], sample: Array) -> dict[str, int]:
    """Return the columns that hold few different whole numbers, more than one, and how many: perhaps labels or codes.

    ``sample (n, D)`` are rows in random order.
    """
    found, first = {}, sample[:CODE_ROWS]
    whole = ((np.rint(first) == first) | np.isnan(first)).all(axis=0)
    for name, column in [(columns[j], _drop_missing(sample[:, j])) for j in np.flatnonzero(whole)]:
        if len(column) < CODE_ROWS or len(np.unique(column[:CODE_ROWS])) > CODES:
            continue
        values = np.unique(column)
        if 1 < len(values) <= CODES and np.array_equal(values, np.rint(values)):
            found[name] = len(values)
    return found


def _screen_columns(sample: Array) -> tuple[Flags, Flags, Flags]:
    """Return which columns ``(D,)`` may have a value that many rows share, a limit, or a long tail: few, as a rule.

    All columns are looked at together, because one after the other takes longer than a fit of few rows.
    """
    n, d = sample.shape
    low, high = sample.min(axis=0, initial=np.inf), sample.max(axis=0, initial=-np.inf)
    if not n or np.isnan(low).any():
        every = np.ones(d, dtype=bool)
        return every, every, every
    first = np.sort(sample[:SCREENED_ROWS], axis=0)
    # What so many of these rows share is the same at both ends of a stretch of the sorted ones.
    stretch = 1 if n > SCREENED_ROWS else max(int(ATOM_SHARE * n) - 1, 1)
    shared = (first[stretch:] == first[:-stretch]).any(axis=0)
    limited = np.maximum((sample == low).sum(axis=0), (sample == high).sum(axis=0)) >= LIMIT_ROWS
    tailed = low > 0.0
    if tailed.any():
        positive = sample[:, tailed]
        positive = positive - positive.mean(axis=0)
        square = positive * positive
        spread = square.mean(axis=0) ** 1.5
        tailed[tailed] = (square * positive).mean(axis=0) >= 0.99 * SKEWED * spread
    return shared, limited, tailed


def _drop_missing(column: Array) -> Array:
    missing = np.isnan(column)
    return column[~missing] if missing.any() else column


def find_limits(column: Array) -> list[tuple[float, int]]:
    """Return the smallest or largest value of a sample ``(n,)`` if rows pile up there, with their number.

    The other values near the end of the range are the measure, so that whole numbers and rounded values do not count.
    """
    # Where neither end has the rows, there is no need to sort.
    if not len(column) or max((column == end).sum() for end in (column.min(), column.max())) < LIMIT_ROWS:
        return []
    values, counts = np.unique(column, return_counts=True)
    if len(values) <= 2 * LIMIT_VALUES:
        return []
    out = []
    for end, near in ((0, counts[1 : LIMIT_VALUES + 1]), (-1, counts[-LIMIT_VALUES - 1 : -1])):
        if counts[end] >= max(LIMIT_ROWS, LIMIT_RATIO * near.max()):
            out.append((float(values[end]), int(counts[end])))
    return out


def describe_tail(column: Array) -> tuple[float, str, float] | None:
    """Return the skewness of a sample ``(n,)`` of positive values, the transform that helps most, and what it leaves.

    None if the values are not skewed to the right or no transform helps: a small cluster far away is no long tail.
    """
    if len(column) < 100 or column.min() <= 0.0:
        return None
    before = measure_skewness(column)
    if before < SKEWED:
        return None
    left = {name: measure_skewness(transform(column)) for name, transform in TRANSFORMS.items()}
    best = min(left, key=lambda name: abs(left[name]))
    return (before, best, left[best]) if abs(left[best]) <= TAMED * before else None


def measure_skewness(values: Array) -> float:
    """Return the third central moment in units of the standard deviation."""
    centred = values - values.mean()
    spread = float(np.sqrt(np.mean(centred**2)))
    return float(np.mean((centred / spread) ** 3)) if spread > 0.0 else 0.0


def find_collinear(columns: tuple[str, ...], spread: Array) -> list[str]:
    """Return the columns that take part in a linear relation, by the null vectors of their correlation matrix.

    ``spread (D, D)`` is the covariance or the scatter of all rows.
    """
    scale = np.sqrt(np.diagonal(spread))
    values, vectors = np.linalg.eigh(spread / np.outer(scale, scale))
    null = np.abs(vectors[:, values < COLLINEAR * values[-1]])
    return [name for name, loading in zip(columns, null, strict=True) if loading.size and loading.max() > 0.1]
