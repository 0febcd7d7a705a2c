"""The first pass: counts, oddities, exact moments and the uniform sample, in one read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.constants import Constant, insert_constants
from stream_gmm.core.rows.oddities import NO_ROW_ORDER, RowOrder, describe_values
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.rows.transforms import Transforms, describe_transformation, label_columns
from stream_gmm.core.search.incomplete import estimate_moments
from stream_gmm.core.search.transform_gain import TransformGain
from stream_gmm.core.stats import SuffStats
from stream_gmm.io.source.cache import NONE
from stream_gmm.io.source.decode import KINDS


@dataclass(frozen=True)
class Profile:
    """What the first pass finds about a data set; a monoid under :meth:`merge`.

    Attributes
    ----------
    columns
        Names of the D features.
    rows, total_rows
        Rows that were read, and rows of the data set.
    bad
        Counts ``(D, 4)`` of nulls, NaNs, infinities and values whose squares overflow.
    low, high
        Smallest and largest value ``(D,)`` among the rows to fit.
    moments, heldout
        Weight, mean and scatter (as of one component) of the rows to fit, and of the rows held out of every fit. If
        some rows have missing values, mean and scatter are estimates from the sample (of held-out rows, those of the
        complete ones).
    sample
        Uniform sample of the rows to fit.
    validation
        Rows on which fits on the sample are compared: others than the sample's, or some of those held out.
    cache_mode, cached_rows
        How rows were to be cached for later passes, and how many are.
    row_order
        How alike the rows of one leaf are.
    complete_rows
        Rows that can be used, including those held out and those of weight zero.
    fit_rows
        Rows to fit.
    weight_squares
        Sum of the squared weights of the rows to fit.
    weighted
        True if rows have weights.
    data_warnings
        Warnings of the data set: files and columns that are left out.
    filtered
        Rows that the filter of the data set has left out.
    constants, constants_bad
        Columns that were read and set aside because they have one value; and ``bad`` of each, ``(C, 4)``.
    incomplete_rows, empty_rows
        Rows that are used without some of their values, and rows that have none and tell nothing.
    incomplete_weight, incomplete_heldout
        Weight of the incomplete rows to fit, and of those held out.
    marginalised
        True if rows with missing values are used.
    places
        Positions of ``columns`` among the columns that were read; empty: they are all of them.
    transforms, transform_gains
        Transforms of the columns: all values here are transformed ones. And what transforms gain that were tried.
    log_jacobian, heldout_log_jacobian
        Sum of the log-Jacobians, times the weights, of all rows to fit and of the rows held out, nats.
    """

    columns: tuple[str, ...]
    rows: int
    bad: NDArray[np.int64]
    low: Array
    high: Array
    moments: SuffStats
    heldout: SuffStats
    sample: Sample
    validation: Sample
    cache_mode: str = NONE
    cached_rows: int = 0
    row_order: RowOrder = NO_ROW_ORDER
    total_rows: int = 0
    complete_rows: int = 0
    fit_rows: int = 0
    weight_squares: float = 0.0
    weighted: bool = False
    data_warnings: tuple[str, ...] = ()
    filtered: int = 0
    constants: tuple[Constant, ...] = ()
    constants_bad: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, len(KINDS)), np.int64))
    places: tuple[int, ...] = ()
    incomplete_rows: int = 0
    empty_rows: int = 0
    incomplete_weight: float = 0.0
    incomplete_heldout: float = 0.0
    marginalised: bool = False

    @property
    def may_be_incomplete(self) -> bool:
        """True if a pass may meet rows with missing values."""
        return self.incomplete_rows > 0 or (self.marginalised and self.is_partial)

    transforms: Transforms = ()
    transform_gains: tuple[TransformGain, ...] = ()
    log_jacobian: float = 0.0
    heldout_log_jacobian: float = 0.0

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the features as they are fitted, such as ``log1p(x)``."""
        return label_columns(self.columns, self.transforms)

    @property
    def is_partial(self) -> bool:
        """True if only some of the data set was read."""
        return self.rows < self.total_rows

    @property
    def effective_rows(self) -> float:
        """``(sum w)^2 / sum w^2`` (Kish 1965): the number of rows of equal weight that carry as much information."""
        return self.moments.rows**2 / self.weight_squares if self.weight_squares else 0.0

    @property
    def dropped(self) -> int:
        """Rows dropped by the policy for missing values."""
        return self.rows - self.complete_rows

    @property
    def sample_is_whole(self) -> bool:
        """True if the sample holds every usable row."""
        return len(self.sample.rows) == self.fit_rows and not self.is_partial

    @property
    def mean(self) -> Array:
        """Column means ``(D,)``."""
        return np.asarray(self.moments.mean[0])

    @property
    def variances(self) -> Array:
        """Column variances ``(D,)``, with divisor N."""
        return np.asarray(np.diagonal(self.moments.scatter[0]) / self.moments.rows)

    @property
    def covariance(self) -> Array:
        """Covariance ``(D, D)`` of all rows; a constant column counts as one of variance 1."""
        constant = (self.low == self.high).astype(np.float64)
        varies = 1.0 - constant
        return np.asarray(self.moments.scatter[0] / self.moments.rows * np.outer(varies, varies) + np.diag(constant))

    @property
    def bounding_box(self) -> Array:
        """Corners ``(2, D)`` of the box that holds the rows; a constant column has a width of 1."""
        half = np.where(self.low == self.high, 0.5, 0.0)
        return np.array([self.low - half, self.high + half])

    @cached_property
    def scaling(self) -> Scaling:
        """The map that centres, scales and decorrelates the columns."""
        # A variance that is nothing but rounding is that of a constant column.
        varies = (self.low < self.high).astype(np.float64)
        return Scaling.from_moments(self.mean, self.moments.scatter[0] / self.moments.rows * np.outer(varies, varies))

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of any result should know about the data."""
        out = list(self.data_warnings)
        if self.filtered:
            out.append(f"the filter has left out {self.filtered} of {self.rows + self.filtered} rows.")
        if self.bad.any() or self.constants_bad.any():
            by_column = ", ".join(
                f"{name}: " + ", ".join(f"{c} {k}" for k, c in zip(KINDS, row, strict=True) if c)
                for name, row in zip(
                    (*self.columns, *(c.name for c in self.constants)),
                    [*self.bad.tolist(), *self.constants_bad.tolist()],
                    strict=True,
                )
                if sum(row)
            )
            if self.dropped:
                text = f"{self.dropped} of {self.rows} rows have a missing value ({by_column})."
                worst = int(np.argmax(self.bad.sum(axis=1)))
                alone = int(self.bad[worst].sum())
                if 4 * self.dropped > self.rows and len(self.columns) > 1 and 2 * alone > self.dropped:
                    text += (
                        f" {alone} of them lack {self.columns[worst]}: leave that column out (exclude_columns), or "
                        "use missing: marginalise, which counts rows with the values that they have."
                    )
                out.append(text)
            if self.incomplete_rows:
                nothing = f"; {self.empty_rows} have no value at all, and tell nothing" if self.empty_rows else ""
                out.append(
                    f"{self.incomplete_rows} of {self.rows} rows lack some of their values, and count with those "
                    f"that they have ({by_column}){nothing}."
                )
            elif self.empty_rows:
                out.append(f"{self.empty_rows} of {self.rows} rows have no value at all, and tell nothing.")
        if self.weighted:
            out.append(
                f"rows are weighted: {self.moments.rows:,.6g} in all, worth {self.effective_rows:,.0f} rows of equal "
                "weight; criteria take the sum of the weights for the number of rows."
            )
        constant = [c for c, same in zip(self.labels, self.low == self.high, strict=True) if same]
        if constant:
            out.append(f"columns {constant} are constant; they do not help to distinguish components.")
        if self.constants:
            values = ", ".join(f"{c.name} = {c.value:.6g}" for c in self.constants)
            out.append(
                f"constant columns are set aside and not fitted: {values}. The model keeps these values, and a row "
                "with another one is an outlier."
            )
        out += describe_values(self.labels, self.sample.rows, self.covariance, constant)
        out += describe_transformation(self.transforms)
        out += [f"transform tried: {gain}." for gain in self.transform_gains]
        if self.is_partial and self.row_order.leaves:
            effect = self.row_order.design_effect(self.moments, len(self.sample.rows))
            out.append(
                f"the profile read {self.rows} of {self.total_rows} rows; for the sample's means its rows count "
                f"as {len(self.sample.rows) / effect:,.0f} independent ones (design effect {effect:.2f})."
            )
        if self.cache_mode != NONE and not self.is_partial and self.cached_rows < self.rows:
            out.append(
                f"only {self.cached_rows} of {self.rows} rows are cached ({self.cache_mode}), because there is no "
                "room for more; the others are decoded in every pass."
            )
        return tuple(out)

    @property
    def read_columns(self) -> tuple[str, ...]:
        """All columns that were read, in order."""
        return insert_constants(self.columns, self.constants)

    def merge(self, other: Profile) -> Profile:
        """Return the profile of both sets of rows."""
        return Profile(
            self.columns,
            self.rows + other.rows,
            self.bad + other.bad,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.moments.merge(other.moments),
            self.heldout.merge(other.heldout),
            self.sample.merge(other.sample),
            self.validation.merge(other.validation),
            self.cache_mode,
            self.cached_rows + other.cached_rows,
            self.row_order.merge(other.row_order),
            max(self.total_rows, other.total_rows),
            self.complete_rows + other.complete_rows,
            self.fit_rows + other.fit_rows,
            self.weight_squares + other.weight_squares,
            self.weighted,
            filtered=self.filtered + other.filtered,
            incomplete_rows=self.incomplete_rows + other.incomplete_rows,
            empty_rows=self.empty_rows + other.empty_rows,
            incomplete_weight=self.incomplete_weight + other.incomplete_weight,
            incomplete_heldout=self.incomplete_heldout + other.incomplete_heldout,
            log_jacobian=self.log_jacobian + other.log_jacobian,
            heldout_log_jacobian=self.heldout_log_jacobian + other.heldout_log_jacobian,
        )

    def finish_moments(self) -> Profile:
        """Return the profile of all rows with the moments of all of them, not only of those that are complete."""
        if not self.incomplete_rows:
            return self
        total = self.moments.rows + self.incomplete_weight
        return replace(
            self,
            moments=estimate_moments(self.sample.rows, self.sample.weights, total),
            heldout=replace(self.heldout, rows=self.heldout.rows + self.incomplete_heldout),
            row_order=NO_ROW_ORDER,
        )
