"""Scores -> Parquet: files for each part, row order and pass-through columns kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream_gmm.core.estep.accumulate import CHUNK_ROWS
from stream_gmm.core.estep.scores import Scores, score_transformed
from stream_gmm.core.model.density import Density
from stream_gmm.core.outliers import FineHistogram, OutlierTest
from stream_gmm.core.rows.constants import Constant
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.core.rows.transforms import Transforms
from stream_gmm.errors import ConfigError, StorageError, explain
from stream_gmm.io.sink.columns import (
    OUTLIER,
    Layout,
    ScoreColumn,
    make_reason_field,
    make_scored_table,
    score_columns,
)
from stream_gmm.io.sink.file_stats import StatsRule, summarise_chunk
from stream_gmm.io.sink.parquet.encodings import choose_encoding
from stream_gmm.io.sink.places import Place, compute_sha256, open_place
from stream_gmm.io.sink.reports import PartReport, find_finished_part, write_note
from stream_gmm.io.source.chunks import Chunk, parquet_chunks, set_unlike_aside
from stream_gmm.io.source.decode import Sentinels
from stream_gmm.io.source.files import redact
from stream_gmm.io.source.parts import Part
from stream_gmm.io.source.schema import read_schema
from stream_gmm.io.store.statistics import to_text

MOST_FOLDERS = 1_000
"""Most combinations of values to partition by in one part."""
MOST_PARTS, SMALL_ROWS = 64, 4_096
"""Most parts, and rows, of a task of several parts."""
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class ScoreJob:
    """All that a scoring task needs besides its part."""

    density: Density
    test: OutlierTest
    columns: tuple[str, ...]
    missing: str
    layout: Layout
    staging: str
    metadata: tuple[tuple[str, str], ...]
    constants: tuple[Constant, ...] = ()
    """Those of the model, in the order of the last columns."""
    row_filter: str | None = None
    """Rows that do not match are not written; None: all are."""
    transforms: Transforms = ()
    model_digest: str = ""
    stats_rule: StatsRule | None = None
    """How statistics of the rows are gathered; None: they are not."""
    sentinels: Sentinels = ()
    training: LogDensityHistogram | None = None
    """Gives the ranks of log-densities."""

    @property
    def score_columns(self) -> list[ScoreColumn]:
        """The score columns of the table."""
        k = len(self.density.log_norm)
        return score_columns(k, self.layout, self.density.noisy, self.test, self.training)


def score_chunks(
    part: Part, job: ScoreJob, extra: Sequence[str]
) -> Iterator[tuple[Chunk, Scores, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield the chunks of a part with the scores of their usable rows.

    Also which of these have scores ``(n,)``, and which of all rows differ from a constant ``(N,)`` (empty: none).
    """
    chosen = (job.row_filter, job.transforms, job.sentinels)
    added = 8 * len(job.score_columns)
    for chunk in parquet_chunks(part, job.columns, job.missing, extra, *chosen, added_bytes=added):
        chunk, unlike = set_unlike_aside(chunk, job.constants)
        impute = bool(job.layout.impute)
        scores = score_transformed(job.density, chunk.rows, job.columns, job.transforms, impute)
        scored = ~np.isnan(scores.log_density)  # the others have no value
        yield chunk, scores, scored, unlike


def count_log_densities(part: Part, job: ScoreJob) -> FineHistogram:
    """Return the histogram of the log-densities of a part.

    Raises
    ------
    InputDataError
        If the part cannot be read.
    """
    out = FineHistogram.of(np.empty(0))
    for _, scores, _, _ in score_chunks(part, job, ()):
        out = out.merge(FineHistogram.of(scores.comparable))
    return out


def score_part(item: tuple[Part, str], job: ScoreJob) -> tuple[PartReport, ...]:
    """Score one part into the staging folder, unless it is there already and intact; a report for each file.

    Raises
    ------
    InputDataError
        If the part cannot be read.
    StorageError
        If the scores cannot be written.
    ConfigError
        If the part has more than 1,000 combinations of values to partition by.
    """
    part, name = item
    place = open_place(job.staging)
    done = find_finished_part(place, part.index)
    if done:
        return done
    try:
        with ExitStack() as stack:
            reports = _write_scores(_PartFiles(name, part, job, place, stack), part, job)
            write_note(place, reports)
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError) or error.errno is not None:
            raise StorageError(
                explain(
                    f"cannot write the scores of {part.id} to {redact(job.staging)}/{name}",
                    why=str(error),
                    remedy="check the space left; started again, the run resumes here",
                )
            ) from error
        raise
    return reports


def score_parts(items: Sequence[tuple[Part, str]], job: ScoreJob) -> tuple[PartReport, ...]:
    """Score several parts, one after the other; as :func:`score_part`."""
    return tuple(report for item in items for report in score_part(item, job))


def group_small_parts(items: Sequence[tuple[Part, str]]) -> list[list[tuple[Part, str]]]:
    """Return parts in their order, neighbours of few rows together: a task costs more than a file of a few rows."""
    out: list[list[tuple[Part, str]]] = []
    rows = 0
    for part, name in items:
        if not out or rows + part.rows > SMALL_ROWS or len(out[-1]) == MOST_PARTS:
            out.append([])
            rows = 0
        out[-1].append((part, name))
        rows += part.rows
    return out


def _write_scores(files: _PartFiles, part: Part, job: ScoreJob) -> tuple[PartReport, ...]:
    columns, metadata = job.score_columns, dict(job.metadata)
    ends = part.first_row + np.cumsum(part.group_rows)
    rows_in, written, scored_rows = 0, np.zeros(len(ends), np.int64), np.zeros(len(ends), np.int64)
    gathered = []
    for chunk, scores, scored, unlike in score_chunks(part, job, job.layout.passthrough or job.columns[:1]):
        files.add(make_scored_table(chunk, scores, columns, job.layout, metadata, unlike))
        rows_in += chunk.read
        written += _count_by_group(replace(chunk, keep=None).row_numbers, ends)
        scored_rows += _count_by_group(chunk.row_numbers[scored], ends)
        if job.stats_rule is not None:
            gathered.append(summarise_chunk(part, chunk, scores, job.stats_rule, job.columns, job.transforms))
    if rows_in != part.rows:
        raise StorageError(f"{part.id}: {part.rows} rows were expected and {rows_in} read.")
    kept = [f for f in read_schema(part.file, job.layout.passthrough) if f.name not in job.layout.partition_by]
    fields = [*kept, *(c.make_field() for c in columns), make_reason_field(job.layout)]
    files.finish(pa.schema(fields, metadata=metadata))
    groups = zip(part.row_groups, part.group_rows, scored_rows, written - scored_rows, strict=True)
    counts = tuple(tuple(int(v) for v in group) for group in groups)
    return files.put(rows_in, counts, to_text(gathered))  # type: ignore[arg-type]


def _count_by_group(numbers: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of the row numbers, which rise, are in each row group; ``ends (G,)`` follow its last row."""
    return np.diff(np.searchsorted(numbers, ends), prepend=0)


@dataclass
class _OpenFile:
    """A scored file that is being written, and what it holds."""

    name: str
    path: Path
    writer: pq.ParquetWriter
    rows: int = 0
    rows_scored: int = 0
    outliers: int = 0
    component_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    loglik: float = 0.0


class _PartFiles:
    """The files of one part: one, or several for ``partition_by`` and ``rows_per_file``."""

    def __init__(self, name: str, part: Part, job: ScoreJob, place: Place, stack: ExitStack) -> None:
        self._name, self._part, self._job, self._place, self._stack = PurePosixPath(name), part, job, place, stack
        self._files: list[_OpenFile] = []
        self._open: dict[str, _OpenFile] = {}
        self._waiting: dict[str, list[pa.Table]] = {}

    def add(self, table: pa.Table) -> None:
        """Write the rows of a table, each to its file; partitions wait until they fill a row group."""
        names = list(self._job.layout.partition_by)
        if not names:
            self._write("", table)
            return
        for folder, rows in _split_by_value(table, names):
            waiting = self._waiting.setdefault(folder, [])
            if len(self._waiting) > MOST_FOLDERS:
                raise ConfigError(
                    explain(
                        f"score.partition_by: {self._part.id} has more than {MOST_FOLDERS:,} combinations of values "
                        f"of {', '.join(names)}",
                        why="each would be a file",
                        remedy="partition by a column with fewer distinct values",
                    )
                )
            waiting.append(rows)
            if sum(t.num_rows for t in waiting) >= CHUNK_ROWS:
                self._write(folder, pa.concat_tables(self._waiting.pop(folder)))
                self._waiting[folder] = []

    def finish(self, schema: pa.Schema) -> None:
        """Write what is waiting, and close all files; a part without rows gets an empty file of this schema."""
        for folder, tables in self._waiting.items():
            if tables:
                self._write(folder, pa.concat_tables(tables))
        if not self._files:
            self._start("", schema.empty_table())
        for file in self._open.values():
            file.writer.close()

    def put(
        self, rows_in: int, groups: tuple[tuple[int, int, int, int], ...], statistics: str
    ) -> tuple[PartReport, ...]:
        """Give the files their names, and return their reports; what is counted by part is in the first one."""
        out = []
        rest = sum(file.rows for file in self._files[1:])
        for i, file in enumerate(self._files):
            out.append(
                PartReport(
                    index=self._part.index, source=self._part.file.relative,
                    row_groups=(self._part.row_groups[0], self._part.row_groups[-1]), path=file.name,
                    rows_in=file.rows if i else rows_in - rest, rows_out=file.rows, rows_scored=file.rows_scored,
                    outliers=file.outliers, component_rows=tuple(int(c) for c in file.component_rows),
                    loglik=file.loglik, bytes=file.path.stat().st_size, sha256=compute_sha256(file.path),
                    file=self._part.file.identity, model=self._job.model_digest,
                    statistics="" if i else statistics, row_group_counts=() if i else groups,
                )
            )  # fmt: skip
            self._place.put(file.path, file.name)
        return tuple(out)

    def _write(self, folder: str, table: pa.Table) -> None:
        most = self._job.layout.rows_per_file
        while table.num_rows or folder not in self._open:
            file = self._open.get(folder)
            if file is None or (most is not None and file.rows >= most):
                if file is not None:
                    file.writer.close()
                file = self._start(folder, table)
            rows = table if most is None else table.slice(0, most - file.rows)
            file.writer.write_table(rows)
            self._count(file, rows)
            table = table.slice(rows.num_rows)

    def _start(self, folder: str, first: pa.Table) -> _OpenFile:
        name = self._name.parent / folder / self._name.name
        number = sum(PurePosixPath(f.name).parent == name.parent for f in self._files)
        if self._job.layout.rows_per_file is not None:
            name = name.with_name(f"{name.stem}.{number:05d}.parquet")
        path = self._stack.enter_context(self._place.scratch(str(name)))
        writer = pq.ParquetWriter(path, first.schema, **choose_encoding(first, self._job.layout.compression))
        self._stack.callback(writer.close)
        k = len(self._job.density.log_norm)
        file = _OpenFile(str(name), path, writer, component_rows=np.zeros(k, np.int64))
        self._files.append(file)
        self._open[folder] = file
        return file

    def _count(self, file: _OpenFile, rows: pa.Table) -> None:
        prefix = self._job.layout.prefix

        def read(name: str) -> NDArray[Any]:
            return np.asarray(rows.column(prefix + name).to_numpy())

        log_density = read("log_density")
        scored = ~np.isnan(log_density)  # null is NaN here
        component = read("component")[scored].astype(np.int64)
        file.rows += rows.num_rows
        file.rows_scored += int(scored.sum())
        file.outliers += pc.sum(rows.column(prefix + OUTLIER)).as_py() or 0
        file.component_rows += np.bincount(component[component >= 0], minlength=len(file.component_rows))
        file.loglik += float(log_density[scored].sum())


def _split_by_value(table: pa.Table, names: list[str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield the hive folder of each combination of values of these columns, and its rows in their order."""
    codes, values = np.zeros(table.num_rows, np.int64), []
    for name in names:
        column = table.column(name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        coded = column.dictionary_encode(null_encoding="encode")
        known = [str(v).lower() if isinstance(v, bool) else v for v in coded.dictionary.to_pylist()]
        texts = [_NULL_FOLDER if v is None else quote(str(v), safe="") for v in known]
        values.append([f"{quote(name, safe='')}={text}" for text in texts])
        codes = codes * len(coded.dictionary) + coded.indices.to_numpy()
    rest = table.drop_columns(names)
    found, first, place = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(len(found) + 1))
    for i in np.argsort(first):
        code, folders = int(found[i]), []
        for texts in reversed(values):
            code, digit = divmod(code, len(texts))
            folders.append(texts[digit])
        yield "/".join(reversed(folders)), rest.take(pa.array(order[bounds[i] : bounds[i + 1]]))


def output_names(parts: Sequence[Part]) -> list[str]:
    """Return the output file of each part, below the target; mirrors the input's folders."""
    per_file: dict[int, int] = {}
    for part in parts:
        per_file[part.file_index] = per_file.get(part.file_index, 0) + 1
    out = []
    for part in parts:
        relative = PurePosixPath(part.file.relative)
        if per_file[part.file_index] == 1:
            out.append(str(relative.with_suffix(".parquet")))
        else:
            out.append(str(relative.with_name(f"{relative.stem}.part-{part.row_groups[0]:05d}.parquet")))
    return out
