"""Whether a fit or a sweep fits into memory: known from the columns and the grid, before the first read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from stream_gmm.core.estep.accumulate import count_chunk_rows
from stream_gmm.core.estep.cost import feature_cost, whitened_cost
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.search.seeding import list_seedings
from stream_gmm.errors import ConfigError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.full_pass import STATISTICS_BYTES, count_statistics_bytes

log = logging.getLogger(__name__)

BASE_BYTES = 400 << 20
"""A worker with the libraries loaded, before it has read a row."""
CHUNKS_HELD = 5
"""Chunks in memory at a time: as Arrow, as float64, by columns, weighed, and the next one."""
STATISTICS_HELD = 4
"""Copies of the statistics of a task: totals, weights of the features, what is merged, and the sum."""
MOMENTS_HELD = 6
"""Matrices of second moments while the data are profiled: rows to fit and rows held out; chunk, leaf and sum."""
SAMPLE_STEPS = 60
STEP_NS = 0.4
"""For each component and cubed column: factors, inverses and determinants of a step."""
LONG_SECONDS = 3600.0
_OTHERS = ("tied", "diag", "spherical")


def estimate_worker_bytes(grid: Sequence[CandidateSpec], d: int, rows: int, settings: Settings) -> int:
    """Return what the largest task needs: of the profile, of a pass, or on the sample."""
    sizes = {(k, name): count_statistics_bytes(k, d, family_named(name)) for k, name in grid}
    largest = max(sizes.values(), default=0)
    chunks = CHUNKS_HELD * 8 * count_chunk_rows(8 * d) * d
    a_pass = chunks + STATISTICS_HELD * min(sum(sizes.values()), max(largest, STATISTICS_BYTES))
    sample = min(rows, settings.sample_rows)
    on_sample = [
        8 * sample * (3 * d + 4 * k) + STATISTICS_HELD * len(list_seedings(sample, k, d)) * settings.n_init * size
        for (k, _), size in sizes.items()
    ]
    return BASE_BYTES + max(a_pass, chunks + MOMENTS_HELD * 8 * d * d, *on_sample)


def refuse_oversize(grid: Sequence[CandidateSpec], d: int, rows: int, settings: Settings, memory: int) -> None:
    """Refuse a grid that needs more than the ``memory`` of a worker, before anything of its size is made.

    Raises
    ------
    ConfigError
        With the numbers, and with what would fit.
    """
    needed = estimate_worker_bytes(grid, d, rows, settings)
    if needed <= memory:
        return

    def find_most(structure: str = "") -> int:
        cells = [CandidateSpec(k, structure or name) for k, name in grid]
        return _find_largest(lambda columns: estimate_worker_bytes(cells, columns, rows, settings) <= memory, d)

    k, name = max(grid, key=lambda cell: count_statistics_bytes(cell[0], d, family_named(cell[1])))
    sample, most = min(rows, settings.sample_rows), find_most()
    others = {other: find_most(other) for other in _OTHERS}
    better = [f"{other} (up to {n:,} columns)" if n < d else other for other, n in others.items() if n > most]
    remedies = [
        f"choose columns (data.columns, data.exclude_columns): up to {most:,} fit with this grid",
        *([f"or another structure: {', '.join(better)}"] if better else []),
        "or a smaller sample (em.sample_rows), or fewer workers with more memory each (cluster.memory_limit)",
    ]
    raise ConfigError(
        explain(
            f"{name} with {k:,} components and {d:,} columns would need about {format_bytes(needed)} of memory, and "
            f"a worker has {format_bytes(memory)}",
            why=f"one matrix of these columns takes {format_bytes(8 * d * d)}; a task of the profile holds "
            f"{MOMENTS_HELD}, and each start on the sample {STATISTICS_HELD} for every component with a matrix; the "
            f"sample of {sample:,} rows takes {format_bytes(8 * sample * d)}",
            remedy="; ".join(remedies),
        )
    )


def _find_largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest number of columns up to ``limit`` that fits; 0 if none does."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def estimate_row_ns(k: int, d: int, name: str) -> float:
    """Return the least nanoseconds a row that the E-step of a candidate takes."""
    family = family_named(name)
    by_features = feature_cost(k, d, family.features.count(d), family.matrices, "float64")
    return min(by_features, whitened_cost(k, d, family.matrices))


def estimate_sample_seconds(grid: Sequence[CandidateSpec], d: int, rows: int, settings: Settings) -> float:
    """Return the least seconds of one core that the fits on the sample take, by the model of costs."""
    sample = min(rows, settings.sample_rows)
    a_step = sum(
        sample * estimate_row_ns(k, d, name) + STEP_NS * k * (d**3 if family_named(name).matrices else d)
        for k, name in grid
    )
    return SAMPLE_STEPS * a_step * 1e-9


def check_size(source: Source, grid: Sequence[CandidateSpec], settings: Settings, executor: Executor) -> None:
    """Refuse what does not fit into the memory of a worker, and warn of what takes hours.

    Raises
    ------
    ConfigError
        As :func:`refuse_oversize`.
    """
    d, rows = len(source.columns), source.num_rows
    refuse_oversize(grid, d, rows, settings, executor.memory_bytes // executor.n_workers)
    seconds = estimate_sample_seconds(grid, d, rows, settings) / executor.n_workers
    if seconds > LONG_SECONDS:
        log.warning(
            "%s columns: the fits on the sample alone will take about %.0f hours or more; fewer columns "
            "(data.columns), diag, or a smaller sample (sample_rows) take less",
            f"{d:,}", seconds / 3600.0,
        )  # fmt: skip


def format_bytes(size: float) -> str:
    """Return a size in words."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
