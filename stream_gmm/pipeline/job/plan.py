"""What a run will need, before it is started: rows, bytes, tasks, reads, memory and time; and whether that fits.

Sizes follow from footers and from the grid. Speeds are measured: one chunk of the data is decoded, and mixtures of
every size of the grid are run over it. Numbers of reads and of steps are those of :file:`benchmarks/README.md`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from stream_gmm.core.estep.accumulate import accumulate_stats, count_chunk_rows
from stream_gmm.core.estep.batch import compile_batch
from stream_gmm.core.estep.marginal.patterns import find_complete
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import PseudoRows
from stream_gmm.core.mstep.prior import STRUCTURES
from stream_gmm.core.rows.moments import UNWEIGHTED, collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.rows.transform_requests import assign_transforms, parse_transforms
from stream_gmm.core.search.incomplete import take_whole_rows
from stream_gmm.core.search.seeding import SEEDINGS
from stream_gmm.errors import ConfigError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.algorithms import algorithm_named
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.size import (
    CHUNKS_HELD,
    SAMPLE_STEPS,
    STATISTICS_HELD,
    estimate_row_ns,
    estimate_worker_bytes,
    format_bytes,
)
from stream_gmm.pipeline.fit.transforms import count_profile_reads
from stream_gmm.pipeline.passes.full_pass import STATISTICS_BYTES, count_statistics_bytes, pack_candidates

TRIAL_ROWS, TRIAL_NS = 8_192, 1e9
"""Rows of a trial, and the nanoseconds that it may take."""
PASSES = {"auto": (2, 4, 10), "em": (5, 14, 60), "minibatch": (3, 6, 20)}
"""Full passes of the slowest candidate of a sweep, after the profile: few, usual, many."""
SURVIVORS = 0.2
"""Share of the work of a pass over all candidates that usually remains after the sample."""
RACE_ROW_STEPS, RACE_STEPS = 15 * 4_000, 8 * 15
"""Rows times steps of a restart in a race, which takes more steps on a few rows: at most so many."""
RACED = 0.5
"""Share of the steps of a race that is made: restarts that are equal, or far behind, are not run on."""
CLIMBS, ITERATED_CLIMBS = 2.0, 3.0
"""Climbs of a candidate on the whole sample, its starts from neighbours included; a structure with iterated M-steps
takes as long as with one more, whether it is pruned or not (as measured on the sweep of benchmarks/scale.py)."""
PARALLEL = 0.85


@dataclass(frozen=True)
class Workers:
    """The workers of a run.

    Attributes
    ----------
    count
        Their number.
    memory, cores
        Bytes of memory of each, and the cores they share (None: not known).
    place
        Where they are, in words.
    """

    count: int
    memory: int | None = None
    cores: int | None = None
    place: str = ""

    @property
    def power(self) -> float:
        """Their speed together, in workers that have a core to themselves."""
        busy = min(self.count, self.cores or self.count)
        return busy * PARALLEL if busy > 1 else 1.0

    @classmethod
    def of(cls, executor: Executor) -> Workers:
        """Return the workers of an executor."""
        count = executor.n_workers
        return cls(count, executor.memory_bytes // count, place=executor.place)


@dataclass(frozen=True)
class Plan:
    """What a sweep and the scoring of its winner will need.

    Attributes
    ----------
    rows, columns, data_bytes
        Size of the data, decoded.
    candidates, components
        Cells of the grid, and their components together.
    statistics_bytes
        Of all candidates, for one task; they are packed into ``packs``, each with a read of its own.
    tasks
        Of each read.
    passes
        Reads of the full data in all: few, usual, many; the profile and the scoring included.
    workers
        Who will do the work.
    worker_bytes
        Largest memory that a worker is expected to need.
    decode_ns, estep_ns
        Nanoseconds a row of one core: to decode, and for the E-step of all candidates.
    explore_seconds, pass_seconds, seconds
        For the sample; for a pass with all candidates; and in all, with the usual number of reads.
    warnings
        Of the data set: files and columns that are left out.
    transforms
        What is asked for each column that is to be transformed, in words.
    """

    rows: int
    columns: int
    data_bytes: int
    candidates: int
    components: int
    statistics_bytes: int
    packs: int
    tasks: int
    passes: tuple[int, int, int]
    workers: Workers
    worker_bytes: int
    decode_ns: float
    estep_ns: float
    explore_seconds: float
    pass_seconds: float
    seconds: float
    warnings: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()

    def refuse_if_too_large(self) -> None:
        """Refuse a plan whose tasks do not fit into the memory of a worker.

        Raises
        ------
        ConfigError
            With the number and the remedy.
        """
        memory = self.workers.memory
        if memory is not None and self.worker_bytes > memory:
            raise ConfigError(
                explain(
                    f"a worker would need about {format_bytes(self.worker_bytes)} and has {format_bytes(memory)}",
                    why=f"statistics of {self.candidates} candidates with {self.columns} columns take "
                    f"{format_bytes(min(self.statistics_bytes, STATISTICS_BYTES * STATISTICS_HELD))} in every task, "
                    "chunks "
                    f"of rows {format_bytes(CHUNKS_HELD * 8 * count_chunk_rows(8 * self.columns) * self.columns)}",
                    remedy="use fewer workers with more memory each (cluster.memory_limit), fewer columns or "
                    "components, or structures without matrices (diag)",
                )
            )

    def describe(self) -> tuple[str, ...]:
        """Return the plan in words."""
        low, usual, high = self.passes
        memory = f" of {format_bytes(self.workers.memory)}" if self.workers.memory else ""
        packs = f", in {self.packs} packs, each with reads of its own" if self.packs > 1 else ""
        return (
            f"data: {self.rows:,} rows x {self.columns} columns, {format_bytes(self.data_bytes)} decoded",
            f"candidates: {self.candidates} with {self.components} components together; statistics "
            f"{format_bytes(self.statistics_bytes)} a task{packs}",
            f"reads: {usual} expected ({low} to {high}), profile and scoring included; tasks in each: {self.tasks}",
            f"workers: {self.workers.count}; about {format_bytes(self.worker_bytes)}{memory} of memory each"
            + (f"; {self.workers.place}" if self.workers.place else ""),
            f"measured here: {self.decode_ns:,.0f} ns a row to decode, {self.estep_ns:,.0f} for all candidates",
            f"time: {_format_seconds(self.seconds)} in all, {_format_seconds(self.explore_seconds)} of it on the "
            f"sample; a pass with all candidates would take {_format_seconds(self.pass_seconds)}",
            *([f"transforms: {'; '.join(self.transforms)}"] if self.transforms else []),
            *(f"warning: {warning}" for warning in self.warnings),
        )


def _format_seconds(seconds: float) -> str:
    if seconds < 90.0:
        return f"{max(seconds, 1.0):.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.1f} h"


def make_plan(
    source: Source, grid: Sequence[CandidateSpec], settings: Settings, workers: Workers, prune: bool = True
) -> Plan:
    """Measure on one chunk of the data, and return what the run will need.

    Raises
    ------
    InputDataError
        If the data cannot be read.
    """
    rows, d = source.num_rows, len(source.columns)
    chunk, decode_ns = _time_decoding(source)
    candidates = _make_mixtures(chunk, grid)
    costs = _measure_costs(chunk, candidates)
    estep_ns = float(sum(costs.values()))
    size = sum(count_statistics_bytes(p.n_components, d, p.family) for p in candidates)
    packs = len(pack_candidates(candidates))
    passes = PASSES[settings.algorithm if settings.accel != "none" else "em"]
    asked = assign_transforms(parse_transforms(settings.transforms), source.columns)
    more = 1 + count_profile_reads(asked, settings)
    power = workers.power
    one_pass = rows * (decode_ns + estep_ns) * 1e-9 / power
    later = rows * (decode_ns * 0.3 + estep_ns * (SURVIVORS if prune else 0.7)) * 1e-9 / power
    names, sample_rows, survivors = [n for _, n in grid], min(rows, settings.sample_rows), SURVIVORS if prune else 1.0
    fit_on_sample = _estimate_sample_seconds(costs, names, settings, sample_rows, survivors) / power
    first = rows * decode_ns * 1e-9 / power
    best = max(costs.values(), default=0.0)
    scoring = rows * (decode_ns + 3.0 * best + 600.0) * 1e-9 / power
    return Plan(
        rows, d, 8 * rows * d, len(grid), sum(k for k, _ in grid), size, packs,
        len(algorithm_named(settings.algorithm).leaves(source)),
        (packs * passes[0] + more, packs * passes[1] + more, packs * min(passes[2], settings.max_passes + 1) + more),
        workers, estimate_worker_bytes(grid, d, rows, settings), decode_ns, estep_ns, fit_on_sample, one_pass,
        first + fit_on_sample + passes[1] * packs * later + scoring, source.warnings,
        tuple(f"{name}: {request}" for name, request in asked.items()),
    )  # fmt: skip


def _time_decoding(source: Source) -> tuple[Array, float]:
    """Return the rows of the first chunk with any, and nanoseconds a row to decode it."""
    for piece in islice(source.small_leaves(), 20):
        chunks = piece.chunks()
        next(chunks, None)  # opens files, loads libraries
        start, total = time.perf_counter(), 0
        for chunk in islice(piece.chunks(), 4):
            total += chunk.size
            if len(chunk.rows):
                rows = np.asarray(chunk.rows[:, : len(source.columns)])
                return rows, (time.perf_counter() - start) / max(total, 1) * 1e9
    return np.zeros((1, len(source.columns))), 0.0


def _make_mixtures(rows: Array, grid: Sequence[CandidateSpec]) -> list[MixtureParams]:
    """Return a mixture for every cell: means at rows, spread as all the rows are."""
    rows, _ = take_whole_rows(rows, UNWEIGHTED, 1, None, np.random.default_rng(0))
    moments = collect_moments(rows)
    spread = PseudoRows.of(moments).spread
    spread = spread + 1e-6 * np.diag(np.diagonal(spread))
    rng = np.random.default_rng(0)
    out = []
    for k, name in grid:
        family = family_named(name)
        means = rows[rng.integers(len(rows), size=k)]
        matrices = np.tile(spread * k ** (-2.0 / rows.shape[1]), (k, 1, 1))
        matrices = matrices if family.matrices else np.einsum("kjj->kj", matrices)
        out.append(MixtureParams.from_matrices(np.full(k, 1.0 / k), means, matrices, family))
    return out


def _measure_costs(rows: Array, candidates: Sequence[MixtureParams]) -> dict[int, float]:
    """Return nanoseconds a row of the E-step of every candidate, by position; like shapes are measured once."""
    scaling = Scaling.of_rows(take_whole_rows(rows, UNWEIGHTED, 1, None, np.random.default_rng(0))[0])
    measured: dict[Any, float] = {}
    out = {}
    for i, params in enumerate(candidates):
        kind = (params.features, params.family.shared, _size_class(params.n_components))
        if kind not in measured:
            row_ns = estimate_row_ns(params.n_components, params.n_features, params.family.name)
            # A few rows are repeated: calls cost more than they do, and the fits on them are compiled as a whole.
            size = int(min(TRIAL_ROWS, max(TRIAL_NS / row_ns, 16)))
            trial = np.asfortranarray(np.resize(rows, (size, rows.shape[1])))
            measured[kind] = _time_estep(params, trial, scaling) / params.n_components
        out[i] = measured[kind] * params.n_components
    return out


def _size_class(k: int) -> int:
    return int(np.log2(k))


def _time_estep(params: MixtureParams, rows: Array, scaling: Scaling) -> float:
    batch = compile_batch([params], scaling, incomplete=find_complete(rows) is not None)
    accumulate_stats(batch, rows)
    start = time.perf_counter()
    accumulate_stats(batch, rows)
    return (time.perf_counter() - start) / len(rows) * 1e9


def _estimate_sample_seconds(
    costs: dict[int, float], names: Sequence[str], settings: Settings, sample_rows: int, survivors: float
) -> float:
    """Return seconds of one core for the sample: the race of the restarts, and the climbs of those that go on."""
    starts = len(SEEDINGS) * settings.n_init
    race = min(RACE_ROW_STEPS, RACE_STEPS * sample_rows) * starts * max(1.0, np.log2(starts / 2.0))
    climb = min(SAMPLE_STEPS, algorithm_named(settings.algorithm).sample_steps) * sample_rows
    simple, iterated = RACED * race + survivors * CLIMBS * climb, race + ITERATED_CLIMBS * climb
    row_steps = (simple if name in STRUCTURES else iterated for name in names)
    return float(sum(cost * steps * 1e-9 for cost, steps in zip(costs.values(), row_steps, strict=True)))
