"""The first pass, from chunk to profile: each leaf is read once, and the profiles of all leaves are merged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stream_gmm.core.estep.marginal.patterns import find_complete
from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.oddities import RowOrder
from stream_gmm.core.rows.sampling import Holdout, Sample, hash_rows
from stream_gmm.core.rows.transforms import Transforms, sum_log_jacobians
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.cache import NONE, cache_mode_of
from stream_gmm.io.source.chunks import Chunk, HoldoutSplit, split_holdout
from stream_gmm.io.source.decode import KINDS, MARGINALISE
from stream_gmm.io.source.protocols import Leaf, Source, read_completely
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress
from stream_gmm.pipeline.passes.tasks import PassTasks

GATHERED_ROWS = 4_096
"""Chunks of fewer rows are merged with their neighbours before they are merged with the profile of a task."""


@dataclass(frozen=True)
class _ProfileTask:
    """What every task of the profile pass needs."""

    columns: tuple[str, ...]
    sample_rows: int
    validation_rows: int
    seed: int
    cache_mode: str
    holdout: Holdout
    total_rows: int
    weighted: bool
    transforms: Transforms = ()


def _profile_chunk(chunk: Chunk, task: _ProfileTask) -> Profile:
    part = split_holdout(chunk, task.holdout)
    rows, weights = part.rows, part.weights
    lacking = _count_incomplete(chunk, part) if chunk.incomplete else {}
    hashes = hash_rows(task.seed, chunk.file_index, part.numbers)
    # Without held-out rows, the validation rows are drawn together with the sample and split off at the end.
    rows_to_draw = task.sample_rows + (0 if task.holdout.share else task.validation_rows)
    held_out = len(part.heldout_numbers) > 0
    heldout_hashes = hash_rows(task.seed, chunk.file_index, part.heldout_numbers) if held_out else hashes[:0]
    return Profile(
        task.columns,
        chunk.size,
        chunk.bad,
        (np.fmin if lacking else np.minimum).reduce(rows, axis=0, initial=np.inf),
        (np.fmax if lacking else np.maximum).reduce(rows, axis=0, initial=-np.inf),
        _collect_complete(rows, weights),
        _collect_complete(part.heldout, part.heldout_weights),
        Sample.of(rows, hashes, rows_to_draw, weights),
        Sample.of(part.heldout, heldout_hashes, task.validation_rows, part.heldout_weights),
        task.cache_mode,
        complete_rows=len(chunk.rows),
        fit_rows=len(rows),
        weight_squares=float(weights @ weights) if task.weighted else float(len(rows)),
        weighted=task.weighted,
        filtered=chunk.read - chunk.size,
        log_jacobian=sum_log_jacobians(rows, weights, task.columns, task.transforms),
        heldout_log_jacobian=sum_log_jacobians(part.heldout, part.heldout_weights, task.columns, task.transforms),
        **lacking,
    )


def _collect_complete(rows: Array, weights: Array) -> SuffStats:
    """Return the moments of the rows without missing values."""
    complete = find_complete(rows)
    if complete is None:
        return collect_moments(rows, weights)
    return collect_moments(rows[complete], weights[complete] if len(weights) else weights)


def _count_incomplete(chunk: Chunk, part: HoldoutSplit) -> dict[str, Any]:
    """Return the numbers and weights of rows with missing values, by field of the profile."""
    missing = np.isnan(chunk.features)
    empty = missing.all(axis=1)

    def weigh(rows: Array, weights: Array) -> float:
        lacks = np.isnan(rows).any(axis=1)
        return float(weights[lacks].sum() if len(weights) else lacks.sum())

    return {
        "incomplete_rows": int((missing.any(axis=1) & ~empty).sum()),
        "empty_rows": int(empty.sum()),
        "incomplete_weight": weigh(part.rows, part.weights),
        "incomplete_heldout": weigh(part.heldout, part.heldout_weights),
    }


def _profile_leaf(leaf: Leaf, task: _ProfileTask) -> Profile:
    out: Profile | None = None
    few: Profile | None = None
    for chunk in read_completely(leaf):
        # A merge copies the sample: rows of many small files are gathered first.
        few = _profile_chunk(chunk, task) if few is None else few.merge(_profile_chunk(chunk, task))
        if few.rows >= GATHERED_ROWS:
            out, few = few if out is None else out.merge(few), None
    if few is not None:
        out = few if out is None else out.merge(few)
    if out is None:
        d = len(task.columns)
        no_rows, none_bad = np.empty((0, d + task.weighted)), np.zeros((d, len(KINDS)), np.int64)
        out = _profile_chunk(Chunk(no_rows, 0, 0, 0, None, none_bad, weighted=task.weighted), task)
    cached_rows = out.rows if cache_mode_of(leaf) != NONE else 0
    return replace(out, cached_rows=cached_rows, row_order=RowOrder.of(out.moments), total_rows=task.total_rows)


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
    """Read a data set once, or some of its ``total_rows`` rows, and return its profile.

    ``sample_rows`` rows are drawn for the sample, and ``validation_rows`` (None: half as many) beside them.

    Raises
    ------
    InputDataError
        If there is no usable row, or a value is missing and the policy is ``"error"``.
    """
    held_out = Holdout(holdout, random_state)
    task = _ProfileTask(
        source.columns,
        sample_rows,
        sample_rows // 2 if validation_rows is None else validation_rows,
        random_state,
        tasks.cache_mode,
        held_out,
        total_rows or sum(tasks.rows),
        source.weight is not None,
        source.transforms,
    )
    meter = Meter(listener, "profile", list(tasks.rows))
    out = executor.map_reduce(_profile_leaf, Profile.merge, tasks.items, shared=task, label="profile", on_done=meter)
    if not out.fit_rows:
        raise InputDataError(
            explain(
                "the data set has no usable row",
                why=f"{out.rows} rows were read, and all were dropped" if out.rows else "it is empty",
                remedy="check data.paths, data.columns, data.filter and data.missing",
            )
        )
    valueless = [c for c, low, high in zip(out.columns, out.low, out.high, strict=True) if low > high]
    if valueless:
        raise InputDataError(
            explain(
                f"columns {valueless} have no value in any row",
                why="all of them are missing",
                remedy="leave the columns out (data.exclude_columns)",
            )
        )
    # Of rows that were not read, the filter is taken to leave out the same share.
    matching = round(out.total_rows * (out.rows / (out.rows + out.filtered)))
    out = replace(
        out,
        data_warnings=source.warnings,
        total_rows=matching,
        transforms=source.transforms,
        marginalised=source.missing == MARGINALISE,
    )
    if not holdout:
        sample, validation = out.sample.split_off(sample_rows)
        out = replace(out, sample=sample, validation=validation)
    return out.finish_moments()
