"""Score every row and publish the scored Parquet in one atomic step."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stream_gmm.core.file_stats import FileStats
from stream_gmm.core.outliers import FineHistogram, OutlierTest
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transforms import refuse_imputation
from stream_gmm.errors import InputDataError, StorageError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.sink.columns import Layout, make_table_schema, score_columns
from stream_gmm.io.sink.file_stats import StatsRule
from stream_gmm.io.sink.places import open_place
from stream_gmm.io.sink.reports import PartReport, is_part_intact, report_from_json
from stream_gmm.io.sink.scores import ScoreJob, count_log_densities, group_small_parts, output_names, score_parts
from stream_gmm.io.sink.targets import Target, open_target
from stream_gmm.io.source.dataset import Dataset, open_dataset
from stream_gmm.io.source.decode import MARGINALISE
from stream_gmm.io.source.files import redact
from stream_gmm.io.store.models import to_bytes
from stream_gmm.io.store.statistics import from_text
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress
from stream_gmm.pipeline.table_layout import choose_fixed_test, make_layout, require_ranks
from stream_gmm.pipeline.table_options import CONTAMINATION, TableOptions

log = logging.getLogger(__name__)
DEFAULT_TABLE = TableOptions()

FORMAT = 2
"""Format 2 has rows by row group, the rule for outliers, and several files for a part."""


@dataclass(frozen=True)
class ScoreResult:
    """What was published: the folder and its manifest."""

    path: Path | str
    """The folder, or the URI of a prefix in an object store."""
    manifest: dict[str, Any]
    already_published: bool
    """True if the same job had been published before, every file of it is intact, and nothing was done."""
    statistics: tuple[FileStats, ...] = ()
    """Statistics of the parts that were scored now, if they were wanted."""
    scored_parts: int = 0
    scored_rows: int = 0
    """Parts and rows that were scored now; the others had been before."""

    @property
    def rows(self) -> int:
        """Rows in the scored data set."""
        return int(self.manifest["rows_out"])

    @property
    def outliers(self) -> int:
        """Rows below the threshold, and rows that differ from a constant column of the fit."""
        return int(self.manifest["outliers"])

    @property
    def component_rows(self) -> list[int]:
        """Rows assigned to each component."""
        return list(self.manifest["component_rows"])


def score(
    model: FitResult,
    dataset: Dataset,
    output: str | Path,
    executor: Executor,
    *,
    table: TableOptions = DEFAULT_TABLE,
    wait: float = 0.0,
    listener: Listener = ignore_progress,
    stats_rule: StatsRule | None = None,
    keep_scores: Collection[str] = (),
) -> ScoreResult:
    """Write the scores of all rows below ``output``, which is replaced atomically.

    With ``stats_rule``, the statistics of the rows are gathered on the way. Published files of unchanged data that
    models with a digest in ``keep_scores`` have scored, with the same columns, are kept as they are.

    If the data set has a filter, rows that do not match are not written. A contamination rate needs one more read of
    the data, which finds the threshold.

    The same job on the same data with the same model is done once: a second call verifies the size and the SHA-256 of
    every published file, and scores again only what is missing or damaged; a call after a crash resumes with the
    parts that are left. Staging folders that killed jobs left beside ``output`` are removed. One job at a time writes
    to ``output``: another one waits for up to ``wait`` seconds.

    Raises
    ------
    ConfigError
        If the layout is malformed.
    InputDataError
        If the data lacks columns of the model, or cannot be read.
    FolderInUseError
        If another job is writing to ``output``, and still does after ``wait`` seconds.
    StorageError
        If ``output`` holds anything but an earlier result, or cannot be written, or a file of scores cannot be kept.
    """
    if table.impute:
        refuse_imputation(model.transforms)
    target = open_target(output, table.sink, table.write)
    dataset = with_model_columns(dataset, model)
    dataset.refuse_unusable()
    layout = make_layout(dataset, model.n_components, model.density.noisy, table, model.columns)
    require_ranks(layout, model)
    columns = score_columns(model.n_components, layout, model.density.noisy, training=model.training)
    with target.hold(wait):
        target.check([f.path for f in dataset.files])
        dataset = target.prepare(dataset, layout, columns)
        job_key, names = _compute_job_key(model, dataset, layout), output_names(dataset.parts)
        previous = target.find_job(job_key) if not keep_scores else target.read_manifest()
        if previous and previous.pop("applied", False):
            return ScoreResult(target.shown, previous, already_published=True)
        kept = [] if not keep_scores else find_kept_parts(target, dataset, layout, {model.digest, *keep_scores})
        intact = kept or _find_intact_parts(target, previous, job_key, executor)
        if kept:
            job_key = hashlib.sha256(repr((job_key, [(r.path, r.model) for r in kept])).encode()).hexdigest()
        if previous and len(previous.get("parts") or ()) == len(intact) and _cover(intact, dataset):
            target.tidy()
            return ScoreResult(target.shown, previous, already_published=True)
        with target.open_staging(job_key) as staging:
            reused = target.reuse(intact, staging, required=bool(kept))
            job = ScoreJob(
                model.density, choose_fixed_test(layout, model), dataset.columns, dataset.missing, layout, staging,
                (("stream_gmm.model_digest", model.digest), ("stream_gmm.version", version("stream-gmm"))),
                tuple(c for c in model.constants if c.name in dataset.columns), dataset.row_filter, model.transforms,
                model.digest, stats_rule,
                dataset.sentinels, model.training,
            )  # fmt: skip
            job = replace(job, test=_choose_test(job, dataset, executor, listener))
            done = {r.index: r for r in reused} if kept else {}
            items = [(p, n) for p, n in zip(dataset.parts, names, strict=True) if p.index not in done]
            groups = group_small_parts(items)
            meter = Meter(listener, "score", [sum(p.rows for p, _ in group) for group in groups])
            scored = executor.map(score_parts, groups, shared=job, label="score", on_done=meter) if items else []
            reports = sorted([*done.values(), *(r for files in scored for r in files)], key=lambda r: r.index)
            statistics = tuple(from_text(r.statistics) for r in reports if r.statistics)
            reports = [replace(r, statistics="") for r in reports]
            manifest = _make_manifest(model, dataset, job, job_key, reports)
            _verify_parts(staging, dataset, reports, [r for r in reports if r.index not in done])
            target.publish(staging, manifest, to_bytes(model), make_table_schema(dataset, layout, columns))
        return ScoreResult(
            target.shown, manifest, already_published=False, statistics=statistics,
            scored_parts=len(items), scored_rows=sum(p.rows for p, _ in items),
        )  # fmt: skip


def find_kept_parts(target: Target, dataset: Dataset, layout: Layout, models: Collection[str]) -> list[PartReport]:
    """Return the published parts of files that are as they were, scored by one of these models with these columns.

    Their files are there with the size that the manifest says; their content is not read. Where a part has several
    files, or the limit for outliers depends on all rows, none is kept.
    """
    if layout.partition_by or layout.rows_per_file or (layout.outlier or ("",))[0] == CONTAMINATION:
        return []
    manifest = target.read_manifest()
    place = open_place(target.locate())
    wanted = json.loads(json.dumps(asdict(layout)))
    if not manifest or manifest.get("filter") != dataset.row_filter or manifest.get("layout") != wanted:
        return []
    published = {(r.file, r.row_groups): r for r in map(report_from_json, manifest.get("parts") or ())}
    out = []
    for part, name in zip(dataset.parts, output_names(dataset.parts), strict=True):
        report = published.get((part.file.identity, (part.row_groups[0], part.row_groups[-1])))
        if report is None or report.rows_in != part.rows or report.model not in models:
            continue
        if target.strip_folder(report.path) == name and place.find_size(report.path) == report.bytes:
            out.append(replace(report, index=part.index))
    return out


def _choose_test(job: ScoreJob, dataset: Dataset, executor: Executor, listener: Listener) -> OutlierTest:
    """Return what makes a row an outlier; for a contamination rate all rows are read."""
    rule, value = job.layout.outlier or ("", 0.0)
    if rule != CONTAMINATION:
        return job.test
    meter = Meter(listener, "contamination", [p.rows for p in dataset.parts])
    found = executor.map(count_log_densities, dataset.parts, shared=job, label="contamination", on_done=meter)
    return OutlierTest(limit=reduce(FineHistogram.merge, found).find_limit(value)) if found else job.test


def _cover(reports: list[PartReport], dataset: Dataset) -> bool:
    """Return True if the files hold all rows of all parts, as these are cut today."""
    rows: dict[tuple[int, tuple[int, int]], int] = {}
    for r in reports:
        rows[r.index, r.row_groups] = rows.get((r.index, r.row_groups), 0) + r.rows_in
    return rows == {(p.index, (p.row_groups[0], p.row_groups[-1])): p.rows for p in dataset.parts}


def _find_intact_parts(
    target: Target, manifest: dict[str, Any] | None, job_key: str, executor: Executor
) -> list[PartReport]:
    """Return the published parts of a job whose files are what the manifest says; reads every file once."""
    if not manifest or manifest.get("job") != job_key or not manifest.get("parts"):
        return []
    try:
        reports = [report_from_json(part) for part in manifest["parts"]]
    except (KeyError, TypeError) as error:
        log.warning("the manifest of %s is damaged (%s): all rows are scored again", target.shown, error)
        return []
    states = executor.map(is_part_intact, reports, shared=target.locate(), label="verify")
    damaged = {r.index for r, ok in zip(reports, states, strict=True) if not ok}
    intact = [r for r in reports if r.index not in damaged]
    if len(intact) < len(reports):
        log.warning(
            "%d of %d files of %s are missing or damaged: they are scored again",
            len(reports) - len(intact), len(reports), target.shown,
        )  # fmt: skip
    return intact


def with_model_columns(dataset: Dataset, model: FitResult) -> Dataset:
    """Return the data set with the model's columns in the model's order, and then the constant ones of its fit.

    A constant column that the data set was opened without is not read, and not compared.

    Raises
    ------
    InputDataError
        If one is not among the data set's columns; names both lists.
    """
    missing = [c for c in model.columns if c not in dataset.columns]
    if missing:
        raise InputDataError(
            explain(
                f"the model was fitted on {list(model.columns)}, and the data set was opened with "
                f"{list(dataset.columns)}; {missing} are missing",
                remedy="open the data set with the model's columns",
            )
        )
    constant = [c.name for c in model.constants]
    unread = [name for name in constant if name not in dataset.columns]
    if unread:
        log.warning("the data set was opened without %s, which the model knows as constant: not compared", unread)
    columns = (*model.columns, *(name for name in constant if name not in unread))
    return replace(dataset, columns=columns, transforms=model.transforms)


def open_path(model: FitResult, path: str | os.PathLike[str], missing: str | None) -> Dataset:
    """Return the data set of a path in the columns of a model, which gives the policy if ``missing`` is None.

    Raises
    ------
    InputDataError
        As :func:`~stream_gmm.io.source.dataset.open_dataset`.
    """
    follows = model.marginalises and missing in (None, MARGINALISE)
    policy, sentinel = missing or "error", {}
    if follows:
        policy, sentinel = MARGINALISE, model.provenance.get("sentinel", {})
    return open_dataset(path, model.input_columns, missing=policy, sentinel=sentinel)


def _compute_job_key(model: FitResult, dataset: Dataset, layout: Layout) -> str:
    content = {
        "format": FORMAT,
        "model": model.digest,
        "data": dataset.fingerprint,
        "layout": asdict(layout),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _make_manifest(
    model: FitResult, dataset: Dataset, job: ScoreJob, job_key: str, reports: list[PartReport]
) -> dict[str, Any]:
    k = model.n_components
    rule, value = job.layout.outlier or ("outlier_quantile", model.outlier_quantile)
    return {
        "format": FORMAT,
        "job": job_key,
        "model_digest": model.digest,
        "data_fingerprint": dataset.fingerprint,
        "version": version("stream-gmm"),
        **({"filter": dataset.row_filter} if dataset.row_filter else {}),
        **({"tables": [str(table) for table in dataset.tables]} if dataset.tables else {}),
        "columns": list(model.columns),
        "layout": asdict(job.layout),
        "threshold": repr(job.test.limit),
        "outlier": {"rule": rule, "value": value, "quantity": job.test.quantity, "limit": repr(job.test.limit)},
        "rows_in": sum(r.rows_in for r in reports),
        "rows_out": sum(r.rows_out for r in reports),
        "rows_scored": sum(r.rows_scored for r in reports),
        "rows_not_scored": sum(r.rows_out - r.rows_scored for r in reports),
        "outliers": sum(r.outliers for r in reports),
        "component_rows": [sum(r.component_rows[i] for r in reports) for i in range(k)],
        "noise_rows": sum(r.rows_scored - sum(r.component_rows) for r in reports),
        "loglik": sum(r.loglik for r in reports),
        "warnings": list(dataset.warnings),
        "parts": [asdict(r) for r in reports],
    }


def _verify_parts(staging: str, dataset: Dataset, reports: list[PartReport], written: list[PartReport]) -> None:
    """Check, from here, that all that was reported is there: what was written now, and what was taken over.

    Raises
    ------
    StorageError
        If a file is missing or has another size, or rows are missing.
    """
    if not _cover(reports, dataset):
        raise StorageError("the reports of the scoring tasks do not match the parts.")
    if sum(r.rows_in for r in reports) != dataset.num_rows:
        raise StorageError("the scored rows do not add up to the rows of the input.")
    place = open_place(staging)
    for report in written:
        if place.find_size(report.path) != report.bytes:
            raise StorageError(
                explain(
                    f"{report.path} was reported as written, and is not in {redact(staging)} as seen from here",
                    why="the workers may not share this file system",
                    remedy="write to a folder that all workers and this machine see",
                )
            )
