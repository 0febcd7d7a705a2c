"""Rows of new files that neither the champion of a run folder nor a model just fitted has used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from stream_gmm.core.file_stats import FileId
from stream_gmm.core.rows.sampling import Holdout, Sample, hash_rows
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.chunks import split_holdout
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.leaf import ParquetLeaf
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress
from stream_gmm.pipeline.update.evidence import MOST_ROWS
from stream_gmm.pipeline.update.statistics import identify_files


@dataclass(frozen=True)
class _HeldoutTask:
    holdout: Holdout
    columns: int
    rows: int


def read_heldout_rows(
    dataset: Dataset,
    seen: frozenset[FileId],
    holdout: Holdout,
    executor: Executor,
    listener: Listener = ignore_progress,
) -> Sample:
    """Return a sample of the held-out rows of the files that are not among those ``seen``; reads only these files.

    Raises
    ------
    InputDataError
        If a file cannot be read.
    """
    d, files = len(dataset.columns), identify_files(dataset)
    parts = [p for p in dataset.parts if files[p.file.relative] not in seen]
    leaves = [
        ParquetLeaf((p,), dataset.columns, dataset.missing, dataset.weight, dataset.row_filter, (), dataset.sentinels)
        for p in parts
    ]
    nothing = Sample(np.empty((0, d)), np.empty(0, np.uint64), MOST_ROWS)
    if not leaves:
        return nothing
    meter = Meter(listener, "evidence", [p.rows for p in parts])
    task = _HeldoutTask(holdout, d, MOST_ROWS)
    return executor.map_reduce(_sample_heldout, Sample.merge, leaves, shared=task, label="evidence", on_done=meter)


def _sample_heldout(leaf: ParquetLeaf, task: _HeldoutTask) -> Sample:
    samples = [Sample(np.empty((0, task.columns)), np.empty(0, np.uint64), task.rows)]
    for chunk in leaf.chunks():
        split = split_holdout(chunk, task.holdout)
        hashes = hash_rows(task.holdout.seed, chunk.file_index, split.heldout_numbers)
        samples.append(Sample.of(split.heldout, hashes, task.rows, split.heldout_weights))
    return reduce(Sample.merge, samples)
