"""Scores -> Parquet: one output file for each part, row order and pass-through columns kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream_gmm.core.estep.scores import Scores, score_transformed
from stream_gmm.core.file_stats import FileStats
from stream_gmm.core.model.density import Density
from stream_gmm.core.rows.constants import Constant
from stream_gmm.core.rows.transforms import Transforms
from stream_gmm.errors import ConfigError, StorageError, explain
from stream_gmm.io.sink.file_stats import StatsRule, summarise_chunk
from stream_gmm.io.sink.incomplete import explain_unscored, imputed_columns
from stream_gmm.io.sink.places import compute_sha256, open_place
from stream_gmm.io.sink.reports import PartReport, find_finished_part, write_note
from stream_gmm.io.source.chunks import NONE_UNLIKE, Chunk, parquet_chunks, set_unlike_aside
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.decode import Sentinels
from stream_gmm.io.source.files import redact
from stream_gmm.io.source.parts import Part
from stream_gmm.io.source.schema import read_schema
from stream_gmm.io.store.statistics import to_text

REASON = "not_scored_reason"
OUTLIER = "is_outlier"


@dataclass(frozen=True)
class Layout:
    """Which columns a scored file has.

    ``proba`` is ``"columns"`` (``proba_0`` ...), ``"list"`` (one list column) or ``"none"``; ``impute`` are columns.
    """

    passthrough: tuple[str, ...]
    proba: str = "columns"
    prefix: str = ""
    impute: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreJob:
    """All that a scoring task needs besides its part."""

    density: Density
    threshold: float
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


Columns = list[tuple[str, pa.DataType, Callable[[Scores, float], Any]]]


def _proba_columns(k: int) -> Columns:
    def column(i: int) -> Callable[[Scores, float], Any]:
        return lambda s, _: s.proba[:, i]

    return [(f"proba_{i}", pa.float64(), column(i)) for i in range(k)]


_PROBA: dict[str, Callable[[int], Columns]] = {
    "columns": _proba_columns,
    "list": lambda k: [("proba", pa.list_(pa.float64()), lambda s, _: s.proba)],
    "none": lambda _: [],
}
PROBA_STYLES = tuple(_PROBA)


def score_columns(k: int, layout: Layout, noisy: bool = False) -> Columns:
    """Return name, type and content of the score columns, in order; with noise, its probability, too."""
    noise: Columns = [("proba_noise", pa.float64(), lambda s, _: s.noise)] if noisy else []
    head: Columns = [
        ("component", pa.int32(), lambda s, _: s.component),
        ("max_proba", pa.float64(), lambda s, _: s.max_proba),
    ]
    tail: Columns = [
        ("log_density", pa.float64(), lambda s, _: s.log_density),
        ("uncertainty", pa.float64(), lambda s, _: 1.0 - s.max_proba),
        ("mahalanobis_sq", pa.float64(), lambda s, _: s.mahalanobis_sq),
        (OUTLIER, pa.bool_(), lambda s, t: s.comparable < t),
    ]
    tail += imputed_columns(layout.impute)
    return [(layout.prefix + n, t, f) for n, t, f in head + _PROBA[layout.proba](k) + noise + tail]


def choose_passthrough(passthrough: str | Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns to carry over: ``"all"`` of these names, ``"none"``, one name, or several."""
    if isinstance(passthrough, str):
        return {"all": tuple(names), "none": ()}.get(passthrough, (passthrough,))
    return tuple(passthrough)


def check_layout(dataset: Dataset, k: int, layout: Layout, noisy: bool = False) -> None:
    """Refuse a layout in which two columns would have one name.

    Raises
    ------
    ConfigError
        If a pass-through column does not exist, is named twice, or has the name of a score column.
    InputDataError
        If files have a pass-through column with types that have nothing in common.
    """
    dataset.check_passthrough(layout.passthrough)
    twice = sorted({c for c in layout.passthrough if layout.passthrough.count(c) > 1})
    if twice:
        raise ConfigError(f"score.passthrough names columns twice: {twice}.")
    names = [n for n, _, _ in score_columns(k, layout, noisy)] + [layout.prefix + REASON]
    clash = sorted(set(names) & set(layout.passthrough))
    if clash:
        raise ConfigError(
            explain(
                f"the input already has columns named {clash}",
                remedy="set score.prefix (such as 'gmm_'), or name the columns to keep in score.passthrough",
            )
        )


def output_path(part: Part, n_parts_of_file: int) -> str:
    """Return where a part's scores go, below the target; mirrors the input's folders."""
    relative = PurePosixPath(part.file.relative)
    if n_parts_of_file == 1:
        return str(relative.with_suffix(".parquet"))
    return str(relative.with_name(f"{relative.stem}.part-{part.row_groups[0]:05d}.parquet"))


def score_part(item: tuple[Part, str], job: ScoreJob) -> PartReport:
    """Score one part into the staging folder, unless it is there already and intact.

    Raises
    ------
    InputDataError
        If the part cannot be read.
    StorageError
        If the scores cannot be written.
    """
    part, name = item
    place = open_place(job.staging)
    done = find_finished_part(place, part.index)
    if done is not None:
        return done
    try:
        with place.scratch(name) as aside:
            totals = _write_scores(aside, part, job)
            if totals["rows_in"] != part.rows:
                raise StorageError(f"{part.id}: {part.rows} rows were expected and {totals['rows_in']} read.")
            report = PartReport(
                index=part.index,
                source=part.file.relative,
                row_groups=(part.row_groups[0], part.row_groups[-1]),
                path=name,
                bytes=aside.stat().st_size,
                sha256=compute_sha256(aside),
                file=part.file.identity,
                model=job.model_digest,
                **totals,
            )
            place.put(aside, name)
            write_note(place, report)
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
    return report


def _write_scores(path: Path, part: Part, job: ScoreJob) -> dict[str, Any]:
    k = len(job.density.log_norm)
    columns = score_columns(k, job.layout, job.density.noisy)
    counts = np.zeros(k, np.int64)
    rows_in, rows_out, rows_scored, outliers, loglik = 0, 0, 0, 0, 0.0
    gathered: list[FileStats] = []
    writer: pq.ParquetWriter | None = None
    extra = job.layout.passthrough or job.columns[:1]
    try:
        chosen = (job.row_filter, job.transforms, job.sentinels)
        for chunk in parquet_chunks(part, job.columns, job.missing, extra, *chosen):
            chunk, unlike = set_unlike_aside(chunk, job.constants)
            impute = bool(job.layout.impute)
            scores = score_transformed(job.density, chunk.rows, job.columns, job.transforms, impute)
            scored = ~np.isnan(scores.log_density)  # the others have no value
            table = make_scored_table(chunk, scores, columns, job.layout, job.threshold, dict(job.metadata), unlike)
            if writer is None:
                writer = _open_writer(path, table.schema)
            writer.write_table(table)
            rows_in += chunk.read
            rows_out += table.num_rows
            rows_scored += int(scored.sum())
            outliers += int((scores.comparable < job.threshold).sum()) + int(unlike.sum())
            counts += np.bincount(scores.component[(scores.component >= 0) & scored], minlength=k)
            loglik += float(scores.log_density[scored].sum())
            if job.stats_rule is not None:
                gathered.append(summarise_chunk(part, chunk, scores, job.stats_rule, job.columns, job.transforms))
        if writer is None:
            _open_writer(path, _empty_schema(part, columns, job)).close()
    finally:
        if writer is not None:
            writer.close()
    return {
        "rows_in": rows_in,
        "rows_out": rows_out,
        "rows_scored": rows_scored,
        "outliers": outliers,
        "component_rows": tuple(int(c) for c in counts),
        "loglik": loglik,
        "statistics": to_text(gathered),
    }


def _open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # A dictionary of full-precision floats makes files larger and reading slower.
    plain = (pa.types.is_floating, pa.types.is_fixed_size_list, pa.types.is_list)
    coded = [f.name for f in schema if not any(test(f.type) for test in plain)]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=coded, write_page_checksum=True)


def _empty_schema(part: Part, columns: Columns, job: ScoreJob) -> pa.Schema:
    kept = list(read_schema(part.file, job.layout.passthrough))
    fields = kept + [pa.field(n, t) for n, t, _ in columns]
    fields.append(pa.field(job.layout.prefix + REASON, pa.string()))
    return pa.schema(fields, metadata=dict(job.metadata))


def make_scored_table(
    chunk: Chunk,
    scores: Scores,
    columns: Columns,
    layout: Layout,
    threshold: float,
    metadata: dict[str, str],
    unlike: NDArray[np.bool_] = NONE_UNLIKE,
) -> pa.Table:
    """Return the rows of a chunk with its pass-through columns and the scores of those that have any.

    ``unlike (N,)`` marks rows that have no scores and are outliers; empty: none is.
    """
    chunk = explain_unscored(chunk, scores)
    assert chunk.batch is not None
    arrays = [chunk.batch.column(c) for c in layout.passthrough]
    fields = [chunk.batch.schema.field(c) for c in layout.passthrough]
    for name, kind, content in columns:
        arrays.append(_place_rows(content(scores, threshold), kind, chunk))
        fields.append(pa.field(name, kind))
        if name == layout.prefix + OUTLIER and len(unlike):
            arrays[-1] = pc.if_else(pa.array(unlike), True, arrays[-1])
    reasons = [None] * chunk.size if chunk.reasons is None else chunk.reasons
    arrays.append(pa.array(reasons, pa.string()))
    fields.append(pa.field(layout.prefix + REASON, pa.string()))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def _place_rows(values: Any, kind: pa.DataType, chunk: Chunk) -> pa.Array:
    """Put the values of the usable rows in their places; the others are null."""
    values = np.asarray(values)
    mask = None if chunk.keep is None else ~chunk.keep
    if pa.types.is_list(kind):
        # Not lists of a fixed size: of those, pyarrow before 26 cannot read nulls.
        lengths = np.full(chunk.size, values.shape[1]) if chunk.keep is None else chunk.keep * values.shape[1]
        starts = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        flat = pa.array(np.ascontiguousarray(values).ravel())
        return pa.ListArray.from_arrays(starts, flat, type=kind, mask=None if mask is None else pa.array(mask))
    if chunk.keep is not None:
        full = np.zeros(chunk.size, values.dtype)
        full[chunk.keep] = values
        values = full
    if chunk.incomplete and pa.types.is_floating(kind):  # NaN: a score that a row without any value does not have
        mask = np.isnan(values) if mask is None else mask | np.isnan(values)
    return pa.array(np.ascontiguousarray(values), kind, mask=mask)


def output_names(parts: Sequence[Part]) -> list[str]:
    """Return the output file of each part."""
    per_file: dict[int, int] = {}
    for part in parts:
        per_file[part.file_index] = per_file.get(part.file_index, 0) + 1
    return [output_path(p, per_file[p.file_index]) for p in parts]
