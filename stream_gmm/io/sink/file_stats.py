"""The statistics of every part at given parameters: while it is scored, or by a read of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.estep.scores import Scores, collect_scored_stats, score_rows, score_transformed
from stream_gmm.core.file_stats import APART_STREAM, FileId, FileStats, SampledRows, share_limit
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.moments import UNWEIGHTED, collect_moments
from stream_gmm.core.rows.sampling import Sample, hash_rows
from stream_gmm.core.rows.transforms import Transforms, log_jacobians
from stream_gmm.io.source.chunks import Chunk, parquet_chunks
from stream_gmm.io.source.decode import KINDS, Sentinels
from stream_gmm.io.source.files import SourceFile
from stream_gmm.io.source.parts import Part


@dataclass(frozen=True)
class StatsRule:
    """Which rows are sampled, and which are set apart.

    Attributes
    ----------
    share
        Share of all rows in the sample.
    apart
        Share of the rows that is set apart.
    evidence_rows
        Most rows set apart, of one part, on which models are compared.
    seed
        Seed of the hashes.
    """

    share: float
    apart: float
    evidence_rows: int
    seed: int = 0


@dataclass(frozen=True)
class StatsJob:
    """All that a task needs besides its part."""

    density: Density
    columns: tuple[str, ...]
    missing: str
    weight: str | None
    row_filter: str | None
    rule: StatsRule
    transforms: Transforms = ()
    sentinels: Sentinels = ()


def read_part_stats(part: Part, job: StatsJob) -> FileStats:
    """Read a part, and return its statistics.

    Raises
    ------
    InputDataError
        If it cannot be read.
    """
    d = len(job.columns)
    columns = (*job.columns, *([job.weight] if job.weight else []))
    pieces = [summarise_nothing(part.file, job)]
    for chunk in parquet_chunks(part, columns, job.missing, (), job.row_filter, job.transforms, job.sentinels):
        weights = chunk.rows[:, d] if job.weight else np.ones(len(chunk.rows))
        some = weights > 0.0  # a row of weight 0 is none
        rows = np.ascontiguousarray(chunk.rows[some, :d])
        scores = score_transformed(job.density, rows, job.columns, job.transforms)
        pieces.append(
            summarise_scored(
                part.file, rows, weights[some], chunk.row_numbers[some], scores, job.rule,
                log_jacobians(rows, job.columns, job.transforms),
                read=chunk.size, complete=len(chunk.rows), bad=chunk.bad[:d],
            )
        )  # fmt: skip
    return reduce(FileStats.merge, pieces)


def summarise_chunk(
    part: Part, chunk: Chunk, scores: Scores, rule: StatsRule, columns: Sequence[str], transforms: Transforms
) -> FileStats:
    """Return the statistics of the usable rows of a chunk without weights, which have these scores."""
    rows, numbers = np.ascontiguousarray(chunk.rows), chunk.row_numbers
    return summarise_scored(
        part.file, rows, np.ones(len(rows)), numbers, scores, rule, log_jacobians(rows, columns, transforms),
        read=chunk.size, complete=len(rows), bad=chunk.bad[: rows.shape[1]],
    )  # fmt: skip


def summarise_scored(
    file: SourceFile,
    rows: Array,
    weights: Array,
    numbers: NDArray[np.int64],
    scores: Scores,
    rule: StatsRule,
    jacobians: Array,
    *,
    read: int,
    complete: int,
    bad: NDArray[np.int64],
) -> FileStats:
    """Return the statistics of rows ``(n, D)`` of a file with their weights, row numbers and scores.

    ``jacobians (n,)`` are their log-Jacobians, which are part of the scores and not of the statistics.
    """
    scores = replace(scores, log_density=scores.log_density - jacobians) if jacobians.any() else scores
    d = rows.shape[1]
    # Not by its place among the other files, which changes from night to night.
    key = file.number
    apart = hash_rows(rule.seed ^ APART_STREAM, key, numbers) < share_limit(rule.apart)
    hashes = hash_rows(rule.seed, key, numbers)
    used = ~apart
    sampled = hashes < share_limit(rule.share)
    moments = collect_moments(rows, UNWEIGHTED if np.all(weights == 1.0) else weights)
    return FileStats(
        (FileId(file.relative, file.identity),),
        collect_scored_stats(rows[used], weights[used], _select(scores, used)),
        collect_scored_stats(rows[apart], weights[apart], _select(scores, apart)),
        replace(moments, scatter=0.5 * (moments.scatter + np.swapaxes(moments.scatter, 1, 2))),
        rows.min(axis=0, initial=np.inf) if len(rows) else np.full(d, np.inf),
        rows.max(axis=0, initial=-np.inf) if len(rows) else np.full(d, -np.inf),
        bad.astype(np.int64), read, complete, float(weights @ weights), float(weights @ jacobians),
        SampledRows.join([SampledRows(rows[sampled], hashes[sampled], weights[sampled], apart[sampled])]),
        Sample.of(rows[apart], hashes[apart], rule.evidence_rows, weights[apart]),
    )  # fmt: skip


def summarise_nothing(file: SourceFile, job: StatsJob) -> FileStats:
    """Return the statistics of a file without rows."""
    d = len(job.columns)
    rows = np.empty((0, d))
    return summarise_scored(
        file, rows, np.empty(0), np.empty(0, np.int64), score_rows(job.density, rows), job.rule, np.empty(0),
        read=0, complete=0, bad=np.zeros((d, len(KINDS)), np.int64),
    )  # fmt: skip


def _select(scores: Scores, which: NDArray[np.bool_]) -> Scores:
    return Scores(
        scores.component[which], scores.proba[which], scores.log_density[which], scores.mahalanobis_sq[which],
        scores.noise[which] if len(scores.noise) else scores.noise,
        known_entropy=scores.entropy[which], known_max=scores.max_proba[which],
    )  # fmt: skip
