"""The first pass: counts, oddities, exact moments and the uniform sample, in one read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.oddities import NO_ROW_ORDER, RowOrder, describe_values
from stream_gmm.core.rows.sampling import Holdout, Sample, hash_rows
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.cache import NONE, cache_mode_of
from stream_gmm.io.source.chunks import Chunk, split_holdout
from stream_gmm.io.source.decode import KINDS
from stream_gmm.io.source.protocols import Leaf, Source, read_completely
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress
from stream_gmm.pipeline.passes.tasks import PassTasks


@dataclass(frozen=True)
class Profile:
    """What one read says of a data set.

    ``rows`` were read and ``used`` can be used; ``bad (D, 4)`` counts nulls, NaNs, infinities and
    oversized values;
    ``moments`` are those of all usable rows (one component); ``low`` and ``high`` are ``(D,)``.
    """

    columns: tuple[str, ...]
    rows: int
    bad: NDArray[np.int64]
    low: Array
    high: Array
    moments: SuffStats
    heldout: SuffStats
    """Moments of the rows that no fit uses."""
    sample: Sample
    validation: Sample
    """Rows to judge fits on the sample by: others than the sample's, or some of those held out."""
    cache_mode: str = NONE
    """How the rows were meant to be kept for later passes."""
    cached_rows: int = 0
    """Rows that are kept."""
    row_order: RowOrder = NO_ROW_ORDER
    total_rows: int = 0
    """Rows of the data set, of which ``rows`` were read."""
    criterion_terms: int = 0
    """Rows without a missing value, those held out and those of weight zero included."""
    fit_rows: int = 0
    """Rows to fit."""
    weight_squares: float = 0.0
    weighted: bool = False
    data_warnings: tuple[str, ...] = ()
    """Warnings of the data set: files and columns left out."""

    @property
    def is_partial(self) -> bool:
        """True if only some of the data set was read."""
        return self.rows < self.total_rows

    @property
    def used(self) -> int:
        """Rows to fit: without a missing value, and not held out."""
        return self.fit_rows

    @property
    def effective_rows(self) -> float:
        """``(sum w)^2 / sum w^2`` (Kish 1965): rows of equal weight that would be worth as much."""
        return self.moments.rows**2 / self.weight_squares if self.weight_squares else 0.0

    @property
    def dropped(self) -> int:
        """Rows left out by the policy for missing values."""
        return self.rows - self.criterion_terms

    @property
    def sample_is_whole(self) -> bool:
        """True if the sample holds every usable row."""
        return len(self.sample.rows) == self.used and not self.is_partial

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

    @property
    def scaling(self) -> Scaling:
        """The map that centres, scales and decorrelates the columns."""
        # A variance that is nothing but rounding is that of a constant column.
        varies = (self.low < self.high).astype(np.float64)
        return Scaling.from_moments(self.mean, self.moments.scatter[0] / self.moments.rows * np.outer(varies, varies))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of any result should know about the data."""
        out = list(self.data_warnings)
        if self.dropped:
            by_column = ", ".join(
                f"{name}: " + ", ".join(f"{c} {k}" for k, c in zip(KINDS, row, strict=True) if c)
                for name, row in zip(self.columns, self.bad.tolist(), strict=True)
                if sum(row)
            )
            out.append(f"{self.dropped} of {self.rows} rows have a missing value ({by_column}).")
        if self.weighted:
            out.append(
                f"rows are weighted: {self.moments.rows:,.6g} in all, worth {self.effective_rows:,.0f} rows of equal "
                "weight; criteria take the sum of the weights for the number of rows."
            )
        constant = [c for c, same in zip(self.columns, self.low == self.high, strict=True) if same]
        if constant:
            out.append(f"columns {constant} are constant; they tell no component from another.")
        out += describe_values(self.columns, self.sample.rows, self.covariance, constant)
        if self.is_partial:
            effect = self.row_order.design_effect(self.moments, len(self.sample.rows))
            out.append(
                f"the profile read {self.rows} of {self.total_rows} rows; for the sample's means its rows count "
                f"as {len(self.sample.rows) / effect:,.0f} independent ones (design effect {effect:.2f})."
            )
        if self.cache_mode != NONE and not self.is_partial and self.cached_rows < self.rows:
            out.append(
                f"only {self.cached_rows} of {self.rows} rows are kept decoded ({self.cache_mode}) for want of room; "
                "the others are decoded in every pass."
            )
        return tuple(out)

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
            self.criterion_terms + other.criterion_terms,
            self.fit_rows + other.fit_rows,
            self.weight_squares + other.weight_squares,
            self.weighted,
        )


@dataclass(frozen=True)
class _ProfileTask:
    columns: tuple[str, ...]
    sample_rows: int
    validation_rows: int
    seed: int
    cache_mode: str
    holdout: Holdout
    total_rows: int
    weighted: bool

    @property
    def rows_to_draw(self) -> int:
        """Rows to draw: those of the sample, and those to judge fits by, if none are held out for that."""
        return self.sample_rows + (0 if self.holdout.share else self.validation_rows)


def _profile_chunk(chunk: Chunk, options: _ProfileTask) -> Profile:
    d = len(options.columns)
    part = split_holdout(chunk, options.holdout)
    rows, weights = part.rows, part.weights
    hashes = hash_rows(options.seed, chunk.file_index, part.numbers)
    heldout_hashes = hash_rows(options.seed, chunk.file_index, part.heldout_numbers)
    return Profile(
        options.columns,
        chunk.size,
        chunk.bad,
        rows.min(axis=0, initial=np.inf) if len(rows) else np.full(d, np.inf),
        rows.max(axis=0, initial=-np.inf) if len(rows) else np.full(d, -np.inf),
        collect_moments(rows, weights),
        collect_moments(part.heldout, part.heldout_weights),
        Sample.of(rows, hashes, options.rows_to_draw, weights),
        Sample.of(part.heldout, heldout_hashes, options.validation_rows, part.heldout_weights),
        options.cache_mode,
        criterion_terms=len(chunk.rows),
        fit_rows=len(rows),
        weight_squares=float(weights @ weights) if options.weighted else float(len(rows)),
        weighted=options.weighted,
    )


def _empty_profile(options: _ProfileTask) -> Profile:
    d = len(options.columns)
    nothing = np.empty((0, d + options.weighted))
    chunk = Chunk(nothing, 0, 0, 0, None, np.zeros((d, len(KINDS)), np.int64), weighted=options.weighted)
    return _profile_chunk(chunk, options)


def _profile_leaf(leaf: Leaf, options: _ProfileTask) -> Profile:
    out = _empty_profile(options)
    for chunk in read_completely(leaf):
        out = out.merge(_profile_chunk(chunk, options))
    cached_rows = leaf.rows if cache_mode_of(leaf) != NONE else 0
    return replace(out, cached_rows=cached_rows, row_order=RowOrder.of(out.moments), total_rows=options.total_rows)


def profile_rows(
    source: Source,
    tasks: PassTasks,
    executor: Executor,
    *,
    sample_rows: int = 50_000,
    random_state: int = 0,
    holdout: float = 0.0,
    total_rows: int = 0,
    validation_rows: int | None = None,
    listener: Listener = ignore_progress,
) -> Profile:
    """Read a data set once; or a reading of some of its ``total_rows`` rows.

    Raises
    ------
    InputDataError
        If there is no usable row, or a value is missing and the policy is ``"error"``.
    """
    held_out = Holdout(holdout, random_state)
    options = _ProfileTask(
        source.columns,
        sample_rows,
        sample_rows // 2 if validation_rows is None else validation_rows,
        random_state,
        tasks.cache_mode,
        held_out,
        total_rows or sum(tasks.rows),
        source.weight is not None,
    )
    meter = Meter(listener, "profile", list(tasks.rows))
    out = executor.map_reduce(
        _profile_leaf, Profile.merge, tasks.items, shared=options, label="profile", on_done=meter
    )
    if not out.used:
        raise InputDataError(
            explain(
                "the data set has no usable row",
                why=f"{out.rows} rows were read, and all were dropped" if out.rows else "it is empty",
                remedy="check data.paths, data.columns and data.missing",
            )
        )
    out = replace(out, data_warnings=source.warnings)
    return out if holdout else _split_off_validation(out, sample_rows)


def _split_off_validation(profile: Profile, sample_rows: int) -> Profile:
    """Take the rows to judge fits by from those drawn."""
    sample, validation = profile.sample.split_off(sample_rows)
    return replace(profile, sample=sample, validation=validation)
