"""What is kept of every file, so that an E-step over unchanged files is a sum and no read.

The statistics of all files are taken at one set of parameters, the *anchor*, so that their sum is the exact E-step
there. In each file some rows, by a hash of file and row number, are *apart*: in the update that reads the file first,
no fit uses them, and models are compared on them; in later updates they are rows like all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.sampling import Hashes, Sample
from stream_gmm.core.stats import SuffStats

APART_STREAM = 0x2545F4914F6CDD1D
"""Seed of the hash that sets rows apart."""
MOST_BYTES = 64 << 20
"""Largest size of the statistics of all files; beyond that, neighbouring files share their statistics."""


def share_limit(share: float) -> np.uint64:
    """Return the hash below which ``share`` (0 to 1) of all hashes lie."""
    return np.uint64(min(int(share * 2.0**64), 2**64 - 1))


@dataclass(frozen=True)
class SampledRows:
    """Rows ``(n, D)`` whose hash ``(n,)`` is below a limit, their weights ``(n,)``, and which are apart ``(n,)``.

    Of any set of files, these are a uniform sample.
    """

    rows: Array
    hashes: Hashes
    weights: Array
    apart: NDArray[np.bool_]

    @classmethod
    def none(cls, n_features: int) -> SampledRows:
        """Return no rows."""
        return cls(np.empty((0, n_features)), np.empty(0, np.uint64), np.empty(0), np.empty(0, bool))

    @classmethod
    def join(cls, samples: Sequence[SampledRows]) -> SampledRows:
        """Return the rows of all samples, in the order of their hashes, which is random."""
        out = cls(
            np.concatenate([s.rows for s in samples]), np.concatenate([s.hashes for s in samples]),
            np.concatenate([s.weights for s in samples]), np.concatenate([s.apart for s in samples]),
        )  # fmt: skip
        return out.select(np.argsort(out.hashes, kind="stable"))

    def select(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> SampledRows:
        """Return some of the rows."""
        return SampledRows(self.rows[which], self.hashes[which], self.weights[which], self.apart[which])

    def thin(self, share: float) -> SampledRows:
        """Return the sample of a smaller share of all rows."""
        return self if share >= 1.0 else self.select(self.hashes < share_limit(share))


@dataclass(frozen=True)
class FileId:
    """A file as it was read: its name, and an identity of path, size, time of change, footer or ETag, and content."""

    name: str
    identity: str


@dataclass(frozen=True)
class FileStats:
    """Statistics of the rows of a file, or of several neighbouring ones; those of disjoint rows merge.

    Attributes
    ----------
    files
        The files that the rows are of.
    used, apart
        Statistics, with full second moments, of the rows that fits use, and of those that are set apart.
    moments
        Weight, mean and scatter of all rows, as of one component.
    low, high
        Smallest and largest values ``(D,)``.
    bad
        Counts ``(D, 4)`` of nulls, NaNs, infinities and values whose squares overflow.
    rows_read, rows_complete
        Rows that were read, and those of them without a missing value.
    weight_squares
        Sum of the squared weights.
    log_jacobian
        Sum of the log-Jacobians of the transforms of the columns, nats.
    sample
        Rows for the steps on a sample.
    evidence
        Rows set apart on which models are compared; not kept.
    """

    files: tuple[FileId, ...]
    used: SuffStats
    apart: SuffStats
    moments: SuffStats
    low: Array
    high: Array
    bad: NDArray[np.int64]
    rows_read: int
    rows_complete: int
    weight_squares: float
    log_jacobian: float
    sample: SampledRows
    evidence: Sample

    @property
    def n_components(self) -> int:
        """Number of components of the anchor."""
        return len(self.used.weight)

    @cached_property
    def total(self) -> SuffStats:
        """Statistics of all rows."""
        return self.used.merge(self.apart)

    def merge(self, other: FileStats) -> FileStats:
        """Return the statistics of both sets of rows."""
        new = tuple(f for f in other.files if f not in self.files)
        return FileStats(
            (*self.files, *new), self.used.merge(other.used), self.apart.merge(other.apart),
            self.moments.merge(other.moments), np.minimum(self.low, other.low), np.maximum(self.high, other.high),
            self.bad + other.bad, self.rows_read + other.rows_read, self.rows_complete + other.rows_complete,
            self.weight_squares + other.weight_squares,
            self.log_jacobian + other.log_jacobian, SampledRows.join([self.sample, other.sample]),
            self.evidence.merge(other.evidence),
        )  # fmt: skip

    def settle(self) -> FileStats:
        """Return the statistics with no row apart any more."""
        k, d = self.used.mean.shape
        none = SuffStats.zero(k, d, FULL)
        sample = replace(self.sample, apart=np.zeros_like(self.sample.apart))
        return replace(self, used=self.total, apart=none, sample=sample)


@dataclass(frozen=True)
class KeptStats:
    """The statistics of all files of a job: what an update goes on from.

    Attributes
    ----------
    source
        What decides which rows and columns were read, as text: of other sources nothing can be reused.
    columns
        Names of the features.
    anchor
        The parameters at which the statistics were taken; in the mode ``stepwise``, those of the last ones.
    entries
        Statistics of one file or several neighbouring files each, in the order of the files.
    share
        Share of all rows that is in the sample.
    stepwise
        True if the statistics of files were taken at different parameters, each when the file was new.
    """

    source: str
    columns: tuple[str, ...]
    anchor: MixtureParams
    entries: tuple[FileStats, ...]
    share: float
    stepwise: bool = False

    @property
    def files(self) -> tuple[FileId, ...]:
        """All files, in order."""
        return tuple(f for e in self.entries for f in e.files)


def count_files_per_entry(n_files: int, n_components: int, n_features: int) -> int:
    """Return how many neighbouring files share their statistics, so that those of all files stay below a bound."""
    each = 8 * (n_components + 1) * (1 + n_features + n_features * (n_features + 1) // 2)
    return max(1, -(-n_files * each // MOST_BYTES))


@dataclass(frozen=True)
class StatsTotal:
    """The sum over files, each with a weight; and the sample with the weights of its files.

    ``of`` merges along the files in order, so that equal files give equal bits.
    """

    stats: SuffStats
    moments: SuffStats
    sample: Sample
    low: Array
    high: Array
    bad: NDArray[np.int64]
    rows_read: int
    rows_complete: int
    weight_squares: float
    log_jacobian: float

    @classmethod
    def of(cls, entries: Sequence[FileStats], weights: Sequence[float], *, with_apart: bool) -> StatsTotal:
        """Return the sum; ``with_apart``: of all rows, else without those set apart."""
        stats, moments = [], []
        samples: list[SampledRows] = []
        for entry, weight in zip(entries, weights, strict=True):
            own = entry.total if with_apart else entry.used
            stats.append(own if weight == 1.0 else own.scale(weight))
            moments.append(entry.moments if weight == 1.0 else entry.moments.scale(weight))
            sample = entry.sample if with_apart else entry.sample.select(~entry.sample.apart)
            samples.append(sample if weight == 1.0 else replace(sample, weights=sample.weights * weight))
        joined = SampledRows.join(samples)
        plain = bool(np.all(joined.weights == 1.0))
        weights_of_rows = np.empty(0) if plain else joined.weights
        return cls(
            merge_in_order(stats), merge_in_order(moments),
            Sample(joined.rows, joined.hashes, len(joined.rows), weights_of_rows),
            np.min([e.low for e in entries], axis=0), np.max([e.high for e in entries], axis=0),
            np.sum([e.bad for e in entries], axis=0),
            sum(e.rows_read for e in entries), sum(e.rows_complete for e in entries),
            sum(w * w * e.weight_squares for e, w in zip(entries, weights, strict=True)),
            sum(w * e.log_jacobian for e, w in zip(entries, weights, strict=True)),
        )  # fmt: skip


def merge_in_order(stats: Sequence[SuffStats]) -> SuffStats:
    """Return the sum of statistics, along a binary tree whose shape depends on their number alone."""
    level = list(stats)
    while len(level) > 1:
        pairs = [level[i].merge(level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0]
