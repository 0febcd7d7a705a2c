"""The statistics of every file at the anchor: reused where a file is as it was, read where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stream_gmm.core.file_stats import FileId, FileStats, KeptStats, count_files_per_entry
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transforms import Transforms
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.sink.file_stats import StatsJob, StatsRule, read_part_stats, summarise_nothing
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress

EVIDENCE_ROWS = 50_000
"""Most rows set apart on which models are compared."""
LEAST_EVIDENCE_ROWS = 1_000
_GROWTH = 2.0
"""A sample that has grown by this factor is thinned."""


@dataclass(frozen=True)
class Gathered:
    """The statistics of all files of the window, and which of them were read for that.

    Attributes
    ----------
    kept
        The statistics; those of new files still tell the rows set apart.
    fresh
        Those that were read.
    rows_read
        Rows that were read.
    """

    kept: KeptStats
    fresh: tuple[FileStats, ...]
    rows_read: int


def identify_source(dataset: Dataset, columns: Sequence[str], transforms: Transforms) -> str:
    """Return what decides which rows and columns of the files are read, and how, as text."""
    sentinels = (dataset.sentinels,) if dataset.sentinels else ()
    return repr((tuple(columns), dataset.missing, dataset.weight, dataset.row_filter, transforms, *sentinels))


def identify_files(dataset: Dataset) -> dict[str, FileId]:
    """Return the identity of each file by its name, in the order of the files."""
    return {f.relative: FileId(f.relative, f.identity) for f in dataset.files}


def make_stats_rule(dataset: Dataset, settings: Settings, apart: float, share: float | None = None) -> StatsRule:
    """Return which rows are sampled and set apart; ``share``: that of a sample that goes on."""
    wanted = min(1.0, settings.sample_rows / max(dataset.num_rows, 1))
    if share is None or share > _GROWTH * wanted:
        share = wanted
    evidence = max(LEAST_EVIDENCE_ROWS, EVIDENCE_ROWS // max(len(dataset.parts), 1))
    return StatsRule(share, apart, evidence, settings.random_state)


def find_obstacle(kept: KeptStats | None, model: FitResult, dataset: Dataset, *, stepwise: bool) -> str:
    """Return why kept statistics cannot be used for a model and a data set, in words; empty if they can."""
    if kept is None:
        return "no statistics of the files were kept"
    if kept.columns != model.columns or kept.source != identify_source(dataset, model.columns, model.transforms):
        return "the statistics were taken with other columns, transforms, weight, filter or policy for missing values"
    if (kept.anchor.n_components, kept.anchor.family) != (model.n_components, model.params.family):
        return "the statistics were taken with another number of components or structure"
    if (kept.anchor.noise is None) != (model.params.noise is None):
        return "the statistics were taken with another noise component"
    if kept.stepwise and not stepwise:
        return "the statistics of files were taken at different parameters (update.mode was stepwise)"
    return ""


def gather_statistics(
    dataset: Dataset,
    wanted: Sequence[str],
    reusable: KeptStats | None,
    anchor: MixtureParams,
    model: FitResult,
    rule: StatsRule,
    executor: Executor,
    listener: Listener = ignore_progress,
    stage: str = "statistics",
) -> Gathered:
    """Return the statistics at ``anchor`` of the files ``wanted``; those that ``reusable`` holds are not read.

    Raises
    ------
    InputDataError
        If a file cannot be read, or no file has a row.
    """
    columns, transforms = model.columns, model.transforms
    files = identify_files(dataset)
    known: dict[FileId, FileStats] = {}
    for entry in () if reusable is None else reusable.entries:
        # Statistics that files share are of use only as long as all of them are there, unchanged.
        if all(files.get(f.name) == f and f.name in set(wanted) for f in entry.files):
            settled = entry.settle()
            known |= dict.fromkeys(entry.files, replace(settled, sample=settled.sample.thin(rule.share)))
    missing = [files[name] for name in wanted if files[name] not in known]
    job = StatsJob(
        compile_density(anchor),
        tuple(columns),
        dataset.missing,
        dataset.weight,
        dataset.row_filter,
        rule,
        transforms,
        dataset.sentinels,
    )
    parts = [p for p in dataset.parts if p.file.relative in {f.name for f in missing}]
    meter = Meter(listener, stage, [p.rows for p in parts])
    read = executor.map(read_part_stats, parts, shared=job, label="statistics", on_done=meter) if parts else []
    nothing = {f.relative: summarise_nothing(f, job) for f in dataset.files if files[f.relative] in missing}
    by_file = nothing | _merge_by_file(read)
    per_entry = count_files_per_entry(len(wanted), *anchor.means.shape)
    entries: list[FileStats] = []
    fresh: list[FileStats] = []
    for name in wanted:
        if name not in by_file:
            entries += [known[files[name]]] if known[files[name]].files[0].name == name else []
        elif fresh and fresh[-1] is entries[-1] and len(entries[-1].files) < per_entry:
            fresh[-1] = entries[-1] = entries[-1].merge(by_file[name])
        else:
            entries.append(by_file[name])
            fresh.append(by_file[name])
    kept = KeptStats(identify_source(dataset, columns, transforms), columns, anchor, tuple(entries), rule.share)
    return Gathered(kept, tuple(fresh), sum(p.rows for p in parts))


def _merge_by_file(stats: Sequence[FileStats]) -> dict[str, FileStats]:
    """Return the statistics of parts, in their order, merged file by file."""
    out: dict[str, FileStats] = {}
    for own in stats:
        name = own.files[0].name
        out[name] = out[name].merge(own) if name in out else own
    return out


def keep_scored_statistics(
    dataset: Dataset, model: FitResult, statistics: Sequence[FileStats], share: float
) -> KeptStats | None:
    """Return the statistics that a scoring pass has gathered; None if they are not those of all files."""
    by_file, files = _merge_by_file(statistics), identify_files(dataset)
    rows = {f.relative: 0 for f in dataset.files}
    for part in dataset.parts:
        rows[part.file.relative] += part.rows
    names = [name for name in files if rows[name]]
    if {name: files[name] for name in names} != {name: own.files[0] for name, own in by_file.items()}:
        return None
    entries: list[FileStats] = []
    per_entry = count_files_per_entry(len(files), *model.params.means.shape)
    for name in names:
        if entries and len(entries[-1].files) < per_entry:
            entries[-1] = entries[-1].merge(by_file[name])
        else:
            entries.append(by_file[name])
    return KeptStats(
        identify_source(dataset, model.columns, model.transforms), model.columns, model.params,
        tuple(e.settle() for e in entries), share,
    )  # fmt: skip
