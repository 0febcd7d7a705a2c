"""Summaries of scored rows for the detection of drift: from the published scores, or from the rows themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stream_gmm.core.drift import RowSummary, merge_summaries, summarise_rows
from stream_gmm.core.estep.accumulate import count_chunk_rows
from stream_gmm.core.estep.scores import NO_NOISE, Scores, score_rows, score_transformed
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.frames import LARGEST
from stream_gmm.core.rows.sampling import hash_rows
from stream_gmm.core.rows.transforms import Transforms, transform_rows
from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.sink.places import open_place
from stream_gmm.io.sink.reports import PartReport
from stream_gmm.io.source.chunks import parquet_chunks
from stream_gmm.io.source.decode import Sentinels
from stream_gmm.io.source.files import open_parquet, redact
from stream_gmm.io.source.parts import Part

Item = tuple[Part, PartReport | None]
"""A part of the data, and where its scores are, if they are to be used."""


@dataclass(frozen=True)
class SummaryJob:
    """All that a task needs besides its part; ``edges`` and ``centre`` as in :func:`summarise_rows`.

    ``scored`` is the folder of the scored table, and ``proba`` and ``prefix`` are its layout.
    """

    density: Density
    threshold: float
    edges: Array
    centre: float
    columns: tuple[str, ...]
    weight: str | None
    missing: str
    capacity: int
    row_filter: str | None = None
    transforms: Transforms = ()
    scored: str = ""
    proba: str = "columns"
    prefix: str = ""
    sentinels: Sentinels = ()


@dataclass(frozen=True)
class _Scored:
    """Consecutive rows of a file with their scores; ``size`` counts those without scores, too."""

    rows: Array
    weights: Array
    numbers: np.ndarray[Any, np.dtype[np.int64]]
    scores: Scores
    size: int
    bad: Array


def summarise_part(item: Item, job: SummaryJob) -> RowSummary:
    """Return the summary of one part.

    Raises
    ------
    InputDataError
        If the part, or its scored file, cannot be read.
    """
    part, report = item
    pieces = _score_chunks(part, job) if report is None else _read_scores(part, report, job)
    return merge_summaries(
        [
            summarise_rows(
                p.rows, p.weights, p.scores, hash_rows(0, part.file_index, p.numbers), rows_read=p.size, bad=p.bad,
                edges=job.edges, threshold=job.threshold, centre=job.centre, capacity=job.capacity,
            )
            for p in pieces
        ]
        or [_summarise_nothing(job)]
    )  # fmt: skip


def _summarise_nothing(job: SummaryJob) -> RowSummary:
    d = len(job.columns)
    return summarise_rows(
        np.empty((0, d)), np.empty(0), score_rows(job.density, np.empty((0, d))), np.empty(0, np.uint64),
        rows_read=0, bad=np.zeros(d, np.int64), edges=job.edges, threshold=job.threshold, centre=job.centre,
        capacity=job.capacity,
    )  # fmt: skip


def _score_chunks(part: Part, job: SummaryJob) -> Iterator[_Scored]:
    d = len(job.columns)
    columns = (*job.columns, *([job.weight] if job.weight else []))
    for chunk in parquet_chunks(part, columns, job.missing, (), job.row_filter, job.transforms, job.sentinels):
        weights = chunk.rows[:, d] if job.weight else np.ones(len(chunk.rows))
        some = weights > 0.0  # a row of weight 0 is none
        rows = np.ascontiguousarray(chunk.rows[some, :d])
        scores = score_transformed(job.density, rows, job.columns, job.transforms)
        yield _Scored(rows, weights[some], chunk.row_numbers[some], scores, chunk.size, chunk.bad[:d].sum(axis=1))


def _read_scores(part: Part, report: PartReport, job: SummaryJob) -> Iterator[_Scored]:
    path, k, first = open_place(job.scored).locate(report.path), len(job.density.log_norm), part.first_row
    names = ["proba"] if job.proba == "list" else [f"proba_{i}" for i in range(k)]
    extra = ["proba_noise"] if job.density.noisy else []
    wanted = [*job.columns, *(job.prefix + n for n in ("log_density", *names, *extra))]
    try:
        with open_parquet(path) as parquet:
            rows = count_chunk_rows(8 * len(wanted))
            for batch in parquet.iter_batches(rows, columns=wanted, use_threads=False):
                yield _decode_scores(batch, job, [job.prefix + n for n in names], first)
                first += batch.num_rows
    except (OSError, pa.ArrowException, KeyError, InputDataError) as error:
        raise InputDataError(
            explain(
                f"cannot read the scores in {redact(path)}",
                why=str(error),
                remedy="'stream-gmm score' writes them again",
            )
        ) from error


def _decode_scores(batch: pa.RecordBatch, job: SummaryJob, names: list[str], first: int) -> _Scored:
    def read(name: str) -> Array:
        return np.asarray(batch.column(name).to_numpy(zero_copy_only=False), np.float64)

    log_density = read(job.prefix + "log_density")  # NaN where a row has no scores
    keep = ~np.isnan(log_density)
    values = np.column_stack([read(c) for c in job.columns])
    if job.proba == "list":
        proba = np.asarray(batch.column(names[0]).filter(pa.array(keep)).flatten()).reshape(keep.sum(), -1)
    else:
        proba = np.column_stack([read(n)[keep] for n in names])
    noise = read(job.prefix + "proba_noise")[keep] if job.density.noisy else NO_NOISE
    nothing = np.zeros(int(keep.sum()))
    scores = Scores(nothing.astype(np.int32), proba, log_density[keep], nothing, noise)
    numbers = first + np.flatnonzero(keep)
    values = transform_rows(values, job.columns, job.transforms)
    bad = (~(np.abs(values) <= LARGEST)).sum(axis=0)
    return _Scored(values[keep], np.ones(len(numbers)), numbers, scores, len(keep), bad)
